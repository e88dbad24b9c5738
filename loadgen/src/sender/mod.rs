//! The sender: blocking threads, one per connection, that carry a stream to a target.
//!
//! Connection `c` of `C` owns the requests `c, c + C, c + 2C, ...` of each round for the whole
//! run, so the samples of a series leave in order without any lock.
//!
//! ## Order
//!
//! build all payloads · start the clock · per request: wait until due, patch, `sent` into the
//! ledger, exchange (again and again while the target says *later*), `acked` into the ledger.
//! Closed mode ends each round together; open mode knows no rounds, only due times.
//!
//! ## What an answer means
//!
//! 2xx acked; in 2.0 only if it says that all samples were written, repeated ones too, for who does
//! not say so may not have understood the message · 429 and 5xx: the same request again, after
//! `Retry-After` or a growing pause · other: refused, counted, never again · no answer: again; the
//! request stays `sent` meanwhile.
//!
//! ## Latency
//!
//! From when a request was due until its final answer, pauses included; in closed mode it is due
//! when its connection is free. How late the generator itself was is told apart (`send_lag`).

use std::collections::BTreeMap;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use hdrhistogram::Histogram;

use crate::error::{Error, Result};
use crate::http::{Answer, Connection, Url};
use crate::ledger::{Event, Ledger};
use crate::payload::{Head, Payload};
use crate::scenario::{Mode, Protocol, Scenario};
use crate::stream::{RequestId, Stream};
use crate::throttle::{Clock, SystemClock, Throttle};

/// The longest silence of a target before the exchange counts as failed.
const ANSWER_TIMEOUT: Duration = Duration::from_mins(1);

/// Pauses between attempts, if the target names none.
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// The longest `Retry-After` that is obeyed.
const RETRY_AFTER_S_MAX: u64 = 30;

/// Longer latencies count as this one: an hour.
const LATENCY_US_MAX: u64 = 3_600_000_000;

/// How often the observer looks.
const OBSERVE_EVERY: Duration = Duration::from_millis(20);

/// What to carry where.
#[derive(Debug)]
pub(crate) struct Job<'a> {
    pub(crate) scenario: &'a Scenario,
    pub(crate) stream: &'a Stream,
    pub(crate) url: &'a Url,
    pub(crate) ledger: Option<&'a Ledger>,
    /// Where to go on; 0 for a new load.
    pub(crate) first_round: u32,
    /// How long a request is tried.
    pub(crate) give_up: Duration,
    /// Whether the target is one that keeps anything: then a 2xx in remote write 2.0 must say that
    /// all was written.
    pub(crate) keeps: bool,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Progress {
    pub(crate) acked_samples: u64,
    /// Whether this is the last word: all threads have ended.
    pub(crate) is_done: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub(crate) struct Outcome {
    pub(crate) elapsed: Duration,
    pub(crate) sent_requests: u64,
    pub(crate) acked_requests: u64,
    pub(crate) acked_samples: u64,
    /// Compressed bytes of acknowledged bodies.
    pub(crate) acked_body_size: u64,
    /// Requests sent again on purpose, and answered 2xx.
    pub(crate) repeated_requests: u64,
    /// Refused for good, by status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Sent again because the target said later, by status.
    pub(crate) retried: BTreeMap<u16, u64>,
    /// Exchanges without an answer.
    pub(crate) network_errors: u64,
    /// Connections opened beyond the first of each thread.
    pub(crate) reconnects: u64,
    /// Text of the first refusal.
    pub(crate) first_refusal: Option<String>,
    /// Microseconds from due to answer, warm-up apart.
    pub(crate) latency_us: Histogram<u64>,
    /// The same in the warm-up rounds.
    pub(crate) warmup_latency_us: Histogram<u64>,
    /// Microseconds the generator sent late although the connection was free; open mode only.
    pub(crate) send_lag_us: Histogram<u64>,
}

impl Outcome {
    fn new() -> Result<Self> {
        let histogram = || {
            Histogram::new_with_max(LATENCY_US_MAX, 3)
                .map_err(|error| Error::Usage(format!("histogram: {error}")))
        };
        Ok(Self {
            elapsed: Duration::ZERO,
            sent_requests: 0,
            acked_requests: 0,
            acked_samples: 0,
            acked_body_size: 0,
            repeated_requests: 0,
            refused: BTreeMap::new(),
            retried: BTreeMap::new(),
            network_errors: 0,
            reconnects: 0,
            first_refusal: None,
            latency_us: histogram()?,
            warmup_latency_us: histogram()?,
            send_lag_us: histogram()?,
        })
    }

    fn add(&mut self, other: Self) {
        self.sent_requests += other.sent_requests;
        self.acked_requests += other.acked_requests;
        self.acked_samples += other.acked_samples;
        self.acked_body_size += other.acked_body_size;
        self.repeated_requests += other.repeated_requests;
        self.network_errors += other.network_errors;
        self.reconnects += other.reconnects;
        for (sum, counts) in
            [(&mut self.refused, other.refused), (&mut self.retried, other.retried)]
        {
            for (status, count) in counts {
                *sum.entry(status).or_default() += count;
            }
        }
        self.first_refusal = self.first_refusal.take().or(other.first_refusal);
        self.latency_us += other.latency_us;
        self.warmup_latency_us += other.warmup_latency_us;
        self.send_lag_us += other.send_lag_us;
    }
}

/// What the threads share.
struct Shared {
    acked_samples: AtomicU64,
    /// No new round, please.
    stop: AtomicBool,
    barrier: Barrier,
}

/// Carries the stream, and tells `observe` how far it is, about fifty times a second.
pub(crate) fn run(job: &Job<'_>, mut observe: impl FnMut(Progress)) -> Result<Outcome> {
    let connections = job.scenario.connections.min(job.stream.requests());
    let shared = Shared {
        acked_samples: AtomicU64::new(0),
        stop: AtomicBool::new(false),
        barrier: Barrier::new(connections as usize),
    };
    let mut total = Outcome::new()?;
    let parts: Vec<Result<Outcome>> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..connections)
            .map(|connection| {
                let shared = &shared;
                scope.spawn(move || Sender::new(job, shared, connection)?.run(connections))
            })
            .collect();
        let clock = SystemClock::start();
        while !threads.iter().all(std::thread::ScopedJoinHandle::is_finished) {
            clock.sleep_until(clock.now() + OBSERVE_EVERY);
            let acked_samples = shared.acked_samples.load(Ordering::Relaxed);
            observe(Progress { acked_samples, is_done: false });
        }
        let acked_samples = shared.acked_samples.load(Ordering::Relaxed);
        observe(Progress { acked_samples, is_done: true });
        let broken = || Err(Error::Usage("a sender thread panicked".to_owned()));
        threads.into_iter().map(|thread| thread.join().unwrap_or_else(|_| broken())).collect()
    });
    for part in parts {
        let part = part?;
        total.elapsed = total.elapsed.max(part.elapsed);
        total.add(part);
    }
    if let Some(ledger) = job.ledger {
        ledger.sync()?;
    }
    Ok(total)
}

/// One thread: its connection, its payloads, what it counted.
struct Sender<'a> {
    job: &'a Job<'a>,
    shared: &'a Shared,
    connection: Connection,
    payloads: Vec<Payload>,
    first_request: u32,
    outcome: Outcome,
    clock: SystemClock,
}

impl<'a> Sender<'a> {
    fn new(job: &'a Job<'a>, shared: &'a Shared, first_request: u32) -> Result<Self> {
        Ok(Self {
            job,
            shared,
            connection: Connection::new(&job.url.host, ANSWER_TIMEOUT),
            payloads: Vec::new(),
            first_request,
            outcome: Outcome::new()?,
            clock: SystemClock::start(),
        })
    }

    fn run(mut self, connections: u32) -> Result<Outcome> {
        self.build(connections);
        self.shared.barrier.wait();
        self.clock = SystemClock::start();
        let result = match self.job.scenario.mode {
            Mode::Closed => self.run_closed(connections),
            Mode::Open => self.run_open(connections),
        };
        result?;
        self.outcome.elapsed = self.clock.now();
        self.outcome.reconnects = self.connection.opened_count.saturating_sub(1);
        Ok(self.outcome)
    }

    fn build(&mut self, connections: u32) {
        let Job { scenario, stream, url, first_round, .. } = *self.job;
        let tenant = (scenario.tenant_header.as_str(), scenario.tenant.as_str());
        let tenant = Some(tenant).filter(|(_, to)| !to.is_empty());
        let head = Head::new(&url.host, &url.path, tenant, scenario.protocol);
        self.payloads = (self.first_request..stream.requests())
            .step_by(connections as usize)
            .map(|request| {
                let id = RequestId { round: first_round, request };
                Payload::build(stream, id, scenario.compression, &head)
            })
            .collect();
    }

    /// Rounds in step with the other threads. A thread that fails still comes to the barrier, and
    /// all leave together.
    fn run_closed(&mut self, connections: u32) -> Result<()> {
        let mut result = Ok(());
        for round in self.rounds() {
            if result.is_ok() {
                result = self.round(round, connections, None);
            }
            if result.is_err() || self.is_over() {
                self.shared.stop.store(true, Ordering::Relaxed);
            }
            self.shared.barrier.wait();
            let stop = self.shared.stop.load(Ordering::Relaxed);
            self.shared.barrier.wait();
            if stop {
                break;
            }
        }
        result
    }

    fn run_open(&mut self, connections: u32) -> Result<()> {
        let Scenario { samples_per_series, rate, .. } = *self.job.scenario;
        let size = u64::from(self.job.scenario.series_per_request() * samples_per_series);
        let throttle = Throttle::new(size, rate);
        for round in self.rounds() {
            if self.is_over() || self.shared.stop.load(Ordering::Relaxed) {
                break;
            }
            if let Err(error) = self.round(round, connections, Some(throttle)) {
                self.shared.stop.store(true, Ordering::Relaxed);
                return Err(error);
            }
        }
        Ok(())
    }

    /// All rounds, and behind them those in which only requests held back are left.
    fn rounds(&self) -> std::ops::Range<u32> {
        let scenario = self.job.scenario;
        self.job.first_round..scenario.rounds + scenario.late.map_or(0, |late| late.rounds)
    }

    fn is_over(&self) -> bool {
        let limit_s = self.job.scenario.duration_s;
        limit_s > 0 && self.clock.now() >= Duration::from_secs(limit_s)
    }

    fn round(&mut self, round: u32, connections: u32, throttle: Option<Throttle>) -> Result<()> {
        for slot in 0..self.payloads.len() {
            let request = self.first_request + slot as u32 * connections;
            for id in self.job.stream.due_in(round, request) {
                if id.round < self.job.first_round || id.round >= self.job.scenario.rounds {
                    continue;
                }
                let free_at = self.clock.now();
                let due = throttle.map(|throttle| {
                    let rounds = u64::from(round - self.job.first_round);
                    let number = rounds * u64::from(self.job.stream.requests());
                    throttle.wait(number + u64::from(request), &self.clock)
                });
                self.payloads[slot].prepare(self.job.stream, id.round);
                let start = self.clock.now();
                if let Some(due) = due.filter(|due| *due >= free_at) {
                    let lag = start.saturating_sub(due);
                    self.outcome.send_lag_us.saturating_record(lag.as_micros() as u64);
                }
                self.deliver(slot, id, due.unwrap_or(start))?;
                if self.shared.stop.load(Ordering::Relaxed) && throttle.is_some() {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// One request, from `sent` to its final answer; and once more if it is to be repeated.
    fn deliver(&mut self, slot: usize, id: RequestId, due: Duration) -> Result<()> {
        self.record(id, Event::Sent)?;
        self.outcome.sent_requests += 1;
        let answer = self.exchange(slot, id)?;
        let latency = self.clock.now().saturating_sub(due).as_micros() as u64;
        let warmup = id.round - self.job.first_round < self.job.scenario.warmup_rounds;
        let latencies =
            if warmup { &mut self.outcome.warmup_latency_us } else { &mut self.outcome.latency_us };
        latencies.saturating_record(latency);
        if self.is_refused(slot, &answer) {
            self.refuse(&answer);
            return self.record(id, Event::Refused(answer.status));
        }
        self.record(id, Event::Acked(answer.status))?;
        let samples = u64::from(self.payloads[slot].samples());
        self.outcome.acked_requests += 1;
        self.outcome.acked_samples += samples;
        self.outcome.acked_body_size += self.payloads[slot].body().len() as u64;
        self.shared.acked_samples.fetch_add(samples, Ordering::Relaxed);
        if self.job.stream.is_repeated(id) {
            let answer = self.exchange(slot, id)?;
            if self.is_refused(slot, &answer) {
                self.refuse(&answer);
            } else {
                self.outcome.repeated_requests += 1;
            }
        }
        Ok(())
    }

    /// Whether a final answer means that not all of the request is stored.
    fn is_refused(&self, slot: usize, answer: &Answer) -> bool {
        let is_told = self.job.keeps && self.job.scenario.protocol == Protocol::V2;
        let all = Some(u64::from(self.payloads[slot].samples()));
        verdict(answer.status) == Verdict::Refused || is_told && answer.samples_written != all
    }

    fn refuse(&mut self, answer: &Answer) {
        *self.outcome.refused.entry(answer.status).or_default() += 1;
        self.outcome.first_refusal.get_or_insert_with(|| {
            let written = answer.samples_written.filter(|_| answer.body.is_empty());
            let written = written.map(|samples| format!("{samples} samples written"));
            let text = String::from_utf8_lossy(&answer.body);
            text.trim().chars().take(300).chain(written.unwrap_or_default().chars()).collect()
        });
    }

    /// Sends until there is a final answer.
    fn exchange(&mut self, slot: usize, id: RequestId) -> Result<Answer> {
        let start = self.clock.now();
        let mut pause = PAUSE_MIN;
        loop {
            let (wait, reason) = match self.connection.exchange(self.payloads[slot].message()) {
                Ok(answer) if verdict(answer.status) != Verdict::Later => return Ok(answer),
                Ok(answer) => {
                    *self.outcome.retried.entry(answer.status).or_default() += 1;
                    let said = answer
                        .retry_after_s
                        .map(|seconds| Duration::from_secs(seconds.min(RETRY_AFTER_S_MAX)));
                    (said.unwrap_or(pause), format!("status {}", answer.status))
                }
                Err(error) => {
                    self.outcome.network_errors += 1;
                    (pause, error.to_string())
                }
            };
            let tried = self.clock.now().saturating_sub(start);
            if tried + wait > self.job.give_up || self.shared.stop.load(Ordering::Relaxed) {
                let RequestId { round, request } = id;
                return Err(Error::GaveUp { round, request, seconds: tried.as_secs(), reason });
            }
            self.clock.sleep_until(self.clock.now() + wait);
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn record(&self, id: RequestId, event: Event) -> Result<()> {
        self.job.ledger.map_or(Ok(()), |ledger| ledger.record(id, event))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Acked,
    Refused,
    Later,
}

/// What a status means to a remote-write sender.
fn verdict(status: u16) -> Verdict {
    match status {
        200..=299 => Verdict::Acked,
        429 | 500..=599 => Verdict::Later,
        _ => Verdict::Refused,
    }
}

#[cfg(test)]
mod tests;
