//! Which series of a block match.
//!
//! A label that a series lacks has the empty value. So a matcher that takes the empty value keeps
//! all series but those with a value it refuses, and any other keeps those with a value it takes.
//! Lists of the second kind are intersected first, then those of the first kind are taken away.
//!
//! A pattern runs once per distinct value of its label, not per series. That may be a million, so
//! it is asked again and again whether anybody still waits.

use roaring::RoaringBitmap;

use crate::index::{self, Postings, SeriesRef};
use crate::model::{MatchOp, Matcher};
use crate::rt::Map;

use super::{Error, Reader};

/// Values or series between two looks at whether anybody still waits.
pub const LOOK_UP: usize = 1024;

impl Reader {
    /// The series that all matchers take, in stored order. All series when there is no matcher.
    /// Ends with [`Error::Unwanted`] soon after `unwanted` says so.
    pub fn select(
        &self,
        matchers: &[Matcher],
        unwanted: &dyn Fn() -> bool,
    ) -> Result<Vec<SeriesRef>, Error> {
        let (refusing, taking): (Vec<&Matcher>, Vec<&Matcher>) =
            matchers.iter().partition(|m| m.matches_empty());
        let mut found: Option<RoaringBitmap> = None;
        for matcher in taking {
            let set = with_value(&self.index, matcher, true, unwanted)?;
            found = Some(match found {
                Some(found) => found & set,
                None => set,
            });
            if found.as_ref().is_some_and(RoaringBitmap::is_empty) {
                return Ok(Vec::new());
            }
        }
        let mut found = match found {
            Some(found) => found,
            None => collect(self.index.all()?)?,
        };
        for matcher in refusing {
            found -= with_value(&self.index, matcher, false, unwanted)?;
        }
        Ok(found.into_iter().map(SeriesRef).collect())
    }
}

/// The series that have the matcher's label with a value for which it says `wanted`.
fn with_value(
    index: &index::Reader<Map>,
    matcher: &Matcher,
    wanted: bool,
    unwanted: &dyn Fn() -> bool,
) -> Result<RoaringBitmap, Error> {
    let name = matcher.name();
    // A few texts are looked up; anything else is asked for each value of the label.
    let texts = match (matcher.op(), wanted) {
        (MatchOp::Equal, true) | (MatchOp::NotEqual, false) => {
            return collect(index.postings(name, matcher.value())?);
        }
        (MatchOp::Regex, true) | (MatchOp::NotRegex, false) => matcher.set_matches(),
        _ => None,
    };
    let mut found = RoaringBitmap::new();
    if let Some(texts) = texts {
        for (i, text) in texts.iter().enumerate() {
            look_up(i, unwanted)?;
            found |= collect(index.postings(name, text)?)?;
        }
        return Ok(found);
    }
    for (i, value) in index.label_values(name).enumerate() {
        look_up(i, unwanted)?;
        if matcher.matches(value) == wanted {
            found |= collect(index.postings(name, value)?)?;
        }
    }
    Ok(found)
}

/// Looks at every [`LOOK_UP`]th step whether anybody still waits.
fn look_up(step: usize, unwanted: &dyn Fn() -> bool) -> Result<(), Error> {
    if step.is_multiple_of(LOOK_UP) && unwanted() { Err(Error::Unwanted) } else { Ok(()) }
}

fn collect(list: Postings<'_>) -> Result<RoaringBitmap, Error> {
    let unsorted = |_| {
        let (what, fact) = ("postings list", "is not in order");
        Error::Index(index::Error::Damaged { what, at: 0, fact })
    };
    RoaringBitmap::from_sorted_iter(list.map(|series| series.0)).map_err(unsorted)
}
