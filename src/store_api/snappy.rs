//! Requests compressed with snappy (`--grpc-compression=snappy` of Thanos), which tonic does not
//! know: they are unpacked before it sees them.
//!
//! ## Format
//! A gRPC body is messages, each `flag:1 length:4 (big-endian) bytes`. Flag 1 means compressed, and
//! then the bytes are snappy's *framed* stream with its checksums, not a raw block.
//!
//! ## Limits
//! A message over [`REQUEST_BYTES_MAX`], packed or unpacked, ends the request before it is taken
//! into memory.

use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::HeaderName;
use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use hyper::body::Frame;
use tonic::Status;

use crate::store_api::REQUEST_BYTES_MAX;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// Unpacks the body of a request that says it is snappy; others pass.
pub(super) async fn unpack(mut request: Request) -> Request {
    if request.headers().get(ENCODING).is_some_and(|value| value == "snappy") {
        request.headers_mut().remove(ENCODING);
        return request.map(|body| Body::new(Unpacked { packed: body, got: BytesMut::new() }));
    }
    request
}

/// A body whose messages are unpacked as they arrive.
#[derive(Debug)]
struct Unpacked {
    packed: Body,
    got: BytesMut,
}

impl hyper::body::Body for Unpacked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        loop {
            match next_message(&mut self.got) {
                Ok(None) => {}
                Ok(Some(message)) => return Poll::Ready(Some(Ok(Frame::data(message)))),
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(hyper::body::Body::poll_frame(Pin::new(&mut self.packed), context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.got.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::cancelled(error.to_string()))));
                }
                None if self.got.is_empty() => return Poll::Ready(None),
                None => {
                    self.got.clear();
                    let text = "the request ends inside a message";
                    return Poll::Ready(Some(Err(Status::internal(text))));
                }
            }
        }
    }
}

/// Takes the first message out of `got`, unpacked and with a prefix that says so; `None` if it is
/// not all there yet.
fn next_message(got: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((&[flag, a, b, c, d], rest)) = got.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > REQUEST_BYTES_MAX {
        return Err(too_big());
    }
    let Some(message) = rest.get(..len) else { return Ok(None) };
    let unpacked = match flag {
        0 => message.to_vec(),
        1 => decode(message)?,
        _ => return Err(Status::internal(format!("message with unknown flag {flag}"))),
    };
    got.advance(PREFIX_BYTES + len);
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + unpacked.len());
    out.put_u8(0);
    out.put_u32(unpacked.len() as u32);
    out.extend_from_slice(&unpacked);
    Ok(Some(out.freeze()))
}

fn decode(message: &[u8]) -> Result<Vec<u8>, Status> {
    let mut unpacked = Vec::new();
    let mut decoder = snap::read::FrameDecoder::new(message).take(REQUEST_BYTES_MAX as u64 + 1);
    decoder
        .read_to_end(&mut unpacked)
        .map_err(|e| Status::internal(format!("snappy request: {e}")))?;
    if unpacked.len() > REQUEST_BYTES_MAX { Err(too_big()) } else { Ok(unpacked) }
}

fn too_big() -> Status {
    let text = format!("request message over the limit of {REQUEST_BYTES_MAX} bytes");
    Status::resource_exhausted(text)
}
