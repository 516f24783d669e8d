//! Where the fields of the running kernel's structures lie, from its own type information (BTF). Kernel programs in
//! Rust cannot be relocated as those in C are: their offsets are looked up here and handed in as globals.
//! The type information is walked as it lies (5 MB), and is gone with this; nothing is made of what is not asked for.

use std::path::Path;

/// Where the kernel shows it.
const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// Kinds of types, from linux/btf.h, those that are looked at.
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const ENUM: u32 = 6;
const TYPEDEF: u32 = 8;
const VOLATILE: u32 = 9;
const CONST: u32 = 10;
const RESTRICT: u32 = 11;
const TYPE_TAG: u32 = 18;

/// The kernel's type information.
pub struct Layout {
    bytes: Vec<u8>,
    /// Where each type begins, by its number less one.
    types: Vec<u32>,
    strings: usize,
}

/// What is not as expected.
#[derive(Debug, thiserror::Error)]
pub enum LayoutError {
    /// The kernel has no type information, or does not show it.
    #[error("{VMLINUX} cannot be read ({0}): the kernel has no type information (CONFIG_DEBUG_INFO_BTF)")]
    Read(#[from] std::io::Error),
    /// It is damaged, or of a later format.
    #[error("the kernel's type information is not understood at byte {0}")]
    Damaged(usize),
    /// This kernel has no such thing.
    #[error("this kernel has no {0}")]
    Missing(String),
}

/// A type as it lies.
struct Type {
    kind: u32,
    count: u32,
    /// Whether members say the size of bit fields too.
    has_bits: bool,
    /// The type that it stands for, where it stands for one; else its size.
    meaning: u32,
    /// Where what follows begins.
    rest: usize,
}

// === impl Layout ===

impl Layout {
    /// Reads the running kernel's.
    pub fn read() -> Result<Self, LayoutError> {
        Self::parse(std::fs::read(Path::new(VMLINUX))?)
    }

    /// Takes type information as it lies.
    pub fn parse(bytes: Vec<u8>) -> Result<Self, LayoutError> {
        let word = |at: usize| word(&bytes, at);
        // Magic, version and flags: version 1, in this processor's order.
        if word(0)? & 0x00ff_ffff != 0x0001_eb9f {
            return Err(LayoutError::Damaged(0));
        }
        let header = word(4)? as usize;
        let begin = header + word(8)? as usize;
        let end = begin + word(12)? as usize;
        let strings = header + word(16)? as usize;
        let mut types = Vec::new();
        let mut at = begin;
        while at < end {
            types.push(at as u32);
            let info = word(at + 4)?;
            let (kind, count) = (info >> 24 & 0x1f, (info & 0xffff) as usize);
            let rest = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                4 | 5 | 15 | 19 => 12 * count,
                6 | 13 => 8 * count,
                2 | 7..=12 | 16 | 18 => 0,
                _ => return Err(LayoutError::Damaged(at)),
            };
            at += 12 + rest;
        }
        Ok(Self { bytes, types, strings })
    }

    /// The offset of a field in bytes: `skc_num` of `sock_common`, also within unnamed members; with dots a
    /// field of a field: `ns.inum` of `net`.
    pub fn offset(&self, structure: &str, path: &str) -> Result<u32, LayoutError> {
        let missing = || LayoutError::Missing(format!("field {path} of struct {structure}"));
        let mut inside = self.find(structure, STRUCT)?.ok_or_else(missing)?;
        let mut offset = 0;
        for name in path.split('.') {
            let (bits, of) = self.member(inside, name.as_bytes(), 8)?.ok_or_else(missing)?;
            offset += bits;
            inside = of;
        }
        if offset % 8 == 0 { Ok(offset / 8) } else { Err(missing()) }
    }

    /// The value of an enumerator.
    pub fn enumerator(&self, of: &str, name: &str) -> Result<u32, LayoutError> {
        let missing = || LayoutError::Missing(format!("{name} of enum {of}"));
        let found = self.get(self.find(of, ENUM)?.ok_or_else(missing)?)?;
        for index in 0..found.count as usize {
            let at = found.rest + 8 * index;
            if self.name(word(&self.bytes, at)?)? == name.as_bytes() {
                return word(&self.bytes, at + 4);
            }
        }
        Err(missing())
    }

    /// The number of a type by its name.
    fn find(&self, name: &str, kind: u32) -> Result<Option<u32>, LayoutError> {
        for (index, at) in self.types.iter().enumerate() {
            let at = *at as usize;
            if word(&self.bytes, at + 4)? >> 24 & 0x1f == kind
                && self.name(word(&self.bytes, at)?)? == name.as_bytes()
            {
                return Ok(Some(index as u32 + 1));
            }
        }
        Ok(None)
    }

    /// Where a member lies in a structure, in bits, and its type. Unnamed members are looked into, so deep.
    fn member(&self, of: u32, name: &[u8], depth: u32) -> Result<Option<(u32, u32)>, LayoutError> {
        let of = self.plain(of)?;
        if !matches!(of.kind, STRUCT | UNION) || depth == 0 {
            return Ok(None);
        }
        for index in 0..of.count as usize {
            let at = of.rest + 12 * index;
            let (its_name, its_type) = (self.name(word(&self.bytes, at)?)?, word(&self.bytes, at + 4)?);
            let mut bits = word(&self.bytes, at + 8)?;
            if of.has_bits {
                bits &= 0x00ff_ffff;
            }
            if its_name == name {
                return Ok(Some((bits, its_type)));
            }
            if its_name.is_empty()
                && let Some((inner, its_type)) = self.member(its_type, name, depth - 1)?
            {
                return Ok(Some((bits + inner, its_type)));
            }
        }
        Ok(None)
    }

    /// A type without what qualifies it, and without its other names.
    fn plain(&self, number: u32) -> Result<Type, LayoutError> {
        let mut found = self.get(number)?;
        for _ in 0..16 {
            match found.kind {
                TYPEDEF | VOLATILE | CONST | RESTRICT | TYPE_TAG => found = self.get(found.meaning)?,
                _ => break,
            }
        }
        Ok(found)
    }

    fn get(&self, number: u32) -> Result<Type, LayoutError> {
        let index = (number as usize).wrapping_sub(1);
        let at = *self.types.get(index).ok_or(LayoutError::Damaged(0))? as usize;
        let info = word(&self.bytes, at + 4)?;
        Ok(Type {
            kind: info >> 24 & 0x1f,
            count: info & 0xffff,
            has_bits: info >> 31 != 0,
            meaning: word(&self.bytes, at + 8)?,
            rest: at + 12,
        })
    }

    fn name(&self, offset: u32) -> Result<&[u8], LayoutError> {
        let at = self.strings + offset as usize;
        let text = self.bytes.get(at..).ok_or(LayoutError::Damaged(at))?;
        let end = memchr::memchr(0, text).ok_or(LayoutError::Damaged(at))?;
        Ok(&text[..end])
    }
}

fn word(bytes: &[u8], at: usize) -> Result<u32, LayoutError> {
    let word = bytes.get(at..).and_then(<[u8]>::first_chunk).ok_or(LayoutError::Damaged(at))?;
    Ok(u32::from_ne_bytes(*word))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn fields_of_the_running_kernel_are_where_c_has_them() {
        let layout = Layout::read().unwrap();
        // These have not moved since Linux 4: two addresses, then the ports.
        assert_eq!(layout.offset("sock_common", "skc_daddr").unwrap(), 0);
        assert_eq!(layout.offset("sock_common", "skc_rcv_saddr").unwrap(), 4);
        assert_eq!(layout.offset("sock_common", "skc_num").unwrap(), 14);
        assert_eq!(layout.offset("sock_common", "skc_family").unwrap(), 16);
        // struct iphdr is the packet's own.
        assert_eq!(layout.offset("iphdr", "daddr").unwrap(), 16);
        // A field of a field.
        let within = layout.offset("ns_common", "inum").unwrap();
        let namespace = layout.offset("net", "ns").unwrap();
        assert_eq!(layout.offset("net", "ns.inum").unwrap(), namespace + within);
    }

    #[test]
    fn what_a_kernel_does_not_have_is_said_by_its_name() {
        let layout = Layout::read().unwrap();
        let said = layout.offset("sock_common", "skc_nothing").unwrap_err().to_string();
        assert_eq!(said, "this kernel has no field skc_nothing of struct sock_common");
        assert!(layout.offset("no_such_struct", "a").is_err());
        assert!(layout.enumerator("skb_drop_reason", "SKB_NO_SUCH").is_err());
        assert!(layout.enumerator("skb_drop_reason", "SKB_DROP_REASON_NO_SOCKET").unwrap() > 0);
    }

    /// One structure `s { t { a, b: 8 bits at 12 } unnamed, c }` as the kernel would write it.
    fn small() -> Vec<u8> {
        let strings = b"\0s\0a\0b\0c\0";
        let mut types: Vec<u32> = Vec::new();
        types.extend([0, 1 << 24, 4, 32]); // 1: an integer of four bytes
        types.extend([0, 4 << 24 | 1 << 31 | 2, 8, 3, 1, 32, 5, 1, 0x0800_002c]); // 2: unnamed { a, b }
        types.extend([1, 4 << 24 | 2, 16, 0, 2, 64, 7, 1, 0]); // 3: s
        let types: Vec<u8> = types.into_iter().flat_map(u32::to_ne_bytes).collect();
        let header = [0x0001_eb9f, 24, 0, types.len() as u32, types.len() as u32, strings.len() as u32];
        let mut bytes: Vec<u8> = header.into_iter().flat_map(u32::to_ne_bytes).collect();
        bytes.extend(types);
        bytes.extend(strings);
        bytes
    }

    #[test]
    fn unnamed_members_add_up_and_bit_fields_have_no_offset_in_bytes() {
        let layout = Layout::parse(small()).unwrap();
        assert_eq!(layout.offset("s", "a").unwrap(), 12);
        assert_eq!(layout.offset("s", "c").unwrap(), 0);
        assert!(layout.offset("s", "b").is_err());
    }

    proptest! {
        #[test]
        fn damaged_type_information_is_an_error_and_no_panic(at in 0..120usize, value: u8) {
            let mut bytes = small();
            let index = at % bytes.len();
            bytes[index] = value;
            if let Ok(layout) = Layout::parse(bytes) {
                let _ = (layout.offset("s", "a"), layout.offset("s", "c.a"), layout.enumerator("s", "a"));
            }
        }
    }
}
