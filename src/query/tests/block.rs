//! Blocks beside heads: written by the block writer, read through the view, and no sample is
//! missing or there twice.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use proptest::prelude::*;

use crate::block::{MetaDraft, Reader, Ulid, Writer};
use crate::chunk::{Chunk, Encoding, xor};
use crate::model::{External, Labels, Sample, TenantId, TimeRange, TimeSpan};
use crate::query::tests::{all, any_labels, any_matcher, external, read, run, series};
use crate::query::twin::{self, Fault, Head, PlainChunk, Series};
use crate::query::{
    Blocks, Error, LabelList, LabelsRequest, Limits, LocalBlock, Origin, SelectRequest,
};
use crate::rt::channel::mpsc;
use crate::rt::{DirSink, beside, thread};
use crate::shard::message::Ask;

/// Length of a test's block range.
pub(super) const RANGE_MS: i64 = 20;

/// Writes the samples of `all` inside `range` to a block and opens it; `None` if there are none.
pub(super) async fn block(
    dir: &Path,
    shard: u16,
    tenant: &TenantId,
    range: TimeRange,
    all: &[Series],
) -> Option<(LocalBlock, Reader)> {
    let mut sorted: Vec<&Series> = all.iter().filter(|s| s.tenant == *tenant).collect();
    sorted.sort_by(|a, b| a.labels.cmp(&b.labels));
    let ulid = Ulid::from_parts(dir.read_dir().expect("a directory").count() as u64, 7);
    let target = dir.join(ulid.to_string());
    let sink = DirSink::create(&target).expect("a sink");
    let mut writer = Writer::new(sink, MetaDraft::fresh(ulid, range, Labels::default()));
    let mut series = 0;
    for one in sorted {
        let inside: Vec<Sample> =
            one.samples.iter().copied().filter(|s| range.contains(s.t)).collect();
        if inside.is_empty() {
            continue;
        }
        let pairs: Vec<_> = one.labels.iter().collect();
        let plain = twin::chunks(&inside, TimeSpan::ALL);
        let chunks: Vec<Chunk<'_>> = plain
            .iter()
            .map(|(min_t, max_t, bytes)| Chunk {
                encoding: Encoding::Xor,
                min_t: *min_t,
                max_t: *max_t,
                bytes,
            })
            .collect();
        writer.add(&pairs, &chunks).await.expect("the writer takes it");
        series += 1;
    }
    if series == 0 {
        return None;
    }
    writer.finish().await.expect("a block");
    let reader = Reader::open(&target).expect("it opens");
    let tenant = tenant.clone();
    let born_in_this_process = true;
    Some((LocalBlock { tenant, range, shard, born_in_this_process, ulid, dir: target }, reader))
}

/// Label sets with their samples inside `span`; sets without one are left out. A sample that came
/// twice fails the test.
fn samples(
    found: &[(Labels, Vec<PlainChunk>)],
    span: TimeSpan,
) -> BTreeMap<Labels, BTreeSet<(i64, u64)>> {
    let mut all: BTreeMap<Labels, BTreeSet<(i64, u64)>> = BTreeMap::new();
    for (labels, chunks) in found {
        for (_, _, bytes) in chunks {
            for sample in xor::Reader::new(bytes).expect("a chunk") {
                let sample = sample.expect("a sample");
                if span.contains(sample.t) {
                    let set = all.entry(labels.clone()).or_default();
                    assert!(set.insert((sample.t, sample.bits)), "{labels}: {sample:?} twice");
                }
            }
        }
    }
    all
}

/// A head at `from` with blocks for what is before, and blocks that the head still serves as well.
struct World {
    /// All data in heads: what the oracle looks at.
    whole: Vec<Head>,
    /// What heads really hold.
    heads: Vec<Head>,
    blocks: Vec<(LocalBlock, Reader)>,
}

async fn world(dir: &Path, all: &[Series], shards: u16, from: i64, at_start: bool) -> World {
    let mut world = World { whole: Vec::new(), heads: Vec::new(), blocks: Vec::new() };
    for shard in 0..shards {
        let own: Vec<Series> = all
            .iter()
            .filter(|s| s.labels.to_string().len() as u16 % shards == shard)
            .cloned()
            .collect();
        let tenants: BTreeSet<TenantId> = own.iter().map(|s| s.tenant.clone()).collect();
        for tenant in tenants {
            for start in (0..3 * RANGE_MS).step_by(RANGE_MS as usize) {
                let range = TimeRange { start, end: start + RANGE_MS };
                if let Some(mut block) = block(dir, shard, &tenant, range, &own).await {
                    block.0.born_in_this_process = !(at_start && range.end <= from);
                    world.blocks.push(block);
                }
            }
        }
        let mut rest = own.clone();
        for series in &mut rest {
            series.samples.retain(|s| s.t >= from);
        }
        rest.retain(|s| !s.samples.is_empty());
        let head = |series| Head { series, part_frames: 2, from_ms: from, ..Head::default() };
        world.whole.push(head(own));
        world.heads.push(head(rest));
    }
    world
}

/// Values tell series apart, so that sets that become equal can still be checked sample by sample.
fn any_series() -> impl Strategy<Value = Vec<Series>> {
    let times = proptest::collection::btree_set(0i64..3 * RANGE_MS, 1..20);
    let one = (any_labels(), "[pq]", times).prop_map(|(set, tenant, times)| {
        let pairs: Vec<_> = set.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect();
        let samples = times.into_iter().map(|t| Sample { t, bits: t as u64 }).collect();
        Series { samples, ..series(&tenant, &pairs, 0..0) }
    });
    proptest::collection::vec(one, 1..14).prop_map(|mut all| {
        all.retain(|s| !s.labels.is_empty());
        all.sort_by(|a, b| (&a.tenant, &a.labels).cmp(&(&b.tenant, &b.labels)));
        all.dedup_by(|a, b| (&a.tenant, &a.labels) == (&b.tenant, &b.labels));
        for (series, number) in all.iter_mut().zip(1..) {
            series.samples.iter_mut().for_each(|s| s.bits += number << 32);
        }
        all
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn heads_and_blocks_give_every_sample_once(
        all in any_series(),
        shards in 1u16..3,
        cut in 0i64..4,
        at_start in any::<bool>(),
        flags in proptest::collection::btree_map("A|aa|b|bb|zz", "[xy]", 0..4),
        without in proptest::collection::vec("[abcd]|A|aa|zz|tenant_id", 0..3),
        matchers in proptest::collection::vec(any_matcher(), 0..2),
        limit in 0usize..6,
        span in prop_oneof![Just((0, 60)), (0i64..60, 0i64..40)],
        step_max in prop_oneof![Just(Duration::ZERO), Just(Limits::default().step_max)],
    ) {
        let flags = Labels::new(flags).expect("a label set");
        let external = External::new(flags, "tenant_id", Some("shard".into())).expect("labels");
        let span = TimeSpan { min: span.0, max: span.0 + span.1 };
        let limit = if span.max - span.min < 60 { 0 } else { limit };
        let (matchers, without) = (matchers.into(), without.into());
        let request = SelectRequest { span, matchers, without, limit, ..super::all() };
        let dir = tempfile::tempdir().expect("a directory");
        let (whole, (found, errors), truncated) = run(async {
            let world = world(dir.path(), &all, shards, cut * RANGE_MS, at_start).await;
            let limits = Limits { step_max, ..Limits::default() };
            let twins = twin::view(world.heads, external.clone(), limits).await;
            world.blocks.into_iter().for_each(|(block, reader)| twins.blocks.add(block, reader));
            let mut stream = twins.view.select(request.clone()).await.expect("a stream");
            (world.whole, read(&mut stream).await, stream.truncated())
        });
        prop_assert_eq!(errors, []);
        prop_assert!(found.is_sorted_by(|a, b| a.0 < b.0), "{:?}", found);
        let want = twin::select(&whole, &external, &request);
        prop_assert_eq!(samples(&found, span), samples(&want, span));
        let sets = twin::select(&whole, &external, &SelectRequest { limit: 0, ..request }).len();
        prop_assert_eq!(truncated, limit != 0 && sets > limit);
    }

    #[test]
    fn lists_know_blocks(
        all in any_series(),
        cut in 0i64..4,
        without in proptest::collection::vec("[abcd]|tenant_id|aa", 0..3),
        matchers in proptest::collection::vec(any_matcher(), 0..3),
        of in proptest::option::of(proptest::sample::select(vec!["a", "b", "aa", "tenant_id"])),
        step_max in prop_oneof![Just(Duration::ZERO), Just(Limits::default().step_max)],
    ) {
        let external = external(&[("aa", "y"), ("b", "over")]);
        let dir = tempfile::tempdir().expect("a directory");
        let request = LabelsRequest {
            span: TimeSpan::ALL,
            matchers: matchers.into(),
            without: without.into(),
            limit: 0,
        };
        let (whole, got) = run(async {
            let world = world(dir.path(), &all, 2, cut * RANGE_MS, true).await;
            let limits = Limits { step_max, ..Limits::default() };
            let twins = twin::view(world.heads, external.clone(), limits).await;
            world.blocks.into_iter().for_each(|(block, reader)| twins.blocks.add(block, reader));
            let got = match of {
                None => twins.view.label_names(request.clone()).await,
                Some(label) => twins.view.label_values(label, request.clone()).await,
            };
            (world.whole, got.expect("a list"))
        });
        let want = twin::labels(&whole, &external, &request.matchers, &request.without, of);
        prop_assert_eq!(got.texts, want.into_iter().collect::<Vec<_>>());
        prop_assert_eq!(got.failed, []);
    }
}

/// `{a}` and `{a, b}` turn around when `aa` comes between, and half of the series when `a` goes:
/// the first needs no memory, the second does.
#[test]
fn what_turns_around_is_sorted_within_a_budget() {
    let sets: Vec<Series> = (0..200)
        .flat_map(|i| {
            let (a, b) = (format!("{:03}", i / 2), format!("{:0500}", 200 - i));
            [
                series("p", &[("a", &a), ("b", &b)], 0..4),
                series("p", &[("a", &a), ("a0", "1"), ("b", &b)], 0..4),
                series("p", &[("a", &a), ("aaa", "1"), ("b", &b)], 0..4),
                series("p", &[("a", &a), ("aaa", "1"), ("b", &b), ("c", "1")], 0..4),
            ]
        })
        .collect();
    let dir = tempfile::tempdir().expect("a directory");
    let external = external(&[("aa", "1"), ("bb", "1")]);
    for (budget, without, want) in
        [(64 << 20, "a", 800), (200 << 10, "a", 0), (200 << 10, "aa", 800), (200 << 10, "x", 800)]
    {
        run(async {
            let range = TimeRange { start: 0, end: 20 };
            let tenant = TenantId::new("p").expect("a tenant");
            let block = block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
            let limits = Limits { buffered_bytes_max: budget, ..Limits::default() };
            let twins = twin::view(vec![Head::default()], external.clone(), limits).await;
            twins.blocks.add(block.0, block.1);
            // Frames in hand have the same limit.
            let request = SelectRequest { without: Arc::new([without.into()]), limit: 0, ..all() };
            let mut stream = twins.view.select(request).await.expect("a stream");
            let (found, errors) = read(&mut stream).await;
            assert_eq!(found.len(), want, "{errors:?}");
            assert!(found.is_sorted_by(|a, b| a.0 < b.0));
            assert_eq!(errors.len(), usize::from(want == 0), "{errors:?}");
        });
    }
}

#[test]
fn damage_is_said_and_the_rest_is_read() {
    let sets: Vec<Series> =
        (0..50).map(|i| series("p", &[("i", &format!("{i:02}"))], 0..4)).collect();
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let range = TimeRange { start: 0, end: 20 };
        let tenant = TenantId::new("p").expect("a tenant");
        let (whole, reader) = block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
        let file = dir.path().join(whole.ulid.to_string()).join("chunks/000001");
        let mut bytes = std::fs::read(&file).expect("chunks");
        let at = bytes.len() - 6;
        bytes[at] ^= 1;
        std::fs::write(&file, bytes).expect("written");
        let twins = twin::view(vec![Head::default()], external(&[]), Limits::default()).await;
        let ulid = whole.ulid;
        twins.blocks.add(whole, reader);
        let mut stream = twins.view.select(all()).await.expect("a stream");
        let (found, errors) = read(&mut stream).await;
        // The last chunk is one of two of its series.
        assert_eq!(found.len(), 50);
        assert_eq!(found.iter().map(|(_, chunks)| chunks.len()).sum::<usize>(), 99);
        let [Error::Failed { origin: Origin::Blocks, why }] = &errors[..] else {
            panic!("{errors:?}")
        };
        assert!(why.contains(&ulid.to_string()) && why.starts_with("1 series, chunks"), "{why}");

        assert_eq!(twins.blocks.remove(ulid).map(|block| block.ulid), Some(ulid));
        let mut stream = twins.view.select(all()).await.expect("a stream");
        assert_eq!(read(&mut stream).await, (vec![], vec![]));
    });
}

/// All names, or values.
fn names() -> LabelsRequest {
    let (matchers, without) = (Arc::new([]), Arc::new([]));
    LabelsRequest { span: TimeSpan::ALL, matchers, without, limit: 0 }
}

/// Maps of files in `dir` that this process has.
fn maps_in(dir: &Path) -> usize {
    let maps = std::fs::read_to_string("/proc/self/maps").expect("maps");
    maps.lines().filter(|line| line.contains(dir.to_str().expect("a text"))).count()
}

#[test]
fn any_number_of_blocks_is_read_with_few_maps() {
    const BLOCKS: i64 = 300;
    // Eight blocks: an index and a file of chunks each.
    const MAPS_MAX: usize = 16;
    let tenant = TenantId::new("p").expect("a tenant");
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let mut twins = twin::view(vec![Head::default()], external(&[]), Limits::default()).await;
        twins.view.blocks = Blocks::new(MAPS_MAX);
        for number in 0..BLOCKS {
            let range = TimeRange { start: number * RANGE_MS, end: (number + 1) * RANGE_MS };
            let times = range.start..range.start + 4;
            let own = series("p", &[("own", &format!("{number:03}"))], times.clone());
            let sets = [series("p", &[("common", "1")], times), own];
            let (block, reader) =
                block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
            twins.view.blocks.add(block, reader);
        }
        let (path, done) = (dir.path().to_owned(), Arc::new(AtomicBool::new(false)));
        let until = Arc::clone(&done);
        let watch = move || {
            let mut most = 0;
            while !until.load(Ordering::Relaxed) {
                most = most.max(maps_in(&path));
            }
            most
        };
        let watch = thread::spawn_named("maps", watch).expect("a thread");
        let mut stream = twins.view.select(all()).await.expect("a stream");
        let (found, errors) = read(&mut stream).await;
        let values = twins.view.label_values("own", names()).await.expect("a list");
        done.store(true, Ordering::Relaxed);
        let most = watch.join().expect("no panic");
        assert_eq!(errors, []);
        assert_eq!(found.len() as i64, BLOCKS + 1);
        let all: usize = samples(&found, TimeSpan::ALL).into_values().map(|s| s.len()).sum();
        assert_eq!(all as i64, BLOCKS * 4 * 2);
        assert_eq!(values.texts.len() as i64, BLOCKS);
        // One block more is open, the one that is being read; and the kernel tells the maps one by
        // one, while they come and go.
        assert!((1..=MAPS_MAX * 2).contains(&most), "{most} maps");
        assert_eq!(maps_in(dir.path()), MAPS_MAX, "the last ones stay open");
    });
}

#[test]
fn a_block_that_goes_away_while_it_is_read_is_held_or_said() {
    let sets: Vec<Series> =
        (0..4_000).map(|i| series("p", &[("i", &format!("{i:04}"))], 0..4)).collect();
    let tenant = TenantId::new("p").expect("a tenant");
    for close in [false, true] {
        let dir = tempfile::tempdir().expect("a directory");
        run(async {
            let range = TimeRange { start: 0, end: 20 };
            let (block, reader) =
                block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
            let (ulid, path) = (block.ulid, block.dir.clone());
            let twins = twin::view(vec![Head::default()], external(&[]), Limits::default()).await;
            twins.blocks.add(block, reader);
            let mut stream = twins.view.select(all()).await.expect("a stream");
            stream.next().await.expect("a frame").expect("no error");
            let block = twins.blocks.remove(ulid).expect("it was listed");
            assert!(Arc::strong_count(&block) > 1, "whoever deletes sees that it is read");
            std::fs::remove_dir_all(&path).expect("removed");
            if close {
                twins.blocks.close(ulid);
            }
            let (found, errors) = read(&mut stream).await;
            if close {
                let [Error::Failed { why, .. }] = &errors[..] else { panic!("{errors:?}") };
                assert!(why.contains(&ulid.to_string()) && found.len() < 3_999, "{why}");
            } else {
                assert_eq!((found.len(), errors), (3_999, vec![]));
            }
            assert_eq!(twins.blocks.now().len(), 0);
            drop(stream);
            while Arc::strong_count(&block) > 1 {
                beside::yield_now().await;
            }
        });
    }
}

#[test]
fn a_failed_head_does_not_hide_its_blocks() {
    let all_series = vec![series("p", &[("a", "1")], 0..30)];
    let dir = tempfile::tempdir().expect("a directory");
    let (found, errors) = run(async {
        let mut world = world(dir.path(), &all_series, 1, 0, false).await;
        world.heads[0].fault = Fault::NoBegin;
        let twins = twin::view(world.heads, external(&[]), Limits::default()).await;
        world.blocks.into_iter().for_each(|(block, reader)| twins.blocks.add(block, reader));
        read(&mut twins.view.select(all()).await.expect("a stream")).await
    });
    assert_eq!(errors.len(), 1);
    assert_eq!(samples(&found, TimeSpan::ALL).into_values().map(|s| s.len()).sum::<usize>(), 30);
}

/// A head that lets its series go just when it is asked, after they were put in a block.
#[test]
fn lists_know_what_a_head_lets_go_meanwhile() {
    let sets = [series("p", &[("a", "1")], 0..4)];
    let tenant = TenantId::new("p").expect("a tenant");
    let dir = tempfile::tempdir().expect("a directory");
    let list = run(async {
        let range = TimeRange { start: 0, end: 20 };
        let (block, reader) = block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
        let mut twins = twin::view(Vec::new(), external(&[]), Limits::default()).await;
        let (asks, mut asked) = mpsc::channel(1);
        twins.view.shards = [asks].into();
        let blocks = twins.blocks.clone();
        beside::spawn(async move {
            let Some(Ask::Labels(ask)) = asked.recv().await else { panic!("it is asked") };
            blocks.add(block, reader);
            ask.reply.send(Ok(BTreeSet::new())).expect("it waits");
        });
        twins.view.label_names(names()).await.expect("a list")
    });
    assert_eq!(list.texts, ["a", "tenant_id"]);
}

#[test]
fn info_spans_blocks_and_heads() {
    let all_series = vec![series("p", &[("a", "1")], 5..50)];
    let dir = tempfile::tempdir().expect("a directory");
    let info = run(async {
        let world = world(dir.path(), &all_series, 1, 40, true).await;
        let twins = twin::view(world.heads, external(&[]), Limits::default()).await;
        world.blocks.into_iter().for_each(|(block, reader)| twins.blocks.add(block, reader));
        twins.view.info()
    });
    assert_eq!(info.len(), 1);
    assert_eq!((info[0].min_t, info[0].max_t), (0, 59));
}

/// Names and values count as much as series do, whether heads or blocks have them.
#[test]
fn lists_of_labels_are_held_within_the_budget() {
    let value = |i: u8| format!("{i}{}", "x".repeat(1000));
    let of = |i| series("p", &[("a", &value(i)), (&format!("n{}", value(i)), "1")], 0..4);
    let sets: Vec<Series> = (0..5).map(of).collect();
    let dir = tempfile::tempdir().expect("a directory");
    run(async {
        let range = TimeRange { start: 0, end: 20 };
        let tenant = TenantId::new("p").expect("a tenant");
        let head = Head { series: (3..8).map(of).collect(), ..Head::default() };
        let (all, over) = (10_000, Error::OverBudget { limit_bytes: 6_000 });
        for (in_blocks, bytes_max, limit, want) in [
            (true, all, 0, Ok(8)),
            (false, all, 0, Ok(5)),
            (true, 6_000, 0, Err(over.clone())),
            (true, 6_000, 5, Ok(5)),
            (false, 6_000, 0, Ok(5)),
            (false, 2_000, 0, Err(Error::OverBudget { limit_bytes: 2_000 })),
            (false, 2_000, 1, Ok(1)),
        ] {
            let limits = Limits { buffered_bytes_max: bytes_max, ..Limits::default() };
            let twins = twin::view(vec![head.clone()], external(&[]), limits).await;
            if in_blocks {
                let block = block(dir.path(), 0, &tenant, range, &sets).await.expect("series");
                twins.blocks.add(block.0, block.1);
            }
            let asked = LabelsRequest {
                span: TimeSpan::ALL,
                matchers: Arc::new([]),
                without: Arc::new(["a".into(), "tenant_id".into()]),
                limit,
            };
            let values = LabelsRequest { without: Arc::new([]), ..asked.clone() };
            for list in
                [twins.view.label_names(asked).await, twins.view.label_values("a", values).await]
            {
                let first = |list: LabelList| {
                    assert!(list.texts.is_sorted() && list.failed.is_empty(), "{list:?}");
                    assert_eq!(list.truncated, limit != 0);
                    assert!(list.texts[0].contains(if in_blocks { "0x" } else { "3x" }));
                    list.texts.len()
                };
                assert_eq!(list.map(first), want, "{in_blocks} {bytes_max} {limit}");
            }
        }
    });
}
