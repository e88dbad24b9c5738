//! What may go when samples are in blocks, and who may be in the way.

use std::collections::BTreeMap;
use std::future::Future;

use futures_lite::future::{self, block_on, poll_once};

use crate::block::Ulid;
use crate::model::{BLOCK_RANGE_MS, Sample};
use crate::rt::twin::{Dice, Twin};
use crate::shard::message::Ask;
use crate::shard::tests::reading::{Question, Row, hear, samples};
use crate::shard::tests::world::{
    Boxed, Home, TENANTS, batch, series_number, serve, settings, start, stored, tenant,
};
use crate::shard::{Generation, Shard};

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
