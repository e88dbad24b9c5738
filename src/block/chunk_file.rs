//! The files that hold the chunks.
//!
//! ## Format
//!
//! ```text
//! chunks/000001, chunks/000002, ...
//!   magic u32 85bd40dd · version u8 1 · three zero bytes
//!   records, back to back:
//!     uvarint payload length · encoding u8 · payload · CRC-32C of encoding and payload u32
//! ```
//!
//! The index names a record by the position of its file, from 0, and its offset in it. A file ends
//! before it would grow over 512 MiB, as in Prometheus, and holds at least one chunk.

use crate::chunk::Encoding;
use crate::index::ChunkRef;
use crate::index::coding::{Cursor, crc, put_uvarint, uvarint_len};

use super::Error;

/// The first bytes of a chunk file: magic, version, three zeros.
pub(super) const HEADER: [u8; 8] = [0x85, 0xbd, 0x40, 0xdd, 1, 0, 0, 0];

/// Most bytes of a chunk file.
pub(super) const FILE_BYTES_MAX: u64 = 512 << 20;

/// Most bytes around a payload: length, encoding, checksum.
const FRAME_BYTES_MAX: u64 = 5 + 1 + 4;

/// Where the next chunk goes. Plain arithmetic; the writer follows it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    file_bytes_max: u64,
    /// Files begun so far.
    files: u32,
    /// Length of the last file.
    position: u64,
}

/// The place of a chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) reference: ChunkRef,
    /// Whether a file begins with it.
    pub(super) begins_file: bool,
}

impl Layout {
    pub(super) fn new(file_bytes_max: u64) -> Self {
        Self { file_bytes_max, files: 0, position: 0 }
    }

    /// Places a chunk of `len` bytes of payload behind the last one.
    pub(super) fn place(&mut self, len: usize) -> Place {
        let most = self.position + len as u64 + FRAME_BYTES_MAX;
        let has_chunk = self.position > HEADER.len() as u64;
        let begins_file = self.files == 0 || has_chunk && most > self.file_bytes_max;
        if begins_file {
            self.files += 1;
            self.position = HEADER.len() as u64;
        }
        let reference = ChunkRef::new(self.files - 1, self.position as u32);
        self.position += record_len(len);
        Place { reference, begins_file }
    }
}

/// Bytes of the record of a payload.
pub(super) fn record_len(len: usize) -> u64 {
    uvarint_len(len as u64) + 1 + len as u64 + 4
}

/// Appends the record of a chunk.
pub(super) fn put_record(out: &mut Vec<u8>, encoding: Encoding, payload: &[u8]) {
    put_uvarint(out, payload.len() as u64);
    let from = out.len();
    out.push(encoding.byte());
    out.extend_from_slice(payload);
    let crc = crc(&out[from..]);
    out.extend_from_slice(&crc.to_be_bytes());
}

/// Reads the record a reference names, from the bytes of its file, and compares its checksum.
pub(super) fn record(file: &[u8], at: ChunkRef) -> Result<(Encoding, &[u8]), Error> {
    let (number, offset) = (at.file(), at.offset());
    let damaged = |fact| Error::ChunkDamaged { file: number, offset, fact };
    let cut = || damaged("reaches over the end of the file");
    if (offset as usize) < HEADER.len() {
        return Err(damaged("lies in the header of the file"));
    }
    let mut record = Cursor::new(file.get(offset as usize..).ok_or_else(cut)?);
    let len = record.uvarint().and_then(|len| usize::try_from(len).ok()).ok_or_else(cut)?;
    let bytes = len.checked_add(1).and_then(|len| record.take(len)).ok_or_else(cut)?;
    let want = record.be32().ok_or_else(cut)?;
    let got = crc(bytes);
    if got != want {
        return Err(Error::BadChunkChecksum { file: number, offset, want, got });
    }
    let (&encoding, payload) = bytes.split_first().ok_or_else(cut)?;
    Ok((Encoding::from_byte(encoding)?, payload))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_ends_before_it_grows_too_long() {
        let mut layout = Layout::new(100);
        let mut place = |len| {
            let place = layout.place(len);
            (place.reference.file(), place.reference.offset(), place.begins_file)
        };
        assert_eq!(place(20), (0, 8, true));
        assert_eq!(place(20), (0, 34, false));
        // 60 + 30 + 10 is just the limit, though the record will have six bytes of frame only.
        assert_eq!(place(30), (0, 60, false));
        assert_eq!(place(1), (1, 8, true));
        // Too long for any file, but a file of its own must do.
        assert_eq!(place(1000), (2, 8, true));
        assert_eq!(place(1), (3, 8, true));
        let mut first = Layout::new(100);
        assert!(first.place(1000).begins_file);
    }

    #[test]
    fn a_record_is_found_and_checked() {
        let mut file = HEADER.to_vec();
        let payload = [7; 200];
        put_record(&mut file, Encoding::Xor, &payload);
        assert_eq!(file.len() as u64, 8 + record_len(200));
        let (encoding, got) = record(&file, ChunkRef::new(0, 8)).expect("a record");
        assert_eq!((encoding, got), (Encoding::Xor, &payload[..]));
        for at in 8..file.len() {
            let mut damaged = file.clone();
            damaged[at] ^= 0x10;
            assert!(record(&damaged, ChunkRef::new(0, 8)).is_err(), "byte {at}");
        }
        for offset in [0, 7, 9, 300, u32::MAX] {
            assert!(record(&file, ChunkRef::new(0, offset)).is_err(), "offset {offset}");
        }
        for len in 0..file.len() {
            assert!(record(&file[..len], ChunkRef::new(0, 8)).is_err(), "cut at {len}");
        }
    }
}
