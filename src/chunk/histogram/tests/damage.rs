//! Foreign, cut and damaged chunks: samples or an error, never a panic, and no memory out of
//! proportion.
//!
//! `TIDEGATE_SEEDS=100000` runs more seeds, `TIDEGATE_SEED=n` runs one.

use std::collections::BTreeMap;

use crate::chunk::histogram::tests::plain::Plain;
use crate::chunk::histogram::tests::walk::{Walk, live};
use crate::chunk::histogram::tests::{decode, encode};
use crate::chunk::histogram::{Appended, Appender, Cause, Codec, Reader, header};
use crate::chunk::{Error, xor, xor2};
use crate::model::histogram::{Float, Histogram, Integer, ResetHint, Span};
use crate::stdx::{seeds, splitmix64};

/// Reads all that can be read and checks what must hold of any bytes.
fn read_any<K: Codec>(bytes: &[u8], reader: Result<Reader<'_, K>, Error>) -> usize {
    let Ok(mut reader) = reader else {
        assert!(bytes.len() < 3);
        return 0;
    };
    let announced = usize::from(reader.count());
    let mut read = 0;
    while let Some(point) = reader.advance() {
        let Ok(point) = point else {
            assert!(reader.advance().is_none(), "goes on after an error");
            return read;
        };
        read += 1;
        let Histogram { positive, negative, custom_values, .. } = point.histogram;
        let parts = positive.spans.len()
            + negative.spans.len()
            + positive.values.len()
            + negative.values.len()
            + custom_values.len();
        assert!(parts <= bytes.len() * 8, "{parts} parts from {} bytes", bytes.len());
    }
    assert_eq!(read, announced);
    read
}

fn read_as_all(bytes: &[u8]) -> usize {
    let floats = |read: &mut dyn Iterator<Item = bool>| {
        let read: Vec<bool> = read.collect();
        assert!(read.iter().rev().skip(1).all(|&good| good), "goes on after an error");
        read.len()
    };
    let mut read = 0;
    if let Ok(reader) = xor::Reader::new(bytes) {
        read += floats(&mut reader.map(|sample| sample.is_ok()));
    }
    if let Ok(reader) = xor2::Reader::new(bytes) {
        read += floats(&mut reader.map(|sample| sample.is_ok()));
    }
    read += read_any::<Integer>(bytes, Reader::new(bytes));
    read += read_any::<Float>(bytes, Reader::new(bytes));
    read += read_any::<Integer>(bytes, Reader::with_starts(bytes));
    read += read_any::<Float>(bytes, Reader::with_starts(bytes));
    read
}

/// A chunk with something wrong.
fn damaged(seed: &mut u64) -> Vec<u8> {
    let mut chunks = live::<Integer>(splitmix64(seed) % 50, &mut BTreeMap::new());
    if splitmix64(seed).is_multiple_of(2) {
        chunks = live::<Float>(splitmix64(seed) % 50, &mut BTreeMap::new());
    }
    let at = splitmix64(seed) as usize % chunks.len();
    chunks.swap_remove(at)
}

#[test]
fn rubbish_is_an_error_or_samples() {
    let mut read = 0;
    let mut pool: Vec<Vec<u8>> = Vec::new();
    for seed in seeds(20_000) {
        let mut state = seed;
        if pool.len() < 100 {
            pool.push(damaged(&mut state));
        }
        let mut bytes = pool[splitmix64(&mut state) as usize % pool.len()].clone();
        bytes.truncate(1000);
        match splitmix64(&mut state) % 4 {
            0 => {
                let len = splitmix64(&mut state) % 300;
                bytes = (0..len).map(|_| splitmix64(&mut state) as u8).collect();
            }
            1 => bytes.truncate(splitmix64(&mut state) as usize % (bytes.len() + 1)),
            _ => {}
        }
        for _ in 0..splitmix64(&mut state) % 6 {
            let at = splitmix64(&mut state) as usize;
            let len = bytes.len();
            match splitmix64(&mut state) % 4 {
                _ if len == 0 => {}
                0 => bytes[at % len] = 0xff,
                1 => bytes[at % len] = 0,
                _ => bytes[at % len] ^= 1 << (at >> 32 & 7),
            }
        }
        if splitmix64(&mut state).is_multiple_of(3) && bytes.len() > 1 {
            bytes[..2].copy_from_slice(&[0xff, 0xff]);
        }
        read += std::panic::catch_unwind(|| read_as_all(&bytes))
            .unwrap_or_else(|_| panic!("seed {seed}: {bytes:02x?}"));
    }
    println!("samples read from rubbish: {read}");
    assert!(read > 0);
}

#[test]
fn a_cut_chunk_gives_its_first_samples_and_an_error() {
    for bytes in live::<Integer>(3, &mut BTreeMap::new()) {
        let whole = decode::<Integer>(&bytes).expect("a chunk");
        for cut in 3..bytes.len() {
            let mut reader: Reader<'_, Integer> = Reader::new(&bytes[..cut]).expect("a header");
            for (t, histogram) in &whole {
                match reader.advance() {
                    Some(Ok(point)) => assert_eq!((point.t, point.histogram), (*t, histogram)),
                    Some(Err(_)) => break,
                    None => panic!("ends without an error"),
                }
            }
            assert!(reader.advance().is_none());
        }
    }
}

#[test]
fn damage_is_named() {
    let check = |bytes: &[u8], want| {
        assert_eq!(decode::<Integer>(bytes).map(|_| ()), Err(want), "{bytes:x?}");
    };
    check(&[], Error::NoHeader { len: 0 });
    check(&[0, 1], Error::NoHeader { len: 2 });
    assert_eq!(header(&[0, 1]), Err(Error::NoHeader { len: 2 }));
    assert_eq!(xor2::Reader::new(&[0, 1]).map(|_| ()), Err(Error::NoHeader { len: 2 }));
    assert_eq!(decode::<Integer>(&[0, 0, 0]), Ok(vec![]));
    check(&[0, 1, 0], Error::Truncated { sample: 0, count: 1 });
    // Threshold 0, schema in 9 bits `1110` and 53.
    let mut bytes = vec![0, 1, 0, 0, 0b1110_0001, 0b1010_1000, 0, 0, 0];
    check(&bytes, Error::UnknownSchema { schema: 53 });
    // Schema 0, then 64 bits of a number of spans.
    bytes = vec![0, 1, 0, 0, 0b0111_1111];
    bytes.extend([0xff; 20]);
    check(&bytes, Error::LayoutTooLong { what: "spans", announced: u64::MAX, bits: 21 * 8 - 73 });
    // One span: its length has 64 bits, its offset is 0.
    bytes = vec![0, 1, 0, 0, 0b0100_0111, 0b1111_1100, 0, 0, 0, 4, 0, 0, 0, 0, 0, 0];
    check(&bytes, Error::SpanTooWide { offset: 0, length: 1 << 32 });
    // One span of 4095 buckets.
    bytes = vec![0, 1, 0, 0, 0b0100_0111, 0b1101_1111, 0b1111_1110, 0, 0, 0];
    check(&bytes, Error::LayoutTooLong { what: "buckets", announced: 4095, bits: 23 });
}

#[test]
fn a_full_chunk_says_so() {
    let sample = |t: i64| (t, Histogram::<Float>::default());
    let samples: Vec<_> = (0..65_535).map(sample).collect();
    let bytes =
        encode(ResetHint::Gauge, &[(0, Histogram { hint: ResetHint::Gauge, ..sample(0).1 })]);
    assert_eq!(header(&bytes), Ok(ResetHint::Gauge));
    let mut tail = Vec::new();
    let (first, others) = samples.split_first().expect("samples");
    let mut appender = Appender::open(&mut tail, ResetHint::Reset, first.0, &first.1);
    for (t, histogram) in others {
        assert!(matches!(appender.append(&mut tail, *t, histogram), Appended::Done));
    }
    match appender.append(&mut tail, 65_535, &sample(0).1) {
        Appended::Cut(cut) => {
            assert_eq!((cut.cause, cut.header), (Cause::Full, ResetHint::NotReset));
        }
        other => panic!("{other:?}"),
    }
    appender.finish(&mut tail);
    assert_eq!(appender.count(), 65_535);
    assert_eq!(decode::<Float>(&tail).map(|read| read == samples), Ok(false), "hints differ");
    assert_eq!(decode::<Float>(&tail).map(|read| read.len()), Ok(65_535));
}

/// A sample whose spans and buckets do not fit must not get here; if it does, nothing may panic.
#[test]
fn an_invalid_sample_never_panics() {
    fn misfit<K: Plain>(seed: u64) {
        let mut walk: Walk<K> = Walk::new(seed);
        let mut tail = Vec::new();
        let (t, first) = walk.step();
        let mut appender = Appender::open(&mut tail, ResetHint::Unknown, t, &first);
        for _ in 0..20 {
            let (t, mut sample) = walk.step();
            match walk.random(4) {
                0 => drop(sample.positive.values.pop()),
                1 => sample.positive.values.push(K::any(seed)),
                2 => sample.negative.spans.push(Span { offset: -70, length: 3 }),
                _ => drop(sample.negative.spans.pop()),
            }
            if let Appended::Recode(wider) = appender.append(&mut tail, t, &sample) {
                appender.recode(&mut tail, wider);
                drop(appender.append(&mut tail, t, &sample));
            }
        }
        appender.finish(&mut tail);
        read_as_all(&tail);
    }
    for seed in seeds(500) {
        let lived = std::panic::catch_unwind(|| {
            misfit::<Integer>(seed);
            misfit::<Float>(seed);
        });
        assert!(lived.is_ok(), "seed {seed}");
    }
}
