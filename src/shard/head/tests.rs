//! The head against a naive map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::decode::histogram;
use crate::model::histogram::{HistogramRef, IntegerHistogram, Side, Span};
use crate::model::{STALE_NAN_BITS, Sample, TenantId, TimeSpan};
use crate::shard::head::append::Bounds;
use crate::shard::head::histograms::End;
use crate::shard::head::read::Copied;
use crate::shard::head::{Appended, Head, Refusal, Truncation, specimen};

const HOUR: i64 = 3_600_000;
const OPEN: Bounds = Bounds { min_t: i64::MIN, max_t: i64::MAX };

fn labels(n: usize) -> Vec<(String, String)> {
    vec![("__name__".into(), "m".into()), ("n".into(), n.to_string())]
}

fn pairs(labels: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))
}

/// The samples of a series, and which of them are histograms.
fn stored(head: &mut Head, index: u32) -> Vec<(Sample, bool)> {
    let mut copied = Copied::default();
    head.copy_chunks(index, TimeSpan::ALL, &mut copied);
    let mut all = Vec::new();
    for chunk in copied.iter() {
        let samples = specimen::samples(chunk);
        assert!(samples.len() <= 120);
        let ranges = samples.iter().map(|(s, _)| s.t.div_euclid(2 * HOUR));
        assert_eq!(ranges.clone().min(), ranges.max(), "a chunk lies in one range");
        all.extend(samples);
    }
    all
}

/// What the head must do, said plainly.
#[derive(Default)]
struct Oracle {
    /// Bits, and whether they are the number of a histogram.
    samples: BTreeMap<i64, (u64, bool)>,
}

impl Oracle {
    fn append(&mut self, sample: Sample, is_histogram: bool, bounds: Bounds) -> Appended {
        let newest = self.samples.keys().next_back().copied();
        if sample.t > bounds.max_t {
            return Appended::Refused(Refusal::TooFarInFuture);
        }
        match self.samples.get(&sample.t) {
            Some(&(bits, kind))
                if bits == sample.bits && (kind == is_histogram || bits == STALE_NAN_BITS) =>
            {
                return Appended::Duplicate;
            }
            Some(_) => return Appended::Refused(Refusal::Conflict),
            None if sample.t < bounds.min_t => return Appended::Refused(Refusal::TooOld),
            None if newest.is_some_and(|n| sample.t < n) => {
                return Appended::Refused(Refusal::OutOfOrder);
            }
            None => {}
        }
        self.samples.insert(sample.t, (sample.bits, is_histogram));
        Appended::Stored
    }
}

proptest! {
    #[test]
    fn appends_do_what_the_map_does(
        steps in proptest::collection::vec(
            (0..3_usize, -2..20_i64, 0..3_u64, 0..5_u8, 0..1000_u64), 1..400
        ),
        spread in prop_oneof![Just(1_000_i64), Just(60_000), Just(HOUR)],
    ) {
        let mut head = Head::default();
        let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
        let mut oracles: Vec<Oracle> = (0..3).map(|_| Oracle::default()).collect();
        let series: Vec<u32> =
            (0..3).map(|n| head.create(n as u128 + 1, tenant, pairs(&labels(n)))).collect();
        let mut now = [0_i64; 3];
        let mut reader = histogram::Reader::default();
        for (n, step, value, kind, number) in steps {
            let t = now[n] + step * spread;
            now[n] = now[n].max(t);
            // The first series has floats, the second histograms, the third both.
            let is_histogram = n == 1 || n == 2 && kind % 2 == 0;
            let bits = match kind {
                3 if n == 2 && !is_histogram => STALE_NAN_BITS,
                _ if !is_histogram => (value as f64).to_bits(),
                0 => STALE_NAN_BITS,
                1 => number + specimen::FLOATS_FROM,
                // The same again and again, to have some that are.
                2 => value,
                _ => number,
            };
            let sample = Sample { t, bits };
            let bounds = Bounds { min_t: i64::MIN, max_t: 3 * 200 * HOUR };
            let got = if is_histogram {
                let message = specimen::named(t, bits);
                let (t, histogram) = reader.read(&message).expect("a histogram");
                head.begin_batch();
                head.append_histogram(series[n], t, histogram, bounds)
            } else {
                head.append(series[n], sample, bounds)
            };
            let want = oracles[n].append(sample, is_histogram, bounds);
            // What lies further back than the last closed chunk cannot be known.
            let forgotten = got == Appended::Refused(Refusal::OutOfOrder)
                && matches!(want, Appended::Duplicate | Appended::Refused(Refusal::Conflict));
            prop_assert!(got == want || forgotten, "{sample:?}: {got:?}, want {want:?}");
        }
        for n in 0..3 {
            let want = oracles[n].samples.iter();
            let want: Vec<_> =
                want.map(|(&t, &(bits, is_one))| (Sample { t, bits }, is_one)).collect();
            prop_assert_eq!(stored(&mut head, series[n]), want);
            let open = head.cold.iter().map(|cold| match &cold.end {
                End::Open(open) => open.heap_bytes(),
                _ => 0,
            });
            prop_assert_eq!(head.histogram_bytes, open.sum::<usize>());
        }
        let mut truncation = Truncation::begin(&head, tenant, i64::MAX);
        while !truncation.slice(&mut head, 2) {}
        prop_assert_eq!((head.histogram_bytes, head.closed.len()), (0, 0));
    }
}

#[test]
fn a_wide_chunk_ends_soon_and_repeats_of_it_are_looked_up_within_a_budget() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let index = head.create(1, tenant, pairs(&labels(1)));
    let wide = |offset: i32| {
        let spans = vec![Span { offset, length: 10_000 }];
        let positive = Side { spans, values: vec![0; 10_000] };
        IntegerHistogram { positive, ..IntegerHistogram::default() }
    };
    // Buckets that the chunk lacks, each time: recoded once, then a chunk of its own.
    for t in 0..40 {
        let histogram = wide(t as i32 * 20_000);
        let appended = head.append_histogram(index, t, HistogramRef::Integer(&histogram), OPEN);
        assert_eq!(appended, Appended::Stored);
    }
    assert!(head.tenants[tenant as usize].chunks > 10, "{}", head.tenants[tenant as usize].chunks);
    assert!(head.histogram_bytes < 4 << 20, "{}", head.histogram_bytes);
    let mut copied = Copied::default();
    head.copy_chunks(index, TimeSpan { min: 38, max: 38 }, &mut copied);
    let bytes = copied.iter().map(|chunk| chunk.bytes.len()).sum::<usize>();
    head.begin_batch();
    let again = |head: &mut Head| head.append(index, Sample::new(38, 1.0), OPEN);
    let looked = (0..).take_while(|_| again(&mut head) == Appended::Refused(Refusal::Conflict));
    let looked = looked.count();
    assert!(looked >= 10 && looked * bytes <= 3 << 20, "{looked} times {bytes} bytes");
    assert_eq!(again(&mut head), Appended::Refused(Refusal::OutOfOrder), "nothing is looked up");
    head.begin_batch();
    assert_eq!(again(&mut head), Appended::Refused(Refusal::Conflict));
}

#[test]
fn a_known_key_is_found_in_any_order() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let key = |n: usize| (n as u128).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
    let made: Vec<u32> =
        (1..5000).map(|n| head.create(key(n), tenant, pairs(&labels(n)))).collect();
    for round in 0..3 {
        for (n, &index) in (1..5000).zip(&made) {
            assert_eq!(head.find(key(n)), Some(index), "round {round}");
        }
    }
    for (n, &index) in (1..5000).zip(&made).rev().step_by(7) {
        assert_eq!(head.find(key(n)), Some(index));
    }
    assert_eq!(head.find(key(5000)), None);
}

#[test]
fn a_truncation_leaves_what_is_newer_and_nothing_of_the_rest() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    for round in 0..20_i64 {
        let start = round * 2 * HOUR;
        for n in 0..100_usize {
            let name = labels(n + 100 * (round as usize % 3));
            let key = (n + 100 * round as usize) as u128 + 1;
            let index = head.create(key, tenant, pairs(&name));
            for i in 0..10 {
                let sample = Sample::new(start + i * 15_000, 1.0);
                assert_eq!(head.append(index, sample, OPEN), Appended::Stored);
            }
        }
        let mut truncation = Truncation::begin(&head, tenant, start);
        while !truncation.slice(&mut head, 7) {}
        for index in truncation.removed {
            head.release(index);
        }
        let walked: usize = head.cold.iter().map(|cold| cold.values.len()).sum();
        assert_eq!((head.values, walked), (200, 200), "round {round}");
        assert_eq!(head.len(), 100, "only the series of this round");
        assert_eq!(head.tenants[tenant as usize].members.len(), 100);
    }
    assert!(head.symbols.bound() < 450, "{} symbols", head.symbols.bound());
    assert!(head.keys.len() <= 200, "{} positions", head.keys.len());
}
