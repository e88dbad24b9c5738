//! Where the blocks of the shards lie, and what a block says of the cut that made it.
//!
//! ```text
//! <root>/blocks/<tenant>/<ulid>/                      a finished block
//! <root>/blocks/<tenant>/<ulid>.tmp-for-creation/     one that was never finished
//! ```
//!
//! ## Format
//! Under `thanos.extensions` in `meta.json`, with slots as in [`SlotSet::to_bytes`], in
//! hexadecimal:
//!
//! ```text
//! { "tidegate": { "node": "<32 digits>", "shard": 1, "generation": 3, "slots": "<64 digits>" } }
//! ```
//!
//! ## Crash
//! A block is published, then its cut is logged. If the power goes between the two, the block is
//! there and the log does not know. The block itself is then taken for the record: it names its
//! slots, ranges are flushed oldest first, and since the cut nothing below its end was accepted.
//! So a published block of ours *is* a cut, and its samples are skipped by the replay. Nothing has
//! to be deleted, and a cut record that rots in the log costs nothing.
//!
//! The node tells our blocks from those somebody has copied here: these speak of another log.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::block::{Compaction, Meta, filenames};
use crate::model::TenantId;
use crate::rt::sink::UNFINISHED_SUFFIX;
use crate::rt::storage::{Storage, read_file};
use crate::shard::slots::SlotSet;
use crate::shard::wal::record::CutRecord;
use crate::stdx::hex;

/// Most bytes of a `meta.json`: far above what is ever written.
const META_BYTES_MAX: u64 = 64 * 1024 * 1024;

/// Which shard made a block, and for which slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Origin {
    /// The data directory.
    pub(crate) node: [u8; 16],
    /// The shard's number.
    pub(crate) shard: u16,
    /// Generation of the slot table.
    pub(crate) generation: u64,
    /// The slots it owned.
    pub(crate) slots: SlotSet,
}

#[derive(Serialize, Deserialize)]
struct Extensions {
    tidegate: Text,
}

/// An origin as it is written.
#[derive(Serialize, Deserialize)]
struct Text {
    node: String,
    shard: u16,
    generation: u64,
    slots: String,
}

impl Origin {
    /// As extensions of a block.
    pub(crate) fn to_extensions(self) -> Option<serde_json::Value> {
        let (node, slots) = (hex::encode(&self.node), hex::encode(&self.slots.to_bytes()));
        let text = Text { node, shard: self.shard, generation: self.generation, slots };
        serde_json::to_value(Extensions { tidegate: text }).ok()
    }

    /// From the extensions of a block; `None` when none of ours made it.
    pub(crate) fn of(meta: &Meta) -> Option<Self> {
        let extensions = meta.thanos.extensions.clone()?;
        let text = serde_json::from_value::<Extensions>(extensions).ok()?.tidegate;
        Some(Self {
            node: hex::decode(&text.node)?,
            shard: text.shard,
            generation: text.generation,
            slots: SlotSet::from_bytes(hex::decode(&text.slots)?),
        })
    }
}

/// The cut a block stands for, if it is one that a shard of `node` has flushed. A compacted block
/// is not: it may lack what its parents' slots had.
pub(crate) fn cut_of(tenant: &TenantId, meta: &Meta, node: [u8; 16]) -> Option<CutRecord> {
    let origin = Origin::of(meta).filter(|origin| origin.node == node)?;
    let Compaction { level, sources, .. } = &meta.compaction;
    (*level == 1 && sources == &[meta.ulid]).then(|| CutRecord {
        tenant: tenant.as_str().into(),
        end_ms: meta.max_time,
        block: meta.ulid,
        slots: origin.slots.to_bytes(),
    })
}

/// Directory of all blocks.
fn blocks_dir(root: &Path) -> PathBuf {
    root.join("blocks")
}

/// Directory of a tenant's blocks.
pub(crate) fn tenant_dir(root: &Path, tenant: &TenantId) -> PathBuf {
    blocks_dir(root).join(tenant.dir())
}

/// Directory of a block.
pub(crate) fn block_dir(root: &Path, tenant: &TenantId, ulid: Ulid) -> PathBuf {
    tenant_dir(root, tenant).join(ulid.to_string())
}

/// The cuts that the blocks below `root` stand for. A block whose `meta.json` is missing or makes
/// no sense stands for none and is not served; who serves the blocks will tell of it. One that
/// cannot be read now may be served later: its samples would be there twice.
///
/// The names are made durable first: a replay that skips what a block has must find the block again
/// after the next crash.
pub(crate) async fn cuts_of_blocks<S: Storage>(
    storage: &S,
    root: &Path,
    node: [u8; 16],
) -> io::Result<Vec<CutRecord>> {
    let mut cuts = Vec::new();
    for name in storage.list(&blocks_dir(root)).await? {
        let Some(tenant) = TenantId::of_dir(&name) else { continue };
        let dir = tenant_dir(root, &tenant);
        let names = storage.list(&dir).await?;
        if !names.is_empty() {
            storage.sync_dir(&dir).await?;
        }
        for ulid in names.iter().filter_map(|name| filenames::block(name)) {
            let path = block_dir(root, &tenant, ulid).join(filenames::META);
            let bytes = match read_file(storage, &path, META_BYTES_MAX).await {
                Ok(bytes) => bytes,
                Err(error) if is_of_content(&error) => continue,
                Err(error) => return Err(is_unreadable(&path, &error)),
            };
            cuts.extend(Meta::decode(&bytes).ok().and_then(|m| cut_of(&tenant, &m, node)));
            storage.pause().await;
        }
    }
    Ok(cuts)
}

/// Whether reading again would end the same.
fn is_of_content(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidData, IsADirectory, NotADirectory, NotFound};
    matches!(error.kind(), InvalidData | IsADirectory | NotADirectory | NotFound)
}

fn is_unreadable(path: &Path, error: &io::Error) -> io::Error {
    let text = format!(
        "{} cannot be read, so it is not known which samples are in its block: {error}; start \
         again, or move the block out of the data directory",
        path.display(),
    );
    io::Error::new(error.kind(), text)
}

/// Removes what was never finished. For the start, before any shard flushes.
pub(crate) async fn remove_unfinished<S: Storage>(
    storage: &S,
    root: &Path,
) -> io::Result<Vec<PathBuf>> {
    let mut removed = Vec::new();
    for tenant in storage.list(&blocks_dir(root)).await? {
        let dir = blocks_dir(root).join(tenant);
        for name in storage.list(&dir).await? {
            if name.ends_with(UNFINISHED_SUFFIX) {
                let path = dir.join(name);
                storage.remove_dir(&path).await?;
                removed.push(path);
            }
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn meta(extensions: Option<&serde_json::Value>) -> Meta {
        let text = json!({
            "ulid": Ulid::from_parts(5, 6), "minTime": 0, "maxTime": 7_200_000, "version": 1,
            "compaction": { "level": 1, "sources": [Ulid::from_parts(5, 6)] },
            "thanos": { "version": 1, "labels": {}, "downsample": { "resolution": 0 },
                "source": "receive", "extensions": extensions },
        });
        Meta::decode(text.to_string().as_bytes()).expect("a meta.json")
    }

    #[test]
    fn a_block_of_ours_stands_for_its_cut() {
        let tenant = TenantId::new("t").expect("a tenant");
        let slots = SlotSet::of_shard(1, 3);
        let origin = Origin { node: [0xab; 16], shard: 1, generation: 7, slots };
        let ours = meta(origin.to_extensions().as_ref());
        assert_eq!(Origin::of(&ours), Some(origin));
        let cut = cut_of(&tenant, &ours, [0xab; 16]).expect("a cut");
        assert_eq!((cut.end_ms, cut.slots), (7_200_000, slots.to_bytes()));
        assert_eq!(cut_of(&tenant, &ours, [0; 16]), None, "of another node");
        let mut compacted = ours;
        compacted.compaction.level = 2;
        assert_eq!(cut_of(&tenant, &compacted, [0xab; 16]), None);
    }

    #[test]
    fn what_others_write_is_not_ours() {
        for extensions in [
            None,
            Some(json!({})),
            Some(json!({ "tidegate": {} })),
            Some(json!({ "tidegate": { "node": "+1", "shard": 1, "generation": 1, "slots": "" } })),
            Some(json!("text")),
        ] {
            assert_eq!(Origin::of(&meta(extensions.as_ref())), None);
        }
    }
}
