//! Histograms: each rule of validation, sameness, and the merging of buckets against a slow twin.

use std::collections::BTreeMap;

use super::*;
use crate::stdx::splitmix64;

fn spans(spans: &[(i32, u32)]) -> Vec<Span> {
    spans.iter().map(|&(offset, length)| Span { offset, length }).collect()
}

fn integer() -> IntegerHistogram {
    Histogram {
        schema: 3,
        zero_threshold: 0.001.into(),
        zero_count: 2,
        count: 9,
        sum: 18.4.into(),
        positive: Side { spans: spans(&[(-3, 2), (1, 1)]), values: vec![1, 1, -1] },
        negative: Side { spans: spans(&[(0, 1)]), values: vec![3] },
        ..Histogram::default()
    }
}

fn float() -> FloatHistogram {
    Histogram {
        schema: -4,
        zero_count: 0.5.into(),
        count: 9.0.into(),
        sum: (-1.0).into(),
        positive: Side { spans: spans(&[(7, 2)]), values: vec![1.5.into(), 0.0.into()] },
        ..Histogram::default()
    }
}

fn custom() -> IntegerHistogram {
    Histogram {
        schema: SCHEMA_CUSTOM,
        count: 6,
        sum: 5.0.into(),
        positive: Side { spans: spans(&[(0, 1), (1, 2)]), values: vec![1, 1, 1] },
        custom_values: vec![0.5.into(), 1.0.into(), 2.5.into()],
        ..Histogram::default()
    }
}

/// What validation says of a histogram after a change.
fn with<K: Kind>(
    mut histogram: Histogram<K>,
    change: impl Fn(&mut Histogram<K>),
) -> Result<(), HistogramError> {
    assert_eq!(histogram.validate(), Ok(()), "before the change");
    change(&mut histogram);
    histogram.validate()
}

#[test]
fn each_rule_of_exponential_histograms_has_its_error() {
    let positive = "positive side";
    for schema in [-5, 9, 52, -9, -53 - 1, i32::MIN, i32::MAX] {
        assert_eq!(
            with(integer(), |h| h.schema = schema),
            Err(Fault::UnknownSchema { schema }),
            "reserved schemas are reduced before they are stored"
        );
    }
    assert_eq!(
        with(integer(), |h| h.positive.spans[1].offset = -1),
        Err(Fault::SpanOffset { side: positive, number: 2, offset: -1 })
    );
    assert_eq!(
        with(integer(), |h| h.positive.spans[1].length = u32::MAX),
        Err(Fault::SpansMismatch { side: positive, announced: 2 + u64::from(u32::MAX), found: 3 })
    );
    assert_eq!(
        with(integer(), |h| h.negative.values.clear()),
        Err(Fault::SpansMismatch { side: "negative side", announced: 1, found: 0 })
    );
    assert_eq!(
        with(integer(), |h| h.positive.values[2] = -3),
        Err(Fault::NegativeBucket { side: positive, number: 3, population: -1.0 })
    );
    assert_eq!(
        with(integer(), |h| h.positive.values[1] = i64::MAX),
        Err(Fault::NegativeBucket { side: positive, number: 2, population: i64::MIN as f64 }),
        "sums wrap"
    );
    assert_eq!(
        with(integer(), |h| h.custom_values.push(1.0.into())),
        Err(Fault::ExponentialWithBounds { schema: 3, bounds: 1 })
    );
}

#[test]
fn integer_counts_must_add_up() {
    for count in [8, 10] {
        let wrong = with(integer(), |h| h.count = count);
        assert_eq!(wrong, Err(Fault::CountMismatch { count, found: 9 }));
    }
    let nan = |count| move |h: &mut IntegerHistogram| (h.sum, h.count) = (f64::NAN.into(), count);
    assert_eq!(with(integer(), nan(10)), Ok(()), "an observation of NaN is in no bucket");
    assert_eq!(with(integer(), nan(8)), Err(Fault::CountTooSmall { count: 8, found: 9 }));
    assert_eq!(with(float(), |h| h.count = 0.0.into()), Ok(()), "floats do not add up exactly");
    assert_eq!(IntegerHistogram::stale().validate(), Ok(()));
}

#[test]
fn float_counts_must_not_be_negative() {
    let below = Double::from(-0.5);
    assert_eq!(
        with(float(), |h| h.zero_count = below),
        Err(Fault::NegativeZeroCount { count: -0.5 })
    );
    assert_eq!(with(float(), |h| h.count = below), Err(Fault::NegativeCount { count: -0.5 }));
    assert_eq!(
        with(float(), |h| h.positive.values[1] = below),
        Err(Fault::NegativeBucket { side: "positive side", number: 2, population: -0.5 })
    );
    assert_eq!(with(float(), |h| h.count = f64::NAN.into()), Ok(()), "as in Prometheus");
    assert_eq!(with(float(), |h| h.positive.values[1] = (-0.0).into()), Ok(()));
}

#[test]
fn each_rule_of_custom_buckets_has_its_error() {
    let side = "custom buckets";
    let bounds = |bounds: [f64; 3]| {
        with(custom(), |h| h.custom_values = bounds.into_iter().map(Double::from).collect())
    };
    assert_eq!(bounds([0.5, f64::NAN, 2.5]), Err(Fault::BoundNan { number: 2 }));
    assert_eq!(
        bounds([0.5, 2.5, 2.5]),
        Err(Fault::BoundOrder { number: 3, before: 2.5, bound: 2.5 })
    );
    assert_eq!(bounds([0.5, 1.0, f64::INFINITY]), Err(Fault::BoundInfinite { number: 3 }));
    assert_eq!(bounds([f64::NEG_INFINITY, -1.0, 0.0]), Ok(()));
    assert_eq!(
        with(custom(), |h| h.positive.spans[0].offset = -1),
        Err(Fault::SpanOffset { side, number: 1, offset: -1 })
    );
    assert_eq!(
        with(custom(), |h| h.positive.values.push(0)),
        Err(Fault::SpansMismatch { side, announced: 3, found: 4 })
    );
    assert_eq!(
        with(custom(), |h| h.custom_values.truncate(2)),
        Err(Fault::BoundsTooFew { bounds: 2, covered: 4 })
    );
    assert_eq!(with(custom(), |h| h.zero_count = 1), Err(Fault::CustomZeroCount { count: 1.0 }));
    assert_eq!(
        with(custom(), |h| h.zero_threshold = 0.5.into()),
        Err(Fault::CustomZeroThreshold { threshold: 0.5 })
    );
    assert_eq!(
        with(custom(), |h| h.negative.spans = spans(&[(0, 0)])),
        Err(Fault::CustomNegativeSide { spans: 1, buckets: 0 })
    );
    assert_eq!(
        with(custom(), |h| h.count = 7),
        Err(Fault::CountMismatch { count: 7, found: 6 }),
        "the rules of all histograms hold, too"
    );
}

#[test]
fn errors_name_the_value() {
    let check = |fault: Fault, text| assert_eq!(fault.to_string(), text);
    check(
        Fault::SpanOffset { side: "negative side", number: 2, offset: -7 },
        "negative side: span number 2 has the negative offset -7",
    );
    check(
        Fault::CountMismatch { count: 3, found: 4 },
        "4 observations found in buckets, but the count is 3: it must be equal",
    );
    check(
        Fault::UnknownSchema { schema: 9 },
        "schema 9: it must be between -4 and 8 for exponential buckets, or -53 for custom buckets",
    );
}

#[test]
fn sameness_is_of_what_was_observed() {
    let mut other = integer();
    other.hint = ResetHint::NotReset;
    // The same buckets with empty ones before, between and after, told by more spans than needed.
    other.positive.spans = spans(&[(-5, 0), (1, 3), (0, 2), (3, 1)]);
    other.positive.values = vec![0, 1, 1, -2, 1, -1];
    other.negative = Side { spans: spans(&[(0, 3)]), values: vec![3, -3, 0] };
    assert!(integer().same_as(&other) && other.same_as(&integer()));
    let changes: [fn(&mut IntegerHistogram); 9] = [
        |h| h.count += 1,
        |h| h.zero_count += 1,
        |h| h.sum = Double(h.sum.0 + 1),
        |h| h.schema += 1,
        |h| h.zero_threshold = 0.002.into(),
        |h| h.positive.values[0] += 1,
        |h| h.negative.spans[0].offset += 1,
        |h| h.custom_values.push(1.0.into()),
        |h| h.sum = Double::STALE,
    ];
    for change in changes {
        let mut changed = integer();
        change(&mut changed);
        assert!(!integer().same_as(&changed) && !changed.same_as(&integer()), "{changed:?}");
        assert!(changed.same_as(&changed));
    }
    let mut stale = integer();
    stale.sum = Double::STALE;
    assert!(stale.same_as(&Histogram::stale()), "nothing else of a stale marker counts");
    // Bits count, not values: a sum of -0 is not one of 0, and NaN has a payload.
    let sum = |bits| FloatHistogram { sum: Double(bits), ..Histogram::default() };
    assert!(!sum((-0.0_f64).to_bits()).same_as(&sum(0)));
    assert!(sum(0x7ff8_0000_0000_0001).same_as(&sum(0x7ff8_0000_0000_0001)));
    assert!(!sum(0x7ff8_0000_0000_0001).same_as(&sum(0x7ff8_0000_0000_0003)));
}

#[test]
fn a_double_is_shown_as_a_number() {
    assert_eq!(format!("{:?}", Double::from(-0.0)), "-0.0");
    assert_eq!(format!("{:?}", Double::STALE), "NaN(0x7ff0000000000002)");
}

#[test]
fn spans_hold_what_one_span_could_not() {
    let far = [-5, -4, 3_000_000_000, 3_000_000_001, 9_000_000_000];
    let mut spans = Spans::default();
    for index in far {
        spans.push(index);
    }
    let spans = spans.into_inner();
    assert_eq!(indices(&spans).collect::<Vec<_>>(), far);
    assert_eq!(spans[0], Span { offset: -5, length: 2 });
}

/// A random side of at most 40 buckets, its spans spelt in any way.
fn random_side<K: Kind>(seed: &mut u64, bucket: impl Fn(u64) -> K::Bucket) -> Side<K> {
    let mut side = Side::default();
    let mut before = K::Bucket::default();
    for n in 0..splitmix64(seed) % 8 {
        let offset = (splitmix64(seed) % 30) as i32 - if n == 0 { 15 } else { 0 };
        let length = (splitmix64(seed) % 6) as u32;
        side.spans.push(Span { offset, length });
        for _ in 0..length {
            let population = bucket(splitmix64(seed));
            side.values.push(K::stored(std::mem::replace(&mut before, population), population));
        }
    }
    side
}

#[test]
fn merged_buckets_hold_what_their_parts_held() {
    for seed in 0..500 {
        let mut state = seed;
        let schema = (splitmix64(&mut state) % 52) as i32;
        let target = (splitmix64(&mut state) % 12) as i32 - 4;
        let whole = IntegerHistogram {
            schema,
            positive: random_side(&mut state, |r| (r % 5) as i64),
            negative: random_side(&mut state, |r| (r % 5) as i64),
            ..Histogram::default()
        };
        let mut merged = whole.clone();
        merged.reduce_to(target);
        if target >= schema {
            assert_eq!(merged, whole);
            continue;
        }
        assert_eq!(merged.schema, target);
        for (side, whole) in [(merged.positive, whole.positive), (merged.negative, whole.negative)]
        {
            // A bucket ends at 2^(index / 2^schema), so the one around it ends at the next index of
            // the coarser schema.
            let mut want: BTreeMap<i64, i64> = BTreeMap::new();
            for (index, population) in whole.iter() {
                let around = (index as f64 / 2f64.powi(schema - target)).ceil() as i64;
                *want.entry(around).or_default() += population;
            }
            assert_eq!(side.iter().collect::<BTreeMap<_, _>>(), want, "seed {seed}");
            assert_eq!(side.check_spans("", true), Ok(()), "seed {seed}");
        }
    }
    let mut float = float();
    float.reduce_to(-8);
    assert_eq!(float.positive.iter().collect::<Vec<_>>(), [(1, 1.5.into())]);
    let mut bounds = custom();
    bounds.reduce_to(-100);
    assert_eq!(bounds, custom(), "custom bounds have no coarser schema");
}

#[test]
fn nothing_panics_however_wrong_a_histogram_is() {
    fn wrong<K: Kind>(seed: &mut u64, bucket: impl Fn(u64) -> K::Bucket + Copy) -> Histogram<K> {
        let mut histogram = Histogram {
            schema: (splitmix64(seed) % 140) as i32 - 70,
            sum: Double(splitmix64(seed)),
            positive: random_side(seed, bucket),
            negative: random_side(seed, bucket),
            ..Histogram::default()
        };
        let side = &mut histogram.positive;
        match splitmix64(seed) % 6 {
            0 => side.values.push(bucket(splitmix64(seed))),
            1 => drop(side.spans.pop()),
            2 => side.spans.push(Span { offset: i32::MIN, length: u32::MAX }),
            3 => histogram.custom_values.push(Double(splitmix64(seed))),
            4 => histogram.schema = SCHEMA_CUSTOM,
            _ => {}
        }
        histogram
    }
    let mut valid = 0;
    for mut seed in 0..2000 {
        let mut integer: IntegerHistogram = wrong(&mut seed, |r| (r >> (r % 64)) as i64);
        valid += usize::from(integer.validate().is_ok());
        integer.reduce_to(splitmix64(&mut seed) as i32);
        assert!(integer.same_as(&integer.clone()));
        let mut float: FloatHistogram = wrong(&mut seed, Double);
        valid += usize::from(float.validate().is_ok());
        float.reduce_to(-(splitmix64(&mut seed) as i32 >> 1));
        assert!(float.same_as(&float.clone()));
    }
    assert!(valid > 0, "some must be right");
}
