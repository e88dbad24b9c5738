//! Wide selects over many blocks: what they cost others, and that they give what they must.

use std::sync::Arc;
use std::time::Duration;

use crate::block::{Reader, Ulid};
use crate::model::{MatchOp, Matcher, TenantId, TimeRange, TimeSpan};
use crate::query::tests::block::{RANGE_MS, block};
use crate::query::tests::{all, external, read, run, series};
use crate::query::twin::{self, Head, Series};
use crate::query::{LabelsRequest, Limits, LocalBlock, SelectRequest, View};
use crate::rt::beside;
use crate::rt::clock::Moment;

/// Series of a block as exporters have them: metrics with an instance, a job and a pod each.
fn exported(count: usize) -> Vec<Series> {
    let one = |i: usize| {
        let (name, instance) = (format!("metric_{:03}", i % 500), format!("host-{:05}", i / 500));
        let pairs = [("__name__", &*name), ("instance", &instance), ("job", "node")];
        series("p", &[&pairs[..], &[("pod", &format!("pod-{i:06}"))]].concat(), 0..4)
    };
    (0..count).map(one).collect()
}

fn matching(op: MatchOp, name: &str, value: &str) -> SelectRequest {
    let matchers = [Matcher::new(op, name, value).expect("a matcher")];
    SelectRequest { matchers: Arc::new(matchers), ..all() }
}

/// How long a select takes from its start to its end, and how many series it gives.
async fn timed(view: View, request: SelectRequest) -> (Duration, usize) {
    let since = Moment::now();
    let mut stream = view.select(request).await.expect("a stream");
    let (found, errors) = read(&mut stream).await;
    assert_eq!(errors, []);
    (since.elapsed(), found.len())
}

/// The same series in so many blocks.
async fn blocks_of(
    dir: &std::path::Path,
    count: u64,
    sets: &[Series],
) -> Vec<(LocalBlock, Reader)> {
    let range = TimeRange { start: 0, end: RANGE_MS };
    let tenant = TenantId::new("p").expect("a tenant");
    let (first, _) = block(dir, 0, &tenant, range, sets).await.expect("series");
    let one = |number| {
        let ulid = Ulid::from_parts(number, 9);
        let (tenant, dir) = (first.tenant.clone(), first.dir.clone());
        let reader = Reader::open(&dir).expect("it opens");
        (LocalBlock { tenant, range, shard: 0, born_in_this_process: true, ulid, dir }, reader)
    };
    (0..count).map(one).collect()
}

/// Wide selects, twice as many as steps may run, must go through all series before the first leaves
/// them. A narrow one beside them needs few steps, and each waits for one step of theirs.
#[test]
fn wide_selects_leave_turns_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let limits = Limits { step_max: Duration::ZERO, ..Limits::default() };
        let twins = twin::view(vec![Head::default()], external(&[]), limits).await;
        for (block, reader) in blocks_of(dir.path(), 3, &exported(3_000)).await {
            twins.blocks.add(block, reader);
        }
        let wide = SelectRequest { without: Arc::new(["pod".into()]), limit: 1, ..all() };
        let mut wides = Vec::new();
        for _ in 0..8 {
            let mut stream = twins.view.select(wide.clone()).await.expect("a stream");
            wides.push(beside::spawn(async move { stream.next().await }));
        }
        let narrow = matching(MatchOp::Equal, "pod", "pod-000042");
        assert_eq!(timed(twins.view.clone(), narrow).await.1, 1);
        let first = wides.iter().filter(|wide| wide.is_finished()).count();
        assert_eq!(first, 0, "wide selects that came first");
    });
}

/// The same of lists of values that must be read from all series.
#[test]
fn wide_lists_leave_turns_to_others() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let limits = Limits { step_max: Duration::ZERO, ..Limits::default() };
        let twins = twin::view(vec![Head::default()], external(&[]), limits).await;
        for (block, reader) in blocks_of(dir.path(), 3, &exported(3_000)).await {
            twins.blocks.add(block, reader);
        }
        let request = LabelsRequest {
            span: TimeSpan::ALL,
            matchers: matching(MatchOp::Regex, "pod", ".+").matchers,
            without: Arc::new([]),
            limit: 0,
        };
        let mut wides = Vec::new();
        for _ in 0..8 {
            let (view, request) = (twins.view.clone(), request.clone());
            wides.push(beside::spawn(async move { view.label_values("job", request).await }));
        }
        beside::yield_now().await;
        let narrow = matching(MatchOp::Equal, "pod", "pod-000042");
        assert_eq!(timed(twins.view.clone(), narrow).await.1, 1);
        let first = wides.iter().filter(|wide| wide.is_finished()).count();
        assert_eq!(first, 0, "wide lists that came first");
    });
}

/// With a small budget positions are found anew, about a thousand at a time.
#[test]
fn positions_are_found_anew_within_a_budget() {
    let dir = tempfile::tempdir().expect("a directory");
    let heads = [Head { series: exported(3_000), ..Head::default() }];
    let external = external(&[("kind", "x")]);
    run(async {
        let limits = Limits { buffered_bytes_max: 1 << 20, ..Limits::default() };
        let twins = twin::view(vec![Head::default()], external.clone(), limits).await;
        for (block, reader) in blocks_of(dir.path(), 3, &heads[0].series).await {
            twins.blocks.add(block, reader);
        }
        for (without, limit) in [("kind", 0), ("job", 0), ("instance", 1_500)] {
            let without = Arc::new([without.to_string()]);
            let request = SelectRequest { without, limit, skip_chunks: true, ..all() };
            let mut stream = twins.view.select(request.clone()).await.expect("a stream");
            let got = read(&mut stream).await;
            assert_eq!(got, (twin::select(&heads, &external, &request), vec![]));
        }
    });
}

/// `cargo test --config profile.dev.opt-level=3 --lib narrow_beside_wide -- --ignored --nocapture`
#[test]
#[ignore = "a measurement: it prints what a select takes alone and beside wide ones"]
fn narrow_beside_wide() {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let twins =
            twin::view(vec![Head::default()], external(&[("replica", "1")]), Limits::default());
        let twins = twins.await;
        for (block, reader) in blocks_of(dir.path(), 29, &exported(100_000)).await {
            twins.blocks.add(block, reader);
        }
        let narrow = matching(MatchOp::Equal, "pod", "pod-000042");
        let wide = SelectRequest { limit: 1, ..matching(MatchOp::Regex, "__name__", ".+") };
        println!("narrow alone: {:?}", timed(twins.view.clone(), narrow.clone()).await);
        println!("wide with limit 1 alone: {:?}", timed(twins.view.clone(), wide.clone()).await);
        let beside: Vec<_> =
            (0..6).map(|_| beside::spawn(timed(twins.view.clone(), wide.clone()))).collect();
        beside::sleep(Duration::from_millis(20)).await;
        println!("narrow beside six: {:?}", timed(twins.view.clone(), narrow.clone()).await);
        for wide in beside {
            println!("one of the six: {:?}", wide.await.expect("no panic"));
        }
        let without = Arc::new(["pod".to_string()]);
        let whole = SelectRequest { skip_chunks: true, ..matching(MatchOp::Equal, "job", "node") };
        println!("all, labels alone: {:?}", timed(twins.view.clone(), whole.clone()).await);
        let sorted = SelectRequest { without, ..whole };
        println!("all without a stored label: {:?}", timed(twins.view.clone(), sorted).await);
    });
}
