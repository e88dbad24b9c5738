//! The series of a tenant, in the order of their making.
//!
//! A list is only ever added to. A truncation puts a new one in its place, so a position in a list
//! means the same for as long as somebody walks it.

use std::cell::{Ref, RefCell};
use std::rc::Rc;

use crate::shard::head::series::SeriesIndex;

/// A list of series. Clones are the same list.
#[derive(Debug, Clone, Default)]
pub(crate) struct Members(Rc<RefCell<Vec<SeriesIndex>>>);

impl Members {
    /// A list of these.
    pub(crate) fn new(series: Vec<SeriesIndex>) -> Self {
        Self(Rc::new(series.into()))
    }

    /// Adds one at the end.
    pub(crate) fn push(&self, series: SeriesIndex) {
        self.0.borrow_mut().push(series);
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.0.borrow().len()
    }

    /// All from a position on. Let go of before one is added.
    pub(crate) fn from(&self, at: usize) -> Ref<'_, [SeriesIndex]> {
        Ref::map(self.0.borrow(), |series| series.get(at..).unwrap_or_default())
    }
}
