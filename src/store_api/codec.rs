//! Requests that are checked before they are built, and `SeriesResponse` from bytes that are
//! encoded already.
//!
//! ## Format
//! The answer is a oneof, so it is one field with its length:
//! ```text
//! 0a len Series                 1  series
//! 12 len text                   2  warning
//! 22 len (0a len Series)*       4  batch
//! ```

use std::marker::PhantomData;

use bytes::{Buf as _, BufMut as _, Bytes};
use prost::encoding::{encode_varint, encoded_len_varint};
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};

use crate::store_api::fields::{self, Bounded};

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

/// Decodes requests `M` whose lists are short, see [`fields`]; `E` encodes the answers.
#[derive(Debug)]
pub(super) struct Checked<M, E>(PhantomData<fn(M) -> E>);

impl<M, E> Default for Checked<M, E> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<M: Bounded, E: Encoder<Error = Status> + Default + Send + 'static> Codec for Checked<M, E>
where
    E::Item: Send + 'static,
{
    type Encode = E::Item;
    type Decode = M;
    type Encoder = E;
    type Decoder = Self;

    fn encoder(&mut self) -> E {
        E::default()
    }

    fn decoder(&mut self) -> Self {
        Self::default()
    }
}

impl<M: Bounded, E> Decoder for Checked<M, E> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        let bytes = message.copy_to_bytes(message.remaining());
        fields::check::<M>(&bytes)?;
        let damaged = |e| Status::invalid_argument(format!("{}: {e}", M::NAME));
        M::decode(bytes).map(Some).map_err(damaged)
    }
}

/// Passes answers on as bytes.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct AnswerEncoder;

impl Encoder for AnswerEncoder {
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

fn field(tag: u8, bytes: &[u8], out: &mut EncodeBuf<'_>) {
    out.reserve(field_len(bytes));
    out.put_u8(tag);
    encode_varint(bytes.len() as u64, out);
    out.put_slice(bytes);
}

fn field_len(bytes: &[u8]) -> usize {
    1 + encoded_len_varint(bytes.len() as u64) + bytes.len()
}
