//! Request targets as people write them.
//!
//! `curl -g 'host/api/v1/series?match[]=up{job="x"}'` sends the quotes as they are. Prometheus
//! takes that; hyper answers 400 without a word, for a target may not hold `"`, `<`, `>`, blanks or
//! bytes beyond ASCII. So what hyper reads goes through [`Mended`], which writes those bytes as
//! `%22` and so on. A blank belongs to the target if another one follows it in the line, or more
//! than a version could be.
//!
//! ## Limits
//! Only the first line of a request is touched. Bodies with `Content-Length` are stepped over;
//! after anything whose end is not known here (chunks, a length that cannot be read) the rest of
//! the connection passes as it is. That hyper and this might disagree on where a request begins
//! costs at most a `%22` in the sender's own bytes.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

/// Longest header line that is looked at: both that matter are shorter.
const HEADER_BYTES_MAX: usize = 64;
/// Length of the end of a first line, ` HTTP/1.1\r`.
const VERSION_BYTES: usize = 10;
/// Bytes read at once.
const READ_BYTES: usize = 4096;

/// What comes in on a connection, with request targets that hyper can read.
#[derive(Debug)]
pub(super) struct Mended<S> {
    stream: S,
    at: At,
    /// Mended, and not given away yet.
    ready: Vec<u8>,
    given: usize,
    /// A blank of the first line and what follows it, until it is known what it means.
    held: Vec<u8>,
}

const LINE: At = At::Line { begun: false, target: false };

/// Where in the stream of requests the next byte stands.
#[derive(Debug)]
enum At {
    /// In the first line; whether it has begun, and its target.
    Line { begun: bool, target: bool },
    /// In the headers: the begin of the line, and what follows the head.
    Header { line: Vec<u8>, then: Then },
    /// In a body, with so many bytes left.
    Body(u64),
    /// Somewhere, until the end.
    Anywhere,
}

/// What follows a head.
#[derive(Debug, Clone, Copy)]
enum Then {
    Body(u64),
    Anywhere,
}

impl<S> Mended<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, at: LINE, ready: Vec::new(), given: 0, held: Vec::new() }
    }

    /// The blank that is held belongs to the target.
    fn mend_blank(&mut self) {
        if let Some((_, after)) = self.held.split_first() {
            self.ready.extend_from_slice(b"%20");
            self.ready.extend_from_slice(after);
            self.held.clear();
        }
    }

    /// Takes a byte of the first line.
    fn mend_line(&mut self, byte: u8) {
        let At::Line { begun, target } = &mut self.at else { return };
        let after_target = byte == b' ' && *target;
        *target |= byte == b' ' && *begun;
        // Blank lines may stand before a request.
        let ended = byte == b'\n' && *begun;
        *begun |= !byte.is_ascii_whitespace();
        if ended {
            self.at = At::Header { line: Vec::new(), then: Then::Body(0) };
            self.ready.append(&mut self.held);
        }
        if after_target || self.held.len() > VERSION_BYTES {
            self.mend_blank();
        }
        let out =
            if after_target || !self.held.is_empty() { &mut self.held } else { &mut self.ready };
        match byte {
            b'"' | b'<' | b'>' | b'#' | 0x80.. => {
                let [high, low] = [byte >> 4, byte & 15].map(hex);
                out.extend([b'%', high, low]);
            }
            _ => out.push(byte),
        }
    }

    fn mend(&mut self, mut bytes: &[u8]) {
        while let Some((&byte, rest)) = bytes.split_first() {
            match &mut self.at {
                At::Line { .. } => self.mend_line(byte),
                At::Header { line, then } => {
                    self.ready.push(byte);
                    if byte != b'\n' {
                        if line.len() < HEADER_BYTES_MAX {
                            line.push(byte.to_ascii_lowercase());
                        }
                    } else if line.trim_ascii().is_empty() {
                        self.at = match *then {
                            Then::Body(0) => LINE,
                            Then::Body(left) => At::Body(left),
                            Then::Anywhere => At::Anywhere,
                        };
                    } else {
                        *then = after(line, *then);
                        line.clear();
                    }
                }
                At::Body(left) => {
                    let here = usize::try_from(*left).unwrap_or(usize::MAX).min(bytes.len());
                    let (body, next) = bytes.split_at(here);
                    self.ready.extend_from_slice(body);
                    *left -= here as u64;
                    if *left == 0 {
                        self.at = LINE;
                    }
                    bytes = next;
                    continue;
                }
                At::Anywhere => {
                    self.ready.extend_from_slice(bytes);
                    return;
                }
            }
            bytes = rest;
        }
    }
}

/// What follows a head with this header, as far as was known before.
fn after(line: &[u8], known: Then) -> Then {
    if line.starts_with(b"transfer-encoding") {
        return Then::Anywhere;
    }
    let Some(length) = line.strip_prefix(b"content-length") else { return known };
    let length = length.trim_ascii().strip_prefix(b":").map(<[u8]>::trim_ascii);
    let length = length.and_then(|digits| str::from_utf8(digits).ok()?.parse().ok());
    match (length, known) {
        (Some(length), Then::Body(_)) => Then::Body(length),
        _ => Then::Anywhere,
    }
}

fn hex(digit: u8) -> u8 {
    if digit < 10 { b'0' + digit } else { b'A' + digit - 10 }
}

impl<S: AsyncRead + Unpin> AsyncRead for Mended<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        // What is held back may be all that was read, and nothing would mean the end.
        while this.given == this.ready.len() {
            this.ready.clear();
            this.given = 0;
            let mut bytes = [0; READ_BYTES];
            let mut read = ReadBuf::new(&mut bytes);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut read))?;
            if read.filled().is_empty() {
                break;
            }
            this.mend(read.filled());
        }
        let waiting = this.ready.get(this.given..).unwrap_or_default();
        let now = waiting.get(..buffer.remaining()).unwrap_or(waiting);
        buffer.put_slice(now);
        this.given += now.len();
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What becomes of bytes, however they are cut into reads.
    fn check(sent: &[u8], want: &[u8]) {
        for cut in [1, 2, 3, 7, sent.len()] {
            let mut mended = Mended::new(());
            sent.chunks(cut).for_each(|bytes| mended.mend(bytes));
            let shown = String::from_utf8_lossy(&mended.ready);
            assert_eq!(mended.ready, want, "by {cut}: {shown}");
        }
    }

    #[test]
    fn only_targets_are_mended() {
        let good = b"GET /a?b=%22c%22 HTTP/1.1\r\nHost: \"x\"\r\n\r\n";
        check(good, good);
        check(
            b"GET /s?match[]=up{a=\"\xc3\xa9\",b>\"<#\"} HTTP/1.1\r\nX: \"\r\n\r\n",
            b"GET /s?match[]=up{a=%22%C3%A9%22,b%3E%22%3C%23%22} HTTP/1.1\r\nX: \"\r\n\r\n",
        );
        check(
            b"GET /s?match[]=up{a=\"b c\", d=\" e HTTP/1.1\"} HTTP/1.0\r\nX: a b c\r\n\r\n",
            b"GET /s?match[]=up{a=%22b%20c%22,%20d=%22%20e%20HTTP/1.1%22} HTTP/1.0\r\n\
              X: a b c\r\n\r\n",
        );
        check(b"GET / HTTP/1.1\n\nGET /\n\n", b"GET / HTTP/1.1\n\nGET /\n\n");
        // One after the other on a connection, with blank lines and a body between them.
        check(
            b"\r\nPOST /\" H\r\nContent-Length: 4\r\n\r\n\"\n\r\nGET /\" H\r\n\r\nGET /\" H\n\n",
            b"\r\nPOST /%22 H\r\nContent-Length: 4\r\n\r\n\"\n\r\nGET /%22 H\r\n\r\nGET /%22 H\n\n",
        );
        // Where a body ends that is not known here, nothing is touched.
        for header in ["Transfer-Encoding: chunked", "Content-Length: 1x", "content-length: "] {
            let (body, next) = ("1\r\n\"\r\n0\r\n\r\n", "GET /\" H\r\n\r\n");
            let all = format!("POST / H\r\n{header}\r\n\r\n{body}{next}");
            check(all.as_bytes(), all.as_bytes());
        }
    }
}
