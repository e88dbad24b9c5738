//! What becomes of the data in time: cut, flush, list, truncate, ship, retain.
//!
//! One task of the control thread. It looks about once a second what is due; a tenant's data is
//! cut on all shards first, then the shards write a block each, one after the other, because they
//! share one device. Then it is the next tenant's turn: nobody waits for more than one range of
//! each other. Nothing here is waited for by intake.
//!
//! ## Order
//! What is there at the start is in the list of the view before the process is ready, by what each
//! `meta.json` says; no block is opened for it. A new one is in the list before its shard lets the
//! head go. After that it is offered to the shipper. It is deleted locally only when it is verified
//! in the bucket and past retention: first from the list, then, when nobody reads it any more, from
//! the disk.
//!
//! ## Crash
//! Every step is found again at the next start: finished blocks are listed and offered once more.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use ulid::Ulid;

use crate::block::{self, Meta, Reader};
use crate::model::{External, TenantId};
use crate::query::{Blocks, LocalBlock};
use crate::rt::channel::{mpsc, oneshot};
use crate::rt::clock::{Clock, Moment};
use crate::rt::step::{self, Step};
use crate::rt::{beside, control, files};
use crate::shard::blocks::Origin;
use crate::shard::cut_plan::{self, CutPlan, Due};
use crate::shard::message::{Ask, FlushAsk};
use crate::ship::{self, Kept, Pruner, Retention, Shipped};
use crate::telemetry::{Counters, Metric};

/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two runs of retention.
const RETAIN_EVERY: Duration = Duration::from_mins(1);
/// Longest time that a block past retention stays on the disk for those who still read it: far
/// more than a query takes, and little of a retention.
const READ_ON_MAX: Duration = Duration::from_mins(10);
/// Most blocks deleted in one run.
const RETAIN_AT_MOST: usize = 64;

/// What the keeper works with.
pub(super) struct Parts {
    pub(super) root: PathBuf,
    pub(super) shards: Vec<mpsc::Sender<Ask>>,
    pub(super) external: Arc<External>,
    pub(super) blocks: Blocks,
    pub(super) to_ship: mpsc::Sender<ship::Ask>,
    pub(super) shipped: mpsc::UnboundedReceiver<Shipped>,
    /// How long a range stays open behind its end.
    pub(super) grace: Duration,
    /// How long blocks are kept; none for ever.
    pub(super) retention: Option<Duration>,
    /// The default bucket, which nobody else prunes.
    pub(super) pruner: Option<Pruner>,
    pub(super) clock: Clock,
    pub(super) counters: Counters,
}

/// Asks a shard; `None` when it is gone.
async fn ask<T>(
    shard: &mpsc::Sender<Ask>,
    question: impl FnOnce(oneshot::Sender<T>) -> Ask,
) -> Option<T> {
    let (reply, answer) = oneshot::channel();
    shard.send(question(reply)).await.ok()?;
    answer.await.ok()
}

/// The names in a directory of blocks.
fn names_in(dir: &Path) -> Vec<String> {
    files::list(dir).unwrap_or_else(|error| {
        tracing::error!(dir = %dir.display(), %error, "blocks cannot be listed; they are left");
        Vec::new()
    })
}

/// The blocks in a tenant's directory and what they are. One that does not say it is told of and
/// left.
fn blocks_in(dir: &Path) -> Vec<(PathBuf, Meta)> {
    let mut found = Vec::new();
    for name in names_in(dir) {
        let block = dir.join(&name);
        if name.ends_with(files::DOOMED_SUFFIX) {
            // What a crash left of a deletion.
            drop(files::remove_dir(&block));
        } else if name.parse::<Ulid>().is_ok() {
            match block::read_meta(&block) {
                Ok(meta) => found.push((block, meta)),
                Err(error) => {
                    let what = "a block cannot be read; it is left";
                    tracing::error!(dir = %block.display(), %error, "{what}");
                }
            }
        }
    }
    found
}

/// Whose labels a block is served with: those in its `meta.json`, as in the bucket. If they name no
/// shard, those of the shard that wrote it.
fn shard_of(meta: &Meta, external: &External) -> u16 {
    let labels = meta.external_labels().ok();
    let named = labels.and_then(|labels| external.shard_in(&labels));
    named.or_else(|| Origin::of(meta).map(|origin| origin.shard)).unwrap_or(0)
}

/// A block in the words of the list: whose shard's it is, and whether that has just written it.
fn local_block(
    tenant: &TenantId,
    dir: &Path,
    meta: &Meta,
    (shard, born_in_this_process): (u16, bool),
) -> LocalBlock {
    let (tenant, range, ulid, dir) = (tenant.clone(), meta.range(), meta.ulid, dir.to_owned());
    LocalBlock { tenant, range, shard, born_in_this_process, ulid, dir }
}

/// The keeper of the finished blocks.
pub(super) struct Keeper {
    parts: Parts,
    kept: BTreeMap<PathBuf, Kept>,
    plan: CutPlan,
    /// Blocks that a shard has written and nobody can read yet.
    unlisted: Vec<(TenantId, u16, PathBuf)>,
    /// Blocks past retention, not listed any more, and since when.
    retired: Vec<(Arc<LocalBlock>, Moment)>,
}

impl Keeper {
    /// Takes over the blocks that are there: lists them for readers and offers them to the
    /// shipper. To be called before the process is ready.
    pub(super) async fn take_over(parts: Parts) -> Self {
        let (kept, plan, unlisted, retired) = Default::default();
        let mut keeper = Self { parts, kept, plan, unlisted, retired };
        let root = keeper.parts.root.join("blocks");
        for dir in names_in(&root) {
            let Some(tenant) = TenantId::of_dir(&dir) else { continue };
            let dir = root.join(dir);
            let of = dir.clone();
            match beside::blocking(move || blocks_in(&of)).await {
                Ok(found) => keeper.add_found(&tenant, found).await,
                Err(error) => {
                    let what = "the blocks of a tenant cannot be read; they are left";
                    tracing::error!(%tenant, dir = %dir.display(), %error, "{what}");
                }
            }
        }
        keeper
    }

    /// Keeps until the process stops.
    pub(super) async fn run(mut self) {
        let begun = Moment::now();
        let mut retained = Moment::now();
        let (mut settled, mut old_logs) = (false, true);
        loop {
            self.note_shipped();
            let cut = self.cut_round(begun.elapsed()).await;
            if old_logs
                && (cut || !settled)
                && let Some(left) = self.drop_old_logs(settled).await
            {
                (settled, old_logs) = (true, left > 0);
            }
            if retained.elapsed() >= RETAIN_EVERY {
                retained = Moment::now();
                self.retain(self.parts.clock.wall_ms()).await;
            }
            if !cut {
                beside::sleep(LOOK_EVERY).await;
            }
        }
    }

    fn note_shipped(&mut self) {
        while let Ok(shipped) = self.parts.shipped.try_recv() {
            if let Some(kept) = self.kept.get_mut(&shipped.dir) {
                kept.shipped = true;
            }
        }
    }

    /// Writes one range of each tenant that is due. Whether there was one that could be written.
    async fn cut_round(&mut self, uptime: Duration) -> bool {
        let Some(held) = self.ask_all(Ask::Held).await else { return false };
        let (mut plan, wall_ms) = (std::mem::take(&mut self.plan), self.parts.clock.wall_ms());
        let grace = self.parts.grace;
        // There may be many tenants, and who answers readers must not wait for them.
        let planned = beside::blocking(move || {
            let round = plan.round(&cut_plan::merged(held), grace, uptime, wall_ms);
            (plan, round)
        });
        let Ok((plan, round)) = planned.await else { return false };
        self.plan = plan;
        let mut any = false;
        for due in round {
            let well = self.cut(&due).await;
            self.plan.ended(&due.tenant, well, uptime);
            any |= well;
        }
        any
    }

    /// What all shards say. `None` when one does not answer: the process is stopping.
    async fn ask_all<T>(
        &self,
        question: fn(oneshot::Sender<Vec<T>>) -> Ask,
    ) -> Option<impl Iterator<Item = T> + use<T>> {
        let mut all = Vec::new();
        for shard in &self.parts.shards {
            all.push(ask(shard, question).await?);
        }
        Some(all.into_iter().flatten())
    }

    /// Lets logs of earlier generations go. First every shard writes down again what only they
    /// told. How many segments of them are left; `None` when it is to be tried again.
    async fn drop_old_logs(&self, settled: bool) -> Option<usize> {
        if !settled {
            for shard in &self.parts.shards {
                ask(shard, Ask::Settle).await?.ok()?;
            }
        }
        let covered = self.ask_all(Ask::Covered).await?;
        let below = beside::blocking(move || {
            let mut below: BTreeMap<TenantId, i64> = BTreeMap::new();
            for (tenant, t) in covered {
                below.entry(tenant).and_modify(|known| *known = t.min(*known)).or_insert(t);
            }
            Arc::new(below)
        });
        let below = below.await.ok()?;
        let mut left = 0;
        // Shard 0 comes first and deletes; the others then know that they are gone.
        for shard in &self.parts.shards {
            let covered_below = Arc::clone(&below);
            match ask(shard, |reply| Ask::DropOld { covered_below, reply }).await? {
                Ok(segments) => left = segments.max(left),
                Err(error) => {
                    tracing::error!(%error, "cannot delete logs of earlier generations");
                    return None;
                }
            }
        }
        Some(left)
    }

    /// Cuts a tenant's data on all shards, then has each write its oldest range. Whether all of it
    /// was done; more ranges may be left.
    async fn cut(&mut self, due: &Due) -> bool {
        for shard in &self.parts.shards {
            let (tenant, end_ms) = (due.tenant.clone(), due.end_ms);
            if ask(shard, |reply| Ask::Cut { tenant, end_ms, reply }).await.is_none() {
                return false;
            }
        }
        self.count(Metric::CompactionsFailed, due, 0);
        let mut done = true;
        for (number, shard) in (0_u16..).zip(self.parts.shards.clone()) {
            if let Err(error) = self.flush(number, &shard, due).await {
                done = false;
                self.count(Metric::CompactionsFailed, due, 1);
                tracing::error!(
                    shard = number, tenant = %due.tenant, end_ms = due.end_ms, %error,
                    "a flush failed; it is tried again"
                );
            }
        }
        done
    }

    /// Has a shard write the oldest range before the cut, and then let go of what is in blocks.
    async fn flush(
        &mut self,
        number: u16,
        shard: &mpsc::Sender<Ask>,
        due: &Due,
    ) -> Result<(), String> {
        let gone = || "the shard is gone".to_owned();
        let (tenant, end_ms) = (due.tenant.clone(), due.end_ms);
        let (external, ulid) = (Arc::clone(&self.parts.external), self.fresh_ulid());
        let order = |reply| Ask::Flush(FlushAsk { tenant, end_ms, external, ulid, reply });
        if let Some(block) = ask(shard, order).await.ok_or_else(gone)?? {
            tracing::info!(
                shard = number, tenant = %due.tenant, block = %block.ulid, range = %block.range,
                series = block.series, samples = block.samples, "a block is written"
            );
            self.count(Metric::Compactions, due, 1);
            self.unlisted.push((due.tenant.clone(), number, block.dir));
        }
        self.list_new(&due.tenant, number).await?;
        let (tenant, end_ms) = (due.tenant.clone(), due.end_ms);
        ask(shard, |reply| Ask::Truncate { tenant, end_ms, reply }).await.ok_or_else(gone)
    }

    fn count(&self, metric: Metric, due: &Due, count: u64) {
        self.parts.counters.count(metric, vec![("tenant", due.tenant.to_string())], count);
    }

    fn fresh_ulid(&self) -> Ulid {
        let random = u128::from(control::random_u64()) << 64 | u128::from(control::random_u64());
        Ulid::from_parts(self.parts.clock.wall_ms().max(0) as u64, random)
    }

    /// Lists what a shard has written of a tenant. Before that nothing of it is let go: an unlisted
    /// block has no readers, so the head keeps what is in it.
    async fn list_new(&mut self, tenant: &TenantId, shard: u16) -> Result<(), String> {
        let is_ours = |(of, by, _): &(TenantId, u16, PathBuf)| of == tenant && *by == shard;
        while let Some(at) = self.unlisted.iter().position(is_ours) {
            let dir = self.unlisted[at].2.clone();
            self.add_new(tenant, &dir, shard).await?;
            self.unlisted.remove(at);
            step::done(Step::BlockListed);
        }
        Ok(())
    }

    /// Lists what was found of a tenant at the start, and offers it.
    async fn add_found(&mut self, tenant: &TenantId, found: Vec<(PathBuf, Meta)>) {
        let external = &self.parts.external;
        let listed = found
            .iter()
            .map(|(dir, meta)| local_block(tenant, dir, meta, (shard_of(meta, external), false)));
        self.parts.blocks.list(listed);
        for (dir, meta) in found {
            self.keep(dir, &meta).await;
        }
    }

    /// Lists a block that `shard` has just written, and offers it.
    async fn add_new(&mut self, tenant: &TenantId, dir: &Path, shard: u16) -> Result<(), String> {
        let owned = dir.to_owned();
        let opened = beside::blocking(move || Reader::open(&owned)).await;
        let reader = opened.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
        let meta = reader.meta().clone();
        let block = local_block(tenant, dir, &meta, (shard, true));
        self.parts.blocks.add(block, reader);
        self.keep(dir.to_owned(), &meta).await;
        Ok(())
    }

    /// Keeps a block that is listed from now on, and offers it.
    async fn keep(&mut self, dir: PathBuf, meta: &Meta) {
        let kept = Kept { ulid: meta.ulid, max_time_ms: meta.max_time, shipped: false };
        self.kept.insert(dir.clone(), kept);
        // Without a shipper there is nobody to offer to: the process is stopping.
        let min_time_ms = meta.min_time;
        drop(self.parts.to_ship.send(ship::Ask::Offer { dir, min_time_ms }).await);
    }

    /// Deletes the retired blocks that nobody reads any more. What stays is tried again in the next
    /// run.
    async fn delete_retired(&mut self) {
        let is_read = |(block, since): &mut (Arc<LocalBlock>, Moment)| {
            Arc::strong_count(block) > 1 && since.elapsed() < READ_ON_MAX
        };
        let unread: Vec<_> = self.retired.extract_if(.., |retired| !is_read(retired)).collect();
        for (block, since) in unread {
            let (blocks, of) = (self.parts.blocks.clone(), Arc::clone(&block));
            let remove = move || {
                let removed = files::remove_dir(&of.dir);
                blocks.close(of.ulid);
                removed
            };
            let removed = beside::blocking(remove).await;
            let (tenant, ulid, range) = (&block.tenant, block.ulid, block.range);
            match removed.map_err(|e| e.to_string()).and_then(|r| r.map_err(|e| e.to_string())) {
                Ok(()) => {
                    let what = "a block is past retention and deleted from the local disk";
                    tracing::info!(%tenant, block = %ulid, %range, "{what}");
                }
                Err(error) => {
                    let what = "cannot delete a block that is past retention; it is tried again";
                    tracing::error!(dir = %block.dir.display(), %error, "{what}");
                    self.retired.push((block, since));
                }
            }
        }
    }

    /// Deletes what is shipped and past retention, here and in the default bucket.
    async fn retain(&mut self, wall_ms: i64) {
        let Some(keep) = self.parts.retention else { return };
        let retention = Retention { keep_ms: keep.as_millis() as i64, at_most: RETAIN_AT_MOST };
        let all: Vec<Kept> = self.kept.values().copied().collect();
        for ulid in ship::deletable(&all, retention, wall_ms) {
            let Some(dir) = self.kept.iter().find(|(_, k)| k.ulid == ulid).map(|(d, _)| d.clone())
            else {
                continue;
            };
            let removed = self.parts.blocks.remove(ulid);
            self.retired.extend(removed.map(|block| (block, Moment::now())));
            self.kept.remove(&dir);
            drop(self.parts.to_ship.send(ship::Ask::Forget(dir)).await);
        }
        self.delete_retired().await;
        let newest_ms = all.iter().map(|kept| kept.max_time_ms).max().unwrap_or(i64::MIN);
        let Some(mut pruner) = self.parts.pruner.take() else { return };
        let pruned = beside::blocking(move || {
            let pruned = pruner.run(retention, wall_ms, newest_ms);
            (pruner, pruned)
        });
        if let Ok((pruner, pruned)) = pruned.await {
            self.parts.pruner = Some(pruner);
            if let Err(error) = pruned {
                tracing::error!(%error, "cannot prune the default bucket");
            }
        }
    }
}
