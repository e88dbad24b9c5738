//! Payloads: whole HTTP requests, built before the clock starts and patched in place.
//!
//! ```text
//! message   HTTP head | snappy block
//!                         ^ 8 bytes of each value that changes, 6 of each time not yet seen
//! ```
//!
//! Patching costs a few nanoseconds per sample; encoding and compressing again would cost some
//! two hundred, and the generator would be what is measured. `Compression::Live` does exactly
//! that, to check that the short cut flatters nobody.
//!
//! ## Promises
//!
//! A patched message is byte for byte what building it anew for that round would give.

use crate::encode::{self, TIME_WIDTH, VALUE_WIDTH};
use crate::scenario::{Compression, Protocol};
use crate::snappy;
use crate::stream::{Kind, RequestId, Stream};

/// First symbol of a time; see [`snappy`]. Six per step of a request follow.
const TIME_SYMBOLS: u16 = 256;

/// The head of every request up to the length, which comes last, and the version it tells of.
#[derive(Debug, Clone)]
pub(crate) struct Head {
    text: String,
    protocol: Protocol,
}

impl Head {
    /// The head of a write request to `path` at `host`; `tenant` is header name and value.
    pub(crate) fn new(
        host: &str,
        path: &str,
        tenant: Option<(&str, &str)>,
        protocol: Protocol,
    ) -> Self {
        let (content_type, version) = match protocol {
            Protocol::V1 => ("application/x-protobuf", "0.1.0"),
            Protocol::V2 => {
                ("application/x-protobuf;proto=io.prometheus.write.v2.Request", "2.0.0")
            }
        };
        let tenant = tenant.map(|(name, value)| format!("{name}: {value}\r\n")).unwrap_or_default();
        let text = format!(
            "POST {path} HTTP/1.1\r\nHost: {host}\r\n\
             User-Agent: loadgen/{}\r\n\
             Content-Type: {content_type}\r\n\
             Content-Encoding: snappy\r\n\
             X-Prometheus-Remote-Write-Version: {version}\r\n{tenant}Content-Length: ",
            env!("CARGO_PKG_VERSION")
        );
        Self { text, protocol }
    }

    /// Starts a message of a body of `size` bytes.
    fn begin(&self, message: &mut Vec<u8>, size: usize) {
        message.clear();
        message.extend_from_slice(self.text.as_bytes());
        message.extend_from_slice(format!("{size}\r\n\r\n").as_bytes());
    }
}

/// One value to patch.
#[derive(Debug, Clone, Copy)]
struct ValuePatch {
    at: u32,
    series: u32,
    /// Step within the request.
    step: u32,
}

/// A part of a time to patch.
#[derive(Debug, Clone, Copy)]
struct TimePatch {
    at: u32,
    step: u32,
    /// Which byte of the time.
    byte: u8,
}

/// A request that can be made ready for any round.
#[derive(Debug)]
pub(crate) struct Payload {
    head: Head,
    compression: Compression,
    request: u32,
    /// The round it is ready for.
    round: u32,
    /// What the labels were built for; see [`Payload::labels_of`].
    labels: u64,
    message: Vec<u8>,
    body_at: usize,
    /// The uncompressed message; only kept for live compression.
    raw: Vec<u8>,
    counters: Vec<ValuePatch>,
    gauges: Vec<ValuePatch>,
    specials: Vec<ValuePatch>,
    times: Vec<TimePatch>,
    samples: u32,
}

impl Payload {
    /// Builds a request, ready for the round of `id`.
    pub(crate) fn build(
        stream: &Stream,
        id: RequestId,
        compression: Compression,
        head: &Head,
    ) -> Self {
        let mut payload = Self {
            head: head.clone(),
            compression,
            request: id.request,
            round: id.round,
            labels: Self::labels_of(stream, id),
            message: Vec::new(),
            body_at: 0,
            raw: Vec::new(),
            counters: Vec::new(),
            gauges: Vec::new(),
            specials: Vec::new(),
            times: Vec::new(),
            samples: 0,
        };
        payload.rebuild(stream, id);
        payload
    }

    /// The HTTP request, ready for the last round asked for.
    pub(crate) fn message(&self) -> &[u8] {
        &self.message
    }

    /// The compressed body alone.
    pub(crate) fn body(&self) -> &[u8] {
        &self.message[self.body_at..]
    }

    /// Samples in it.
    pub(crate) fn samples(&self) -> u32 {
        self.samples
    }

    /// Makes the request ready for a round. Labels that changed since are encoded anew.
    pub(crate) fn prepare(&mut self, stream: &Stream, round: u32) {
        if round == self.round {
            return;
        }
        let id = RequestId { round, request: self.request };
        let moved = stream.churn_of(round) != stream.churn_of(self.round);
        if moved && Self::labels_of(stream, id) != self.labels {
            self.rebuild(stream, id);
            return;
        }
        self.round = round;
        match self.compression {
            Compression::Prebuilt => self.patch(stream),
            Compression::Live => {
                self.patch(stream);
                self.compress_live();
            }
        }
    }

    /// A fingerprint of the generations of all labels in a request.
    fn labels_of(stream: &Stream, id: RequestId) -> u64 {
        let mut last = (u32::MAX, 0);
        let mut print = 0u64;
        for series in stream.series_of(id.request) {
            let target = stream.target_of(series);
            if target != last.0 {
                last = (target, stream.generation(series, id.round));
            }
            print = print.rotate_left(5).wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(last.1);
        }
        print
    }

    fn rebuild(&mut self, stream: &Stream, id: RequestId) {
        self.round = id.round;
        self.labels = Self::labels_of(stream, id);
        for patches in [&mut self.counters, &mut self.gauges, &mut self.specials] {
            patches.clear();
        }
        self.times.clear();
        let encoded = encode::request(stream, id, self.head.protocol);
        self.samples = encoded.samples.len() as u32;
        match self.compression {
            Compression::Live => {
                self.raw.clone_from(&encoded.bytes);
                self.remember(stream, &encoded, Some);
                self.compress_live();
            }
            Compression::Prebuilt => {
                let block = snappy::compress(&encoded.bytes, &symbols(stream, &encoded));
                self.head.begin(&mut self.message, block.bytes.len());
                self.body_at = self.message.len();
                self.message.extend_from_slice(&block.bytes);
                let body_at = self.body_at as u32;
                let place = |source| block.place(source).map(|out| out + body_at);
                self.remember(stream, &encoded, place);
            }
        }
    }

    /// Notes where to patch. `place` maps a byte of the encoded request to a byte of the patched
    /// buffer, or to nothing where a copy repeats an earlier byte.
    fn remember(
        &mut self,
        stream: &Stream,
        encoded: &encode::Encoded,
        place: impl Fn(u32) -> Option<u32>,
    ) {
        for sample in &encoded.samples {
            let patches = match stream.kind(sample.series) {
                Kind::Constant => None,
                Kind::Counter => Some(&mut self.counters),
                Kind::Gauge => Some(&mut self.gauges),
                Kind::Special => Some(&mut self.specials),
            };
            // A value is a hole as a whole, so its bytes are neighbours in the block too: only a
            // literal of 64 KiB could end within, and labels repeat long before that.
            if let (Some(patches), Some(at)) = (patches, place(sample.value_at)) {
                let end = place(sample.value_at + VALUE_WIDTH as u32 - 1);
                assert_eq!(end, Some(at + VALUE_WIDTH as u32 - 1), "a value in one piece");
                patches.push(ValuePatch { at, series: sample.series, step: sample.step });
            }
            for byte in 0..TIME_WIDTH as u8 {
                if let Some(at) = place(sample.time_at + u32::from(byte)) {
                    self.times.push(TimePatch { at, step: sample.step, byte });
                }
            }
        }
    }

    fn patch(&mut self, stream: &Stream) {
        let first = self.round * stream.samples_per_series();
        let buffer = match self.compression {
            Compression::Prebuilt => &mut self.message,
            Compression::Live => &mut self.raw,
        };
        for patch in &self.counters {
            put(buffer, patch.at, stream.counter(patch.series, first + patch.step));
        }
        for patch in &self.gauges {
            put(buffer, patch.at, stream.gauge(patch.series, first + patch.step));
        }
        for patch in &self.specials {
            let value = stream.value(Kind::Special, patch.series, first + patch.step);
            put(buffer, patch.at, value);
        }
        for patch in &self.times {
            let time = encode::time(stream.time(first + patch.step));
            buffer[patch.at as usize] = time[patch.byte as usize];
        }
    }

    fn compress_live(&mut self) {
        // The encoder fails only above 4 GiB, which no request reaches.
        let body = snap::raw::Encoder::new().compress_vec(&self.raw).unwrap_or_default();
        self.head.begin(&mut self.message, body.len());
        self.body_at = self.message.len();
        self.message.extend_from_slice(&body);
    }
}

fn put(buffer: &mut [u8], at: u32, bits: u64) {
    let at = at as usize;
    buffer[at..at + VALUE_WIDTH].copy_from_slice(&bits.to_le_bytes());
}

/// What may be copied, byte by byte; see [`snappy`].
fn symbols(stream: &Stream, encoded: &encode::Encoded) -> Vec<u16> {
    let mut symbols: Vec<u16> = encoded.bytes.iter().map(|byte| u16::from(*byte)).collect();
    for sample in &encoded.samples {
        if stream.kind(sample.series) != Kind::Constant {
            let at = sample.value_at as usize;
            symbols[at..at + VALUE_WIDTH].fill(snappy::HOLE);
        }
        let at = sample.time_at as usize;
        for (byte, symbol) in (0u16..).zip(&mut symbols[at..at + TIME_WIDTH]) {
            *symbol = TIME_SYMBOLS + sample.step as u16 * TIME_WIDTH as u16 + byte;
        }
    }
    symbols
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{BUILT_IN, Scenario};

    fn head(protocol: Protocol) -> Head {
        Head::new("h:1", "/w", Some(("X-T", "a")), protocol)
    }

    /// The law of this file: patching equals building, for every scenario, forwards and back.
    #[test]
    fn patched_equals_encoded() {
        for (name, text) in BUILT_IN {
            for (compression, protocol) in [
                (Compression::Prebuilt, Protocol::V1),
                (Compression::Live, Protocol::V1),
                (Compression::Prebuilt, Protocol::V2),
            ] {
                let scenario = Scenario::parse(name, text).unwrap();
                let series = scenario.series.min(1_200);
                let scenario = Scenario { series, compression, ..scenario };
                let stream = Stream::new(&scenario);
                let request = scenario.requests() - 1;
                let id = |round| RequestId { round, request };
                let mut payload = Payload::build(&stream, id(0), compression, &head(protocol));
                for round in [0, 1, 2, 41, 22, scenario.rounds - 1, 0] {
                    let round = round.min(scenario.rounds - 1);
                    payload.prepare(&stream, round);
                    let body = snap::raw::Decoder::new().decompress_vec(payload.body()).unwrap();
                    let full = encode::request(&stream, id(round), protocol);
                    assert!(body == full.bytes, "{name} round {round}");
                    assert_eq!(payload.samples() as usize, full.samples.len());
                }
            }
        }
    }

    #[test]
    fn the_message_is_an_http_request_of_the_right_length() {
        let stream = Stream::new(&Scenario::load("exact").unwrap());
        let id = RequestId { round: 0, request: 0 };
        let payload = Payload::build(&stream, id, Compression::Prebuilt, &head(Protocol::V2));
        let text = String::from_utf8_lossy(payload.message());
        assert!(text.starts_with("POST /w HTTP/1.1\r\nHost: h:1\r\n"));
        assert!(text.contains("\r\nX-T: a\r\n"));
        assert!(text.contains(";proto=io.prometheus.write.v2.Request\r\n"));
        assert!(text.contains(&format!("\r\nContent-Length: {}\r\n\r\n", payload.body().len())));
    }

    /// The short cut must not make bodies easier or harder than real ones.
    #[test]
    fn the_prebuilt_block_is_about_as_small_as_that_of_a_real_sender() {
        for (name, protocol) in [
            ("w1-200k", Protocol::V1),
            ("w2-200k", Protocol::V1),
            ("w6-node", Protocol::V1),
            ("w1-200k", Protocol::V2),
        ] {
            let head = head(protocol);
            let stream = Stream::new(&Scenario::load(name).unwrap());
            let id = RequestId { round: 1, request: 0 };
            let size =
                |compression| Payload::build(&stream, id, compression, &head).body().len() as f64;
            let ratio = size(Compression::Prebuilt) / size(Compression::Live);
            assert!((0.85..1.25).contains(&ratio), "{name}: {ratio}");
        }
    }
}
