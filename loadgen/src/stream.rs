//! The stream: every sample of a load as a pure function of the seed.
//!
//! `(series, step)` gives the value, `step` the time, `(series, round)` the generation of its
//! labels. Nothing is stored and nothing accumulates, so the sender writes sample 10^9 as cheaply
//! as the first, and the oracle regenerates any of them from a ledger that holds no samples.
//!
//! ```text
//! position  0 1 2 3 ...            where a series stands; request = position / series per request
//! series    0 1 2 3 ...            scrape order: the same; shuffled: a permutation by the seed
//! target    series / series per target,  metric = from series % series per target
//! step      round * samples per series + number within the request
//! ```
//!
//! ## Promises
//!
//! No value is `+0.0`: proto3 leaves that one out, and a template needs fields of one width.

use crate::scenario::{Order, Scenario, Shape};
use crate::shape;

/// Bits of the stale marker of Prometheus.
pub(crate) const STALE_NAN_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Values that expose a codec: both kinds of NaN, both infinities, the edges of the format, and
/// numbers whose bits jump. Cycled by step, so that every transition occurs.
const SPECIAL_BITS: [u64; 12] = [
    0x7ff8_0000_0000_0001, // the usual NaN
    STALE_NAN_BITS,
    0x7ff0_0000_0000_0000, // +inf
    0x8000_0000_0000_0000, // -0.0
    0xfff0_0000_0000_0000, // -inf
    0x0000_0000_0000_0001, // the smallest subnormal
    0x7fef_ffff_ffff_ffff, // the largest finite
    0x3ff0_0000_0000_0000, // 1.0
    0x3ff0_0000_0000_0001, // its neighbour
    0xc340_0000_0000_0001, // -(2^53 + 2)
    0x7ff8_dead_beef_cafe, // a NaN with a payload
    0x0010_0000_0000_0000, // the smallest normal
];

/// What the constants are.
const CONSTANTS: [f64; 8] = [1.0, 2.0, 0.5, 100.0, 4096.0, 1e9, 0.25, 1_700_000_000.0];

/// The kind of a series' values; all series of a metric have one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Constant,
    Counter,
    Gauge,
    Special,
}

/// A load as functions. Cheap to share, immutable.
#[derive(Debug)]
pub(crate) struct Stream {
    seed: u64,
    shape: Shape,
    series: u32,
    series_per_request: u32,
    samples_per_series: u32,
    start_ms: i64,
    interval_ms: i64,
    /// Upper bounds of the kinds in a draw of 0..100.
    kind_bounds: [u32; 3],
    /// Targets renamed per churn, and rounds between; `None` without churn.
    churn: Option<(u64, u32)>,
    late: Option<(u32, u32)>,
    duplicate_percent: u32,
    /// Series at a position; empty in scrape order.
    series_at: Vec<u32>,
    /// Position of a series; empty in scrape order.
    position_of: Vec<u32>,
}

/// A round and a request in it: the unit of sending and of the ledger.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct RequestId {
    pub(crate) round: u32,
    pub(crate) request: u32,
}

impl Stream {
    /// The stream of a scenario.
    pub(crate) fn new(scenario: &Scenario) -> Self {
        let values = scenario.values;
        let series_at = match scenario.order {
            Order::Scrape => Vec::new(),
            Order::Shuffled => permutation(scenario.series, scenario.seed),
        };
        let mut position_of = vec![0u32; series_at.len()];
        for (position, series) in (0u32..).zip(&series_at) {
            position_of[*series as usize] = position;
        }
        let targets = u64::from(scenario.series.div_ceil(shape::series_per_target(scenario.shape)));
        Self {
            seed: scenario.seed,
            shape: scenario.shape,
            series: scenario.series,
            series_per_request: scenario.series_per_request(),
            samples_per_series: scenario.samples_per_series,
            start_ms: scenario.start_ms(),
            interval_ms: scenario.interval_ms,
            kind_bounds: [
                values.constant,
                values.constant + values.counter,
                values.constant + values.counter + values.gauge,
            ],
            churn: scenario.churn.filter(|churn| churn.percent > 0.0).map(|churn| {
                let renamed = (targets as f64 * churn.percent / 100.0).round() as u64;
                (renamed.max(1), churn.every_rounds)
            }),
            late: scenario.late.map(|late| (late.percent, late.rounds)),
            duplicate_percent: scenario.duplicate_percent,
            series_at,
            position_of,
        }
    }

    pub(crate) fn seed(&self) -> u64 {
        self.seed
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    /// Number of series.
    pub(crate) fn series(&self) -> u32 {
        self.series
    }

    /// Requests in a round.
    pub(crate) fn requests(&self) -> u32 {
        self.series.div_ceil(self.series_per_request)
    }

    /// Samples of each series in a request.
    pub(crate) fn samples_per_series(&self) -> u32 {
        self.samples_per_series
    }

    /// The series of a request, in its order.
    pub(crate) fn series_of(&self, request: u32) -> impl Iterator<Item = u32> + '_ {
        let first = request * self.series_per_request;
        let last = first.saturating_add(self.series_per_request).min(self.series);
        (first..last)
            .map(|position| self.series_at.get(position as usize).copied().unwrap_or(position))
    }

    /// The request that carries a series.
    pub(crate) fn request_of(&self, series: u32) -> u32 {
        let position = self.position_of.get(series as usize).copied().unwrap_or(series);
        position / self.series_per_request
    }

    /// The scrape target a series belongs to.
    pub(crate) fn target_of(&self, series: u32) -> u32 {
        series / shape::series_per_target(self.shape)
    }

    /// How often the target of `series` was renamed up to `round`. Targets are renamed in turn,
    /// so the count is closed form: hits of `target` among the first `renamed * churns` turns.
    pub(crate) fn generation(&self, series: u32, round: u32) -> u32 {
        let Some((renamed, every_rounds)) = self.churn else { return 0 };
        let targets = u64::from(self.series.div_ceil(shape::series_per_target(self.shape)));
        let target = u64::from(self.target_of(series));
        let turns = renamed * u64::from(round / every_rounds);
        ((turns + targets - 1 - target) / targets) as u32
    }

    /// The churn a round belongs to: within one, no labels change.
    pub(crate) fn churn_of(&self, round: u32) -> u32 {
        self.churn.map_or(0, |(_, every_rounds)| round / every_rounds)
    }

    /// The kind of a series' values. 37 is coprime to 100: kinds alternate between metrics.
    pub(crate) fn kind(&self, series: u32) -> Kind {
        let draw = shape::metric(self.shape, series) * 37 % 100;
        match self.kind_bounds {
            [constant, _, _] if draw < constant => Kind::Constant,
            [_, counter, _] if draw < counter => Kind::Counter,
            [_, _, gauge] if draw < gauge => Kind::Gauge,
            _ => Kind::Special,
        }
    }

    /// Time of a step, in milliseconds.
    pub(crate) fn time(&self, step: u32) -> i64 {
        self.start_ms + i64::from(step) * self.interval_ms
    }

    /// The step of a time, if it is one; it may lie beyond the last.
    pub(crate) fn step(&self, time: i64) -> Option<u32> {
        let since = time.checked_sub(self.start_ms)?;
        if since < 0 || since % self.interval_ms != 0 {
            return None;
        }
        u32::try_from(since / self.interval_ms).ok()
    }

    /// Bits of a value, for a kind the caller knows.
    pub(crate) fn value(&self, kind: Kind, series: u32, step: u32) -> u64 {
        match kind {
            Kind::Constant => {
                let draw = mix(self.seed, series, u32::MAX);
                CONSTANTS[draw as usize % CONSTANTS.len()].to_bits()
            }
            Kind::Counter => self.counter(series, step),
            Kind::Gauge => self.gauge(series, step),
            Kind::Special => SPECIAL_BITS[(series as usize + step as usize) % SPECIAL_BITS.len()],
        }
    }

    /// A counter: 50 per step and a jitter below 50, so that each step adds 1 to 99 and any step
    /// is reached without the ones before.
    pub(crate) fn counter(&self, series: u32, step: u32) -> u64 {
        let base = mix(self.seed, series, u32::MAX) % 1_000_000;
        let jitter = mix(self.seed, series, step) % 50;
        ((1 + base + 50 * u64::from(step) + jitter) as f64).to_bits()
    }

    /// A gauge: 0.001 to 1000.000.
    pub(crate) fn gauge(&self, series: u32, step: u32) -> u64 {
        ((1 + mix(self.seed, series, step) % 1_000_000) as f64 / 1000.0).to_bits()
    }

    /// By how many rounds a request is held back.
    pub(crate) fn late_rounds(&self, id: RequestId) -> Option<u32> {
        let (percent, rounds) = self.late?;
        let draw = mix(!self.seed, id.request, id.round) % 100;
        (draw < u64::from(percent)).then_some(rounds)
    }

    /// What leaves in `round` as this request number: the request of the round unless it is held
    /// back, then the one that was held back until now.
    pub(crate) fn due_in(&self, round: u32, request: u32) -> impl Iterator<Item = RequestId> {
        let own = RequestId { round, request };
        let own = self.late_rounds(own).is_none().then_some(own);
        let held = self.late.and_then(|(_, rounds)| round.checked_sub(rounds));
        let held = held.map(|round| RequestId { round, request });
        let held = held.filter(|id| self.late_rounds(*id).is_some());
        own.into_iter().chain(held)
    }

    /// Whether a request is sent a second time.
    pub(crate) fn is_repeated(&self, id: RequestId) -> bool {
        let draw = mix(self.seed.rotate_left(32), id.request, id.round) % 100;
        draw < u64::from(self.duplicate_percent)
    }
}

/// Sixty-four well-mixed bits of three numbers (the finaliser of splitmix64).
pub(crate) fn mix(seed: u64, a: u32, b: u32) -> u64 {
    let mut bits = seed ^ (u64::from(a) << 32 | u64::from(b)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}

/// A random permutation of `0..count` (Fisher and Yates).
fn permutation(count: u32, seed: u64) -> Vec<u32> {
    let mut items: Vec<u32> = (0..count).collect();
    for last in (1..items.len()).rev() {
        let other = mix(seed, last as u32, 0x5eed) % (last as u64 + 1);
        items.swap(last, other as usize);
    }
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::{Churn, Values};

    fn scenario() -> Scenario {
        Scenario::load("smoke").unwrap()
    }

    #[test]
    fn kinds_have_the_shares_of_the_mix() {
        for shape in [Shape::K10, Shape::N6] {
            let stream = Stream::new(&Scenario { shape, ..scenario() });
            let count = |kind| (0..20_000).filter(|series| stream.kind(*series) == kind).count();
            assert_eq!(count(Kind::Constant), 9_000);
            assert_eq!(count(Kind::Counter), 7_000);
            assert_eq!(count(Kind::Gauge), 4_000);
        }
    }

    #[test]
    fn counters_grow_by_1_to_99_and_nothing_is_zero() {
        let stream = Stream::new(&scenario());
        let at = |step| f64::from_bits(stream.counter(77, step));
        for step in 1..5_000 {
            let growth = at(step) - at(step - 1);
            assert!((1.0..=99.0).contains(&growth), "{growth} at {step}");
            assert_ne!(stream.gauge(77, step), 0);
        }
        assert!(SPECIAL_BITS.iter().all(|bits| *bits != 0));
    }

    #[test]
    fn generation_counts_what_a_slow_simulation_counts() {
        let churn = Some(Churn { percent: 30.0, every_rounds: 3 });
        let scenario = Scenario { series: 5_000, churn, ..scenario() };
        let stream = Stream::new(&scenario);
        let (targets, renamed) = (10, 3);
        let mut counts = vec![0u32; targets];
        let mut turn = 0;
        for round in 0..60 {
            if round > 0 && round % 3 == 0 {
                for _ in 0..renamed {
                    counts[turn % targets] += 1;
                    turn += 1;
                }
            }
            for (target, count) in (0u32..).zip(&counts) {
                assert_eq!(stream.generation(target * 500, round), *count, "round {round}");
            }
        }
    }

    #[test]
    fn shuffled_is_a_permutation_and_its_inverse() {
        let scenario = Scenario { order: Order::Shuffled, series: 4_321, ..scenario() };
        let stream = Stream::new(&scenario);
        let mut seen: Vec<u32> = (0..stream.requests())
            .flat_map(|request| stream.series_of(request).map(move |series| (series, request)))
            .inspect(|(series, request)| assert_eq!(stream.request_of(*series), *request))
            .map(|(series, _)| series)
            .collect();
        assert_ne!(seen[..100], (0..100).collect::<Vec<_>>()[..]);
        seen.sort_unstable();
        assert_eq!(seen, (0..4_321).collect::<Vec<_>>());
    }

    #[test]
    fn every_request_leaves_once_late_or_not() {
        let scenario = Scenario::load("w6-late").unwrap();
        let stream = Stream::new(&scenario);
        let mut sent: Vec<RequestId> = (0..scenario.rounds + 20)
            .flat_map(|round| (0..100).map(move |request| (round, request)))
            .flat_map(|(round, request)| stream.due_in(round, request).collect::<Vec<_>>())
            .filter(|id| id.round < scenario.rounds)
            .collect();
        let late = sent.iter().filter(|id| stream.late_rounds(**id).is_some()).count();
        assert!((100..400).contains(&late), "2 % of 12000 are late, not {late}");
        sent.sort_unstable();
        let every: Vec<_> = (0..scenario.rounds)
            .flat_map(|round| (0..100).map(move |request| RequestId { round, request }))
            .collect();
        assert_eq!(sent, every);
    }

    #[test]
    fn steps_and_times_are_inverse() {
        let stream = Stream::new(&scenario());
        assert_eq!(stream.step(stream.time(17)), Some(17));
        assert_eq!(stream.step(stream.time(17) + 1), None);
        assert_eq!(stream.step(stream.time(0) - 15_000), None);
        assert_eq!(stream.step(i64::MIN), None);
    }

    #[test]
    fn special_values_take_part() {
        let values = Values { constant: 0, counter: 0, gauge: 0, special: 100 };
        let stream = Stream::new(&Scenario { values, ..scenario() });
        assert_eq!(stream.kind(3), Kind::Special);
        assert!((0..12).any(|step| stream.value(Kind::Special, 3, step) == STALE_NAN_BITS));
    }
}
