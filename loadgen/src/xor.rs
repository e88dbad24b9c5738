//! The judge's own decoder of XOR chunks (encoding 1 of Prometheus, type 0 of the StoreAPI).
//!
//! ```text
//! chunk    number of samples (2 B, big endian), then a stream of bits, high bits first
//! first    time (zigzag varint), value (64 bits)
//! second   difference of times (varint), xor
//! others   difference of differences, xor
//!
//! difference of differences      xor with the value before
//!   0     none                     0   the same
//!   10    14 bits                  10  bits where the last xor had its own
//!   110   17 bits                  11  leading zeros (5), count of bits (6, 0 is 64), the bits
//!   1110  20 bits
//!   1111  64 bits
//! ```
//!
//! Fields of 14 to 20 bits hold -(2^(n-1)-1) to 2^(n-1). What follows the last sample is padding
//! and is ignored: older writers leave a whole byte of it. Plain rather than fast; about 20 ns per
//! sample.

use crate::error::{Error, Result};

/// Decodes a chunk into times and bits of values.
pub(crate) fn decode(chunk: &[u8]) -> Result<Vec<(i64, u64)>> {
    let (Some(&high), Some(&low)) = (chunk.first(), chunk.get(1)) else {
        return Err(broken("shorter than its header"));
    };
    let count = usize::from(u16::from_be_bytes([high, low]));
    let mut bits = Bits { bytes: chunk, at: 16 };
    let mut samples = Vec::with_capacity(count);
    let mut time = 0i64;
    let mut delta = 0i64;
    let mut value = Value::default();
    for number in 0..count {
        if number == 0 {
            let zigzag = bits.varint()?;
            time = (zigzag >> 1) as i64 ^ -((zigzag & 1) as i64);
            value.bits = bits.take(64)?;
        } else {
            delta = match number {
                1 => bits.varint()? as i64,
                _ => delta.wrapping_add(bits.delta_of_delta()?),
            };
            time = time.wrapping_add(delta);
            value.next(&mut bits)?;
        }
        samples.push((time, value.bits));
    }
    Ok(samples)
}

/// The value and the window of its last xor.
#[derive(Debug, Default)]
struct Value {
    bits: u64,
    leading: u32,
    trailing: u32,
}

impl Value {
    fn next(&mut self, bits: &mut Bits<'_>) -> Result<()> {
        if bits.take(1)? == 0 {
            return Ok(());
        }
        if bits.take(1)? == 1 {
            self.leading = bits.take(5)? as u32;
            let size = match bits.take(6)? as u32 {
                0 => 64,
                size => size,
            };
            self.trailing = 64u32
                .checked_sub(self.leading + size)
                .ok_or_else(|| broken("an xor wider than a value"))?;
        }
        let xor = bits.take(64 - self.leading - self.trailing)?;
        self.bits ^= xor << self.trailing;
        Ok(())
    }
}

#[derive(Debug)]
struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    /// The next `count` bits, 64 at most.
    fn take(&mut self, count: u32) -> Result<u64> {
        let mut value = 0u64;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or_else(|| broken("it ends too early"))?;
            value = value << 1 | u64::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    fn varint(&mut self) -> Result<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(8)?;
            value |= (byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(broken("a varint without an end"))
    }

    fn delta_of_delta(&mut self) -> Result<i64> {
        for size in [0, 14, 17, 20] {
            if self.take(1)? == 0 {
                let value = self.take(size)? as i64;
                let is_negative = size > 0 && value > 1 << (size - 1);
                return Ok(if is_negative { value - (1 << size) } else { value });
            }
        }
        Ok(self.take(64)? as i64)
    }
}

fn broken(reason: &str) -> Error {
    Error::Decode { what: "XOR chunk", reason: reason.to_owned() }
}

/// An encoder for tests: right, and never small.
#[cfg(test)]
pub(crate) fn encode_plainly(samples: &[(i64, u64)]) -> Vec<u8> {
    struct Out(Vec<u8>, u32);
    impl Out {
        fn put(&mut self, value: u64, count: u32) {
            for bit in (0..count).rev() {
                if self.1.is_multiple_of(8) {
                    self.0.push(0);
                }
                *self.0.last_mut().unwrap() |= ((value >> bit & 1) as u8) << (7 - self.1 % 8);
                self.1 += 1;
            }
        }
        fn varint(&mut self, value: u64) {
            let mut bytes = Vec::new();
            crate::encode::varint(&mut bytes, value);
            for byte in bytes {
                self.put(u64::from(byte), 8);
            }
        }
    }
    let mut out = Out((samples.len() as u16).to_be_bytes().to_vec(), 0);
    let mut delta = 0i64;
    for (index, (time, bits)) in samples.iter().enumerate() {
        let Some((last_time, last_bits)) = index.checked_sub(1).map(|last| samples[last]) else {
            out.varint((time << 1 ^ time >> 63) as u64);
            out.put(*bits, 64);
            continue;
        };
        let new = time - last_time;
        if index == 1 {
            out.varint(new as u64);
        } else {
            out.put(0b1111, 4);
            out.put((new - delta) as u64, 64);
        }
        delta = new;
        out.put(0b11, 2);
        out.put(0, 5 + 6); // no leading zeros, 64 bits
        out.put(bits ^ last_bits, 64);
    }
    out.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
            .collect()
    }

    #[test]
    fn the_chunk_of_the_format_sheet() {
        let chunk = unhex("0005d00f3ff0000000000000e8073097ffe0007683bfffc5effe80000000000040");
        let expect = [(1000, 1.0), (2000, 1.0), (3000, 2.0), (4001, 2.5)];
        let got = decode(&chunk).unwrap();
        for ((time, value), got) in expect.iter().zip(&got) {
            assert_eq!(*got, (*time, f64::to_bits(*value)));
        }
        assert_eq!(got[4], (5001, 0x7ff0_0000_0000_0002));
    }

    #[test]
    fn chunks_of_prometheus_decode_to_their_samples() {
        let text = include_str!("../../tests/data/xor_chunks.json");
        let vectors: Vec<(String, Vec<String>)> = serde_json::from_str(text).unwrap();
        assert_eq!(vectors.len(), 30);
        for (chunk, samples) in vectors {
            let expect = samples.iter().map(|sample| {
                let words: Vec<_> = sample.split(' ').collect();
                (words[0].parse::<i64>().unwrap(), u64::from_str_radix(words[2], 16).unwrap())
            });
            assert!(expect.eq(decode(&unhex(&chunk)).unwrap()), "{chunk}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_plainly_is_read_back(
            samples in prop::collection::vec(
                (-1_000_000_000_000i64..1_000_000_000_000, any::<u64>()),
                0..130,
            ),
        ) {
            prop_assert_eq!(decode(&encode_plainly(&samples)).unwrap(), samples);
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _outcome = decode(&bytes);
        }
    }
}
