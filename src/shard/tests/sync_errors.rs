//! Syncs that fail: what the device did not confirm is not acknowledged, then or later.
//!
//! Past the page cache a block gets a second try in a fresh segment. Through it there is none: the
//! kernel forgets what it could not write, and both the next sync and the next read say otherwise.

use futures_lite::future::block_on;

use crate::model::Sample;
use crate::rt::twin::Twin;
use crate::shard::Generation;
use crate::shard::tests::world::{Home, Said, batch, judge, serve, settings, start, stored};
use crate::shard::write::Unavailable;

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];

/// Writes a sample of some series, and says why it was not stored.
async fn write(home: &Home, said: &mut Said, t: i64) -> Option<Unavailable> {
    let samples: Vec<(usize, Sample)> = (0..10).map(|i| (i, Sample::new(t, 1.0))).collect();
    let (batch, mut answer) = batch(0, &samples, &home.1);
    assert!(home.0.write(batch).is_empty());
    for (series, sample) in &samples {
        said.sent.insert(0, *series, *sample);
    }
    let written = answer.recv().await.expect("an answer");
    if written.is_clean() {
        for (series, sample) in samples {
            said.acked.push(0, series, sample);
        }
    }
    written.unavailable
}

/// What a recovery finds is what was acknowledged, and was sent.
fn check(device: &Twin, said: &Said, seed: u64) {
    block_on(async {
        let recovered = start(device, &settings(0, &ONE)).await;
        judge(stored(&recovered.shard), said).unwrap_or_else(|wrong| panic!("{seed}: {wrong}"));
    });
}

/// Some writes, then so many syncs that fail under the next ones. Returns what those were told.
fn fail(twin: &Twin, said: &mut Said, failures: u64) -> Vec<Option<Unavailable>> {
    let mut told = Vec::new();
    block_on(async {
        let recovered = start(twin, &settings(0, &ONE)).await;
        let main = async |homes: &[Home]| {
            for t in 1..4 {
                assert_eq!(write(&homes[0], said, t).await, None);
            }
            twin.fail_syncs(failures);
            for t in 4..7 {
                told.push(write(&homes[0], said, t).await);
            }
            assert_eq!(homes[0].0.log_failure(), told[2], "and so is told who comes next");
        };
        serve(twin, vec![recovered], main).await;
    });
    told
}

#[test]
fn a_sync_error_is_the_end_of_a_log() {
    let dead = [Some(Unavailable::LogFailed); 3];
    for seed in 0..100 {
        for (twin, failures, want) in [
            (Twin::new(seed), 1, [None; 3]),
            (Twin::new(seed), 2, dead),
            (Twin::buffered(seed), 1, dead),
        ] {
            let mut said = Said::default();
            assert_eq!(fail(&twin, &mut said, failures), want, "seed {seed}, {failures} failures");
            check(&twin.after_kill(), &said, seed);
            check(&twin.after_cut(), &said, seed);
        }
    }
}

/// The process starts again on what its failed syncs left in the page cache, hears the same samples
/// once more, and then the power goes.
#[test]
fn what_a_failed_sync_left_behind_is_no_ground_to_acknowledge() {
    for seed in 0..200 {
        let (twin, mut said) = (Twin::buffered(seed), Said::default());
        fail(&twin, &mut said, 1);
        let twin = twin.after_kill();
        block_on(async {
            let recovered = start(&twin, &settings(0, &ONE)).await;
            let main = async |homes: &[Home]| {
                for t in 4..9 {
                    assert_eq!(write(&homes[0], &mut said, t).await, None, "seed {seed}");
                }
            };
            serve(&twin, vec![recovered], main).await;
        });
        check(&twin.after_cut(), &said, seed);
    }
}
