//! Wide selects over many blocks: what they cost others, and that they give what they must.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use crate::block::{Reader, Ulid};
use crate::model::{External, MatchOp, Matcher, TenantId, TimeRange, TimeSpan};
use crate::query::tests::block::{RANGE_MS, block};
use crate::query::tests::{all, read, run};
use crate::query::twin::{self, Head, Series, Twins, external, series};
use crate::query::{LabelsRequest, Limits, LocalBlock, SelectRequest, View};
use crate::rt::beside;
use crate::rt::clock::Moment;
use crate::stdx::number;

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
async fn blocks_of(dir: &Path, count: u64, sets: &[Series]) -> Vec<(LocalBlock, Reader)> {
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

/// A view over so many such blocks and no head.
async fn twins_of(
    dir: &Path,
    external: External,
    limits: Limits,
    (blocks, sets): (u64, &[Series]),
) -> Twins {
    let twins = twin::view(vec![Head::default()], external, limits).await;
    for (block, reader) in blocks_of(dir, blocks, sets).await {
        twins.blocks.add(block, reader);
    }
    twins
}

fn narrow() -> SelectRequest {
    matching(MatchOp::Equal, "pod", "pod-000042")
}

/// Wide reads, twice as many as steps may run, must go through all series before they end or the
/// first leaves them. A narrow select beside them needs few steps, and each waits for one step of
/// theirs.
fn a_narrow_select_ends_before<T: Future<Output: Send> + Send + 'static>(wide: impl Fn(View) -> T) {
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let limits = Limits { step_max: Duration::ZERO, ..Limits::default() };
        let twins = twins_of(dir.path(), external(&[]), limits, (3, &exported(3_000))).await;
        let wides: Vec<_> = (0..8).map(|_| beside::spawn(wide(twins.view.clone()))).collect();
        beside::yield_now().await;
        assert_eq!(timed(twins.view.clone(), narrow()).await.1, 1);
        let first = wides.iter().filter(|wide| wide.is_finished()).count();
        assert_eq!(first, 0, "wide reads that came first");
    });
}

#[test]
fn wide_selects_leave_turns_to_others() {
    a_narrow_select_ends_before(|view| async move {
        let wide = SelectRequest { without: Arc::new(["pod".into()]), limit: 1, ..all() };
        let mut stream = view.select(wide).await.expect("a stream");
        assert!(stream.next().await.is_some());
    });
}

/// Lists of values that must be read from all series.
#[test]
fn wide_lists_leave_turns_to_others() {
    a_narrow_select_ends_before(|view| async move {
        let request = LabelsRequest {
            span: TimeSpan::ALL,
            matchers: matching(MatchOp::Regex, "pod", ".+").matchers,
            without: Arc::new([]),
            limit: 0,
        };
        view.label_values("job", request).await.expect("a list");
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
        let twins = twins_of(dir.path(), external.clone(), limits, (3, &heads[0].series)).await;
        for (without, limit) in [("kind", 0), ("job", 0), ("instance", 1_500)] {
            let without = Arc::new([without.to_string()]);
            let request = SelectRequest { without, limit, skip_chunks: true, ..all() };
            let mut stream = twins.view.select(request.clone()).await.expect("a stream");
            let got = read(&mut stream).await;
            assert_eq!(got, (twin::select(&heads, &external, &request), vec![]));
        }
    });
}

/// What a select takes alone and beside wide ones, over 29 blocks of so many series:
/// `TIDEGATE_WIDE_SERIES=100000 cargo test --config profile.dev.opt-level=3 --lib
/// narrow_beside_wide -- --nocapture`
#[test]
fn narrow_beside_wide() {
    let dir = tempfile::tempdir().expect("a directory");
    let count = number("TIDEGATE_WIDE_SERIES").unwrap_or(1_000) as usize;
    run(async {
        let (external, limits) = (external(&[("replica", "1")]), Limits::default());
        let twins = twins_of(dir.path(), external, limits, (29, &exported(count))).await;
        let measured = async |what: &str, request: &SelectRequest, series| {
            let (took, found) = timed(twins.view.clone(), request.clone()).await;
            assert_eq!(found, series, "{what}");
            println!("{what}: {took:?}");
        };
        let wide = SelectRequest { limit: 1, ..matching(MatchOp::Regex, "__name__", ".+") };
        measured("narrow alone", &narrow(), 1).await;
        measured("wide with limit 1 alone", &wide, 1).await;
        let beside: Vec<_> =
            (0..6).map(|_| beside::spawn(timed(twins.view.clone(), wide.clone()))).collect();
        beside::sleep(Duration::from_millis(20)).await;
        measured("narrow beside six", &narrow(), 1).await;
        for wide in beside {
            println!("one of the six: {:?}", wide.await.expect("no panic"));
        }
        let whole = SelectRequest { skip_chunks: true, ..matching(MatchOp::Equal, "job", "node") };
        measured("all, labels alone", &whole, count).await;
        let sorted = SelectRequest { without: Arc::new(["pod".into()]), ..whole };
        measured("all without a stored label", &sorted, count).await;
    });
}
