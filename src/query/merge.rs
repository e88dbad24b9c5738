//! The merge: many ascending streams of frames into one, as they arrive.
//!
//! A heap holds the next key of every source; a source whose next key is not known yet holds back
//! the whole merge, and only it is awaited. Its channel is bounded, so a slow reader of the merge
//! stops the sources, and no source can run ahead by more than a few parts.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::collections::VecDeque;
use std::collections::binary_heap::PeekMut;
use std::vec;

use bytes::Bytes;

use crate::frame::Frame;
use crate::query::gate::Turn;
use crate::query::{Error, Origin};
use crate::rt::channel::mpsc;
use crate::shard::message::Part;

/// One stream of parts.
#[derive(Debug)]
pub(super) struct Source {
    origin: Origin,
    parts: mpsc::Receiver<Part>,
    in_hand: vec::IntoIter<Frame>,
    in_hand_bytes: usize,
    last_key: Bytes,
}

impl Source {
    /// A source whose `Begin` was taken already.
    pub(super) fn new(origin: Origin, parts: mpsc::Receiver<Part>) -> Self {
        let in_hand = Vec::new().into_iter();
        Self { origin, parts, in_hand, in_hand_bytes: 0, last_key: Bytes::new() }
    }
}

/// Frames of a select, ascending by key; frames with equal keys follow each other.
#[derive(Debug)]
pub(super) struct Merge {
    sources: Vec<Source>,
    /// The next frame of each source that has one in hand, smallest key first, then by source.
    heap: BinaryHeap<Reverse<Next>>,
    /// Sources whose next frame must be awaited before anything can leave.
    unknown: Vec<usize>,
    /// Errors from before the merge began.
    failed: VecDeque<Error>,
    limit: usize,
    series: usize,
    last_key: Option<Bytes>,
    truncated: bool,
    in_hand_bytes: usize,
    in_hand_bytes_max: usize,
    _turn: Turn,
}

/// A frame and the source it came from. Ordered by key, then by source.
#[derive(Debug)]
struct Next {
    frame: Frame,
    source: usize,
}

impl Next {
    fn order(&self) -> (&[u8], usize) {
        (&self.frame.key, self.source)
    }
}

impl PartialEq for Next {
    fn eq(&self, other: &Self) -> bool {
        self.order() == other.order()
    }
}
impl Eq for Next {}
impl PartialOrd for Next {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Next {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.order().cmp(&other.order())
    }
}

impl Merge {
    pub(super) fn new(
        sources: Vec<Source>,
        failed: VecDeque<Error>,
        limit: usize,
        in_hand_bytes_max: usize,
        turn: Turn,
    ) -> Self {
        let unknown = (0..sources.len()).rev().collect();
        Self {
            heap: BinaryHeap::with_capacity(sources.len()),
            sources,
            unknown,
            failed,
            limit,
            series: 0,
            last_key: None,
            truncated: false,
            in_hand_bytes: 0,
            in_hand_bytes_max,
            _turn: turn,
        }
    }

    /// The next frame; `None` at the end. May be dropped and called again without losing a frame.
    pub(super) async fn next(&mut self) -> Option<Result<Frame, Error>> {
        if let Some(error) = self.failed.pop_front() {
            return Some(Err(error));
        }
        while let Some(&source) = self.unknown.last() {
            let known = self.advance(source).await;
            self.unknown.pop();
            match known {
                Ok(Some(frame)) => self.heap.push(Reverse(Next { frame, source })),
                Ok(None) => {}
                Err(error) => {
                    if error.is_final() {
                        self.stop();
                    }
                    return Some(Err(error));
                }
            }
        }
        let frame = self.pop()?;
        if self.last_key.as_ref() != Some(&frame.key) {
            if self.limit != 0 && self.series == self.limit {
                self.truncated = true;
                self.stop();
                return None;
            }
            self.series += 1;
            self.last_key = Some(frame.key.clone());
        }
        Some(Ok(frame))
    }

    /// Whether the limit left something out. Known once the stream has ended.
    pub(super) fn truncated(&self) -> bool {
        self.truncated
    }

    /// Takes the smallest frame and puts the next of its source in its place if it is in hand.
    fn pop(&mut self) -> Option<Frame> {
        let mut top = self.heap.peek_mut()?;
        let index = top.0.source;
        let source = self.sources.get_mut(index)?;
        match source.in_hand.next() {
            Some(next) if next.key >= source.last_key => {
                source.last_key = next.key.clone();
                Some(std::mem::replace(&mut top.0.frame, next))
            }
            Some(_) => {
                self.failed.push_back(source.cut_off(&mut self.in_hand_bytes));
                Some(PeekMut::pop(top).0.frame)
            }
            None => {
                self.unknown.push(index);
                Some(PeekMut::pop(top).0.frame)
            }
        }
    }

    /// Awaits the next frame of a source; `None` if it has ended.
    async fn advance(&mut self, index: usize) -> Result<Option<Frame>, Error> {
        let Some(source) = self.sources.get_mut(index) else { return Ok(None) };
        self.in_hand_bytes -= std::mem::take(&mut source.in_hand_bytes);
        loop {
            let origin = source.origin;
            match source.parts.recv().await {
                Some(Part::Series(frames)) => {
                    let bytes: usize = frames.iter().map(Frame::len_bytes).sum();
                    source.in_hand = frames.into_iter();
                    let Some(first) = source.in_hand.next() else { continue };
                    source.in_hand_bytes = bytes;
                    self.in_hand_bytes += bytes;
                    if self.in_hand_bytes > self.in_hand_bytes_max {
                        return Err(Error::OverBudget { limit_bytes: self.in_hand_bytes_max });
                    }
                    if first.key < source.last_key {
                        return Err(source.cut_off(&mut self.in_hand_bytes));
                    }
                    source.last_key = first.key.clone();
                    return Ok(Some(first));
                }
                Some(Part::Begin(_)) => {}
                Some(Part::End) => return Ok(None),
                Some(Part::Failed(why)) => return Err(Error::Failed { origin, why }),
                None => return Err(Error::Gone { origin }),
            }
        }
    }

    fn stop(&mut self) {
        self.heap.clear();
        self.unknown.clear();
        self.sources.clear();
    }
}

impl Source {
    /// Ends a source that broke the order.
    fn cut_off(&mut self, in_hand_bytes: &mut usize) -> Error {
        self.parts.close();
        self.in_hand = Vec::new().into_iter();
        *in_hand_bytes -= std::mem::take(&mut self.in_hand_bytes);
        Error::Disorder { origin: self.origin }
    }
}
