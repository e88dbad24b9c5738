//! Who owns what: a request becomes one batch per shard, and their answers one answer.
//!
//! The receiving core decodes, hashes and deals out; it knows no series. Every batch has room at
//! its owner before any is sent, so nobody waits for a queue: a request finds room everywhere, or
//! it is turned away whole.
//!
//! ## Promises
//! - The answer joins all shards' answers; it is there only when all have spoken.
//! - The body's buffer is given back after decoding, the decoded one after the last shard has
//!   applied its part: both before the wait for the log.
//!
//! ## Crash
//! Nothing is kept here. A request that was not answered comes again.

mod deal;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ops::Deref;
use std::rc::Rc;
use std::time::Duration;

use crate::decode::{self, Scan, Version};
use crate::model::{KeySecret, TenantId, TenantKeys};
use crate::rt::channel::mpsc;
use crate::rt::clock::Clock;
use crate::rt::core::{self as rt_core, Accepted, Mesh};
use crate::rt::mesh::{Home, Loan, Pool};
use crate::rt::storage::Storage;
use crate::shard::Shard;
use crate::shard::write::{Batch, Past, TurnedAway, Unavailable, Written};

/// Batches on their way to one other core.
pub const MESH_CAPACITY: usize = 1024;
/// Decoded buffers a core keeps for the next request.
const KEPT: usize = 16;
/// How long, and how often, a request waits between its own batches for the log to take what has
/// gathered: two seconds in all.
const ROOM_WAIT: Duration = Duration::from_millis(1);
const ROOM_WAITS: u32 = 2000;
/// Tenants whose keys a core keeps.
const TENANTS_KEPT: usize = 10_000;

/// What cores send each other.
#[derive(Debug)]
pub enum Message {
    /// Part of a request, for the shard that is home to it.
    Batch(Box<Batch>),
    /// A connection that another core accepted.
    Connection(Accepted),
}

/// Why a request was not written at all.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The body is not what it says it is.
    #[error(transparent)]
    Body(#[from] decode::Error),
    /// Decoded requests that shards have not applied yet take too much memory.
    #[error("decoded requests that wait for a shard take {lent} bytes")]
    NoMemory {
        /// How much that is.
        lent: u64,
    },
    /// It is more than its tenant may send at once.
    #[error("request has {got} {what}, {max} are allowed")]
    AboveLimit {
        /// Of what.
        what: &'static str,
        /// How many it has.
        got: u64,
        /// How many it may have.
        max: u64,
    },
    /// A shard has too many batches under way.
    #[error("the queue to shard {shard} is full")]
    NoRoom {
        /// Its number.
        shard: u16,
    },
}

/// What became of a request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Routed {
    /// All shards' answers in one.
    pub written: Written,
    /// Exemplars in the request.
    pub exemplars: u64,
    /// Metadata entries in the request.
    pub metadata: u64,
    /// Times in the request at which a counter began.
    pub start_timestamps: u64,
    /// Series in the request.
    pub series: u64,
}

/// What one request may have, by its tenant's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RequestLimits {
    /// Bytes, decoded.
    pub bytes_max: Option<u64>,
    /// Series.
    pub series_max: Option<u64>,
    /// Samples and histograms.
    pub samples_max: Option<u64>,
}

impl RequestLimits {
    /// What a request of so many decoded bytes is told.
    fn check_bytes(&self, bytes: usize) -> Result<(), Error> {
        let (what, got) = ("decoded bytes", bytes as u64);
        let max = self.bytes_max.filter(|&max| got > max);
        max.map_or(Ok(()), |max| Err(Error::AboveLimit { what, got, max }))
    }

    fn check(&self, scan: &Scan) -> Result<(), Error> {
        let series = scan.series.len() as u64;
        let samples = (scan.samples.len() + scan.histograms.len()) as u64;
        for (what, got, max) in
            [("series", series, self.series_max), ("samples", samples, self.samples_max)]
        {
            if let Some(max) = max.filter(|&max| got > max) {
                return Err(Error::AboveLimit { what, got, max });
            }
        }
        Ok(())
    }
}

/// What a core needs to deal requests out.
#[derive(Debug)]
pub struct Settings {
    /// Number of shards.
    pub shards: u16,
    /// Own shard.
    pub own: u16,
    /// What keys are derived from.
    pub secret: KeySecret,
    /// Most bytes of a decoded request.
    pub decoded_bytes_max: usize,
    /// Most bytes of decoded requests, their records and batches included, that shards have not
    /// applied yet. One request always passes.
    pub lent_bytes_max: u64,
    /// How far ahead of the clock a sample may lie, in milliseconds; none for any distance.
    pub future_ms: Option<i64>,
    /// How long blocks are kept, in milliseconds; none for ever. What is older is not accepted.
    pub keep_ms: Option<i64>,
    /// How much older than its tenant's newest a sample out of order may be, in milliseconds; none
    /// to refuse them.
    pub out_of_order_ms: Option<i64>,
    /// The wall clock.
    pub clock: Clock,
}

/// The router of one core.
#[derive(Debug)]
pub struct Router<S: Storage> {
    settings: Settings,
    shard: Rc<Shard<S>>,
    mesh: Rc<Mesh<Message>>,
    /// Batches sent to each core and not answered.
    under_way: Rc<[Cell<usize>]>,
    decoded: Pool,
    /// Label regions of remote write 2.0, apart from messages: they are longer.
    regions: Pool,
    /// A scan for the next request.
    scan: RefCell<Option<Scan>>,
    keys: RefCell<HashMap<TenantId, Rc<TenantKeys>>>,
    turned_away: RefCell<TurnedAway>,
}

impl<S: Storage> Router<S> {
    /// A router over the core's own shard, with the way to the others.
    pub(crate) fn new(settings: Settings, shard: Rc<Shard<S>>, mesh: Rc<Mesh<Message>>) -> Self {
        let under_way = (0..settings.shards).map(|_| Cell::new(0)).collect();
        Self {
            settings,
            shard,
            mesh,
            under_way,
            decoded: Pool::new(KEPT),
            regions: Pool::new(KEPT),
            scan: RefCell::default(),
            keys: RefCell::new(HashMap::new()),
            turned_away: RefCell::default(),
        }
    }

    /// Writes a request: decodes it, deals it out, waits until all of it is durable.
    pub async fn write(
        &self,
        tenant: TenantId,
        version: Version,
        body: impl Deref<Target = [u8]>,
        limits: RequestLimits,
    ) -> Result<Routed, Error> {
        let mut scan = self.scan.take().unwrap_or_default();
        let read = self.read(version, body, limits, &mut scan);
        let bytes = match read.and_then(|bytes| limits.check(&scan).map(|()| bytes)) {
            Ok(bytes) => bytes,
            Err(error) => {
                self.keep(scan);
                return Err(error);
            }
        };
        let mut routed = Routed {
            written: Written { bad: std::mem::take(&mut scan.bad), ..Written::default() },
            exemplars: scan.exemplars,
            metadata: scan.metadata,
            start_timestamps: scan.start_timestamps,
            series: scan.series.len() as u64,
        };
        routed.series += routed.written.bad.iter().map(|bad| bad.series).sum::<u64>();
        let (reply, mut answers) = mpsc::unbounded_channel();
        let batches = self.deal(&tenant, &bytes, &scan, &reply).await;
        drop(bytes);
        drop(reply);
        self.keep(scan);
        let mut missing = batches.len() as u64;
        let _places = self.send(batches).await?;
        // The channel ends when every batch is let go, those sent on too. Their answers may come
        // before that of the shard that sent them on, so only the end tells that all have come.
        while let Some(written) = answers.recv().await {
            missing = missing.wrapping_add(written.sent_on.into()).wrapping_sub(1);
            routed.written.merge(written);
        }
        if missing != 0 {
            // Somebody ended with a batch in hand. It may be stored or not.
            routed.written.unavailable = Some(Unavailable::Stopping);
        }
        Ok(routed)
    }

    /// Whether decoded requests take all the memory they may.
    pub fn is_full(&self) -> bool {
        self.lent_bytes() >= self.settings.lent_bytes_max
    }

    fn lent_bytes(&self) -> u64 {
        self.decoded.home().lent_bytes() + self.regions.home().lent_bytes()
    }

    /// Decodes and scans a body. What the scan's positions point into is lent out.
    fn read(
        &self,
        version: Version,
        body: impl Deref<Target = [u8]>,
        limits: RequestLimits,
        scan: &mut Scan,
    ) -> Result<Loan, Error> {
        let limit = self.settings.decoded_bytes_max;
        let declared = decode::snappy::declared_len(&body)?;
        limits.check_bytes(declared)?;
        self.check_room(declared.min(limit))?;
        let mut decoded = self.decoded.take();
        let done = decode::snappy::decode(&body, limit, &mut decoded);
        drop(body);
        if done.is_err() || version == Version::V1 {
            let done = done.and_then(|()| decode::write_request_v1(&mut decoded, scan));
            return self.lend(self.decoded.home(), decoded, scan, done);
        }
        let mut regions = self.regions.take();
        let done = decode::write_request_v2(&decoded, limit, &mut regions, scan);
        self.decoded.home().give_back(decoded);
        self.lend(self.regions.home(), regions, scan, done)
    }

    /// Lends out what is scanned, or puts it back when there is something wrong with it or no room.
    /// Only now it is known what labels of 2.0 and records come to: both cost more than the bytes
    /// that said them.
    fn lend(
        &self,
        home: &Home,
        bytes: Vec<u8>,
        scan: &Scan,
        done: Result<(), decode::Error>,
    ) -> Result<Loan, Error> {
        let beside = scan.record_bytes() + deal::batch_bytes(scan);
        match done.map_err(Error::Body).and_then(|()| self.check_room(bytes.capacity() + beside)) {
            Ok(()) => Ok(home.lend_with(bytes, beside)),
            Err(error) => {
                home.give_back(bytes);
                Err(error)
            }
        }
    }

    /// Whether there is room for so many bytes of a request: decoded ones, records and batches. A
    /// core that lags keeps what is dealt to it, so this is counted until the last shard has let
    /// go, also when the sender is gone by then. One that is alone passes: what it can cost has a
    /// bound in its length.
    fn check_room(&self, bytes: usize) -> Result<(), Error> {
        let lent = self.lent_bytes();
        if lent > 0 && lent + bytes as u64 > self.settings.lent_bytes_max {
            return Err(Error::NoMemory { lent });
        }
        Ok(())
    }

    /// Keeps a scan for the next request, without the memory of a monster.
    fn keep(&self, mut scan: Scan) {
        scan.clear();
        self.scan.replace(Some(scan));
    }

    /// The batches of a request.
    async fn deal(
        &self,
        tenant: &TenantId,
        bytes: &Loan,
        scan: &Scan,
        reply: &mpsc::UnboundedSender<Written>,
    ) -> Vec<(u16, Batch)> {
        let keys = self.keys_of(tenant);
        let now_ms = self.settings.clock.wall_ms();
        let future_ms = self.settings.future_ms;
        let max_t = future_ms.map_or(i64::MAX, |window| now_ms.saturating_add(window));
        let Settings { keep_ms, out_of_order_ms, .. } = self.settings;
        let past = Past { now_ms, keep_ms, out_of_order_ms };
        let empty = |(items, samples)| Batch {
            tenant: tenant.clone(),
            items: Vec::with_capacity(items),
            samples: Vec::with_capacity(samples),
            histograms: Vec::new(),
            bytes: bytes.clone(),
            max_t,
            past,
            reply: reply.clone(),
        };
        deal::deal(scan, bytes, &keys, self.settings.shards, empty).await
    }

    fn keys_of(&self, tenant: &TenantId) -> Rc<TenantKeys> {
        let mut all = self.keys.borrow_mut();
        if let Some(keys) = all.get(tenant) {
            return keys.clone();
        }
        if all.len() >= TENANTS_KEPT {
            all.clear();
        }
        let keys = Rc::new(self.settings.secret.of(tenant));
        all.insert(tenant.clone(), keys.clone());
        keys
    }

    /// Sends all batches, or none.
    async fn send(&self, batches: Vec<(u16, Batch)>) -> Result<Vec<Place>, Error> {
        let others = batches.iter().map(|(shard, _)| *shard).filter(|&s| s != self.settings.own);
        let mut places = Vec::new();
        for shard in others {
            let full = || Error::NoRoom { shard };
            places.push(Place::take(&self.under_way, usize::from(shard)).ok_or_else(full)?);
        }
        // The others go first: they work while this core does.
        let (own, others): (Vec<_>, Vec<_>) =
            batches.into_iter().partition(|(shard, _)| *shard == self.settings.own);
        for (shard, batch) in others {
            self.send_on(shard, batch);
        }
        let mut waits = ROOM_WAITS;
        for (number, (_, batch)) in own.into_iter().enumerate() {
            // What has begun is ended, were it more than the log takes at once.
            while number > 0 && waits > 0 && self.shard.is_behind() {
                waits -= 1;
                rt_core::sleep(ROOM_WAIT).await;
            }
            self.deliver(batch);
            rt_core::pause().await;
        }
        Ok(places)
    }

    /// Gives a batch to the core's own shard, from here or from another core. A panic in it aborts
    /// the process: a head with half a batch that the log does not have must not answer.
    pub(crate) fn deliver(&self, batch: Batch) {
        let sent_on = rt_core::or_abort(|| self.shard.write(batch));
        for (owner, batch) in sent_on {
            self.send_on(owner, batch);
        }
    }

    fn send_on(&self, shard: u16, batch: Batch) {
        if self.turned_away.borrow_mut().turns_away(&batch, None) {
            return;
        }
        let message = Message::Batch(Box::new(batch));
        if let Err(Message::Batch(batch)) = self.mesh.send(usize::from(shard), message) {
            self.turned_away.borrow_mut().turns_away(&batch, Some(Unavailable::NoRoom));
        }
    }
}

/// A place for a batch on the way to another core, given back when its request is answered.
#[derive(Debug)]
struct Place {
    under_way: Rc<[Cell<usize>]>,
    core: usize,
}

impl Place {
    fn take(under_way: &Rc<[Cell<usize>]>, core: usize) -> Option<Self> {
        let count = under_way.get(core)?;
        // Half of the room is for what shards send on to each other.
        if count.get() >= MESH_CAPACITY / 2 {
            return None;
        }
        count.set(count.get() + 1);
        Some(Self { under_way: under_way.clone(), core })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(count) = self.under_way.get(self.core) {
            count.set(count.get() - 1);
        }
    }
}

#[cfg(test)]
mod allocations;
#[cfg(test)]
mod node;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod versions;
