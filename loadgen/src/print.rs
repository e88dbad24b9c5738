//! Lines for people. Unlike std's macros these do not panic when the reader has left: `| head -1`
//! has seen enough, and the exit code still tells the verdict.

use std::fmt;
use std::io::{self, Write};

/// A line on standard output.
macro_rules! say {
    ($($text:tt)*) => { $crate::print::line(&mut std::io::stdout(), format_args!($($text)*)) };
}

/// A line on standard error.
macro_rules! tell {
    ($($text:tt)*) => { $crate::print::line(&mut std::io::stderr(), format_args!($($text)*)) };
}

pub(crate) use {say, tell};

/// Writes a line. What cannot be written is told on standard error, unless nobody reads any more.
pub(crate) fn line(out: &mut impl Write, text: fmt::Arguments<'_>) {
    match writeln!(out, "{text}") {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            writeln!(io::stderr(), "loadgen: cannot print: {error}").ok();
        }
        Ok(()) | Err(_) => {}
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_reader_may_leave() {
        let (reader, mut pipe) = std::io::pipe().unwrap();
        drop(reader);
        super::line(&mut pipe, format_args!("unread"));
    }
}
