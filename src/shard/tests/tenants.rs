//! Tenants: whose names take memory, and of whom control hears.

use futures_lite::future::{block_on, zip};

use crate::model::{Sample, TenantId};
use crate::rt::channel::oneshot;
use crate::rt::twin::Twin;
use crate::shard::message::Ask;
use crate::shard::tests::world::{Home, batch, serve, settings, start, tenant};
use crate::shard::{Generation, Shard};

const ONE: [Generation; 1] = [Generation { number: 1, shards: 1 }];

async fn asked<T>(shard: &Shard<Twin>, question: fn(oneshot::Sender<T>) -> Ask) -> T {
    let (reply, answer) = oneshot::channel();
    zip(shard.answer(question(reply)), answer).await.1.expect("an answer")
}

#[test]
fn a_name_takes_memory_when_something_of_it_is_stored() {
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let (shard, slots) = &homes[0];
            // A float and a histogram, too far in the future.
            let samples = [1, 3].map(|series| (series, Sample { t: 100, bits: 7 }));
            let write = async |name: &str, max_t| {
                let (mut batch, mut answer) = batch(0, &samples, slots);
                (batch.tenant, batch.max_t) = (TenantId::new(name).expect("a tenant"), max_t);
                shard.write(batch);
                answer.recv().await.expect("an answer").is_clean()
            };
            for i in 0..50 {
                assert!(!write(&format!("made-up-{i}"), 99).await);
            }
            let known = || {
                let applier = &shard.state.borrow().applier;
                (applier.head.tenants.len(), applier.keys.len())
            };
            assert_eq!(known(), (0, 0));
            assert!(write(tenant(0).as_str(), 100).await);
            assert_eq!(known(), (1, 1));
        })
        .await;
    });
}

#[test]
fn control_hears_of_those_who_hold_something() {
    let twin = Twin::new(1);
    block_on(async {
        let recovered = start(&twin, &settings(0, &ONE)).await;
        let shard = recovered.shard;
        let (many, turns) = (10_000, 200);
        for i in 0..many {
            shard.cut(&TenantId::new(&format!("t{i}")).expect("a tenant"), i64::MIN);
        }
        shard.cut(&TenantId::new("cut").expect("a tenant"), 5);
        let held = asked(&shard, Ask::Held).await;
        let [(tenant, held)] = &held[..] else { panic!("{held:?}") };
        assert_eq!((tenant.as_str(), held.cut_ms, held.covered_ms), ("cut", 5, i64::MIN));
        assert_eq!(asked(&shard, Ask::Covered).await.len(), many + 1);
        // Others have had their turns meanwhile.
        let mut polls = 0;
        let (reply, mut answer) = oneshot::channel();
        let mut answering = Box::pin(shard.answer(Ask::Held(reply)));
        while futures_lite::future::poll_once(&mut answering).await.is_none() {
            polls += 1;
        }
        assert!(polls >= many / turns, "{polls}");
        assert_eq!(answer.try_recv().map(|held| held.len()), Ok(1));
    });
}
