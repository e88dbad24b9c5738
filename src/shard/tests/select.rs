//! Selects and labels of real shards against the oracle.

use std::collections::BTreeSet;
use std::rc::Rc;

use futures_lite::future::{self, block_on, poll_once};
use proptest::prelude::*;

use crate::frame::Sharding;
use crate::model::{External, Labels, MatchOp, Matcher, Sample, TimeSpan};
use crate::rt::channel::{oneshot, watch};
use crate::shard::Shard;
use crate::shard::budget::Budget;
use crate::shard::head::Truncation;
use crate::shard::message::{Ask, Part, TenantStats};
use crate::shard::tests::reading::{
    House, Question, Stored, hear, labels, row, samples, tenant, write,
};

const MINUTE: i64 = 60_000;

fn matcher(op: MatchOp, name: &str, value: &str) -> Matcher {
    Matcher::new(op, name, value).expect("a matcher")
}

fn times(times: impl IntoIterator<Item = i64>) -> Vec<Sample> {
    times.into_iter().map(|t| Sample::new(t, (t / 7 % 5) as f64)).collect()
}

/// `count` series of one tenant, each with a few samples.
fn many(name: &str, count: usize) -> Stored {
    let series = |n: usize| {
        let number = (n * 7919 % count).to_string();
        let own = labels(&[("__name__", "m"), ("n", &number), ("replica", ["a", "b"][n % 2])]);
        ((tenant(name), own), times((0..3).map(|i| i * MINUTE)))
    };
    (0..count).map(series).collect()
}

fn any_labels() -> impl Strategy<Value = Labels> {
    let pairs = proptest::collection::btree_map("[abcd]", "[xy]{1,2}", 0..4);
    (pairs, "[mn]").prop_map(|(mut pairs, name)| {
        pairs.insert("__name__".into(), name);
        Labels::new(pairs).expect("a label set")
    })
}

fn any_samples() -> impl Strategy<Value = Vec<Sample>> {
    let count = prop_oneof![4 => 1i64..5, 1 => 100i64..300];
    let step = prop_oneof![Just(MINUTE / 2), Just(MINUTE), Just(25 * MINUTE)];
    (-300i64..300, count, step)
        .prop_map(|(from, count, step)| times((0..count).map(|i| from * MINUTE + i * step)))
}

fn any_stored() -> impl Strategy<Value = Stored> {
    let tenant = prop_oneof![Just(tenant("p")), Just(tenant("q")), Just(tenant("x"))];
    proptest::collection::btree_map((tenant, any_labels()), any_samples(), 0..30)
}

/// Names that sort before, between and after those of series, and some that are the same.
fn any_external() -> impl Strategy<Value = External> {
    let flags = proptest::collection::btree_map("[Abz]|aa|c", "[xy]", 0..3);
    let owner = prop_oneof![Just("tenant_id"), Just("a"), Just("bb"), Just("Z")];
    let shard = prop_oneof![2 => Just(None), 1 => Just(Some("d")), 1 => Just(Some("shard"))];
    (flags, owner, shard).prop_map(|(flags, owner, shard)| {
        let flags = Labels::new(flags).expect("a label set");
        External::new(flags, owner, shard.map(str::to_owned)).expect("external labels")
    })
}

fn any_matcher() -> impl Strategy<Value = Matcher> {
    let op = prop_oneof![
        Just(MatchOp::Equal),
        Just(MatchOp::NotEqual),
        Just(MatchOp::Regex),
        Just(MatchOp::NotRegex),
    ];
    let name = "[abcdz]|aa|bb|tenant_id|__name__|shard";
    (op, name, "|[xymp]|x.|y.*|[xp]?")
        .prop_filter_map("a bad expression", |(op, name, value)| Matcher::new(op, name, value).ok())
}

fn any_question() -> impl Strategy<Value = Question> {
    let span = prop_oneof![
        2 => Just(TimeSpan::ALL),
        3 => (-400i64..600, -20i64..400).prop_map(|(from, len)| TimeSpan {
            min: from * MINUTE,
            max: (from + len) * MINUTE,
        }),
    ];
    let sharding = (0i64..3, any::<bool>(), proptest::collection::vec("[abz]", 0..2))
        .prop_map(|(index, by, labels)| Sharding { index, total: 2, by, labels });
    (
        span,
        proptest::collection::vec(any_matcher(), 0..3),
        any_external(),
        proptest::collection::vec("[abcd]|aa|tenant_id|__name__", 0..3),
        (any::<bool>(), prop_oneof![3 => Just(0usize), 1 => 1usize..6]),
        proptest::option::weighted(0.3, sharding),
    )
        .prop_map(|(span, matchers, external, without, (skip_chunks, limit), sharding)| {
            Question { span, matchers, external, without, skip_chunks, limit, sharding }
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn shards_answer_as_the_oracle_does(
        stored in any_stored(),
        questions in proptest::collection::vec(any_question(), 4),
        floor in proptest::option::of(-3i64..4),
        of in "[abcdz]|__name__|tenant_id|aa",
    ) {
        let mut house = House::new(2, stored);
        if let Some(floor) = floor {
            house.set_floor(&tenant("p"), floor * 120 * MINUTE);
        }
        for question in questions {
            for shard in 0..2 {
                let got = house.ask(shard, &question);
                prop_assert_eq!(got, house.want(shard, &question), "{:?}", question);
                let question = Question { sharding: None, ..question.clone() };
                for of in [None, Some(of.as_str())] {
                    let got = house.ask_texts(shard, &question, of);
                    prop_assert_eq!(got, house.want_texts(shard, &question, of), "{:?}", question);
                }
            }
        }
    }
}

#[test]
fn many_slices_and_parts_keep_the_order() {
    let mut stored = many("a", 3000);
    stored.append(&mut many("b", 1000));
    let mut house = House::new(1, stored);
    let big = times((0..5000).map(|i| i * 1000));
    house.write(&tenant("a"), &labels(&[("__name__", "big")]), &big);
    let without = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    for question in [
        Question::all(),
        Question { without: without(&["n"]), ..Question::all() },
        Question { without: without(&["replica", "tenant_id"]), ..Question::all() },
    ] {
        assert_eq!(house.ask(0, &question), house.want(0, &question));
    }
}

#[test]
fn a_limit_forgets_what_is_beyond_it() {
    let house = House::new(1, many("a", 9000));
    let without = |name: &str| vec![name.to_owned()];
    let cases = [(1, vec![]), (700, without("replica")), (1, without("n")), (2, without("n"))];
    for (limit, without) in cases {
        let question = Question { limit, without, skip_chunks: true, ..Question::all() };
        assert_eq!(house.ask(0, &question), house.want(0, &question), "limit {limit}");
    }
}

#[test]
fn what_was_there_before_is_found_while_more_comes() {
    let before = many("a", 2000);
    let house = House::new(1, before.clone());
    let shard = &house.shards[0];
    let (select, parts) = Question::all().select(1);
    let writing = async {
        for n in 0..2000 {
            let new = labels(&[("__name__", "new"), ("n", &n.to_string())]);
            write(shard, &tenant("a"), &new, &times([0]));
            let (_, known) = before.keys().nth(n).expect("a series");
            write(shard, &tenant("a"), known, &times((3..200).map(|i| i * MINUTE)));
            future::yield_now().await;
        }
    };
    let both = future::zip(shard.answer(Ask::Select(select)), hear(parts));
    let (((), (_, rows)), ()) = block_on(future::zip(both, writing));
    let external = labels(&[("tenant_id", "a")]);
    let mut grown = 0;
    for ((_, own), old) in &before {
        let all = own.overlaid(&external);
        let found: Vec<_> = rows.iter().filter(|row| row.0 == all).collect();
        assert_eq!(found.len(), 1, "{own}");
        let got = samples(&found[0].1);
        assert!(got.starts_with(old), "{own}");
        assert!(got.len() == old.len() || got == times((0..200).map(|i| i * MINUTE)), "{own}");
        grown += usize::from(got.len() > old.len());
    }
    assert!(grown > 0, "the writer ran meanwhile");
    let names: BTreeSet<_> = rows.iter().map(|row| row.0.clone()).collect();
    assert_eq!(names.len(), rows.len(), "no series comes twice");
}

/// Takes a select to where its receiver holds it up.
fn held_up(shard: &Shard<crate::rt::twin::Twin>, body: impl AsyncFnOnce(Held<'_>)) {
    let (select, parts) = Question::all().select(1);
    let mut answering = Box::pin(shard.answer(Ask::Select(select)));
    for _ in 0..10_000 {
        assert!(block_on(poll_once(&mut answering)).is_none(), "nobody has heard it yet");
    }
    block_on(body(Held { answering, parts }));
}

struct Held<'a> {
    answering: std::pin::Pin<Box<dyn Future<Output = ()> + 'a>>,
    parts: crate::rt::channel::mpsc::Receiver<Part>,
}

#[test]
fn a_receiver_that_leaves_ends_the_select() {
    let house = House::new(1, many("a", 3000));
    let shard = &house.shards[0];
    held_up(shard, async |Held { answering, parts }| {
        assert!(shard.budget.held() > 0);
        drop(parts);
        answering.await;
    });
    assert_eq!(shard.budget.held(), 0);
    let gone = Box::pin(shard.pins.older_readers_gone(future::pending()));
    assert!(block_on(poll_once(gone)).is_some());
}

#[test]
fn slow_readers_are_sent_away_when_patience_ends() {
    let house = House::new(1, many("a", 3000));
    let shard = &house.shards[0];
    held_up(shard, async |Held { mut answering, mut parts }| {
        let mut patient = Box::pin(shard.pins.older_readers_gone(future::pending()));
        assert!(poll_once(&mut patient).await.is_none());
        assert!(poll_once(&mut answering).await.is_none(), "it may go on");
        drop(patient);
        let mut gone = Box::pin(shard.pins.older_readers_gone(future::ready(())));
        assert!(poll_once(&mut gone).await.is_none());
        assert!(poll_once(&mut answering).await.is_none(), "its last word waits for room");
        assert!(poll_once(&mut gone).await.is_some(), "the reader has left");
        let rest = async {
            while let Some(part) = parts.recv().await {
                if let Part::Failed(why) = part {
                    assert!(why.contains("took too long"), "{why}");
                    return;
                }
            }
            panic!("the reader was not told");
        };
        future::zip(answering, rest).await;
    });
    assert_eq!(shard.budget.held(), 0);
    assert_eq!(house.ask(0, &Question::all()), house.want(0, &Question::all()));
}

#[test]
fn a_walk_is_left_between_its_slices() {
    let house = House::new(1, many("a", 3000));
    let shard = &house.shards[0];
    let (select, mut parts) = Question::all().select(1);
    let mut answering = Box::pin(shard.answer(Ask::Select(select)));
    assert!(block_on(poll_once(&mut answering)).is_none());
    assert!(matches!(parts.try_recv(), Ok(Part::Begin(_))));
    let gone = shard.pins.older_readers_gone(future::ready(()));
    block_on(future::zip(gone, &mut answering));
    assert!(matches!(parts.try_recv(), Ok(Part::Failed(_))), "before its first series");
}

#[test]
fn a_select_beyond_the_budget_fails_alone() {
    let mut house = House::new(1, many("a", 3000));
    let shard = Rc::get_mut(&mut house.shards[0]).expect("one owner");
    shard.budget = Budget::new(100_000);
    let (select, mut parts) = Question::all().select(8);
    block_on(house.shards[0].answer(Ask::Select(select)));
    assert!(matches!(parts.try_recv(), Ok(Part::Begin(_))));
    let Ok(Part::Failed(why)) = parts.try_recv() else { panic!("it must fail") };
    assert!(why.contains("100000"), "{why}");
    assert_eq!(house.shards[0].budget.held(), 0);
    let few = Question { matchers: vec![matcher(MatchOp::Regex, "n", "1.?")], ..Question::all() };
    assert_eq!(house.ask(0, &few), house.want(0, &few));
}

#[test]
fn stats_count_what_is_there() {
    let stats = |house: &House| {
        let (reply, answer) = oneshot::channel();
        block_on(house.shards[0].answer(Ask::Stats(reply)));
        block_on(answer).expect("stats").tenants
    };
    let mut house = House::new(1, Stored::new());
    assert_eq!(stats(&house), []);
    let own = |n: i64| labels(&[("n", &n.to_string())]);
    for n in 0..3 {
        house.write(&tenant("a"), &own(n), &times((0..=130).map(|i| i * MINUTE)));
    }
    house.write(&tenant("b"), &own(0), &times([5]));
    // 120 samples end with the range; the eleven others are in the next.
    let a = TenantStats {
        tenant: tenant("a"),
        series: 3,
        min_t: 0,
        max_t: 130 * MINUTE,
        chunks: 6,
        samples_appended: 3 * 131,
    };
    let b = TenantStats {
        tenant: tenant("b"),
        series: 1,
        min_t: 5,
        max_t: 5,
        chunks: 1,
        samples_appended: 1,
    };
    assert_eq!(stats(&house), [a.clone(), b.clone()]);
    house.set_floor(&tenant("a"), 120 * MINUTE);
    house.set_floor(&tenant("b"), 120 * MINUTE);
    let shown = TenantStats { min_t: 120 * MINUTE, ..a.clone() };
    let none = TenantStats { min_t: i64::MAX, max_t: i64::MIN, ..b };
    assert_eq!(stats(&house), [shown.clone(), none]);
    {
        let head = &mut house.shards[0].state.borrow_mut().applier.head;
        assert!(Truncation::begin(head, 0, 120 * MINUTE).slice(head, usize::MAX));
    }
    assert_eq!(stats(&house)[0], TenantStats { chunks: 3, ..shown });
}

/// The whole path: a view over two real shards.
mod view {
    use super::*;
    use crate::query::{Blocks, KnownStats, LabelsRequest, Limits, SelectRequest, View};
    use crate::rt::channel::mpsc;
    use crate::shard::tests::reading::Row;
    use std::sync::Arc;

    fn run<T>(house: &House, external: &External, body: impl AsyncFnOnce(View) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let local = tokio::task::LocalSet::new();
        local.block_on(&runtime.expect("a runtime"), async {
            let mut shards = Vec::new();
            for shard in &house.shards {
                let (asks, mut inbox) = mpsc::channel(4);
                shards.push(asks);
                let shard = Rc::clone(shard);
                tokio::task::spawn_local(async move {
                    while let Some(ask) = inbox.recv().await {
                        let shard = Rc::clone(&shard);
                        tokio::task::spawn_local(async move { shard.answer(ask).await });
                    }
                });
            }
            let (_ready, ready) = watch::channel(Ok(()));
            let (_known, stats) = watch::channel(KnownStats::default());
            let external = Arc::new(external.clone());
            let limits = Limits::default();
            body(View::new(shards, Blocks::default(), external, ready, stats, limits)).await
        })
    }

    /// Rows of equal labels become one, as a Querier sees them.
    fn joined(rows: impl IntoIterator<Item = Row>) -> Vec<Row> {
        let mut out: Vec<Row> = Vec::new();
        for (labels, chunks) in rows {
            match out.last_mut() {
                Some(last) if last.0 == labels => last.1.extend(chunks),
                _ => out.push((labels, chunks)),
            }
        }
        for row in &mut out {
            row.1.sort();
        }
        out
    }

    /// One shard has all there is: that it has more than is asked for shows in its answer alone.
    #[test]
    fn a_limit_that_cuts_is_told() {
        let house = House::new(1, many("a", 5));
        let Question { span, external, .. } = Question::all();
        for (limit, is_cut) in [(0, false), (1, true), (4, true), (5, false), (usize::MAX, false)] {
            let select = SelectRequest {
                span,
                matchers: Arc::new([]),
                without: Arc::new([]),
                skip_chunks: true,
                limit,
                sharding: None,
            };
            let (matchers, without) = (Arc::new([]), Arc::new([]));
            let values = LabelsRequest { span, matchers, without, limit };
            let (sets, truncated, values) = run(&house, &external, async |view: View| {
                let mut stream = view.select(select).await.expect("a stream");
                let mut sets = 0;
                while stream.next().await.is_some() {
                    sets += 1;
                }
                (sets, stream.truncated(), view.label_values("n", values).await.expect("values"))
            });
            let most = if limit == 0 { 5 } else { limit.min(5) };
            assert_eq!((sets, truncated), (most, is_cut), "limit {limit}");
            assert_eq!((values.texts.len(), values.truncated), (most, is_cut), "limit {limit}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        #[test]
        fn a_view_over_shards_is_one_sorted_whole(
            stored in any_stored(),
            question in any_question(),
        ) {
            let house = House::new(2, stored);
            let request = SelectRequest {
                span: question.span,
                matchers: question.matchers.clone().into(),
                without: question.without.clone().into(),
                skip_chunks: question.skip_chunks,
                limit: question.limit,
                sharding: question.sharding.clone().map(Arc::new),
            };
            let names = LabelsRequest {
                span: question.span,
                matchers: question.matchers.clone().into(),
                without: question.without.clone().into(),
                limit: question.limit,
            };
            let (got, truncated, got_names) = run(&house, &question.external, async |view: View| {
                let mut stream = view.select(request).await.expect("a stream");
                let mut rows = Vec::new();
                while let Some(frame) = stream.next().await {
                    rows.push(row(&frame.expect("a frame").body));
                }
                let names = view.label_names(names).await.expect("names");
                (rows, stream.truncated(), names)
            });
            let unlimited = Question { limit: 0, ..question.clone() };
            let mut want = house.want(0, &unlimited);
            want.append(&mut house.want(1, &unlimited));
            want.sort();
            let mut want = joined(want);
            let limit = if question.limit == 0 { usize::MAX } else { question.limit };
            prop_assert_eq!(truncated, want.len() > limit);
            want.truncate(limit);
            prop_assert_eq!(joined(got), want);
            let question = Question { sharding: None, ..question };
            let mut texts = house.want_texts(0, &question, None);
            texts.append(&mut house.want_texts(1, &question, None));
            prop_assert_eq!(got_names.truncated, texts.len() > limit);
            prop_assert_eq!(got_names.texts, texts.into_iter().take(limit).collect::<Vec<_>>());
        }
    }
}
