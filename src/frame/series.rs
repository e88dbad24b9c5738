//! Writing `thanos.Series` by hand, split so that no frame grows over its limit.

use bytes::Bytes;
use twox_hash::XxHash64;

use crate::chunk::Chunk;

/// Upper limit of [`Frame::body`] in bytes: with what is put around it, below the 1 MiB at which
/// Thanos Receive cuts its frames.
pub const FRAME_BYTES_MAX: usize = (1 << 20) - 64;

/// One `thanos.Series` message, ready to send, and what it sorts by. Cheap to clone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// [`model::sort_key`](crate::model::sort_key) of the final label set.
    pub key: Bytes,
    /// The encoded message.
    pub body: Bytes,
}

impl Frame {
    /// Bytes of key and body.
    pub fn len_bytes(&self) -> usize {
        self.key.len() + self.body.len()
    }
}

/// Tags of the fields, `number << 3 | wire type`.
const SERIES_LABELS: u8 = 0x0a;
const SERIES_CHUNKS: u8 = 0x12;
const LABEL_NAME: u8 = 0x0a;
const LABEL_VALUE: u8 = 0x12;
const AGGR_MIN_TIME: u8 = 0x08;
const AGGR_MAX_TIME: u8 = 0x10;
const AGGR_RAW: u8 = 0x1a;
const CHUNK_TYPE: u8 = 0x08;
const CHUNK_DATA: u8 = 0x12;
const CHUNK_HASH: u8 = 0x18;

/// Appends to `out` the frames of one series: `labels` is its final set in order, `key` their sort
/// key, `chunks` its chunks by time. No chunks (`skip_chunks`) give one frame of labels alone.
pub fn encode<'a>(
    labels: &[(&str, &str)],
    key: &Bytes,
    chunks: impl Iterator<Item = Chunk<'a>>,
    out: &mut Vec<Frame>,
) {
    let mut body = Vec::with_capacity(labels_len(labels) + chunks.size_hint().0.min(16) * 160);
    encode_labels(labels, &mut body);
    let labels_end = body.len();
    for chunk in chunks {
        let sizes = Sizes::of(&chunk);
        if body.len() > labels_end && body.len() + sizes.field() > FRAME_BYTES_MAX {
            let mut next = Vec::with_capacity(FRAME_BYTES_MAX);
            next.extend_from_slice(&body[..labels_end]);
            let full = std::mem::replace(&mut body, next);
            out.push(Frame { key: key.clone(), body: full.into() });
        }
        encode_chunk(&chunk, &sizes, &mut body);
    }
    body.shrink_to(body.len() + body.len() / 2);
    out.push(Frame { key: key.clone(), body: body.into() });
}

fn encode_labels(labels: &[(&str, &str)], body: &mut Vec<u8>) {
    for (name, value) in labels {
        body.push(SERIES_LABELS);
        varint(label_len(name, value) as u64, body);
        bytes_field(LABEL_NAME, name.as_bytes(), body);
        bytes_field(LABEL_VALUE, value.as_bytes(), body);
    }
}

/// The lengths that stand before the parts of a chunk, and its hash.
struct Sizes {
    hash: u64,
    chunk: usize,
    aggr: usize,
}

impl Sizes {
    fn of(chunk: &Chunk<'_>) -> Self {
        let hash = XxHash64::oneshot(0, chunk.bytes);
        let in_chunk = int_len(wire_type(chunk)) + bytes_len(chunk.bytes.len()) + int_len(hash);
        let aggr = int_len(chunk.min_t as u64)
            + int_len(chunk.max_t as u64)
            + 1
            + varint_len(in_chunk as u64)
            + in_chunk;
        Self { hash, chunk: in_chunk, aggr }
    }

    /// The whole `chunks` field, with tag and length.
    fn field(&self) -> usize {
        1 + varint_len(self.aggr as u64) + self.aggr
    }
}

fn encode_chunk(chunk: &Chunk<'_>, sizes: &Sizes, body: &mut Vec<u8>) {
    body.push(SERIES_CHUNKS);
    varint(sizes.aggr as u64, body);
    int_field(AGGR_MIN_TIME, chunk.min_t as u64, body);
    int_field(AGGR_MAX_TIME, chunk.max_t as u64, body);
    body.push(AGGR_RAW);
    varint(sizes.chunk as u64, body);
    int_field(CHUNK_TYPE, wire_type(chunk), body);
    bytes_field(CHUNK_DATA, chunk.bytes, body);
    int_field(CHUNK_HASH, sizes.hash, body);
}

/// The `StoreAPI` counts encodings from 0, blocks from 1.
fn wire_type(chunk: &Chunk<'_>) -> u64 {
    u64::from(chunk.encoding.byte() - 1)
}

fn labels_len(labels: &[(&str, &str)]) -> usize {
    labels.iter().map(|(name, value)| bytes_len(label_len(name, value))).sum()
}

fn label_len(name: &str, value: &str) -> usize {
    bytes_len(name.len()) + bytes_len(value.len())
}

/// Length of a field of `len` bytes; 0 if it is empty, for then it is absent.
fn bytes_len(len: usize) -> usize {
    if len == 0 { 0 } else { 1 + varint_len(len as u64) + len }
}

/// Length of an integer field; 0 if it is 0, for then it is absent.
fn int_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + varint_len(value) }
}

fn bytes_field(tag: u8, bytes: &[u8], out: &mut Vec<u8>) {
    if !bytes.is_empty() {
        out.push(tag);
        varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    }
}

fn int_field(tag: u8, value: u64, out: &mut Vec<u8>) {
    if value != 0 {
        out.push(tag);
        varint(value, out);
    }
}

fn varint(mut value: u64, out: &mut Vec<u8>) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_len(value: u64) -> usize {
    (70 - (value | 1).leading_zeros() as usize) / 7
}
