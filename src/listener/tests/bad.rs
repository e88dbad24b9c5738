//! One table of bad requests: exact status, and whether the connection lives on. Each row is fed
//! whole, byte by byte, and cut at random places, and must come out the same.

use proptest::prelude::*;

use crate::listener::Limits;
use crate::listener::tests::twin::{Stage, statuses};

/// What must come back: the statuses in order, and whether the server closes.
pub(super) type Want = (&'static [u16], bool);

const CLOSED_400: Want = (&[400], true);

/// A POST with these header lines and a body.
fn post(headers: &str, body: &str) -> Vec<u8> {
    format!("POST /api/v1/receive HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}").into_bytes()
}

/// A chunked POST with this wire form of the body.
fn chunked(body: &str) -> Vec<u8> {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn line(request_line: &str) -> Vec<u8> {
    format!("{request_line}\r\nHost: a\r\n\r\n").into_bytes()
}

fn heads() -> Vec<(&'static str, Vec<u8>, Want)> {
    let long = "x".repeat(9 << 10);
    let many = "A: b\r\n".repeat(65);
    let big = format!("A: {}\r\nB: {}\r\n", "x".repeat(8000), "y".repeat(9000));
    vec![
        ("bare LF after request line", b"POST / HTTP/1.1\nHost: a\r\n\r\n".to_vec(), CLOSED_400),
        ("bare LF after header", b"POST / HTTP/1.1\r\nHost: a\n\r\n".to_vec(), CLOSED_400),
        ("bare LF everywhere", b"GET / HTTP/1.1\nHost: a\n\n".to_vec(), CLOSED_400),
        ("bare CR in a header", b"POST / HTTP/1.1\r\nHost: a\rb\r\n\r\n".to_vec(), CLOSED_400),
        ("two CR", b"POST / HTTP/1.1\r\r\nHost: a\r\n\r\n".to_vec(), CLOSED_400),
        ("LF first", b"\nPOST / HTTP/1.1\r\n".to_vec(), CLOSED_400),
        ("NUL in a value", post("A: b\0c\r\n", ""), CLOSED_400),
        ("DEL in a value", post("A: b\x7fc\r\n", ""), CLOSED_400),
        ("TLS hello", b"\x16\x03\x01\x02\x00\x01\x00".to_vec(), CLOSED_400),
        ("no space", line("POST/api/v1/receive"), CLOSED_400),
        ("no version", line("POST /api/v1/receive"), CLOSED_400),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), CLOSED_400),
        ("two spaces before target", line("POST  /api/v1/receive HTTP/1.1"), CLOSED_400),
        ("two spaces before version", line("POST /api/v1/receive  HTTP/1.1"), CLOSED_400),
        ("space after version", line("POST /api/v1/receive HTTP/1.1 "), CLOSED_400),
        ("space first", line(" POST /api/v1/receive HTTP/1.1"), CLOSED_400),
        ("tab as separator", line("POST\t/api/v1/receive HTTP/1.1"), CLOSED_400),
        ("bad method byte", line("PO(ST /api/v1/receive HTTP/1.1"), CLOSED_400),
        ("small http", line("POST /api/v1/receive http/1.1"), CLOSED_400),
        ("misspelt HTTP", line("POST /api/v1/receive HTTQ/1.1"), CLOSED_400),
        ("HTTP/2.0", line("POST /api/v1/receive HTTP/2.0"), (&[505], true)),
        ("HTTP/1.2", line("POST /api/v1/receive HTTP/1.2"), (&[505], true)),
        ("HTTP/11", line("POST /api/v1/receive HTTP/11"), CLOSED_400),
        ("HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), (&[505], true)),
        ("absolute form without a host", line("POST http:///api/v1/write HTTP/1.1"), CLOSED_400),
        ("absolute form without a path", line("POST http://a HTTP/1.1"), CLOSED_400),
        ("absolute form of a stranger", line("POST ftp://a/api/v1/write HTTP/1.1"), CLOSED_400),
        ("asterisk form", line("OPTIONS * HTTP/1.1"), CLOSED_400),
        ("authority form", line("CONNECT a:80 HTTP/1.1"), CLOSED_400),
        ("fragment", line("POST /api/v1/receive#x HTTP/1.1"), CLOSED_400),
        ("non-ASCII target", line("POST /é HTTP/1.1"), CLOSED_400),
        ("target too long", line(&format!("POST /{long} HTTP/1.1")), (&[414], true)),
        ("headers too long", post(&big, ""), (&[431], true)),
        ("too many headers", post(&many, ""), (&[431], true)),
        ("folded header", post("A: b\r\n c\r\n", ""), CLOSED_400),
        ("folded first header", b"POST / HTTP/1.1\r\n Host: a\r\n\r\n".to_vec(), CLOSED_400),
        ("space before colon", post("A : b\r\n", ""), CLOSED_400),
        ("no colon", post("Abc\r\n", ""), CLOSED_400),
        ("empty name", post(": b\r\n", ""), CLOSED_400),
        ("bad name byte", post("A[: b\r\n", ""), CLOSED_400),
        ("no Host", b"POST /api/v1/receive HTTP/1.1\r\n\r\n".to_vec(), CLOSED_400),
        ("two Hosts", post("Host: a\r\n", ""), CLOSED_400),
    ]
}

fn framings() -> Vec<(&'static str, Vec<u8>, Want)> {
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n";
    let swapped = "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n";
    let hidden = "Transfer-Encoding: xchunked\r\nContent-Length: 3\r\n";
    let old = "POST /api/v1/receive HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n";
    let huge = "Content-Length: 99999999999999999999999999\r\n";
    vec![
        (
            "length twice, equal",
            post("Content-Length: 3\r\nContent-Length: 3\r\n", "abc"),
            CLOSED_400,
        ),
        (
            "length twice, other",
            post("Content-Length: 3\r\nContent-Length: 4\r\n", "abc"),
            CLOSED_400,
        ),
        ("length list", post("Content-Length: 3, 3\r\n", "abc"), CLOSED_400),
        ("length signed", post("Content-Length: +3\r\n", "abc"), CLOSED_400),
        ("length negative", post("Content-Length: -3\r\n", "abc"), CLOSED_400),
        ("length hex", post("Content-Length: 0x3\r\n", "abc"), CLOSED_400),
        ("length empty", post("Content-Length:\r\n", "abc"), CLOSED_400),
        ("length with blank", post("Content-Length: 1 0\r\n", "abc"), CLOSED_400),
        ("length fraction", post("Content-Length: 3.0\r\n", "abc"), CLOSED_400),
        ("length beyond u64", post(huge, "abc"), (&[413], true)),
        ("length over the limit", post("Content-Length: 2000\r\n", "abc"), (&[413], true)),
        ("length and chunked", post(both, "abc"), CLOSED_400),
        ("chunked and length", post(swapped, "abc"), CLOSED_400),
        ("hidden chunked and length", post(hidden, "abc"), CLOSED_400),
        ("chunked twice", post("Transfer-Encoding: chunked, chunked\r\n", ""), CLOSED_400),
        (
            "chunked in two headers",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", ""),
            CLOSED_400,
        ),
        ("coding empty", post("Transfer-Encoding:\r\n", ""), CLOSED_400),
        ("coding gzip", post("Transfer-Encoding: gzip\r\n", ""), (&[501], true)),
        ("coding gzip, chunked", post("Transfer-Encoding: gzip, chunked\r\n", ""), (&[501], true)),
        ("coding identity", post("Transfer-Encoding: identity\r\n", ""), (&[501], true)),
        ("coding xchunked", post("Transfer-Encoding: xchunked\r\n", ""), (&[501], true)),
        ("coding with vertical tab", post("Transfer-Encoding: \x0bchunked\r\n", ""), CLOSED_400),
        ("chunked in HTTP/1.0", old.into(), CLOSED_400),
        ("expectation unknown", post("Expect: 200-ok\r\n", ""), (&[417], true)),
        (
            "expectation twice",
            post("Expect: 100-continue\r\nExpect: 100-continue\r\n", ""),
            CLOSED_400,
        ),
    ]
}

fn chunks() -> Vec<(&'static str, Vec<u8>, Want)> {
    let extension = format!("1;{}\r\na\r\n0\r\n\r\n", "e".repeat(20 << 10));
    let many = format!("{}0\r\n\r\n", format!("1;{}\r\na\r\n", "e".repeat(200)).repeat(90));
    let trailers = format!("0\r\n{}\r\n", "T: x\r\n".repeat(3000));
    vec![
        ("size missing", chunked("\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size no hex", chunked("3g\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size signed", chunked("+3\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size with 0x", chunked("0x3\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size with blank before", chunked(" 3\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size with blank after", chunked("3 \r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size with 17 digits", chunked("00000000000000003\r\nabc"), CLOSED_400),
        ("size overflows", chunked("ffffffffffffffff\r\nabc"), (&[413], true)),
        ("size over the limit", chunked("401\r\nabc"), (&[413], true)),
        ("sum over the limit", chunked("3\r\nabc\r\n3fe\r\n"), (&[413], true)),
        ("size line ends in LF", chunked("3\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("size line ends in CR", chunked("3\rabc\r\n0\r\n\r\n"), CLOSED_400),
        ("LF in an extension", chunked("3;a\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("CR in an extension", chunked("3;a\rb\r\nabc\r\n0\r\n\r\n"), CLOSED_400),
        ("chunk too long", chunked("3\r\nabcd\r\n0\r\n\r\n"), CLOSED_400),
        ("chunk ends in LF", chunked("3\r\nabc\n0\r\n\r\n"), CLOSED_400),
        ("extension too long", chunked(&extension), CLOSED_400),
        ("extensions too long together", chunked(&many), CLOSED_400),
        ("trailer no colon", chunked("0\r\nabc\r\n\r\n"), CLOSED_400),
        ("trailer folded", chunked("0\r\nA: b\r\n c\r\n\r\n"), CLOSED_400),
        ("trailer ends in LF", chunked("0\r\nA: b\n\r\n"), CLOSED_400),
        ("end is LF", chunked("0\r\n\n"), CLOSED_400),
        ("trailers too long", chunked(&trailers), (&[431], true)),
    ]
}

/// Requests that are good HTTP: the connection lives on, and a good request behind is answered.
fn refusals() -> Vec<(&'static str, Vec<u8>, Want)> {
    let with = |headers: &str| post(&format!("Content-Length: 3\r\n{headers}"), "abc");
    let unknown = "Content-Type: application/x-protobuf;proto=io.prometheus.write.v3.Request\r\n";
    vec![
        ("unknown path", line("POST /api/v1/receive/ HTTP/1.1"), (&[404], false)),
        ("path encoded", line("POST /api/v1/%72eceive HTTP/1.1"), (&[404], false)),
        ("dots", line("POST /api/v1/x/../receive HTTP/1.1"), (&[404], false)),
        ("GET", line("GET /api/v1/receive HTTP/1.1"), (&[405], false)),
        ("small post", line("post /api/v1/write HTTP/1.1"), (&[405], false)),
        ("HEAD", line("HEAD /api/v1/write HTTP/1.1"), (&[405], false)),
        ("tenant leaves its folder", with("THANOS-TENANT: ..\r\n"), (&[400], false)),
        ("tenant with slash", with("X-Scope-OrgID: a/b\r\n"), (&[400], false)),
        (
            "tenant not UTF-8",
            {
                let mut bytes = with("THANOS-TENANT: a?\r\n");
                let at = bytes.iter().position(|&b| b == b'?').expect("there");
                bytes[at] = 0xff;
                bytes
            },
            (&[400], false),
        ),
        ("two tenants", with("THANOS-TENANT: a\r\nthanos-tenant: b\r\n"), (&[400], false)),
        ("json", with("Content-Type: application/json\r\n"), (&[415], false)),
        ("another message", with(unknown), (&[415], false)),
        ("zstd", with("Content-Encoding: zstd\r\n"), (&[415], false)),
        ("two types", with("Content-Type: a/b\r\nContent-Type: a/b\r\n"), (&[400], false)),
        ("conflict", post("Content-Length: 8\r\n", "conflict"), (&[409], false)),
    ]
}

pub(super) fn table() -> Vec<(&'static str, Vec<u8>, Want)> {
    [heads(), framings(), chunks(), refusals()].concat()
}

pub(super) fn limits() -> Limits {
    Limits { body_bytes_max: 1024, ..Limits::default() }
}

/// What comes back for bytes cut at these places.
fn answer_to(bytes: &[u8], cuts: &[usize]) -> (Vec<u16>, bool) {
    let stage = Stage::with(limits());
    let mut client = stage.connect();
    let mut from = 0;
    for &cut in cuts.iter().chain([&bytes.len()]) {
        let cut = cut.clamp(from, bytes.len());
        client.send(&bytes[from..cut]);
        from = cut;
    }
    let got = (statuses(&client.receive()), client.peer.is_closed());
    client.end().expect("a connection ends with its peer");
    assert_eq!(stage.notes.under_way.get(), 0);
    assert_eq!(stage.listener.connections(), 0);
    assert_eq!(stage.listener.buffer_bytes().0, 0);
    got
}

#[test]
fn bad_requests_get_their_status_however_they_are_cut() {
    let table = table();
    assert!(table.len() >= 100);
    for (name, bytes, (want, closed)) in &table {
        let want = (want.to_vec(), *closed);
        assert_eq!(answer_to(bytes, &[]), want, "{name}");
        let every: Vec<usize> = (1..bytes.len()).collect();
        assert_eq!(answer_to(bytes, &every), want, "{name}, byte by byte");
    }
}

#[test]
fn limits_are_exact() {
    let mut rows = Vec::new();
    for (over, head, line, body) in [(0, 200, 200, 200), (1, 431, 414, 413)] {
        let max = limits().head_bytes_max + over;
        let frame = post("A: \r\nB: \r\n", "").len();
        let half = (max - frame) / 2;
        let headers =
            format!("A: {}\r\nB: {}\r\n", "x".repeat(half), "y".repeat(max - frame - half));
        let long = post(&headers, "");
        assert_eq!(long.len(), max);
        rows.push(("head", long, head));
        let query = limits().request_line_bytes_max + over - "POST /api/v1/receive? HTTP/1.1".len();
        rows.push((
            "line",
            self::line(&format!("POST /api/v1/receive?{} HTTP/1.1", "q".repeat(query))),
            line,
        ));
        let bytes = 1024 + over;
        let text = "b".repeat(bytes);
        rows.push(("body", post(&format!("Content-Length: {bytes}\r\n"), &text), body));
        rows.push(("chunked", chunked(&format!("{bytes:x}\r\n{text}\r\n0\r\n\r\n")), body));
    }
    for (name, bytes, status) in rows {
        let want = (vec![status], status != 200);
        assert_eq!(answer_to(&bytes, &[]), want, "{name}");
        let every: Vec<usize> = (1..bytes.len()).collect();
        assert_eq!(answer_to(&bytes, &every), want, "{name}, byte by byte");
    }
}

#[test]
fn a_good_request_behind_a_refused_one_is_answered_unless_closed() {
    for (name, bytes, (want, closed)) in &table() {
        let mut both = bytes.clone();
        both.extend(post("Content-Length: 1\r\nConnection: close\r\n", "x"));
        let mut want = want.to_vec();
        if !closed {
            want.push(200);
        }
        assert_eq!(answer_to(&both, &[]), (want, true), "{name}");
    }
}

#[test]
fn a_request_that_ends_early_is_answered_400() {
    let whole = post("Transfer-Encoding: chunked\r\n", "3\r\nabc\r\n0\r\nA: b\r\n\r\n");
    for len in 1..whole.len() {
        let stage = Stage::new();
        let mut client = stage.connect();
        client.send(&whole[..len]);
        assert_eq!(client.receive(), "", "after {len} bytes");
        client.end();
        assert_eq!(statuses(&client.receive()), [400], "after {len} bytes");
        assert!(stage.notes.seen.borrow().is_empty());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn bad_requests_get_their_status_at_random_cuts(
        row in 0..table().len(),
        mut cuts in proptest::collection::vec(0..25_000_usize, 0..6),
    ) {
        let (name, bytes, (want, closed)) = table().swap_remove(row);
        for cut in &mut cuts {
            *cut %= bytes.len();
        }
        cuts.sort_unstable();
        prop_assert_eq!(answer_to(&bytes, &cuts), (want.to_vec(), closed), "{}", name);
    }
}
