//! The head against a naive map.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::chunk::histogram::{Codec, Reader, header as histogram_header};
use crate::chunk::{Chunk, Encoding};
use crate::decode::histogram;
use crate::model::histogram::{
    Float, Histogram, HistogramRef, Integer, IntegerHistogram, ResetHint, Side, Span,
};
use crate::model::{STALE_NAN_BITS, Sample, TenantId, TimeSpan};
use crate::shard::head::append::Bounds;
use crate::shard::head::histograms::End;
use crate::shard::head::read::Copied;
use crate::shard::head::{Appended, Head, Refusal, Truncation, specimen};

const HOUR: i64 = 3_600_000;
const OPEN: Bounds = Bounds { out_of_order_from: i64::MAX, ..Bounds::ALL };

fn labels(n: usize) -> Vec<(String, String)> {
    vec![("__name__".into(), "m".into()), ("n".into(), n.to_string())]
}

fn pairs(labels: &[(String, String)]) -> impl Iterator<Item = (&str, &str)> {
    labels.iter().map(|(n, v)| (n.as_str(), v.as_str()))
}

/// The samples of a series, and which of them are histograms.
fn stored(head: &mut Head, index: u32) -> Vec<(Sample, bool)> {
    let mut copied = Copied::default();
    head.copy_all(index, TimeSpan::ALL, &mut copied);
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
            None if sample.t < bounds.min_t => return Appended::Refused(Refusal::OutOfBounds),
            None if newest.is_some_and(|n| sample.t < n) => match bounds.out_of_order_from {
                i64::MAX => return Appended::Refused(Refusal::OutOfOrder),
                from if sample.t < from => return Appended::Refused(Refusal::TooOld),
                _ => {}
            },
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
            (0..3_usize, -12..20_i64, 0..3_u64, 0..5_u8, 0..1000_u64), 1..400
        ),
        spread in prop_oneof![Just(1_000_i64), Just(60_000), Just(HOUR)],
        window in prop_oneof![Just(None), (0..40_i64).prop_map(Some)],
        cap in 1..40_u16,
    ) {
        let mut head = Head::default();
        head.out_of_order.cap = cap;
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
            let newest = now.iter().max().copied().unwrap_or_default();
            let out_of_order_from = window.map_or(i64::MAX, |steps| newest - steps * spread);
            let bounds = Bounds { max_t: 3 * 200 * HOUR, out_of_order_from, ..OPEN };
            head.begin_batch();
            let got = if is_histogram {
                let message = specimen::named(t, bits);
                let (t, histogram) = reader.read(&message).expect("a histogram");
                head.append_histogram(series[n], t, histogram, bounds)
            } else {
                head.append(series[n], sample, bounds)
            };
            let want = oracles[n].append(sample, is_histogram, bounds);
            prop_assert_eq!(got, want, "{:?}", sample);
        }
        for n in 0..3 {
            let want = oracles[n].samples.iter();
            let want: Vec<_> =
                want.map(|(&t, &(bits, is_one))| (Sample { t, bits }, is_one)).collect();
            prop_assert_eq!(stored(&mut head, series[n]), want);
            check_extents(&head, series[n], &oracles[n]);
            check_headers(&mut head, series[n]);
            let open = head.cold.iter().map(|cold| match &cold.end {
                End::Open(open) => open.heap_bytes(),
                _ => 0,
            });
            prop_assert_eq!(head.histogram_bytes, open.sum::<usize>());
        }
        let mut truncation = Truncation::begin(&mut head, tenant, i64::MAX);
        while !truncation.slice(&mut head, 2) {}
        prop_assert_eq!((head.histogram_bytes, head.closed.len()), (0, 0));
        prop_assert_eq!(head.out_of_order.heap_bytes(), 0);
    }
}

/// First and last time in each range, and whether there is a sample in it.
fn check_extents(head: &Head, index: u32, oracle: &Oracle) {
    for from in (-20..300).map(|range| range * 2 * HOUR) {
        let end = from + 2 * HOUR;
        let mut times = oracle.samples.range(from..end).map(|(&t, _)| t);
        let first = times.next();
        let span = first.map(|min| TimeSpan { min, max: times.next_back().unwrap_or(min) });
        assert_eq!(head.extent(index, from, end), span);
        assert_eq!(head.has_samples(index, TimeSpan { min: from, max: end - 1 }), span.is_some());
    }
}

/// First and last histogram of a chunk.
fn ends<K: Codec>(chunk: Chunk<'_>) -> (Histogram<K>, Histogram<K>) {
    let mut reader = Reader::<K>::new(chunk.bytes).expect("a chunk");
    let mut all = Vec::new();
    while let Some(point) = reader.advance() {
        all.push(point.expect("a sample").histogram.clone());
    }
    (all[0].clone(), all[all.len() - 1].clone())
}

/// Whether anything is less in a later histogram, if they can be compared.
fn fell<K: Codec>(before: &Histogram<K>, after: &Histogram<K>) -> bool {
    let alike = before.schema == after.schema && before.zero_threshold == after.zero_threshold;
    if !alike || before.is_stale() {
        return false;
    }
    let now: BTreeMap<_, _> = after.positive.iter().collect();
    let is_less =
        |(index, was): (i64, K::Bucket)| K::fell(was, now.get(&index).copied().unwrap_or_default());
    K::count_fell(before.count, after.count) || before.positive.iter().any(is_less)
}

/// Where a chunk says that the counter was not reset before it, it was not.
fn check_headers(head: &mut Head, index: u32) {
    let mut copied = Copied::default();
    head.copy_all(index, TimeSpan::ALL, &mut copied);
    let chunks: Vec<Chunk<'_>> = copied.iter().collect();
    for (at, chunk) in chunks.iter().enumerate().filter(|(_, c)| c.encoding != Encoding::Xor) {
        if histogram_header(chunk.bytes) != Ok(ResetHint::NotReset) {
            continue;
        }
        let before = chunks[at - 1];
        // Gauges are not compared with, in Prometheus.
        if histogram_header(before.bytes) == Ok(ResetHint::Gauge) {
            continue;
        }
        assert_eq!(before.encoding, chunk.encoding, "there is one of its kind before it");
        let fell = match chunk.encoding {
            Encoding::FloatHistogram => fell(&ends::<Float>(before).1, &ends::<Float>(*chunk).0),
            _ => fell(&ends::<Integer>(before).1, &ends::<Integer>(*chunk).0),
        };
        assert!(!fell, "a reset at {}", chunk.min_t);
    }
}

/// A histogram of so many observations.
fn counted(count: u64, hint: ResetHint) -> IntegerHistogram {
    let spans = vec![Span { offset: 0, length: 1 }];
    let positive = Side { spans, values: vec![count as i64] };
    IntegerHistogram { hint, count, positive, ..IntegerHistogram::default() }
}

/// Appends histograms of these times, counts and hints; what chunks say of resets in each span.
fn headers(samples: &[(i64, u64, ResetHint)], spans: &[TimeSpan]) -> Vec<Vec<(i64, ResetHint)>> {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let index = head.create(1, tenant, pairs(&labels(1)));
    for &(t, count, hint) in samples {
        let histogram = counted(count, hint);
        let histogram = HistogramRef::Integer(&histogram);
        let appended = head.append_histogram(index, t, histogram, Bounds::ALL);
        assert_eq!(appended, Appended::Stored);
    }
    let mut copied = Copied::default();
    let mut said = |span: &TimeSpan| -> Vec<(i64, ResetHint)> {
        head.copy_all(index, *span, &mut copied);
        let said = |chunk: Chunk<'_>| (chunk.min_t, histogram_header(chunk.bytes).expect("one"));
        copied.iter().map(said).collect()
    };
    spans.iter().map(&mut said).collect()
}

#[test]
fn what_chunks_say_of_resets_holds_with_late_samples() {
    use ResetHint::{Reset, Unknown};
    const ALL: &[TimeSpan] = &[TimeSpan::ALL];
    // The counter was reset in the first range already: that it was in the second is not said.
    let end = 2 * HOUR;
    let ranges = [TimeSpan { min: 0, max: end - 1 }, TimeSpan { min: end, max: 2 * end }];
    let over = [(end - 60, 100, Unknown), (end + 15, 20, Unknown), (end - 30, 10, Unknown)];
    let want = vec![vec![(end - 60, Unknown), (end - 30, Unknown)], vec![(end + 15, Unknown)]];
    assert_eq!(headers(&over, &ranges), want);
    // A reset that only its sender knows of, late.
    let hinted = [(0, 5, Unknown), (100, 9, Unknown), (50, 7, Reset)];
    assert_eq!(headers(&hinted, ALL), [[(0, Unknown), (50, Reset)]]);
    // In order: it holds as long as nothing comes between, in a chunk that passes or not.
    let hinted = [(0, 5, Unknown), (100, 9, Reset), (200, 9, Unknown)];
    let with = |t: i64| [&hinted[..], &[(t, 6, Unknown)]].concat();
    assert_eq!(headers(&hinted, ALL), [[(0, Unknown), (100, Reset)]]);
    assert_eq!(headers(&with(-50), ALL), [[(-50, Unknown), (0, Unknown), (100, Reset)]]);
    assert_eq!(headers(&with(50), ALL), [[(0, Unknown), (50, Unknown), (100, Unknown)]]);
    let hinted = [(0, 5, Unknown), (100, 9, Reset), (200, 9, Unknown), (150, 9, Unknown)];
    assert_eq!(headers(&hinted, ALL), [[(0, Unknown), (100, Reset)]]);
}

/// In slices of bounded work, whatever there is.
#[test]
fn a_series_with_much_out_of_order_is_read_in_slices() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let index = head.create(1, tenant, pairs(&labels(1)));
    for t in (0..20_000).step_by(10) {
        head.append(index, Sample::new(t, 1.0), Bounds::ALL);
    }
    for t in (0..20_000).rev().filter(|t| t % 10 == 7 && t / 1000 % 3 == 0) {
        assert_eq!(head.append(index, Sample::new(t, 2.0), Bounds::ALL), Appended::Stored);
    }
    // Descending, and not a chunk for each.
    assert!(head.out_of_order.heap_bytes() < 700 * 8, "{}", head.out_of_order.heap_bytes());
    let want: Vec<_> = (0..20_000)
        .filter_map(|t| match (t % 10, t / 1000 % 3) {
            (0, _) => Some((Sample::new(t, 1.0), false)),
            (7, 0) => Some((Sample::new(t, 2.0), false)),
            _ => None,
        })
        .collect();
    assert_eq!(stored(&mut head, index), want);
    let mut copied = Copied::default();
    let mut rest = head.copy_chunks(index, TimeSpan::ALL, &mut copied);
    let mut slices = 1;
    while let Some(more) = rest {
        rest = head.copy_rest(index, TimeSpan::ALL, more, &mut copied);
        slices += 1;
    }
    assert!(slices > 700 / 64, "{slices} slices");
}

#[test]
fn a_truncation_knows_of_late_samples_in_series_it_has_passed() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let all: Vec<u32> =
        (0..2).map(|n| head.create(n as u128 + 1, tenant, pairs(&labels(n)))).collect();
    for &index in &all {
        head.append(index, Sample::new(10 * HOUR, 1.0), Bounds::ALL);
    }
    let mut truncation = Truncation::begin(&mut head, tenant, 2 * HOUR);
    assert!(!truncation.slice(&mut head, 1));
    head.append(all[0], Sample::new(5 * HOUR, 1.0), Bounds::ALL);
    head.tenants[tenant as usize].note_stored(5 * HOUR, 5 * HOUR);
    assert!(truncation.slice(&mut head, 1));
    assert_eq!(head.tenants[tenant as usize].oldest_ms, 5 * HOUR);
}

/// A batch that may not look far back stores what it cannot know. What came in order stays, and is
/// what is read.
#[test]
fn of_two_samples_for_one_time_the_first_is_read() {
    let mut head = Head::default();
    let tenant = head.tenant(&TenantId::new("t").expect("a tenant"));
    let index = head.create(1, tenant, pairs(&labels(1)));
    for t in 0..1000 {
        assert_eq!(head.append(index, Sample::new(t, 1.0), Bounds::ALL), Appended::Stored);
    }
    let again = |head: &mut Head, value| head.append(index, Sample::new(5, value), Bounds::ALL);
    head.begin_batch();
    assert_eq!(again(&mut head, 1.0), Appended::Duplicate);
    assert_eq!(again(&mut head, 2.0), Appended::Refused(Refusal::Conflict));
    head.repeat_bytes_left = 0;
    assert_eq!(again(&mut head, 2.0), Appended::Stored);
    assert_eq!(again(&mut head, 3.0), Appended::Refused(Refusal::Conflict));
    let want: Vec<_> = (0..1000).map(|t| (Sample::new(t, 1.0), false)).collect();
    assert_eq!(stored(&mut head, index), want);
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
    head.copy_all(index, TimeSpan { min: 38, max: 38 }, &mut copied);
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
        let mut truncation = Truncation::begin(&mut head, tenant, start);
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
