//! The names of a block and of its files, all in one place.

use super::Ulid;

/// What the block is: see `meta.rs`.
pub const META: &str = "meta.json";
/// The index: see [`crate::index`].
pub const INDEX: &str = "index";
/// Deleted ranges: see `tombstones.rs`.
pub const TOMBSTONES: &str = "tombstones";
/// The directory of the chunk files.
pub const CHUNKS: &str = "chunks";

/// The chunk file at a position, from 0: `000001` is the first.
pub fn chunk_file(position: u32) -> String {
    format!("{:06}", u64::from(position) + 1)
}

/// The ULID a directory is named by, if it is a block's.
pub fn block(name: &str) -> Option<Ulid> {
    let ulid = Ulid::from_string(name).ok()?;
    // Lower case is read, too, but names no block: two names for one block would be one too many.
    (ulid.to_string() == name).then_some(ulid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        assert_eq!(chunk_file(0), "000001");
        assert_eq!(chunk_file(999_999), "1000000");
        let ulid = Ulid::from_parts(1_700_000_000_000, 42);
        assert_eq!(block(&ulid.to_string()), Some(ulid));
        assert_eq!(block(&ulid.to_string().to_lowercase()), None);
        for name in
            ["", "wal", "01HF7YAT00000000000000001A.tmp-for-creation", "81HF7YAT00000000000000001A"]
        {
            assert_eq!(block(name), None, "{name}");
        }
    }
}
