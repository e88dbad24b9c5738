//! The requests that benches and gates work on: a fleet of pods that all expose one histogram.
//!
//! A series has ten labels, as a sender keeps them, and about 275 bytes. Of twenty series nine
//! never change, five of those are zero; seven count up by whole numbers; four are gauges with
//! three decimals. Values come again every [`ROUNDS_PER_CHUNK`] rounds, so that each chunk costs
//! what the one before it did.
//!
//! Messages are written by hand as Go writes them: a zero takes no bytes.

use std::collections::HashMap;
use std::ops::Range;

/// Rounds that fill a chunk.
pub(crate) const ROUNDS_PER_CHUNK: usize = 120;
/// Time of the first round in milliseconds: the beginning of a block range.
const FIRST_MS: i64 = 1_700_006_400_000;
/// Time between two rounds: 120 of them fill a quarter of a block range.
const STEP_MS: i64 = 15_000;

/// Series of the fleet by number, with their labels as they lie in a message of remote write 1.0,
/// and as references to the symbols of one of 2.0.
#[derive(Debug)]
pub(crate) struct Fleet {
    series: Vec<Series>,
    /// The symbol table as it lies in a message.
    symbols: Vec<u8>,
}

#[derive(Debug)]
struct Series {
    number: usize,
    labels: Vec<u8>,
    refs: Vec<u8>,
}

impl Fleet {
    /// The series of these numbers, in this order.
    pub(crate) fn new(numbers: impl IntoIterator<Item = usize>) -> Self {
        // Symbols come in the order of their first use, behind the empty one.
        let mut symbols = vec![4 << 3 | 2, 0];
        let mut known = HashMap::new();
        let mut symbol = |text: &str| {
            let next = known.len() as u64 + 1;
            *known.entry(text.to_owned()).or_insert_with(|| {
                put_record(&mut symbols, 4, text.as_bytes());
                next
            })
        };
        let mut series = |number| {
            let (mut labels, mut refs) = (Vec::new(), Vec::new());
            for (name, value) in labels_of(number) {
                put_label(&mut labels, name, &value);
                put_varint(&mut refs, symbol(name));
                put_varint(&mut refs, symbol(&value));
            }
            Series { number, labels, refs }
        };
        let series = numbers.into_iter().map(&mut series).collect();
        Self { series, symbols }
    }

    /// The message of 1.0 with a sample of each series at each of `rounds`.
    pub(crate) fn message(&self, rounds: Range<usize>) -> Vec<u8> {
        let mut message = Vec::new();
        for one in &self.series {
            let mut series = one.labels.clone();
            put_samples(&mut series, one.number, rounds.clone());
            put_record(&mut message, 1, &series);
        }
        message
    }

    /// The same of 2.0, with metadata that says nothing, as Prometheus writes it.
    pub(crate) fn message_v2(&self, rounds: Range<usize>) -> Vec<u8> {
        let mut message = self.symbols.clone();
        for one in &self.series {
            let mut series = Vec::new();
            put_record(&mut series, 1, &one.refs);
            put_samples(&mut series, one.number, rounds.clone());
            put_record(&mut series, 5, &[]);
            put_record(&mut message, 5, &series);
        }
        message
    }
}

/// A message as a body.
pub(crate) fn body(message: &[u8]) -> Vec<u8> {
    snap::raw::Encoder::new().compress_vec(message).expect("a snappy block")
}

fn labels_of(i: usize) -> [(&'static str, String); 10] {
    let (pod, bucket) = (i / 20, i % 20);
    [
        ("__name__", "http_server_request_duration_seconds_bucket".to_owned()),
        ("cluster", "eu-west-1-production".to_owned()),
        ("container", "checkout".to_owned()),
        ("instance", format!("10.42.{}.{}:8080", pod / 250, pod % 250)),
        ("job", "kubernetes-pods".to_owned()),
        ("le", format!("{:.3}", 0.001 * f64::from(1 << bucket))),
        ("method", ["GET", "POST", "PUT", "DELETE"][pod % 4].to_owned()),
        ("namespace", "shop-checkout".to_owned()),
        ("pod", format!("checkout-7d9f8b6c5d-{:05x}", pod * 7919 % 0xfffff)),
        ("status", "200".to_owned()),
    ]
}

fn put_label(out: &mut Vec<u8>, name: &str, value: &str) {
    let mut label = Vec::new();
    put_record(&mut label, 1, name.as_bytes());
    put_record(&mut label, 2, value.as_bytes());
    put_record(out, 1, &label);
}

fn put_samples(out: &mut Vec<u8>, series: usize, rounds: Range<usize>) {
    for round in rounds {
        let t = FIRST_MS + round as i64 * STEP_MS;
        put_record(out, 2, &sample(t, value(series, round % ROUNDS_PER_CHUNK)));
    }
}

fn value(i: usize, round: usize) -> f64 {
    // Numbers that follow no rule and are the same everywhere.
    let dice = (i * 1_000 + round + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
    match i % 20 {
        0..5 => 0.0,
        5..9 => (i * i) as f64,
        9..16 => (i * 1_000 + round * 50 + dice % 50) as f64,
        _ => (dice % 100_000) as f64 / 1_000.0,
    }
}

fn sample(t: i64, value: f64) -> Vec<u8> {
    let mut sample = Vec::new();
    if value != 0.0 {
        sample.push(1 << 3 | 1);
        sample.extend_from_slice(&value.to_le_bytes());
    }
    sample.push(2 << 3);
    put_varint(&mut sample, t as u64);
    sample
}

fn put_record(out: &mut Vec<u8>, field: u8, bytes: &[u8]) {
    out.push(field << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}
