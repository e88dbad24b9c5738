//! The stream a caller reads, and the end of one that is not read.
//!
//! A reader that stops holds a turn, pinned heads and parts in hand, and it is not asked why: its
//! connection may be alive and answer pings. So beside each stream a timer runs, which ends the
//! select when no frame was taken for [`Limits::stalled_after`](crate::query::Limits) and none is
//! being waited for. Whoever reads on after that is told [`Error::Stalled`].

use std::sync::{Arc, PoisonError, Weak};
use std::time::Duration;

use crate::frame::Frame;
use crate::query::Error;
use crate::query::merge::Merge;
use crate::query::probe::Probe;
use crate::rt::beside;
use crate::rt::clock::Moment;

#[expect(clippy::disallowed_types, reason = "the stream and its timer share it")]
type Shared = std::sync::Mutex<Option<(Box<Merge>, Moment)>>;

/// The select while its reader does not wait for a frame, and since when.
#[derive(Debug)]
struct Idle(Shared);

impl Idle {
    fn put(&self, merge: Box<Merge>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some((merge, Moment::now()));
    }

    fn take_if(&self, fits: impl FnOnce(&mut (Box<Merge>, Moment)) -> bool) -> Option<Box<Merge>> {
        let mut idle = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        idle.take_if(fits).map(|(merge, _)| merge)
    }
}

/// Frames of a select, ascending by key; frames with equal keys follow each other.
///
/// Dropping it cancels the select.
#[derive(Debug)]
pub struct SeriesStream {
    idle: Arc<Idle>,
    timer: beside::JoinHandle<()>,
    stalled_after: Duration,
    truncated: bool,
    ended: bool,
    probe: Arc<Probe>,
}

/// The select while its reader waits; given back however the wait ends.
struct Awaited<'a> {
    merge: Option<Box<Merge>>,
    idle: &'a Idle,
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        if let Some(merge) = self.merge.take() {
            self.idle.put(merge);
        }
    }
}

impl SeriesStream {
    pub(super) fn new(merge: Merge, stalled_after: Duration, probe: Arc<Probe>) -> Self {
        let idle = Arc::new(Idle(Shared::default()));
        idle.put(Box::new(merge));
        let timer = end_if_stalled(Arc::downgrade(&idle), stalled_after, Arc::clone(&probe));
        let timer = beside::spawn(timer);
        Self { idle, timer, stalled_after, truncated: false, ended: false, probe }
    }

    /// The next frame; `None` at the end. After an error the rest still comes, unless
    /// [`Error::is_final`]. May be dropped and called again without losing a frame.
    pub async fn next(&mut self) -> Option<Result<Frame, Error>> {
        let Some(merge) = self.idle.take_if(|_| true) else {
            let after = self.stalled_after;
            return (!std::mem::replace(&mut self.ended, true))
                .then_some(Err(Error::Stalled { after }));
        };
        let mut awaited = Awaited { merge: Some(merge), idle: &self.idle };
        let merge = awaited.merge.as_mut()?;
        let next = merge.next().await;
        self.truncated = merge.truncated();
        match &next {
            Some(Ok(_)) => {}
            Some(Err(error)) => self.probe.failed(error),
            None => {
                self.ended = true;
                // At once, and not when the caller drops the stream: its turn is over.
                drop(awaited.merge.take());
            }
        }
        next
    }

    /// Whether the limit left something out. Known once the stream has ended.
    pub fn truncated(&self) -> bool {
        self.truncated
    }
}

impl Drop for SeriesStream {
    fn drop(&mut self) {
        self.timer.abort();
    }
}

/// Ends the select when nobody has read for `max`.
async fn end_if_stalled(idle: Weak<Idle>, max: Duration, probe: Arc<Probe>) {
    let mut left = max;
    loop {
        beside::sleep(left).await;
        let Some(idle) = idle.upgrade() else { return };
        left = max;
        let stalled = idle.take_if(|(_, since)| {
            left = max.saturating_sub(since.elapsed());
            left.is_zero()
        });
        if stalled.is_some() {
            return probe.failed(&Error::Stalled { after: max });
        }
    }
}
