//! Label names and values: the union of what the heads and finished blocks have. It is made on the
//! control pool, in steps that make room for others as those of a select do, and ends when it is
//! noticed that nobody waits any more: at each step and every [`LOOK_UP`] values.
//!
//! ## Limits
//! What is held counts against the budget of a select, and with a limit of `n` no more than the
//! first `n` texts are held.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::vec;

use crate::block::{self, LOOK_UP};
use crate::index::{Series, SeriesRef};
use crate::model::{External, Matcher};
use crate::query::Error;
use crate::query::blocks::LocalBlock;
use crate::query::gate::Slice;
use crate::query::readers::Readers;
use crate::rt::channel::oneshot;

/// What is asked, and how far the answer is.
pub(super) struct Question {
    /// What heads said that is not added yet.
    pub(super) heads: Vec<BTreeSet<String>>,
    /// The blocks that are not looked at yet.
    pub(super) blocks: vec::IntoIter<Arc<LocalBlock>>,
    /// The block that is being read, and its series that are left.
    pub(super) walk: Option<(Arc<LocalBlock>, vec::IntoIter<SeriesRef>)>,
    pub(super) readers: Arc<Readers>,
    pub(super) external: Arc<External>,
    pub(super) on_external: Vec<Matcher>,
    pub(super) on_series: Vec<Matcher>,
    pub(super) without: Arc<[String]>,
    /// `None`: the names. `Some(label)`: the values of this label.
    pub(super) of: Option<String>,
    /// Closed when nobody waits for the answer any more.
    pub(super) asked: oneshot::Sender<()>,
    /// The first that could not be read, in words.
    pub(super) damage: Option<String>,
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
    /// Adds names or values to `found` until the time is over. True at the end.
    pub(super) fn step(&mut self, found: &mut Union, slice: Slice) -> Result<bool, Error> {
        while !self.asked.is_closed() {
            if let Some(texts) = self.heads.pop() {
                texts.into_iter().try_for_each(|text| found.add(text))?;
            } else if let Some((block, mut series)) = self.walk.take() {
                let walked = self.walk(&block, &mut series, found, slice);
                let sound = self.note(&block, walked)?.is_some();
                self.walk = (sound && series.len() > 0).then_some((block, series));
            } else if let Some(block) = self.blocks.next() {
                let added = self.add(&block, found);
                self.walk = self.note(&block, added)?.map(|series| (block, series.into_iter()));
            } else {
                return Ok(true);
            }
            if slice.is_over() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// What was read of a block, or nothing if it is damaged.
    fn note<T>(&mut self, block: &LocalBlock, read: Result<T, Stop>) -> Result<Option<T>, Error> {
        match read {
            Ok(read) => Ok(Some(read)),
            Err(Stop::Damaged(error)) => {
                self.damage.get_or_insert_with(|| format!("block {}: {error}", block.ulid));
                Ok(None)
            }
            Err(Stop::Over(error)) => Err(error),
        }
    }

    /// Adds what one block has, but for what only the series tell that it returns. External labels
    /// count only if a series matches, and hide stored ones of their name.
    fn add(&self, block: &LocalBlock, found: &mut Union) -> Result<Vec<SeriesRef>, Stop> {
        let external = self.external.of(&block.tenant, block.shard);
        let value = |name: &str| external.get(name).unwrap_or_default();
        if !self.on_external.iter().all(|m| m.matches(value(m.name()))) {
            return Ok(Vec::new());
        }
        let reader = self.readers.read(block)?;
        let unwanted = || self.asked.is_closed();
        let all_match = self.on_series.is_empty();
        let series =
            if all_match { Vec::new() } else { reader.select(&self.on_series, &unwanted)? };
        if !all_match && series.is_empty() {
            return Ok(series);
        }
        match &self.of {
            None => external.iter().try_for_each(|(name, _)| self.keep(name, found))?,
            Some(label) => {
                if let Some(value) = external.get(label) {
                    self.keep(value, found)?;
                    return Ok(Vec::new());
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
        }
        Ok(series)
    }

    /// Adds what the next series of a block have.
    fn walk(
        &self,
        block: &LocalBlock,
        left: &mut vec::IntoIter<SeriesRef>,
        found: &mut Union,
        slice: Slice,
    ) -> Result<(), Stop> {
        let reader = self.readers.read(block)?;
        let mut one = Series::default();
        for at in left {
            reader.series_into(at, &mut one)?;
            for (name, value) in &one.labels {
                match &self.of {
                    None => self.keep(name, found)?,
                    Some(label) if label == name => self.keep(value, found)?,
                    Some(_) => {}
                }
            }
            if slice.is_over() {
                break;
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
    use std::time::Duration;

    use super::*;
    use crate::block::Ulid;
    use crate::model::{Labels, TenantId, TimeRange};

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
            let mut question = Question {
                heads: Vec::new(),
                blocks: vec![Arc::clone(&block)].into_iter(),
                walk: None,
                readers: Arc::new(Readers::new(2)),
                external: Arc::clone(&external),
                on_external: Vec::new(),
                on_series: Vec::new(),
                without: Arc::new([]),
                of: None,
                asked,
                damage: None,
            };
            let mut found = Union::new(0, 100);
            let slice = Slice::begin(Duration::from_secs(20));
            assert_eq!(question.step(&mut found, slice), Ok(true));
            let damage = question.damage;
            assert_eq!((found.end(), damage.is_some()), ((vec![], false), damaged), "{damage:?}");
            drop(asking);
        }
    }
}
