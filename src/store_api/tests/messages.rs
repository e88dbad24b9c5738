//! Messages as bytes: what is in them, how they are packed, how much a door takes.

use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tonic::Code;
use tonic::client::GrpcService as _;
use tonic::codegen::http;
use tonic::transport::Channel;

use super::{all, external, matcher, mixed_heads, open, read, run};
use crate::store_api::REQUEST_BYTES_MAX;

/// One call by hand: messages of the answer and the status that ended it.
pub(super) async fn by_hand(
    channel: &Channel,
    path: &str,
    encoding: Option<&str>,
    body: Vec<u8>,
) -> (Vec<Vec<u8>>, String) {
    let mut request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request.body(tonic::body::Body::new(Full::new(body.into()))).expect("a request");
    let mut channel = channel.clone();
    std::future::poll_fn(|context| channel.poll_ready(context)).await.expect("ready");
    let answer = channel.call(request).await.expect("an answer");
    let from_head = answer.headers().get("grpc-status").cloned();
    let answer = answer.into_body().collect().await.expect("a body");
    let status = answer.trailers().and_then(|t| t.get("grpc-status").cloned()).or(from_head);
    let bytes = answer.to_bytes();
    let (mut rest, mut messages) = (bytes.as_ref(), Vec::new());
    while let Some((&[flag, a, b, c, d], after)) = rest.split_first_chunk::<5>() {
        assert_eq!(flag, 0, "answers are never compressed");
        let (message, next) = after.split_at(u32::from_be_bytes([a, b, c, d]) as usize);
        messages.push(message.to_vec());
        rest = next;
    }
    (messages, status.expect("a status").to_str().expect("text").to_string())
}

fn message(flag: u8, bytes: &[u8]) -> Vec<u8> {
    let mut out = vec![flag];
    out.extend_from_slice(&(bytes.len() as u32).to_be_bytes());
    out.extend_from_slice(bytes);
    out
}

fn framed_snappy(bytes: &[u8]) -> Vec<u8> {
    let mut writer = snap::write::FrameEncoder::new(Vec::new());
    std::io::Write::write_all(&mut writer, bytes).expect("memory takes it");
    writer.into_inner().expect("memory takes it")
}

#[test]
fn unknown_fields_are_skipped() {
    run(async {
        let (_twins, channel) = open(mixed_heads(), external(&[])).await;
        let mut request = all().encode_to_vec();
        request.extend_from_slice(&[0x88, 0x01, 7]); // field 17, a varint
        request.extend_from_slice(&[0xa2, 0x06, 2, b'h', b'i']); // field 100, bytes
        request.extend_from_slice(&[0xad, 0x06, 1, 2, 3, 4]); // field 101, fixed32
        let (got, status) =
            by_hand(&channel, "/thanos.Store/Series", None, message(0, &request)).await;
        assert_eq!(status, "0");
        assert_eq!(got.len(), read(&channel, all()).await.expect("an answer").frames.len());
    });
}

#[test]
fn snappy_requests_are_understood() {
    run(async {
        let (_twins, channel) = open(mixed_heads(), external(&[])).await;
        let plain = all().encode_to_vec();
        let path = "/thanos.Store/Series";
        let (want, _) = by_hand(&channel, path, None, message(0, &plain)).await;
        assert!(want.len() > 9);
        for (name, body) in [
            ("packed", message(1, &framed_snappy(&plain))),
            ("said to be snappy, but this one is not", message(0, &plain)),
        ] {
            let (got, status) = by_hand(&channel, path, Some("snappy"), body).await;
            assert_eq!((got.len(), status.as_str()), (want.len(), "0"), "{name}");
        }

        let bomb = framed_snappy(&vec![0; REQUEST_BYTES_MAX + 1]);
        assert!(bomb.len() < REQUEST_BYTES_MAX / 10);
        let mut torn = framed_snappy(&plain);
        torn.pop();
        let mut long = vec![1];
        long.extend_from_slice(&u32::MAX.to_be_bytes());
        for (name, body, want) in [
            ("a bomb", message(1, &bomb), Code::ResourceExhausted),
            ("an impossible length", long, Code::ResourceExhausted),
            ("a torn stream", message(1, &torn), Code::Internal),
            ("a raw block", message(1, &plain), Code::Internal),
            ("an unknown flag", message(2, &plain), Code::Internal),
            ("the end inside a message", message(1, &plain)[..7].to_vec(), Code::Internal),
        ] {
            let (got, status) = by_hand(&channel, path, Some("snappy"), body).await;
            assert_eq!((got.len(), status), (0, (want as i32).to_string()), "{name}");
        }
        let (_, status) = by_hand(&channel, path, Some("zstd"), message(1, &plain)).await;
        assert_eq!(status, (Code::Unimplemented as i32).to_string());
    });
}

#[test]
fn requests_over_the_usual_four_mebibytes_pass() {
    run(async {
        let (_twins, channel) = open(mixed_heads(), external(&[])).await;
        let mut request = all();
        request.matchers.push(matcher(1, "a", &"x".repeat(6 << 20)));
        assert!(read(&channel, request.clone()).await.is_ok());
        request.matchers.push(matcher(1, "a", &"x".repeat(REQUEST_BYTES_MAX)));
        let status = read(&channel, request).await.expect_err("over our limit");
        assert_eq!(status.code(), Code::OutOfRange);
    });
}
