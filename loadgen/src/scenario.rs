//! A scenario: everything that decides what is sent and how, from a TOML file, with flags on top.
//!
//! Two runs of one scenario send the same bytes. So an unknown key is an error and not a shrug:
//! a misspelt `churn` would measure something else under the same name. The ready-made ones live
//! in `scenarios/` and are compiled in; each is named by the workload it stands for.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at};

/// Name and text of the ready-made scenarios.
pub(crate) const BUILT_IN: &[(&str, &str)] = &[
    ("w1-10k", include_str!("../scenarios/w1-10k.toml")),
    ("w1-200k", include_str!("../scenarios/w1-200k.toml")),
    ("w1-200k-rw2", include_str!("../scenarios/w1-200k-rw2.toml")),
    ("w1-1m", include_str!("../scenarios/w1-1m.toml")),
    ("w2-200k", include_str!("../scenarios/w2-200k.toml")),
    ("w3-100k", include_str!("../scenarios/w3-100k.toml")),
    ("w4-churn", include_str!("../scenarios/w4-churn.toml")),
    ("w4-storm", include_str!("../scenarios/w4-storm.toml")),
    ("w5-block", include_str!("../scenarios/w5-block.toml")),
    ("w6-node", include_str!("../scenarios/w6-node.toml")),
    ("w6-backlog", include_str!("../scenarios/w6-backlog.toml")),
    ("w6-late", include_str!("../scenarios/w6-late.toml")),
    ("smoke", include_str!("../scenarios/smoke.toml")),
    ("exact", include_str!("../scenarios/exact.toml")),
];

/// The fewest and the most milliseconds that a 6-byte varint holds: the width that is patched.
const TIME_SIX_BYTES: std::ops::Range<i64> = (1 << 35)..(1 << 42);

/// Where the virtual time of a scenario without `start_time_ms` begins, when the same bytes are
/// wanted on every machine: 2023-11-14T22:00:00Z, on the border of a 2 h block.
pub(crate) const EPOCH_MS: i64 = 1_699_999_200_000;

/// The labels of a series.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Shape {
    /// Ten labels of a service in Kubernetes, about 280 B per series before compression.
    K10,
    /// Six or seven labels as of a node exporter, about 169 B per series.
    N6,
}

/// In which order the series stand in the requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Order {
    /// As scraped: the series of one scrape target are neighbours.
    Scrape,
    /// One fixed random permutation of all series: what a fan-in of many senders looks like.
    Shuffled,
}

/// How the sending is paced.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Mode {
    /// The next request leaves when the last is answered; for capacity and CPU per sample.
    Closed,
    /// Requests are due at a constant rate, answered or not; for latency.
    Open,
}

/// Version of remote write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
pub(crate) enum Protocol {
    /// 1.0: each series with its labels in full.
    #[serde(rename = "1.0")]
    #[value(name = "1.0")]
    V1,
    /// 2.0: labels as references to a symbol table.
    #[serde(rename = "2.0")]
    #[value(name = "2.0")]
    V2,
}

/// How bodies come to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Compression {
    /// Compressed once around the holes for values and times, which are patched (`snappy.rs`).
    Prebuilt,
    /// Compressed afresh for each send, as a real sender does. Costs the generator ten times more.
    Live,
}

/// Shares of the kinds of values, in percent of the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Values {
    /// Never change.
    pub(crate) constant: u32,
    /// Whole numbers that grow by 1 to 99 per step.
    pub(crate) counter: u32,
    /// Random, three decimals.
    pub(crate) gauge: u32,
    /// Stale markers, NaN, infinities, negative zero, subnormals: for exactness, not for speed.
    #[serde(default)]
    pub(crate) special: u32,
}

/// Scrape targets that get a new `pod` and `instance`.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Churn {
    /// How many of the scrape targets, in percent; at least one is renamed when above zero.
    pub(crate) percent: f64,
    /// After how many rounds, again and again.
    pub(crate) every_rounds: u32,
}

/// Requests that are held back and sent out of order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Late {
    /// How many of the requests, in percent.
    pub(crate) percent: u32,
    /// By how many rounds.
    pub(crate) rounds: u32,
}

/// What to send, and how.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Scenario {
    /// Its name, in reports and file names.
    pub(crate) name: String,
    /// What it shows, in a sentence.
    pub(crate) purpose: String,
    /// Decides values, names and order.
    #[serde(default = "default::seed")]
    pub(crate) seed: u64,
    /// Active series.
    pub(crate) series: u32,
    /// Version of remote write.
    #[serde(default = "default::protocol")]
    pub(crate) protocol: Protocol,
    /// Labels.
    #[serde(default = "default::shape")]
    pub(crate) shape: Shape,
    /// Order of the series.
    #[serde(default = "default::order")]
    pub(crate) order: Order,
    /// Samples in one request.
    #[serde(default = "default::samples_per_request")]
    pub(crate) samples_per_request: u32,
    /// Samples of one series in one request: 1 live, more for a backlog.
    #[serde(default = "default::one")]
    pub(crate) samples_per_series: u32,
    /// Connections, each with a thread.
    #[serde(default = "default::connections")]
    pub(crate) connections: u32,
    /// Pace.
    #[serde(default = "default::mode")]
    pub(crate) mode: Mode,
    /// Samples per second; for [`Mode::Open`].
    #[serde(default)]
    pub(crate) rate: u64,
    /// How often each series is sent. A duration may stop earlier.
    pub(crate) rounds: u32,
    /// Rounds that do not count for the steady figures.
    #[serde(default)]
    pub(crate) warmup_rounds: u32,
    /// Seconds after which no new round begins; 0 for no limit.
    #[serde(default)]
    pub(crate) duration_s: u64,
    /// Virtual time between two samples of a series.
    #[serde(default = "default::interval_ms")]
    pub(crate) interval_ms: i64,
    /// Virtual time of the first sample. Without it: so that the last sample is of now.
    #[serde(default)]
    pub(crate) start_time_ms: Option<i64>,
    /// Kinds of values.
    #[serde(default = "default::values")]
    pub(crate) values: Values,
    /// Renamed scrape targets.
    #[serde(default)]
    pub(crate) churn: Option<Churn>,
    /// Requests out of order.
    #[serde(default)]
    pub(crate) late: Option<Late>,
    /// Requests sent a second time after their answer, in percent.
    #[serde(default)]
    pub(crate) duplicate_percent: u32,
    /// How bodies come to be.
    #[serde(default = "default::compression")]
    pub(crate) compression: Compression,
    /// Header that names the tenant.
    #[serde(default = "default::tenant_header")]
    pub(crate) tenant_header: String,
    /// The tenant; empty for no header.
    #[serde(default)]
    pub(crate) tenant: String,
}

/// The canonical choices; see the fields.
mod default {
    use super::{Compression, Mode, Order, Protocol, Shape, Values};

    pub(super) fn seed() -> u64 {
        777
    }
    pub(super) fn protocol() -> Protocol {
        Protocol::V1
    }
    pub(super) fn shape() -> Shape {
        Shape::K10
    }
    pub(super) fn order() -> Order {
        Order::Scrape
    }
    pub(super) fn samples_per_request() -> u32 {
        2000
    }
    pub(super) fn one() -> u32 {
        1
    }
    pub(super) fn connections() -> u32 {
        2
    }
    pub(super) fn mode() -> Mode {
        Mode::Closed
    }
    pub(super) fn interval_ms() -> i64 {
        15_000
    }
    pub(super) fn values() -> Values {
        Values { constant: 45, counter: 35, gauge: 20, special: 0 }
    }
    pub(super) fn compression() -> Compression {
        Compression::Prebuilt
    }
    pub(super) fn tenant_header() -> String {
        "THANOS-TENANT".to_owned()
    }
}

/// Flags that override a key of the scenario file. Same names, same meaning.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Overrides {
    /// Decides values, names and order.
    #[arg(long)]
    seed: Option<u64>,
    /// Active series.
    #[arg(long)]
    series: Option<u32>,
    /// Version of remote write.
    #[arg(long, value_enum)]
    protocol: Option<Protocol>,
    /// Labels of a series.
    #[arg(long, value_enum)]
    shape: Option<Shape>,
    /// Order of the series in the requests.
    #[arg(long, value_enum)]
    order: Option<Order>,
    /// Samples in one request.
    #[arg(long)]
    samples_per_request: Option<u32>,
    /// Samples of one series in one request.
    #[arg(long)]
    samples_per_series: Option<u32>,
    /// Connections, each with a thread.
    #[arg(long)]
    connections: Option<u32>,
    /// Pace.
    #[arg(long, value_enum)]
    mode: Option<Mode>,
    /// Samples per second; implies `--mode open`.
    #[arg(long)]
    rate: Option<u64>,
    /// How often each series is sent.
    #[arg(long)]
    rounds: Option<u32>,
    /// Rounds that do not count for the steady figures.
    #[arg(long)]
    warmup_rounds: Option<u32>,
    /// Seconds after which no new round begins.
    #[arg(long)]
    duration_s: Option<u64>,
    /// Virtual time between two samples of a series.
    #[arg(long)]
    interval_ms: Option<i64>,
    /// Virtual time of the first sample, milliseconds since the epoch.
    #[arg(long)]
    start_time_ms: Option<i64>,
    /// Percent of scrape targets renamed every 40 rounds (or what the file says).
    #[arg(long)]
    churn_percent: Option<f64>,
    /// Percent of requests sent a second time after their answer.
    #[arg(long)]
    duplicate_percent: Option<u32>,
    /// How bodies come to be.
    #[arg(long, value_enum)]
    compression: Option<Compression>,
    /// Header that names the tenant.
    #[arg(long)]
    tenant_header: Option<String>,
    /// The tenant.
    #[arg(long)]
    tenant: Option<String>,
}

impl Scenario {
    /// Whose the load is: the tenant it names, or else the one that the target takes for it.
    pub(crate) fn tenant_or<'a>(&'a self, default: &'a str) -> &'a str {
        if self.tenant.is_empty() { default } else { &self.tenant }
    }

    /// A ready-made scenario by name, or else a file by path.
    pub(crate) fn load(name: &str) -> Result<Self> {
        if let Some((_, text)) = BUILT_IN.iter().find(|(known, _)| *known == name) {
            return Self::parse(name, text);
        }
        let path = Path::new(name);
        if !path.exists() {
            let known: Vec<_> = BUILT_IN.iter().map(|(known, _)| *known).collect();
            let reason = format!("no such file, and not one of {}", known.join(", "));
            return Err(Error::Scenario { name: name.to_owned(), reason });
        }
        Self::parse(name, &std::fs::read_to_string(path).map_err(at(path))?)
    }

    /// A scenario from its text; `name` is for the error.
    pub(crate) fn parse(name: &str, text: &str) -> Result<Self> {
        let scenario: Self = toml::from_str(text).map_err(|error| Error::Scenario {
            name: name.to_owned(),
            reason: error.to_string(),
        })?;
        scenario.check()?;
        Ok(scenario)
    }

    /// The scenario with flags on top.
    pub(crate) fn with(mut self, flags: &Overrides) -> Result<Self> {
        fn set<T: Clone>(field: &mut T, flag: Option<&T>) {
            if let Some(value) = flag {
                *field = value.clone();
            }
        }
        set(&mut self.seed, flags.seed.as_ref());
        set(&mut self.series, flags.series.as_ref());
        set(&mut self.protocol, flags.protocol.as_ref());
        set(&mut self.shape, flags.shape.as_ref());
        set(&mut self.order, flags.order.as_ref());
        set(&mut self.samples_per_request, flags.samples_per_request.as_ref());
        set(&mut self.samples_per_series, flags.samples_per_series.as_ref());
        set(&mut self.connections, flags.connections.as_ref());
        set(&mut self.rounds, flags.rounds.as_ref());
        set(&mut self.warmup_rounds, flags.warmup_rounds.as_ref());
        set(&mut self.duration_s, flags.duration_s.as_ref());
        set(&mut self.interval_ms, flags.interval_ms.as_ref());
        set(&mut self.duplicate_percent, flags.duplicate_percent.as_ref());
        set(&mut self.compression, flags.compression.as_ref());
        set(&mut self.tenant_header, flags.tenant_header.as_ref());
        set(&mut self.tenant, flags.tenant.as_ref());
        self.start_time_ms = flags.start_time_ms.or(self.start_time_ms);
        if let Some(rate) = flags.rate {
            self.rate = rate;
            self.mode = Mode::Open;
        }
        set(&mut self.mode, flags.mode.as_ref());
        if let Some(percent) = flags.churn_percent {
            let every_rounds = self.churn.map_or(40, |churn| churn.every_rounds);
            self.churn = Some(Churn { percent, every_rounds });
        }
        self.check()?;
        Ok(self)
    }

    /// Requests in one round.
    #[cfg(test)]
    pub(crate) fn requests(&self) -> u32 {
        self.series.div_ceil(self.series_per_request())
    }

    /// Series in one request; the last of a round may have fewer.
    pub(crate) fn series_per_request(&self) -> u32 {
        (self.samples_per_request / self.samples_per_series).max(1)
    }

    /// Samples in one round.
    pub(crate) fn samples_per_round(&self) -> u64 {
        u64::from(self.series) * u64::from(self.samples_per_series)
    }

    /// Steps of virtual time in all rounds.
    pub(crate) fn steps(&self) -> u32 {
        self.rounds * self.samples_per_series
    }

    /// Fixes the virtual start, so that the last sample falls to `now_ms`, on the grid of the
    /// interval. A start that is set stays.
    pub(crate) fn anchored(mut self, now_ms: i64) -> Result<Self> {
        if self.start_time_ms.is_none() {
            let span = i64::from(self.steps()) * self.interval_ms;
            self.start_time_ms = Some((now_ms - span) / self.interval_ms * self.interval_ms);
        }
        self.check()?;
        Ok(self)
    }

    /// Virtual time of the first sample.
    pub(crate) fn start_ms(&self) -> i64 {
        self.start_time_ms.unwrap_or(EPOCH_MS)
    }

    /// Every rule about values, in one place.
    fn check(&self) -> Result<()> {
        let mix = self.values;
        let last = i64::from(self.rounds)
            .checked_mul(i64::from(self.samples_per_series))
            .and_then(|steps| steps.checked_mul(self.interval_ms))
            .and_then(|span| span.checked_add(self.start_ms()))
            .unwrap_or(i64::MAX);
        let churn = self
            .churn
            .is_none_or(|churn| churn.every_rounds > 0 && (0.0..=100.0).contains(&churn.percent));
        let header_text = |text: &str| text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
        let rules = [
            (self.series > 0, "series must be above 0"),
            (self.samples_per_series > 0, "samples_per_series must be above 0"),
            (self.samples_per_series <= 10_000, "samples_per_series must be 10000 at most"),
            (
                self.samples_per_request >= self.samples_per_series,
                "samples_per_request must be samples_per_series at least",
            ),
            (self.connections > 0, "connections must be above 0"),
            (self.rounds > 0, "rounds must be above 0"),
            (self.warmup_rounds < self.rounds, "warmup_rounds must be below rounds"),
            (self.interval_ms > 0, "interval_ms must be above 0"),
            (
                self.rounds.checked_mul(self.samples_per_series).is_some(),
                "rounds times samples_per_series must fit 32 bits",
            ),
            (
                TIME_SIX_BYTES.contains(&self.start_ms()) && TIME_SIX_BYTES.contains(&last),
                "the virtual time must stay between 1971 and 2109",
            ),
            (
                [mix.constant, mix.counter, mix.gauge, mix.special]
                    .iter()
                    .try_fold(0u32, |sum, share| sum.checked_add(*share))
                    == Some(100),
                "values must add up to 100",
            ),
            (self.mode == Mode::Closed || self.rate > 0, "an open scenario needs a rate"),
            (churn, "churn.percent must be 0 to 100 and churn.every_rounds above 0"),
            (self.late.is_none_or(|late| late.percent <= 100), "late.percent must be 0 to 100"),
            (self.late.is_none_or(|late| late.rounds > 0), "late.rounds must be above 0"),
            (self.duplicate_percent <= 100, "duplicate_percent must be 0 to 100"),
            (
                header_text(&self.tenant) && header_text(&self.tenant_header),
                "tenant and tenant_header must be printable ASCII",
            ),
        ];
        match rules.iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, reason)) => {
                Err(Error::Scenario { name: self.name.clone(), reason: (*reason).to_owned() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_built_in_scenario_is_valid_and_bears_its_name() {
        for (name, text) in BUILT_IN {
            assert_eq!(Scenario::parse(name, text).unwrap().name, *name);
        }
    }

    #[test]
    fn every_file_is_built_in() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/scenarios");
        let files = std::fs::read_dir(folder).unwrap().count();
        assert_eq!(files, BUILT_IN.len());
    }

    #[test]
    fn a_scenario_survives_its_json() {
        let scenario = Scenario::load("w4-churn").unwrap();
        let text = serde_json::to_string(&scenario).unwrap();
        assert_eq!(serde_json::from_str::<Scenario>(&text).unwrap(), scenario);
    }

    #[test]
    fn wrong_scenarios_are_refused_with_the_reason() {
        let check = |text: &str, expect: &str| {
            let base = "name = \"x\"\npurpose = \"x\"\n";
            let error = Scenario::parse("x", &format!("{base}{text}")).unwrap_err().to_string();
            assert!(error.contains(expect), "{error} should say {expect}");
        };
        check("series = 0\nrounds = 1", "series must be above 0");
        check("series = 1\nrounds = 1\nserie = 2", "serie");
        check("series = 1\nrounds = 1\nmode = \"open\"", "needs a rate");
        check("series = 1\nrounds = 1\n[values]\nconstant = 9\ncounter = 1\ngauge = 1", "100");
        check("series = 1\nrounds = 1\n[late]\npercent = 1\nrounds = 0", "late.rounds");
        check("series = 1\nrounds = 4294967295\nsamples_per_series = 9", "32 bits");
        check("series = 1\nrounds = 1\nstart_time_ms = 5", "1971");
        check("series = 1\nrounds = 1\ntenant = \"a\\r\\nb\"", "ASCII");
    }

    #[test]
    fn flags_win_over_the_file() {
        let flags = Overrides {
            series: Some(7),
            rate: Some(9),
            churn_percent: Some(2.5),
            ..<_>::default()
        };
        let scenario = Scenario::load("w1-10k").unwrap().with(&flags).unwrap();
        assert_eq!((scenario.series, scenario.rate, scenario.mode), (7, 9, Mode::Open));
        assert_eq!(scenario.churn.unwrap().every_rounds, 40);
        assert_eq!(scenario.requests(), 1);
    }

    #[test]
    fn the_last_sample_is_of_now() {
        let scenario = Scenario::load("smoke").unwrap().anchored(1_700_000_000_000).unwrap();
        let end = scenario.start_ms() + i64::from(scenario.steps()) * scenario.interval_ms;
        assert!((1_700_000_000_000 - end) < scenario.interval_ms);
        assert_eq!(scenario.start_ms() % scenario.interval_ms, 0);
    }
}
