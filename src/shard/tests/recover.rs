//! From the logs to a head: who reads what, what is refused, and what others may do meanwhile.

use std::cell::Cell;
use std::path::{Path, PathBuf};

use futures_lite::future::{self, block_on};

use crate::block::Ulid;
use crate::model::{BLOCK_RANGE_MS, Sample};
use crate::rt::storage::Storage;
use crate::rt::twin::{Dice, Twin};
use crate::shard::Generation;
use crate::shard::recover::{Recovered, find, recover};
use crate::shard::tests::flush::order;
use crate::shard::tests::world::{
    Boxed, Home, Ledger, ROOT, add_stored, batch, is_home, serve, settings, start, stored, tenant,
    try_start,
};
use crate::shard::wal::reader::Damage;

pub(super) const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];
const FOUR: [Generation; 1] = [Generation { number: 1, shards: 4 }];

fn in_shard(shard: u16, path: &str) -> PathBuf {
    Path::new(ROOT).join(format!("shard-{shard}")).join(path)
}

/// Has samples of tenant 0 written, one request each, and the answers waited for.
pub(super) async fn write(homes: &[Home], samples: &[(usize, i64)]) {
    for &(series, t) in samples {
        write_at_once(homes, &[(series, t)]).await;
    }
}

/// The same with all of them in one request.
async fn write_at_once(homes: &[Home], samples: &[(usize, i64)]) {
    let samples: Vec<_> = samples.iter().map(|&(s, t)| (s, Sample { t, bits: 7 })).collect();
    for (shard, slots) in homes {
        let (batch, mut answer) = batch(0, &samples, slots);
        shard.write(batch);
        assert!(answer.recv().await.expect("an answer").is_clean());
    }
}

/// What a head should hold of tenant 0.
pub(super) fn ledger(samples: &[(usize, i64)]) -> Ledger {
    let mut all = Ledger::default();
    for &(series, t) in samples {
        all.push(0, series, Sample { t, bits: 7 });
    }
    all
}

/// One shard that was sent `samples`, and its power cut.
fn one_shard(samples: &[(usize, i64)]) -> Twin {
    let twin = Twin::new(3);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes| write(homes, samples).await).await;
    });
    twin.after_cut()
}

#[test]
fn a_shard_reads_its_own_log_alone() {
    let twin = Twin::new(3);
    block_on(async {
        let mut all = Vec::new();
        for shard in 0..4 {
            all.push(start(&twin, &settings(shard, &FOUR)).await);
        }
        serve(&twin, all, async |homes| {
            let samples: Vec<_> = (0..50).flat_map(|t| (0..30).map(move |s| (s, t))).collect();
            for at_once in samples.chunks(30) {
                write_at_once(homes, at_once).await;
            }
        })
        .await;
        let mut samples = 0;
        for shard in 0..4 {
            let report = start(&twin, &settings(shard, &FOUR)).await.report;
            assert_eq!(report.blocks, 50, "shard {shard}");
            samples += report.samples;
        }
        assert_eq!(samples, 1500);
        // A block that is lost costs nobody but its own shard.
        twin.damage(&in_shard(3, "log/0000000000000001.log"), 8192 + 70);
        for shard in 0..4 {
            let report = start(&twin, &settings(shard, &FOUR)).await.report;
            assert_eq!(report.damage.is_empty(), shard != 3, "shard {shard}: {report:?}");
        }
    });
}

#[test]
fn a_directory_nobody_lives_in_is_told_of_once() {
    let twin = Twin::new(3);
    let generations = [FOUR[0], Generation { number: 2, shards: 2 }];
    block_on(async {
        let mut all = Vec::new();
        for shard in 0..4 {
            all.push(start(&twin, &settings(shard, &FOUR)).await);
        }
        serve(&twin, all, async |homes| {
            for t in 0..3 {
                write_at_once(homes, &(0..30).map(|s| (s, t)).collect::<Vec<_>>()).await;
            }
        })
        .await;
        for shard in [1, 3] {
            twin.damage(&in_shard(shard, "log/0000000000000001.log"), 8192 + 4096 + 70);
        }
        let mut told = Vec::new();
        for shard in 0..2 {
            let report = start(&twin, &settings(shard, &generations)).await.report;
            told.push(report.damage.iter().map(|(dir, _)| *dir).collect::<Vec<_>>());
        }
        for dirs in &mut told {
            dirs.dedup();
        }
        assert_eq!(told, [[3], [1]]);
    });
}

#[test]
fn numbers_of_lost_labels_are_not_given_again() {
    let twin = one_shard(&[(1, 5), (2, 6), (2, 7)]);
    block_on(async {
        // The block that told series 2, with its first sample.
        twin.damage(&in_shard(0, "log/0000000000000001.log"), 8192 + 4096 + 70);
        let recovered = start(&twin, &settings(0, &ONE)).await;
        assert_eq!(recovered.report.orphaned, 1);
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            write(homes, &[(3, 8)]).await;
            homes[0].0.settle_log().await.expect("a settled log");
        })
        .await;
        let recovered = start(&twin, &settings(0, &ONE)).await;
        assert_eq!(stored(&recovered.shard), ledger(&[(1, 5), (3, 8)]));
        assert_eq!(recovered.report.orphaned, 1);
    });
}

#[test]
fn a_log_of_another_directory_stops_the_start() {
    let twin = one_shard(&[(1, 5)]);
    let mut settings = settings(0, &ONE);
    settings.node = [1; 16];
    let refused = block_on(try_start(&twin, &settings));
    let error = refused.expect_err("an error").to_string();
    assert!(error.contains("/data/shard-0/log/0000000000000001.log was written by"), "{error}");
    assert!(error.contains(&"01".repeat(16)) && error.contains("tidegate.json"), "{error}");
    // A segment that was copied from another shard.
    settings.node = [9; 16];
    block_on(async {
        let (from, to) = (in_shard(0, "log"), in_shard(1, "log"));
        twin.create_dir(&to).await.expect("a directory");
        let name = "0000000000000001.log";
        twin.rename(&from.join(name), &to.join(name)).await.expect("a move");
        settings.shard = 1;
        settings.generations = FOUR.to_vec();
        let refused = try_start(&twin, &settings).await;
        let error = refused.expect_err("an error").to_string();
        assert!(error.contains("written by shard 0 of") && error.contains("is shard 1"), "{error}");
    });
}

#[test]
fn others_run_while_a_log_is_read() {
    let twin = Twin::new(3);
    let mut settings = settings(0, &ONE);
    settings.segment_bytes = 1 << 20;
    block_on(async {
        let recovered = start(&twin, &settings).await;
        serve(&twin, vec![recovered], async |homes| {
            let samples: Vec<_> = (0..2000).flat_map(|t| (0..20).map(move |s| (s, t))).collect();
            write_at_once(homes, &samples).await;
        })
        .await;
        let turns = Cell::new(0_u64);
        let others = async {
            loop {
                turns.set(turns.get() + 1);
                future::yield_now().await;
            }
        };
        let recovering = async { try_start(&twin, &settings).await };
        let report = future::or(recovering, others).await.expect("a recovery").report;
        assert_eq!((report.blocks, report.samples), (1, 40_000));
        assert!(turns.get() > 40_000 / 1000, "{} turns of others", turns.get());
    });
}

/// The next segment tells where the blocks of one end: what is behind is not read.
#[test]
fn segments_that_are_almost_empty_cost_little() {
    const SEGMENT_BYTES: u64 = 1 << 20;
    let generation = |number| Generation { number, shards: 1 };
    let mut settings = settings(0, &[]);
    settings.segment_bytes = SEGMENT_BYTES;
    let twin = Twin::new(3);
    let samples: Vec<_> = (1..=12).map(|t| (1, t)).collect();
    block_on(async {
        for (number, sample) in (1..).zip(&samples) {
            settings.generations.push(generation(number));
            let recovered = start(&twin, &settings).await;
            serve(&twin, vec![recovered], async |homes| write(homes, &[*sample]).await).await;
        }
        let before = twin.bytes_read();
        let recovered = start(&twin, &settings).await;
        assert_eq!(stored(&recovered.shard), ledger(&samples));
        assert_eq!((recovered.report.segments, &*recovered.report.damage), (12, &[][..]));
        let read = twin.bytes_read() - before;
        assert!(read < SEGMENT_BYTES + 12 * 32 * 1024, "{read} bytes for 12 blocks");
    });
}

#[test]
fn a_cut_stands_without_its_block() {
    let twin = one_shard(&[(1, 5), (2, 6)]);
    let later = BLOCK_RANGE_MS + 5;
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            write(homes, &[(1, later)]).await;
            let (shard, tenant) = (&homes[0].0, tenant(0));
            let flushed = shard.flush(&tenant, BLOCK_RANGE_MS, &order(&mut Dice(1))).await;
            let dir = flushed.expect("a flush").expect("a block").dir;
            twin.remove_dir(&dir).await.expect("a removal");
            // Series 1 goes on under its number.
            write(homes, &[(1, later + 1), (3, later + 2)]).await;
        })
        .await;
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let left = [(1, later), (1, later + 1), (3, later + 2)];
        assert_eq!(stored(&recovered.shard), ledger(&left));
        let state = recovered.shard.state.borrow();
        assert_eq!(state.applier.head.len(), 2, "series 2 has nothing left");
        let tenant = &state.applier.head.tenants[0];
        let books = (tenant.series, tenant.chunks, tenant.oldest_ms, tenant.cut_ms);
        assert_eq!(books, (2, 2, later, BLOCK_RANGE_MS));
    });
}

/// Damages both copies of the header of a shard's first segment.
fn lose_header(twin: &Twin, shard: u16) {
    for copy in 0..2 {
        twin.damage(&in_shard(shard, "log/0000000000000001.log"), copy * 4096 + 10);
    }
}

#[test]
fn a_segment_without_a_header_is_read_and_told() {
    let samples = [(1, 5), (2, 6)];
    let twin = one_shard(&samples);
    lose_header(&twin, 0);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        assert_eq!(recovered.report.damage, [(0, Damage::SegmentHeader { segment: 1 })]);
        assert_eq!(stored(&recovered.shard), ledger(&samples));
    });
}

#[test]
fn a_segment_without_a_header_is_read_where_nobody_lives_any_more() {
    let twin = Twin::new(3);
    let generations = [FOUR[0], Generation { number: 2, shards: 2 }];
    let samples: Vec<_> = (0..30).map(|series| (series, 5)).collect();
    block_on(async {
        let mut all = Vec::new();
        for shard in 0..4 {
            all.push(start(&twin, &settings(shard, &FOUR)).await);
        }
        serve(&twin, all, async |homes| write_at_once(homes, &samples).await).await;
        lose_header(&twin, 3);
        let (mut told, mut held) = (Vec::new(), Ledger::default());
        for shard in 0..2 {
            let recovered = start(&twin, &settings(shard, &generations)).await;
            add_stored(&recovered.shard, &mut held);
            told.extend(recovered.report.damage);
        }
        assert_eq!(told, [(3, Damage::SegmentHeader { segment: 1 })]);
        assert_eq!(held, ledger(&samples));
    });
}

#[test]
fn a_log_that_is_newer_than_the_slot_table_stops_the_start() {
    let later = [ONE[0], Generation { number: 2, shards: 2 }];
    let twin = Twin::new(3);
    block_on(async {
        let mut all = Vec::new();
        for shard in 0..2 {
            all.push(start(&twin, &settings(shard, &later)).await);
        }
        let samples: Vec<_> = (0..30).map(|series| (series, 5)).collect();
        serve(&twin, all, async |homes| write_at_once(homes, &samples).await).await;
        let refused = try_start(&twin, &settings(0, &ONE)).await;
        let error = refused.expect_err("an error").to_string();
        assert!(error.contains("/data/shard-0/log/0000000000000001.log"), "{error}");
        assert!(error.contains("generation 2") && error.contains("tidegate.json"), "{error}");
        // Only the shard that is not known any more has a log.
        twin.remove(&in_shard(0, "log/0000000000000001.log")).await.expect("a removal");
        let refused = try_start(&twin, &settings(0, &ONE)).await;
        let error = refused.expect_err("an error").to_string();
        assert!(error.contains("/data/shard-1/log/0000000000000001.log"), "{error}");
    });
}

/// One shard serves already and begins a segment; another looks for logs of earlier generations.
#[test]
fn a_segment_that_is_begun_meanwhile_is_no_old_one() {
    let two = [Generation { number: 1, shards: 2 }];
    let three = [two[0], Generation { number: 2, shards: 3 }];
    for seed in 0..20 {
        let twin = Twin::new(seed);
        block_on(async {
            let mut all = Vec::new();
            for shard in 0..2 {
                all.push(start(&twin, &settings(shard, &two)).await);
            }
            let samples: Vec<_> = (0..30).map(|series| (series, 5)).collect();
            serve(&twin, all, async |homes| write_at_once(homes, &samples).await).await;
            let late = settings(0, &three);
            let logs = find(&twin, Path::new(ROOT), &late).await.expect("logs");
            let one = start(&twin, &settings(1, &three)).await;
            let mut live: Boxed<'_> =
                Box::pin(serve(&twin, vec![one], async |homes: &[Home]| {
                    let mine = (0..60).find(|&series| is_home(&homes[0].1, 0, series));
                    write(homes, &[(mine.expect("a series"), 6)]).await;
                }));
            let begun = in_shard(1, "log/0000000000000002.log");
            let is_begun = || twin.files_below(&begun).len() == 1;
            while !is_begun() {
                future::poll_once(&mut live).await;
            }
            let recovered = recover(twin.clone(), Path::new(ROOT), &late, logs).await;
            let old = recovered.expect("a recovery").old;
            assert!(!old.is_empty() && old.iter().all(|s| s.path != begun), "seed {seed}: {old:?}");
        });
    }
}

/// Series that come and go for fifty rounds leave neither bytes on the device nor work for the next
/// start.
#[test]
fn churn_leaves_nothing_behind() {
    const SERIES: usize = 60;
    let twin = Twin::new(3);
    let bytes = |dir: &str| -> usize {
        let files = twin.files_below(&in_shard(0, dir));
        files.iter().map(|(_, bytes)| bytes.len()).sum()
    };
    let (mut most, mut told) = ((0, 0), 0);
    for life in 0..5 {
        block_on(async {
            let recovered = start(&twin, &settings(0, &ONE)).await;
            assert_eq!((recovered.report.orphaned, &*recovered.report.damage), (0, &[][..]));
            told = told.max(recovered.report.told);
            serve(&twin, vec![recovered], async |homes: &[Home]| {
                let (shard, tenant) = (&homes[0].0, tenant(0));
                for round in life * 10..(life + 1) * 10 {
                    let range = round * BLOCK_RANGE_MS;
                    // Every sample a block: the log is let go, too.
                    write(homes, &(0..SERIES).map(|s| (s, range)).collect::<Vec<_>>()).await;
                    // One of them lives on.
                    write(homes, &[(round as usize % SERIES, range + BLOCK_RANGE_MS)]).await;
                    let end_ms = range + BLOCK_RANGE_MS;
                    shard.cut(&tenant, end_ms);
                    shard.log_and_note(&tenant, end_ms, Ulid::nil()).await.expect("a cut");
                    shard.truncate(&tenant, end_ms);
                    shard.free(&tenant, || future::ready(())).await;
                    shard.settle_log().await.expect("a settled log");
                    most = (most.0.max(bytes("series")), most.1.max(bytes("log")));
                }
            })
            .await;
        });
    }
    // Segments of 32 and of 64 KiB.
    assert!(most.0 <= 4 * 32 * 1024, "{most:?} bytes of series file and log");
    assert!(most.1 <= 12 * 64 * 1024, "{most:?} bytes of series file and log");
    assert!(told <= 8 * SERIES as u64, "{told} records for {SERIES} series");
    assert!(told > 0, "it was read");
}

/// No shard logs such a sample; if one is there, somebody shall hear of it.
#[test]
fn a_sample_that_the_head_refuses_is_counted() {
    let twin = Twin::new(3);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            write(homes, &[(1, 10)]).await;
            homes[0].0.state.borrow_mut().applier.group.add_sample(1, Sample { t: 10, bits: 8 });
            write(homes, &[(1, 20)]).await;
        })
        .await;
        let report = start(&twin, &settings(0, &ONE)).await.report;
        assert_eq!((report.samples, report.refused, report.orphaned), (2, 1, 0));
    });
}

/// The number of a series that is gone is in the log still, and not in the series file. That is no
/// loss, as long as the series file is whole.
#[test]
fn who_is_gone_is_not_lost() {
    let twin = Twin::new(3);
    let segments = || -> Vec<PathBuf> {
        let files = twin.files_below(&in_shard(0, "series")).into_iter();
        files.map(|(name, _)| name).filter(|name| name.extension().is_some()).collect()
    };
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let mut next_id = 0;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let (shard, tenant) = (&homes[0].0, tenant(0));
            let mut range = 0;
            while range == 0 || segments()[0] == Path::new("0000000000000001.log") {
                // Told in one segment of the log, named in the next.
                for t in range..range + 3 {
                    write(homes, &(0..40).map(|s| (s, t)).collect::<Vec<_>>()).await;
                }
                range += BLOCK_RANGE_MS;
                shard.cut(&tenant, range);
                shard.log_and_note(&tenant, range, Ulid::nil()).await.expect("a cut");
                shard.truncate(&tenant, range);
                shard.free(&tenant, || future::ready(())).await;
                for _ in 0..5000 {
                    future::yield_now().await;
                }
            }
            next_id = shard.state.borrow().applier.next_id;
        })
        .await;
        let Recovered { shard, report, .. } = start(&twin, &settings(0, &ONE)).await;
        assert_eq!((report.orphaned, report.told, &*report.damage), (0, 0, &[][..]));
        assert_eq!(shard.state.borrow().applier.head.len(), 0);
        assert_eq!(shard.state.borrow().applier.next_id, next_id, "never given again");
        // Without the floor they might be lost.
        let last = segments().pop().expect("a segment");
        twin.damage(&in_shard(0, "series").join(last), 8192 + 70);
        let report = start(&twin, &settings(0, &ONE)).await.report;
        assert!(report.orphaned > 0, "{report:?}");
    });
}
