//! The null target: reads write requests and answers 204. Against it, the generator measures
//! itself; a target cannot be faster than this.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::error::{Error, Result};

const ANSWER: &[u8] = b"HTTP/1.1 204 No Content\r\n\r\n";

/// Serves for ever on `address`.
pub(crate) fn serve(address: &str) -> Result<()> {
    let failed =
        |error: io::Error| Error::Peer { peer: address.to_owned(), reason: error.to_string() };
    let listener = TcpListener::bind(address).map_err(failed)?;
    std::thread::scope(|scope| {
        for peer in listener.incoming() {
            let peer = peer.map_err(failed)?;
            // A sender that leaves, in whatever way, is no concern of the sink.
            scope.spawn(move || swallow(peer).is_ok());
        }
        Ok(())
    })
}

/// Answers request after request until the sender leaves.
fn swallow(mut peer: TcpStream) -> io::Result<()> {
    peer.set_nodelay(true)?;
    let mut buffer = vec![0u8; 256 << 10];
    let mut filled = 0;
    loop {
        let Some((head, body)) = split(&buffer[..filled]) else {
            if filled == buffer.len() {
                return Err(io::ErrorKind::InvalidData.into());
            }
            let count = peer.read(&mut buffer[filled..])?;
            if count == 0 {
                return Ok(());
            }
            filled += count;
            continue;
        };
        let mut missing = (head + body).saturating_sub(filled);
        let rest = filled.saturating_sub(head + body);
        buffer.copy_within(filled - rest..filled, 0);
        while missing > 0 {
            let wanted = missing.min(buffer.len());
            let count = peer.read(&mut buffer[..wanted])?;
            if count == 0 {
                return Ok(());
            }
            missing -= count;
        }
        filled = rest;
        peer.write_all(ANSWER)?;
    }
}

/// Sizes of head and body of the request that begins `bytes`, once its head is complete. A head
/// without a length has no body.
fn split(bytes: &[u8]) -> Option<(usize, usize)> {
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n")? + 4;
    let text = String::from_utf8_lossy(&bytes[..head]).to_ascii_lowercase();
    let size = text.split("\r\n").find_map(|line| line.strip_prefix("content-length:"));
    Some((head, size.and_then(|size| size.trim().parse().ok()).unwrap_or(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_split_when_complete() {
        assert_eq!(split(b"POST / HTTP/1.1\r\nContent-Length: 5\r\n"), None);
        assert_eq!(split(b"P\r\ncontent-length: 5\r\n\r\nhel"), Some((24, 5)));
        assert_eq!(split(b"GET / HTTP/1.1\r\n\r\n"), Some((18, 0)));
    }

    #[test]
    fn every_request_gets_its_answer_however_it_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::scope(|scope| {
            let server = scope.spawn(|| swallow(listener.accept().unwrap().0));
            let mut peer = TcpStream::connect(address).unwrap();
            let one = b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n";
            let mut bytes: Vec<u8> = Vec::new();
            for _ in 0..3 {
                bytes.extend_from_slice(one);
                bytes.resize(bytes.len() + 300_000, b'x');
            }
            for part in bytes.chunks(100_001) {
                peer.write_all(part).unwrap();
            }
            peer.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answers = Vec::new();
            peer.read_to_end(&mut answers).unwrap();
            assert_eq!(answers, ANSWER.repeat(3));
            server.join().unwrap()
        });
        server.unwrap();
    }
}
