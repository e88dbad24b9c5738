//! Chunks against vectors of Prometheus, against a slow oracle, and against damage.

use std::fmt::Write as _;

use proptest::prelude::*;

use super::xor::{Appender, MAX_SAMPLE_BYTES, Reader};
use super::{Chunk, Encoding, Error, sample_count};
use crate::model::{STALE_NAN_BITS, Sample};

/// The encoding said once more, bit by bit and without a thought for speed, from the text of the
/// format and not from the code under test.
pub(super) mod oracle {
    use super::Sample;

    #[derive(Default)]
    pub(in crate::chunk) struct Bits(pub(in crate::chunk) Vec<bool>);

    impl Bits {
        pub(in crate::chunk) fn push(&mut self, value: u64, n: u32) {
            for i in (0..n).rev() {
                self.0.push(value >> i & 1 == 1);
            }
        }

        fn uvarint(&mut self, mut v: u64) {
            loop {
                let more = v >= 128;
                self.push(v % 128 + if more { 128 } else { 0 }, 8);
                v /= 128;
                if !more {
                    return;
                }
            }
        }

        pub(in crate::chunk) fn bytes(&self) -> Vec<u8> {
            let byte = |b: &[bool]| (0..8).fold(0u8, |v, i| v * 2 + u8::from(i < b.len() && b[i]));
            self.0.chunks(8).map(byte).collect()
        }
    }

    pub(super) fn encode(samples: &[Sample]) -> Vec<u8> {
        let mut out = Bits::default();
        out.push(samples.len() as u64, 16);
        let mut window: Option<(u32, u32)> = None;
        let mut deltas = vec![0u64];
        for (i, s) in samples.iter().enumerate() {
            if i == 0 {
                let zigzag = if s.t < 0 { !(s.t as u64) * 2 + 1 } else { s.t as u64 * 2 };
                out.uvarint(zigzag);
                out.push(s.bits, 64);
                continue;
            }
            let delta = (s.t as u64).wrapping_sub(samples[i - 1].t as u64);
            if i == 1 {
                out.uvarint(delta);
            } else {
                time(&mut out, delta.wrapping_sub(deltas[i - 1]) as i64);
            }
            deltas.push(delta);
            value(&mut out, s.bits ^ samples[i - 1].bits, &mut window);
        }
        out.bytes()
    }

    fn time(out: &mut Bits, dod: i64) {
        match dod {
            0 => out.push(0, 1),
            -8191..=8192 => {
                out.push(0b10, 2);
                out.push(dod as u64, 14);
            }
            -65535..=65536 => {
                out.push(0b110, 3);
                out.push(dod as u64, 17);
            }
            -524_287..=524_288 => {
                out.push(0b1110, 4);
                out.push(dod as u64, 20);
            }
            _ => {
                out.push(0b1111, 4);
                out.push(dod as u64, 64);
            }
        }
    }

    pub(in crate::chunk) fn value(out: &mut Bits, x: u64, window: &mut Option<(u32, u32)>) {
        if x == 0 {
            return out.push(0, 1);
        }
        let (lead, trail) = (x.leading_zeros().min(31), x.trailing_zeros());
        match *window {
            Some((l, t)) if lead >= l && trail >= t => {
                out.push(0b10, 2);
                out.push(x >> t, 64 - l - t);
            }
            _ => {
                *window = Some((lead, trail));
                out.push(0b11, 2);
                out.push(u64::from(lead), 5);
                out.push(u64::from((64 - lead - trail) % 64), 6);
                out.push(x >> trail, 64 - lead - trail);
            }
        }
    }
}

pub(super) fn unhex(text: &str) -> Vec<u8> {
    let byte = |i| u8::from_str_radix(&text[i..i + 2], 16).expect("hex");
    (0..text.len()).step_by(2).map(byte).collect()
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut s, b| {
        let _ = write!(s, "{b:02x}");
        s
    })
}

/// Encodes with a tail that is never longer than promised, filled with rubbish.
fn encode(samples: &[Sample]) -> Vec<u8> {
    let mut tail = Vec::new();
    let mut appender = Appender::new();
    for s in samples {
        tail.resize(appender.len_bytes() + MAX_SAMPLE_BYTES, 0xa5);
        appender.append(&mut tail, s.t, s.bits);
    }
    tail.resize(appender.len_bytes(), 0xa5);
    assert_eq!(appender.finish(&mut tail), tail.len());
    tail
}

fn decode(bytes: &[u8]) -> Result<Vec<Sample>, Error> {
    Reader::new(bytes)?.collect()
}

/// Chunks that Prometheus wrote: bytes and samples, as the file tells them.
pub(super) fn vectors(text: &str) -> Vec<(String, Vec<String>)> {
    serde_json::from_str(text).expect("the vectors")
}

/// Start time and float sample, as the vectors tell them.
pub(super) fn float_sample(line: &str) -> (i64, Sample) {
    let parts: Vec<&str> = line.split(' ').collect();
    let bits = u64::from_str_radix(parts[2], 16).expect("bits");
    let [t, start_t] = [0, 1].map(|i| parts[i].parse().expect("a time"));
    (start_t, Sample { t, bits })
}

#[test]
fn chunks_of_prometheus_are_read_and_written_alike() {
    let vectors = vectors(include_str!("../../tests/data/xor_chunks.json"));
    assert_eq!(vectors.len(), 30);
    for (want, samples) in vectors {
        let samples: Vec<Sample> = samples.iter().map(|line| float_sample(line).1).collect();
        assert_eq!(decode(&unhex(&want)).as_ref(), Ok(&samples), "{want}");
        let got = hex(&encode(&samples));
        // Old writers leave a whole byte of padding when the stream ends on a byte's border.
        assert!(got == want || format!("{got}00") == want, "\n got {got}\nwant {want}");
    }
}

#[test]
fn the_example_of_the_format_is_exact() {
    let samples = [
        Sample::new(1000, 1.0),
        Sample::new(2000, 1.0),
        Sample::new(3000, 2.0),
        Sample::new(4001, 2.5),
        Sample { t: 5001, bits: STALE_NAN_BITS },
    ];
    let bytes = encode(&samples);
    assert_eq!(hex(&bytes), "0005d00f3ff0000000000000e8073097ffe0007683bfffc5effe80000000000040");
    assert_eq!(decode(&bytes), Ok(samples.to_vec()));
    let chunk = Chunk { encoding: Encoding::Xor, min_t: 1000, max_t: 5001, bytes: &bytes };
    assert_eq!(chunk.sample_count(), Ok(5));
    assert_eq!(encode(&[]), [0, 0]);
    assert_eq!(decode(&[0, 0]), Ok(vec![]));
}

#[test]
fn borders_of_the_time_fields() {
    for step in [8191, 8192, 8193, 65535, 65536, 65537, 524_287, 524_288, 524_289, i64::MAX] {
        for sign in [1, -1] {
            let times = [0, 10, 20 + sign * step.min(i64::MAX - 20), 7];
            let samples: Vec<Sample> = times.iter().map(|&t| Sample { t, bits: 1 }).collect();
            let bytes = encode(&samples);
            assert_eq!(hex(&bytes), hex(&oracle::encode(&samples)), "{times:?}");
            assert_eq!(decode(&bytes), Ok(samples), "{times:?}");
        }
    }
}

#[test]
fn a_chunk_holds_65535_samples_and_not_one_more() {
    let samples: Vec<Sample> = (0..65535).map(|i| Sample { t: i, bits: i as u64 * 7 }).collect();
    let bytes = encode(&samples);
    assert_eq!(decode(&bytes), Ok(samples.clone()));
    let more = std::panic::catch_unwind(|| {
        let samples: Vec<Sample> =
            samples.iter().copied().chain([Sample { t: 0, bits: 0 }]).collect();
        encode(&samples)
    });
    assert!(more.is_err());
}

#[test]
fn the_longest_sample_has_the_announced_size() {
    let mut tail = [0; 64];
    let mut appender = Appender::new();
    appender.append(&mut tail, 0, 0);
    let before = appender.len_bytes();
    appender.append(&mut tail, -1, u64::MAX);
    assert_eq!(appender.len_bytes() - before, MAX_SAMPLE_BYTES);
}

#[test]
fn a_reader_starts_with_a_window_of_64_bits() {
    // `10` as the first value field: 3 samples, then 64 bits of XOR.
    let mut bits = String::from("0000000000000010");
    bits.push_str(&"0".repeat(8 + 64)); // t0 = 0, v0 = 0
    bits.push_str("00000001"); // t1 = 1
    bits.push_str("10");
    let _ = write!(bits, "{:064b}", 0xdead_beef_u64);
    let bytes: Vec<u8> = bits
        .as_bytes()
        .chunks(8)
        .map(|b| b.iter().fold(0, |v, d| v << 1 | (d - b'0')) << (8 - b.len()))
        .collect();
    let want = vec![Sample { t: 0, bits: 0 }, Sample { t: 1, bits: 0xdead_beef }];
    assert_eq!(decode(&bytes), Ok(want));
}

#[test]
fn encodings_have_two_numbers() {
    for (byte, want) in
        [(1, Encoding::Xor), (2, Encoding::Histogram), (3, Encoding::FloatHistogram)]
    {
        assert_eq!(Encoding::from_byte(byte), Ok(want));
        assert_eq!(want.byte(), byte);
        assert_eq!(want.wire(), i32::from(byte) - 1);
    }
    for byte in [0, 4, 5, 6, 255] {
        assert_eq!(Encoding::from_byte(byte), Err(Error::UnknownEncoding { byte }));
    }
}

#[test]
fn damage_is_named() {
    let check = |bytes: &[u8], want| assert_eq!(decode(bytes), Err(want), "{bytes:x?}");
    check(&[], Error::NoHeader { len: 0 });
    check(&[0], Error::NoHeader { len: 1 });
    assert_eq!(sample_count(&[1, 2, 3]), Ok(0x102));
    check(&[0, 1], Error::Truncated { sample: 0, count: 1 });
    check(&[0, 1, 0, 0, 0, 0, 0, 0, 0, 0], Error::Truncated { sample: 0, count: 1 });
    check(
        &[0, 1, 255, 255, 255, 255, 255, 255, 255, 255, 255, 255],
        Error::TimeOverflow { sample: 0 },
    );
    // Second value: `11`, 31 leading zeros, 34 significant bits.
    let value = (0b11_u16 << 14 | 31 << 9 | 34 << 3).to_be_bytes();
    let mut bytes = vec![0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, value[0], value[1]];
    bytes.extend([0; 8]);
    check(&bytes, Error::ValueOverflow { sample: 1, lead: 31, significant: 34 });
}

/// Series as they come, and series that nobody should send.
fn samples() -> impl Strategy<Value = Vec<Sample>> {
    let step = prop_oneof![
        6 => Just(15_000i64),
        3 => 14_990i64..15_010,
        1 => -600_000i64..600_000,
        1 => any::<i64>(),
    ];
    let value = prop_oneof![
        3 => Just(None),
        3 => (0i32..1000).prop_map(|v| Some(f64::from(v).to_bits())),
        2 => any::<f64>().prop_map(|v| Some(v.to_bits())),
        1 => any::<u64>().prop_map(Some),
        1 => Just(Some(STALE_NAN_BITS)),
    ];
    (any::<i64>(), proptest::collection::vec((step, value), 0..300)).prop_map(|(start, steps)| {
        let (mut t, mut bits) = (start, 0);
        let next = |(step, value): (i64, Option<u64>)| {
            t = t.wrapping_add(step);
            bits = value.unwrap_or(bits);
            Sample { t, bits }
        };
        steps.into_iter().map(next).collect()
    })
}

proptest! {
    #[test]
    fn the_appender_writes_what_the_oracle_writes(samples in samples()) {
        let bytes = encode(&samples);
        prop_assert_eq!(hex(&bytes), hex(&oracle::encode(&samples)));
        prop_assert_eq!(decode(&bytes), Ok(samples));
    }

    #[test]
    fn finishing_is_for_looking(samples in samples(), looks in any::<u64>()) {
        let mut tail = vec![0xa5; 8192];
        let mut appender = Appender::new();
        for (i, s) in samples.iter().enumerate() {
            appender.append(&mut tail, s.t, s.bits);
            prop_assert_eq!((appender.last_t(), appender.last_bits()), (s.t, s.bits));
            if looks >> (i % 64) & 1 == 1 {
                let before = appender;
                let n = appender.finish(&mut tail);
                prop_assert_eq!(appender.finish(&mut tail), n);
                prop_assert_eq!(before, appender);
                prop_assert_eq!(usize::from(appender.count()), i + 1);
                prop_assert_eq!(decode(&tail[..n]), Ok(samples[..=i].to_vec()));
            }
        }
        let n = appender.finish(&mut tail);
        prop_assert_eq!(&tail[..n], &oracle::encode(&samples)[..]);
    }

    #[test]
    fn a_cut_chunk_gives_its_first_samples_and_an_error(samples in samples(), cut in any::<u16>()) {
        let bytes = encode(&samples);
        let cut = usize::from(cut) % bytes.len();
        let Ok(reader) = Reader::new(&bytes[..cut]) else {
            prop_assert!(cut < 2);
            return Ok(());
        };
        let read: Vec<_> = reader.collect();
        let (last, good) = read.split_last().expect("an error at least");
        prop_assert!(last.is_err());
        for (got, want) in good.iter().zip(&samples) {
            prop_assert_eq!(got.as_ref(), Ok(want));
        }
    }

    #[test]
    fn rubbish_is_an_error_or_samples(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(reader) = Reader::new(&bytes) {
            let read: Vec<_> = reader.collect();
            prop_assert!(read.iter().rev().skip(1).all(Result::is_ok), "goes on after an error");
        }
    }

    #[test]
    fn a_flipped_bit_never_panics(samples in samples(), at in any::<usize>()) {
        let mut bytes = encode(&samples);
        let at = at % (bytes.len() * 8);
        bytes[at / 8] ^= 1 << (at % 8);
        if let Ok(read) = decode(&bytes) {
            prop_assert_eq!(Ok(read.len()), sample_count(&bytes).map(usize::from));
        }
    }
}
