//! Logs of earlier generations: when they may go.
//!
//! A log that was written under another number of shards is read by all and recycled by none. Its
//! segments go when every slot's samples in them are in blocks, whoever owns the slot now.
//!
//! ## Order
//! 1. Every shard has settled its log ([`settle_log`](crate::shard::Shard::settle_log)) after the
//!    start: the cuts and the labels that only old segments told are then told again.
//! 2. [`removable`] decides from the cuts of all shards.
//! 3. [`remove`] deletes.
//! 4. A shard whose directory has none left is told so: until then its own segments, which lie
//!    behind them, do not go either.
//!
//! 5. Where nobody lives any more, spares and series file follow ([`remove_deserted`]).
//!
//! Where a shard still lives in the directory, its series file has the labels behind the numbers,
//! so segments may go one by one, oldest first. Where none does, a later segment may need the
//! labels that an earlier one told: they go together, newest first.
//!
//! ## Crash
//! What is left is read again and found covered again. What could not be read whole is kept under
//! another name, for somebody to look at.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use crate::model::TenantId;
use crate::rt::step::{self, Step};
use crate::rt::storage::Storage;
use crate::shard::recover::{OldSegment, shard_dir, shard_number};

/// Tenants looked up in one slice.
const SLICE_TENANTS: usize = 128;

/// The segments of `old` that may go, in the order in which they may. `shards` live now;
/// `covered_below` tells up to when all slots of a tenant are in blocks: the least of what
/// [`Cuts::covered_below`](crate::shard::cuts::Cuts::covered_below) is on any shard.
pub(crate) async fn removable<'o, S: Storage>(
    storage: &S,
    old: &'o [OldSegment],
    shards: u16,
    covered_below: impl Fn(&TenantId) -> i64,
) -> Vec<&'o OldSegment> {
    let mut by_shard: BTreeMap<u16, Vec<&OldSegment>> = BTreeMap::new();
    for segment in old {
        by_shard.entry(segment.shard).or_default().push(segment);
    }
    let mut gone = Vec::new();
    for (shard, mut segments) in by_shard {
        // Names are numbers of one length.
        segments.sort_by(|a, b| a.path.cmp(&b.path));
        let mut covered = 0;
        while let Some(segment) = segments.get(covered)
            && is_covered(storage, segment, &covered_below).await
        {
            covered += 1;
        }
        if shard < shards {
            gone.extend(&segments[..covered]);
        } else if covered == segments.len() {
            // What is left after a crash finds the labels it needs in what is older.
            gone.extend(segments.into_iter().rev());
        }
    }
    gone
}

/// Whether all samples of a segment are in blocks. Looked up in slices.
async fn is_covered<S: Storage>(
    storage: &S,
    segment: &OldSegment,
    covered_below: impl Fn(&TenantId) -> i64,
) -> bool {
    for (at, (tenant, &t)) in segment.newest.iter().enumerate() {
        if t >= covered_below(tenant) {
            return false;
        }
        if at % SLICE_TENANTS == SLICE_TENANTS - 1 {
            storage.pause().await;
        }
    }
    true
}

/// Deletes segments, in the order of `removable`. Damaged ones are only renamed.
pub(crate) async fn remove<S: Storage>(storage: &S, gone: &[&OldSegment]) -> io::Result<()> {
    let mut dirs: BTreeSet<PathBuf> = BTreeSet::new();
    for segment in gone {
        if segment.damaged {
            match storage.rename(&segment.path, &segment.path.with_extension("damaged")).await {
                // Done in an earlier try, which then failed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        } else {
            storage.remove(&segment.path).await?;
        }
        step::done(Step::OldSegmentGone);
        dirs.extend(segment.path.parent().map(PathBuf::from));
    }
    for dir in dirs {
        storage.sync_dir(&dir).await?;
    }
    Ok(())
}

/// Removes what shards that are gone have left and no segment needs any more. `shards` live now;
/// `left` are the segments of earlier generations that are still there. What was kept for somebody
/// to look at keeps the labels behind its numbers.
pub(crate) async fn remove_deserted<S: Storage>(
    storage: &S,
    root: &Path,
    shards: u16,
    left: &[OldSegment],
) -> io::Result<()> {
    let names = storage.list(root).await?;
    for shard in names.iter().filter_map(|name| shard_number(name)).filter(|n| *n >= shards) {
        let log = shard_dir(root, shard).join("log");
        let (spares, kept): (Vec<_>, Vec<_>) =
            storage.list(&log).await?.into_iter().partition(|name| name.starts_with("spare-"));
        if left.iter().any(|segment| segment.shard == shard) || !kept.is_empty() {
            continue;
        }
        for spare in spares {
            storage.remove(&log.join(spare)).await?;
        }
        storage.remove_dir(&shard_dir(root, shard)).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rt::twin::Twin;

    fn tenant(name: &str) -> TenantId {
        TenantId::new(name).expect("a tenant")
    }

    fn segment(shard: u16, number: u64, newest: &[(&str, i64)]) -> OldSegment {
        OldSegment {
            shard,
            path: format!("/data/shard-{shard}/log/{number:016}.log").into(),
            newest: newest.iter().map(|&(name, t)| (tenant(name), t)).collect(),
            damaged: false,
        }
    }

    fn check(old: &[OldSegment], shards: u16, ends: &[(&str, i64)], expect: &[(u16, &str)]) {
        let end_of = |t: &TenantId| {
            ends.iter().find(|(name, _)| *name == t.as_str()).map_or(i64::MIN, |(_, end)| *end)
        };
        let twin = Twin::new(1);
        let gone = futures_lite::future::block_on(removable(&twin, old, shards, end_of));
        let names: Vec<(u16, String)> = gone
            .iter()
            .map(|s| (s.shard, s.path.file_stem().expect("a name").to_string_lossy()))
            .map(|(shard, name)| (shard, name.trim_start_matches('0').to_owned()))
            .collect();
        let names: Vec<(u16, &str)> = names.iter().map(|(s, n)| (*s, n.as_str())).collect();
        assert_eq!(names, expect);
    }

    #[test]
    fn segments_go_when_all_slots_of_all_tenants_are_cut() {
        let old = [
            segment(0, 2, &[("a", 150), ("b", 20)]),
            segment(0, 1, &[("a", 99)]),
            segment(1, 1, &[("a", 99)]),
            segment(1, 2, &[("a", 199)]),
        ];
        check(&old, 2, &[], &[]);
        check(&old, 2, &[("a", 99)], &[]);
        check(&old, 2, &[("a", 100)], &[(0, "1"), (1, "1")]);
        check(&old, 2, &[("a", 200)], &[(0, "1"), (1, "1"), (1, "2")]);
        check(&old, 2, &[("a", 200), ("b", 21)], &[(0, "1"), (0, "2"), (1, "1"), (1, "2")]);
        // Nobody lives in directory 1 any more: together or not at all, the newest first.
        check(&old, 1, &[("a", 100)], &[(0, "1")]);
        check(&old, 1, &[("a", 200)], &[(0, "1"), (1, "2"), (1, "1")]);
    }

    #[test]
    fn an_uncovered_segment_holds_up_those_behind_it() {
        let old = [segment(0, 1, &[("a", 500)]), segment(0, 2, &[("a", 1)]), segment(0, 3, &[])];
        check(&old, 1, &[("a", 100)], &[]);
        check(&old, 1, &[("a", 501)], &[(0, "1"), (0, "2"), (0, "3")]);
    }

    #[test]
    fn damage_is_kept_under_another_name() {
        futures_lite::future::block_on(async {
            let twin = Twin::new(1);
            let (mut damaged, whole) = (segment(0, 1, &[]), segment(0, 2, &[]));
            damaged.damaged = true;
            let dir = Path::new("/data/shard-0/log");
            twin.create_dir(dir).await.expect("a directory");
            for segment in [&damaged, &whole] {
                twin.create(&segment.path).await.expect("a file");
            }
            twin.run_out_of_fds(0, 1);
            remove(&twin, &[&damaged, &whole]).await.expect_err("no descriptor for the sync");
            remove(&twin, &[&damaged, &whole]).await.expect("a removal");
            let left = twin.after_cut().list(dir).await.expect("a list");
            assert_eq!(left, ["0000000000000001.damaged"]);
        });
    }

    #[test]
    fn what_nobody_needs_goes_where_nobody_lives() {
        futures_lite::future::block_on(async {
            let (twin, root) = (Twin::new(1), Path::new("/data"));
            for (shard, name) in [(0, "spare-1"), (1, "spare-1"), (2, "a.damaged"), (3, "a.log")] {
                for name in [format!("log/{name}"), "series/b.log".to_owned()] {
                    let path = shard_dir(root, shard).join(name);
                    twin.create_dir(path.parent().expect("a directory")).await.expect("made");
                    twin.create(&path).await.expect("a file");
                }
            }
            remove_deserted(&twin, root, 1, &[segment(1, 1, &[])]).await.expect("a removal");
            assert_eq!(twin.files_below(root).len(), 8, "an old segment is left");
            remove_deserted(&twin, root, 1, &[]).await.expect("a removal");
            let left = twin.list(root).await.expect("a list");
            assert_eq!(left, ["shard-0", "shard-2", "shard-3"]);
            assert_eq!(twin.files_below(root).len(), 6);
        });
    }
}
