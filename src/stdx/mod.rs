//! What std could have had. No word of the domain lives here; an item stays only while two
//! folders use it and std lacks it.

/// CRC-32C (Castagnoli), as all formats of the field have it.
pub fn crc32c(bytes: &[u8]) -> u32 {
    crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32Iscsi, bytes) as u32
}

pub mod signal;
pub(crate) mod sort;
pub mod varint;
