//! Which blocks may be deleted.
//!
//! ## Promises
//! A block that is not in the bucket is never deleted. A clock step deletes nothing: a block is
//! old only if *two* clocks say so, the machine's and the data's own (the newest max time of all
//! blocks). A machine that wakes up a year ahead still has data of yesterday; a sender that writes
//! into the future does not move the machine's clock. And if both err, one run deletes a bounded
//! number of blocks, and the next run is a while later.
//!
//! ## Order
//! In a bucket `meta.json` goes first and marks go last, so that no reader ever takes a
//! half-deleted block for a whole one.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use serde_json::Value;
use ulid::Ulid;

use crate::bucket::Directory;
use crate::model::TimeRange;
use crate::ship::meta::{META_BYTES_MAX, META_FILE};

/// Age of an upload without `meta.json` after which it is taken for abandoned, as in Thanos. More
/// than the age at which our own uploads change their ULID.
const ABANDONED_MS: i64 = 48 * 60 * 60 * 1_000;

/// How long blocks are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    /// Age of the newest sample of a block at which it may go; 0 keeps all for ever.
    pub keep_ms: i64,
    /// Blocks deleted in one run at most.
    pub at_most: usize,
}

/// A block that might be deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Its name.
    pub ulid: Ulid,
    /// End of its time range (`maxTime`).
    pub max_time_ms: i64,
    /// Whether it is verified to be in the bucket.
    pub shipped: bool,
}

/// The blocks that may be deleted now, oldest first. `blocks` are all that are kept in one place,
/// of all tenants; `wall_ms` is the machine's clock.
pub fn deletable(blocks: &[Kept], retention: Retention, wall_ms: i64) -> Vec<Ulid> {
    let Some(newest_ms) = blocks.iter().map(|b| b.max_time_ms).max() else { return Vec::new() };
    let now_ms = wall_ms.min(newest_ms);
    let is_old = |b: &&Kept| {
        let ends_ms = b.max_time_ms.checked_add(retention.keep_ms);
        ends_ms.is_some_and(|ends_ms| ends_ms <= now_ms)
    };
    if retention.keep_ms <= 0 {
        return Vec::new();
    }
    let mut old: Vec<&Kept> = blocks.iter().filter(|b| b.shipped).filter(is_old).collect();
    old.sort_by_key(|b| (b.max_time_ms, b.ulid));
    old.into_iter().take(retention.at_most).map(|b| b.ulid).collect()
}

/// Retention of the default bucket, the directory that Tidegate owns alone, in use or not. It
/// takes a [`Directory`], not a bucket: nobody prunes an object store by mistake.
#[derive(Debug)]
pub struct Pruner {
    directory: Directory,
    /// The blocks seen; `meta.json` never changes.
    seen: BTreeMap<Ulid, Seen>,
}

/// A block as its `meta.json` tells of it.
#[derive(Debug)]
struct Seen {
    max_time_ms: i64,
    /// Range and external labels, for the log.
    range: String,
    labels: String,
}

/// What a run deleted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Pruned {
    /// Blocks past retention.
    pub expired: Vec<Ulid>,
    /// Uploads that were never finished.
    pub abandoned: Vec<Ulid>,
}

impl Pruner {
    /// A pruner of a directory.
    pub fn new(directory: Directory) -> Self {
        Self { directory, seen: BTreeMap::new() }
    }

    /// Deletes what retention lets go. The data's own clock goes to `newest_ms` at least: the
    /// newest blocks may be shipped to another bucket by now. Blocks the thread. What a crash
    /// leaves of a block lacks `meta.json`, and goes as an abandoned upload.
    pub fn run(
        &mut self,
        retention: Retention,
        wall_ms: i64,
        newest_ms: i64,
    ) -> io::Result<Pruned> {
        let found = self.directory.blocks()?;
        self.seen.retain(|ulid, _| found.contains(ulid));
        let mut partial = BTreeSet::new();
        for ulid in &found {
            if self.seen.contains_key(ulid) {
                continue;
            }
            match self.look(*ulid)? {
                Some(seen) => drop(self.seen.insert(*ulid, seen)),
                None => drop(partial.insert(*ulid)),
            }
        }
        let mut blocks: Vec<Kept> = self
            .seen
            .iter()
            .map(|(&ulid, seen)| Kept { ulid, max_time_ms: seen.max_time_ms, shipped: true })
            .collect();
        blocks.push(Kept { ulid: Ulid::nil(), max_time_ms: newest_ms, shipped: false });
        let newest_ms = blocks.iter().map(|b| b.max_time_ms).max().unwrap_or(newest_ms);
        let now_ms = wall_ms.min(newest_ms);
        let mut pruned =
            Pruned { expired: deletable(&blocks, retention, wall_ms), ..Pruned::default() };
        for ulid in &pruned.expired {
            let seen = self.seen.remove(ulid);
            self.delete(*ulid)?;
            if let Some(Seen { range, labels, .. }) = seen {
                let what = "a block is past retention and deleted from the default bucket";
                tracing::info!(block = %ulid, range, labels, "{what}");
            }
        }
        let is_abandoned = |ulid: Ulid| {
            let made_ms = i64::try_from(ulid.timestamp_ms()).ok();
            made_ms.and_then(|t| t.checked_add(ABANDONED_MS)).is_some_and(|ends| ends <= now_ms)
        };
        for ulid in partial.into_iter().filter(|ulid| is_abandoned(*ulid)) {
            self.delete(ulid)?;
            tracing::info!(block = %ulid, "an abandoned upload is deleted from the default bucket");
            pruned.abandoned.push(ulid);
        }
        self.directory.sweep(is_abandoned)?;
        Ok(pruned)
    }

    /// What a block is; nothing for one without a readable `meta.json`.
    fn look(&self, ulid: Ulid) -> io::Result<Option<Seen>> {
        let bytes = match self.directory.get(&format!("{ulid}/{META_FILE}"), 0, META_BYTES_MAX) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes?,
        };
        let meta: Value = serde_json::from_slice(&bytes).unwrap_or_default();
        let time = |key: &str| meta.get(key).and_then(Value::as_i64);
        let Some(end) = time("maxTime") else { return Ok(None) };
        let range = TimeRange { start: time("minTime").unwrap_or(i64::MIN), end };
        let labels = meta.pointer("/thanos/labels").map_or_else(String::new, Value::to_string);
        Ok(Some(Seen { max_time_ms: end, range: range.to_string(), labels }))
    }

    fn delete(&mut self, ulid: Ulid) -> io::Result<()> {
        self.seen.remove(&ulid);
        let meta = format!("{ulid}/{META_FILE}");
        self.directory.delete(&meta)?;
        let mut keys: Vec<String> =
            self.directory.objects(ulid)?.into_iter().map(|object| object.key).collect();
        keys.sort_by_key(|key| key.ends_with("-mark.json"));
        for key in keys {
            self.directory.delete(&key)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOUR: i64 = 3_600_000;
    const YEAR: i64 = 365 * 24 * HOUR;
    const NOW: i64 = 1_800_000_000_000;
    const DAY: Retention = Retention { keep_ms: 24 * HOUR, at_most: 100 };

    fn kept(n: u64, max_time_ms: i64) -> Kept {
        Kept { ulid: Ulid::from_parts(n, 0), max_time_ms, shipped: true }
    }

    /// Twelve blocks: the newest ends now, each other two hours before the next.
    fn half_a_day(newest_ms: i64) -> Vec<Kept> {
        (0..24).map(|n| kept(n, newest_ms - (23 - n as i64) * 2 * HOUR)).collect()
    }

    #[test]
    fn what_both_clocks_call_old_may_go_oldest_first() {
        let blocks = half_a_day(NOW);
        let want: Vec<Ulid> = (0..12).map(|n| Ulid::from_parts(n, 0)).collect();
        assert_eq!(deletable(&blocks, DAY, NOW), want);
        let few = Retention { at_most: 3, ..DAY };
        assert_eq!(deletable(&blocks, few, NOW), want[..3]);
        let for_ever = Retention { keep_ms: 0, ..DAY };
        assert_eq!(deletable(&blocks, for_ever, NOW), []);
        assert_eq!(deletable(&[], DAY, NOW), []);
    }

    #[test]
    fn a_clock_step_deletes_nothing() {
        let young: Vec<Kept> =
            half_a_day(NOW).into_iter().filter(|b| b.max_time_ms > NOW - 24 * HOUR).collect();
        for wall_ms in [NOW - YEAR, NOW, NOW + HOUR, NOW + YEAR, i64::MAX, i64::MIN, 0] {
            assert_eq!(deletable(&young, DAY, wall_ms), [], "wall clock {wall_ms}");
        }
        let mut with_future = young.clone();
        with_future.push(kept(99, NOW + YEAR));
        with_future.push(kept(98, i64::MAX));
        assert_eq!(deletable(&with_future, DAY, NOW), []);
    }

    #[test]
    fn what_is_not_in_the_bucket_stays() {
        let mut blocks = half_a_day(NOW);
        for block in &mut blocks {
            block.shipped = false;
        }
        assert_eq!(deletable(&blocks, DAY, NOW), []);
    }

    proptest! {
        #[test]
        fn every_deleted_block_is_old_by_both_clocks(
            times in proptest::collection::vec((any::<i64>(), any::<bool>()), 0..40),
            keep_ms in 0i64..=i64::MAX, wall_ms: i64, at_most in 0usize..50,
        ) {
            let blocks: Vec<Kept> = times
                .iter()
                .enumerate()
                .map(|(n, (t, shipped))| Kept { shipped: *shipped, ..kept(n as u64, *t) })
                .collect();
            let newest = times.iter().map(|(t, _)| *t).max();
            let gone = deletable(&blocks, Retention { keep_ms, at_most }, wall_ms);
            prop_assert!(gone.len() <= at_most);
            for block in blocks.iter().filter(|b| gone.contains(&b.ulid)) {
                let age = |now: i64| i128::from(now) - i128::from(block.max_time_ms);
                prop_assert!(block.shipped && keep_ms > 0);
                prop_assert!(age(wall_ms) >= i128::from(keep_ms));
                prop_assert!(newest.is_some_and(|n| age(n) >= i128::from(keep_ms)));
            }
        }
    }

    #[test]
    fn the_default_bucket_is_pruned_meta_first_and_partial_uploads_after_two_days() {
        let tmp = tempfile::tempdir().expect("a directory");
        let directory = Directory::open(tmp.path()).expect("a bucket");
        let ulid = |ms: i64| Ulid::from_parts(ms as u64, 1);
        let (old, young) = (ulid(NOW - 50 * HOUR), ulid(NOW));
        for (block, max_time_ms) in [(old, NOW - 49 * HOUR), (young, NOW)] {
            directory.put(&format!("{block}/chunks/000001"), b"c").expect("put");
            directory.put(&format!("{block}/index"), b"i").expect("put");
            let meta = format!("{{\"maxTime\": {max_time_ms}}}");
            directory.put(&format!("{block}/meta.json"), meta.as_bytes()).expect("put");
        }
        let (abandoned, under_way) = (ulid(NOW - 49 * HOUR), ulid(NOW - 20 * HOUR));
        for block in [abandoned, under_way] {
            directory.put(&format!("{block}/chunks/000001"), b"c").expect("put");
        }
        let mut pruner = Pruner::new(directory.clone());
        let pruned = pruner.run(DAY, NOW - YEAR, i64::MIN).expect("a run");
        assert_eq!(pruned, Pruned::default(), "clock behind");
        let pruned = pruner.run(DAY, NOW + YEAR, i64::MIN).expect("a run");
        assert_eq!(pruned, Pruned { expired: vec![old], abandoned: vec![abandoned] });
        assert_eq!(directory.blocks().expect("blocks"), BTreeSet::from([under_way, young]));
        assert_eq!(pruner.run(DAY, NOW, NOW).expect("a run"), Pruned::default());
        // All newer data goes to another bucket.
        let later = NOW + 24 * HOUR;
        let pruned = pruner.run(DAY, NOW, later).expect("a run");
        assert_eq!(pruned, Pruned::default(), "clock behind");
        let pruned = pruner.run(DAY, later, later).expect("a run");
        assert_eq!(pruned.expired, [young]);
    }
}
