//! Power cuts: a seed decides the load, the moment of the cut and what the device kept.
//!
//! The invariant after every recovery: acknowledged ⊆ stored ⊆ sent, and values bit for bit.
//! `TIDEGATE_SEEDS=100000` runs more seeds, `TIDEGATE_SEED=n` runs one. The run with syncs that
//! lie must fail: a test that cannot fail proves nothing.

use futures_lite::future::block_on;

use crate::rt::twin::{Dice, Twin};
use crate::shard::Generation;
use crate::shard::tests::world::{
    Home, Load, Said, judge, off, send, serve, settings, start, stored,
};

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];
const LOAD: Load = Load { rounds: 120, step_ms: 15_000, turns: 6 };

/// Lives one seed: three lives of a shard on one device, each ended by a power cut. Returns what
/// was wrong.
fn live(seed: u64, syncs_work: bool) -> Result<u64, String> {
    let mut dice = Dice(seed);
    let mut twin = Twin::new(dice.roll());
    if !syncs_work {
        twin.break_syncs();
    }
    let settings = settings(0, &ONE);
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
                let senders = async |homes: &[Home]| send(homes, &mut said, &mut dice, LOAD).await;
                serve(&twin, vec![recovered], senders).await;
            }
        });
        twin = twin.after_cut();
        let check = twin.after_cut();
        check.cut_after(u64::MAX);
        block_on(async {
            let recovered = start(&check, &settings).await;
            let found = stored(&recovered.shard);
            judge(found, &said).map_err(|wrong| format!("seed {seed}, life {life}: {wrong}"))?;
            if !recovered.report.damage.is_empty() && syncs_work {
                return Err(format!("seed {seed}, life {life}: {:?}", recovered.report.damage));
            }
            Ok(())
        })?;
    }
    Ok(said.acked.len() as u64)
}

#[expect(clippy::disallowed_methods, reason = "a test's own settings")]
pub(super) fn seeds(short: u64) -> std::ops::Range<u64> {
    let number = |name| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    match (number("TIDEGATE_SEED"), number("TIDEGATE_SEEDS")) {
        (Some(seed), _) => seed..seed + 1,
        (None, Some(count)) => 0..count,
        (None, None) => 0..short,
    }
}

#[test]
fn no_acknowledged_sample_is_lost() {
    let mut acked = 0;
    for seed in seeds(2000) {
        acked += live(seed, true).unwrap_or_else(|wrong| panic!("{wrong}"));
    }
    println!("acknowledged samples that survived: {acked}");
    assert!(acked > 0);
}

#[test]
fn without_the_flush_samples_are_lost() {
    let failed = (0..50).filter(|&seed| live(seed, false).is_err()).count();
    assert!(failed > 25, "the negative control failed in only {failed} of 50 seeds");
}

#[test]
fn no_answer_leaves_before_the_flush() {
    let twin = Twin::new(1);
    let settings = settings(0, &ONE);
    block_on(Box::pin(async {
        let recovered = start(&twin, &settings).await;
        twin.hold_syncs(true);
        let mut said = Said::default();
        let mut dice = Dice(3);
        let wait = async {
            for _ in 0..20_000 {
                futures_lite::future::yield_now().await;
            }
        };
        let senders = async {
            let load = Load { rounds: 5, ..LOAD };
            let main = async |homes: &[Home]| send(homes, &mut said, &mut dice, load).await;
            serve(&twin, vec![recovered], main).await;
        };
        futures_lite::future::or(senders, wait).await;
        assert_ne!(said.sent.len(), 0);
        assert_eq!(said.acked.len(), 0, "answered before the flush: {:?}", said.acked);
    }));
}
