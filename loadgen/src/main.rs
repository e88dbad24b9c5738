//! `loadgen`: the independent judge of remote-write receivers.
//!
//! It loads any target that speaks remote write 1.0 or 2.0, keeps a ledger of what was
//! acknowledged, reads everything back and compares, and sets receivers side by side under one
//! load. It shares no code with the receiver it judges: encoders, decoders and messages are its
//! own.
//!
//! ```text
//! scenario ──> stream ──> shape, encode ──> snappy, payload ──> sender ──> target
//!  what to      every       labels and        built before        http,
//!  send         sample,     bytes             the clock           throttle,
//!               a function                    starts              ledger
//!               of the seed                                          │
//!                   └────────────────> oracle <── verify <── store_api, prometheus
//!                                        acked ⊆ stored ⊆ sent
//! ```
//!
//! `loadgen run` loads, `verify` checks a ledger against what is stored, `compare` measures
//! receivers in turns, `fingerprint` proves that the load is what it was, `sink` is the null
//! target. Exit codes: 0 all well, 1 the target broke a promise or refused, 2 could not do it.
#![expect(
    clippy::disallowed_methods,
    reason = "the bans keep clocks and threads out of the receiver; this is a tool"
)]
#![forbid(unsafe_code)]

mod scenario;
mod stream;
mod shape;
mod encode;
mod snappy;
mod payload;
mod throttle;
mod http;
mod ledger;
mod sender;
mod oracle;
mod xor;
mod store_api;
mod prometheus;
mod verify;
mod target;
mod compare;
mod report;
mod progress;
mod print;
mod fingerprint;
mod sink;
mod error;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::{Parser, Subcommand};

use crate::compare::Plan;
use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::http::Url;
use crate::ledger::{History, Ledger};
use crate::print::{say, tell};
use crate::progress::Bar;
use crate::report::{RunReport, per};
use crate::scenario::{BUILT_IN, Overrides, Scenario};
use crate::sender::Job;
use crate::stream::Stream;
use crate::target::{Kind, Program};
use crate::verify::Source;

#[derive(Debug, Parser)]
#[command(name = "loadgen", version, about = "The independent judge of remote-write receivers.")]
struct Cli {
    #[command(subcommand)]
    command: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Load one target.
    Run(RunFlags),
    /// Read a load back and check it against its ledger.
    Verify(VerifyFlags),
    /// Measure several receivers under one load, turn by turn.
    Compare(CompareFlags),
    /// Print hash and entropy of the load of scenarios.
    Fingerprint(ScenarioFlags),
    /// List the ready-made scenarios.
    Scenarios,
    /// Be the null target: answer 204 to everything.
    Sink {
        /// Where to listen.
        #[arg(long, default_value = "127.0.0.1:19290")]
        listen: String,
    },
}

#[derive(Debug, clap::Args)]
struct ScenarioFlags {
    /// A ready-made scenario or a TOML file; may be given several times where that makes sense.
    #[arg(long)]
    scenario: Vec<String>,
    #[command(flatten)]
    overrides: Overrides,
}

#[derive(Debug, clap::Args)]
struct RunFlags {
    /// Where to write to, e.g. <http://127.0.0.1:19291/api/v1/receive>.
    #[arg(long)]
    target: String,
    #[command(flatten)]
    scenario: ScenarioFlags,
    /// Folder of the ledger. An existing one is continued after its last round.
    #[arg(long)]
    ledger: Option<PathBuf>,
    /// Write the report as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Process of the target on this machine: its CPU time is reported.
    #[arg(long)]
    pid: Option<u32>,
    /// Seconds a request is tried while the target says later, or nothing.
    #[arg(long, default_value_t = 60)]
    give_up_s: u64,
}

#[derive(Debug, clap::Args)]
struct VerifyFlags {
    /// Folder of the ledger.
    #[arg(long)]
    ledger: PathBuf,
    /// `host:port` of a Thanos StoreAPI.
    #[arg(long, conflicts_with = "prometheus", required_unless_present = "prometheus")]
    store_api: Option<String>,
    /// External label that carries the tenant on a StoreAPI; empty if there is none.
    #[arg(long, default_value = "tenant_id")]
    tenant_label: String,
    /// Tenant of a load that names none.
    #[arg(long, default_value = "default-tenant")]
    default_tenant: String,
    /// Base URL of a server that speaks Prometheus' API.
    #[arg(long)]
    prometheus: Option<String>,
    /// How to read there; by default remote read if the server has it.
    #[arg(long, value_enum)]
    method: Option<prometheus::Method>,
    /// Seconds during which missing samples may still show up.
    #[arg(long, default_value_t = 0)]
    patience_s: u64,
    /// Write the findings as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

#[derive(Debug, clap::Args)]
struct CompareFlags {
    #[command(flatten)]
    scenario: ScenarioFlags,
    /// Who takes part, in the order of the table; ratios are against the first.
    #[arg(long, value_enum, value_delimiter = ',')]
    targets: Vec<Kind>,
    /// The binary of Tidegate; takes part if given.
    #[arg(long)]
    tidegate: Option<PathBuf>,
    /// More arguments for Tidegate, e.g. `--tidegate-arg=--log.ack=relaxed`.
    #[arg(long, allow_hyphen_values = true)]
    tidegate_arg: Vec<String>,
    /// The binary of Prometheus.
    #[arg(long, default_value = "/usr/bin/prometheus")]
    prometheus: PathBuf,
    /// The binary of VictoriaMetrics.
    #[arg(long, default_value = "/usr/bin/victoria-metrics")]
    victoria_metrics: PathBuf,
    /// Turns of each target.
    #[arg(long, default_value_t = 3)]
    turns: u32,
    /// Seconds of quiet after the load that still count.
    #[arg(long, default_value_t = 5)]
    settle_s: u64,
    /// Where the servers keep their data. A real disk, or durability costs nothing and means
    /// nothing.
    #[arg(long, default_value = "/var/tmp")]
    work_dir: PathBuf,
    /// Read everything back after each turn and check it.
    #[arg(long)]
    verify: bool,
    /// Where turns are kept; a rerun skips what is there.
    #[arg(long, default_value = "compare.jsonl")]
    results: PathBuf,
    /// Write the summary as JSON.
    #[arg(long)]
    report: Option<PathBuf>,
}

fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Order::Run(flags) => run(&flags),
        Order::Verify(flags) => verify(&flags),
        Order::Compare(flags) => compare(&flags),
        Order::Fingerprint(flags) => fingerprint(&flags),
        Order::Scenarios => scenarios(),
        Order::Sink { listen } => sink::serve(&listen).map(|()| true),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            tell!("loadgen: {error}");
            ExitCode::from(2)
        }
    }
}

impl ScenarioFlags {
    /// The scenarios named, or `default`, with the flags on top.
    fn all(&self, default: &str) -> Result<Vec<Scenario>> {
        let default = [default.to_owned()];
        let names: &[String] = if self.scenario.is_empty() { &default } else { &self.scenario };
        names.iter().map(|name| Scenario::load(name)?.with(&self.overrides)).collect()
    }

    fn one(&self, default: &str) -> Result<Scenario> {
        match self.all(default)?.as_slice() {
            [scenario] => Ok(scenario.clone()),
            _ => Err(Error::Usage("give one --scenario here".to_owned())),
        }
    }
}

fn run(flags: &RunFlags) -> Result<bool> {
    let url = Url::parse(&flags.target)?;
    let mut scenario = flags.scenario.one("w1-200k")?;
    let mut first_round = 0;
    let mut ledger = None;
    match &flags.ledger {
        None => scenario = scenario.anchored(now_ms())?,
        Some(folder) => {
            let fresh = scenario.clone().anchored(now_ms())?;
            let (opened, history) = Ledger::open(folder, &fresh).or_else(|error| {
                // An older ledger has its own start of virtual time, which ours has to follow.
                let known = History::read(folder).map_err(|_| error)?.scenario;
                let start_time_ms = scenario.start_time_ms.or(known.start_time_ms);
                Ledger::open(folder, &Scenario { start_time_ms, ..scenario.clone() })
            })?;
            first_round = history.next_round();
            scenario.start_time_ms = history.scenario.start_time_ms;
            ledger = Some(opened);
        }
    }
    if first_round >= scenario.rounds {
        let reason = format!("the ledger holds {first_round} rounds; give --rounds above that");
        return Err(Error::Usage(reason));
    }
    let report = load(&scenario, &url, flags, ledger.as_ref(), first_round)?;
    report.print();
    write_report(flags.report.as_deref(), &report)?;
    Ok(report.is_clean())
}

fn load(
    scenario: &Scenario,
    url: &Url,
    flags: &RunFlags,
    ledger: Option<&Ledger>,
    first_round: u32,
) -> Result<RunReport> {
    let stream = Stream::new(scenario);
    let give_up = Duration::from_secs(flags.give_up_s);
    let job = Job { scenario, stream: &stream, url, ledger, first_round, give_up, keeps: true };
    let rounds = u64::from(scenario.rounds - first_round);
    let bar = Bar::new(&scenario.name, rounds * scenario.samples_per_round());
    let cpu_of = |pid: Option<u32>| pid.map(|pid| target::usage(pid).map(|usage| usage.cpu));
    let me = std::process::id();
    let generator_before = target::usage(me)?.cpu;
    let target_before = cpu_of(flags.pid).transpose()?;
    let outcome = sender::run(&job, |progress| bar.set(progress.acked_samples))?;
    drop(bar);
    let mut report = RunReport::of(scenario, &flags.target, &outcome);
    let share = |time: Duration| per(time.as_nanos() as f64, outcome.acked_samples);
    report.generator_ns_per_sample = share(target::usage(me)?.cpu.saturating_sub(generator_before));
    let target_after = cpu_of(flags.pid).transpose()?;
    report.target_ns_per_sample =
        target_after.zip(target_before).map(|(after, before)| share(after.saturating_sub(before)));
    Ok(report)
}

fn verify(flags: &VerifyFlags) -> Result<bool> {
    let history = History::read(&flags.ledger)?;
    if history.torn_size > 0 {
        say!("the ledger has a torn tail of {} bytes, left out", history.torn_size);
    }
    for (status, count) in &history.refused {
        say!("{count} requests were refused with {status}: stored or not, both is right");
    }
    let source = match (&flags.store_api, &flags.prometheus) {
        (Some(address), _) => {
            let (label, default) = (&flags.tenant_label, &flags.default_tenant);
            let tenant = history.scenario.tenant_or(default);
            let tenant = (!label.is_empty()).then(|| (label.clone(), tenant.to_owned()));
            Source::StoreApi { address: address.clone(), tenant }
        }
        (None, Some(url)) => Source::Prometheus(Url::parse(url)?, flags.method),
        (None, None) => return Err(Error::Usage("give --store-api or --prometheus".to_owned())),
    };
    let bar = Bar::new("reading back", 1000);
    let tick = |share: f64| bar.set((share * 1000.0) as u64);
    let patience = Duration::from_secs(flags.patience_s);
    let findings = verify::verify(&history, &source, patience, tick)?;
    drop(bar);
    report::print_findings(&findings);
    write_report(flags.report.as_deref(), &findings)?;
    Ok(findings.is_clean())
}

fn compare(flags: &CompareFlags) -> Result<bool> {
    let scenarios = flags.scenario.all("w1-200k")?;
    let kinds = match flags.targets.as_slice() {
        [] => {
            let tidegate = flags.tidegate.is_some().then_some(Kind::Tidegate);
            tidegate.into_iter().chain([Kind::VictoriaMetrics, Kind::Prometheus]).collect()
        }
        some => some.to_vec(),
    };
    let programs = kinds.iter().map(|kind| program(flags, *kind)).collect::<Result<Vec<_>>>()?;
    let plan = Plan {
        scenarios: &scenarios,
        programs: &programs,
        turns: flags.turns,
        settle: Duration::from_secs(flags.settle_s),
        verify: flags.verify,
        results: &flags.results,
        work_dir: &flags.work_dir,
        now_ms: now_ms(),
    };
    let turns = compare::run(&plan, |turn| {
        tell!(
            "{} {} turn {}: {:.0} ns/sample, p99 {:.2} ms, {:.0} samples/s, others used {:.0} %",
            turn.key.scenario,
            turn.key.target.name(),
            turn.key.turn + 1,
            turn.steady_ns_per_sample,
            turn.latency.p99_ms,
            turn.samples_per_second,
            turn.foreign_percent
        );
    })?;
    let rows = compare::summarize(&turns, &programs);
    compare::print(&rows);
    write_report(flags.report.as_deref(), &rows)?;
    Ok(rows.iter().all(|row| row.refused_requests == 0 && row.differences.unwrap_or(0) == 0))
}

fn program(flags: &CompareFlags, kind: Kind) -> Result<Program> {
    let (binary, arguments) = match kind {
        Kind::Tidegate => {
            let missing = || Error::Usage("give the binary: --tidegate PATH".to_owned());
            (flags.tidegate.clone().ok_or_else(missing)?, flags.tidegate_arg.clone())
        }
        Kind::Prometheus => (flags.prometheus.clone(), Vec::new()),
        Kind::VictoriaMetrics => (flags.victoria_metrics.clone(), Vec::new()),
        Kind::Null => {
            let me = std::env::current_exe();
            (me.map_err(error::at(Path::new("/proc/self/exe")))?, Vec::new())
        }
    };
    // A server runs in a folder of its own, so its path must not depend on ours.
    let binary = std::path::absolute(&binary).map_err(error::at(&binary))?;
    Ok(Program { kind, binary, arguments })
}

fn fingerprint(flags: &ScenarioFlags) -> Result<bool> {
    for scenario in flags.all("w1-200k")? {
        say!("{}: {}", scenario.name, Fingerprint::of(&scenario)?);
    }
    Ok(true)
}

fn scenarios() -> Result<bool> {
    for (name, text) in BUILT_IN {
        say!("{name:<12} {}", Scenario::parse(name, text)?.purpose);
    }
    Ok(true)
}

fn write_report(path: Option<&Path>, report: &impl serde::Serialize) -> Result<()> {
    path.map_or(Ok(()), |path| report::write_json(path, report))
}

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_millis() as i64
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_flags_are_consistent() {
        Cli::command().debug_assert();
    }
}
