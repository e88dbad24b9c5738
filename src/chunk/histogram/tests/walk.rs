//! Random series of histograms: what is appended comes back, in the bytes of the twin, and chunks
//! end where it says.
//!
//! `TIDEGATE_SEEDS=100000` runs more seeds, `TIDEGATE_SEED=n` runs one.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::histogram::tests::plain::{Plain, Verdict, encode, spell, verdict};
use crate::chunk::histogram::tests::{Timed, decode};
use crate::chunk::histogram::{Appended, Appender, Cause, first_header};
use crate::model::histogram::{
    Double, Float, Histogram, Integer, ResetHint, SCHEMA_CUSTOM, Side, indices,
};
use crate::stdx::{seeds, splitmix64};

/// A series that goes on by chance.
pub(super) struct Walk<K: Plain> {
    seed: u64,
    t: i64,
    sample: Histogram<K>,
    sides: [BTreeMap<i64, K::Bucket>; 2],
}

impl<K: Plain> Walk<K> {
    pub(super) fn new(seed: u64) -> Self {
        let mut walk = Self { seed, t: 0, sample: Histogram::default(), sides: Default::default() };
        walk.t = (walk.random(1 << 50) as i64) - (1 << 49);
        walk.change_layout();
        for _ in 0..walk.random(10) {
            walk.add_bucket();
        }
        walk
    }

    pub(super) fn random(&mut self, below: u64) -> u64 {
        splitmix64(&mut self.seed) % below
    }

    fn change_layout(&mut self) {
        let sample = &mut self.sample;
        let random = splitmix64(&mut self.seed);
        let stays = sample.schema == SCHEMA_CUSTOM && random % 4 != 1;
        let custom = stays || random.is_multiple_of(4);
        sample.schema = if custom { SCHEMA_CUSTOM } else { (random % 13) as i32 - 4 };
        sample.zero_threshold = match random >> 8 & 3 {
            _ if custom => 0.0.into(),
            0 => 0.0.into(),
            1 => 2f64.powi((random >> 16 & 0xff) as i32 - 245).into(),
            2 => Double(random),
            _ => (-0.0).into(),
        };
        sample.custom_values.clear();
        if sample.schema == SCHEMA_CUSTOM {
            let bound = |i: u64| match random >> (i % 60) & 3 {
                0 => Double(random.rotate_left(i as u32)),
                1 => (i as f64 / 1000.0).into(),
                2 => (33_554.0 + i as f64 / 1000.0).into(),
                _ => (i as f64 * 0.25).into(),
            };
            sample.custom_values = (0..random >> 4 & 7).map(bound).collect();
        }
    }

    fn add_bucket(&mut self) {
        let side = usize::from(self.random(4) == 0);
        let far = if self.random(30) == 0 { 1 << 31 } else { 40 };
        let index = self.random(far) as i64 - 12;
        let random = splitmix64(&mut self.seed);
        let population = if random.is_multiple_of(3) {
            K::Bucket::default()
        } else {
            K::grown(K::Bucket::default(), random)
        };
        self.sides[side].entry(index).or_insert(population);
    }

    fn grow(&mut self) {
        let seed = &mut self.seed;
        for population in self.sides.iter_mut().flat_map(BTreeMap::values_mut) {
            if splitmix64(seed).is_multiple_of(3) {
                *population = K::grown(*population, splitmix64(seed));
            }
        }
        let sample = &mut self.sample;
        sample.count = K::count_grown(sample.count, splitmix64(seed));
        sample.zero_count = K::count_grown(sample.zero_count, splitmix64(seed) % 3);
        sample.sum = match splitmix64(seed) % 40 {
            0 => Double(splitmix64(seed)),
            1 => (-0.0).into(),
            _ => (sample.sum.value() + (splitmix64(seed) % 100) as f64).into(),
        };
    }

    /// A population or a count that may be anything.
    fn jump(&mut self) {
        let random = splitmix64(&mut self.seed);
        let buckets = self.sides.iter_mut().flat_map(BTreeMap::values_mut).count() as u64;
        let at = self.random(buckets.max(1)) as usize;
        if let Some(bucket) = self.sides.iter_mut().flat_map(BTreeMap::values_mut).nth(at) {
            *bucket = K::any(random);
        }
        let count = K::raw_bucket(K::any(random.rotate_left(7)));
        match random >> 60 {
            0 => self.sample.count = K::count(count),
            1 => self.sample.zero_count = K::count(count),
            _ => {}
        }
    }

    /// Empty buckets go, and now and then one that is not empty.
    fn lose_buckets(&mut self) {
        let any = self.random(4) == 0;
        let seed = &mut self.seed;
        for side in &mut self.sides {
            side.retain(|_, population| {
                let goes = any || K::number(*population) == 0.0;
                !(goes && splitmix64(seed).is_multiple_of(2))
            });
        }
    }

    /// The next sample.
    pub(super) fn step(&mut self) -> Timed<K> {
        let step = match self.random(30) {
            0 => splitmix64(&mut self.seed) as i64,
            1..=5 => 14_980 + self.random(40) as i64,
            _ => 15_000,
        };
        self.t = self.t.wrapping_add(step);
        match self.random(60) {
            0 => self.change_layout(),
            1 => self.sample.hint = ResetHint::Reset,
            2 | 3 => self.sample.hint = ResetHint::NotReset,
            4 => self.sample.hint = ResetHint::Gauge,
            5 | 6 => self.sample.hint = ResetHint::Unknown,
            7..=14 => self.add_bucket(),
            15..=18 => self.lose_buckets(),
            19 => self.jump(),
            20 => return (self.t, Histogram { hint: self.sample.hint, ..Histogram::stale() }),
            _ => {}
        }
        self.grow();
        let sides = [0, 1].map(|at| self.side(at));
        let [positive, negative] = sides;
        let sample = Histogram { positive, negative, ..self.sample.clone() };
        if self.sample.hint == ResetHint::Reset {
            self.sample.hint = ResetHint::Unknown;
        }
        (self.t, sample)
    }

    fn side(&mut self, at: usize) -> Side<K> {
        let known: BTreeSet<i64> = self.sides[at].keys().copied().collect();
        let seed = &mut self.seed;
        let spans = spell(&known, |below| splitmix64(seed) % below);
        let mut before = K::Bucket::default();
        let stored = |&population: &K::Bucket| {
            K::stored(std::mem::replace(&mut before, population), population)
        };
        let values = self.sides[at].values().map(stored).collect();
        Side { spans, values }
    }
}

/// A chunk that is being written, and what was put into it.
struct Open<K: Plain> {
    appender: Appender<K>,
    tail: Vec<u8>,
    samples: Vec<Timed<K>>,
}

impl<K: Plain> Open<K> {
    fn new(header: ResetHint, sample: Timed<K>) -> Self {
        let mut tail = Vec::new();
        let appender = Appender::open(&mut tail, header, sample.0, &sample.1);
        Self { appender, tail, samples: vec![sample] }
    }

    /// What is in the chunk must be what was put into it, in the bytes the twin writes.
    fn check(&mut self) {
        self.appender.finish(&mut self.tail);
        let read = decode::<K>(&self.tail).expect("a chunk of our own");
        assert_eq!(read.len(), self.samples.len());
        for (at, (got, put)) in read.iter().zip(&self.samples).enumerate() {
            assert_eq!(got.0, put.0);
            assert!(got.1.same_as(&put.1), "sample {at}\n got {:?}\n put {:?}", got.1, put.1);
            let gauge = self.appender.header() == ResetHint::Gauge;
            let hint = match at {
                _ if put.1.is_stale() => ResetHint::Unknown,
                _ if gauge => ResetHint::Gauge,
                0 => ResetHint::Unknown,
                _ => ResetHint::NotReset,
            };
            assert_eq!(got.1.hint, hint);
        }
        let last = self.samples.last().expect("a sample");
        assert!(self.appender.last().same_as(&last.1) && self.appender.last_t() == last.0);
        // Which buckets the chunk has is what its first sample is told in.
        let layout = &read[0].1;
        let all = |of: fn(&Histogram<K>) -> &Side<K>| -> BTreeSet<i64> {
            let filled = self.samples.iter().filter(|sample| !sample.1.is_stale());
            filled.flat_map(|(_, sample)| indices(&of(sample).spans)).collect()
        };
        assert_eq!(indices(&layout.positive.spans).collect::<BTreeSet<_>>(), all(|h| &h.positive));
        assert_eq!(indices(&layout.negative.spans).collect::<BTreeSet<_>>(), all(|h| &h.negative));
        let header = self.appender.header();
        assert_eq!(self.tail, encode(header, layout, &self.samples));
        assert_eq!(crate::chunk::histogram::header(&self.tail), Ok(header));
    }

    /// The header of the chunk after this one if its owner ends it before `next`.
    fn want_next_header(&self, next: &Histogram<K>) -> ResetHint {
        match verdict(self.appender.header(), &self.samples, next) {
            _ if next.hint == ResetHint::Gauge => ResetHint::Gauge,
            Verdict::Reset | Verdict::Bounds => ResetHint::Reset,
            Verdict::Layout | Verdict::AfterStale if K::RULES_OUT => ResetHint::Unknown,
            _ => ResetHint::NotReset,
        }
    }
}

/// How often each verdict was reached.
type Tally = BTreeMap<String, u64>;

/// Lives through a series; returns its chunks.
pub(super) fn live<K: Plain>(seed: u64, tally: &mut Tally) -> Vec<Vec<u8>> {
    let mut walk: Walk<K> = Walk::new(seed);
    let first = walk.step();
    let mut open = Open::new(first_header(first.1.hint), first);
    let mut chunks = Vec::new();
    for _ in 0..walk.random(150) {
        let (t, sample) = walk.step();
        assert_eq!(open.appender.next_header(&sample), open.want_next_header(&sample));
        let want = verdict(open.appender.header(), &open.samples, &sample);
        *tally.entry(format!("{want:?}")).or_default() += 1;
        let end = match open.appender.append(&mut open.tail, t, &sample) {
            Appended::Done => {
                assert_eq!(want, Verdict::Done);
                None
            }
            Appended::Recode(wider) => {
                assert_eq!(want, Verdict::Recode);
                if walk.random(5) == 0 {
                    Some(open.appender.next_header(&sample))
                } else {
                    open.appender.recode(&mut open.tail, wider);
                    let appended = open.appender.append(&mut open.tail, t, &sample);
                    assert!(matches!(appended, Appended::Done), "{appended:?}");
                    None
                }
            }
            Appended::Cut(cut) => {
                let (verdict, counter) = match cut.cause {
                    Cause::CounterReset => (Verdict::Reset, ResetHint::Reset),
                    Cause::Bounds => (Verdict::Bounds, ResetHint::Reset),
                    Cause::Layout => (Verdict::Layout, ResetHint::Unknown),
                    Cause::AfterStale => (Verdict::AfterStale, ResetHint::Unknown),
                    Cause::Gauge if K::RULES_OUT => (Verdict::Gauge, ResetHint::NotReset),
                    Cause::Gauge => (Verdict::Gauge, ResetHint::Unknown),
                    Cause::Full => panic!("a full chunk"),
                };
                let gauge = sample.hint == ResetHint::Gauge;
                let header = if gauge { ResetHint::Gauge } else { counter };
                assert_eq!((want, header), (verdict, cut.header));
                Some(cut.header)
            }
        };
        match end {
            Some(header) => {
                open.check();
                chunks.push(std::mem::take(&mut open.tail));
                open = Open::new(header, (t, sample));
            }
            None => open.samples.push((t, sample)),
        }
        if walk.random(10) == 0 {
            open.check();
        }
    }
    open.check();
    chunks.push(open.tail);
    chunks
}

#[test]
fn series_of_histograms_come_back_in_the_bytes_of_the_twin() {
    let mut tally = Tally::new();
    let mut chunks = 0;
    for seed in seeds(100) {
        let lived = std::panic::catch_unwind(|| {
            let mut tally = Tally::new();
            let chunks =
                live::<Integer>(seed, &mut tally).len() + live::<Float>(seed, &mut tally).len();
            (chunks, tally)
        });
        let (count, seen) = lived.unwrap_or_else(|_| panic!("seed {seed}"));
        chunks += count;
        for (what, n) in seen {
            *tally.entry(what).or_default() += n;
        }
    }
    println!("{chunks} chunks: {tally:?}");
    assert!(tally.len() == 7 || seeds(100) != (0..100), "not all verdicts: {tally:?}");
}

#[test]
fn an_appender_is_small() {
    let mut walk: Walk<Float> = Walk::new(4);
    while walk.sides[0].len() < 20 {
        walk.add_bucket();
    }
    let (t, sample) = walk.step();
    let open = Open::new(ResetHint::Unknown, (t, sample.clone()));
    let (positive, negative) = (&sample.positive, &sample.negative);
    let buckets = positive.values.len() + negative.values.len();
    let told = positive.spans.len() + negative.spans.len() + sample.custom_values.len();
    assert_eq!(open.appender.heap_bytes(), 16 * buckets + 8 * told);
}
