//! The judge judged: a faithful target passes, and every kind of fault is found and named.

use std::collections::BTreeMap;

use super::*;
use crate::scenario::{Churn, Late, Order, Scenario};

type Pairs = Vec<(String, String)>;
type Samples = Vec<(i64, u64)>;
type Labelled = (Pairs, Samples);

const EXACT: Fidelity = Fidelity { keeps_nan_bits: true, keeps_stale: true, keeps_zero_sign: true };

pub(crate) fn scenario() -> Scenario {
    Scenario {
        series: 1_100,
        rounds: 25,
        order: Order::Shuffled,
        churn: Some(Churn { percent: 40.0, every_rounds: 5 }),
        late: Some(Late { percent: 5, rounds: 3 }),
        ..Scenario::load("exact").unwrap()
    }
}

/// All requests acknowledged, but for those `sent_only` names.
pub(crate) fn history(scenario: &Scenario, sent_only: &[RequestId]) -> History {
    let requests = (0..scenario.rounds)
        .flat_map(|round| (0..scenario.requests()).map(move |request| RequestId { round, request }))
        .map(|id| (id, if sent_only.contains(&id) { Standing::Sent } else { Standing::Acked }))
        .collect();
    History { scenario: scenario.clone(), requests, refused: BTreeMap::new(), torn_size: 0 }
}

/// What a perfect target would return, sorted by labels, with an external label.
pub(crate) fn stored(scenario: &Scenario) -> Vec<Labelled> {
    let stream = Stream::new(scenario);
    let mut stored: BTreeMap<Pairs, Samples> = BTreeMap::new();
    let mut labels = Labels::default();
    for series in 0..scenario.series {
        for step in 0..scenario.steps() {
            let generation = stream.generation(series, step / scenario.samples_per_series);
            shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
            let mut pairs: Vec<_> =
                labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
            pairs.push(("receive_replica".to_owned(), "0".to_owned()));
            pairs.sort();
            let bits = stream.value(stream.kind(series), series, step);
            stored.entry(pairs).or_default().push((stream.time(step), bits));
        }
    }
    stored.into_iter().collect()
}

fn judge(
    sent_only: &[RequestId],
    fidelity: Fidelity,
    spoil: impl FnOnce(&mut Vec<Labelled>),
) -> Findings {
    let scenario = scenario();
    let mut stored = stored(&scenario);
    spoil(&mut stored);
    let mut oracle = Oracle::new(history(&scenario, sent_only), fidelity);
    for (labels, samples) in &stored {
        oracle.take(labels, samples);
    }
    oracle.finish()
}

/// The fault must be the only one found, this often.
fn check(expect: &'static str, count: u64, spoil: impl FnOnce(&mut Vec<Labelled>)) {
    let findings = judge(&[], EXACT, spoil);
    assert!(!findings.is_clean());
    assert_eq!(findings.counts, BTreeMap::from([(expect, count)]), "{:?}", findings.first);
    assert!(findings.first[0].to_string().starts_with(expect));
}

#[test]
fn a_faithful_target_is_clean() {
    let findings = judge(&[], EXACT, |_| {});
    assert!(findings.is_clean(), "{:?}", findings.first);
    assert_eq!(findings.stored_samples, 1_100 * 25);
    assert_eq!(findings.stored_samples, findings.acked_samples);
    assert!(findings.foreign_label_names.contains("receive_replica"));
}

#[test]
fn one_lost_sample_of_27500_is_found() {
    check("lost", 1, |stored| {
        stored[700].1.pop();
    });
}

#[test]
fn a_lost_series_is_found() {
    let size = std::cell::Cell::new(0);
    let findings = judge(&[], EXACT, |stored| size.set(stored.remove(5).1.len() as u64));
    assert_eq!(findings.counts, BTreeMap::from([("lost", size.get())]));
}

#[test]
fn a_sample_twice_is_found_in_one_portion_or_two() {
    check("twice", 1, |stored| {
        let again = (stored[3].0.clone(), vec![stored[3].1[0]]);
        stored.push(again);
    });
    let findings = judge(&[], EXACT, |stored| {
        let again = stored[3].1[0];
        stored[3].1.insert(0, again);
    });
    assert_eq!(findings.counts, BTreeMap::from([("protocol", 1), ("twice", 1)]));
}

#[test]
fn a_wrong_bit_is_found() {
    check("wrong value", 1, |stored| stored[9].1[0].1 ^= 1);
}

#[test]
fn a_sample_at_another_time_is_found_on_both_sides() {
    let findings = judge(&[], EXACT, |stored| stored[9].1[0].0 += 1);
    assert_eq!(findings.counts, BTreeMap::from([("lost", 1), ("never sent", 1)]));
}

#[test]
fn a_sample_beyond_the_last_or_of_another_generation_is_found() {
    check("never sent", 1, |stored| {
        let end = stored[0].1.last().unwrap().0 + 1_000 * 15_000;
        stored[0].1.push((end, 0));
    });
    // Old and new name of one target have no time in common.
    let renamed = |stored: &mut Vec<Labelled>| {
        let at = stored.iter().position(|(_, samples)| samples.len() < 25).unwrap();
        let stream = Stream::new(&scenario());
        let times: Vec<_> = (0..25).map(|step| stream.time(step)).collect();
        let missing = times.iter().find(|time| stored[at].1.iter().all(|(t, _)| t != *time));
        stored[at].1.push((*missing.unwrap(), 0));
        stored[at].1.sort_unstable();
    };
    check("never sent", 1, renamed);
}

#[test]
fn a_foreign_series_is_found() {
    check("foreign series", 1, |stored| {
        let mut labels = stored[0].0.clone();
        labels[0].1.push('x');
        stored.push((labels, vec![(0, 0)]));
    });
}

#[test]
fn what_was_sent_and_not_acked_may_be_there_or_not() {
    let id = RequestId { round: 7, request: 1 };
    let stream = Stream::new(&scenario());
    let findings = judge(&[id], EXACT, |_| {});
    assert!(findings.is_clean());
    assert_eq!(findings.stored_unacked_samples, stream.series_of(1).count() as u64);
    let findings = judge(&[id], EXACT, |stored| {
        let time = stream.time(7);
        let mut labels = Labels::default();
        for series in stream.series_of(1) {
            let generation = stream.generation(series, 7);
            shape::labels(stream.shape(), stream.seed(), series, generation, &mut labels);
            let wanted: Vec<_> = labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
            let is_it = |pairs: &[(String, String)]| wanted.iter().all(|pair| pairs.contains(pair));
            let found = stored.iter_mut().find(|(pairs, _)| is_it(pairs)).unwrap();
            found.1.retain(|(t, _)| *t != time);
        }
    });
    assert!(findings.is_clean(), "{:?}", findings.first);
    assert_eq!(findings.stored_unacked_samples, 0);
}

#[test]
fn fidelity_excuses_what_it_says_and_nothing_else() {
    let lossy = Fidelity { keeps_nan_bits: false, keeps_stale: false, keeps_zero_sign: false };
    let spoil = |stored: &mut Vec<Labelled>| {
        for (_, samples) in stored.iter_mut() {
            samples.retain(|(_, bits)| *bits != STALE_NAN_BITS);
            for (_, bits) in samples.iter_mut().filter(|(_, bits)| f64::from_bits(*bits).is_nan()) {
                *bits = f64::NAN.to_bits();
            }
            for (_, bits) in samples.iter_mut().filter(|(_, bits)| *bits == 1 << 63) {
                *bits = 0;
            }
        }
    };
    let findings = judge(&[], lossy, spoil);
    assert!(findings.is_clean(), "{:?}", findings.first);
    assert!(findings.unseen_stale_samples > 0);
    let strict = judge(&[], EXACT, spoil);
    assert_eq!(strict.counts.keys().copied().collect::<Vec<_>>(), ["lost", "wrong value"]);
    let findings = judge(&[], lossy, |stored| {
        spoil(stored);
        stored[0].1.remove(0);
    });
    assert_eq!(findings.counts, BTreeMap::from([("lost", 1)]));
}
