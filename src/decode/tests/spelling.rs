//! Messages as no sender writes them but protobuf allows them, and messages that are broken.
//!
//! Written by hand and apart from the decoder, so that a mistake would have to be made twice.

use prost::Message as _;
use tidegate_proto::io_prometheus_write_v2 as v2;
use tidegate_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};

/// A small generator of numbers (splitmix64), the same for a seed everywhere.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// A number below `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }
}

/// Writes a request in an odd spelling that prost reads as the same request.
pub(crate) fn spell(request: &WriteRequest, random: &mut Random) -> Vec<u8> {
    let series = request.timeseries.iter().map(|s| (1, spell_series(s, random))).collect();
    let metadata = request.metadata.iter().map(|m| (3, m.encode_to_vec())).collect();
    spell_records(vec![series, metadata], random)
}

/// The same for remote write 2.0.
pub(crate) fn spell_v2(request: &v2::Request, random: &mut Random) -> Vec<u8> {
    let symbols = request.symbols.iter().map(|s| (4, s.clone().into_bytes())).collect();
    let series = request.timeseries.iter().map(|s| (5, spell_series_v2(s, random))).collect();
    spell_records(vec![symbols, series], random)
}

fn spell_series_v2(series: &v2::TimeSeries, random: &mut Random) -> Vec<u8> {
    let mut refs = Vec::new();
    let mut rest = &series.labels_refs[..];
    while !rest.is_empty() {
        let (some, more) = rest.split_at(1 + random.below(rest.len()));
        let mut packed = Vec::new();
        for &reference in some {
            push_varint(reference.into(), &mut packed, random);
        }
        refs.push((1, packed));
        rest = more;
    }
    let samples = series.samples.iter().map(|s| (2, spell_sample_v2(s, random))).collect();
    let histograms = series.histograms.iter().map(|h| (3, h.encode_to_vec())).collect();
    let exemplars = series.exemplars.iter().map(|e| (4, e.encode_to_vec())).collect();
    let metadata = series.metadata.iter().map(|m| (5, m.encode_to_vec())).collect();
    spell_records(vec![refs, samples, histograms, exemplars, metadata], random)
}

fn spell_sample_v2(sample: &v2::Sample, random: &mut Random) -> Vec<u8> {
    let v2::Sample { value, timestamp, start_timestamp } = *sample;
    let mut out = spell_sample(&Sample { value, timestamp }, random);
    if start_timestamp != 0 || random.one_in(8) {
        out.push(0x18);
        push_varint(start_timestamp as u64, &mut out, random);
    }
    out
}

fn spell_series(series: &TimeSeries, random: &mut Random) -> Vec<u8> {
    let labels = series.labels.iter().map(|l| (1, spell_label(l, random))).collect();
    let samples = series.samples.iter().map(|s| (2, spell_sample(s, random))).collect();
    let exemplars = series.exemplars.iter().map(|e| (3, e.encode_to_vec())).collect();
    let histograms = series.histograms.iter().map(|h| (4, h.encode_to_vec())).collect();
    spell_records(vec![labels, samples, exemplars, histograms], random)
}

/// Mixes records of several fields, those of one field in their order; sometimes, as senders do,
/// not at all.
fn spell_records(mut fields: Vec<Vec<(u64, Vec<u8>)>>, random: &mut Random) -> Vec<u8> {
    let mut out = Vec::new();
    let is_mixed = !random.one_in(3);
    for field in &mut fields {
        field.reverse();
    }
    while fields.iter().any(|f| !f.is_empty()) {
        if random.one_in(12) {
            push_unknown(&mut out, random);
        }
        let first = fields.iter().position(|f| !f.is_empty()).expect("a field");
        let at = if is_mixed { random.below(fields.len()) } else { first };
        if let Some((number, content)) = fields[at].pop() {
            push_record(number, &content, &mut out, random);
        }
    }
    if random.one_in(12) {
        push_unknown(&mut out, random);
    }
    out
}

fn spell_label(label: &Label, random: &mut Random) -> Vec<u8> {
    let mut parts = vec![(1, label.name.as_bytes()), (2, label.value.as_bytes())];
    if random.one_in(4) {
        parts.reverse();
    }
    if random.one_in(8) {
        parts.insert(0, (1 + random.next() % 2, b"said before"));
    }
    let mut out = Vec::new();
    for (number, text) in parts {
        push_record(number, text.to_owned().as_slice(), &mut out, random);
        if random.one_in(16) {
            push_unknown(&mut out, random);
        }
    }
    out
}

fn spell_sample(sample: &Sample, random: &mut Random) -> Vec<u8> {
    let mut value = vec![0x09];
    value.extend_from_slice(&sample.value.to_le_bytes());
    let mut time = vec![0x10];
    push_varint(sample.timestamp as u64, &mut time, random);
    let mut parts = vec![value, time];
    if random.one_in(4) {
        parts.reverse();
    }
    if random.one_in(8) {
        parts.insert(0, vec![0x10, 5]);
        parts.insert(0, vec![0x09, 1, 2, 3, 4, 5, 6, 7, 8]);
    }
    if random.one_in(8) {
        let mut unknown = Vec::new();
        push_unknown(&mut unknown, random);
        parts.insert(random.below(parts.len() + 1), unknown);
    }
    parts.concat()
}

fn push_record(number: u64, content: &[u8], out: &mut Vec<u8>, random: &mut Random) {
    push_varint(number << 3 | 2, out, random);
    push_varint(content.len() as u64, out, random);
    out.extend_from_slice(content);
}

/// Appends a field that no message of remote write 1.0 has.
fn push_unknown(out: &mut Vec<u8>, random: &mut Random) {
    let number = 20 + random.next() % 1000;
    match random.below(4) {
        0 => {
            push_varint(number << 3, out, random);
            push_varint(random.next(), out, random);
        }
        1 => {
            push_varint(number << 3 | 1, out, random);
            out.extend_from_slice(&random.next().to_le_bytes());
        }
        2 => push_record(number, b"\x0a\x00\xff", out, random),
        _ => {
            push_varint(number << 3 | 5, out, random);
            out.extend_from_slice(b"\x0a\x00\xff\xff");
        }
    }
}

/// Appends a varint, now and then with needless bytes.
fn push_varint(mut value: u64, out: &mut Vec<u8>, random: &mut Random) {
    let start = out.len();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    if random.one_in(10) {
        let room = 10 - (out.len() - start);
        for _ in 0..random.below(room + 1) {
            let last = out.len() - 1;
            out[last] |= 0x80;
            out.push(0);
        }
    }
}

/// Bytes that mean something in a message: keys, lengths, borders of varints.
const MEANINGFUL: [u8; 16] = [
    0x00, 0x01, 0x02, 0x07, 0x09, 0x0a, 0x0b, 0x0c, 0x10, 0x12, 0x1a, 0x22, 0x7f, 0x80, 0xfe, 0xff,
];

/// Damages a message in one place.
pub(crate) fn mutate(message: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(message.len() + 1);
    match random.below(7) {
        0 if at < message.len() => message[at] ^= 1 << random.below(8),
        1 if at < message.len() => message[at] = MEANINGFUL[random.below(MEANINGFUL.len())],
        2 => message.insert(at, MEANINGFUL[random.below(MEANINGFUL.len())]),
        3 if at < message.len() => drop(message.remove(at)),
        4 => message.truncate(at),
        5 => {
            let end = at + random.below(message.len() - at + 1).min(40);
            let part = message[at..end].to_vec();
            let target = random.below(message.len() + 1);
            message.splice(target..target, part);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            message.extend_from_slice(&other[random.below(other.len() + 1)..]);
        }
    }
}
