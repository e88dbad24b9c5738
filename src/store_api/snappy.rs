//! Requests compressed with snappy (`--grpc-compression=snappy` of Thanos), which tonic does not
//! know: they are unpacked before it sees them.
//!
//! ## Format
//! A gRPC body is messages, each `flag:1 length:4 (big-endian) bytes`. Flag 1 means compressed, and
//! then the bytes are snappy's *framed* stream with its checksums, not a raw block.
//!
//! ## Limits
//! A message over [`REQUEST_BYTES_MAX`], packed or unpacked, ends the request before it is taken
//! into memory. What is unpacked counts against the budget of the door as what arrived does. Others
//! have their turn after every [`TURN_BYTES`].

use std::fmt;
use std::io::Read as _;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::http::header::HeaderName;
use bytes::buf::Reader;
use bytes::{Buf as _, Bytes, BytesMut};
use hyper::body::Frame;
use snap::read::FrameDecoder;
use tonic::Status;

use crate::store_api::REQUEST_BYTES_MAX;
use crate::store_api::budget::Held;
use crate::store_api::series::TURN_BYTES;

const ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// Flag and length before each message.
const PREFIX_BYTES: usize = 5;

/// Unpacks the body of a request that says it is snappy; others pass.
pub(super) async fn unpack(mut request: Request) -> Request {
    if request.headers().get(ENCODING).is_some_and(|value| value == "snappy") {
        request.headers_mut().remove(ENCODING);
        let held = request.extensions().get::<Held>().cloned();
        return request.map(|body| {
            Body::new(Unpacked { packed: body, got: BytesMut::new(), under_way: None, held })
        });
    }
    request
}

/// A body whose messages are unpacked as they arrive.
#[derive(Debug)]
struct Unpacked {
    packed: Body,
    got: BytesMut,
    under_way: Option<Unpacking>,
    held: Option<Held>,
}

impl hyper::body::Body for Unpacked {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        loop {
            if let Some(message) = &mut this.under_way {
                match message.step(this.held.as_ref()) {
                    Ok(true) => {
                        let message = this.under_way.take().map(Unpacking::message);
                        return Poll::Ready(message.map(|message| Ok(Frame::data(message))));
                    }
                    Ok(false) => {
                        context.waker().wake_by_ref();
                        return Poll::Pending;
                    }
                    Err(status) => return Poll::Ready(Some(Err(status))),
                }
            }
            match next_message(&mut this.got) {
                Ok(None) => {}
                Ok(Some(Message::Plain(message))) => {
                    return Poll::Ready(Some(Ok(Frame::data(message))));
                }
                Ok(Some(Message::Packed(message))) => {
                    this.under_way = Some(Unpacking::new(message));
                    continue;
                }
                Err(status) => return Poll::Ready(Some(Err(status))),
            }
            match ready!(hyper::body::Body::poll_frame(Pin::new(&mut this.packed), context)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.got.extend_from_slice(&data),
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                Some(Err(error)) => {
                    return Poll::Ready(Some(Err(Status::from_error(error.into()))));
                }
                None if this.got.is_empty() => return Poll::Ready(None),
                None => {
                    this.got.clear();
                    let text = "the request ends inside a message";
                    return Poll::Ready(Some(Err(Status::internal(text))));
                }
            }
        }
    }
}

/// A message as it arrived.
enum Message {
    /// With its prefix.
    Plain(Bytes),
    /// Without.
    Packed(Bytes),
}

/// Takes the first message out of `got`; `None` if it is not all there yet.
fn next_message(got: &mut BytesMut) -> Result<Option<Message>, Status> {
    let Some((&[flag, a, b, c, d], rest)) = got.split_first_chunk::<PREFIX_BYTES>() else {
        return Ok(None);
    };
    let len = u32::from_be_bytes([a, b, c, d]) as usize;
    if len > REQUEST_BYTES_MAX {
        return Err(too_big());
    }
    if rest.len() < len {
        return Ok(None);
    }
    let mut message = got.split_to(PREFIX_BYTES + len).freeze();
    match flag {
        0 => Ok(Some(Message::Plain(message))),
        1 => Ok(Some(Message::Packed(message.split_off(PREFIX_BYTES)))),
        _ => Err(Status::internal(format!("message with unknown flag {flag}"))),
    }
}

/// A message that is being unpacked.
struct Unpacking {
    packed: FrameDecoder<Reader<Bytes>>,
    /// Room for the prefix, then what is unpacked.
    out: Vec<u8>,
}

impl fmt::Debug for Unpacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unpacking").field("bytes", &self.out.len()).finish_non_exhaustive()
    }
}

impl Unpacking {
    fn new(packed: Bytes) -> Self {
        Self { packed: FrameDecoder::new(packed.reader()), out: vec![0; PREFIX_BYTES] }
    }

    /// One turn; true once all is there.
    fn step(&mut self, held: Option<&Held>) -> Result<bool, Status> {
        let got = (&mut self.packed)
            .take(TURN_BYTES as u64)
            .read_to_end(&mut self.out)
            .map_err(|e| Status::internal(format!("snappy request: {e}")))?;
        if let Some(held) = held {
            held.take(got)?;
        }
        if self.out.len() > PREFIX_BYTES + REQUEST_BYTES_MAX {
            return Err(too_big());
        }
        Ok(got < TURN_BYTES)
    }

    /// The message with a prefix that says it is not packed.
    fn message(mut self) -> Bytes {
        let len = (self.out.len() - PREFIX_BYTES) as u32;
        for (to, from) in self.out.iter_mut().skip(1).zip(len.to_be_bytes()) {
            *to = from;
        }
        self.out.into()
    }
}

fn too_big() -> Status {
    let text = format!("request message over the limit of {REQUEST_BYTES_MAX} bytes");
    Status::resource_exhausted(text)
}
