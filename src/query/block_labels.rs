//! Label names and values in finished blocks. Runs on the control pool, and ends when it is noticed
//! that nobody waits any more: before each block and every [`LOOK_UP`] series.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::block::Error;
use crate::index::Series;
use crate::model::{External, Labels, Matcher};
use crate::query::block_select::LOOK_UP;
use crate::query::blocks::LocalBlock;
use crate::query::readers::Readers;
use crate::rt::channel::oneshot;

/// What is asked of the blocks.
pub(super) struct Question {
    pub(super) blocks: Vec<Arc<LocalBlock>>,
    pub(super) readers: Arc<Readers>,
    pub(super) external: Arc<External>,
    pub(super) matchers: Arc<[Matcher]>,
    pub(super) without: Arc<[String]>,
    /// `None`: the names. `Some(label)`: the values of this label.
    pub(super) of: Option<String>,
    /// Closed when nobody waits for the answer any more.
    pub(super) asked: oneshot::Sender<()>,
}

impl Question {
    /// The names or values, and what is damaged.
    pub(super) fn answer(self) -> (BTreeSet<String>, Option<String>) {
        let (on_external, on_series) = self.external.split(&self.matchers);
        let (mut found, mut damage) = (BTreeSet::new(), None);
        for block in &self.blocks {
            if self.asked.is_closed() {
                break;
            }
            let external = self.external.of(&block.tenant, block.shard);
            let value = |name: &str| external.get(name).unwrap_or_default();
            if !on_external.iter().all(|m| m.matches(value(m.name()))) {
                continue;
            }
            if let Err(error) = self.add(block, &external, &on_series, &mut found) {
                damage.get_or_insert(format!("block {}: {error}", block.ulid));
            }
        }
        for name in self.without.iter().filter(|_| self.of.is_none()) {
            found.remove(name);
        }
        (found, damage)
    }

    /// Adds what one block has. External labels count only if a series matches, and hide stored
    /// ones of their name.
    fn add(
        &self,
        block: &LocalBlock,
        external: &Labels,
        matchers: &[Matcher],
        found: &mut BTreeSet<String>,
    ) -> Result<(), Error> {
        let reader = self.readers.read(block)?;
        let all_match = matchers.is_empty();
        let series = if all_match { Vec::new() } else { reader.select(matchers)? };
        if !all_match && series.is_empty() {
            return Ok(());
        }
        match &self.of {
            None => found.extend(external.iter().map(|(name, _)| name.to_string())),
            Some(label) => {
                if let Some(value) = external.get(label) {
                    found.insert(value.to_string());
                    return Ok(());
                }
            }
        }
        if all_match {
            match &self.of {
                None => found.extend(reader.label_names().map(str::to_string)),
                Some(label) => found.extend(reader.label_values(label).map(str::to_string)),
            }
            return Ok(());
        }
        let mut one = Series::default();
        for (i, at) in series.into_iter().enumerate() {
            if i % LOOK_UP == 0 && self.asked.is_closed() {
                break;
            }
            reader.series_into(at, &mut one)?;
            for (name, value) in &one.labels {
                let text = match &self.of {
                    None => name,
                    Some(label) if label == name => value,
                    Some(_) => continue,
                };
                if !found.contains(*text) {
                    found.insert((*text).to_string());
                }
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block::Ulid;
    use crate::model::{TenantId, TimeRange};

    #[test]
    fn no_block_is_opened_for_nobody() {
        let block = LocalBlock {
            tenant: TenantId::new("p").expect("a tenant"),
            range: TimeRange { start: 0, end: 1 },
            shard: 0,
            born_in_this_process: false,
            ulid: Ulid::from_parts(1, 1),
            dir: "/nowhere".into(),
        };
        let external = External::new(Labels::default(), "tenant_id", None).expect("labels");
        let (block, external) = (Arc::new(block), Arc::new(external));
        for (waits, damaged) in [(true, true), (false, false)] {
            let (asked, asking) = oneshot::channel();
            let asking = Some(asking).filter(|_| waits);
            let question = Question {
                blocks: vec![Arc::clone(&block)],
                readers: Arc::new(Readers::new(2)),
                external: Arc::clone(&external),
                matchers: Arc::new([]),
                without: Arc::new([]),
                of: None,
                asked,
            };
            let (found, damage) = question.answer();
            assert_eq!((found.len(), damage.is_some()), (0, damaged), "{damage:?}");
            drop(asking);
        }
    }
}
