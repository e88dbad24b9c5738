//! The fingerprint of a scenario: proof that two machines and two versions send the same load.
//!
//! Same seed, same bytes: the first requests of the first rounds are hashed, before and after
//! compression, and their entropy is measured. A hash tells *that* the load changed; entropy tells
//! whether it became easier or harder to compress, which is what would flatter or punish a target.
//! `fingerprints.txt` is golden. A change to it starts a new series of measurements: say so.

use sha2::{Digest as _, Sha256};

use crate::encode;
use crate::error::Result;
use crate::payload::{Head, Payload};
use crate::scenario::{Compression, EPOCH_MS, Scenario};
use crate::stream::{RequestId, Stream};

/// Rounds and requests that are looked at: enough for labels, values, order and churn.
const ROUNDS: [u32; 3] = [0, 1, 41];
const REQUESTS: u32 = 2;

/// What the load looks like.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Fingerprint {
    /// Of the encoded messages.
    raw_sha256: String,
    /// Of the bodies as sent.
    body_sha256: String,
    raw_entropy: f64,
    body_entropy: f64,
    raw_bytes_per_sample: f64,
    body_bytes_per_sample: f64,
    /// What a usual snappy encoder makes of the same messages.
    live_bytes_per_sample: f64,
}

impl Fingerprint {
    /// The fingerprint of a scenario, at a fixed start of virtual time.
    pub(crate) fn of(scenario: &Scenario) -> Result<Self> {
        let start_time_ms = scenario.start_time_ms.or(Some(EPOCH_MS));
        let scenario = Scenario { start_time_ms, ..scenario.clone() }.anchored(EPOCH_MS)?;
        let stream = Stream::new(&scenario);
        let head = Head::new("h", "/", None, scenario.protocol);
        let (mut raw, mut body) = (Content::new(), Content::new());
        let (mut samples, mut live) = (0, 0);
        for round in ROUNDS.into_iter().filter(|round| *round < scenario.rounds) {
            for request in 0..stream.requests().min(REQUESTS) {
                let id = RequestId { round, request };
                let encoded = encode::request(&stream, id, scenario.protocol);
                samples += encoded.samples.len();
                raw.add(&encoded.bytes);
                body.add(Payload::build(&stream, id, Compression::Prebuilt, &head).body());
                live += Payload::build(&stream, id, Compression::Live, &head).body().len();
            }
        }
        let per_sample = |size: usize| size as f64 / samples.max(1) as f64;
        Ok(Self {
            raw_entropy: raw.entropy(),
            body_entropy: body.entropy(),
            raw_bytes_per_sample: per_sample(raw.size()),
            body_bytes_per_sample: per_sample(body.size()),
            live_bytes_per_sample: per_sample(live),
            raw_sha256: raw.hash(),
            body_sha256: body.hash(),
        })
    }
}

impl std::fmt::Display for Fingerprint {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            out,
            "raw {} {:.3} bit/B {:.1} B/sample  body {} {:.3} bit/B {:.1} B/sample  \
             live {:.1} B/sample",
            self.raw_sha256,
            self.raw_entropy,
            self.raw_bytes_per_sample,
            self.body_sha256,
            self.body_entropy,
            self.body_bytes_per_sample,
            self.live_bytes_per_sample
        )
    }
}

/// Bytes seen so far: their hash and how often each occurred.
struct Content {
    hash: Sha256,
    counts: [u64; 256],
}

impl Content {
    fn new() -> Self {
        Self { hash: Sha256::new(), counts: [0; 256] }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.hash.update(bytes);
        for byte in bytes {
            self.counts[usize::from(*byte)] += 1;
        }
    }

    fn size(&self) -> usize {
        self.counts.iter().sum::<u64>() as usize
    }

    /// Shannon's entropy, in bits per byte.
    fn entropy(&self) -> f64 {
        let size = self.size() as f64;
        let shares = self.counts.iter().filter(|count| **count > 0);
        shares.map(|count| *count as f64 / size).map(|share| -share * share.log2()).sum()
    }

    fn hash(self) -> String {
        let mut first = [0u8; 8];
        first.copy_from_slice(&self.hash.finalize()[..8]);
        format!("{:016x}", u64::from_be_bytes(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::BUILT_IN;

    #[test]
    fn the_load_is_what_it_was() {
        let golden = include_str!("../fingerprints.txt");
        let line = |(name, text): &(&str, &str)| {
            let scenario = Scenario::parse(name, text).unwrap();
            format!("{name}: {}\n", Fingerprint::of(&scenario).unwrap())
        };
        let now: String = BUILT_IN.iter().map(line).collect();
        assert!(now == golden, "the generated load changed:\n{now}");
    }

    #[test]
    fn a_seed_changes_everything() {
        let scenario = Scenario::load("smoke").unwrap();
        let other = Scenario { seed: 1, ..scenario.clone() };
        let (a, b) = (Fingerprint::of(&scenario).unwrap(), Fingerprint::of(&other).unwrap());
        assert!(a.raw_sha256 != b.raw_sha256 && a.body_sha256 != b.body_sha256);
        assert!((a.raw_entropy - b.raw_entropy).abs() < 0.05);
    }

    #[test]
    fn entropy_of_known_bytes() {
        let mut content = Content::new();
        content.add(&[0, 1, 2, 3]);
        assert!((content.entropy() - 2.0).abs() < 1e-9);
    }
}
