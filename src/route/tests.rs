//! The router on real cores, its shard on the storage twin.

use std::path::Path;
use std::time::Duration;

use futures_lite::future;

use super::*;
use crate::decode::RECORDS_FREE;
use crate::decode::region::{self, LabelLimits};
use crate::decode::write_request_v1;
use crate::route::allocations::requests;
use crate::route::deal::{BATCH_COST_MAX, RECORD_COST};
use crate::route::node::Node;
use crate::rt::core::{Core, Port, io_memory, mesh, sleep, spawn};
use crate::rt::quota::Quotas;
use crate::rt::twin::Twin;
use crate::shard::recover::{find, recover};
use crate::shard::slots;
use crate::shard::write::{Counts, Item};
use crate::shard::{Generation, Settings as ShardSettings};

const SECRET: [u8; 32] = [5; 32];

async fn router(shards: u16, port: Port<Message>) -> Router<Twin> {
    let mesh = Rc::new(port.connect(|_| {}).await);
    let secret = KeySecret::new(SECRET);
    let settings = ShardSettings {
        shard: 0,
        generations: vec![Generation { number: 1, shards }],
        node: [1; 16],
        secret: secret.clone(),
        limits: LabelLimits::default(),
        out_of_order_cap: crate::shard::OUT_OF_ORDER_CAP,
        quotas: Quotas::unlimited(1),
        answers_wait: true,
        segment_bytes: 65536,
        spare_segments: 1,
        epochs: || 7,
    };
    let (twin, root) = (Twin::new(1), Path::new("/data"));
    let logs = find(&twin, root, &settings).await.expect("no logs");
    let recovered = recover(twin, root, &settings, logs).await.expect("a shard");
    let settings = Settings {
        shards,
        own: 0,
        secret,
        decoded_bytes_max: 1 << 24,
        lent_bytes_max: 1 << 20,
        keep_ms: None,
        out_of_order_ms: None,
        future_ms: None,
        clock: Clock::system(),
    };
    Router::new(settings, Rc::new(recovered.shard), mesh)
}

fn tenant() -> TenantId {
    TenantId::new("t").expect("a tenant")
}

/// A message with one series for each of `values`, each with `samples` samples.
fn message(values: impl Iterator<Item: ToString>, samples: i64) -> Vec<u8> {
    use prost::Message as _;
    use tidegate_proto::prometheus::{Label, Sample, TimeSeries, WriteRequest};
    let series = |value: String| TimeSeries {
        labels: vec![Label { name: "a".into(), value }],
        samples: (0..samples).map(|t| Sample { value: 1.0, timestamp: t }).collect(),
        ..TimeSeries::default()
    };
    let request = WriteRequest {
        timeseries: values.map(|value| series(value.to_string())).collect(),
        ..Default::default()
    };
    request.encode_to_vec()
}

/// What becomes of a request for a series of the other core, which does `take` with its batch.
fn write_to_another(take: fn(Message)) -> Written {
    let mut ports = mesh::<Message>(2, 16).into_iter();
    let (mine, theirs) = (ports.next().expect("a port"), ports.next().expect("a port"));
    let other = Core::start("other", 0, io_memory(2), move || async move {
        let _mesh = theirs.connect(take).await;
        sleep(Duration::from_secs(1)).await;
    });
    let core = Core::start("mine", 0, io_memory(2), move || async move {
        let router = router(2, mine).await;
        let keys = KeySecret::new(SECRET).of(&tenant());
        let is_theirs = |value: &u32| {
            let mut labels = Vec::new();
            region::encode([("a", value.to_string().as_str())], &mut labels);
            slots::owner(slots::slot(keys.key(&labels)), 2) == 1
        };
        let message = message((0..1000).find(is_theirs).into_iter(), 1);
        let body = snap::raw::Encoder::new().compress_vec(&message).expect("a body");
        router.write(tenant(), Version::V1, body, RequestLimits::default()).await
    });
    let routed = core.expect("a core").join().expect("no panic").expect("a good body");
    other.expect("a core").join().expect("no panic");
    routed.written
}

fn stored(samples: u64) -> Written {
    Written { floats: Counts { stored: samples, ..Counts::default() }, ..Written::default() }
}

#[test]
fn a_batch_that_nobody_answers_is_no_success() {
    let written = write_to_another(drop);
    assert_eq!(written.unavailable, Some(Unavailable::Stopping));
}

#[test]
fn an_owner_may_answer_before_the_shard_that_sent_it_on() {
    let written = write_to_another(|message| {
        let Message::Batch(batch) = message else { return };
        batch.reply.send(stored(1)).expect("somebody waits");
        spawn(async move {
            sleep(Duration::from_millis(100)).await;
            let home = Written { sent_on: 1, ..stored(2) };
            batch.reply.send(home).expect("somebody still waits");
        });
    });
    assert_eq!((written.floats.stored, written.unavailable), (3, None));
}

#[test]
fn what_shards_have_not_applied_yet_is_bounded() {
    let port = mesh::<Message>(1, 16).remove(0);
    let core = Core::start("mine", 0, io_memory(1), move || async move {
        let router = router(1, port).await;
        let body = snap::raw::Encoder::new().compress_vec(&message(0..1000, 1)).expect("a body");
        for home in [router.decoded.home(), router.regions.home()] {
            let lagging = home.lend(vec![0; 1 << 20]);
            let refused =
                router.write(tenant(), Version::V1, body.clone(), RequestLimits::default()).await;
            assert_eq!(refused.expect_err("no memory"), Error::NoMemory { lent: 1 << 20 });
            drop(lagging);
        }
        // One that is larger than the whole budget passes when it is alone.
        assert_eq!(router.check_room(10 << 20), Ok(()));
        // Labels of 2.0 may need more than the message did: that is found when they are there.
        let labels = requests::Fleet::new(0..1000).message_v2(0..1);
        let labels = snap::raw::Encoder::new().compress_vec(&labels).expect("a body");
        let lagging = router.decoded.home().lend(vec![0; 900 << 10]);
        let refused = router.write(tenant(), Version::V2, labels, RequestLimits::default()).await;
        assert_eq!(refused.expect_err("no memory"), Error::NoMemory { lent: 900 << 10 });
        drop(lagging);
        assert_eq!(router.decoded.home().lent_bytes(), 0);
        assert_eq!(router.regions.home().lent_bytes(), 0);
    });
    core.expect("a core").join().expect("no panic");
}

/// What a core cannot take in one piece waits for its log, though not for ever: labels of 18 MB
/// are more than a log may have before it.
#[test]
fn what_has_begun_waits_for_the_log() {
    const SERIES: usize = 9_000;
    let long = |n: usize| format!("{n:05}").repeat(400);
    let body =
        snap::raw::Encoder::new().compress_vec(&message((0..SERIES).map(long), 1)).expect("a body");
    for (comes, want) in [(true, None), (false, Some(Unavailable::GroupFull))] {
        let body = body.clone();
        let written = node::on_a_core(move |mesh| async move {
            let Node { router, shard, commits } = Node::new(mesh).await;
            let log = async {
                while !shard.is_behind() {
                    sleep(ROOM_WAIT).await;
                }
                let late = if comes { 10 } else { 2 * ROOM_WAITS };
                for _ in 0..late {
                    sleep(ROOM_WAIT).await;
                }
                commits.await;
                future::pending().await
            };
            future::or(
                router.write(tenant(), Version::V1, &body[..], RequestLimits::default()),
                log,
            )
            .await
        });
        let written = written.expect("a good body").written;
        assert_eq!(written.unavailable, want);
        let stored = written.floats.stored as usize;
        assert_eq!(stored == SERIES, comes, "{stored}");
        assert!(stored > SERIES / 2, "{stored}");
    }
}

/// Series of four bytes each, without labels and with one empty sample.
fn monster(series: usize) -> Vec<u8> {
    [0x0a, 2, 0x12, 0].repeat(series)
}

#[test]
fn records_and_batches_are_charged_and_given_back() {
    const SERIES: usize = 30_000;
    let port = mesh::<Message>(1, 16).remove(0);
    let core = Core::start("mine", 0, io_memory(1), move || async move {
        let router = router(1, port).await;
        let body = snap::raw::Encoder::new().compress_vec(&monster(SERIES)).expect("a body");
        let lent = || router.decoded.home().lent_bytes();
        let mut scan = Scan::default();
        let loan = router
            .read(Version::V1, body.clone(), RequestLimits::default(), &mut scan)
            .expect("alone it passes");
        // A view and a sample in the scan, an item and a sample in a batch.
        let records = SERIES * (16 + 16 + 32 + 16);
        assert!(lent() >= (4 * SERIES + records) as u64, "{}", lent());
        let small = snap::raw::Encoder::new().compress_vec(&message(0..1, 1)).expect("a body");
        let refused = router.write(tenant(), Version::V1, small, RequestLimits::default()).await;
        assert_eq!(refused.expect_err("no memory"), Error::NoMemory { lent: lent() });
        drop(loan);
        assert_eq!(lent(), 0);
        // The bytes of a second one would fit beside something small, its records do not.
        let lagging = router.decoded.home().lend(vec![0; 10]);
        let refused = router.write(tenant(), Version::V1, body, RequestLimits::default()).await;
        assert_eq!(refused.expect_err("no memory"), Error::NoMemory { lent: 10 });
        drop(lagging);
    });
    core.expect("a core").join().expect("no panic");
}

#[test]
fn others_get_their_turn_while_much_is_dealt() {
    let port = mesh::<Message>(1, 16).remove(0);
    let core = Core::start("mine", 0, io_memory(1), move || async move {
        let router = router(1, port).await;
        let mut decoded = monster(RECORDS_FREE / 2);
        let mut scan = Scan::default();
        write_request_v1(&mut decoded, &mut scan).expect("a message");
        // As large as a message of 16 MiB may make it.
        let views: Vec<_> = std::iter::repeat_n(scan.series[0].clone(), 1 << 20).collect();
        scan.series = views;
        let loan = router.decoded.home().lend(decoded);
        let (reply, _answers) = mpsc::unbounded_channel();
        let turns = Rc::new(Cell::new(0));
        let other = turns.clone();
        spawn(async move {
            loop {
                other.set(other.get() + 1);
                future::yield_now().await;
            }
        });
        let batches = router.deal(&tenant(), &loan, &scan, &reply).await.len();
        (batches, turns.get())
    });
    let (batches, turns) = core.expect("a core").join().expect("no panic");
    assert!(batches >= 100 && turns > batches / 20, "{turns} turns beside {batches} batches");
}

#[test]
fn the_memory_of_a_monster_is_given_back_at_once() {
    let port = mesh::<Message>(1, 16).remove(0);
    let core = Core::start("mine", 0, io_memory(1), move || async move {
        let router = router(1, port).await;
        let body = snap::raw::Encoder::new().compress_vec(&monster(1 << 20)).expect("a body");
        let refused = router
            .write(tenant(), Version::V1, body, RequestLimits::default())
            .await
            .expect_err("too many");
        assert!(matches!(refused, Error::Body(decode::Error::TooManyRecords { .. })), "{refused}");
        assert!(router.scan.take().is_some_and(|scan| scan.room() <= 5 << 17));
        let body = snap::raw::Encoder::new().compress_vec(&message(0..1, 200_000)).expect("a body");
        let mut writing =
            std::pin::pin!(router.write(tenant(), Version::V1, body, RequestLimits::default()));
        // No log is written here: it waits for its answer.
        assert!(future::poll_once(&mut writing).await.is_none());
        sleep(Duration::from_millis(1)).await;
        assert!(future::poll_once(&mut writing).await.is_none());
        assert!(router.scan.take().is_none_or(|scan| scan.room() <= 5 << 17));
    });
    core.expect("a core").join().expect("no panic");
}

#[test]
fn much_is_dealt_in_batches_of_bounded_work() {
    let port = mesh::<Message>(1, 16).remove(0);
    let core = Core::start("mine", 0, io_memory(1), move || async move {
        let router = router(1, port).await;
        for (series, samples) in [(20_000, 1), (1, 100_000), (0, 0), (7, 3)] {
            let mut decoded = message(0..series, samples);
            let mut scan = Scan::default();
            write_request_v1(&mut decoded, &mut scan).expect("a message");
            let loan = router.decoded.home().lend(decoded);
            let (reply, _answers) = mpsc::unbounded_channel();
            let batches = router.deal(&tenant(), &loan, &scan, &reply).await;
            let most = BATCH_COST_MAX / RECORD_COST;
            assert!(batches.iter().all(|(_, batch)| batch.samples.len() <= most));
            let total: usize = batches.iter().map(|(_, batch)| batch.samples.len()).sum();
            assert_eq!(total as i64, i64::from(series) * samples);
            // In the order they came, and each with its labels.
            let dealt = batches.iter().flat_map(|(_, batch)| {
                let samples = |item: &Item| {
                    batch.samples[item.samples.start as usize..item.samples.end as usize].to_vec()
                };
                batch.items.iter().flat_map(move |item| {
                    samples(item).into_iter().map(|sample| (item.region.clone(), sample))
                })
            });
            let scanned = scan.series.iter().flat_map(|view| {
                let samples = view.samples.start as usize..view.samples.end as usize;
                scan.samples[samples].iter().map(|&sample| (view.labels.clone(), sample))
            });
            assert!(dealt.eq(scanned));
        }
    });
    core.expect("a core").join().expect("no panic");
}
