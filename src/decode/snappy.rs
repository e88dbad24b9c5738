//! The body's compression: one snappy block, never the framed format.
//!
//! A block opens with the length of its content as a varint, and whoever believes that number has
//! given his memory to a stranger: 47 bytes can declare gigabytes. So the length is held against
//! the limit, and against what snappy can make of the body at best, before a byte is taken.

use snap::raw;

use crate::decode::Error;

/// The best element of snappy is a copy, three bytes for 64: not quite 22 times.
const EXPANSION_MAX: usize = 22;
/// Room for the rounding of short bodies.
const EXPANSION_SLACK_BYTES: usize = 64;

/// Length in bytes of the content, as the body declares it. Nothing is checked but its coding.
pub fn declared_len(body: &[u8]) -> Result<usize, Error> {
    if body.is_empty() {
        return Err(Error::EmptyBody);
    }
    Ok(raw::decompress_len(body)?)
}

/// Replaces what is in `out` by the content of `body`, which may be `limit_bytes` long.
///
/// Hand the vector back as it was left, without clearing it: then its bytes are overwritten and no
/// memory is zeroed again. After an error it is empty.
pub fn decode(body: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let outcome = decode_into(body, limit_bytes, out);
    if outcome.is_err() {
        out.clear();
    }
    outcome
}

fn decode_into(body: &[u8], limit_bytes: usize, out: &mut Vec<u8>) -> Result<(), Error> {
    let declared = declared_len(body)?;
    if declared > limit_bytes {
        return Err(Error::DecodedTooLarge { declared, limit: limit_bytes });
    }
    let possible = body.len().saturating_mul(EXPANSION_MAX).saturating_add(EXPANSION_SLACK_BYTES);
    if declared > possible {
        return Err(Error::ImpossibleLength { declared, body: body.len() });
    }
    out.resize(declared, 0);
    let written = raw::Decoder::new().decompress(body, out)?;
    assert_eq!(written, declared, "snappy filled another length than it declared");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: usize = 1 << 20;

    /// A block that declares `declared` bytes and holds `elements`.
    fn block(mut declared: u64, elements: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        while declared >= 0x80 {
            body.push(declared as u8 | 0x80);
            declared >>= 7;
        }
        body.push(declared as u8);
        body.extend_from_slice(elements);
        body
    }

    #[test]
    fn vectors() {
        // Elements by hand: tag 4 * (n - 1) for a literal of n, tag 1 and 2 for copies.
        for (body, want) in [
            (block(0, b""), &b""[..]),
            (block(3, b"\x08abc"), b"abc"),
            (block(7, b"\x08abc\x01\x03"), b"abcabca"),
            (block(5, b"\x00a\x0e\x01\x00"), b"aaaaa"),
        ] {
            let mut out = b"what was there before".to_vec();
            assert_eq!(decode(&body, LIMIT, &mut out), Ok(()), "{body:x?}");
            assert_eq!(out, want, "{body:x?}");
        }
    }

    #[test]
    fn bad_bodies_are_refused_and_leave_nothing() {
        let corrupt = |e: &Error| matches!(e, Error::CorruptSnappy(_));
        for (body, want) in [
            (block(3, b"\x08ab"), "a literal beyond the end"),
            (block(4, b"\x08abc"), "too little"),
            (block(2, b"\x08abc"), "too much"),
            (block(7, b"\x08abc\x01\x04"), "a copy from before the start"),
            (block(7, b"\x08abc\x01\x00"), "a copy from nowhere"),
            (block(1 << 32, b"\x08abc"), "a length beyond 32 bits"),
            (vec![0x80], "a length without end"),
            (vec![0xff; 11], "a length that is too long"),
        ] {
            let mut out = vec![1];
            let error = decode(&body, LIMIT, &mut out).expect_err(want);
            assert!(corrupt(&error), "{want}: {error}");
            assert!(out.is_empty(), "{want}");
        }
        assert_eq!(decode(b"", LIMIT, &mut Vec::new()), Err(Error::EmptyBody));
        // Its magic reads as a length of 895.
        let framed = decode(b"\xff\x06\x00\x00sNaPpY", LIMIT, &mut Vec::new());
        assert_eq!(framed, Err(Error::ImpossibleLength { declared: 895, body: 10 }));
    }

    #[test]
    fn a_declared_length_takes_no_memory_before_it_is_believed() {
        let check = |declared: u64, want: Error| {
            let mut out = Vec::new();
            assert_eq!(decode(&block(declared, &[0; 40]), LIMIT, &mut out), Err(want));
            assert_eq!(out.capacity(), 0);
        };
        // 43 bytes: three of length, 40 of elements; 43 * 22 + 64 = 1010.
        check(1 << 20, Error::ImpossibleLength { declared: 1 << 20, body: 43 });
        check((1 << 20) + 1, Error::DecodedTooLarge { declared: (1 << 20) + 1, limit: LIMIT });
        let gigabytes = 2_900_000_000;
        check(gigabytes, Error::DecodedTooLarge { declared: gigabytes as usize, limit: LIMIT });
    }

    #[test]
    fn the_best_compressed_body_passes() {
        let zeros = vec![0; LIMIT];
        let body = raw::Encoder::new().compress_vec(&zeros).expect("a block");
        let mut out = Vec::new();
        assert_eq!(decode(&body, LIMIT, &mut out), Ok(()), "{} bytes", body.len());
        assert_eq!(out, zeros);
    }

    proptest! {
        #[test]
        fn a_reused_buffer_holds_the_last_content_only(
            contents in proptest::collection::vec(proptest::collection::vec(0u8..4, 0..300), 1..5),
        ) {
            let mut out = Vec::new();
            for content in contents {
                let body = raw::Encoder::new().compress_vec(&content).expect("a block");
                prop_assert_eq!(declared_len(&body), Ok(content.len()));
                prop_assert_eq!(decode(&body, LIMIT, &mut out), Ok(()));
                prop_assert_eq!(&out, &content);
            }
        }
    }
}
