//! Label names and values: the union of what the heads and finished blocks have. It is made on the
//! control pool, and ends when it is noticed that nobody waits any more: before each head and block
//! and every [`LOOK_UP`] values or series.
//!
//! ## Limits
//! What is held counts against the budget of a select, and with a limit of `n` no more than the
//! first `n` texts are held.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::block::{self, LOOK_UP};
use crate::index::Series;
use crate::model::{External, Labels, Matcher};
use crate::query::Error;
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

/// Texts of all sources: the first of them, each once.
#[derive(Debug)]
pub(super) struct Union {
    texts: BTreeSet<String>,
    limit: usize,
    bytes: usize,
    bytes_max: usize,
    truncated: bool,
}

impl Union {
    /// For the first `limit` texts (0: for all), in at most `bytes_max`.
    pub(super) fn new(limit: usize, bytes_max: usize) -> Self {
        let limit = if limit == 0 { usize::MAX } else { limit };
        Self { texts: BTreeSet::new(), limit, bytes: 0, bytes_max, truncated: false }
    }

    fn add<T: AsRef<str> + Into<String>>(&mut self, text: T) -> Result<(), Error> {
        if self.texts.contains(text.as_ref()) {
            return Ok(());
        }
        if self.texts.len() == self.limit {
            self.truncated = true;
            if self.texts.last().is_some_and(|last| last.as_str() < text.as_ref()) {
                return Ok(());
            }
            self.bytes -= self.texts.pop_last().map_or(0, |last| cost(&last));
        }
        self.bytes += cost(text.as_ref());
        if self.bytes > self.bytes_max {
            return Err(Error::OverBudget { limit_bytes: self.bytes_max });
        }
        self.texts.insert(text.into());
        Ok(())
    }

    /// The texts in order, and whether the limit left something out.
    pub(super) fn end(self) -> (Vec<String>, bool) {
        (self.texts.into_iter().collect(), self.truncated)
    }
}

/// What a text takes of the budget.
fn cost(text: &str) -> usize {
    text.len() + size_of::<String>()
}

/// Why a block does not say all.
enum Stop {
    Damaged(block::Error),
    /// All of the question ends.
    Over(Error),
}

impl From<block::Error> for Stop {
    fn from(error: block::Error) -> Self {
        Self::Damaged(error)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Over(error)
    }
}

impl Question {
    /// Adds the names or values of heads and blocks to `found`; what is damaged.
    pub(super) fn answer(
        self,
        heads: Vec<BTreeSet<String>>,
        found: &mut Union,
    ) -> Result<Option<String>, Error> {
        let (on_external, on_series) = self.external.split(&self.matchers);
        let mut damage = None;
        for texts in heads {
            if self.asked.is_closed() {
                break;
            }
            texts.into_iter().try_for_each(|text| found.add(text))?;
        }
        for block in &self.blocks {
            if self.asked.is_closed() {
                break;
            }
            let external = self.external.of(&block.tenant, block.shard);
            let value = |name: &str| external.get(name).unwrap_or_default();
            if !on_external.iter().all(|m| m.matches(value(m.name()))) {
                continue;
            }
            match self.add(block, &external, &on_series, found) {
                Ok(()) => {}
                Err(Stop::Damaged(error)) => {
                    damage.get_or_insert(format!("block {}: {error}", block.ulid));
                }
                Err(Stop::Over(error)) => return Err(error),
            }
        }
        Ok(damage)
    }

    /// Adds what one block has. External labels count only if a series matches, and hide stored
    /// ones of their name.
    fn add(
        &self,
        block: &LocalBlock,
        external: &Labels,
        matchers: &[Matcher],
        found: &mut Union,
    ) -> Result<(), Stop> {
        let reader = self.readers.read(block)?;
        let unwanted = || self.asked.is_closed();
        let all_match = matchers.is_empty();
        let series = if all_match { Vec::new() } else { reader.select(matchers, &unwanted)? };
        if !all_match && series.is_empty() {
            return Ok(());
        }
        match &self.of {
            None => external.iter().try_for_each(|(name, _)| self.keep(name, found))?,
            Some(label) => {
                if let Some(value) = external.get(label) {
                    return Ok(self.keep(value, found)?);
                }
            }
        }
        if all_match {
            let texts: &mut dyn Iterator<Item = &str> = match &self.of {
                None => &mut reader.label_names(),
                Some(label) => &mut reader.label_values(label),
            };
            for (i, text) in texts.enumerate() {
                if i % LOOK_UP == 0 && unwanted() {
                    break;
                }
                self.keep(text, found)?;
            }
            return Ok(());
        }
        let mut one = Series::default();
        for (i, at) in series.into_iter().enumerate() {
            if i % LOOK_UP == 0 && unwanted() {
                break;
            }
            reader.series_into(at, &mut one)?;
            for (name, value) in &one.labels {
                match &self.of {
                    None => self.keep(name, found)?,
                    Some(label) if label == name => self.keep(value, found)?,
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }

    /// Keeps a text, unless it is a name that shall not appear.
    fn keep(&self, text: &str, found: &mut Union) -> Result<(), Error> {
        let removed = self.of.is_none() && self.without.iter().any(|name| name == text);
        if removed { Ok(()) } else { found.add(text) }
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
            let mut found = Union::new(0, 100);
            let damage = question.answer(Vec::new(), &mut found).expect("within the budget");
            assert_eq!((found.end(), damage.is_some()), ((vec![], false), damaged), "{damage:?}");
            drop(asking);
        }
    }
}
