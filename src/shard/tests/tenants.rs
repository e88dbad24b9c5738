//! Tenants: whose names take memory, of whom control hears, and how many series they may have.

use futures_lite::future::{self, block_on, zip};

use ulid::Ulid;

use crate::model::{BLOCK_RANGE_MS, Sample, TenantId};
use crate::rt::channel::oneshot;
use crate::rt::quota::Quotas;
use crate::rt::twin::Twin;
use crate::shard::message::Ask;
use crate::shard::tests::world::{Home, TENANTS, batch, serve, settings, start, tenant};
use crate::shard::write::Refusal;
use crate::shard::{Generation, Settings, Shard};

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
        while future::poll_once(&mut answering).await.is_none() {
            polls += 1;
        }
        assert!(polls >= many / turns, "{polls}");
        assert_eq!(answer.try_recv().map(|held| held.len()), Ok(1));
    });
}

/// Samples of series of tenant 0 that are stored, and those refused for the limit.
async fn write(home: &Home, series: &[usize], t: i64) -> (u64, u64) {
    let samples: Vec<_> = series.iter().map(|&series| (series, Sample { t, bits: 7 })).collect();
    let (batch, mut answer) = batch(0, &samples, &home.1);
    home.0.write(batch);
    let written = answer.recv().await.expect("an answer");
    let limit = Refusal::SeriesLimit as usize;
    let kinds = [written.floats, written.histograms];
    (kinds.map(|kind| kind.stored).iter().sum(), kinds.map(|kind| kind.refused[limit]).iter().sum())
}

#[test]
fn series_above_the_limit_are_refused_until_others_went() {
    let (twin, quotas) = (Twin::new(1), Quotas::unlimited(2));
    quotas.set(|_| 3);
    let settings = Settings { quotas: quotas.clone(), ..settings(0, &ONE) };
    block_on(async {
        let recovered = start(&twin, &settings).await;
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            let home = &homes[0];
            // Number 3 is a series of histograms.
            assert_eq!(write(home, &[1, 2], 10).await, (2, 0));
            assert_eq!(write(home, &[1, 2, 4, 5, 3, 3], 20).await, (3, 3));
            let late = BLOCK_RANGE_MS + 5;
            assert_eq!(write(home, &[1], late).await, (1, 0));
            // The others have no samples behind the cut.
            home.0.cut(&tenant(0), BLOCK_RANGE_MS);
            let noted = home.0.log_and_note(&tenant(0), BLOCK_RANGE_MS, Ulid::nil()).await;
            noted.expect("a cut");
            home.0.truncate(&tenant(0), BLOCK_RANGE_MS);
            home.0.free(&tenant(0), future::pending::<()>).await;
            assert_eq!(quotas.of(TENANTS[0]).taken(), 1, "what is not used was given back");
            assert_eq!(write(home, &[5, 3, 6], late).await, (2, 1));
            // Lowered: what is there goes on. Raised: the next may come.
            quotas.set(|_| 1);
            assert_eq!(write(home, &[1, 5, 6], late + 1).await, (2, 1));
            quotas.set(|_| 1_000);
            home.0.follow_series_limits(&mut 0).await;
            assert_eq!(write(home, &[6, 7, 8], late + 2).await, (3, 0));
        })
        .await;
        // A start counts what it finds.
        let quotas = Quotas::unlimited(2);
        quotas.set(|_| 2);
        let settings = Settings { quotas: quotas.clone(), ..settings };
        let recovered = start(&twin, &settings).await;
        let found = quotas.of(TENANTS[0]).taken();
        assert!(found >= 6, "{found}");
        serve(&twin, vec![recovered], async |homes: &[Home]| {
            assert_eq!(write(&homes[0], &[6, 9], 2 * BLOCK_RANGE_MS).await, (1, 1));
        })
        .await;
    });
}
