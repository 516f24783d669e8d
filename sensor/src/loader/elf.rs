//! Where a function lies in a library's file. The file may be a hostile container's, and is read by the
//! privileged loader: no memory maps (a file that is cut meanwhile would end the process), bounded tables, and
//! no step whose cost the file chooses.
//!
//! 64-bit libraries of this machine's byte order alone; the format is that of elf(5).

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;

/// The longest table of symbols or names, in bytes; libc's are some 100 KB.
const LONGEST_TABLE: u64 = 4 << 20;
/// The most sections or segments.
const MOST_ENTRIES: u16 = 512;
const MAGIC: [u8; 4] = *b"\x7fELF";
const CLASS_64: u8 = 2;
const DATA: u8 = if cfg!(target_endian = "big") { 2 } else { 1 };
/// `SHT_DYNSYM`, `SHT_DYNAMIC`, `PT_LOAD`, `DT_NEEDED` and `STT_FUNC`.
const DYNAMIC_SYMBOLS: u32 = 11;
const DYNAMIC: u32 = 6;
const LOAD: u32 = 1;
const NEEDED: u64 = 1;
const FUNCTION: u8 = 2;

/// A library's tables of symbols and segments, read within bounds: a container may have forged them.
#[derive(Debug)]
pub struct SymbolTables {
    symbols: Vec<u8>,
    symbol_names: Vec<u8>,
    dynamic: Vec<u8>,
    dynamic_names: Vec<u8>,
    segments: Vec<Segment>,
}

#[derive(Clone, Copy, Debug)]
struct SectionHeader {
    kind: u32,
    offset: u64,
    size: u64,
    link: u32,
}

#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    in_file: u64,
}

// === impl SymbolTables ===

impl SymbolTables {
    /// Reads a library's tables; of another kind of machine's it is [`io::ErrorKind::Unsupported`].
    pub fn read(file: &File) -> io::Result<Self> {
        let header = read(file, 0, 64)?;
        if header[..4] != MAGIC {
            return Err(broken("it is no library"));
        }
        if header[4] != CLASS_64 || header[5] != DATA {
            return Err(io::Error::new(
                io::ErrorKind::Unsupported,
                "it is no 64-bit library of this machine",
            ));
        }
        let [segment_size, segments, section_size, sections] = [54, 56, 58, 60].map(|at| u16_of(&header, at));
        if segment_size != 56 || section_size != 64 || segments > MOST_ENTRIES || sections > MOST_ENTRIES {
            return Err(broken("its tables have sizes that none has"));
        }
        let segments = read(file, u64_of(&header, 32), u64::from(segments) * 56)?;
        let sections = read(file, u64_of(&header, 40), u64::from(sections) * 64)?;
        let sections: Vec<SectionHeader> = sections.chunks_exact(64).map(SectionHeader::new).collect();
        let (symbols, symbol_names) = table(file, &sections, DYNAMIC_SYMBOLS)?;
        let (dynamic, dynamic_names) = table(file, &sections, DYNAMIC)?;
        let segments = segments.chunks_exact(56).filter(|entry| u32_of(entry, 0) == LOAD).map(Segment::new);
        let segments = segments.collect();
        Ok(Self { symbols, symbol_names, dynamic, dynamic_names, segments })
    }

    /// The offset in the file of a function that the library offers.
    pub fn function(&self, name: &str) -> io::Result<u64> {
        let symbol = self.symbols.chunks_exact(24).find(|symbol| {
            let defined = u16_of(symbol, 6) != 0;
            symbol[4] & 0xf == FUNCTION && defined && is(&self.symbol_names, u32_of(symbol, 0).into(), name)
        });
        let address = u64_of(symbol.ok_or_else(|| broken(&format!("it has no function {name}")))?, 8);
        let segment = self.segments.iter().find(|segment| {
            address.checked_sub(segment.address).is_some_and(|within| within < segment.in_file)
        });
        let offset = segment.and_then(|segment| (address - segment.address).checked_add(segment.offset));
        offset.ok_or_else(|| broken(&format!("{name} lies in no part of it that is loaded")))
    }

    /// Whether the library loads another one.
    pub fn needs(&self, name: &str) -> bool {
        self.dynamic
            .chunks_exact(16)
            .any(|entry| u64_of(entry, 0) == NEEDED && is(&self.dynamic_names, u64_of(entry, 8), name))
    }
}

// === impl SectionHeader ===

impl SectionHeader {
    fn new(entry: &[u8]) -> Self {
        Self {
            kind: u32_of(entry, 4),
            offset: u64_of(entry, 24),
            size: u64_of(entry, 32),
            link: u32_of(entry, 40),
        }
    }
}

// === impl Segment ===

impl Segment {
    fn new(entry: &[u8]) -> Self {
        Self { offset: u64_of(entry, 8), address: u64_of(entry, 16), in_file: u64_of(entry, 32) }
    }
}

/// A table of a kind, and the names that belong to it; both empty where the library has none.
fn table(file: &File, sections: &[SectionHeader], kind: u32) -> io::Result<(Vec<u8>, Vec<u8>)> {
    let Some(section) = sections.iter().find(|section| section.kind == kind) else {
        return Ok((Vec::new(), Vec::new()));
    };
    let names = sections.get(section.link as usize).ok_or_else(|| broken("a table has no names"))?;
    Ok((read(file, section.offset, section.size)?, read(file, names.offset, names.size)?))
}

/// Whether a name, and its end, lies at a place among names.
fn is(names: &[u8], at: u64, name: &str) -> bool {
    let rest = usize::try_from(at).ok().and_then(|at| names.get(at..));
    rest.and_then(|rest| rest.strip_prefix(name.as_bytes())).is_some_and(|rest| rest.first() == Some(&0))
}

fn read(file: &File, at: u64, size: u64) -> io::Result<Vec<u8>> {
    if size > LONGEST_TABLE {
        return Err(broken("a table is too long"));
    }
    let mut bytes = vec![0; size as usize];
    file.read_exact_at(&mut bytes, at)?;
    Ok(bytes)
}

fn u16_of(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |two| u16::from_ne_bytes(*two))
}

fn u32_of(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |four| u32::from_ne_bytes(*four))
}

fn u64_of(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |eight| u64::from_ne_bytes(*eight))
}

fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use proptest::prelude::*;

    use super::*;

    /// A library that every host of the tests has.
    fn libc() -> Vec<u8> {
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let mut paths = maps.lines().filter_map(|line| line.split_whitespace().nth(5));
        let path = paths.find(|path| path.contains("libc.so")).expect("the tests are linked to libc");
        std::fs::read(path).unwrap()
    }

    fn as_file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_function_of_libc_is_where_its_code_is() {
        let bytes = libc();
        let library = SymbolTables::read(&as_file(&bytes)).unwrap();
        let offset = library.function("getpeername").unwrap();
        assert!(offset > 0 && offset < bytes.len() as u64);
        assert_ne!(offset, library.function("syslog").unwrap());
        assert!(library.function("getpeernam").is_err());
        assert!(library.function("of_no_such_name").unwrap_err().to_string().contains("of_no_such_name"));
        assert!(!library.needs("libaudit.so.1"));
    }

    #[test]
    fn what_is_no_library_is_an_error() {
        for bytes in [&b""[..], b"#!/bin/sh\n", &MAGIC, &libc()[..4000]] {
            assert!(
                SymbolTables::read(&as_file(bytes)).and_then(|library| library.function("syslog")).is_err()
            );
        }
    }

    proptest! {
        #[test]
        fn a_damaged_library_is_an_error_or_another_place_and_no_panic(
            damage in prop::collection::vec((0usize..4096, any::<u8>()), 1..8),
        ) {
            let mut bytes = libc();
            for (at, value) in damage {
                bytes[at] = value;
            }
            if let Ok(library) = SymbolTables::read(&as_file(&bytes)) {
                let _ = (library.function("syslog"), library.needs("x"));
            }
        }
    }
}
