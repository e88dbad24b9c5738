//! Power cuts and kills: a seed decides the load, the moment of the end and what the device kept.
//!
//! The invariant after every recovery: acknowledged ⊆ stored ⊆ sent, and values bit for bit. In
//! some seeds ranges are cut, too, as if their blocks had been written and deleted since: series
//! come and go, log is let go, and the series file is written anew meanwhile.
//! `TIDEGATE_SEEDS=100000` runs more seeds, `TIDEGATE_SEED=n` runs one. The runs with syncs that
//! lie, and with relaxed answers and power cuts, must fail: a test that cannot fail proves nothing.

use std::path::Path;

use futures_lite::future::{self, block_on};

use crate::block::Ulid;
use crate::model::{Sample, TimeRange};
use crate::rt::channel::mpsc;
use crate::rt::twin::{Dice, Twin};
use crate::shard::commit::GROUP_BYTES_MAX;
use crate::shard::tests::world::{
    Home, Ledger, Load, ROOT, Said, TENANTS, batch, held_by, judge, off, send, serve, settings,
    start, stored, tenant,
};
use crate::shard::wal::writer::segment_number;
use crate::shard::write::{Unavailable, Written};
use crate::shard::{Generation, Settings, Shard};
use crate::stdx::seeds;

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];
const LOAD: Load = Load { rounds: 120, step_ms: 15_000, turns: 6 };
/// A block range is over in eight rounds.
const CHURN: Load = Load { rounds: 300, step_ms: 1_000_000, turns: 20 };

/// How lives end, and what answers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// By power cuts.
    PowerCut,
    /// By power cuts, behind a page cache.
    PowerCutBuffered,
    /// By power cuts, on a device whose syncs lie.
    PowerCutAndLies,
    /// By kill -9, with relaxed answers.
    KillRelaxed,
    /// By power cuts, with relaxed answers.
    PowerCutRelaxed,
}

/// Cuts now and then what is older than the newest range of a tenant, for ever. `cuts` are the
/// latest by tenant, durable or not.
async fn cut_at_random(shard: &Shard<Twin>, mut dice: Dice, cuts: &mut [i64; TENANTS.len()]) {
    loop {
        for _ in 0..dice.below(60) {
            future::yield_now().await;
        }
        let t = dice.below(TENANTS.len() as u64) as usize;
        let tenant = tenant(t);
        let held = held_by(shard, &tenant);
        let Some(held) = held.filter(|held| held.oldest_ms < i64::MAX) else { continue };
        let end_ms = TimeRange::aligned(held.newest_ms).start;
        if held.oldest_ms < end_ms {
            cuts[t] = cuts[t].max(end_ms);
            shard.cut(&tenant, end_ms);
            if shard.log_and_note(&tenant, end_ms, Ulid::nil()).await.is_ok() {
                shard.truncate(&tenant, end_ms);
                shard.free(&tenant, || future::ready(())).await;
            }
        }
    }
}

/// How a seed has lived.
#[derive(Debug, Default, Clone, Copy)]
struct Lived {
    /// Acknowledged samples at the end that no cut has taken.
    acked: usize,
    /// Whether segments of the series file were let go.
    rewritten: bool,
}

/// Lives one seed: three lives of a shard on one device. Returns what was wrong.
fn live(seed: u64, ends: Ends) -> Result<Lived, String> {
    let mut dice = Dice(seed);
    let device = if ends == Ends::PowerCutBuffered { Twin::buffered } else { Twin::new };
    let mut twin = device(dice.roll());
    if ends == Ends::PowerCutAndLies {
        twin.break_syncs();
    }
    let answers_wait = !matches!(ends, Ends::KillRelaxed | Ends::PowerCutRelaxed);
    let settings = Settings { answers_wait, ..settings(0, &ONE) };
    let (mut said, mut cuts, mut lived) = (Said::default(), [i64::MIN; _], Lived::default());
    // Relaxed runs are about answers alone.
    let churn = answers_wait && dice.below(4) == 0;
    let (load, ops) = if churn { (CHURN, 2000) } else { (LOAD, 400) };
    let half = Load { rounds: load.rounds / 2, ..load };
    for life in 0..3 {
        twin.cut_after(20 + dice.below(ops));
        let failing_writes = u64::from(dice.below(5) == 0);
        block_on(async {
            let started = async { Some(start(&twin, &settings).await) };
            let off = async {
                off(&twin).await;
                None
            };
            // The power may go while the shard recovers, too.
            if let Some(recovered) = future::or(started, off).await {
                // Sometimes there is no room for a while: first for spares, then for segments.
                // Not before: behind a page cache a start writes, and ends if that fails.
                twin.run_out_of_room(dice.below(3) * dice.below(8));
                twin.fail_writes(failing_writes);
                let failing = dice.below(4).saturating_sub(1);
                let others = Dice(!seed ^ life);
                let senders = async |homes: &[Home]| {
                    let cutting = async {
                        if churn {
                            cut_at_random(&homes[0].0, others, &mut cuts).await;
                        }
                        future::pending::<()>().await;
                    };
                    let sending = async {
                        send(homes, &mut said, &mut dice, half).await;
                        twin.fail_syncs(failing);
                        send(homes, &mut said, &mut dice, half).await;
                    };
                    future::or(sending, cutting).await;
                };
                serve(&twin, vec![recovered], senders).await;
            }
        });
        (0..).zip(cuts).for_each(|(t, end_ms)| said.acked.drop_before(t, end_ms));
        let after = |twin: &Twin| match ends {
            Ends::KillRelaxed => twin.after_kill(),
            _ => twin.after_cut(),
        };
        twin = after(&twin);
        let check = after(&twin);
        check.cut_after(u64::MAX);
        block_on(async {
            let recovered = start(&check, &settings).await;
            let found = stored(&recovered.shard);
            judge(found, &said).map_err(|wrong| format!("seed {seed}, life {life}: {wrong}"))?;
            let whole = matches!(ends, Ends::PowerCut | Ends::PowerCutBuffered);
            let report = recovered.report;
            if (report.orphaned > 0 || !report.damage.is_empty()) && whole {
                return Err(format!("seed {seed}, life {life}: {report:?}"));
            }
            Ok(())
        })?;
        let first = first_series_segment(&twin);
        lived.rewritten |= first.is_some_and(|number| number > 1);
    }
    lived.acked = said.acked.len();
    Ok(lived)
}

/// Number of the oldest segment of the series file.
fn first_series_segment(twin: &Twin) -> Option<u64> {
    let files = twin.files_below(&Path::new(ROOT).join("shard-0/series"));
    files.iter().find_map(|(path, _)| segment_number(path.to_str()?))
}

#[test]
fn no_acknowledged_sample_is_lost() {
    let (mut acked, mut rewritten) = (0, 0);
    let seeds = seeds(2000);
    for seed in seeds.clone() {
        let lived = live(seed, Ends::PowerCut).unwrap_or_else(|wrong| panic!("{wrong}"));
        acked += lived.acked;
        rewritten += usize::from(lived.rewritten);
    }
    println!("{acked} acknowledged samples survived; {rewritten} series files were written anew");
    assert!(acked > 0);
    assert!(seeds.count() < 1000 || rewritten > 100, "{rewritten} series files written anew");
    for seed in self::seeds(500) {
        live(seed, Ends::PowerCutBuffered).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
}

#[test]
fn without_the_flush_samples_are_lost() {
    let failed = (0..50).filter(|&seed| live(seed, Ends::PowerCutAndLies).is_err()).count();
    assert!(failed > 25, "the negative control failed in only {failed} of 50 seeds");
}

#[test]
fn relaxed_answers_outlive_the_process_and_not_the_power() {
    for seed in seeds(300) {
        live(seed, Ends::KillRelaxed).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    let lost = (0..50).filter(|&seed| live(seed, Ends::PowerCutRelaxed).is_err()).count();
    assert!(lost > 10, "the negative control failed in only {lost} of 50 seeds");
}

/// What is refused for a lack of room is in the head all the same. When there is room again it is
/// written first, so that a sender who repeats it is told the truth.
#[test]
fn writes_are_refused_without_room_and_taken_when_there_is_some() {
    let mut twin = Twin::new(4);
    let settings = settings(0, &ONE);
    let mut said = Said::default();
    let mut dice = Dice(9);
    for _ in 0..3 {
        block_on(async {
            let recovered = start(&twin, &settings).await;
            let main = async |homes: &[Home]| {
                twin.run_out_of_room(6);
                send(homes, &mut said, &mut dice, LOAD).await;
                let samples = |ledger: &Ledger| ledger.clone().sorted_set().len();
                assert!(samples(&said.acked) < samples(&said.sent), "nothing was refused");
                let before = said.acked.len();
                send(homes, &mut said, &mut dice, LOAD).await;
                assert!(said.acked.len() > before, "there is room again");
            };
            serve(&twin, vec![recovered], main).await;
        });
        twin = twin.after_cut();
        block_on(async {
            let recovered = start(&twin, &settings).await;
            judge(stored(&recovered.shard), &said).expect("acked is stored");
            assert_eq!(recovered.report.damage, []);
            assert_eq!(recovered.shard.log_stats().io_errors, 0);
        });
    }
}

/// How many samples are acknowledged while no sync ends, after a first round with them.
fn acked_without_syncs(answers_wait: bool) -> (usize, Twin, Said) {
    let twin = Twin::new(1);
    let settings = Settings { answers_wait, ..settings(0, &ONE) };
    let mut said = Said::default();
    let acked = block_on(Box::pin(async {
        let recovered = start(&twin, &settings).await;
        let mut dice = Dice(3);
        let mut before = 0;
        let wait = async {
            for _ in 0..20_000 {
                future::yield_now().await;
            }
        };
        let senders = async {
            let main = async |homes: &[Home]| {
                // A segment is begun with syncs, whoever waits for them.
                send(homes, &mut said, &mut dice, Load { rounds: 1, ..LOAD }).await;
                while !homes[0].0.is_settled() {
                    future::yield_now().await;
                }
                before = said.acked.len();
                twin.hold_syncs(true);
                send(homes, &mut said, &mut dice, Load { rounds: 5, ..LOAD }).await;
            };
            serve(&twin, vec![recovered], main).await;
        };
        future::or(senders, wait).await;
        assert!(said.sent.len() > said.acked.len(), "the load is bigger than what was answered");
        said.acked.len() - before
    }));
    (acked, twin, said)
}

#[test]
fn no_answer_leaves_before_the_flush() {
    let (acked, ..) = acked_without_syncs(true);
    assert_eq!(acked, 0, "answered before the flush");
}

#[test]
fn relaxed_answers_leave_before_the_flush_and_after_the_write() {
    let (acked, twin, said) = acked_without_syncs(false);
    assert_ne!(acked, 0, "an answer waited for the flush");
    // The process dies and the device keeps its power: all that was written is there.
    let after = twin.after_kill();
    block_on(async {
        let recovered = start(&after, &settings(0, &ONE)).await;
        judge(stored(&recovered.shard), &said).expect("acknowledged, so written");
    });
}

/// Were the later part stored, the earlier one would be out of order when the sender repeats it.
#[test]
fn what_follows_a_part_that_was_turned_away_is_turned_away() {
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let slots = recovered.shard.state.borrow().applier.slots;
        let part = |t: i64| batch(0, &[(0, Sample { t, bits: 1 })], &slots);
        let unavailable = |answer: &mut mpsc::UnboundedReceiver<Written>| {
            answer.try_recv().expect("an answer at once").unavailable
        };
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let (shard, _) = &homes[0];
            let (first, mut answer) = part(1);
            let mut second = part(2).0;
            second.reply = first.reply.clone();
            let mut third = part(3).0;
            third.reply = first.reply.clone();
            shard.state.borrow_mut().commits.fail(Unavailable::LogWaits);
            shard.write(first);
            assert_eq!(unavailable(&mut answer), Some(Unavailable::LogWaits));
            shard.state.borrow_mut().commits.has_room();
            shard.write(second);
            assert_eq!(unavailable(&mut answer), Some(Unavailable::LogWaits), "of one request");
            // Another request is none of its business, and the same one again is another.
            let (other, mut answered) = part(1);
            shard.write(other);
            let written = answered.recv().await.expect("an answer");
            assert_eq!((written.floats.stored, written.unavailable), (1, None));
            shard.write(third);
            assert_eq!(unavailable(&mut answer), Some(Unavailable::LogWaits), "still");
        })
        .await;
    });
}

/// New series wait for the series file, known ones for nothing.
#[test]
fn what_gathers_turns_away_only_what_adds_to_it_and_says_what_it_is() {
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let slots = recovered.shard.state.borrow().applier.slots;
        let part = |t: i64, series: usize| batch(0, &[(series, Sample { t, bits: 1 })], &slots);
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let (shard, _) = &homes[0];
            let write = async |t, series| {
                let (batch, mut answer) = part(t, series);
                shard.write(batch);
                answer.recv().await.expect("an answer").unavailable
            };
            assert_eq!(write(1, 0).await, None);
            let filler = [0; 1 << 13];
            while !shard.is_behind() {
                shard.state.borrow_mut().applier.untold.add_series(0, "filler", &filler);
            }
            let (known, mut answer) = part(2, 0);
            let (new, mut refused) = part(2, 1);
            shard.write(known);
            shard.write(new);
            let refused = refused.try_recv().expect("at once").unavailable;
            assert_eq!(refused, Some(Unavailable::SeriesWait));
            assert_eq!(answer.recv().await.expect("an answer").floats.stored, 1);
            while shard.state.borrow().applier.group.len_bytes() <= GROUP_BYTES_MAX {
                shard.state.borrow_mut().applier.group.add_series(0, "filler", &filler);
            }
            let (known, mut refused) = part(3, 0);
            shard.write(known);
            let refused = refused.try_recv().expect("at once").unavailable;
            assert_eq!(refused, Some(Unavailable::GroupFull));
        })
        .await;
    });
}
