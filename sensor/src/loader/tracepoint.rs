//! Where the fields of a tracepoint's record lie, from the running kernel's own description of it.

use std::path::Path;

use super::tracefs;

/// The record of one tracepoint.
pub struct TracepointFormat {
    name: String,
    description: String,
}

/// What is not as expected.
#[derive(Debug, thiserror::Error)]
pub enum TracepointFormatError {
    /// The description cannot be read.
    #[error(
        "{path} cannot be read ({source}): the kernel lacks this tracepoint, or tracefs is not mounted or denied (lockdown)"
    )]
    Read {
        /// The tracepoint's `format`, below tracefs.
        path: String,
        /// What reading it failed with: the kernel or its lockdown, or a mount that is missing.
        source: std::io::Error,
    },
    /// The record lacks a field, or has another in its place.
    #[error("the kernel's tracepoint {tracepoint} has no field {field} of {size} bytes")]
    Missing {
        /// Group and name: `tcp/tcp_send_reset`.
        tracepoint: String,
        /// As the kernel's source names it.
        field: String,
        /// How long it should be.
        size: u32,
    },
}

// === impl TracepointFormat ===

impl TracepointFormat {
    /// Reads the description of a tracepoint, such as `sock/inet_sock_set_state`.
    pub fn read(name: &str) -> Result<Self, TracepointFormatError> {
        tracefs::mount();
        let path = Path::new(tracefs::TRACEFS).join("events").join(name).join("format");
        match std::fs::read_to_string(&path) {
            Ok(description) => Ok(Self { name: name.to_owned(), description }),
            Err(source) => Err(TracepointFormatError::Read { path: path.display().to_string(), source }),
        }
    }

    /// The offset of a field of so many bytes.
    pub fn offset(&self, field: &str, size: u32) -> Result<u32, TracepointFormatError> {
        let found = self.description.lines().find_map(|line| read_field(line, field));
        match found {
            Some((offset, its_size)) if its_size == size => Ok(offset),
            _ => Err(TracepointFormatError::Missing {
                tracepoint: self.name.clone(),
                field: field.to_owned(),
                size,
            }),
        }
    }

    /// Whether there is such a field.
    pub fn has(&self, field: &str) -> bool {
        self.description.lines().any(|line| read_field(line, field).is_some())
    }
}

/// Offset and size of a line `field:__u8 daddr[4]; offset:36; size:4; signed:0;`, where it is of this field.
fn read_field(line: &str, name: &str) -> Option<(u32, u32)> {
    let mut parts = line.trim().split(';').map(str::trim);
    let declaration = parts.next()?.strip_prefix("field:")?;
    let declared = declaration.rsplit(|c: char| c.is_whitespace() || c == '*').next()?;
    if declared.split('[').next()? != name {
        return None;
    }
    let mut number = |key: &str| parts.next()?.strip_prefix(key)?.parse().ok();
    Some((number("offset:")?, number("size:")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(description: &str) -> TracepointFormat {
        TracepointFormat { name: "sock/x".to_owned(), description: description.to_owned() }
    }

    #[test]
    fn fields_are_found_by_their_whole_name_and_their_size() {
        let record = record(
            "name: x\nformat:\n\tfield:const void * skaddr;\toffset:8;\tsize:8;\tsigned:0;\n\
             \tfield:__u8 daddr[4];\toffset:36;\tsize:4;\tsigned:0;\n\
             \tfield:__u8 daddr_v6[16];\toffset:56;\tsize:16;\tsigned:0;\nprint fmt: \"field:__u16 sport;\"\n",
        );
        assert_eq!(record.offset("skaddr", 8).unwrap(), 8);
        assert_eq!(record.offset("daddr", 4).unwrap(), 36);
        assert_eq!(record.offset("daddr_v6", 16).unwrap(), 56);
        assert!(record.offset("addr", 4).is_err());
        let said = record.offset("daddr", 16).unwrap_err().to_string();
        assert_eq!(said, "the kernel's tracepoint sock/x has no field daddr of 16 bytes");
        assert!(record.has("skaddr") && !record.has("sport"));
    }
}
