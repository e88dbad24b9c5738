//! Chunked bodies, taken apart in place. No I/O.
//!
//! ## Format
//!
//! RFC 9112, section 7.1. Only CR LF ends a line; an extension may hold anything but control
//! bytes; trailer lines are checked and thrown away.
//!
//! ```text
//!   5;ext=1\r\n  hello\r\n  0\r\n  Trailer: x\r\n  \r\n
//!   size  ext    data       last   trailer         end
//! ```
//!
//! Each call takes everything it is given: data moves down to close up with the body so far, the
//! rest is consumed byte by byte by a state machine. So the body is contiguous, no line is ever
//! looked at twice, and nothing but data stays in the buffer.

use std::ops::Range;

use crate::listener::http::Fault;
use crate::listener::limits::Limits;

/// More digits than this are refused, leading zeros or not.
const SIZE_DIGITS_MAX: u32 = 16;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// In the digits of a size; so many so far.
    Size(u32),
    /// Blanks after the digits: only an extension may follow.
    Blank,
    /// In an extension.
    Extension,
    /// After the CR of a size line.
    SizeLf,
    /// In the data; so many bytes are missing.
    Data,
    /// After the data.
    DataCr,
    DataLf,
    /// At the begin of a trailer line.
    Trailer,
    TrailerName,
    TrailerValue,
    TrailerLf,
    /// After the CR of the empty last line.
    EndLf,
    Done,
}

/// The state between two pieces of a chunked body.
#[derive(Debug)]
pub(crate) struct Dechunk {
    state: State,
    /// Size of the current chunk, then what is missing of it.
    left: u64,
    body_bytes: usize,
    extension_bytes: usize,
    trailer_bytes: usize,
}

/// What became of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The body goes on. The first `kept` bytes are its data so far, the rest is taken.
    More {
        /// Bytes of data.
        kept: usize,
    },
    /// The body is `body`, and `taken` bytes in all belonged to it.
    Done {
        /// Where the data is.
        body: Range<usize>,
        /// Where the next request begins.
        taken: usize,
    },
}

impl Dechunk {
    pub(crate) fn new() -> Self {
        Self { state: State::Size(0), left: 0, body_bytes: 0, extension_bytes: 0, trailer_bytes: 0 }
    }

    /// Goes on with `pending`: the data kept so far, then new bytes.
    pub(crate) fn advance(&mut self, pending: &mut [u8], limits: &Limits) -> Result<Piece, Fault> {
        let mut at = self.body_bytes;
        while let Some(&byte) = pending.get(at) {
            if self.state == State::Data {
                at += self.take_data(pending, at);
                continue;
            }
            at += 1;
            self.state = self.step(byte, limits)?;
            if self.state == State::Done {
                return Ok(Piece::Done { body: 0..self.body_bytes, taken: at });
            }
        }
        Ok(Piece::More { kept: self.body_bytes })
    }

    /// Moves what is there of the current chunk down to the body's end.
    fn take_data(&mut self, pending: &mut [u8], at: usize) -> usize {
        let there = pending.len().saturating_sub(at);
        let taken = usize::try_from(self.left).map_or(there, |left| left.min(there));
        if at != self.body_bytes {
            pending.copy_within(at..at + taken, self.body_bytes);
        }
        self.body_bytes += taken;
        self.left -= taken as u64;
        if self.left == 0 {
            self.state = State::DataCr;
        }
        taken
    }

    fn step(&mut self, byte: u8, limits: &Limits) -> Result<State, Fault> {
        let bad = |what| Err(Fault::Chunk { what });
        Ok(match (self.state, byte) {
            (State::Size(digits), _) if byte.is_ascii_hexdigit() => {
                if digits >= SIZE_DIGITS_MAX {
                    return bad("a chunk size has more than 16 digits");
                }
                let digit = (byte as char).to_digit(16).unwrap_or_default();
                self.left = self.left << 4 | u64::from(digit);
                State::Size(digits + 1)
            }
            (State::Size(0), _) => return bad("a chunk size is missing"),
            (State::Size(_) | State::Blank | State::Extension, b' ' | b'\t' | b';') => {
                self.count_extension(limits)?;
                let blank = self.state != State::Extension && byte != b';';
                if blank { State::Blank } else { State::Extension }
            }
            (State::Size(_) | State::Extension, b'\r') => State::SizeLf,
            (State::Extension, 0x21..=0x7e | 0x80..) => {
                self.count_extension(limits)?;
                State::Extension
            }
            (State::Size(_) | State::Blank, _) => return bad("a chunk size is no hex number"),
            (State::Extension, _) => return bad("a control byte in a chunk extension"),
            (State::SizeLf, b'\n') => self.begin_chunk(limits)?,
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size(0),
            (State::DataCr | State::DataLf, _) => return bad("a chunk is longer than its size"),
            (State::EndLf, b'\n') => State::Done,
            (State::SizeLf | State::EndLf | State::TrailerLf, found) if found != b'\n' => {
                return Err(Fault::LineEnd);
            }
            _ => self.trailer_step(byte, limits)?,
        })
    }

    fn count_extension(&mut self, limits: &Limits) -> Result<(), Fault> {
        self.extension_bytes += 1;
        if self.extension_bytes > limits.chunk_extension_bytes_max {
            return Err(Fault::Chunk { what: "too many bytes of chunk extensions" });
        }
        Ok(())
    }

    fn begin_chunk(&self, limits: &Limits) -> Result<State, Fault> {
        let max = limits.body_bytes_max;
        if self.left > max.saturating_sub(self.body_bytes) as u64 {
            return Err(Fault::BodyTooLong { max });
        }
        Ok(if self.left == 0 { State::Trailer } else { State::Data })
    }

    fn trailer_step(&mut self, byte: u8, limits: &Limits) -> Result<State, Fault> {
        self.trailer_bytes += 1;
        if self.trailer_bytes > limits.head_bytes_max {
            return Err(Fault::TrailersTooLong { max: limits.head_bytes_max });
        }
        let token = byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
        Ok(match (self.state, byte) {
            (State::Trailer, b'\r') => State::EndLf,
            (State::Trailer | State::TrailerName, _) if token => State::TrailerName,
            (State::TrailerName, b':') | (State::TrailerValue, b'\t' | 0x20..=0x7e | 0x80..) => {
                State::TrailerValue
            }
            (State::TrailerValue, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::Trailer,
            _ => return Err(Fault::Chunk { what: "a trailer is no 'name: value' line" }),
        })
    }
}
