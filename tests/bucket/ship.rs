//! The way of a block into a bucket, cut off at every step and struck by every fault.

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::json;
use tidegate::bucket::{Bucket, Fault as Why};
use tidegate::rt::channel::{mpsc, watch};
use tidegate::rt::clock::Clock;
use tidegate::ship::{
    Ask, COPY_AGE_MS_MAX, HashFunc, Outcome, STATE_FILE, Settings, Shipped, Shipper, Step, Terms,
    Trouble, ship_block,
};
use tidegate::telemetry::{Counters, Metric};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use ulid::Ulid;

use crate::bucket::block::{self, HOUR_MS, NOW_MS, visible};
use crate::bucket::server::{Fault, Kind, Outage, Server};
use crate::bucket::{directory_bucket, keys, open, s3_bucket, s3_settings};

fn terms() -> Terms {
    Terms { hash: HashFunc::None, copy_age_ms_max: COPY_AGE_MS_MAX, clock: Clock::twin(NOW_MS) }
}

/// Ships to the end.
async fn ship(dir: &Path, bucket: &Bucket) -> Ulid {
    let copy = ship_block(dir, bucket, &terms(), |_| ControlFlow::Continue(())).await;
    copy.expect("shipped").expect("a block with samples")
}

/// Ships until `n` steps are done. Returns whether it was cut off.
async fn ship_and_cut(dir: &Path, bucket: &Bucket, n: usize) -> Option<Step> {
    let mut left = n;
    let watch = |_| {
        left -= 1;
        if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    };
    match ship_block(dir, bucket, &terms(), watch).await {
        Ok(_) => None,
        Err(Trouble::Stopped(step)) => Some(step),
        Err(error) => panic!("step {n}: {error}"),
    }
}

struct World {
    tmp: tempfile::TempDir,
    server: Option<Server>,
}

impl World {
    async fn new(s3: bool) -> Self {
        let tmp = tempfile::tempdir().expect("a directory");
        let server = if s3 { Some(Server::start().await) } else { None };
        Self { tmp, server }
    }

    fn tenant(&self) -> PathBuf {
        self.tmp.path().join("blocks/default-tenant")
    }

    fn bucket(&self) -> Bucket {
        match &self.server {
            Some(server) => s3_bucket(server),
            None => directory_bucket(&self.files()),
        }
    }

    /// The bucket from behind.
    fn files(&self) -> PathBuf {
        self.server.as_ref().map_or_else(|| self.tmp.path().join("bucket"), Server::files)
    }
}

#[tokio::test]
async fn a_block_cut_off_after_any_step_ends_as_one_whole_copy() {
    for s3 in [false, true] {
        for age_ms in [0, COPY_AGE_MS_MAX + 1] {
            let mut cuts = Vec::new();
            for n in 1.. {
                let world = World::new(s3).await;
                let made = block::ulid(age_ms);
                let dir = block::make(&world.tenant(), made, NOW_MS, &[2_000, 1_000]);
                let Some(step) = ship_and_cut(&dir, &world.bucket(), n).await else { break };
                cuts.push(step);
                let seen = visible(&world.files(), &dir).len();
                let published = cuts.contains(&Step::Publish);
                assert_eq!(seen, usize::from(published), "after {step:?}");
                let copy = ship(&dir, &world.bucket()).await;
                assert_eq!(visible(&world.files(), &dir), [copy], "after {step:?}");
                assert_eq!(copy == made, age_ms == 0, "after {step:?}");
                let dirs = world.bucket().blocks().await.expect("blocks");
                assert_eq!(dirs.len(), 1, "after {step:?}: no second directory");
            }
            let steps = 1 + 3 * 2 + 2 + 3 + 1 + usize::from(age_ms > 0);
            assert_eq!(cuts.len(), steps, "{cuts:?}");
        }
    }
}

#[tokio::test]
async fn meta_json_goes_last_and_a_second_run_sends_nothing() {
    let world = World::new(true).await;
    let server = world.server.as_ref().expect("a server");
    let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[6 << 20, 1_000]);
    ship(&dir, &world.bucket()).await;
    let writes = |journal: Vec<(Kind, String)>| -> Vec<String> {
        let sent = [Kind::Put, Kind::Complete];
        journal.into_iter().filter(|(k, _)| sent.contains(k)).map(|(_, p)| p).collect()
    };
    let ulid = block::ulid(0);
    let want = ["chunks/000001", "chunks/000002", "index", "meta.json"]
        .map(|name| format!("/blocks/{ulid}/{name}"));
    assert_eq!(writes(server.journal().await), want);
    // As after the loss of the state file.
    fs::remove_file(world.tenant().join(STATE_FILE)).expect("the state file");
    ship(&dir, &world.bucket()).await;
    assert_eq!(writes(server.journal().await), want);
}

#[tokio::test]
async fn a_partial_upload_goes_on_under_its_ulid_and_an_old_one_under_a_new_one() {
    for s3 in [false, true] {
        let world = World::new(s3).await;
        let made = block::ulid(23 * HOUR_MS);
        let dir = block::make(&world.tenant(), made, NOW_MS, &[2_000]);
        ship_and_cut(&dir, &world.bucket(), 3).await.expect("a cut");
        // Two hours later, twice cut off again: one new ULID, kept over the crashes.
        let later = Terms { clock: Clock::twin(NOW_MS + 2 * HOUR_MS), ..terms() };
        for _ in 0..2 {
            let mut left = 4;
            let watch = |_| {
                left -= 1;
                if left == 0 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
            };
            let result = ship_block(&dir, &world.bucket(), &later, watch).await;
            assert!(matches!(result, Err(Trouble::Stopped(_))), "{result:?}");
        }
        let result = ship_block(&dir, &world.bucket(), &later, |_| ControlFlow::Continue(())).await;
        let copy = result.expect("shipped").expect("a copy");
        assert_ne!(copy, made);
        assert_eq!(copy.timestamp_ms() as i64, NOW_MS + 2 * HOUR_MS, "made at upload time");
        assert_eq!(visible(&world.files(), &dir), [copy]);
        let meta = block::read_meta(&world.files().join(copy.to_string()));
        assert_eq!(meta["compaction"], json!({ "level": 1, "sources": [made.to_string()] }));
        let dirs = world.bucket().blocks().await.expect("blocks");
        assert_eq!(dirs.into_iter().collect::<Vec<_>>(), [made, copy], "the old one stays partial");
    }
}

#[tokio::test]
async fn meta_json_tells_of_the_files_and_keeps_the_rest() {
    let world = World::new(true).await;
    let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[3_000]);
    let terms = Terms { hash: HashFunc::Sha256, ..terms() };
    let result = ship_block(&dir, &world.bucket(), &terms, |_| ControlFlow::Continue(())).await;
    let copy = result.expect("shipped").expect("a copy");
    let meta = block::read_meta(&world.files().join(copy.to_string()));
    let mut want = block::read_meta(&dir);
    let hash = |name: &str| {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(fs::read(dir.join(name)).expect("a file"));
        json!({ "hashFunc": "SHA256", "value": format!("{digest:x}") })
    };
    want["thanos"]["upload_time"] = json!("2027-01-15T08:00:00Z");
    want["thanos"]["segment_files"] = json!(["000001"]);
    want["thanos"]["files"] = json!([
        { "rel_path": "chunks/000001", "size_bytes": 3_000, "hash": hash("chunks/000001") },
        { "rel_path": "index", "size_bytes": 777, "hash": hash("index") },
        { "rel_path": "meta.json" },
    ]);
    assert_eq!(meta, want);
}

/// Each fault strikes every k-th request of a kind. Attempts are repeated as the queue would,
/// without its pauses; meanwhile no reader ever sees half a block.
#[tokio::test]
async fn every_fault_ends_as_one_whole_copy() {
    let mut cases = JoinSet::new();
    for (kind, fault) in [
        (Kind::Put, Fault::Status(503)),
        (Kind::Put, Fault::Closed),
        (Kind::Put, Fault::ClosedMidRequest),
        (Kind::Put, Fault::ReplyLost),
        (Kind::Put, Fault::ReplyTruncated),
        (Kind::Put, Fault::Slow(Duration::from_millis(5))),
        (Kind::Put, Fault::Status(403)),
        (Kind::Put, Fault::Status(400)),
        (Kind::Part, Fault::Status(503)),
        (Kind::Part, Fault::ClosedMidRequest),
        (Kind::Complete, Fault::ErrorInside200),
        (Kind::Complete, Fault::ReplyLost),
        (Kind::Complete, Fault::ReplyTruncated),
        (Kind::Complete, Fault::Status(404)),
        (Kind::Head, Fault::Status(503)),
        (Kind::Head, Fault::Status(404)),
        (Kind::Head, Fault::Closed),
        (Kind::Head, Fault::WrongSize),
        (Kind::Get, Fault::Status(503)),
        (Kind::Get, Fault::Status(404)),
        (Kind::Get, Fault::ReplyTruncated),
    ] {
        for every in [1, 2, 3] {
            cases.spawn(ship_through(kind, every, fault));
        }
    }
    let struck: u64 = cases.join_all().await.into_iter().sum();
    assert!(struck > 100, "{struck} faults");
}

/// Returns how many faults there were.
async fn ship_through(kind: Kind, every: u64, fault: Fault) -> u64 {
    let world = World::new(true).await;
    let server = world.server.as_ref().expect("a server");
    let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[(5 << 20) + 9, 100]);
    server.strike(kind, every, 4, fault).await;
    let context = format!("{kind:?} {fault:?}, each {every}");
    let mut copy = None;
    for _ in 0..12 {
        let watch = |_| ControlFlow::Continue(());
        copy = ship_block(&dir, &world.bucket(), &terms(), watch).await.ok();
        assert!(visible(&world.files(), &dir).len() <= 1, "{context}");
        if copy.is_some() {
            break;
        }
    }
    assert_eq!(copy, Some(Some(block::ulid(0))), "{context}");
    assert_eq!(visible(&world.files(), &dir), [block::ulid(0)], "{context}");
    server.struck()
}

#[tokio::test]
async fn an_object_that_vanishes_before_the_end_is_sent_again() {
    for s3 in [false, true] {
        let world = World::new(s3).await;
        let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[2_000, 1_000]);
        let lost = world.files().join(format!("{}/chunks/000001", block::ulid(0)));
        let mut first = true;
        let watch = |step| {
            if step == Step::Publish && first {
                first = false;
                fs::remove_file(&lost).expect("an object to lose");
            }
            ControlFlow::Continue(())
        };
        ship_block(&dir, &world.bucket(), &terms(), watch).await.expect("shipped");
        assert_eq!(visible(&world.files(), &dir), [block::ulid(0)]);
    }
}

#[tokio::test]
async fn damaged_blocks_and_foreign_places_are_refused_and_nothing_becomes_visible() {
    type Damage = fn(&Path);
    let damages: [(&str, Damage); 9] = [
        ("has chunks/000002 where", |dir| {
            fs::remove_file(dir.join("chunks/000001")).expect("a file");
        }),
        ("index", |dir| fs::remove_file(dir.join("index")).expect("a file")),
        ("is empty", |dir| fs::write(dir.join("index"), b"").expect("a file")),
        ("is not JSON", |dir| fs::write(dir.join("meta.json"), b"{\"ul").expect("a file")),
        ("no external labels", |dir| change(dir, &["thanos", "labels"], json!({}))),
        ("no compaction.sources", |dir| change(dir, &["compaction", "sources"], json!([]))),
        ("another ulid", |dir| change(dir, &["ulid"], json!(Ulid::nil().to_string()))),
        ("not of version 1", |dir| change(dir, &["version"], json!(2))),
        ("meta.json says 3", |dir| {
            let files = json!([{ "rel_path": "index", "size_bytes": 3 }]);
            change(dir, &["thanos", "files"], files);
        }),
    ];
    for (want, damage) in damages {
        let world = World::new(false).await;
        let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[2_000, 1_000]);
        damage(&dir);
        let watch = |_| ControlFlow::Continue(());
        let error = ship_block(&dir, &world.bucket(), &terms(), watch).await.expect_err(want);
        assert!(error.to_string().contains(want), "{want}: {error}");
        assert_eq!(error.outcome(), Outcome::BlockDamaged, "{want}");
        assert!(world.bucket().blocks().await.expect("blocks").is_empty(), "{want}");
    }
    let world = World::new(false).await;
    let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[2_000]);
    let foreign = json!({ "ulid": block::ulid(0).to_string(), "compaction": { "sources": ["x"] } });
    let key = format!("{}/meta.json", block::ulid(0));
    world.bucket().put(&key, foreign.to_string().into()).await.expect("put");
    let watch = |_| ControlFlow::Continue(());
    let error = ship_block(&dir, &world.bucket(), &terms(), watch).await.expect_err("foreign");
    assert!(matches!(error, Trouble::Foreign { .. }), "{error}");
}

fn change(dir: &Path, path: &[&str], value: serde_json::Value) {
    let mut meta = block::read_meta(dir);
    let at = path.iter().fold(&mut meta, |at, key| &mut at[*key]);
    *at = value;
    block::write_meta(dir, &meta);
}

#[tokio::test]
async fn a_wrong_secret_concerns_the_whole_bucket_and_says_so() {
    let world = World::new(true).await;
    let mut settings = s3_settings(world.server.as_ref().expect("a server"));
    settings.credentials = keys("not it");
    let bucket = open(settings);
    let dir = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[2_000]);
    let watch = |_| ControlFlow::Continue(());
    let error = ship_block(&dir, &bucket, &terms(), watch).await.expect_err("a refusal");
    assert_eq!(error.outcome(), Outcome::BucketFailed);
    assert!(matches!(&error, Trouble::Bucket(e) if e.fault == Why::Denied), "{error}");
    assert!(error.to_string().contains("check access_key, secret_key"), "{error}");
}

fn shipper(bucket: Bucket) -> (Shipper, mpsc::UnboundedReceiver<Shipped>, Counters) {
    let (shipped, heard) = mpsc::unbounded_channel();
    let counters = Counters::default();
    let settings =
        Settings { uploads_at_once: 2, terms: terms(), seed: 1, counters: counters.clone() };
    (Shipper::new(bucket, settings, shipped), heard, counters)
}

/// Waits until the numbers are so.
async fn until(what: &str, so: impl Fn() -> bool) {
    let wait = async {
        while !so() {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.expect(what);
}

#[tokio::test]
async fn after_an_outage_a_tenants_blocks_catch_up_in_order() {
    let world = World::new(true).await;
    let server = world.server.as_ref().expect("a server");
    server.set(Outage::Closes);
    let (shipper, mut heard, counters) = shipper(world.bucket());
    let counted = |metric, labels: &[(&str, &str)]| counters.total(metric, labels) as u64;
    let (asks, inbox) = mpsc::channel(8);
    let (stop, stopped) = watch::channel(false);
    let running = tokio::spawn(shipper.run(inbox, stopped));
    let mut want = Vec::new();
    // Offered newest first; another tenant's block is damaged and must hold nobody.
    for n in (0..4).rev() {
        let made = block::ulid((4 - n) * HOUR_MS);
        let dir = block::make(&world.tenant(), made, NOW_MS + n * 2 * HOUR_MS, &[1_000]);
        let min_time_ms = NOW_MS + n * 2 * HOUR_MS;
        let offer = Ask::Offer { dir: dir.clone(), min_time_ms };
        asks.send(offer).await.expect("a shipper");
        want.insert(0, Shipped { dir, copy: Some(made) });
    }
    let other = world.tmp.path().join("blocks/other");
    let damaged = block::make(&other, block::ulid(9 * HOUR_MS), NOW_MS, &[1_000]);
    fs::remove_file(damaged.join("index")).expect("a file");
    asks.send(Ask::Offer { dir: damaged, min_time_ms: NOW_MS }).await.expect("a shipper");
    let (failures, damaged) = (Metric::ShipperUploadFailures, Metric::ShipperCorruptedBlocks);
    until("failures", || counted(failures, &[]) >= 2 && counted(damaged, &[]) == 1).await;
    assert_eq!(counted(damaged, &[("tenant", "other")]), 1);
    assert_eq!(counted(Metric::ShipperUploads, &[]), 0);
    assert_eq!(counted(Metric::ShipBacklogBlocks, &[]), 5);
    assert_eq!(counted(Metric::BucketLastUpload, &[]), 0, "not yet");
    server.set(Outage::None);
    for want in &want {
        let got = timeout(Duration::from_secs(20), heard.recv()).await.expect("in time");
        assert_eq!(got.as_ref(), Some(want));
        assert_eq!(visible(&world.files(), &want.dir), want.copy.into_iter().collect::<Vec<_>>());
    }
    until("the last one", || counted(Metric::ShipBacklogBlocks, &[]) == 1).await;
    assert_eq!(counted(Metric::ShipperUploads, &[("tenant", "default-tenant")]), 4);
    let bucket = [("bucket", "blocks")];
    assert_eq!(counted(Metric::BucketLastUpload, &bucket), NOW_MS.unsigned_abs() / 1000);
    stop.send(true).expect("a shipper");
    timeout(Duration::from_secs(5), running).await.expect("in time").expect("no panic");
}

#[tokio::test]
async fn a_restarted_shipper_knows_what_is_shipped_and_forgets_what_is_gone() {
    let world = World::new(false).await;
    let old = block::make(&world.tenant(), block::ulid(30 * HOUR_MS), NOW_MS, &[1_000]);
    let young = block::make(&world.tenant(), block::ulid(0), NOW_MS, &[1_000]);
    let empty = block::make(&world.tenant(), block::ulid(1), NOW_MS, &[]);
    change(&empty, &["stats"], json!({}));
    let mut first = Vec::new();
    for _ in 0..2 {
        let (shipper, mut heard, _) = shipper(world.bucket());
        let (asks, inbox) = mpsc::channel(8);
        let (_stop, stopped) = watch::channel(false);
        for dir in [&old, &young, &empty] {
            let offer = Ask::Offer { dir: dir.clone(), min_time_ms: NOW_MS };
            asks.send(offer).await.expect("room");
        }
        drop(asks);
        shipper.run(inbox, stopped).await;
        let mut copies = Vec::new();
        while let Some(Shipped { dir, copy }) = heard.recv().await {
            copies.push((dir, copy));
        }
        copies.sort();
        assert_eq!(copies.len(), 3);
        if !first.is_empty() {
            let of = |dir: &PathBuf, all: &[(PathBuf, Option<Ulid>)]| {
                all.iter().find(|(d, _)| d == dir).and_then(|(_, copy)| *copy)
            };
            assert_eq!(of(&old, &copies), of(&old, &first), "the copy's ULID is remembered");
            assert_eq!(of(&young, &copies), Some(block::ulid(0)));
        }
        first = copies;
    }
    assert_eq!(world.bucket().blocks().await.expect("blocks").len(), 2, "the empty one stays out");
    let (shipper, _heard, _) = shipper(world.bucket());
    let (asks, inbox) = mpsc::channel(8);
    let (_stop, stopped) = watch::channel(false);
    let offer = Ask::Offer { dir: old.clone(), min_time_ms: NOW_MS };
    asks.send(offer).await.expect("room");
    asks.send(Ask::Forget(old.clone())).await.expect("room");
    drop(asks);
    shipper.run(inbox, stopped).await;
    let state = fs::read_to_string(world.tenant().join(STATE_FILE)).expect("the state");
    assert!(!state.contains(&block::ulid(30 * HOUR_MS).to_string()), "{state}");
    assert!(state.contains(&block::ulid(0).to_string()), "{state}");
}
