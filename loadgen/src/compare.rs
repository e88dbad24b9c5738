//! Comparison: several receivers, one load, turn by turn.
//!
//! The turns of the targets are interleaved (and rotated), so that a slow hour of the machine hits
//! all of them. Each turn is a fresh server on an empty folder:
//!
//! ```text
//! start · warm-up rounds (series are created) | rounds that count · settle · weigh · check · stop
//!                                             ^ CPU and samples noted
//! ```
//!
//! CPU per sample is the slope after the warm-up, settling included: what a receiver puts off to
//! the background is not free. What the warm-up cost above that slope is the creation of series.
//!
//! ## Crash
//!
//! Each turn is appended as one JSON line as soon as it is done. A rerun skips the turns it finds,
//! if scenario, program and arguments are the same; a torn last line is ignored.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result, at};
use crate::http::Url;
use crate::ledger::{History, Ledger};
use crate::print::say;
use crate::progress::Bar;
use crate::report::{Latency, per};
use crate::scenario::Scenario;
use crate::sender::{self, Job, Outcome};
use crate::stream::Stream;
use crate::target::{self, Durability, Kind, Program, Server, Usage};
use crate::throttle::{Clock as _, SystemClock};
use crate::verify::{Source, verify};

/// How long a request is tried before a turn fails.
const GIVE_UP: Duration = Duration::from_mins(2);

/// How long samples may stay invisible after their answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// How a comparison is run.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) scenarios: &'a [Scenario],
    pub(crate) programs: &'a [Program],
    pub(crate) turns: u32,
    /// Quiet time after the load that still counts.
    pub(crate) settle: Duration,
    /// Whether all data is read back and checked after each turn.
    pub(crate) verify: bool,
    /// Where turns are kept.
    pub(crate) results: &'a Path,
    /// Where the servers keep their data.
    pub(crate) work_dir: &'a Path,
    /// Now, in milliseconds since the epoch: the virtual time of the last sample.
    pub(crate) now_ms: i64,
}

/// What identifies a turn.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub(crate) struct Key {
    pub(crate) scenario: String,
    pub(crate) target: Kind,
    pub(crate) turn: u32,
    /// The scenario in full, without its start.
    settings: String,
    program: String,
}

/// The result of one turn.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Turn {
    #[serde(flatten)]
    pub(crate) key: Key,
    pub(crate) series: u32,
    pub(crate) durability: Durability,
    /// CPU of the server per sample once all series exist.
    pub(crate) steady_ns_per_sample: f64,
    /// CPU of the server per sample over the whole turn.
    pub(crate) whole_ns_per_sample: f64,
    /// CPU of the server per new series.
    pub(crate) creation_us_per_series: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) latency: Latency,
    pub(crate) send_lag: Latency,
    pub(crate) rss_size_max: u64,
    pub(crate) disk_bytes_per_sample: f64,
    pub(crate) written_bytes_per_sample: f64,
    /// Bodies on the wire, compressed.
    #[serde(default)]
    pub(crate) body_bytes_per_sample: f64,
    pub(crate) acked_samples: u64,
    pub(crate) refused_requests: u64,
    pub(crate) retried_requests: u64,
    pub(crate) network_errors: u64,
    pub(crate) generator_ns_per_sample: f64,
    /// Share of the machine that neither server nor generator used while the load ran. High values
    /// spoil latencies, less so CPU per sample.
    pub(crate) foreign_percent: f64,
    /// Differences found by the oracle; none if it was not asked.
    pub(crate) differences: Option<u64>,
}

/// Runs every turn that is not in the results yet, and returns all of this plan.
pub(crate) fn run(plan: &Plan<'_>, mut tell: impl FnMut(&Turn)) -> Result<Vec<Turn>> {
    let known = read_results(plan.results)?;
    let mut turns = Vec::new();
    for scenario in plan.scenarios {
        for turn in 0..plan.turns {
            for at in 0..plan.programs.len() {
                let program = &plan.programs[(at + turn as usize) % plan.programs.len()];
                let key = key(scenario, program, turn)?;
                if let Some(result) = known.iter().find(|result| result.key == key) {
                    turns.push(result.clone());
                    continue;
                }
                let result = one_turn(plan, scenario, program, key)?;
                append_result(plan.results, &result)?;
                tell(&result);
                turns.push(result);
            }
        }
    }
    Ok(turns)
}

fn key(scenario: &Scenario, program: &Program, turn: u32) -> Result<Key> {
    let settings = serde_json::to_string(scenario)
        .map_err(|error| Error::Usage(format!("scenario: {error}")))?;
    Ok(Key {
        scenario: scenario.name.clone(),
        target: program.kind,
        turn,
        settings,
        program: program.identity()?,
    })
}

fn one_turn(plan: &Plan<'_>, scenario: &Scenario, program: &Program, key: Key) -> Result<Turn> {
    let scenario = &scenario.clone().anchored(plan.now_ms)?;
    let stream = Stream::new(scenario);
    let server = program.start(plan.work_dir)?;
    let folder = server.side_folder();
    let wanted = plan.verify && program.kind != Kind::Null;
    let ledger =
        wanted.then(|| Ledger::open(&folder, scenario)).transpose()?.map(|(ledger, _)| ledger);
    let job = Job {
        scenario,
        stream: &stream,
        url: &server.addresses().write,
        ledger: ledger.as_ref(),
        first_round: 0,
        give_up: GIVE_UP,
        keeps: program.kind != Kind::Null,
    };
    let weighed = weigh(&job, &server, plan.settle, &key)?;
    let differences = match ledger {
        Some(_) => Some(check(&server, &History::read(&folder)?)?),
        None => None,
    };
    let disk_size = server.disk_size()?;
    Ok(weighed.turn(key, scenario, program, disk_size, differences))
}

/// What was noted during a turn.
struct Weighed {
    outcome: Outcome,
    before: Usage,
    /// Samples and CPU at the end of the warm-up.
    warm: (u64, Duration),
    after: Usage,
    generator: Duration,
    foreign_percent: f64,
}

fn weigh(job: &Job<'_>, server: &Server, settle: Duration, key: &Key) -> Result<Weighed> {
    let scenario = job.scenario;
    let warmup_samples = u64::from(scenario.warmup_rounds) * scenario.samples_per_round();
    let all = u64::from(scenario.rounds) * scenario.samples_per_round();
    let what = format!("{} {} {}", key.scenario, key.target.name(), key.turn + 1);
    let bar = Bar::new(&what, all);
    let me = std::process::id();
    let clock = SystemClock::start();
    let before = server.usage()?;
    let (busy_before, me_before) = (target::machine_busy()?, target::usage(me)?.cpu);
    let mut warm = (warmup_samples == 0).then_some((0, before.cpu));
    let outcome = sender::run(job, |progress| {
        bar.set(progress.acked_samples);
        if warm.is_none() && progress.acked_samples >= warmup_samples && !progress.is_done {
            let usage = server.usage();
            warm = usage.ok().map(|usage| (progress.acked_samples, usage.cpu));
        }
    })?;
    let generator = target::usage(me)?.cpu.saturating_sub(me_before);
    let busy = target::machine_busy()?.saturating_sub(busy_before);
    let foreign = busy
        .saturating_sub(generator)
        .saturating_sub(server.usage()?.cpu.saturating_sub(before.cpu));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let machine = clock.now().as_secs_f64() * cores as f64;
    clock.sleep_until(clock.now() + settle);
    Ok(Weighed {
        warm: warm.unwrap_or((0, before.cpu)),
        after: server.usage()?,
        before,
        generator,
        foreign_percent: 100.0 * foreign.as_secs_f64() / machine.max(1e-9),
        outcome,
    })
}

impl Weighed {
    fn turn(
        self,
        key: Key,
        scenario: &Scenario,
        program: &Program,
        disk_size: u64,
        differences: Option<u64>,
    ) -> Turn {
        let Self { outcome, before, warm, after, generator, foreign_percent } = self;
        let samples = outcome.acked_samples;
        let nanos = |time: Duration| time.as_nanos() as f64;
        let steady = per(nanos(after.cpu.saturating_sub(warm.1)), samples.saturating_sub(warm.0));
        let creation = nanos(warm.1.saturating_sub(before.cpu)) - steady * warm.0 as f64;
        Turn {
            series: scenario.series,
            durability: program.kind.durability(&program.arguments),
            steady_ns_per_sample: steady,
            whole_ns_per_sample: per(nanos(after.cpu.saturating_sub(before.cpu)), samples),
            creation_us_per_series: creation.max(0.0) / 1000.0 / f64::from(scenario.series),
            samples_per_second: samples as f64 / outcome.elapsed.as_secs_f64().max(1e-9),
            latency: Latency::of(&outcome.latency_us),
            send_lag: Latency::of(&outcome.send_lag_us),
            rss_size_max: after.rss_size_max,
            disk_bytes_per_sample: per(disk_size as f64, samples),
            written_bytes_per_sample: per(after.written_size as f64, samples),
            body_bytes_per_sample: per(outcome.acked_body_size as f64, samples),
            acked_samples: samples,
            refused_requests: outcome.refused.values().sum(),
            retried_requests: outcome.retried.values().sum(),
            network_errors: outcome.network_errors,
            generator_ns_per_sample: per(nanos(generator), samples),
            foreign_percent,
            differences,
            key,
        }
    }
}

/// Reads everything back; a fast receiver that drops is slow.
fn check(server: &Server, history: &History) -> Result<u64> {
    let addresses = server.addresses();
    let source = match &addresses.store_api {
        // The server began empty: what it holds is of this load.
        Some(address) => Source::StoreApi { address: address.clone(), tenant: None },
        None => Source::Prometheus(Url { path: String::new(), ..addresses.http.clone() }, None),
    };
    let findings = verify(history, &source, PATIENCE, |_| {})?;
    Ok(findings.counts.values().sum())
}

fn read_results(path: &Path) -> Result<Vec<Turn>> {
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(text.lines().flat_map(serde_json::from_str).collect()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(at(path)(error)),
    }
}

fn append_result(path: &Path, turn: &Turn) -> Result<()> {
    let text =
        serde_json::to_string(turn).map_err(|error| Error::Usage(format!("result: {error}")))?;
    // The line break comes first too: a torn line before must not swallow this one.
    let mut file = OpenOptions::new().create(true).append(true).open(path).map_err(at(path))?;
    file.write_all(format!("\n{text}\n").as_bytes()).map_err(at(path))
}

/// Medians of the turns of one target under one scenario.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Summary {
    pub(crate) scenario: String,
    pub(crate) target: Kind,
    pub(crate) durability: Durability,
    pub(crate) turns: usize,
    pub(crate) steady_ns_per_sample: f64,
    /// Least and most of the turns.
    pub(crate) steady_spread: (f64, f64),
    pub(crate) creation_us_per_series: f64,
    pub(crate) samples_per_second: f64,
    pub(crate) p50_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) rss_size_max: f64,
    pub(crate) rss_bytes_per_series: f64,
    pub(crate) disk_bytes_per_sample: f64,
    pub(crate) body_bytes_per_sample: f64,
    pub(crate) foreign_percent: f64,
    pub(crate) refused_requests: u64,
    pub(crate) differences: Option<u64>,
    /// Steady CPU over that of the first target.
    pub(crate) cpu_ratio: f64,
    pub(crate) rss_ratio: f64,
    pub(crate) p99_ratio: f64,
}

/// One row per scenario and target; ratios against the first target of each scenario.
pub(crate) fn summarize(turns: &[Turn], programs: &[Program]) -> Vec<Summary> {
    let mut groups: BTreeMap<(&str, usize), Vec<&Turn>> = BTreeMap::new();
    for turn in turns {
        let place = programs.iter().position(|program| program.kind == turn.key.target);
        groups.entry((&turn.key.scenario, place.unwrap_or(0))).or_default().push(turn);
    }
    let mut rows: Vec<Summary> = groups.values().map(|group| summary(group)).collect();
    let firsts: BTreeMap<String, Summary> =
        rows.iter().rev().map(|row| (row.scenario.clone(), row.clone())).collect();
    for row in &mut rows {
        if let Some(first) = firsts.get(&row.scenario) {
            let ratio = |ours: f64, theirs: f64| if theirs > 0.0 { ours / theirs } else { 0.0 };
            row.cpu_ratio = ratio(row.steady_ns_per_sample, first.steady_ns_per_sample);
            row.rss_ratio = ratio(row.rss_size_max, first.rss_size_max);
            row.p99_ratio = ratio(row.p99_ms, first.p99_ms);
        }
    }
    rows
}

fn summary(turns: &[&Turn]) -> Summary {
    let all = |value: fn(&Turn) -> f64| {
        let mut values: Vec<f64> = turns.iter().map(|turn| value(turn)).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |value: fn(&Turn) -> f64| {
        let values = all(value);
        let (low, high) = ((values.len() - 1) / 2, values.len() / 2);
        f64::midpoint(values[low], values[high])
    };
    let steady = all(|turn| turn.steady_ns_per_sample);
    let first = turns[0];
    let rss_size_max = median(|turn| turn.rss_size_max as f64);
    Summary {
        scenario: first.key.scenario.clone(),
        target: first.key.target,
        durability: first.durability,
        turns: turns.len(),
        steady_ns_per_sample: median(|turn| turn.steady_ns_per_sample),
        steady_spread: (steady[0], steady[steady.len() - 1]),
        creation_us_per_series: median(|turn| turn.creation_us_per_series),
        samples_per_second: median(|turn| turn.samples_per_second),
        p50_ms: median(|turn| turn.latency.p50_ms),
        p99_ms: median(|turn| turn.latency.p99_ms),
        rss_size_max,
        rss_bytes_per_series: rss_size_max / f64::from(first.series),
        disk_bytes_per_sample: median(|turn| turn.disk_bytes_per_sample),
        body_bytes_per_sample: median(|turn| turn.body_bytes_per_sample),
        foreign_percent: median(|turn| turn.foreign_percent),
        refused_requests: turns.iter().map(|turn| turn.refused_requests).sum(),
        differences: turns.iter().map(|turn| turn.differences).sum(),
        cpu_ratio: 1.0,
        rss_ratio: 1.0,
        p99_ratio: 1.0,
    }
}

/// The table for people.
pub(crate) fn print(rows: &[Summary]) {
    say!(
        "{:<12} {:<17} {:>3} {:>5}  {:>8} {:>17} {:>7} {:>10}  \
         {:>8} {:>8}  {:>8} {:>8} {:>7} {:>8} {:>8} {:>5}",
        "scenario",
        "target",
        "dur",
        "turns",
        "ns/smpl",
        "least..most",
        "ratio",
        "us/new",
        "p50 ms",
        "p99 ms",
        "RSS MiB",
        "B/series",
        "ratio",
        "disk B/s",
        "wire B/s",
        "other"
    );
    for row in rows {
        let durability = match row.durability {
            Durability::None => "-".to_owned(),
            class => format!("{class:?}"),
        };
        say!(
            "{:<12} {:<17} {:>3} {:>5}  {:>8.0} {:>17} {:>7.2} {:>10.2}  \
             {:>8.2} {:>8.2}  {:>8.1} {:>8.0} {:>7.2} {:>8.2} {:>8.2} {:>4.0}%",
            row.scenario,
            row.target.name(),
            durability,
            row.turns,
            row.steady_ns_per_sample,
            format!("{:.0}..{:.0}", row.steady_spread.0, row.steady_spread.1),
            row.cpu_ratio,
            row.creation_us_per_series,
            row.p50_ms,
            row.p99_ms,
            row.rss_size_max / f64::from(1 << 20),
            row.rss_bytes_per_series,
            row.rss_ratio,
            row.disk_bytes_per_sample,
            row.body_bytes_per_sample,
            row.foreign_percent
        );
        if row.refused_requests > 0 || row.differences.is_some_and(|count| count > 0) {
            say!(
                "  BROKEN: {} requests refused, {} differences",
                row.refused_requests,
                row.differences.map_or("unchecked".to_owned(), |count| count.to_string())
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(target: Kind, turn: u32, steady: f64) -> Turn {
        Turn {
            key: Key {
                scenario: "s".to_owned(),
                target,
                turn,
                settings: "{}".to_owned(),
                program: "p".to_owned(),
            },
            series: 1000,
            durability: target.durability(&[]),
            steady_ns_per_sample: steady,
            whole_ns_per_sample: steady,
            creation_us_per_series: 1.0,
            samples_per_second: 1.0,
            latency: Latency { p99_ms: steady / 100.0, ..Latency::default() },
            send_lag: Latency::default(),
            rss_size_max: 1 << 20,
            disk_bytes_per_sample: 1.0,
            written_bytes_per_sample: 1.0,
            body_bytes_per_sample: 1.0,
            acked_samples: 1,
            refused_requests: 0,
            retried_requests: 0,
            network_errors: 0,
            generator_ns_per_sample: 1.0,
            foreign_percent: 0.0,
            differences: Some(0),
        }
    }

    #[test]
    fn results_survive_a_torn_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("results.jsonl");
        assert!(read_results(&path).unwrap().is_empty());
        append_result(&path, &turn(Kind::Null, 0, 5.0)).unwrap();
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str(&text.clone()[..40]);
        std::fs::write(&path, text).unwrap();
        append_result(&path, &turn(Kind::Null, 1, 6.0)).unwrap();
        let read = read_results(&path).unwrap();
        assert_eq!(read.iter().map(|turn| turn.key.turn).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(read[0].key, turn(Kind::Null, 0, 0.0).key);
    }

    #[test]
    fn medians_and_ratios() {
        let program = |kind| Program { kind, binary: "b".into(), arguments: Vec::new() };
        let programs = [program(Kind::VictoriaMetrics), program(Kind::Prometheus)];
        let turns = [
            turn(Kind::Prometheus, 0, 600.0),
            turn(Kind::VictoriaMetrics, 0, 100.0),
            turn(Kind::VictoriaMetrics, 1, 900.0),
            turn(Kind::VictoriaMetrics, 2, 200.0),
            turn(Kind::Prometheus, 1, 1000.0),
        ];
        let rows = summarize(&turns, &programs);
        assert_eq!(rows.len(), 2);
        assert_eq!((rows[0].target, rows[0].turns), (Kind::VictoriaMetrics, 3));
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-9, "{a} {b}");
        near(rows[0].steady_ns_per_sample, 200.0);
        near(rows[1].steady_ns_per_sample, 800.0);
        near(rows[1].cpu_ratio, 4.0);
        near(rows[1].p99_ratio, 4.0);
        near(rows[0].rss_bytes_per_series, 1048.576);
    }

    #[test]
    fn the_slope_leaves_creation_out() {
        let mut stream_outcome = None;
        // A run against nobody fails; only its empty outcome is wanted.
        let scenario = Scenario::load("smoke").unwrap();
        let stream = Stream::new(&scenario);
        let url = Url { host: "127.0.0.1:1".to_owned(), path: "/".to_owned() };
        let give_up = Duration::ZERO;
        let job = Job {
            scenario: &scenario,
            stream: &stream,
            url: &url,
            ledger: None,
            first_round: 60,
            give_up,
            keeps: true,
        };
        if let Ok(outcome) = sender::run(&job, |_| {}) {
            stream_outcome = Some(outcome);
        }
        let mut outcome = stream_outcome.expect("no round, no request, no error");
        outcome.acked_samples = 1_200_000;
        let usage = |ms| Usage { cpu: Duration::from_millis(ms), ..Usage::default() };
        let weighed = Weighed {
            outcome,
            before: usage(100),
            warm: (400_000, Duration::from_millis(1_100)),
            after: usage(1_900),
            generator: Duration::ZERO,
            foreign_percent: 0.0,
        };
        let program = Program { kind: Kind::Prometheus, binary: "b".into(), arguments: Vec::new() };
        let turn =
            weighed.turn(turn(Kind::Prometheus, 0, 0.0).key, &scenario, &program, 2_400_000, None);
        let near = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{a} {b}");
        near(turn.steady_ns_per_sample, 1_000.0); // 800 ms for 800,000
        near(turn.creation_us_per_series, 30.0); // 1000 ms - 400 ms, for 20,000 series
        near(turn.whole_ns_per_sample, 1_500.0);
        near(turn.disk_bytes_per_sample, 2.0);
    }
}
