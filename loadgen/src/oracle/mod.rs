//! The oracle: what must be there, and what must not.
//!
//! A reader (`store_api`, `prometheus`) hands over whatever the target returns; the oracle knows
//! from the ledger which requests were sent and which acknowledged, regenerates their samples from
//! the seed, and checks:
//!
//! - **acked ⊆ stored**: every sample of an acknowledged request is there, once;
//! - **stored ⊆ sent**: nothing is there that never left the generator, neither series nor time;
//! - no (series, time) twice; values equal by bits.
//!
//! Slow and plain on purpose: a hash map of label sets and one bit per possible sample.
//!
//! ## Limits
//!
//! Labels that are not of the load's shape (external labels of the target) are set aside. A target
//! that returns a series once per replica label thus shows every sample twice, as it should.

use std::collections::{BTreeSet, HashMap};

use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::ledger::{History, Standing};
use crate::scenario::Scenario;
use crate::shape::{self, Labels};
use crate::stream::{RequestId, STALE_NAN_BITS, Stream};

/// How many differences are shown; all are counted.
const SHOWN_MAX: usize = 20;

/// What a read path can carry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fidelity {
    /// The bits of a NaN arrive as stored; otherwise any NaN equals any.
    pub(crate) keeps_nan_bits: bool,
    /// Stale markers are returned at all.
    pub(crate) keeps_stale: bool,
    /// `-0.0` arrives as such; otherwise it may arrive as `+0.0`.
    pub(crate) keeps_zero_sign: bool,
}

impl Fidelity {
    /// Whether a value that was sent may arrive like this.
    fn is_equal(self, sent: u64, stored: u64) -> bool {
        let (sent_value, value) = (f64::from_bits(sent), f64::from_bits(stored));
        sent == stored
            || (!self.keeps_nan_bits && sent_value.is_nan() && value.is_nan())
            || (!self.keeps_zero_sign && sent_value == 0.0 && value == 0.0)
    }
}

/// One difference between what was promised and what was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "difference", rename_all = "snake_case")]
pub(crate) enum Difference {
    /// Acknowledged, and not there.
    Lost { series: String, time_ms: i64, round: u32, request: u32 },
    /// There more than once.
    Twice { series: String, time_ms: i64 },
    /// Another value than was sent.
    WrongValue { series: String, time_ms: i64, sent_bits: String, stored_bits: String },
    /// A time at which this series was never sent.
    NeverSent { series: String, time_ms: i64 },
    /// A series of this load that was never sent.
    ForeignSeries { series: String },
    /// The reader itself saw a rule broken: order, bounds of a chunk.
    Protocol { fact: String },
}

impl Difference {
    fn name(&self) -> &'static str {
        match self {
            Self::Lost { .. } => "lost",
            Self::Twice { .. } => "twice",
            Self::WrongValue { .. } => "wrong value",
            Self::NeverSent { .. } => "never sent",
            Self::ForeignSeries { .. } => "foreign series",
            Self::Protocol { .. } => "protocol",
        }
    }
}

impl std::fmt::Display for Difference {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{:<14} ", self.name())?;
        match self {
            Self::Lost { series, time_ms, round, request } => {
                write!(out, "{series} at {time_ms} (round {round}, request {request})")
            }
            Self::Twice { series, time_ms } | Self::NeverSent { series, time_ms } => {
                write!(out, "{series} at {time_ms}")
            }
            Self::WrongValue { series, time_ms, sent_bits, stored_bits } => {
                write!(out, "{series} at {time_ms}: sent {sent_bits}, stored {stored_bits}")
            }
            Self::ForeignSeries { series } => write!(out, "{series}"),
            Self::Protocol { fact } => write!(out, "{fact}"),
        }
    }
}

/// What the check found.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Findings {
    pub(crate) sent_samples: u64,
    pub(crate) acked_samples: u64,
    /// Samples of this load that the target returned.
    pub(crate) stored_samples: u64,
    /// Of these, samples whose request was never acknowledged: allowed.
    pub(crate) stored_unacked_samples: u64,
    /// Stale markers the read path cannot return: not checked.
    pub(crate) unseen_stale_samples: u64,
    /// Label names the target added.
    pub(crate) foreign_label_names: BTreeSet<String>,
    /// How many differences of each kind.
    pub(crate) counts: std::collections::BTreeMap<&'static str, u64>,
    /// The first of them.
    pub(crate) first: Vec<Difference>,
}

impl Findings {
    /// Whether the target kept its word.
    pub(crate) fn is_clean(&self) -> bool {
        self.counts.is_empty()
    }

    /// Whether nothing is wrong but that samples are not there (yet).
    pub(crate) fn is_only_missing(&self) -> bool {
        self.counts.len() == 1 && self.counts.contains_key("lost")
    }

    fn note(&mut self, difference: Difference) {
        *self.counts.entry(difference.name()).or_default() += 1;
        if self.first.len() < SHOWN_MAX {
            self.first.push(difference);
        }
    }
}

/// The judge of one ledger.
#[derive(Debug)]
pub(crate) struct Oracle {
    stream: Stream,
    history: History,
    fidelity: Fidelity,
    /// Series and generation of each label set that was sent.
    known: HashMap<[u8; 16], (u32, u32)>,
    /// One bit per series and step.
    seen: Vec<u64>,
    steps: u32,
    findings: Findings,
}

impl Oracle {
    /// An oracle for what a ledger tells.
    pub(crate) fn new(history: History, fidelity: Fidelity) -> Self {
        let stream = Stream::new(&history.scenario);
        let rounds = history.next_round();
        let steps = rounds * stream.samples_per_series();
        let mut known = HashMap::new();
        let mut labels = Labels::default();
        for series in 0..stream.series() {
            for generation in 0..=stream.generation(series, rounds.saturating_sub(1)) {
                shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
                known.insert(identity(labels.iter()), (series, generation));
            }
        }
        let bits = u64::from(stream.series()) * u64::from(steps);
        let mut findings = Findings::default();
        for (id, standing) in &history.requests {
            let series = stream.series_of(id.request).count() as u64;
            let samples = series * u64::from(stream.samples_per_series());
            findings.sent_samples += samples;
            findings.acked_samples += if *standing == Standing::Acked { samples } else { 0 };
        }
        let seen = vec![0; bits.div_ceil(64) as usize];
        Self { stream, history, fidelity, known, seen, steps, findings }
    }

    /// First and last time that may be there.
    pub(crate) fn times(&self) -> (i64, i64) {
        (self.stream.time(0), self.stream.time(self.steps.saturating_sub(1)))
    }

    /// The load.
    pub(crate) fn scenario(&self) -> &Scenario {
        &self.history.scenario
    }

    /// The label and value that select this load.
    pub(crate) fn selector(&self) -> (&'static str, String) {
        (shape::SELECTOR, shape::cluster(self.stream.seed()))
    }

    /// Samples of one series as the target returned them, in any portion.
    pub(crate) fn take(&mut self, labels: &[(String, String)], samples: &[(i64, u64)]) {
        let shape = self.stream.shape();
        let own = || {
            let own = labels.iter().filter(|(name, _)| shape::is_own(shape, name));
            own.map(|(name, value)| (name.as_str(), value.as_str()))
        };
        for (name, _) in labels.iter().filter(|(name, _)| !shape::is_own(shape, name)) {
            self.findings.foreign_label_names.insert(name.clone());
        }
        self.findings.stored_samples += samples.len() as u64;
        let Some(&(series, generation)) = self.known.get(&identity(own())) else {
            self.findings.note(Difference::ForeignSeries { series: text(own()) });
            return;
        };
        if !samples.is_sorted_by(|a, b| a.0 < b.0) {
            let fact = format!("{}: times do not ascend within an answer", text(own()));
            self.findings.note(Difference::Protocol { fact });
        }
        for (time, bits) in samples {
            if let Some(difference) = self.check(series, generation, *time, *bits) {
                self.findings.note(difference(text(own())));
            }
        }
    }

    /// A rule of the protocol that a reader saw broken.
    pub(crate) fn object(&mut self, fact: String) {
        self.findings.note(Difference::Protocol { fact });
    }

    /// Closes the books: what was acknowledged and not seen is lost.
    pub(crate) fn finish(mut self) -> Findings {
        let steps = self.stream.samples_per_series();
        for (id, standing) in &self.history.requests {
            if *standing != Standing::Acked {
                continue;
            }
            for series in self.stream.series_of(id.request) {
                for step in id.round * steps..(id.round + 1) * steps {
                    let bit = self.bit(series, step);
                    if self.seen[(bit / 64) as usize] >> (bit % 64) & 1 == 1 {
                        continue;
                    }
                    let value = self.stream.value(self.stream.kind(series), series, step);
                    if value == STALE_NAN_BITS && !self.fidelity.keeps_stale {
                        self.findings.unseen_stale_samples += 1;
                        continue;
                    }
                    self.findings.note(Difference::Lost {
                        series: self.name(series, id.round),
                        time_ms: self.stream.time(step),
                        round: id.round,
                        request: id.request,
                    });
                }
            }
        }
        self.findings
    }

    /// One sample; a difference still wants the text of its series, which is dear.
    fn check(
        &mut self,
        series: u32,
        generation: u32,
        time_ms: i64,
        bits: u64,
    ) -> Option<impl FnOnce(String) -> Difference + use<>> {
        enum Fault {
            NeverSent,
            Twice,
            WrongValue(u64),
        }
        let per_request = self.stream.samples_per_series();
        let step = self.stream.step(time_ms).filter(|step| *step < self.steps);
        let standing = step.and_then(|step| {
            let round = step / per_request;
            let id = RequestId { round, request: self.stream.request_of(series) };
            let is_own = self.stream.generation(series, round) == generation;
            self.history.requests.get(&id).copied().filter(|_| is_own)
        });
        let fault = match (step, standing) {
            (Some(step), Some(standing)) => {
                let bit = self.bit(series, step);
                let word = &mut self.seen[(bit / 64) as usize];
                let was_seen = *word >> (bit % 64) & 1 == 1;
                *word |= 1 << (bit % 64);
                let sent = self.stream.value(self.stream.kind(series), series, step);
                let equal = self.fidelity.is_equal(sent, bits);
                if !was_seen && standing == Standing::Sent {
                    self.findings.stored_unacked_samples += 1;
                }
                match (was_seen, equal) {
                    (true, _) => Fault::Twice,
                    (false, false) => Fault::WrongValue(sent),
                    (false, true) => return None,
                }
            }
            _ => Fault::NeverSent,
        };
        Some(move |series| match fault {
            Fault::NeverSent => Difference::NeverSent { series, time_ms },
            Fault::Twice => Difference::Twice { series, time_ms },
            Fault::WrongValue(sent) => Difference::WrongValue {
                series,
                time_ms,
                sent_bits: format!("{sent:016x}"),
                stored_bits: format!("{bits:016x}"),
            },
        })
    }

    fn bit(&self, series: u32, step: u32) -> u64 {
        u64::from(series) * u64::from(self.steps) + u64::from(step)
    }

    fn name(&self, series: u32, round: u32) -> String {
        let mut labels = Labels::default();
        let generation = self.stream.generation(series, round);
        shape::labels(self.stream.shape(), self.stream.seed(), series, generation, &mut labels);
        text(labels.iter())
    }
}

/// A label set in 128 bits; a collision is as likely as a broken SHA-256.
fn identity<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> [u8; 16] {
    let mut hash = Sha256::new();
    for (name, value) in labels {
        hash.update(name);
        hash.update([0xff]);
        hash.update(value);
        hash.update([0xff]);
    }
    let mut identity = [0u8; 16];
    identity.copy_from_slice(&hash.finalize()[..16]);
    identity
}

/// A label set for people.
fn text<'a>(labels: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    let pairs: Vec<_> = labels.map(|(name, value)| format!("{name}={value:?}")).collect();
    format!("{{{}}}", pairs.join(", "))
}

#[cfg(test)]
pub(crate) mod tests;
