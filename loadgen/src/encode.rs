//! Remote write, both versions, written by hand.
//!
//! ```text
//! 1.0  WriteRequest  0a len TimeSeries ...
//!      TimeSeries    0a len Label ...  12 len Sample ...
//!      Label         0a len name  12 len value
//! 2.0  Request       22 len symbol ...  2a len TimeSeries ...
//!      TimeSeries    0a len reference ...  12 len Sample ...  2a 00 (metadata that says nothing)
//! both Sample        09 value (8 B, little endian)  10 time (varint, 6 B from 1971 to 2109)
//! ```
//!
//! The encoder also says where each value and each time stands, so that a payload can be patched
//! instead of encoded again. Both have one width for a whole load: no value is `+0.0` and no time
//! needs another number of bytes; `stream.rs` and `scenario.rs` see to that.

use std::collections::HashMap;

use crate::scenario::Protocol;
use crate::shape::{self, Labels};
use crate::stream::{RequestId, Stream};

/// Bytes of a patched time.
pub(crate) const TIME_WIDTH: usize = 6;

/// Bytes of a patched value.
pub(crate) const VALUE_WIDTH: usize = 8;

/// Bytes of a sample.
const SAMPLE_SIZE: usize = 1 + VALUE_WIDTH + 1 + TIME_WIDTH;

/// Prometheus writes the metadata of a series in 2.0 also when it has none.
const NO_METADATA: [u8; 2] = [0x2a, 0];

/// One encoded request, and where its samples are.
#[derive(Debug, Default)]
pub(crate) struct Encoded {
    /// The message.
    pub(crate) bytes: Vec<u8>,
    /// The samples, in their order.
    pub(crate) samples: Vec<Place>,
}

/// Where a sample stands in the message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) series: u32,
    /// Number of the sample within its series and request.
    pub(crate) step: u32,
    /// First byte of the value.
    pub(crate) value_at: u32,
    /// First byte of the time.
    pub(crate) time_at: u32,
}

/// Encodes a request of the stream.
pub(crate) fn request(stream: &Stream, id: RequestId, protocol: Protocol) -> Encoded {
    let mut encoded = Encoded::default();
    let mut labels = Labels::default();
    let mut symbols = Symbols::default();
    let mut region = Vec::new();
    let steps = stream.samples_per_series();
    let (key, tail): (u8, &[u8]) = match protocol {
        Protocol::V1 => (0x0a, &[]),
        Protocol::V2 => (0x2a, &NO_METADATA),
    };
    for series in stream.series_of(id.request) {
        let generation = stream.generation(series, id.round);
        shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
        region.clear();
        match protocol {
            Protocol::V1 => {
                for (name, value) in labels.iter() {
                    label(&mut region, name, value);
                }
            }
            Protocol::V2 => references(&mut region, &labels, &mut symbols),
        }
        let bytes = &mut encoded.bytes;
        bytes.push(key);
        let samples_size = steps as usize * (2 + SAMPLE_SIZE);
        varint(bytes, (region.len() + samples_size + tail.len()) as u64);
        bytes.extend_from_slice(&region);
        let kind = stream.kind(series);
        for number in 0..steps {
            let step = id.round * steps + number;
            bytes.extend_from_slice(&[0x12, SAMPLE_SIZE as u8, 0x09]);
            let value_at = bytes.len() as u32;
            bytes.extend_from_slice(&stream.value(kind, series, step).to_le_bytes());
            bytes.push(0x10);
            let time_at = bytes.len() as u32;
            bytes.extend_from_slice(&time(stream.time(step)));
            encoded.samples.push(Place { series, step: number, value_at, time_at });
        }
        bytes.extend_from_slice(tail);
    }
    encoded.behind(symbols.bytes)
}

impl Encoded {
    /// The same with `head` before it.
    fn behind(mut self, mut head: Vec<u8>) -> Self {
        let moved = head.len() as u32;
        head.append(&mut self.bytes);
        for place in &mut self.samples {
            place.value_at += moved;
            place.time_at += moved;
        }
        Self { bytes: head, samples: self.samples }
    }
}

/// The symbol table of a request, in the order of first use, behind the empty one: as Prometheus
/// builds it.
#[derive(Debug, Default)]
struct Symbols {
    bytes: Vec<u8>,
    known: HashMap<String, u64>,
}

impl Symbols {
    fn reference(&mut self, text: &str) -> u64 {
        if self.known.is_empty() {
            self.add("");
        }
        match self.known.get(text) {
            Some(reference) => *reference,
            None => self.add(text),
        }
    }

    fn add(&mut self, text: &str) -> u64 {
        self.bytes.push(0x22);
        varint(&mut self.bytes, text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
        let reference = self.known.len() as u64;
        self.known.insert(text.to_owned(), reference);
        reference
    }
}

fn references(out: &mut Vec<u8>, labels: &Labels, symbols: &mut Symbols) {
    let mut packed = Vec::new();
    for text in labels.iter().flat_map(|(name, value)| [name, value]) {
        varint(&mut packed, symbols.reference(text));
    }
    out.push(0x0a);
    varint(out, packed.len() as u64);
    out.append(&mut packed);
}

/// A time as a varint of six bytes. It must lie within 2^35..2^42, as a scenario's times do.
pub(crate) fn time(ms: i64) -> [u8; TIME_WIDTH] {
    debug_assert!((1 << 35..1 << 42).contains(&ms), "a time of six bytes: {ms}");
    let mut bytes = [0u8; TIME_WIDTH];
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = (ms >> (7 * index)) as u8 | 0x80;
    }
    bytes[TIME_WIDTH - 1] &= 0x7f;
    bytes
}

fn label(out: &mut Vec<u8>, name: &str, value: &str) {
    let size = 1 + varint_size(name.len()) + name.len() + 1 + varint_size(value.len());
    out.push(0x0a);
    varint(out, (size + value.len()) as u64);
    for (tag, text) in [(0x0a, name), (0x12, value)] {
        out.push(tag);
        varint(out, text.len() as u64);
        out.extend_from_slice(text.as_bytes());
    }
}

/// Appends a varint: seven bits a byte, the low ones first.
pub(crate) fn varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn varint_size(value: usize) -> usize {
    (usize::BITS - (value | 1).leading_zeros()).div_ceil(7) as usize
}

/// The messages as prost sees them: the oracle of the encoder.
#[cfg(test)]
pub(crate) mod message {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct WriteRequest {
        #[prost(message, repeated, tag = "1")]
        pub(crate) timeseries: Vec<TimeSeries>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct TimeSeries {
        #[prost(message, repeated, tag = "1")]
        pub(crate) labels: Vec<Label>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) samples: Vec<Sample>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Label {
        #[prost(string, tag = "1")]
        pub(crate) name: String,
        #[prost(string, tag = "2")]
        pub(crate) value: String,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct RequestV2 {
        #[prost(string, repeated, tag = "4")]
        pub(crate) symbols: Vec<String>,
        #[prost(message, repeated, tag = "5")]
        pub(crate) timeseries: Vec<TimeSeriesV2>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct TimeSeriesV2 {
        #[prost(uint32, repeated, tag = "1")]
        pub(crate) labels_refs: Vec<u32>,
        #[prost(message, repeated, tag = "2")]
        pub(crate) samples: Vec<Sample>,
        #[prost(message, optional, tag = "5")]
        pub(crate) metadata: Option<NoMetadata>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct NoMetadata {}

    #[derive(Clone, PartialEq, prost::Message)]
    pub(crate) struct Sample {
        #[prost(double, tag = "1")]
        pub(crate) value: f64,
        #[prost(int64, tag = "2")]
        pub(crate) timestamp: i64,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Scenario;
    use prost::Message as _;

    #[test]
    fn prost_reads_what_was_meant_and_writes_the_same_bytes() {
        for name in ["smoke", "exact", "w6-backlog", "w6-node", "w2-200k"] {
            let scenario = Scenario { series: 5_000, ..Scenario::load(name).unwrap() };
            let stream = Stream::new(&scenario);
            let id = RequestId { round: scenario.rounds - 1, request: scenario.requests() - 1 };
            let encoded = request(&stream, id, Protocol::V1);
            let message = message::WriteRequest::decode(encoded.bytes.as_slice()).unwrap();
            let mut labels = Labels::default();
            let mut places = encoded.samples.iter();
            for (series, got) in stream.series_of(id.request).zip(&message.timeseries) {
                let generation = stream.generation(series, id.round);
                shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
                let pairs = got.labels.iter().map(|l| (l.name.as_str(), l.value.as_str()));
                assert!(pairs.eq(labels.iter()));
                assert_eq!(got.samples.len(), scenario.samples_per_series as usize);
                for (number, sample) in (0u32..).zip(&got.samples) {
                    let step = id.round * scenario.samples_per_series + number;
                    let bits = stream.value(stream.kind(series), series, step);
                    assert_eq!(sample.value.to_bits(), bits);
                    assert_eq!(sample.timestamp, stream.time(step));
                    let place = places.next().unwrap();
                    let at = place.value_at as usize;
                    assert_eq!((place.series, place.step), (series, number));
                    assert_eq!(encoded.bytes[at..at + VALUE_WIDTH], bits.to_le_bytes());
                    let at = place.time_at as usize;
                    assert_eq!(encoded.bytes[at..at + TIME_WIDTH], time(sample.timestamp));
                }
            }
            assert_eq!(message.timeseries.len(), stream.series_of(id.request).count());
            // prost leaves out -0.0 along with +0.0; by the specification only +0.0 goes.
            let canonical = message.encode_to_vec() == encoded.bytes;
            assert!(canonical || name == "exact", "{name}: canonical");
        }
    }

    #[test]
    fn both_versions_say_the_same() {
        for name in ["smoke", "exact", "w6-backlog", "w6-node", "w2-200k"] {
            let scenario = Scenario { series: 5_000, ..Scenario::load(name).unwrap() };
            let stream = Stream::new(&scenario);
            let id = RequestId { round: scenario.rounds - 1, request: scenario.requests() - 1 };
            let one = request(&stream, id, Protocol::V1);
            let one = message::WriteRequest::decode(one.bytes.as_slice()).unwrap();
            let encoded = request(&stream, id, Protocol::V2);
            let two = message::RequestV2::decode(encoded.bytes.as_slice()).unwrap();
            assert!(two.encode_to_vec() == encoded.bytes || name == "exact", "{name}: canonical");
            assert_eq!(two.symbols[0], "");
            let mut once = two.symbols.clone();
            once.sort_unstable();
            once.dedup();
            assert_eq!(once.len(), two.symbols.len(), "{name}: each symbol once");
            let text = |reference: &u32| two.symbols[*reference as usize].as_str();
            let mut places = encoded.samples.iter();
            assert_eq!(one.timeseries.len(), two.timeseries.len());
            for (one, two) in one.timeseries.iter().zip(&two.timeseries) {
                let labels = one.labels.iter().flat_map(|l| [l.name.as_str(), l.value.as_str()]);
                assert!(two.labels_refs.iter().map(text).eq(labels), "{name}");
                assert!(two.metadata.is_some());
                assert_eq!(one.samples.len(), two.samples.len());
                for (one, two) in one.samples.iter().zip(&two.samples) {
                    let place = places.next().unwrap();
                    let bits = one.value.to_bits();
                    assert_eq!((two.value.to_bits(), two.timestamp), (bits, one.timestamp));
                    let at = place.value_at as usize;
                    assert_eq!(encoded.bytes[at..at + VALUE_WIDTH], bits.to_le_bytes());
                    let at = place.time_at as usize;
                    assert_eq!(encoded.bytes[at..at + TIME_WIDTH], time(one.timestamp));
                }
            }
            assert_eq!(places.next(), None);
        }
    }
}
