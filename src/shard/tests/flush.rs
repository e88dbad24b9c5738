//! Flushes under power cuts: heads and blocks together hold what was acknowledged, once.
//!
//! The invariant after every recovery, over the union of all heads and all blocks: acknowledged ⊆
//! stored ⊆ sent, bit for bit, no time of a series twice. It holds across changes of the number of
//! shards, and wherever the power goes between cut and truncation.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::path::Path;

use futures_lite::future::{self, block_on};
use tempfile::TempDir;

use crate::block::{self, Meta, Ulid, filenames};
use crate::chunk::Chunk;
use crate::model::{BLOCK_RANGE_MS, External, Labels, Sample, TenantId, TimeRange};
use crate::rt::storage::read_file;
use crate::rt::twin::{Dice, Twin};
use crate::shard::blocks::{Origin, remove_unfinished};
use crate::shard::cut_plan::Held;
use crate::shard::flush::{FlushError, FlushOrder, Flushed};
use crate::shard::recover::{OldSegment, Recovered};
use crate::shard::tests::recover::{ONE, ledger, write};
use crate::shard::tests::world::{
    Home, Ledger, Load, ROOT, Said, TENANTS, add_chunk, add_stored, batch, held_by, is_home, judge,
    off, send, series_number, serve, settings, start, stored, tenant, try_start,
};
use crate::shard::write::Unavailable;
use crate::shard::{Generation, Settings, old};
use crate::stdx::{crc32c, seeds};

/// Two shards, three, one, and the same one again.
const GENERATIONS: [Generation; 3] = [
    Generation { number: 1, shards: 2 },
    Generation { number: 2, shards: 3 },
    Generation { number: 3, shards: 1 },
];
/// A quarter of an hour from round to round: a block range is over in eight of them.
const LOAD: Load = Load { rounds: 60, step_ms: 1_000_000, turns: 50 };

fn settings_of(generations: &[Generation]) -> Vec<Settings> {
    let shards = generations.last().map_or(0, |g| g.shards);
    (0..shards).map(|shard| settings(shard, generations)).collect()
}

async fn start_all(twin: &Twin, all: &[Settings]) -> Vec<Recovered<Twin>> {
    remove_unfinished(twin, Path::new(ROOT)).await.expect("a removal");
    let mut recovered = Vec::new();
    for settings in all {
        recovered.push(start(twin, settings).await);
    }
    recovered
}

/// The files of a block: their names and bytes.
type Files = Vec<(String, Vec<u8>)>;

/// The blocks of a device, each read once from real files.
#[derive(Debug, Default)]
struct Shelf(BTreeMap<(Ulid, u32), Ledger>);

impl Shelf {
    /// Adds what all blocks hold. Each must be sound.
    fn add_blocks(&mut self, twin: &Twin, all: &mut Ledger) -> Result<(), String> {
        let mut blocks: BTreeMap<(usize, Ulid), Files> = BTreeMap::new();
        for (path, bytes) in twin.files_below(&Path::new(ROOT).join("blocks")) {
            let path = path.to_str().expect("a path of ours");
            let mut parts = path.splitn(3, '/');
            let mut part = || parts.next().expect("tenant, block and file");
            let name = TenantId::of_dir(part()).expect("a tenant's folder");
            let t = TENANTS.iter().position(|n| *n == name.as_str()).expect("a tenant");
            let Some(ulid) = filenames::block(part()) else { continue };
            blocks.entry((t, ulid)).or_default().push((part().into(), bytes));
        }
        for ((t, ulid), files) in blocks {
            let crc =
                files.iter().fold(0_u32, |sum, (_, bytes)| crc32c(bytes) ^ sum.rotate_left(1));
            let held = match self.0.entry((ulid, crc)) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => new.insert(read_block(t, ulid, &files)?),
            };
            all.add(held);
        }
        Ok(())
    }
}

/// Verifies a block as real files, and reads it.
fn read_block(t: usize, ulid: Ulid, files: &[(String, Vec<u8>)]) -> Result<Ledger, String> {
    let dir = TempDir::new().expect("a directory");
    let dir = dir.path().join(ulid.to_string());
    std::fs::create_dir_all(dir.join(filenames::CHUNKS)).expect("a directory");
    for (name, bytes) in files {
        std::fs::write(dir.join(name), bytes).expect("a file");
    }
    block::verify(&dir).map_err(|fault| format!("block {ulid}: {fault}"))?;
    let block = block::Reader::open(&dir).expect("a block");
    let mut held = Ledger::default();
    for at in block.select(&[], &|| false).expect("all series") {
        let series = block.series(at).expect("a series");
        let value = series.labels.iter().find(|(name, _)| *name == "series").expect("a label").1;
        for chunk in &series.chunks {
            let (encoding, bytes) = block.chunk(chunk).expect("a chunk");
            let chunk = Chunk { encoding, min_t: chunk.min_t, max_t: chunk.max_t, bytes };
            add_chunk(t, series_number(value), chunk, &mut held);
        }
    }
    Ok(held)
}

/// What is wrong with what a device holds now.
fn check(twin: &Twin, all: &[Settings], said: &Said, shelf: &mut Shelf) -> Result<(), String> {
    let twin = twin.after_cut();
    let mut found = Ledger::default();
    for one in block_on(start_all(&twin, all)) {
        add_stored(&one.shard, &mut found);
        if let Some((shard, damage)) = one.report.damage.first() {
            return Err(format!("damage in the log of shard {shard}: {damage}"));
        }
    }
    shelf.add_blocks(&twin, &mut found)?;
    judge(found, said)
}

pub(super) fn order(dice: &mut Dice) -> FlushOrder {
    let labels = Labels::new([("receive_replica", "r0")]).expect("labels");
    let external = External::new(labels, "tenant_id", None).expect("external labels");
    let high = dice.roll();
    let ulid = Ulid::from_parts(high >> 20, u128::from(dice.roll()));
    FlushOrder { external, ulid }
}

fn held(homes: &[Home], t: usize) -> Option<Held> {
    let one = homes.iter().filter_map(|(shard, _)| held_by(shard, &tenant(t)));
    one.reduce(|mut a, b| {
        a.merge(b);
        a
    })
}

/// Cuts a tenant on all shards and has each flush and truncate. `Err` when the log is dead.
async fn cut_all(homes: &[Home], t: usize, end_ms: i64, dice: &mut Dice) -> Result<(), FlushError> {
    let tenant = tenant(t);
    for (shard, _) in homes {
        shard.cut(&tenant, end_ms);
    }
    for (shard, _) in homes {
        loop {
            match shard.flush(&tenant, end_ms, &order(dice)).await {
                Ok(None) => break,
                Ok(Some(flushed)) if dice.below(2) == 0 => {
                    shard.truncate(&tenant, flushed.end_ms);
                    shard.free(&tenant, || future::ready(())).await;
                }
                Ok(Some(_)) | Err(FlushError::Block { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        shard.truncate(&tenant, end_ms);
        shard.free(&tenant, || future::ready(())).await;
    }
    Ok(())
}

/// Cuts now and then, and lets old logs go.
async fn cut_at_random(
    twin: &Twin,
    homes: &[Home],
    mut dice: Dice,
    old_segments: &[OldSegment],
) -> Result<(), FlushError> {
    let mut old_segments = old_segments.to_vec();
    loop {
        for _ in 0..dice.below(60) {
            future::yield_now().await;
        }
        let t = dice.below(TENANTS.len() as u64) as usize;
        let Some(held) = held(homes, t).filter(|held| held.oldest_ms < i64::MAX) else { continue };
        let range = TimeRange::aligned(held.newest_ms);
        let end_ms = if dice.below(4) == 0 { range.end } else { range.start };
        if held.oldest_ms < end_ms || dice.below(4) == 0 {
            cut_all(homes, t, end_ms, &mut dice).await?;
        }
        if dice.below(3) > 0 || old_segments.is_empty() {
            continue;
        }
        for (shard, _) in homes {
            if shard.settle_log().await.is_err() {
                return Ok(());
            }
        }
        let covered = |tenant: &_| {
            let held = homes.iter().map(|(shard, _)| held_by(shard, tenant));
            let ends = held.map(|h| h.map_or(i64::MIN, |h| h.covered_ms));
            ends.min().unwrap_or(i64::MIN)
        };
        let gone = old::removable(twin, &old_segments, homes.len() as u16, covered).await;
        if old::remove(twin, &gone).await.is_ok() {
            let gone: BTreeSet<_> = gone.iter().map(|segment| segment.path.clone()).collect();
            old_segments.retain(|segment| !gone.contains(&segment.path));
            for (shard, _) in homes {
                if old_segments.iter().all(|segment| segment.shard != shard.shard) {
                    shard.old_segments_are_gone();
                }
            }
        }
    }
}

/// Lives one seed: four lives on one device, each under the next number of shards and ended by a
/// power cut. Returns how many samples were in blocks at the end.
fn live(seed: u64, syncs_work: bool) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let mut twin = Twin::new(dice.roll());
    if !syncs_work {
        twin.break_syncs();
    }
    let (mut said, mut shelf) = (Said::default(), Shelf::default());
    for life in 0..4 {
        let all = settings_of(&GENERATIONS[..GENERATIONS.len().min(life + 1)]);
        twin.cut_after(50 + dice.below(1500));
        if dice.below(3) == 0 {
            twin.fail_writes(1);
        }
        block_on(async {
            let started = async { Some(start_all(&twin, &all).await) };
            let off = async {
                off(&twin).await;
                None
            };
            let Some(recovered) = future::or(started, off).await else { return };
            let old = recovered[0].old.clone();
            let others = Dice(dice.roll());
            let (said, dice) = (&mut said, &mut dice);
            serve(&twin, recovered, async |homes| {
                let flushing = async {
                    cut_at_random(&twin, homes, others, &old).await.ok();
                    future::pending::<()>().await;
                };
                future::or(send(homes, said, dice, LOAD), flushing).await;
            })
            .await;
        });
        twin = twin.after_cut();
        check(&twin, &all, &said, &mut shelf)
            .map_err(|wrong| format!("seed {seed}, life {life}: {wrong}"))?;
    }
    Ok(shelf.0.values().map(|block| block.len() as u64).sum())
}

#[test]
fn heads_and_blocks_hold_each_sample_once() {
    let mut in_blocks = 0;
    for seed in seeds(200) {
        in_blocks += live(seed, true).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    println!("samples in blocks: {in_blocks}");
    assert!(in_blocks > 0);
}

#[test]
fn without_the_flush_samples_are_lost() {
    let failed = (0..20).filter(|&seed| live(seed, false).is_err()).count();
    assert!(failed > 10, "the negative control failed in only {failed} of 20 seeds");
}

/// Fills two shards with two ranges of data.
async fn fill(twin: &Twin, all: &[Settings], said: &mut Said) {
    let recovered = start_all(twin, all).await;
    let load = Load { rounds: 14, ..LOAD };
    serve(twin, recovered, async |homes| send(homes, said, &mut Dice(11), load).await).await;
}

/// Cuts everything on two shards, up to the end of the newest range.
async fn cut_everything(homes: &[Home]) {
    for t in 0..TENANTS.len() {
        let end_ms = TimeRange::aligned(held(homes, t).expect("a tenant").newest_ms).end;
        cut_all(homes, t, end_ms, &mut Dice(t as u64)).await.expect("a flush");
    }
    for (shard, _) in homes {
        shard.settle_log().await.expect("a settled log");
    }
}

/// Two shards that hold two ranges, and what was said when they were filled.
fn filled() -> (Twin, Said) {
    let (twin, mut said) = (Twin::new(3), Said::default());
    block_on(fill(&twin, &settings_of(&GENERATIONS[..1]), &mut said));
    (twin, said)
}

/// Cuts everything on a copy of a device and the power after some operations. Its blocks are said
/// to be of `node`. The device then, and whether the flush had ended before.
fn interrupted(filled: &Twin, all: &[Settings], node: [u8; 16], ops: u64) -> (Twin, bool) {
    let twin = filled.after_cut();
    let mut done = false;
    block_on(async {
        let mut recovered = start_all(&twin, all).await;
        for one in &mut recovered {
            one.shard.node = node;
        }
        twin.cut_after(ops);
        let flushing = async |homes: &[Home]| {
            cut_everything(homes).await;
            done = true;
        };
        serve(&twin, recovered, flushing).await;
    });
    (twin.after_cut(), done)
}

#[test]
fn the_power_may_go_at_any_operation_of_a_flush() {
    let all = settings_of(&GENERATIONS[..1]);
    let (filled, said) = filled();
    let mut shelf = Shelf::default();
    for ops in 1.. {
        let (twin, done) = interrupted(&filled, &all, all[0].node, ops);
        let held = check(&twin, &all, &said, &mut shelf);
        assert_eq!(held, Ok(()), "after {ops} operations");
        if done {
            println!("operations of the flush: {ops}");
            assert!(ops > 200 && said.acked.len() > 0);
            return;
        }
    }
}

#[test]
fn if_blocks_were_no_cuts_samples_would_be_there_twice() {
    let all = settings_of(&GENERATIONS[..1]);
    let (filled, said) = filled();
    let mut shelf = Shelf::default();
    let twice = (1..100).find_map(|ops| {
        let (twin, _) = interrupted(&filled, &all, [1; 16], ops);
        check(&twin, &all, &said, &mut shelf).err()
    });
    assert!(twice.as_ref().is_some_and(|wrong| wrong.contains("twice")), "{twice:?}");
}

#[test]
fn a_flush_moves_everything_into_blocks() {
    let all = settings_of(&GENERATIONS[..1]);
    let twin = Twin::new(3);
    let mut said = Said::default();
    block_on(async {
        fill(&twin, &all, &mut said).await;
        let recovered = start_all(&twin, &all).await;
        serve(&twin, recovered, async |homes| {
            cut_everything(homes).await;
            let (mut in_heads, mut in_blocks) = (Ledger::default(), Ledger::default());
            for (shard, _) in homes {
                add_stored(shard, &mut in_heads);
            }
            Shelf::default().add_blocks(&twin, &mut in_blocks).expect("sound blocks");
            assert_eq!(in_heads.len(), 0);
            assert_eq!(in_blocks.sorted_once().as_ref(), Ok(&said.sent));
            for (shard, _) in homes {
                let state = shard.state.borrow();
                assert_eq!(state.applier.head.len(), 0, "no series is left");
                assert_eq!(state.commits.stats().segments, 1, "only the segment in use");
                drop(state);
                for t in 0..TENANTS.len() {
                    let held = held_by(shard, &tenant(t));
                    assert!(held.is_none_or(|held| held.oldest_ms == i64::MAX));
                }
            }
            // What was flushed is refused, what comes after is taken.
            let end_ms = held_by(&homes[0].0, &tenant(0)).expect("a tenant").cut_ms;
            for (t, taken) in [(end_ms - 1, false), (end_ms, true)] {
                let samples = [(7, Sample { t, bits: 1 })];
                for (shard, slots) in homes {
                    let (batch, mut answer) = batch(0, &samples, slots);
                    shard.write(batch);
                    let written = answer.recv().await.expect("an answer");
                    assert_eq!(written.is_clean(), taken || !is_home(slots, 0, 7), "at {t}");
                }
            }
        })
        .await;
    });
}

#[test]
fn a_block_says_whose_it_is() {
    let all = settings_of(&GENERATIONS[..1]);
    let twin = Twin::new(3);
    block_on(async {
        fill(&twin, &all, &mut Said::default()).await;
        let recovered = start_all(&twin, &all).await;
        serve(&twin, recovered, async |homes| {
            let (shard, slots) = &homes[1];
            let (tenant, order) = (tenant(0), order(&mut Dice(1)));
            let flushed = shard.flush(&tenant, BLOCK_RANGE_MS, &order).await;
            let flushed = flushed.expect("a flush").expect("a block");
            assert_eq!(flushed.end_ms, BLOCK_RANGE_MS);
            let path = flushed.dir.join(filenames::META);
            let bytes = read_file(&twin, &path, 1 << 20).await.expect("a meta.json");
            let meta = Meta::decode(&bytes).expect("a meta.json");
            assert_eq!(meta, flushed.meta);
            assert_eq!((meta.ulid, meta.range()), (order.ulid, TimeRange::aligned(0)));
            assert_eq!(meta.thanos.source, "receive");
            let labels = meta.external_labels().expect("labels").to_string();
            assert_eq!(labels, r#"{receive_replica="r0", tenant_id="a"}"#);
            let origin = Origin { node: shard.node, shard: 1, generation: 1, slots: *slots };
            assert_eq!(Origin::of(&meta), Some(origin));
            assert_eq!(shard.flush(&tenant, BLOCK_RANGE_MS, &order).await.ok(), Some(None));
            let unaligned = shard.flush(&tenant, BLOCK_RANGE_MS + 1, &order).await;
            assert!(matches!(unaligned, Err(FlushError::Unaligned { .. })));
        })
        .await;
    });
}

#[test]
fn a_block_that_cannot_be_written_changes_nothing() {
    let all = settings_of(&GENERATIONS[..1]);
    let twin = Twin::new(3);
    block_on(async {
        fill(&twin, &all, &mut Said::default()).await;
        let recovered = start_all(&twin, &all).await;
        serve(&twin, recovered, async |homes| {
            let (shard, tenant) = (&homes[0].0, tenant(0));
            let before = stored(shard);
            // The spare segments are made first.
            for _ in 0..1000 {
                future::yield_now().await;
            }
            twin.fail_writes(1);
            let failed = shard.flush(&tenant, BLOCK_RANGE_MS, &order(&mut Dice(1))).await;
            assert!(matches!(failed, Err(FlushError::Block { .. })), "{failed:?}");
            assert_eq!(stored(shard), before);
            assert_eq!(twin.files_below(&Path::new(ROOT).join("blocks")), []);
            let again = shard.flush(&tenant, BLOCK_RANGE_MS, &order(&mut Dice(2))).await;
            assert!(again.expect("a flush").is_some());
        })
        .await;
    });
}

#[test]
fn without_a_log_no_block_is_written() {
    let all = settings_of(&GENERATIONS[..1]);
    let twin = Twin::new(3);
    block_on(async {
        fill(&twin, &all, &mut Said::default()).await;
        let recovered = start_all(&twin, &all).await;
        serve(&twin, recovered, async |homes| {
            let (shard, slots) = &homes[0];
            twin.fail_writes(u64::MAX);
            let late = LOAD.rounds as i64 * LOAD.step_ms;
            let samples: Vec<_> =
                (0..64).map(|series| (series, Sample { t: late, bits: 1 })).collect();
            let (batch, mut answer) = batch(0, &samples, slots);
            shard.write(batch);
            let written = answer.recv().await.expect("an answer");
            assert_eq!(written.unavailable, Some(Unavailable::LogFailed));
            twin.fail_writes(0);
            for ulid in 1..3 {
                let flushed =
                    shard.flush(&tenant(0), BLOCK_RANGE_MS, &order(&mut Dice(ulid))).await;
                assert!(matches!(flushed, Err(FlushError::Log { .. })), "{flushed:?}");
            }
            assert_eq!(twin.files_below(&Path::new(ROOT).join("blocks")), []);
        })
        .await;
    });
}

#[test]
fn one_flush_at_a_time() {
    let all = settings_of(&GENERATIONS[..1]);
    let twin = Twin::new(3);
    block_on(async {
        fill(&twin, &all, &mut Said::default()).await;
        let recovered = start_all(&twin, &all).await;
        serve(&twin, recovered, async |homes| {
            let (shard, tenant) = (&homes[0].0, tenant(0));
            let (one, two) = (order(&mut Dice(1)), order(&mut Dice(2)));
            let both = future::zip(
                shard.flush(&tenant, BLOCK_RANGE_MS, &one),
                shard.flush(&tenant, BLOCK_RANGE_MS, &two),
            );
            let (first, second) = both.await;
            assert!(first.expect("a flush").is_some());
            assert!(matches!(second, Err(FlushError::Busy)));
        })
        .await;
    });
}

#[test]
fn a_shard_whose_log_is_dead_writes_no_block() {
    let twin = Twin::new(3);
    block_on(async {
        let one = [Generation { number: 1, shards: 1 }];
        let recovered = start(&twin, &settings(0, &one)).await;
        serve(&twin, vec![recovered], async |homes| {
            let (shard, slots) = &homes[0];
            let (first, mut answer) = batch(0, &[(1, Sample { t: 5, bits: 1 })], slots);
            shard.write(first);
            assert!(answer.recv().await.expect("an answer").is_clean());
            twin.fail_writes(3);
            let (second, mut answer) = batch(0, &[(2, Sample { t: 6, bits: 1 })], slots);
            shard.write(second);
            assert!(answer.recv().await.expect("an answer").unavailable.is_some());
            twin.fail_writes(0);
            for seed in 1..4 {
                let order = order(&mut Dice(seed));
                let refused = shard.flush(&tenant(0), BLOCK_RANGE_MS, &order).await;
                assert!(matches!(refused, Err(FlushError::Log { .. })), "{refused:?}");
            }
        })
        .await;
    });
    let blocks = twin.files_below(&Path::new(ROOT).join("blocks"));
    assert!(blocks.is_empty(), "{:?}", blocks.iter().map(|(path, _)| path).collect::<Vec<_>>());
}

/// The blocks that have their names.
fn blocks(twin: &Twin) -> BTreeSet<Ulid> {
    let files = twin.files_below(&Path::new(ROOT).join("blocks"));
    let ulid = |path: &Path| filenames::block(path.iter().nth(1)?.to_str()?);
    files.iter().filter_map(|(path, _)| ulid(path)).collect()
}

/// Writes 28 samples on one shard, which fill two segments, and flushes them; once the block has
/// its name, nothing more than `times` is refused for a lack of room.
async fn flush_without_room(
    twin: &Twin,
    homes: &[Home],
    times: u64,
) -> Result<Option<Flushed>, FlushError> {
    let samples: Vec<_> = (0..28).map(|t| (1, t)).collect();
    write(homes, &samples).await;
    let (tenant, order) = (tenant(0), order(&mut Dice(1)));
    let full = async {
        while blocks(twin).is_empty() {
            future::yield_now().await;
        }
        twin.run_out_of_room(times);
        future::pending().await
    };
    future::or(homes[0].0.flush(&tenant, BLOCK_RANGE_MS, &order), full).await
}

#[test]
fn a_block_is_told_of_though_its_cut_waits_for_room() {
    let twin = Twin::new(3);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let later = [(1, BLOCK_RANGE_MS + 5)];
        serve(&twin, vec![recovered], async |homes| {
            let shard = &homes[0].0;
            let flushed = flush_without_room(&twin, homes, 8).await;
            let flushed = flushed.expect("a flush").expect("a block");
            assert_eq!((flushed.meta.stats.num_samples, blocks(&twin).len()), (28, 1));
            assert_eq!(shard.log_failure(), Some(Unavailable::LogWaits));
            shard.truncate(&tenant(0), BLOCK_RANGE_MS);
            while !shard.log_is_writable() {
                future::yield_now().await;
            }
            write(homes, &later).await;
            assert_eq!(stored(shard), ledger(&later));
        })
        .await;
        let recovered = start(&twin.after_cut(), &settings(0, &ONE)).await;
        assert_eq!(stored(&recovered.shard), ledger(&later));
    });
}

#[test]
fn a_start_that_cannot_read_a_block_serves_nothing_twice() {
    let twin = Twin::new(3);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes| {
            flush_without_room(&twin, homes, u64::MAX).await.ok();
        })
        .await;
        let mut refused = 0;
        for after in 0..40 {
            let twin = twin.after_kill();
            twin.run_out_of_fds(after, 1);
            match try_start(&twin, &settings(0, &ONE)).await {
                Ok(found) => assert_eq!(stored(&found.shard), ledger(&[]), "after {after}"),
                Err(_) => refused += 1,
            }
        }
        assert!((5..40).contains(&refused), "{refused} starts failed");
    });
}

#[test]
fn what_a_failed_flush_has_left_goes_before_the_next() {
    let (all, mut said) = ([settings(0, &ONE)], Said::default());
    for t in 0..10 {
        let sample = Sample { t, bits: 7 };
        said.sent.push(0, 1, sample);
        said.acked.push(0, 1, sample);
    }
    for after in 0.. {
        let twin = Twin::new(after);
        let mut failed = 0;
        block_on(async {
            let recovered = start(&twin, &all[0]).await;
            serve(&twin, vec![recovered], async |homes| {
                write(homes, &(0..10).map(|t| (1, t)).collect::<Vec<_>>()).await;
                // The spare segments are made first.
                for _ in 0..1000 {
                    future::yield_now().await;
                }
                // One is missed by the flush, and two when it is to be undone.
                twin.run_out_of_fds(after, 3);
                loop {
                    let order = order(&mut Dice(failed + 1));
                    match homes[0].0.flush(&tenant(0), BLOCK_RANGE_MS, &order).await {
                        Ok(flushed) => break assert!(flushed.is_some()),
                        Err(_) => failed += 1,
                    }
                }
            })
            .await;
        });
        assert_eq!(blocks(&twin).len(), 1, "after {after} descriptors");
        let held = check(&twin, &all, &said, &mut Shelf::default());
        assert_eq!(held, Ok(()), "after {after} descriptors");
        if failed == 0 {
            assert!(after > 5);
            return;
        }
        assert!(failed < 4, "{failed} flushes failed");
    }
}
