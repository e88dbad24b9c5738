//! What belongs to another shard is sent on whole.

use crate::decode::region::{self, LabelLimits};
use crate::model::{KeySecret, Sample, TenantId};
use crate::rt::channel::mpsc;
use crate::rt::mesh::Home;
use crate::rt::quota::Quotas;
use crate::shard::apply::{Applier, SentOn};
use crate::shard::head::specimen;
use crate::shard::slots::{self, SlotSet};
use crate::shard::write::{Batch, Item, ItemHistogram, Past};

#[test]
fn histograms_of_another_spelling_go_on_with_their_series() {
    let secret = KeySecret::new([3; 32]);
    let id = TenantId::new("t").expect("a tenant");
    let keys = secret.of(&id);
    let applier = |shard| {
        let slots = SlotSet::of_shard(shard, 2);
        Applier::new(slots, secret.clone(), LabelLimits::default(), Quotas::unlimited(2))
    };
    // Two series whose sorted labels are the other shard's.
    let spelled = (0..).filter_map(|n: u32| {
        let value = n.to_string();
        let (mut sorted, mut unsorted) = (Vec::new(), Vec::new());
        region::encode([("a", "1"), ("n", value.as_str())], &mut sorted);
        region::encode([("n", value.as_str())], &mut unsorted);
        region::encode([("a", "1")], &mut unsorted);
        let owner = slots::owner(slots::slot(keys.key(&sorted)), 2);
        (owner == 1).then_some(unsorted)
    });
    let (mut bytes, mut items, mut histograms) = (Vec::new(), Vec::new(), Vec::new());
    let mut samples = Vec::new();
    let put = |bytes: &mut Vec<u8>, more: &[u8]| {
        let from = bytes.len() as u32;
        bytes.extend_from_slice(more);
        from..bytes.len() as u32
    };
    for (item, region) in (0..).zip(spelled.take(2)) {
        let from = samples.len() as u32;
        samples.push(Sample::new(1000, f64::from(item)));
        let key = keys.key(&region);
        let region = put(&mut bytes, &region);
        items.push(Item { key, region, samples: from..from + 1 });
        for t in [2000, 3000, 4000] {
            let message = put(&mut bytes, &specimen::named(t, u64::from(item)));
            histograms.push(ItemHistogram { item, message });
        }
    }
    let (reply, _) = mpsc::unbounded_channel();
    let home = Home::new(1);
    let batch = Batch {
        tenant: id,
        items,
        samples,
        histograms,
        bytes: home.lend(bytes),
        max_t: i64::MAX,
        past: Past::ANY,
        reply,
    };
    let mut sent_on = SentOn::default();
    let here = applier(0).apply(&batch, &mut sent_on);
    assert_eq!((here.floats.written(), here.histograms.written()), (0, 0));
    let mut there = sent_on.batches(&batch, &home, 2);
    let (owner, batch) = there.pop().expect("a batch");
    assert_eq!((owner, there.len()), (1, 0));
    let mut owner = applier(1);
    let mut again = SentOn::default();
    for (stored, duplicates) in [((2, 6), (0, 0)), ((0, 0), (2, 6))] {
        let written = owner.apply(&batch, &mut again);
        assert!(again.is_empty() && written.is_clean(), "{written:?}");
        assert_eq!((written.floats.stored, written.histograms.stored), stored);
        assert_eq!((written.floats.duplicates, written.histograms.duplicates), duplicates);
    }
    assert_eq!(owner.head.len(), 2);
}
