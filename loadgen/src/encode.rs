//! Remote write 1.0, written by hand.
//!
//! ```text
//! WriteRequest  0a len TimeSeries ...
//! TimeSeries    0a len Label ...  12 len Sample ...
//! Label         0a len name  12 len value
//! Sample        09 value (8 B, little endian)  10 time (varint, 6 B from 1971 to 2109)
//! ```
//!
//! The encoder also says where each value and each time stands, so that a payload can be patched
//! instead of encoded again. Both have one width for a whole load: no value is `+0.0` and no time
//! needs another number of bytes; `stream.rs` and `scenario.rs` see to that.

use crate::shape::{self, Labels};
use crate::stream::{RequestId, Stream};

/// Bytes of a patched time.
pub(crate) const TIME_WIDTH: usize = 6;

/// Bytes of a patched value.
pub(crate) const VALUE_WIDTH: usize = 8;

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
pub(crate) fn request(stream: &Stream, id: RequestId) -> Encoded {
    let mut encoded = Encoded::default();
    let mut labels = Labels::default();
    let mut region = Vec::new();
    let steps = stream.samples_per_series();
    for series in stream.series_of(id.request) {
        let generation = stream.generation(series, id.round);
        shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
        region.clear();
        for (name, value) in labels.iter() {
            label(&mut region, name, value);
        }
        let sample_size = 1 + VALUE_WIDTH + 1 + TIME_WIDTH;
        let bytes = &mut encoded.bytes;
        bytes.push(0x0a);
        varint(bytes, (region.len() + steps as usize * (2 + sample_size)) as u64);
        bytes.extend_from_slice(&region);
        let kind = stream.kind(series);
        for number in 0..steps {
            let step = id.round * steps + number;
            bytes.extend_from_slice(&[0x12, sample_size as u8, 0x09]);
            let value_at = bytes.len() as u32;
            bytes.extend_from_slice(&stream.value(kind, series, step).to_le_bytes());
            bytes.push(0x10);
            let time_at = bytes.len() as u32;
            bytes.extend_from_slice(&time(stream.time(step)));
            encoded.samples.push(Place { series, step: number, value_at, time_at });
        }
    }
    encoded
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
            let encoded = request(&stream, id);
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
}
