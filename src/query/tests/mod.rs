//! The view over twins of shards, against what they must give together.

mod block;
mod wide;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use proptest::prelude::*;
use prost::Message as _;
use tidegate_proto::thanos;

use crate::frame::Sharding;
use crate::model::{External, Labels, MatchOp, Matcher, TimeSpan};
use crate::query::twin::{self, Fault, Head, PlainChunk, Twins, external, label_set, series};
use crate::query::{Error, LabelsRequest, Limits, NotReady, Origin, SelectRequest, SeriesStream};
use crate::rt::beside;
use crate::telemetry::{Exposition, Format};

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.expect("a runtime").block_on(test)
}

fn all() -> SelectRequest {
    SelectRequest {
        span: TimeSpan::ALL,
        matchers: Arc::new([]),
        without: Arc::new([]),
        skip_chunks: false,
        limit: 0,
        sharding: None,
    }
}

/// Reads a stream to its end: series joined from their frames, in the order they came.
async fn read(stream: &mut SeriesStream) -> (Vec<(Labels, Vec<PlainChunk>)>, Vec<Error>) {
    let (mut found, mut errors) = (Vec::<(Labels, Vec<PlainChunk>)>::new(), Vec::new());
    while let Some(item) = stream.next().await {
        let frame = match item {
            Ok(frame) => frame,
            Err(error) => {
                errors.push(error);
                continue;
            }
        };
        let message = thanos::Series::decode(frame.body).expect("a thanos.Series");
        let pairs = message.labels.into_iter().map(|l| (l.name, l.value));
        let labels = Labels::new(pairs).expect("a label set");
        let chunks = message
            .chunks
            .into_iter()
            .map(|c| (c.min_time, c.max_time, c.raw.expect("raw").data.to_vec()));
        match found.last_mut() {
            Some((last, all)) if *last == labels => all.extend(chunks),
            _ => found.push((labels, chunks.collect())),
        }
    }
    (found, errors)
}

/// The view gives what the oracle gives: same sets in the same order, same chunks in any order.
fn check(heads: &[Head], external: &External, request: &SelectRequest) {
    let (got, errors) = run(async {
        let Twins { view, .. } =
            twin::view(heads.to_vec(), external.clone(), Limits::default()).await;
        read(&mut view.select(request.clone()).await.expect("a stream")).await
    });
    assert_eq!(errors, []);
    let sorted = |mut sets: Vec<(Labels, Vec<PlainChunk>)>| {
        for (_, chunks) in &mut sets {
            chunks.sort();
        }
        sets
    };
    assert_eq!(sorted(got), sorted(twin::select(heads, external, request)));
}

fn any_labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[abcd]", "[xyz]{1,2}", 0..4)
}

fn any_head() -> impl Strategy<Value = Head> {
    let series = (any_labels(), "[pq]", 0i64..20, 1i64..9).prop_map(|(set, tenant, t, len)| {
        let pairs: Vec<_> = set.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        series(&tenant, &pairs, t..t + len)
    });
    (proptest::collection::vec(series, 0..12), 1usize..5).prop_map(|(mut all, part_frames)| {
        all.sort_by(|a, b| (&a.tenant, &a.labels).cmp(&(&b.tenant, &b.labels)));
        all.dedup_by(|a, b| (&a.tenant, &a.labels) == (&b.tenant, &b.labels));
        Head { series: all, part_frames, ..Head::default() }
    })
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![
        Just(MatchOp::Equal),
        Just(MatchOp::NotEqual),
        Just(MatchOp::Regex),
        Just(MatchOp::NotRegex)
    ];
    let name = prop_oneof![Just("a"), Just("b"), Just("c"), Just("tenant_id"), Just("aa")];
    let value = prop_oneof![Just("x"), Just("p"), Just(""), Just("x|y"), Just("yz")];
    (op, name, value).prop_map(|(op, name, value)| Matcher::new(op, name, value).expect("valid"))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    /// External names sort before, between and after own names and override them (`b`); removal
    /// makes sets of different series equal.
    #[test]
    fn a_select_gives_all_series_in_order(
        heads in proptest::collection::vec(any_head(), 1..5),
        flags in proptest::collection::btree_map("A|aa|b|bb|zz", "[xy]", 0..4),
        shard_label in proptest::option::of(Just("c_shard".to_string())),
        without in proptest::collection::vec("[abcd]|A|aa|zz|tenant_id|c_shard", 0..4),
        matchers in proptest::collection::vec(any_matcher(), 0..3),
        skip_chunks in any::<bool>(),
        limit in 0usize..9,
        sharding in proptest::option::of((0i64..3, any::<bool>(), "[abcd]")),
        (min, len) in (0i64..25, 0i64..25),
    ) {
        let flags = Labels::new(flags).expect("a label set");
        let external = External::new(flags, "tenant_id", shard_label).expect("external labels");
        let request = SelectRequest {
            span: TimeSpan { min, max: min + len },
            matchers: matchers.into(),
            without: without.into(),
            skip_chunks,
            limit,
            sharding: sharding.map(|(index, by, label)| {
                Arc::new(Sharding { index, total: 3, by, labels: vec![label] })
            }),
        };
        check(&heads, &external, &request);
    }

    #[test]
    fn lists_are_unions(
        heads in proptest::collection::vec(any_head(), 1..5),
        without in proptest::collection::vec("[abcd]|tenant_id|aa", 0..3),
        matchers in proptest::collection::vec(any_matcher(), 0..3),
        of in proptest::option::of(prop_oneof![Just("a"), Just("aa"), Just("tenant_id")]),
        limit in 0usize..5,
    ) {
        let external = external(&[("aa", "y")]);
        let want = twin::labels(&heads, &external, &matchers, &without, of);
        let request = LabelsRequest {
            span: TimeSpan::ALL,
            matchers: matchers.into(),
            without: without.into(),
            limit,
        };
        let got = run(async {
            let Twins { view, .. } = twin::view(heads, external, Limits::default()).await;
            match of {
                None => view.label_names(request).await,
                Some(label) => view.label_values(label, request).await,
            }
        })
        .expect("a list");
        let limit = if limit == 0 { usize::MAX } else { limit };
        prop_assert_eq!(got.truncated, want.len() > limit);
        prop_assert_eq!(got.texts, want.into_iter().take(limit).collect::<Vec<_>>());
        prop_assert_eq!(got.failed, []);
    }
}

fn many(count: usize, fault: Fault) -> Head {
    let all = (0..count).map(|i| series("p", &[("i", &format!("{i:06}"))], 0..4));
    Head { series: all.collect(), part_frames: 8, fault, ..Head::default() }
}

#[test]
fn what_fails_is_said_and_the_rest_comes() {
    let head = Origin::Head(1);
    let why = "the disk is on fire".to_string();
    for (fault, kept, want) in [
        (Fault::NoBegin, 0, Error::Failed { origin: head, why: why.clone() }),
        (Fault::FailAfter(20), 20, Error::Failed { origin: head, why }),
        (Fault::VanishAfter(20), 20, Error::Gone { origin: head }),
        (Fault::Disorder, 1, Error::Disorder { origin: head }),
    ] {
        let mut left = many(30, Fault::None);
        left.series
            .iter_mut()
            .for_each(|s| s.labels = s.labels.overlaid(&label_set(&[("h", "0")])));
        let (found, errors, text) = run(async {
            let heads = vec![left, many(30, fault)];
            let Twins { view, .. } =
                twin::view(heads, external(&[("r", "1")]), Limits::default()).await;
            let (found, errors) = read(&mut view.select(all()).await.expect("a stream")).await;
            let mut exposition = Exposition::default();
            exposition.source(move |out| view.sample(out));
            (found, errors, exposition.render(Format::Text).expect("text"))
        });
        let failures = text.lines().filter(|l| l.starts_with("tidegate_query_failures_total{"));
        let count: u64 = failures.map(|l| l[l.len() - 1..].parse::<u64>().expect("a digit")).sum();
        assert_eq!(errors, [want], "{fault:?}");
        assert_eq!(count, 1, "{text}");
        assert_eq!(found.len(), 30 + kept, "{fault:?}");
        assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{fault:?}");
    }
}

#[test]
fn a_failing_shard_is_named_in_lists() {
    let list = run(async {
        let heads = vec![many(2, Fault::None), many(2, Fault::NoBegin)];
        let Twins { view, .. } = twin::view(heads, external(&[]), Limits::default()).await;
        let request = LabelsRequest {
            span: TimeSpan::ALL,
            matchers: Arc::new([]),
            without: Arc::new([]),
            limit: 0,
        };
        view.label_names(request).await.expect("a list")
    });
    assert_eq!(list.texts, ["i", "tenant_id"]);
    let why = "the disk is on fire".into();
    assert_eq!(list.failed, [Error::Failed { origin: Origin::Head(1), why }]);
}

#[test]
fn a_reader_that_stops_stops_the_shards() {
    run(async {
        let heads = vec![many(10_000, Fault::None), many(10_000, Fault::None)];
        let Twins { view, sent, .. } = twin::view(heads, external(&[]), Limits::default()).await;
        let mut stream = view.select(all()).await.expect("a stream");
        for _ in 0..10 {
            stream.next().await.expect("a frame").expect("no error");
        }
        beside::sleep(Duration::from_millis(50)).await;
        // Ten frames are five of each; beyond them one part in hand, two ready, one under way.
        let ahead = sent.load(Ordering::Relaxed);
        assert!(ahead <= 2 * 8 * 4, "{ahead} frames were sent");
        drop(stream);
        beside::sleep(Duration::from_millis(50)).await;
        assert!(sent.load(Ordering::Relaxed) <= ahead + 2 * 8, "the select goes on");
    });
}

#[test]
fn reading_needs_readiness_a_turn_and_a_budget() {
    run(async {
        let limits = Limits {
            selects_max: 1,
            waiting_max: 1,
            buffered_bytes_max: 4000,
            ..Limits::default()
        };
        let Twins { view, ready, .. } =
            twin::view(vec![many(100, Fault::None)], external(&[]), limits).await;
        let not_ready = NotReady { why: "replaying the log".into() };
        drop(ready.send_replace(Err(not_ready.clone())));
        assert_eq!(view.select(all()).await.err(), Some(Error::NotReady(not_ready)));
        drop(ready.send_replace(Ok(())));

        let first = view.select(all()).await.expect("the only turn");
        let second = beside::spawn({
            let view = view.clone();
            async move { view.select(all()).await.map(drop) }
        });
        beside::yield_now().await;
        let refused = view.select(all()).await.err();
        assert_eq!(refused, Some(Error::Overloaded { running: 1, waiting: 1 }));
        drop(first);
        assert_eq!(second.await.expect("no panic"), Ok(()), "the second had its turn");

        let limits = Limits { buffered_bytes_max: 100, ..Limits::default() };
        let Twins { view, .. } =
            twin::view(vec![many(100, Fault::None)], external(&[]), limits).await;
        let (found, errors) = read(&mut view.select(all()).await.expect("a stream")).await;
        assert_eq!((found, errors), (vec![], vec![Error::OverBudget { limit_bytes: 100 }]));
    });
}

#[test]
fn a_reader_that_takes_nothing_loses_its_turn() {
    run(async {
        let stalled_after = Duration::from_millis(200);
        let limits = Limits { selects_max: 1, waiting_max: 1, stalled_after, ..Limits::default() };
        let Twins { view, .. } =
            twin::view(vec![many(1_000, Fault::None)], external(&[]), limits).await;
        let mut slow = view.select(all()).await.expect("the only turn");
        for _ in 0..10 {
            slow.next().await.expect("a frame").expect("no error");
            beside::sleep(stalled_after / 5).await;
        }
        let next = beside::timeout(Duration::from_secs(20), view.select(all())).await;
        let mut next = next.expect("the turn is never given back").expect("a stream");
        assert_eq!(slow.next().await, Some(Err(Error::Stalled { after: stalled_after })));
        assert_eq!(slow.next().await, None);
        let (found, errors) = read(&mut next).await;
        assert_eq!((found.len(), errors), (1_000, vec![]));
        let mut exposition = Exposition::default();
        exposition.source(move |out| view.sample(out));
        let text = exposition.render(Format::Text).expect("text");
        assert!(text.contains("tidegate_query_failures_total{reason=\"stalled\"} 1"), "{text}");
    });
}

#[test]
fn a_limit_counts_label_sets_and_says_so() {
    // Two shards hold series that become equal without `i`: one set, however many frames.
    let heads = vec![many(5, Fault::None), many(5, Fault::None)];
    for (limit, without, sets, truncated) in
        [(1, vec!["i".to_string()], 1, false), (3, vec![], 3, true), (5, vec![], 5, false)]
    {
        let request = SelectRequest { limit, without: without.into(), ..all() };
        check(&heads, &external(&[]), &request);
        run(async {
            let Twins { view, .. } =
                twin::view(heads.clone(), external(&[]), Limits::default()).await;
            let mut stream = view.select(request.clone()).await.expect("a stream");
            assert_eq!(read(&mut stream).await.0.len(), sets);
            assert_eq!(stream.truncated(), truncated, "limit {limit}");
        });
    }
}

#[test]
fn info_joins_shards_unless_they_carry_a_label() {
    let heads = [0..10, 5..30]
        .map(|times| Head { series: vec![series("p", &[("a", "1")], times)], ..Head::default() });
    for (shard_label, want) in [
        (None, vec![(vec![("r", "1"), ("tenant_id", "p")], 0, 29)]),
        (
            Some("shard".to_string()),
            vec![
                (vec![("r", "1"), ("shard", "0"), ("tenant_id", "p")], 0, 9),
                (vec![("r", "1"), ("shard", "1"), ("tenant_id", "p")], 5, 29),
            ],
        ),
    ] {
        let flags = label_set(&[("r", "1")]);
        let external = External::new(flags, "tenant_id", shard_label).expect("external labels");
        let info = run(async {
            twin::view(heads.to_vec(), external, Limits::default()).await.view.info()
        });
        let got: Vec<_> = info.into_iter().map(|t| (t.labels, t.min_t, t.max_t)).collect();
        let want: Vec<_> =
            want.into_iter().map(|(l, min, max)| (label_set(&l), min, max)).collect();
        assert_eq!(got, want);
    }
}
