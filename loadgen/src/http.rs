//! A tiny HTTP/1.1 client: one blocking connection, kept alive, opened again when the peer closes.
//!
//! A library would do more than is wanted here: the request is bytes that exist already, and what
//! the connection did (reused, reopened, refused) is part of what is measured.
//!
//! ## Limits
//!
//! Answers: head 64 KiB, body 1 GiB; only `http://`.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::Duration;

use crate::error::{Error, Result};

const HEAD_SIZE_MAX: usize = 64 << 10;
const BODY_SIZE_MAX: usize = 1 << 30;

/// Where to: a parsed `http://host:port/path`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Url {
    /// Host and port, as connected to and as in the `Host` header.
    pub(crate) host: String,
    /// Path and query.
    pub(crate) path: String,
}

impl Url {
    /// Parses a URL; without a path it is `/`, without a port it is 80.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let rest = text
            .strip_prefix("http://")
            .ok_or_else(|| Error::Usage(format!("{text}: a URL begins with http://")))?;
        let (host, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/"),
        };
        let visible = |text: &str| text.bytes().all(|byte| (b'!'..=b'~').contains(&byte));
        if host.is_empty() || !visible(host) || !visible(path) {
            return Err(Error::Usage(format!("{text}: not a URL with a host")));
        }
        let port = host.rsplit(':').next().is_some_and(|port| port.parse::<u16>().is_ok());
        let host = if port { host.to_owned() } else { format!("{host}:80") };
        Ok(Self { host, path: path.to_owned() })
    }

    /// The same host, another path.
    pub(crate) fn at(&self, path: &str) -> Self {
        Self { host: self.host.clone(), path: path.to_owned() }
    }
}

/// An answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// Seconds of `Retry-After`, if said in seconds.
    pub(crate) retry_after_s: Option<u64>,
    /// How many samples were written, which an answer in remote write 2.0 says.
    pub(crate) samples_written: Option<u64>,
    pub(crate) body: Vec<u8>,
}

/// A connection to one peer.
#[derive(Debug)]
pub(crate) struct Connection {
    host: String,
    timeout: Duration,
    stream: Option<TcpStream>,
    input: Vec<u8>,
    /// How often it was opened.
    pub(crate) opened_count: u64,
}

impl Connection {
    /// A connection that will be opened when first used. `timeout` bounds connecting and each
    /// silence of the peer.
    pub(crate) fn new(host: &str, timeout: Duration) -> Self {
        Self { host: host.to_owned(), timeout, stream: None, input: Vec::new(), opened_count: 0 }
    }

    /// Sends one request and reads the answer. If the peer closed the idle connection, the
    /// request goes out once more on a new one: that is ordinary keep-alive, not a failure.
    pub(crate) fn exchange(&mut self, message: &[u8]) -> io::Result<Answer> {
        let reused = self.stream.is_some();
        match self.attempt(message) {
            Err(error) if reused && self.input.is_empty() && was_closed(&error) => {
                self.attempt(message)
            }
            other => other,
        }
    }

    fn attempt(&mut self, message: &[u8]) -> io::Result<Answer> {
        self.input.clear();
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => self.open()?,
        };
        // A peer may answer and close before it has read all: then the answer counts.
        let written = stream.write_all(message);
        let (answer, keep) = match read_answer(&mut stream, &mut self.input) {
            Err(error) => return Err(written.err().unwrap_or(error)),
            Ok(read) => read,
        };
        if keep && written.is_ok() {
            self.stream = Some(stream);
        }
        Ok(answer)
    }

    fn open(&mut self) -> io::Result<TcpStream> {
        let mut last = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
        for address in self.host.to_socket_addrs()? {
            match TcpStream::connect_timeout(&address, self.timeout) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    stream.set_read_timeout(Some(self.timeout))?;
                    stream.set_write_timeout(Some(self.timeout))?;
                    self.opened_count += 1;
                    return Ok(stream);
                }
                Err(error) => last = error,
            }
        }
        Err(last)
    }
}

/// A whole exchange for readers that do not count: one request, any answer.
pub(crate) fn fetch(url: &Url, method: &str, headers: &str, body: &[u8]) -> Result<Answer> {
    let mut message = format!(
        "{method} {} HTTP/1.1\r\nHost: {}\r\nUser-Agent: loadgen/{}\r\n{headers}\
         Content-Length: {}\r\n\r\n",
        url.path,
        url.host,
        env!("CARGO_PKG_VERSION"),
        body.len()
    )
    .into_bytes();
    message.extend_from_slice(body);
    Connection::new(&url.host, Duration::from_mins(2)).exchange(&message).map_err(|error| {
        Error::Peer { peer: format!("http://{}{}", url.host, url.path), reason: error.to_string() }
    })
}

fn was_closed(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset | UnexpectedEof)
}

/// How the end of a body is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    Size(usize),
    Chunked,
    UntilClose,
}

/// Reads one answer, skipping `1xx`. Returns whether the connection may be used again. `input`
/// holds whatever was read: empty on an error means that not a byte came.
fn read_answer(stream: &mut impl Read, input: &mut Vec<u8>) -> io::Result<(Answer, bool)> {
    loop {
        let end = loop {
            if let Some(at) = input.windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if input.len() > HEAD_SIZE_MAX {
                return Err(bad("the head of the answer is too long"));
            }
            if !more(stream, input)? {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        };
        let (mut answer, framing, keep) = parse_head(&input[..end])?;
        let mut rest = input.split_off(end);
        if (100..200).contains(&answer.status) {
            *input = rest;
            continue;
        }
        answer.body = read_body(stream, &mut rest, framing)?;
        return Ok((answer, keep && framing != Framing::UntilClose && rest.is_empty()));
    }
}

fn parse_head(head: &[u8]) -> io::Result<(Answer, Framing, bool)> {
    let text = std::str::from_utf8(head).map_err(|_| bad("the head is not text"))?;
    let mut lines = text.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let mut words = first.split(' ');
    let version = words.next().unwrap_or_default();
    let status = words.next().and_then(|word| word.parse().ok());
    let (true, Some(status)) = (version.starts_with("HTTP/1."), status) else {
        return Err(bad("the peer does not speak HTTP/1"));
    };
    let mut answer = Answer { status, ..Answer::default() };
    let mut keep = version != "HTTP/1.0";
    let mut framing =
        if status == 204 || status == 304 { Framing::Size(0) } else { Framing::UntilClose };
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if framing == Framing::UntilClose => {
                let size = value.parse().map_err(|_| bad("the length is not a number"))?;
                framing = Framing::Size(size);
            }
            "transfer-encoding" if value.eq_ignore_ascii_case("chunked") => {
                framing = Framing::Chunked;
            }
            "connection" if value.eq_ignore_ascii_case("close") => keep = false,
            "retry-after" => answer.retry_after_s = value.parse().ok(),
            "x-prometheus-remote-write-samples-written" => {
                answer.samples_written = value.parse().ok();
            }
            _ => {}
        }
    }
    Ok((answer, framing, keep))
}

/// Takes a body off `rest` and the stream; what is left in `rest` came after the body.
fn read_body(stream: &mut impl Read, rest: &mut Vec<u8>, framing: Framing) -> io::Result<Vec<u8>> {
    match framing {
        Framing::Size(size) => take(stream, rest, size),
        Framing::UntilClose => {
            while rest.len() <= BODY_SIZE_MAX && more(stream, rest)? {}
            Ok(std::mem::take(rest))
        }
        Framing::Chunked => {
            let mut body = Vec::new();
            loop {
                let line = take_line(stream, rest)?;
                let size = line.split(';').next().unwrap_or_default().trim();
                let size = usize::from_str_radix(size, 16).map_err(|_| bad("a chunk's size"))?;
                if body.len().saturating_add(size) > BODY_SIZE_MAX {
                    return Err(bad("the body of the answer is too long"));
                }
                if size == 0 {
                    while !take_line(stream, rest)?.is_empty() {}
                    return Ok(body);
                }
                body.extend_from_slice(&take(stream, rest, size)?);
                take_line(stream, rest)?;
            }
        }
    }
}

fn take(stream: &mut impl Read, rest: &mut Vec<u8>, size: usize) -> io::Result<Vec<u8>> {
    if size > BODY_SIZE_MAX {
        return Err(bad("the body of the answer is too long"));
    }
    while rest.len() < size {
        if !more(stream, rest)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let after = rest.split_off(size);
    Ok(std::mem::replace(rest, after))
}

fn take_line(stream: &mut impl Read, rest: &mut Vec<u8>) -> io::Result<String> {
    loop {
        if let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
            let mut line = take(stream, rest, at + 2)?;
            line.truncate(at);
            return String::from_utf8(line).map_err(|_| bad("a line is not text"));
        }
        if rest.len() > HEAD_SIZE_MAX {
            return Err(bad("a line of the answer is too long"));
        }
        if !more(stream, rest)? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
}

/// Reads what there is; false at the end.
fn more(stream: &mut impl Read, into: &mut Vec<u8>) -> io::Result<bool> {
    let start = into.len();
    into.resize(start + start.clamp(4 << 10, 1 << 20), 0);
    let count = loop {
        match stream.read(&mut into[start..]) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => break other,
        }
    };
    into.truncate(start + *count.as_ref().unwrap_or(&0));
    Ok(count? > 0)
}

fn bad(reason: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// Gives its text away in pieces of `step` bytes.
    struct Drip<'a>(&'a [u8], usize);

    impl Read for Drip<'_> {
        fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
            let count = self.1.min(into.len()).min(self.0.len());
            into[..count].copy_from_slice(&self.0[..count]);
            self.0 = &self.0[count..];
            Ok(count)
        }
    }

    fn check(text: &str, status: u16, body: &str, keep: bool) {
        for step in [1, 3, 10_000] {
            let read = read_answer(&mut Drip(text.as_bytes(), step), &mut Vec::new()).unwrap();
            assert_eq!((read.0.status, read.0.body.as_slice()), (status, body.as_bytes()));
            assert_eq!(read.1, keep, "{text}");
        }
    }

    #[test]
    fn answers() {
        check("HTTP/1.1 204 No Content\r\n\r\n", 204, "", true);
        check("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 200, "ok", true);
        check(
            "HTTP/1.1 200 OK\r\nConnection: close\r\ncontent-length:2\r\n\r\nok",
            200,
            "ok",
            false,
        );
        check(
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 409 C\r\nContent-Length: 0\r\n\r\n",
            409,
            "",
            true,
        );
        check("HTTP/1.1 200 OK\r\n\r\nto the end", 200, "to the end", false);
        check("HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", 200, "x", false);
        let chunked = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
        check(
            &format!("{chunked}3\r\nabc\r\nA;x=y\r\n0123456789\r\n0\r\nT: x\r\n\r\n"),
            200,
            "abc0123456789",
            true,
        );
    }

    #[test]
    fn broken_answers_are_errors() {
        for text in [
            "",
            "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nab",
            "SSH-2.0\r\n\r\n",
            "HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n",
        ] {
            assert!(read_answer(&mut Drip(text.as_bytes(), 9), &mut Vec::new()).is_err(), "{text}");
        }
    }

    #[test]
    fn urls() {
        let url = Url::parse("http://a:9/b?c").unwrap();
        assert_eq!((url.host.as_str(), url.path.as_str()), ("a:9", "/b?c"));
        assert_eq!(Url::parse("http://a").unwrap(), Url { host: "a:80".into(), path: "/".into() });
        assert_eq!(url.at("/x").path, "/x");
        assert!(Url::parse("https://a").is_err() && Url::parse("http:///x").is_err());
    }

    #[test]
    fn a_peer_that_closes_between_requests_costs_a_reconnect_and_no_error() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let server = std::thread::spawn(move || {
            for _ in 0..3 {
                let (mut stream, _) = listener.accept().unwrap();
                let mut buffer = [0u8; 64];
                assert_eq!(stream.read(&mut buffer).unwrap(), 4);
                stream.write_all(b"HTTP/1.1 204 x\r\n\r\n").unwrap();
            }
        });
        let mut connection = Connection::new(&host, Duration::from_secs(5));
        for _ in 0..3 {
            assert_eq!(connection.exchange(b"ping").unwrap().status, 204);
        }
        assert_eq!(connection.opened_count, 3);
        server.join().unwrap();
        assert!(connection.exchange(b"ping").is_err(), "nobody listens any more");
    }
}
