//! One file of systemd's journal, as <https://systemd.io/JOURNAL_FILE_FORMAT> describes it: its header, its entries in
//! the order in which they were added, and the fields of each. It reads what is there, and decides nothing.
//!
//! A file may be written while it is read. What the header counts is whole: journald counts an entry after it has
//! written it, and changes nothing of it afterwards. Whatever else stands in a file, reading it ends, and keeps no more
//! than its bounds.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use jiff::Timestamp;
use ruzstd::decoding::StreamingDecoder;

/// The most that is kept of all fields of an entry, in bytes.
pub(super) const LARGEST_ENTRY: usize = 4 << 20;
/// The most that is kept of one field, in bytes.
const LONGEST_FIELD: usize = 1 << 20;
/// The most that a compressed field may become, in bytes, where it has to be read whole.
const LONGEST_UNPACKED: usize = 16 << 20;
/// The most fields of an entry; journald takes no more (`ENTRY_FIELD_COUNT_MAX`).
const MOST_FIELDS: u64 = 1024;
/// The most arrays of entries that are passed to find one; journald doubles their length.
const MOST_ARRAYS: u32 = 10_000;
/// How much is read at once, in bytes.
const WINDOW: usize = 8 * 1024;
/// Fields that are kept for the next entry have at most so many bytes, and are at most so many.
const SHORT_FIELD: usize = 512;
const KEPT_FIELDS: usize = 2048;

/// What of a header is read: all up to the time of the first entry.
const HEADER: usize = 192;
/// Bits of `incompatible_flags`: keyed hashes and compression, each known by the object, and the compact form.
const KNOWN: u32 = 0b1_1111;
const COMPACT: u32 = 1 << 4;
/// The bits of an object's flags that say how it is compressed.
const COMPRESSED: u8 = 0b111;
/// Types of objects.
const DATA: u8 = 1;
const ENTRY: u8 = 3;
const ENTRY_ARRAY: u8 = 6;

/// Why a file, or something in it, cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum JournalFileError {
    /// The kernel's error.
    #[error("{0}")]
    Read(#[from] io::Error),
    /// It does not begin as a journal does.
    #[error("that is no file of systemd's journal")]
    NotOne,
    /// It says that older readers cannot read it.
    #[error(
        "it is in a form that this release does not know (incompatible flags {0:#x}); a later one may read it"
    )]
    Unknown(u32),
    /// Something in it is not as it must be.
    #[error("{0}")]
    Damaged(&'static str),
    /// Where an entry and those behind it stand cannot be found.
    #[error("it is damaged, and the rest of it cannot be found: {0}")]
    Ended(&'static str),
}

/// The beginning of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JournalHeader {
    /// What the file is known by: a new name leaves it as it is.
    pub file_id: u128,
    /// Whether nothing will be added any more.
    pub is_archived: bool,
    /// The series of numbers that its entries are counted in, by the journald that writes them.
    pub seqnum_id: u128,
    /// How many entries it holds.
    pub entries: u64,
    /// When the first of them was written, in microseconds since 1970.
    pub first_written: u64,
    is_compact: bool,
    size: u64,
    entry_array: u64,
}

/// An entry without the values of its fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Its number in the series of the file.
    pub seqnum: u64,
    /// When it was written, by the clock of who wrote it.
    pub written: Timestamp,
    /// What it is in any file into which it is copied: journald copies what it wrote before `/var` was there.
    pub identity: EntryIdentity,
    /// Where its fields stand.
    fields: Vec<u64>,
}

/// An entry's boot, its times in microseconds since that boot and since 1970, and what its fields add up to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct EntryIdentity {
    boot: u128,
    monotonic: u64,
    realtime: u64,
    fields: u64,
}

/// The fields of an entry, `NAME=value` each.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RawFields {
    /// In the order of the file.
    pub fields: Vec<Arc<[u8]>>,
    /// Whether a field is cut or missing, because the entry is too large or the file is damaged there.
    pub is_cut: bool,
}

/// An open file.
#[derive(Debug)]
pub struct JournalFile {
    file: File,
    header: JournalHeader,
    window: Vec<u8>,
    window_at: u64,
    /// The array in which an entry was looked up last, and how many entries stand before it.
    array: Option<(EntryArray, u64)>,
    /// Fields that many entries share: journald writes each value once.
    shared: HashMap<u64, Arc<[u8]>>,
}

#[derive(Clone, Copy, Debug)]
struct EntryArray {
    offset: u64,
    items: u64,
    next: u64,
}

/// The beginning of an object.
#[derive(Clone, Copy)]
struct ObjectHeader {
    flags: u8,
    size: u64,
}

// === impl JournalHeader ===

impl JournalHeader {
    /// Reads the beginning of a file.
    pub fn read(file: &File) -> Result<Self, JournalFileError> {
        let mut bytes = [0; HEADER];
        file.read_exact_at(&mut bytes, 0).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => JournalFileError::NotOne,
            _ => error.into(),
        })?;
        let at = |at: usize| u64_at(&bytes, at);
        let id = |at: usize| u128::from_be_bytes(array_at(&bytes, at));
        if &bytes[..8] != b"LPKSHHRH" {
            return Err(JournalFileError::NotOne);
        }
        let flags = u32::from_le_bytes(array_at(&bytes, 12));
        if flags & !KNOWN != 0 {
            return Err(JournalFileError::Unknown(flags));
        }
        Ok(Self {
            file_id: id(24),
            is_archived: bytes[16] == 2,
            seqnum_id: id(72),
            entries: at(152),
            first_written: at(184),
            is_compact: flags & COMPACT != 0,
            size: at(88),
            entry_array: at(176),
        })
    }
}

// === impl JournalFile ===

impl JournalFile {
    /// Reads the beginning of a file. What is added to it later needs it to be opened anew.
    pub fn open(file: File) -> Result<Self, JournalFileError> {
        let header = JournalHeader::read(&file)?;
        Ok(Self { file, header, window: Vec::new(), window_at: 0, array: None, shared: HashMap::new() })
    }

    /// As it was when the file was opened.
    pub fn header(&self) -> &JournalHeader {
        &self.header
    }

    /// The entry of this number, from 0 on, of those that the header counts. Quick where entries are asked for in
    /// their order.
    pub fn entry(&mut self, number: u64) -> Result<RawEntry, JournalFileError> {
        let offset = self.entry_offset(number).map_err(|error| match error {
            JournalFileError::Damaged(what) => JournalFileError::Ended(what),
            error => error,
        })?;
        let ObjectHeader { size, .. } = self.object(offset, ENTRY)?;
        let width = if self.header.is_compact { 4 } else { 16 };
        let count = size.saturating_sub(64) / width;
        if count > MOST_FIELDS {
            return Err(JournalFileError::Damaged("an entry with more fields than any has"));
        }
        let bytes = self.bytes(offset, 64 + (count * width) as usize)?;
        let micros = u64_at(bytes, 24);
        let written = i64::try_from(micros).ok().and_then(|micros| Timestamp::from_microsecond(micros).ok());
        let written = written.ok_or(JournalFileError::Damaged("an entry of no date"))?;
        let field = |at: &[u8]| match at.first_chunk::<8>() {
            Some(wide) => u64::from_le_bytes(*wide),
            None => u64::from(u32::from_le_bytes(array_at(at, 0))),
        };
        let identity = EntryIdentity {
            boot: u128::from_be_bytes(array_at(bytes, 40)),
            monotonic: u64_at(bytes, 32),
            realtime: micros,
            fields: u64_at(bytes, 56),
        };
        let fields = bytes[64..].chunks_exact(width as usize).map(field).collect();
        Ok(RawEntry { seqnum: u64_at(bytes, 16), written, identity, fields })
    }

    /// The fields of an entry, as far as the bounds go.
    pub fn fields(&mut self, entry: &RawEntry) -> RawFields {
        let mut read = RawFields::default();
        let mut room = LARGEST_ENTRY;
        for offset in &entry.fields {
            if room == 0 {
                read.is_cut = true;
                break;
            }
            let field = match self.shared.get(offset) {
                Some(field) => Ok((field.clone(), false)),
                None => self.field(*offset, room.min(LONGEST_FIELD)),
            };
            let Ok((field, is_cut)) = field else {
                read.is_cut = true;
                continue;
            };
            read.is_cut |= is_cut;
            room = room.saturating_sub(field.len());
            read.fields.push(field);
        }
        read
    }

    /// A field, at most so many bytes of it; whether it is longer.
    fn field(&mut self, offset: u64, most: usize) -> Result<(Arc<[u8]>, bool), JournalFileError> {
        let ObjectHeader { flags, size } = self.object(offset, DATA)?;
        let before = if self.header.is_compact { 72 } else { 64 };
        let size = size.checked_sub(before).and_then(|size| usize::try_from(size).ok());
        let size = size.ok_or(JournalFileError::Damaged("a field that is too short"))?;
        let (field, is_cut) = if flags & COMPRESSED == 0 {
            (self.bytes(offset + before, size.min(most))?.to_vec(), size > most)
        } else {
            let packed = self.bytes(offset + before, size.min(LONGEST_UNPACKED))?;
            unpack(flags, packed, most)?
        };
        let field: Arc<[u8]> = field.into();
        if field.len() <= SHORT_FIELD && !is_cut {
            if self.shared.len() >= KEPT_FIELDS {
                self.shared.clear();
            }
            self.shared.insert(offset, field.clone());
        }
        Ok((field, is_cut))
    }

    /// Where an entry stands.
    fn entry_offset(&mut self, number: u64) -> Result<u64, JournalFileError> {
        let (mut array, mut before) = match self.array {
            Some((array, before)) if before <= number => (array, before),
            _ => (self.entry_array(self.header.entry_array)?, 0),
        };
        let mut arrays = 1;
        while number - before >= array.items {
            // A later one stands behind those before it, and is larger.
            arrays += 1;
            if array.next <= array.offset || arrays > MOST_ARRAYS {
                return Err(JournalFileError::Damaged("fewer entries than it says"));
            }
            before += array.items;
            array = self.entry_array(array.next)?;
        }
        self.array = Some((array, before));
        let width = self.array_width();
        let bytes = self.bytes(array.offset + 24 + (number - before) * width, width as usize)?;
        Ok(if width == 8 { u64_at(bytes, 0) } else { u64::from(u32::from_le_bytes(array_at(bytes, 0))) })
    }

    fn entry_array(&mut self, offset: u64) -> Result<EntryArray, JournalFileError> {
        let ObjectHeader { size, .. } = self.object(offset, ENTRY_ARRAY)?;
        let items = size.saturating_sub(24) / self.array_width();
        let next = u64_at(self.bytes(offset, 24)?, 16);
        Ok(EntryArray { offset, items, next })
    }

    fn array_width(&self) -> u64 {
        if self.header.is_compact { 4 } else { 8 }
    }

    fn object(&mut self, offset: u64, kind: u8) -> Result<ObjectHeader, JournalFileError> {
        let header = self.header.size;
        if offset < header || !offset.is_multiple_of(8) {
            return Err(JournalFileError::Damaged("a part that stands nowhere"));
        }
        let bytes = self.bytes(offset, 16)?;
        if bytes[0] != kind {
            return Err(JournalFileError::Damaged("another part than must stand there"));
        }
        let (flags, size) = (bytes[1], u64_at(bytes, 8));
        if size < 16 || offset.checked_add(size).is_none() {
            return Err(JournalFileError::Damaged("a part of no size"));
        }
        Ok(ObjectHeader { flags, size })
    }

    /// Bytes of the file, of which there must be so many.
    fn bytes(&mut self, offset: u64, length: usize) -> Result<&[u8], JournalFileError> {
        let start = offset.checked_sub(self.window_at).and_then(|start| usize::try_from(start).ok());
        let start = start.filter(|start| start.saturating_add(length) <= self.window.len());
        let start = match start {
            Some(start) => start,
            None => {
                let most = length.max(WINDOW);
                self.window.clear();
                self.window_at = offset;
                let mut from = At { file: &self.file, offset };
                (&mut from).take(most as u64).read_to_end(&mut self.window)?;
                if self.window.len() < length {
                    return Err(JournalFileError::Damaged("it ends too early"));
                }
                0
            }
        };
        Ok(&self.window[start..start + length])
    }
}

/// Reads on from an offset, so that no more memory is taken than there are bytes.
struct At<'a> {
    file: &'a File,
    offset: u64,
}

// === impl At ===

impl Read for At<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.offset)?;
        self.offset += read as u64;
        Ok(read)
    }
}

/// Unpacks a field, at most so many bytes of it; whether it is longer.
fn unpack(flags: u8, packed: &[u8], most: usize) -> Result<(Vec<u8>, bool), JournalFileError> {
    let damaged = JournalFileError::Damaged("a compressed field that cannot be unpacked");
    let mut field = Vec::new();
    match flags & COMPRESSED {
        // Zstandard, in which journald of Debian 11 and later writes.
        4 => {
            let decoder = StreamingDecoder::new(packed);
            let mut decoder =
                decoder.map_err(|_| JournalFileError::Damaged("a field that is no Zstandard"))?;
            (&mut decoder).take(most as u64 + 1).read_to_end(&mut field).map_err(|_| damaged)?;
        }
        // LZ4, behind its length.
        2 => {
            let (length, block) = packed.split_first_chunk::<8>().ok_or(damaged)?;
            let length = usize::try_from(u64::from_le_bytes(*length)).unwrap_or(usize::MAX);
            if length > LONGEST_UNPACKED {
                return Err(JournalFileError::Damaged("a compressed field that is too long"));
            }
            let unpacked = lz4_flex::block::decompress(block, length);
            field = unpacked.map_err(|_| JournalFileError::Damaged("a field that is no LZ4"))?;
        }
        _ => return Err(JournalFileError::Damaged("a field compressed as XZ, which is not read")),
    }
    let is_cut = field.len() > most;
    field.truncate(most);
    Ok((field, is_cut))
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}
