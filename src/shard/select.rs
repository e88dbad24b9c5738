//! A select: which series match, sorted as a Querier expects, and their chunks.
//!
//! ```text
//! pin -> Begin -> walk: keys of what matches -> sort -> copy chunks, encode -> Series ... -> End
//! ```
//! Keys alone are held for the whole select; chunks are copied when their part is sent, so a series
//! may come with samples newer than the select. The pin is given back before the last word.
//!
//! ## Limits
//! With a limit of `n` no more than about `2n` keys are held: the greater ones are forgotten, and
//! what is greater than the `n`-th is not even noted any more.

use bytes::Bytes;
use futures_lite::future;

use crate::frame::{Frame, encode, final_labels, in_shard};
use crate::model::{Matcher, sort_key};
use crate::rt::channel::mpsc;
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::answer::{ASKED_STEPS, Chosen, Reading, SLICE_STEPS, Stop, Walk};
use crate::shard::head::merge::Rest;
use crate::shard::head::read::{Copied, Matching};
use crate::shard::head::{Head, SeriesIndex};
use crate::shard::keys::Keys;
use crate::shard::message::{PART_BYTES, Part, Select};
use crate::stdx::sort::Sorter;

/// Steps of making a key: twenty labels are looked up and copied.
const KEY_STEPS: usize = 10;
/// Steps of encoding a series, beside its bytes.
const ENCODE_STEPS: usize = 15;
/// Bytes that are copied and hashed in one step.
const STEP_BYTES: usize = 512;
/// Comparisons of keys in one slice.
const SLICE_COMPARISONS: usize = 400;
/// Keys beyond twice the limit before the greater ones are forgotten.
const SPARE_KEYS: usize = 4096;

impl<S: Storage> Shard<S> {
    /// Answers a select.
    pub(crate) async fn select(&self, select: Select) {
        let mut keys = Keys::new(self.budget.account());
        let outcome = self.select_pinned(&select, &mut keys).await;
        self.shed(keys).await;
        let last = match outcome {
            Ok(()) => Part::End,
            Err(Stop::Failed(why)) => Part::Failed(why),
            Err(Stop::Unwanted) => return,
        };
        drop(select.reply.send(last).await);
    }

    /// Gives the memory of keys back, slice by slice.
    async fn shed(&self, mut keys: Keys<'_>) {
        while keys.shed() {
            self.storage.pause().await;
        }
    }

    /// All but the last word. What was found is left in `keys`.
    async fn select_pinned<'s>(&'s self, select: &Select, keys: &mut Keys<'s>) -> Result<(), Stop> {
        let reading = self.begin_reading();
        let (on_external, rest) = select.external.split(&select.matchers);
        let unwanted = || select.reply.is_closed();
        let tenants =
            self.choose(&reading, &select.external, &on_external, select.span, unwanted).await?;
        let from = tenants.iter().map(|tenant| tenant.from.clone()).collect();
        send(&reading, &select.reply, Part::Begin(from)).await?;
        self.find(&reading, select, &tenants, &rest, keys).await?;
        let order = sort(&reading, keys, unwanted).await?;
        self.send_series(&reading, select, &tenants, keys, &order).await
    }

    /// Walks the tenants and notes what matches.
    async fn find<'s>(
        &'s self,
        reading: &Reading<'_, S>,
        select: &Select,
        tenants: &[Chosen],
        matchers: &[Matcher],
        keys: &mut Keys<'s>,
    ) -> Result<(), Stop> {
        let mut matching = Matching::new(matchers);
        let mut finding = Finding {
            select,
            keys,
            ceiling: None,
            prune_at: select.limit.saturating_mul(2).saturating_add(SPARE_KEYS),
            key: Vec::new(),
        };
        for (number, tenant) in (0..).zip(tenants) {
            let Some(span) = tenant.span else { continue };
            let mut walk = Walk::over(tenant);
            loop {
                let more = {
                    let state = self.state.borrow();
                    let head = &state.applier.head;
                    let mut labels = Vec::new();
                    walk.slice(head, |index| {
                        let found = matching.holds(head, index) && head.has_samples(index, span);
                        let asked = matching.take_asked() * ASKED_STEPS;
                        if found {
                            let external = &tenant.labels;
                            let own = head.labels(index);
                            final_labels(own, external, &select.without, &mut labels);
                            finding.note(&labels, number, index)?;
                        }
                        Ok(asked + if found { KEY_STEPS } else { 0 })
                    })?
                };
                if select.limit > 0 && finding.keys.len() >= finding.prune_at {
                    self.prune(reading, &mut finding).await?;
                }
                reading.pause(select.reply.is_closed()).await?;
                if !more {
                    break;
                }
            }
        }
        Ok(())
    }

    /// Forgets the keys beyond the limit.
    async fn prune<'s>(
        &'s self,
        reading: &Reading<'_, S>,
        finding: &mut Finding<'_, 's>,
    ) -> Result<(), Stop> {
        let Finding { select, keys, .. } = finding;
        let order = sort(reading, keys, || select.reply.is_closed()).await?;
        let mut kept = Keys::new(self.budget.account());
        let mut limit = Limit::new(select.limit);
        for slice in order.chunks(SLICE_COMPARISONS) {
            for &number in slice.iter().filter(|&&number| limit.admits(keys.key(number))) {
                let (tenant, series) = keys.series(number);
                kept.push(keys.key(number), tenant, series)?;
            }
            if limit.is_over() {
                break;
            }
            reading.pause(select.reply.is_closed()).await?;
        }
        if limit.is_over() {
            finding.ceiling = Some(limit.last);
        }
        // Equal keys count once, so more than the limit may have to stay.
        finding.prune_at = finding.prune_at.max(kept.len().saturating_mul(2));
        self.shed(std::mem::replace(finding.keys, kept)).await;
        Ok(())
    }

    /// Encodes and sends what was found, in order.
    async fn send_series(
        &self,
        reading: &Reading<'_, S>,
        select: &Select,
        tenants: &[Chosen],
        keys: &Keys<'_>,
        order: &[u32],
    ) -> Result<(), Stop> {
        let mut limit = Limit::new(select.limit);
        let mut rest = order.iter().take_while(|&&number| limit.admits(keys.key(number)));
        let (copied, frames) = (Copied::default(), Vec::new());
        let mut encoder = Encoder { select, copied, rest: None, frames };
        let (mut outbox, mut unfinished) = (Outbox::default(), None);
        loop {
            let more = {
                let mut state = self.state.borrow_mut();
                let head = &mut state.applier.head;
                let mut steps = 0;
                loop {
                    if steps >= SLICE_STEPS || outbox.bytes >= PART_BYTES {
                        break true;
                    }
                    let next = unfinished.take().or_else(|| rest.next().copied());
                    let Some(number) = next else { break false };
                    let (tenant, series) = keys.series(number);
                    let tenant = &tenants[tenant as usize];
                    if !encoder.copy(head, tenant, series) {
                        unfinished = next;
                        break true;
                    }
                    encoder.encode(head, tenant, series, keys.key(number));
                    let bytes = outbox.put(&mut encoder.frames);
                    steps += ENCODE_STEPS + bytes / STEP_BYTES;
                }
            };
            while let Some(frames) = outbox.part(!more) {
                send(reading, &select.reply, Part::Series(frames)).await?;
            }
            if !more {
                return Ok(());
            }
            reading.pause(select.reply.is_closed()).await?;
        }
    }
}

/// What a select has found so far.
struct Finding<'a, 'b> {
    select: &'a Select,
    keys: &'a mut Keys<'b>,
    /// No key above it is of use.
    ceiling: Option<Vec<u8>>,
    prune_at: usize,
    key: Vec<u8>,
}

impl Finding<'_, '_> {
    /// Notes a series by its final labels, if it can be of use.
    fn note(
        &mut self,
        labels: &[(&str, &str)],
        tenant: u32,
        series: SeriesIndex,
    ) -> Result<(), Stop> {
        if self.select.sharding.as_ref().is_some_and(|sharding| !in_shard(labels, sharding)) {
            return Ok(());
        }
        self.key.clear();
        sort_key(labels.iter().copied(), &mut self.key);
        if self.ceiling.as_ref().is_some_and(|ceiling| self.key > *ceiling) {
            return Ok(());
        }
        Ok(self.keys.push(&self.key, tenant, series)?)
    }
}

/// Lets ascending keys through until there were `max` different ones.
#[derive(Debug)]
struct Limit {
    max: usize,
    seen: usize,
    last: Vec<u8>,
    over: bool,
}

impl Limit {
    /// 0 is no limit.
    fn new(max: usize) -> Self {
        let max = if max == 0 { usize::MAX } else { max };
        Self { max, seen: 0, last: Vec::new(), over: false }
    }

    fn admits(&mut self, key: &[u8]) -> bool {
        if self.seen == 0 || self.last != key {
            if self.seen == self.max {
                self.over = true;
                return false;
            }
            self.seen += 1;
            self.last.clear();
            self.last.extend_from_slice(key);
        }
        true
    }

    /// Whether a key was turned away.
    fn is_over(&self) -> bool {
        self.over
    }
}

/// Turns series into frames.
struct Encoder<'a> {
    select: &'a Select,
    /// Chunks of a series.
    copied: Copied,
    /// What is to be copied of it yet.
    rest: Option<Rest>,
    frames: Vec<Frame>,
}

impl Encoder<'_> {
    /// Copies the chunks of a series, or more of them. Whether that was all.
    fn copy(&mut self, head: &mut Head, tenant: &Chosen, series: SeriesIndex) -> bool {
        let Some(span) = tenant.span.filter(|_| !self.select.skip_chunks) else {
            self.copied.clear();
            return true;
        };
        self.rest = match self.rest.take() {
            None => head.copy_chunks(series, span, &mut self.copied),
            Some(rest) => head.copy_rest(series, span, rest, &mut self.copied),
        };
        self.rest.is_none()
    }

    /// Makes frames of what was copied.
    fn encode(&mut self, head: &Head, tenant: &Chosen, series: SeriesIndex, key: &[u8]) {
        let mut labels = Vec::new();
        final_labels(head.labels(series), &tenant.labels, &self.select.without, &mut labels);
        encode(&labels, &Bytes::copy_from_slice(key), self.copied.iter(), &mut self.frames);
    }
}

/// Frames that wait to fill a part.
#[derive(Debug, Default)]
struct Outbox {
    frames: Vec<Frame>,
    bytes: usize,
}

impl Outbox {
    /// Takes frames; how many bytes they have.
    fn put(&mut self, frames: &mut Vec<Frame>) -> usize {
        let bytes = frames.iter().map(size).sum();
        self.frames.append(frames);
        self.bytes += bytes;
        bytes
    }

    /// A part that is full, or what is left `if_any`.
    fn part(&mut self, if_any: bool) -> Option<Vec<Frame>> {
        if self.frames.is_empty() || (self.bytes < PART_BYTES && !if_any) {
            return None;
        }
        let mut bytes = 0;
        let fits = |frame: &&Frame| {
            bytes += size(frame);
            bytes <= PART_BYTES
        };
        let count = self.frames.iter().take_while(fits).count().max(1);
        let rest = self.frames.split_off(count);
        let part = std::mem::replace(&mut self.frames, rest);
        self.bytes -= part.iter().map(size).sum::<usize>();
        Some(part)
    }
}

fn size(frame: &Frame) -> usize {
    frame.key.len() + frame.body.len()
}

/// Sends a part as soon as there is room for it.
async fn send<S: Storage>(
    reading: &Reading<'_, S>,
    reply: &mpsc::Sender<Part>,
    part: Part,
) -> Result<(), Stop> {
    let sent = async { reply.send(part).await.map_err(|_| Stop::Unwanted) };
    future::or(sent, async { Err(reading.must_end().await) }).await
}

/// The numbers of the keys in order.
async fn sort<S: Storage>(
    reading: &Reading<'_, S>,
    keys: &Keys<'_>,
    unwanted: impl Fn() -> bool,
) -> Result<Vec<u32>, Stop> {
    let mut sorter = Sorter::new(keys.len() as u32);
    loop {
        if let Some(order) = sorter.step(SLICE_COMPARISONS, |a, b| keys.order(a, b)) {
            return Ok(order);
        }
        reading.pause(unwanted()).await?;
    }
}
