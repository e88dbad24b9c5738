//! HTTP/1.1 request heads as bytes: where one ends, and what it says. No I/O.
//!
//! ## Promises
//!
//! - The verdict on a stream does not depend on how the network cut it. Bytes are judged in
//!   order, one by one: the first offending byte decides. What needs the whole head is judged at
//!   its end.
//! - Each byte of a head is looked at a bounded number of times, however many pieces it came in.
//! - Two readers of the same bytes cannot disagree on where a body ends: whatever is ambiguous
//!   is refused and the connection closed. In detail:
//!
//! | found | answer |
//! |---|---|
//! | bare LF, bare CR, NUL or another control byte, folded line, blank before a colon | 400 |
//! | Content-Length twice (also if equal), a list, signed, empty | 400 |
//! | Content-Length and Transfer-Encoding together | 400 |
//! | Transfer-Encoding in HTTP/1.0, empty, `chunked` twice | 400 |
//! | any other transfer coding | 501 |
//! | Host missing in 1.1, or twice | 400 |
//! | a target that is not a path (`http://..`, `*`, `host:port`), or not plain ASCII | 400 |
//! | a version that is not 1.0 or 1.1 | 505 |
//! | an expectation that is not `100-continue` | 417 |
//! | a head, a request line, a trailer section too long, too many headers | 431, 414 |
//!
//! ## Why
//!
//! httparse splits the head into its parts. It is lenient where old servers were (bare LF, empty
//! lines) and starts anew with each piece, so [`HeadScan`] finds the end first, strictly and once.

use std::mem::MaybeUninit;

use httparse::Header;
use thiserror::Error;

use crate::listener::answer::Status;
use crate::listener::limits::Limits;

/// Most headers of one request. Prometheus sends nine; a proxy chain adds a dozen.
const HEADERS_MAX: usize = 64;

/// What is wrong with a request as HTTP. The connection is closed after the answer, because
/// where the next request begins is no longer known.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum Fault {
    /// A CR without LF, or an LF without CR.
    #[error("a line does not end in CR LF")]
    LineEnd,
    /// A control byte in the head.
    #[error("byte 0x{byte:02x} is not allowed in a request head")]
    ControlByte {
        /// The byte.
        byte: u8,
    },
    /// The request line is too long.
    #[error("request line is longer than {max} bytes")]
    RequestLineTooLong {
        /// The limit.
        max: usize,
    },
    /// The head is too long.
    #[error("request line and headers are longer than {max} bytes together")]
    HeadTooLong {
        /// The limit.
        max: usize,
    },
    /// The head has too many headers.
    #[error("more than {HEADERS_MAX} headers")]
    HeadersTooMany,
    /// The first line is not `METHOD /path HTTP/1.1`.
    #[error("request line is not of the form 'METHOD /path HTTP/1.1'")]
    RequestLine,
    /// A version this server does not speak.
    #[error("this HTTP version is not spoken here; use HTTP/1.1")]
    VersionUnknown,
    /// A header line is malformed.
    #[error("malformed header line: {what}")]
    HeaderLine {
        /// In httparse's words.
        what: String,
    },
    /// The target is not a path.
    #[error("request target is not a plain path that begins with '/'")]
    Target,
    /// HTTP/1.1 without Host.
    #[error("header Host is missing")]
    HostMissing,
    /// A header that must be single is not.
    #[error("header {name} occurs more than once")]
    HeaderTwice {
        /// Its name.
        name: String,
    },
    /// Content-Length is not a plain decimal number.
    #[error("Content-Length is not a plain decimal number")]
    LengthInvalid,
    /// Both framings at once: the classic of request smuggling.
    #[error("Content-Length and Transfer-Encoding together")]
    LengthAndCoding,
    /// Transfer-Encoding is empty, doubled, or in HTTP/1.0.
    #[error("Transfer-Encoding is empty, doubled, or used in HTTP/1.0")]
    CodingInvalid,
    /// A transfer coding this server does not speak.
    #[error("transfer coding is not spoken here; use 'chunked' or Content-Length")]
    CodingUnknown,
    /// An expectation this server does not meet.
    #[error("only 'Expect: 100-continue' can be met")]
    ExpectUnknown,
    /// The body is too long.
    #[error("body is longer than {max} bytes; send smaller requests")]
    BodyTooLong {
        /// The limit.
        max: usize,
    },
    /// A chunk of the body is malformed.
    #[error("malformed chunked body: {what}")]
    Chunk {
        /// What is wrong with it.
        what: &'static str,
    },
    /// The trailer section is too long.
    #[error("trailer section is longer than {max} bytes")]
    TrailersTooLong {
        /// The limit.
        max: usize,
    },
    /// The peer closed its side in the middle of a request.
    #[error("the request ends before it is complete")]
    Truncated,
    /// The head did not come in time.
    #[error("the request head did not arrive in time")]
    HeadTooSlow,
    /// The body came too slowly.
    #[error("the request body arrived too slowly")]
    BodyTooSlow,
}

impl Fault {
    /// The status that says so.
    pub(crate) fn status(&self) -> Status {
        match self {
            Self::LineEnd
            | Self::ControlByte { .. }
            | Self::RequestLine
            | Self::HeaderLine { .. }
            | Self::Target
            | Self::HostMissing
            | Self::HeaderTwice { .. }
            | Self::LengthInvalid
            | Self::LengthAndCoding
            | Self::CodingInvalid
            | Self::Chunk { .. }
            | Self::Truncated => Status::BadRequest,
            Self::HeadTooSlow | Self::BodyTooSlow => Status::RequestTimeout,
            Self::BodyTooLong { .. } => Status::ContentTooLarge,
            Self::RequestLineTooLong { .. } => Status::UriTooLong,
            Self::ExpectUnknown => Status::ExpectationFailed,
            Self::HeadTooLong { .. } | Self::HeadersTooMany | Self::TrailersTooLong { .. } => {
                Status::HeadersTooLarge
            }
            Self::CodingUnknown => Status::NotImplemented,
            Self::VersionUnknown => Status::VersionNotSupported,
        }
    }
}

/// Finds the end of a head in bytes that come in pieces.
#[derive(Debug, Default)]
pub(crate) struct HeadScan {
    /// Everything before is judged.
    seen: usize,
    /// Where the current line begins.
    line: usize,
}

impl HeadScan {
    /// Looks at what is new in `pending`, which begins where the head does. `Some(n)`: the head is
    /// `pending[..n]`, its empty last line included. `None`: more bytes are needed.
    pub(crate) fn end(&mut self, pending: &[u8], limits: &Limits) -> Result<Option<usize>, Fault> {
        loop {
            let new = pending.get(self.seen..).unwrap_or_default();
            let control = new.iter().position(|&b| (b < 0x20 && b != b'\t') || b == 0x7f);
            let at = self.seen + control.unwrap_or(new.len());
            let line_max = limits.request_line_bytes_max;
            if self.line == 0 && at > line_max {
                return Err(Fault::RequestLineTooLong { max: line_max });
            }
            let max = limits.head_bytes_max;
            // The last line's CR LF must fit as well.
            if at + 2 > max {
                return Err(Fault::HeadTooLong { max });
            }
            self.seen = at;
            match (pending.get(at), pending.get(at + 1)) {
                (None, _) | (Some(b'\r'), None) => return Ok(None),
                (Some(b'\r'), Some(b'\n')) => {}
                (Some(b'\r' | b'\n'), _) => return Err(Fault::LineEnd),
                (Some(&byte), _) => return Err(Fault::ControlByte { byte }),
            }
            let empty = self.line == at;
            self.seen = at + 2;
            self.line = at + 2;
            if empty {
                return Ok(Some(at + 2));
            }
        }
    }
}

/// HTTP version of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// HTTP/1.0: closes after the answer unless asked to keep alive.
    Http10,
    /// HTTP/1.1.
    Http11,
}

/// How the end of the body is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// By Content-Length, in bytes; 0 if there is none.
    Length(u64),
    /// By chunks.
    Chunked,
}

/// A request's head, checked.
#[derive(Debug, Clone)]
pub struct Head<'a> {
    /// The method, as sent.
    pub method: &'a str,
    /// The path: the target up to a `?`, as sent, nothing decoded.
    pub path: &'a str,
    /// The version.
    pub version: HttpVersion,
    /// How the body ends.
    pub framing: Framing,
    /// Whether the peer wants the connection to live on.
    pub keep_alive: bool,
    /// Whether the peer waits for `100 Continue` before it sends the body.
    pub expects_continue: bool,
    headers: Vec<Header<'a>>,
}

impl<'a> Head<'a> {
    /// Reads a complete head, its empty last line included.
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut room = [const { MaybeUninit::uninit() }; HEADERS_MAX];
        let mut request = httparse::Request::new(&mut []);
        match request.parse_with_uninit_headers(bytes, &mut room) {
            Ok(httparse::Status::Complete(_)) => {}
            Ok(httparse::Status::Partial) => return Err(Fault::Truncated),
            Err(error) => return Err(fault_of(error, bytes)),
        }
        let version = match request.version {
            Some(0) => HttpVersion::Http10,
            Some(1) => HttpVersion::Http11,
            _ => return Err(Fault::VersionUnknown),
        };
        let mut head = Self {
            method: request.method.ok_or(Fault::RequestLine)?,
            path: path_of(request.path.ok_or(Fault::RequestLine)?)?,
            version,
            framing: Framing::Length(0),
            keep_alive: version == HttpVersion::Http11,
            expects_continue: false,
            headers: request.headers.to_vec(),
        };
        if head.header("Host")?.is_none() && version == HttpVersion::Http11 {
            return Err(Fault::HostMissing);
        }
        head.framing = head.read_framing()?;
        head.read_connection();
        head.read_expect()?;
        Ok(head)
    }

    /// The value of a header that must not occur twice, outer blanks removed; name in any case.
    pub fn header(&self, name: &str) -> Result<Option<&'a [u8]>, Fault> {
        let mut values = self.all(name);
        let first = values.next();
        match values.next() {
            Some(_) => Err(Fault::HeaderTwice { name: name.to_owned() }),
            None => Ok(first),
        }
    }

    /// The announced length of the body in bytes; `None` if it comes in chunks.
    pub fn content_length(&self) -> Option<u64> {
        match self.framing {
            Framing::Length(bytes) => Some(bytes),
            Framing::Chunked => None,
        }
    }

    /// How often the sender has tried this request before: header `Retry-Attempt`, 0 if it is
    /// missing or no number.
    pub fn retry_attempt(&self) -> u32 {
        let value = self.all("Retry-Attempt").next();
        let text = value.and_then(|v| std::str::from_utf8(v).ok());
        text.and_then(|t| t.parse().ok()).unwrap_or(0)
    }

    fn all<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
        self.headers.iter().filter(move |h| h.name.eq_ignore_ascii_case(name)).map(|h| h.value)
    }

    /// The elements of a comma-separated list header.
    fn list<'h>(&'h self, name: &'h str) -> impl Iterator<Item = &'a [u8]> + 'h {
        self.all(name)
            .flat_map(|v| v.split(|&b| b == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|element| !element.is_empty())
    }

    fn read_framing(&self) -> Result<Framing, Fault> {
        let length = self.header("Content-Length")?;
        if self.all("Transfer-Encoding").next().is_none() {
            return length.map_or(Ok(Framing::Length(0)), |v| length_of(v).map(Framing::Length));
        }
        if length.is_some() {
            return Err(Fault::LengthAndCoding);
        }
        if self.version == HttpVersion::Http10 {
            return Err(Fault::CodingInvalid);
        }
        let mut codings = 0;
        for coding in self.list("Transfer-Encoding") {
            if !coding.eq_ignore_ascii_case(b"chunked") {
                return Err(Fault::CodingUnknown);
            }
            codings += 1;
        }
        if codings == 1 { Ok(Framing::Chunked) } else { Err(Fault::CodingInvalid) }
    }

    fn read_connection(&mut self) {
        let says = |option: &[u8]| self.list("Connection").any(|o| o.eq_ignore_ascii_case(option));
        self.keep_alive = match self.version {
            HttpVersion::Http10 => says(b"keep-alive") && !says(b"close"),
            HttpVersion::Http11 => !says(b"close"),
        };
    }

    fn read_expect(&mut self) -> Result<(), Fault> {
        if self.version == HttpVersion::Http10 {
            return Ok(());
        }
        match self.header("Expect")? {
            None => Ok(()),
            Some(v) if v.eq_ignore_ascii_case(b"100-continue") => {
                self.expects_continue = true;
                Ok(())
            }
            Some(_) => Err(Fault::ExpectUnknown),
        }
    }
}

fn fault_of(error: httparse::Error, head: &[u8]) -> Fault {
    match error {
        httparse::Error::TooManyHeaders => Fault::HeadersTooMany,
        httparse::Error::Version if names_a_version(head) => Fault::VersionUnknown,
        httparse::Error::HeaderName | httparse::Error::HeaderValue => {
            Fault::HeaderLine { what: error.to_string() }
        }
        _ => Fault::RequestLine,
    }
}

/// Whether the request line has three words, the last one like `HTTP/2.0`.
fn names_a_version(head: &[u8]) -> bool {
    let line = head.split(|&b| b == b'\r').next().unwrap_or_default();
    let mut words = line.split(|&b| b == b' ').skip(2);
    let version = words.next().and_then(|word| word.strip_prefix(b"HTTP/"));
    let digits = matches!(version, Some([a, b'.', b]) if a.is_ascii_digit() && b.is_ascii_digit());
    digits && words.next().is_none()
}

/// The path of a target in origin form, or in absolute form, which a server must take (RFC 9112,
/// 3.2.2). Whose host it names does not matter here.
fn path_of(target: &str) -> Result<&str, Fault> {
    let plain = |b: u8| b.is_ascii_graphic() && b != b'#';
    let local = match target.split_once("://") {
        Some((scheme, rest))
            if ["http", "https"].iter().any(|s| scheme.eq_ignore_ascii_case(s)) =>
        {
            rest.find('/').filter(|&host_bytes| host_bytes > 0).and_then(|at| rest.get(at..))
        }
        _ => Some(target),
    };
    let local = local.filter(|path| path.starts_with('/') && target.bytes().all(plain));
    let local = local.ok_or(Fault::Target)?;
    Ok(local.split('?').next().unwrap_or(local))
}

/// Digits only. A number beyond `u64` is too long for any limit, not malformed: it saturates.
fn length_of(value: &[u8]) -> Result<u64, Fault> {
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(Fault::LengthInvalid);
    }
    let digit =
        |length: u64, &b: &u8| length.saturating_mul(10).saturating_add(u64::from(b - b'0'));
    Ok(value.iter().fold(0, digit))
}
