//! The table of answers: what became of a request -> status, headers, text.
//!
//! | request | remote write 1.0 | remote write 2.0 |
//! |---|---|---|
//! | all stored, or nothing to store | 200 on `/api/v1/receive`, else 204 | 204 W |
//! | out of order, out of bounds, too far in future, conflict | 409 | 400 W |
//! | no labels, empty or doubled label name | 409 | 400 W |
//! | bad references to symbols, no `__name__`, series without samples | | 400 W |
//! | labels too many, too long, not UTF-8, malformed; histograms, exemplars | 400 | 400 W |
//! | several of these | 400 before 409 | 400 |
//! | bad HTTP, tenant, snappy, protobuf | 400 | 400 W |
//! | body, decoded body or labels written out too long, too many records | 413 | 413 W |
//! | content type or encoding not spoken | 415 | 415 |
//! | overloaded, log behind or failed, not ready, shutting down | 503 R | 503 R W |
//! | a panic | 500 | 500 W |
//!
//! In the rows down to "several", the good samples of the request are stored and durable.
//! W: the three `X-Prometheus-Remote-Write-*-Written` headers, all 0 where nothing is
//! acknowledged. R: `Retry-After`. When shards differ, 503 goes before 4xx before 2xx: a sender
//! that repeats the request loses nothing, because exact duplicates are recognised.
//!
//! ## Why
//!
//! A sender drops the data on 4xx and repeats it on 5xx, so this table *is* the protocol. 409 and
//! the two statuses of success are what Thanos Receive and Prometheus answer. Unlike Thanos, a
//! histogram that is not stored is 400 and not a silent 200, and a foreign content type is 415.
//! Prometheus logs the first line of the text up to 1,024 bytes: so it is one line, it is short,
//! and it says how many samples are lost, why, and one example.
//!
//! No `Date` is sent: this code has no wall clock (RFC 9110, 6.6.1 allows that).

use std::fmt::Write as _;

pub use crate::decode::Version;
use crate::listener::refusal::Refusal;
use crate::listener::tally::{Class, Tally, Written};

/// Longest labels, longest fact and longest text shown in an answer, in bytes. Prometheus' log cuts
/// at 1,024.
const SERIES_BYTES_MAX: usize = 400;
const FACT_BYTES_MAX: usize = 250;
const TEXT_BYTES_MAX: usize = 1000;

/// The statuses this port answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Status {
    /// 200
    Ok,
    /// 204
    NoContent,
    /// 400
    BadRequest,
    /// 404
    NotFound,
    /// 405
    MethodNotAllowed,
    /// 408
    RequestTimeout,
    /// 409
    Conflict,
    /// 413
    ContentTooLarge,
    /// 414
    UriTooLong,
    /// 415
    UnsupportedMediaType,
    /// 417
    ExpectationFailed,
    /// 429
    TooManyRequests,
    /// 431
    HeadersTooLarge,
    /// 500
    Internal,
    /// 501
    NotImplemented,
    /// 503
    Unavailable,
    /// 505
    VersionNotSupported,
}

impl Status {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 17] = [
        Self::Ok,
        Self::NoContent,
        Self::BadRequest,
        Self::NotFound,
        Self::MethodNotAllowed,
        Self::RequestTimeout,
        Self::Conflict,
        Self::ContentTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::ExpectationFailed,
        Self::TooManyRequests,
        Self::HeadersTooLarge,
        Self::Internal,
        Self::NotImplemented,
        Self::Unavailable,
        Self::VersionNotSupported,
    ];

    /// Its number.
    pub fn code(self) -> u16 {
        self.line().0
    }

    fn line(self) -> (u16, &'static str) {
        match self {
            Self::Ok => (200, "OK"),
            Self::NoContent => (204, "No Content"),
            Self::BadRequest => (400, "Bad Request"),
            Self::NotFound => (404, "Not Found"),
            Self::MethodNotAllowed => (405, "Method Not Allowed"),
            Self::RequestTimeout => (408, "Request Timeout"),
            Self::Conflict => (409, "Conflict"),
            Self::ContentTooLarge => (413, "Content Too Large"),
            Self::UriTooLong => (414, "URI Too Long"),
            Self::UnsupportedMediaType => (415, "Unsupported Media Type"),
            Self::ExpectationFailed => (417, "Expectation Failed"),
            Self::TooManyRequests => (429, "Too Many Requests"),
            Self::HeadersTooLarge => (431, "Request Header Fields Too Large"),
            Self::Internal => (500, "Internal Server Error"),
            Self::NotImplemented => (501, "Not Implemented"),
            Self::Unavailable => (503, "Service Unavailable"),
            Self::VersionNotSupported => (505, "HTTP Version Not Supported"),
        }
    }
}

/// The path a request came by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Endpoint {
    /// `/api/v1/receive`, Thanos' path.
    Receive,
    /// `/api/v1/write`, Prometheus' path.
    Write,
}

/// What became of a write request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// The shards have applied it and what is stored is durable; single samples may be refused.
    Applied(Tally),
    /// Nothing of it is acknowledged.
    Refused(Refusal),
}

/// To whom an answer goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply {
    /// The version the request is written in; `None` before that is known.
    pub version: Option<Version>,
    /// The path it came by; `None` if by another.
    pub endpoint: Option<Endpoint>,
    /// When to come back, in seconds, should the answer have to say so.
    pub pause_s: u32,
}

/// An answer: status, headers, text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: Status,
    /// `Retry-After`, in seconds.
    pub retry_after_s: Option<u32>,
    /// The Written headers of remote write 2.0.
    pub written: Option<Written>,
    /// One line, or empty.
    pub text: String,
    /// Whether the connection must end with it.
    pub close: bool,
    /// Name of the refusal, if the request was refused as a whole.
    pub refused: Option<&'static str>,
}

impl Answer {
    fn bare(status: Status) -> Self {
        Self {
            status,
            retry_after_s: None,
            written: None,
            text: String::new(),
            close: false,
            refused: None,
        }
    }

    /// The answer to a write request.
    pub fn of(outcome: &Outcome, reply: Reply) -> Self {
        match outcome {
            Outcome::Applied(tally) => Self::applied(tally, reply),
            Outcome::Refused(refusal) => Self::refused(refusal, reply),
        }
    }

    /// The answer to a request that is refused as a whole.
    pub fn refused(refusal: &Refusal, reply: Reply) -> Self {
        let status = refusal.status();
        let text = excerpt(&refusal.to_string(), TEXT_BYTES_MAX - 50);
        let text = format!("{text} (err-tidegate-{})", refusal.id());
        let close = matches!(refusal, Refusal::Http(_) | Refusal::Panicked | Refusal::Draining);
        let known = reply.version == Some(Version::V2);
        Self {
            retry_after_s: pause(status, reply),
            written: known.then(Written::default),
            text,
            close,
            refused: Some(refusal.id()),
            ..Self::bare(status)
        }
    }

    fn applied(tally: &Tally, reply: Reply) -> Self {
        let v2 = reply.version == Some(Version::V2);
        let status = match (tally.class(), reply.endpoint) {
            (None, Some(Endpoint::Receive)) if !v2 => Status::Ok,
            (None, _) => Status::NoContent,
            (Some(Class::Limit), _) => Status::TooManyRequests,
            (Some(Class::Conflict), _) if !v2 => Status::Conflict,
            (Some(Class::Malformed | Class::Conflict), _) => Status::BadRequest,
        };
        Self {
            retry_after_s: pause(status, reply),
            written: v2.then_some(tally.written),
            text: text_of(tally),
            ..Self::bare(status)
        }
    }

    /// Writes the answer as HTTP/1.1. `keep_alive` tells the peer whether the connection lives
    /// on; to a `HEAD` request goes everything but the text.
    pub(crate) fn encode(&self, keep_alive: bool, to_head: bool, out: &mut Vec<u8>) {
        let (code, phrase) = self.status.line();
        let mut head = format!("HTTP/1.1 {code} {phrase}\r\n");
        // Writing to a String cannot fail.
        if self.status == Status::MethodNotAllowed {
            head.push_str("Allow: POST\r\n");
        }
        if let Some(seconds) = self.retry_after_s {
            let _ = write!(head, "Retry-After: {seconds}\r\n");
        }
        if let Some(written) = self.written {
            for (kind, count) in [
                ("Samples", written.samples),
                ("Histograms", written.histograms),
                ("Exemplars", written.exemplars),
            ] {
                let _ = write!(head, "X-Prometheus-Remote-Write-{kind}-Written: {count}\r\n");
            }
        }
        let newline = usize::from(!self.text.is_empty());
        if newline > 0 {
            head.push_str("Content-Type: text/plain; charset=utf-8\r\n");
            head.push_str("X-Content-Type-Options: nosniff\r\n");
        }
        if self.status != Status::NoContent {
            let _ = write!(head, "Content-Length: {}\r\n", self.text.len() + newline);
        }
        head.push_str(if keep_alive {
            "Connection: keep-alive\r\n\r\n"
        } else {
            "Connection: close\r\n\r\n"
        });
        out.extend_from_slice(head.as_bytes());
        if newline > 0 && !to_head {
            out.extend_from_slice(self.text.as_bytes());
            out.push(b'\n');
        }
    }
}

/// `Retry-After` goes with the status after which it is worth coming back.
fn pause(status: Status, reply: Reply) -> Option<u32> {
    let again = matches!(status, Status::Unavailable | Status::TooManyRequests);
    again.then_some(reply.pause_s)
}

fn text_of(tally: &Tally) -> String {
    let Some(example) = tally.example() else { return String::new() };
    let refused: u64 = tally.reasons().map(|(_, count)| count).sum();
    let written = tally.written;
    let stored = written.samples + written.histograms + written.exemplars;
    let mut text = format!("{refused} of {} samples refused, {stored} stored: ", refused + stored);
    // Writing to a String cannot fail.
    for (i, (reason, count)) in tally.reasons().enumerate() {
        let comma = if i == 0 { "" } else { ", " };
        let _ = write!(text, "{comma}{count} {}", reason.id());
    }
    text.push_str("; first: ");
    if !example.series.is_empty() {
        let _ = write!(text, "{}: ", excerpt(&example.series, SERIES_BYTES_MAX));
    }
    text.push_str(&excerpt(&example.fact.to_string(), FACT_BYTES_MAX));
    let _ = write!(text, " (err-tidegate-{})", example.fact.reason().id());
    excerpt(&text, TEXT_BYTES_MAX)
}

/// The begin of a text, on one line, at most `max` bytes long and cut between characters.
pub(crate) fn excerpt(text: &str, max: usize) -> String {
    let line = one_line(text);
    if line.len() <= max {
        return line;
    }
    let end = (0..=max).rev().find(|&at| line.is_char_boundary(at)).unwrap_or(0);
    format!("{}...", line.get(..end).unwrap_or_default())
}

/// Control characters would break the line, or the terminal of who reads the log.
fn one_line(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}
