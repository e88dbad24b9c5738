//! The twin: encodings and decisions said once more, from the text of the format, with maps from
//! index to population and vectors of single bits.

use std::collections::{BTreeMap, BTreeSet};

use crate::chunk::histogram::Codec;
use crate::chunk::histogram::tests::Timed;
use crate::chunk::tests::oracle::{Bits, value};
use crate::model::histogram::{Double, Float, Histogram, Integer, ResetHint, Side, Span, indices};

/// What the twin must know of a kind.
pub(super) trait Plain: Codec {
    /// Appends the fields of all samples of a chunk.
    fn fields(out: &mut Bits, rows: &[Row]);
    /// A population that is not smaller, from a random number.
    fn grown(population: Self::Bucket, random: u64) -> Self::Bucket;
    /// The same of a count.
    fn count_grown(count: Self::Count, random: u64) -> Self::Count;
    /// Any population at all.
    fn any(random: u64) -> Self::Bucket;
}

/// A sample as the numbers that are coded.
pub(super) struct Row {
    t: i64,
    stale: bool,
    counts: [u64; 2],
    sum: u64,
    buckets: Vec<u64>,
}

fn int(out: &mut Bits, v: i64) {
    let widths = [3, 6, 9, 12, 18, 25, 56];
    if v == 0 {
        return out.push(0, 1);
    }
    for (i, n) in widths.into_iter().enumerate() {
        let high = 1_i64 << (n - 1);
        if (1 - high..=high).contains(&v) {
            (0..=i).for_each(|_| out.push(1, 1));
            out.push(0, 1);
            return out.push(v as u64, n);
        }
    }
    out.push(0xff, 8);
    out.push(v as u64, 64);
}

fn uint(out: &mut Bits, v: u64) {
    match v {
        0 => out.push(0, 1),
        1..=7 => out.push(0b10 << 3 | v, 5),
        8..=63 => out.push(0b110 << 6 | v, 9),
        64..=511 => out.push(0b1110 << 9 | v, 13),
        512..=4095 => out.push(0b11110 << 12 | v, 17),
        4096..=0x3_ffff => out.push(0b11_1110 << 18 | v, 24),
        0x4_0000..=0x1ff_ffff => out.push(0b111_1110 << 25 | v, 32),
        0x200_0000..=0xff_ffff_ffff_ffff => out.push(0b1111_1110 << 56 | v, 64),
        _ => {
            out.push(0xff, 8);
            out.push(v, 64);
        }
    }
}

impl Plain for Integer {
    fn fields(out: &mut Bits, rows: &[Row]) {
        let mut window = None;
        let mut deltas: Vec<u64> = Vec::new();
        for (i, row) in rows.iter().enumerate() {
            let fields = |row: &Row| -> Vec<u64> {
                [row.t as u64].into_iter().chain(row.counts).chain(row.buckets.clone()).collect()
            };
            if i == 0 {
                int(out, row.t);
                row.counts.iter().for_each(|&count| uint(out, count));
                out.push(row.sum, 64);
                row.buckets.iter().for_each(|&bucket| int(out, bucket as i64));
                deltas = vec![0; fields(row).len()];
                continue;
            }
            let now = fields(row);
            let before = fields(&rows[i - 1]);
            for (at, (now, before)) in now.iter().zip(&before).enumerate() {
                let delta = now.wrapping_sub(*before);
                let dod = delta.wrapping_sub(deltas[at]) as i64;
                deltas[at] = delta;
                if at == 3 {
                    value(out, row.sum ^ rows[i - 1].sum, &mut window);
                }
                match at {
                    0 => int(out, dod),
                    1 | 2 => int(out, if row.stale { 0 } else { dod }),
                    _ if row.stale => {}
                    _ => int(out, dod),
                }
            }
            if now.len() == 3 {
                value(out, row.sum ^ rows[i - 1].sum, &mut window);
            }
        }
    }

    fn grown(population: i64, random: u64) -> i64 {
        population.saturating_add((random % 40) as i64)
    }

    fn count_grown(count: u64, random: u64) -> u64 {
        count.saturating_add(random % 300)
    }

    fn any(random: u64) -> i64 {
        (random >> (1 + random % 63)) as i64
    }
}

impl Plain for Float {
    fn fields(out: &mut Bits, rows: &[Row]) {
        let fields = |row: &Row| -> Vec<u64> {
            row.counts.into_iter().chain([row.sum]).chain(row.buckets.clone()).collect()
        };
        let mut windows = vec![None; fields(&rows[0]).len()];
        let mut last = fields(&rows[0]);
        int(out, rows[0].t);
        for &bits in &last {
            out.push(bits, 64);
        }
        let mut delta = 0_i64;
        for two in rows.windows(2) {
            let step = two[1].t.wrapping_sub(two[0].t);
            int(out, step.wrapping_sub(delta));
            delta = step;
            let told = if two[1].stale { 3 } else { last.len() };
            for (at, bits) in fields(&two[1]).into_iter().enumerate().take(told) {
                value(out, bits ^ last[at], &mut windows[at]);
                last[at] = bits;
            }
        }
    }

    fn grown(population: Double, random: u64) -> Double {
        (population.value() + (random % 1000) as f64 / 8.0).into()
    }

    fn count_grown(count: Double, random: u64) -> Double {
        (count.value() + (random % 1000) as f64 / 8.0).into()
    }

    fn any(random: u64) -> Double {
        match random % 8 {
            0 => f64::NAN.into(),
            1 => f64::INFINITY.into(),
            2 => Double(random >> 12),
            _ => Double(random & !(1 << 63)),
        }
    }
}

/// A chunk of samples that are told in the buckets of `layout`.
pub(super) fn encode<K: Plain>(
    header: ResetHint,
    layout: &Histogram<K>,
    samples: &[Timed<K>],
) -> Vec<u8> {
    let mut out = Bits::default();
    out.push(samples.len() as u64, 16);
    out.push(
        match header {
            ResetHint::Unknown => 0b00,
            ResetHint::NotReset => 0b01,
            ResetHint::Reset => 0b10,
            ResetHint::Gauge => 0b11,
        },
        2,
    );
    out.push(0, 6);
    let threshold = layout.zero_threshold;
    let short = (1..255).find(|&b| threshold.is_number(2f64.powi(b - 244).into()));
    match short {
        _ if threshold.value() == 0.0 => out.push(0, 8),
        Some(b) => out.push(b as u64, 8),
        None => {
            out.push(255, 8);
            out.push(layout.zero_threshold.0, 64);
        }
    }
    int(&mut out, layout.schema.into());
    for side in [&layout.positive, &layout.negative] {
        uint(&mut out, side.spans.len() as u64);
        for span in &side.spans {
            uint(&mut out, span.length.into());
            int(&mut out, span.offset.into());
        }
    }
    if layout.schema == -53 {
        uint(&mut out, layout.custom_values.len() as u64);
        for bound in &layout.custom_values {
            let short = (0..=33_554_430_u32).contains(&((bound.value() * 1000.0) as u32))
                && bound.value() >= 0.0
                && bound.value() <= 33554.43
                && bound.is_number(((bound.value() * 1000.0).round() / 1000.0).into());
            if short {
                uint(&mut out, (bound.value() * 1000.0).round() as u64 + 1);
            } else {
                out.push(0, 1);
                out.push(bound.0, 64);
            }
        }
    }
    K::fields(&mut out, &samples.iter().map(|sample| row(layout, sample)).collect::<Vec<_>>());
    out.bytes()
}

/// A sample in the buckets of a layout.
fn row<K: Plain>(layout: &Histogram<K>, (t, sample): &Timed<K>) -> Row {
    let mut buckets = Vec::new();
    for (told, side) in [(&layout.positive, &sample.positive), (&layout.negative, &sample.negative)]
    {
        let populations = map(side);
        let mut before = K::Bucket::default();
        for index in indices(&told.spans) {
            let population = populations.get(&index).copied().unwrap_or_default();
            buckets.push(K::raw_bucket(K::stored(before, population)));
            before = population;
        }
    }
    let stale = sample.is_stale();
    let counts = [sample.count, sample.zero_count].map(K::raw_count);
    Row { t: *t, stale, counts: if stale { [0; 2] } else { counts }, sum: sample.sum.0, buckets }
}

/// Index to population.
pub(super) fn map<K: Codec>(side: &Side<K>) -> BTreeMap<i64, K::Bucket> {
    side.iter().collect()
}

/// What a chunk must do with a sample.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    Done,
    Recode,
    Reset,
    Bounds,
    Layout,
    AfterStale,
    Gauge,
}

/// What a chunk with these samples must do with the next.
pub(super) fn verdict<K: Plain>(
    header: ResetHint,
    samples: &[Timed<K>],
    next: &Histogram<K>,
) -> Verdict {
    let (first, last) = (&samples[0].1, &samples[samples.len() - 1].1);
    let gauge = next.hint == ResetHint::Gauge;
    let bounds = |h: &Histogram<K>| h.custom_values.iter().map(|b| b.value()).collect::<Vec<_>>();
    let fell = |one: &Side<K>, other: &Side<K>| {
        let other = map(other);
        let smaller = |(index, population): (i64, K::Bucket)| match other.get(&index) {
            Some(&now) => K::number(now) < K::number(population) || K::fell(population, now),
            None => K::number(population) != 0.0,
        };
        one.iter().any(smaller)
    };
    let known = |of: fn(&Histogram<K>) -> &Side<K>| -> BTreeSet<i64> {
        samples.iter().flat_map(|(_, h)| indices(&of(h).spans)).collect()
    };
    let lacks = |of: fn(&Histogram<K>) -> &Side<K>| {
        let known = known(of);
        indices(&of(next).spans).any(|index| !known.contains(&index))
    };
    match () {
        () if next.hint == ResetHint::Reset => Verdict::Reset,
        () if gauge != (header == ResetHint::Gauge) => Verdict::Gauge,
        () if next.is_stale() => Verdict::Done,
        () if last.is_stale() => Verdict::AfterStale,
        () if !gauge && K::count_fell(last.count, next.count) => Verdict::Reset,
        () if first.schema != next.schema => Verdict::Layout,
        () if !first.zero_threshold.is_number(next.zero_threshold) => Verdict::Layout,
        () if first.schema == -53 && bounds(first) != bounds(next) => Verdict::Bounds,
        () if !gauge && K::count_fell(last.zero_count, next.zero_count) => Verdict::Reset,
        () if !gauge && fell(&last.positive, &next.positive) => Verdict::Reset,
        () if !gauge && fell(&last.negative, &next.negative) => Verdict::Reset,
        () if lacks(|h| &h.positive) || lacks(|h| &h.negative) => Verdict::Recode,
        () => Verdict::Done,
    }
}

/// The spans of indices, spelt by chance: with empty ones between, and some in pieces.
pub(super) fn spell(indices: &BTreeSet<i64>, mut random: impl FnMut(u64) -> u64) -> Vec<Span> {
    let mut spans: Vec<Span> = Vec::new();
    let mut end = 0;
    for &index in indices {
        let mut gap = (index - end) as i32;
        end = index + 1;
        if let Some(last) = spans.last_mut()
            && gap == 0
            && random(8) > 0
        {
            last.length += 1;
            continue;
        }
        if gap > 1 && random(6) == 0 {
            spans.push(Span { offset: 1, length: 0 });
            gap -= 1;
        }
        spans.push(Span { offset: gap, length: 1 });
    }
    spans
}
