//! `SeriesResponse` from bytes that are encoded already.
//!
//! ## Format
//! The message is a oneof, so an answer is one field with its length:
//! ```text
//! 0a len Series                 1  series
//! 12 len text                   2  warning
//! 22 len (0a len Series)*       4  batch
//! ```

use bytes::{BufMut as _, Bytes};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use tidegate_proto::thanos::SeriesRequest;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

const SERIES: u8 = 0x0a;
const WARNING: u8 = 0x12;
const BATCH: u8 = 0x22;

/// One message of the stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// One encoded `thanos.Series`.
    Series(Bytes),
    /// Several.
    Batch(Vec<Bytes>),
    /// Words about what is missing.
    Warning(String),
}

/// Decodes requests, passes answers on as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeriesCodec;

impl Codec for SeriesCodec {
    type Encode = Answer;
    type Decode = SeriesRequest;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for SeriesCodec {
    type Item = Answer;
    type Error = Status;

    fn encode(&mut self, answer: Answer, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        match answer {
            Answer::Series(body) => field(SERIES, &body, out),
            Answer::Warning(text) => field(WARNING, text.as_bytes(), out),
            Answer::Batch(bodies) => {
                let len: usize = bodies.iter().map(|b| field_len(b)).sum();
                out.reserve(len + 16);
                out.put_u8(BATCH);
                encode_varint(len as u64, out);
                for body in &bodies {
                    field(SERIES, body, out);
                }
            }
        }
        Ok(())
    }
}

impl Decoder for SeriesCodec {
    type Item = SeriesRequest;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<SeriesRequest>, Status> {
        let damaged = |e| Status::invalid_argument(format!("SeriesRequest: {e}"));
        SeriesRequest::decode(message).map(Some).map_err(damaged)
    }
}

fn field(tag: u8, bytes: &[u8], out: &mut EncodeBuf<'_>) {
    out.reserve(field_len(bytes));
    out.put_u8(tag);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn field_len(bytes: &[u8]) -> usize {
    1 + encoded_len_varint(bytes.len() as u64) + bytes.len()
}
