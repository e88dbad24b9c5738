//! The keeper with the real shipper, a directory as bucket, and twins of shards: each holds ranges
//! without samples of its own and writes real blocks.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::block::{MetaDraft, Writer, filenames};
use crate::bucket::Bucket;
use crate::chunk::Chunk;
use crate::chunk::Encoding;
use crate::chunk::xor::{Appender, MAX_SAMPLE_BYTES};
use crate::config;
use crate::model::{BLOCK_RANGE_MS, Labels, TimeRange};
use crate::rt::channel::watch;
use crate::rt::{DirSink, control};
use crate::shard::blocks::Origin;
use crate::shard::cut_plan::Held;
use crate::shard::message::FlushedBlock;
use crate::shard::slots::SlotSet;
use crate::ship::{COPY_AGE_MS_MAX, HashFunc, Settings, Shipper, Terms};
use crate::telemetry::Counters;

/// Far more than a test takes.
const PATIENCE: Duration = Duration::from_mins(2);
/// When the first range begins.
const START: i64 = 200_000 * BLOCK_RANGE_MS;

fn tenant(name: &str) -> TenantId {
    TenantId::new(name).expect("a tenant")
}

fn range(number: i64) -> TimeRange {
    TimeRange::aligned(START + number * BLOCK_RANGE_MS)
}

fn external(shard_label: Option<&str>) -> Arc<External> {
    let labels = Labels::new([("replica", "0")]).expect("labels");
    Arc::new(External::new(labels, "tenant_id", shard_label.map(Into::into)).expect("labels"))
}

/// Writes a block with one series of one sample.
async fn write_block(dir: &Path, draft: MetaDraft) -> Meta {
    let t = draft.range.start;
    let (mut appender, mut bytes) = (Appender::new(), vec![0; 2 + 2 * MAX_SAMPLE_BYTES]);
    appender.append(&mut bytes, t, 1.0_f64.to_bits());
    let len = appender.finish(&mut bytes);
    bytes.truncate(len);
    let mut writer = Writer::new(DirSink::create(dir).expect("a sink"), draft);
    let chunk = Chunk { encoding: Encoding::Xor, min_t: t, max_t: t, bytes: &bytes };
    writer.add(&[("__name__", "m")], &[chunk]).await.expect("a series");
    writer.finish().await.expect("a block").0
}

/// Blocks of a tenant, one a range, all of them known to be in the bucket.
async fn fill(root: &Path, name: &str, count: i64) {
    let dir = root.join("blocks").join(name);
    let (labels, first) = (external(None).of(&tenant(name), 0), Ulid::from_parts(1, 0));
    let template = dir.join(first.to_string());
    let mut meta = write_block(&template, MetaDraft::fresh(first, range(0), labels)).await;
    let mut uploaded = vec![first.to_string()];
    for number in 1..count {
        meta.ulid = Ulid::from_parts(1, number as u128);
        (meta.min_time, meta.max_time) = (range(number).start, range(number).end);
        let block = dir.join(meta.ulid.to_string());
        fs::create_dir_all(block.join(filenames::CHUNKS)).expect("a directory");
        for file in [filenames::INDEX, "chunks/000001"] {
            fs::hard_link(template.join(file), block.join(file)).expect("a file");
        }
        fs::write(block.join(filenames::META), meta.encode().expect("a text")).expect("a file");
        uploaded.push(meta.ulid.to_string());
    }
    let state = json!({ "version": 1, "uploaded": uploaded }).to_string();
    fs::write(dir.join(ship::STATE_FILE), state).expect("a file");
}

/// Ranges of each tenant that a shard holds and no block has, by number.
type Ranges = BTreeMap<TenantId, BTreeSet<i64>>;

/// A shard that owns everything and keeps no samples. It writes a block for each range it holds;
/// not for tenants called "broken".
struct ShardTwin {
    root: PathBuf,
    ranges: Ranges,
    flushed: mpsc::UnboundedSender<(TenantId, i64)>,
}

impl ShardTwin {
    async fn answer(mut self, mut asks: mpsc::Receiver<Ask>) {
        while let Some(ask) = asks.recv().await {
            match ask {
                Ask::Held(reply) => drop(reply.send(self.held())),
                Ask::Cut { reply, .. } | Ask::Truncate { reply, .. } => drop(reply.send(())),
                Ask::Flush(ask) => {
                    let block = self.flush(&ask).await;
                    drop(ask.reply.send(block));
                }
                Ask::Covered(reply) => drop(reply.send(Vec::new())),
                Ask::Settle(reply) => drop(reply.send(Ok(()))),
                Ask::DropOld { reply, .. } => drop(reply.send(Ok(0))),
                other => panic!("the keeper asked {other:?}"),
            }
        }
    }

    fn held(&self) -> Vec<(TenantId, Held)> {
        let held = |ranges: &BTreeSet<i64>| Held {
            oldest_ms: ranges.first().map_or(i64::MAX, |first| range(*first).start),
            newest_ms: range(1_000).start,
            cut_ms: i64::MIN,
            covered_ms: i64::MIN,
            accepted: 1,
        };
        self.ranges.iter().map(|(tenant, ranges)| (tenant.clone(), held(ranges))).collect()
    }

    async fn flush(&mut self, ask: &FlushAsk) -> Result<Option<FlushedBlock>, String> {
        let FlushAsk { tenant, external, ulid, .. } = ask;
        let ranges = self.ranges.get_mut(tenant).expect("a tenant of ours");
        let Some(number) = ranges.first().copied() else { return Ok(None) };
        self.flushed.send((tenant.clone(), number)).expect("the test listens");
        if tenant.as_str() == "broken" {
            return Err("the device refuses".to_owned());
        }
        ranges.pop_first();
        let dir = self.root.join("blocks").join(tenant.as_str()).join(ulid.to_string());
        let draft = MetaDraft::fresh(*ulid, range(number), external.of(tenant, 0));
        write_block(&dir, draft).await;
        let range = range(number);
        Ok(Some(FlushedBlock { ulid: *ulid, dir, range, series: 1, samples: 1 }))
    }
}

/// A keeper over one shard that holds ranges; and what the shard is told to flush.
async fn keeper(
    home: &TempDir,
    ranges: &[(&str, i64)],
) -> (Keeper, mpsc::UnboundedReceiver<(TenantId, i64)>) {
    let ranges = ranges.iter().map(|&(name, count)| (tenant(name), (0..count).collect())).collect();
    let (flushed, seen) = mpsc::unbounded_channel();
    let (asks, asked) = mpsc::channel(1);
    let twin = ShardTwin { root: home.path().to_owned(), ranges, flushed };
    beside::spawn(twin.answer(asked));
    (Keeper::take_over(parts(home, vec![asks], None)).await, seen)
}

fn bucket_of(home: &TempDir) -> config::Bucket {
    config::Bucket::Filesystem { directory: home.path().join("bucket"), prefix: String::new() }
}

/// What keeper and shipper need, with room for four blocks on the way to the shipper.
fn parts(home: &TempDir, shards: Vec<mpsc::Sender<Ask>>, shard_label: Option<&str>) -> Parts {
    let bucket = Bucket::open(&bucket_of(home)).expect("a bucket");
    let clock = Clock::twin(START);
    let terms =
        Terms { hash: HashFunc::None, copy_age_ms_max: COPY_AGE_MS_MAX, clock: clock.clone() };
    let settings = Settings { uploads_at_once: 2, terms, seed: 1, counters: Counters::default() };
    let (to_ship, offers) = mpsc::channel(4);
    let (tell, shipped) = mpsc::unbounded_channel();
    let (never, stop) = watch::channel(false);
    let shipper = Shipper::new(bucket, settings, tell);
    beside::spawn(async move {
        shipper.run(offers, stop).await;
        drop(never);
    });
    let (root, blocks) = (home.path().to_owned(), Blocks::default());
    let (external, retention, pruner) = (external(shard_label), None, None);
    let counters = Counters::default();
    let grace = cut_plan::grace(None);
    Parts {
        root,
        shards,
        external,
        blocks,
        to_ship,
        shipped,
        grace,
        retention,
        pruner,
        clock,
        counters,
    }
}

/// Runs a test on a control thread of its own, to an end.
fn run(test: impl Future<Output = ()>) {
    let test = async { beside::timeout(PATIENCE, test).await };
    let test = control::run(test).expect("a control thread");
    test.expect("the keeper waits for ever");
}

#[test]
fn any_number_of_blocks_goes_through_a_small_queue() {
    run(async {
        let home = TempDir::new().expect("a directory");
        fill(home.path(), "a", 2_100).await;
        let keeper = Keeper::take_over(parts(&home, Vec::new(), None)).await;
        assert_eq!(keeper.kept.len(), 2_100);
    });
}

#[test]
fn a_start_opens_no_block() {
    run(async {
        let home = TempDir::new().expect("a directory");
        fill(home.path(), "a", 3).await;
        for name in names_in(&home.path().join("blocks/a")).iter().filter(|n| n.len() == 26) {
            let block = home.path().join("blocks/a").join(name);
            fs::remove_file(block.join(filenames::INDEX)).expect("a removal");
        }
        let keeper = Keeper::take_over(parts(&home, Vec::new(), None)).await;
        let listed = keeper.parts.blocks.now();
        let listed: Vec<_> = listed.iter().map(|block| block.range).collect();
        assert_eq!(listed, [0, 1, 2].map(range));
    });
}

#[test]
fn a_block_found_at_the_start_is_of_the_shard_that_its_labels_name() {
    run(async {
        let home = TempDir::new().expect("a directory");
        let dir = home.path().join("blocks/a");
        let origin = |shard| {
            let slots = SlotSet::of_shard(shard, 9);
            Origin { node: [1; 16], shard, generation: 1, slots }.to_extensions()
        };
        let with_label = |shard| external(Some("shard")).of(&tenant("a"), shard);
        let without_label = external(None).of(&tenant("a"), 0);
        let written = [
            (with_label(1), origin(1), 1),
            (with_label(2), None, 2),
            // Moved here by somebody, or compacted: the labels decide.
            (with_label(3), origin(8), 3),
            // Written before there was the flag.
            (without_label.clone(), origin(4), 4),
            (without_label, None, 0),
        ];
        let mut want = Vec::new();
        for (number, (labels, extensions, shard)) in (1_i64..).zip(written) {
            let ulid = Ulid::from_parts(1, number as u128);
            let draft = MetaDraft::fresh(ulid, range(number), labels);
            write_block(&dir.join(ulid.to_string()), MetaDraft { extensions, ..draft }).await;
            want.push((range(number), shard));
        }
        let keeper = Keeper::take_over(parts(&home, Vec::new(), Some("shard"))).await;
        let listed = keeper.parts.blocks.now();
        let listed: Vec<_> = listed.iter().map(|block| (block.range, block.shard)).collect();
        assert_eq!(listed, want);
    });
}

#[test]
fn a_flood_of_ranges_holds_up_another_tenant_by_one() {
    run(async {
        let home = TempDir::new().expect("a directory");
        let (mut keeper, mut flushed) = keeper(&home, &[("flood", 50), ("poor", 2)]).await;
        let mut uptime = Duration::ZERO;
        while keeper.cut_round(uptime).await {
            uptime += Duration::from_millis(1);
        }
        let mut order = Vec::new();
        while let Ok((tenant, number)) = flushed.try_recv() {
            order.push((tenant.as_str().to_owned(), number));
        }
        let head: Vec<_> = order.iter().map(|(name, number)| (name.as_str(), *number)).collect();
        assert_eq!(head[..5], [("flood", 0), ("poor", 0), ("flood", 1), ("poor", 1), ("flood", 2)]);
        assert_eq!(order.len(), 52, "in the end all of it");
        assert_eq!(keeper.parts.blocks.now().len(), 52);
    });
}

#[test]
fn a_flush_that_fails_holds_up_nobody_else() {
    run(async {
        let home = TempDir::new().expect("a directory");
        let (mut keeper, mut flushed) = keeper(&home, &[("broken", 1), ("whole", 20)]).await;
        while keeper.cut_round(Duration::ZERO).await {}
        assert_eq!(keeper.parts.blocks.now().len(), 20);
        let mut tries = 0;
        while let Ok((tenant, _)) = flushed.try_recv() {
            tries += usize::from(tenant.as_str() == "broken");
        }
        assert_eq!(tries, 1, "it is left alone for a while");
        keeper.cut_round(Duration::from_secs(1)).await;
        assert_eq!(flushed.try_recv().ok(), Some((tenant("broken"), 0)), "and tried again");
    });
}

#[test]
fn what_was_flushed_is_shipped_and_noted() {
    run(async {
        let home = TempDir::new().expect("a directory");
        let (mut keeper, _flushed) = keeper(&home, &[("a", 12)]).await;
        while keeper.cut_round(Duration::ZERO).await {}
        while !keeper.kept.values().all(|kept| kept.shipped) {
            keeper.note_shipped();
            beside::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(keeper.kept.len(), 12);
        let bucket = Bucket::open(&bucket_of(&home)).expect("a bucket");
        assert_eq!(bucket.blocks().await.expect("a list").len(), 12);
    });
}

#[test]
fn a_deletion_that_failed_is_tried_again() {
    run(async {
        let home = TempDir::new().expect("a directory");
        fill(home.path(), "a", 20).await;
        let retention = Some(Duration::from_hours(2));
        let parts = Parts { retention, ..parts(&home, Vec::new(), None) };
        let mut keeper = Keeper::take_over(parts).await;
        while !keeper.kept.values().all(|kept| kept.shipped) {
            keeper.note_shipped();
            beside::sleep(Duration::from_millis(5)).await;
        }
        let oldest = home.path().join("blocks/a").join(Ulid::from_parts(1, 0).to_string());
        let mut way = oldest.clone().into_os_string();
        way.push(files::DOOMED_SUFFIX);
        fs::create_dir_all(Path::new(&way).join("in the way")).expect("a directory");
        keeper.retain(range(30).end).await;
        assert!(oldest.is_dir() && keeper.kept.len() < 20);
        fs::remove_dir_all(&way).expect("a removal");
        keeper.retain(range(30).end).await;
        assert!(!oldest.exists() && keeper.retired.is_empty());
    });
}

/// Ten ranges are older than four hours by the data's clock and, where it is set so, by the wall's.
#[test]
fn what_is_old_and_shipped_leaves_the_list_and_then_the_disk() {
    run(async {
        let home = TempDir::new().expect("a directory");
        fill(home.path(), "a", 12).await;
        let (to_ship, mut asked) = mpsc::channel(12);
        let (tell, shipped) = mpsc::unbounded_channel();
        let retention = Some(Duration::from_hours(4));
        let parts = Parts { to_ship, shipped, retention, ..parts(&home, Vec::new(), None) };
        let (clock, list) = (parts.clock.clone(), parts.blocks.clone());
        let mut keeper = Keeper::take_over(parts).await;
        let unshipped = 3;
        for number in 0..12 {
            let Ok(ship::Ask::Offer { dir, .. }) = asked.try_recv() else {
                panic!("block {number}")
            };
            if number != unshipped {
                tell.send(Shipped { dir, copy: None }).expect("the keeper listens");
            }
        }
        keeper.note_shipped();
        let dir = |number: i64| {
            home.path().join("blocks/a").join(Ulid::from_parts(1, number as u128).to_string())
        };
        let on_disk = || (0..12).filter(|number| dir(*number).is_dir()).collect::<Vec<i64>>();
        let listed = || list.now().iter().map(|block| block.range).collect::<Vec<_>>();
        // A read that began before any of it.
        let (read, all) = (Arc::clone(&list.now()[0]), (0..12).collect::<Vec<i64>>());

        // The machine's clock is behind, so nothing is old yet.
        clock.set(range(1).start);
        keeper.retain(clock.wall_ms()).await;
        assert_eq!(on_disk(), all);
        clock.set(range(11).end);

        // The shipper does not listen for a while, which holds the keeper between two steps.
        while keeper
            .parts
            .to_ship
            .try_send(ship::Ask::Offer { dir: PathBuf::new(), min_time_ms: 0 })
            .is_ok()
        {}
        let looker = async {
            beside::sleep(Duration::from_millis(50)).await;
            assert_eq!(listed(), (1..12).map(range).collect::<Vec<_>>(), "nobody reads it");
            assert_eq!(on_disk(), all, "and then it goes");
            let mut forgotten = Vec::new();
            while forgotten.len() < 9 {
                if let Some(ship::Ask::Forget(dir)) = asked.recv().await {
                    forgotten.push(dir);
                }
            }
            forgotten
        };
        let ((), forgotten) = tokio::join!(keeper.retain(clock.wall_ms()), looker);
        let (kept, gone) = ([unshipped, 10, 11], [0, 1, 2, 4, 5, 6, 7, 8, 9]);
        assert_eq!(forgotten, gone.map(dir));
        assert_eq!(listed(), kept.map(range));
        assert_eq!(on_disk(), [0, unshipped, 10, 11], "the first is still read");
        drop(read);
        keeper.retain(clock.wall_ms()).await;
        assert_eq!(on_disk(), kept);
        assert_eq!(names_in(&home.path().join("blocks/a")).len(), 4, "and the shipper's state");
        // In the bucket at last.
        tell.send(Shipped { dir: dir(unshipped), copy: None }).expect("the keeper listens");
        keeper.note_shipped();
        keeper.retain(clock.wall_ms()).await;
        assert_eq!(on_disk(), [10, 11]);
    });
}
