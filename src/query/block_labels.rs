//! Label names and values in finished blocks. Runs on the control pool.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::block::Error;
use crate::index::Series;
use crate::model::{External, Labels, Matcher};
use crate::query::blocks::LocalBlock;
use crate::query::readers::Readers;

/// What is asked of the blocks.
pub(super) struct Question {
    pub(super) blocks: Vec<Arc<LocalBlock>>,
    pub(super) readers: Arc<Readers>,
    pub(super) external: Arc<External>,
    pub(super) matchers: Arc<[Matcher]>,
    pub(super) without: Arc<[String]>,
    /// `None`: the names. `Some(label)`: the values of this label.
    pub(super) of: Option<String>,
}

impl Question {
    /// The names or values, and what is damaged.
    pub(super) fn answer(self) -> (BTreeSet<String>, Option<String>) {
        let (on_external, on_series) = self.external.split(&self.matchers);
        let (mut found, mut damage) = (BTreeSet::new(), None);
        for block in &self.blocks {
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
        for at in series {
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
