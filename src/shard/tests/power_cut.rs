//! Power cuts and kills: a seed decides the load, the moment of the end and what the device kept.
//!
//! The invariant after every recovery: acknowledged ⊆ stored ⊆ sent, and values bit for bit.
//! `TIDEGATE_SEEDS=100000` runs more seeds, `TIDEGATE_SEED=n` runs one. The runs with syncs that
//! lie, and with relaxed answers and power cuts, must fail: a test that cannot fail proves nothing.

use futures_lite::future::block_on;

use crate::rt::twin::{Dice, Twin};
use crate::shard::tests::world::{
    Home, Ledger, Load, Said, judge, off, send, serve, settings, start, stored,
};
use crate::shard::{Generation, Settings};
use crate::stdx::seeds;

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];
const LOAD: Load = Load { rounds: 120, step_ms: 15_000, turns: 6 };

/// How lives end, and what answers wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// By power cuts.
    PowerCut,
    /// By power cuts, on a device whose syncs lie.
    PowerCutAndLies,
    /// By kill -9, with relaxed answers.
    KillRelaxed,
    /// By power cuts, with relaxed answers.
    PowerCutRelaxed,
}

/// Lives one seed: three lives of a shard on one device. Returns what was wrong.
fn live(seed: u64, ends: Ends) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let mut twin = Twin::new(dice.roll());
    if ends == Ends::PowerCutAndLies {
        twin.break_syncs();
    }
    let answers_wait = matches!(ends, Ends::PowerCut | Ends::PowerCutAndLies);
    let settings = Settings { answers_wait, ..settings(0, &ONE) };
    let mut said = Said::default();
    for life in 0..3 {
        twin.cut_after(20 + dice.below(400));
        if dice.below(5) == 0 {
            twin.fail_writes(1);
        }
        block_on(async {
            let started = async { Some(start(&twin, &settings).await) };
            let off = async {
                off(&twin).await;
                None
            };
            // The power may go while the shard recovers, too.
            if let Some(recovered) = futures_lite::future::or(started, off).await {
                // Sometimes there is no room for a while: first for spares, then for segments.
                twin.run_out_of_room(dice.below(3) * dice.below(8));
                let senders = async |homes: &[Home]| send(homes, &mut said, &mut dice, LOAD).await;
                serve(&twin, vec![recovered], senders).await;
            }
        });
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
            if !recovered.report.damage.is_empty() && ends == Ends::PowerCut {
                return Err(format!("seed {seed}, life {life}: {:?}", recovered.report.damage));
            }
            Ok(())
        })?;
    }
    Ok(said.acked.len() as u64)
}

#[test]
fn no_acknowledged_sample_is_lost() {
    let mut acked = 0;
    for seed in seeds(2000) {
        acked += live(seed, Ends::PowerCut).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    println!("acknowledged samples that survived: {acked}");
    assert!(acked > 0);
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
                futures_lite::future::yield_now().await;
            }
        };
        let senders = async {
            let main = async |homes: &[Home]| {
                // A segment is begun with syncs, whoever waits for them.
                send(homes, &mut said, &mut dice, Load { rounds: 1, ..LOAD }).await;
                while !homes[0].0.is_settled() {
                    futures_lite::future::yield_now().await;
                }
                before = said.acked.len();
                twin.hold_syncs(true);
                send(homes, &mut said, &mut dice, Load { rounds: 5, ..LOAD }).await;
            };
            serve(&twin, vec![recovered], main).await;
        };
        futures_lite::future::or(senders, wait).await;
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
