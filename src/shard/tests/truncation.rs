//! What may go when samples are in blocks, and who may be in the way.

use std::collections::BTreeMap;
use std::future::Future;
use std::path::Path;

use futures_lite::future::{self, block_on, poll_once};

use crate::block::Ulid;
use crate::decode::region;
use crate::model::{BLOCK_RANGE_MS, Sample, TenantId};
use crate::rt::twin::{Dice, Twin};
use crate::shard::message::Ask;
use crate::shard::recover::shard_dir;
use crate::shard::tests::reading::{Question, Row, hear, samples};
use crate::shard::tests::world::{
    Boxed, Home, ROOT, TENANTS, batch, held_by, series_number, serve, settings, start, stored,
    tenant,
};
use crate::shard::wal::writer::segment_number;
use crate::shard::write::Unavailable;
use crate::shard::{Generation, Settings, Shard};

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];

/// Has samples of one time of a tenant written, and waits for the answer.
async fn write(homes: &[Home], t: usize, time: i64, series: impl IntoIterator<Item = usize>) {
    let samples: Vec<_> = series.into_iter().map(|s| (s, Sample { t: time, bits: 7 })).collect();
    for (shard, slots) in homes {
        let (batch, mut answer) = batch(t, &samples, slots);
        shard.write(batch);
        assert!(answer.recv().await.expect("an answer").is_clean());
    }
}

/// Cuts a tenant, as if its samples before were in blocks, and truncates.
async fn truncate(shard: &Shard<Twin>, t: usize, end_ms: i64) {
    let tenant = tenant(t);
    shard.cut(&tenant, end_ms);
    shard.log_and_note(&tenant, end_ms, Ulid::nil()).await.expect("a cut");
    shard.truncate(&tenant, end_ms);
}

/// Does it within so many turns of all others.
async fn within<T>(turns: usize, work: impl Future<Output = T>) -> T {
    let late = async {
        for _ in 0..turns {
            future::yield_now().await;
        }
        panic!("not within {turns} turns");
    };
    future::or(work, late).await
}

#[test]
fn a_slow_reader_holds_back_memory_and_nobody() {
    let twin = Twin::new(3);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let shard = &homes[0].0;
            let living = || shard.state.borrow().applier.head.len();
            write(homes, 0, 5, 0..40).await;
            write(homes, 0, BLOCK_RANGE_MS, [50]).await;
            // It never reads on.
            let (select, slow_parts) = Question::all().select(1);
            let mut slow = Box::pin(shard.answer(Ask::Select(select)));
            for _ in 0..1000 {
                assert!(poll_once(&mut slow).await.is_none());
            }
            truncate(shard, 0, BLOCK_RANGE_MS).await;
            let tenant = tenant(0);
            let mut freeing = Box::pin(shard.free(&tenant, future::pending));
            assert!(poll_once(&mut freeing).await.is_none());
            within(100, write(homes, 0, BLOCK_RANGE_MS + 1, [51])).await;
            let (select, parts) = Question::all().select(1);
            let answer = future::zip(shard.answer(Ask::Select(select)), hear(parts));
            let ((), (from, rows)) = within(100, answer).await;
            assert_eq!((from[0].from_ms, rows.len()), (BLOCK_RANGE_MS, 2));
            within(500, shard.settle_log()).await.expect("the log is let go");
            assert!(poll_once(&mut freeing).await.is_none());
            assert_eq!(living(), 42);
            // It gets what it was promised, and then the memory is free.
            let ((), (_, rows)) = future::zip(slow, hear(slow_parts)).await;
            assert_eq!(rows.len(), 41);
            freeing.await;
            assert_eq!(living(), 2);
            assert_eq!(shard.state.borrow().applier.head.free.len(), 40);
        })
        .await;
    });
}

/// The numbers of the log segments that lie in the shard's directory.
fn segments(twin: &Twin) -> Vec<u64> {
    let files = twin.files_below(&shard_dir(Path::new(ROOT), 0).join("log"));
    files.iter().filter_map(|(name, _)| segment_number(name.to_str()?)).collect()
}

/// Returns when those are gone that were filled.
async fn first_gone(twin: &Twin) {
    while segments(twin)[0] < 4 {
        future::yield_now().await;
    }
}

/// Fills some segments with samples of the first range.
async fn fill(homes: &[Home], twin: &Twin) {
    let mut t = 0;
    while segments(twin).len() < 4 {
        write(homes, 0, t, 0..40).await;
        t += 1;
    }
}

#[test]
fn a_segment_that_cannot_be_deleted_holds_up_nobody() {
    for (rounds, failures) in [(0, 3), (1, 40)] {
        let twin = Twin::new(rounds);
        block_on(async {
            let recovered = start(&twin, &settings(0, &ONE)).await;
            serve(&twin, vec![recovered], async |homes: &[Home]| {
                let shard = &homes[0].0;
                fill(homes, &twin).await;
                twin.fail_removals(failures);
                truncate(shard, 0, BLOCK_RANGE_MS).await;
                for t in 0..20 {
                    within(500, write(homes, 0, BLOCK_RANGE_MS + t, 0..40)).await;
                }
                within(100_000, first_gone(&twin)).await;
                assert!(shard.log_is_writable());
            })
            .await;
        });
    }
}

#[test]
fn series_told_late_are_told_in_blocks_that_can_be_read() {
    // As after a start that found the series file lost: more than a block may hold.
    const SERIES: u64 = 140;
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let shard = &homes[0].0;
            let mut region = Vec::new();
            region::encode([("a", "b".repeat(1 << 20).as_str())], &mut region);
            for id in 1..=SERIES {
                shard.state.borrow_mut().applier.untold.add_series(id, TENANTS[0], &region);
            }
            assert_eq!(shard.settle_log().await, Ok(()));
            assert!(shard.log_is_writable());
        })
        .await;
        let report = start(&twin, &settings(0, &ONE)).await.report;
        assert_eq!((report.told, &*report.damage), (SERIES, &[][..]));
    });
}

#[test]
fn many_tenants_are_cut_at_a_cost_for_each() {
    const MANY: u64 = 600;
    let twin = Twin::new(1);
    block_on(async {
        let settings = Settings { segment_bytes: 16 << 20, ..settings(0, &ONE) };
        let recovered = start(&twin, &settings).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let shard = &homes[0].0;
            for i in 0..MANY {
                let tenant = TenantId::new(&format!("tenant-{i}")).expect("a tenant");
                shard.cut(&tenant, BLOCK_RANGE_MS);
                shard.log_and_note(&tenant, BLOCK_RANGE_MS, Ulid::nil()).await.expect("a cut");
                shard.truncate(&tenant, BLOCK_RANGE_MS);
                for _ in 0..20 {
                    future::yield_now().await;
                }
            }
            let bytes = shard.log_stats().bytes;
            assert!(bytes <= MANY * 4096, "{bytes} bytes for {MANY} cuts");
        })
        .await;
    });
}

#[test]
fn cuts_outlive_the_segments_that_held_them() {
    let twin = Twin::new(1);
    let many = |i: usize| TenantId::new(&format!("tenant-{i}")).expect("a tenant");
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let shard = &homes[0].0;
            for i in 0..1500 {
                shard.cut(&many(i), BLOCK_RANGE_MS);
                shard.log_and_note(&many(i), BLOCK_RANGE_MS, Ulid::nil()).await.expect("a cut");
            }
            fill(homes, &twin).await;
            truncate(shard, 0, BLOCK_RANGE_MS).await;
            shard.settle_log().await.expect("a truncation");
            assert!(segments(&twin)[0] > 1);
        })
        .await;
        let shard = start(&twin.after_cut(), &settings(0, &ONE)).await.shard;
        let ends = (0..1500).filter_map(|i| Some(held_by(&shard, &many(i))?.cut_ms));
        assert_eq!(ends.filter(|end| *end == BLOCK_RANGE_MS).count(), 1500);
    });
}

#[test]
fn what_blocks_hold_goes_though_the_log_has_no_room() {
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let (shard, tenant) = (&homes[0].0, tenant(0));
            write(homes, 1, 0, 0..40).await;
            shard.settle_log().await.expect("a log");
            fill(homes, &twin).await;
            shard
                .log_and_note(&super::world::tenant(1), BLOCK_RANGE_MS, Ulid::nil())
                .await
                .expect("a cut");
            shard.state.borrow_mut().commits.fail(Unavailable::LogWaits);
            // A block was published, and the log has no room for its cut.
            let ulid = Ulid::from_parts(1, 1);
            shard.log_and_note(&tenant, BLOCK_RANGE_MS, ulid).await.expect_err("no room");
            shard.truncate(&tenant, BLOCK_RANGE_MS);
            within(100_000, first_gone(&twin)).await;
        })
        .await;
    });
}

/// The samples in rows by tenant and series; each series once.
fn by_series(rows: &[Row]) -> BTreeMap<(usize, usize), Vec<Sample>> {
    let mut all = BTreeMap::new();
    for (labels, chunks) in rows {
        let owner = labels.get("tenant_id").expect("a tenant");
        let t = TENANTS.iter().position(|name| *name == owner).expect("a known one");
        let series = series_number(labels.get("series").expect("a label"));
        assert!(all.insert((t, series), samples(chunks)).is_none(), "{labels} comes twice");
    }
    all
}

/// A select that has its turn rarely, begun now: all that is served now is in its answer, under its
/// own labels.
async fn select_slowly(shard: &Shard<Twin>, dice: &mut Dice) {
    let before = stored(shard);
    let (select, parts) = Question::all().select(1000);
    let mut answering = Box::pin(shard.answer(Ask::Select(select)));
    while poll_once(&mut answering).await.is_none() {
        for _ in 0..dice.below(100) {
            future::yield_now().await;
        }
    }
    let found = by_series(&hear(parts).await.1);
    for t in 0..TENANTS.len() {
        for series in 0..60 {
            let want = before.of(t, series);
            let got = found.get(&(t, series)).map_or(&[][..], |samples| samples);
            assert!(got.starts_with(want), "tenant {t}, series {series}: {got:?}, {want:?}");
        }
    }
}

#[test]
fn a_select_gets_what_it_was_promised_while_series_come_and_go() {
    for seed in 0..30 {
        let twin = Twin::new(seed);
        block_on(async {
            let recovered = start(&twin, &settings(0, &ONE)).await;
            serve(&twin, vec![recovered], async |homes: &[Home]| {
                let shard = &homes[0].0;
                let mut dice = Dice(seed);
                let mut others = Dice(seed + 1000);
                let tenants = [tenant(0), tenant(1)];
                let mut freeing: Vec<Boxed<'_>> = Vec::new();
                let churning = async {
                    for round in 0..25 {
                        let t = dice.below(2) as usize;
                        let from = dice.below(40) as usize;
                        write(homes, t, round * BLOCK_RANGE_MS, from..from + 20).await;
                        if dice.below(2) == 0 {
                            truncate(shard, t, round * BLOCK_RANGE_MS).await;
                            freeing.push(Box::pin(shard.free(&tenants[t], future::pending)));
                        }
                        let mut going_on = Vec::new();
                        for mut work in freeing.drain(..) {
                            if poll_once(&mut work).await.is_none() {
                                going_on.push(work);
                            }
                        }
                        freeing = going_on;
                    }
                };
                let reading = async {
                    for _ in 0..8 {
                        select_slowly(shard, &mut others).await;
                    }
                };
                future::zip(churning, reading).await;
            })
            .await;
        });
    }
}
