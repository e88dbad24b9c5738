//! The stages: what of the write path is counted, on which input.
//!
//! All of them work on the same requests, of a thousand known series with one sample each, in the
//! order of before. There are as many requests as a chunk has samples, so each series closes one
//! chunk, and a count per sample has its share of that.

use std::hint::black_box;
use std::ops::Range;

use crate::decode::{
    LabelLimits, Scan, SeriesView, Version, snappy, write_request_v1, write_request_v2,
};
use crate::model::{KeySecret, Sample, TenantId, TenantKeys};
use crate::requests::{self, Fleet, ROUNDS_PER_CHUNK};
use crate::rt::channel::mpsc;
use crate::rt::mesh::Home;
use crate::rt::quota::Quotas;
use crate::shard::apply::{Applier, SentOn};
use crate::shard::head::append::Bounds;
use crate::shard::head::{Appended, Head, SeriesIndex};
use crate::shard::slots::SlotSet;
use crate::shard::wal::record::Group;
use crate::shard::write::{Batch, Item, Past};
use crate::stdx::crc32c;

/// Stages by name, in the order of the path. What callgrind counts of a stage is the function
/// `gate_<name>`.
pub(crate) const STAGES: [&str; 10] =
    ["decode", "scan", "key", "probe", "append", "log", "apply", "decode_v2", "scan_v2", "key_v2"];
/// Samples that each stage sees.
pub(crate) const SAMPLES: usize = SERIES * ROUNDS_PER_CHUNK;

const SERIES: usize = 1_000;
const DECODED_BYTES_MAX: usize = 32 << 20;
const SECRET: [u8; 32] = [5; 32];
const BOUNDS: Bounds = Bounds { out_of_order_from: i64::MAX, ..Bounds::ALL };

/// Runs all stages once.
pub(crate) fn work() {
    let mut warm = Request::of_rounds(Version::V1, 0);
    let mut requests = Request::of_rounds(Version::V1, ROUNDS_PER_CHUNK);
    for request in warm.iter_mut().chain(&mut requests) {
        request.scan();
    }

    let bodies: Vec<Vec<u8>> = requests.iter().map(|r| requests::body(&r.message)).collect();
    let mut decoded = requests[0].message.clone();
    gate_decode(&bodies, &mut decoded);
    assert_eq!(decoded, requests[ROUNDS_PER_CHUNK - 1].message);

    gate_scan(&mut requests);
    assert!(requests.iter().all(|request| request.scan.samples.len() == SERIES));

    gate_key(&mut requests, &keys());
    warm.iter_mut().for_each(|request| request.keys.clone_from(&requests[0].keys));

    let mut applier = warmed(&warm);
    let records = records(&mut applier.head, &requests);
    assert_eq!(gate_probe(&mut applier.head, &requests), SAMPLES);
    assert_eq!(gate_append(&mut applier.head, &records), SAMPLES);

    let mut block = Vec::with_capacity(1 << 20);
    let mut group = Group::default();
    log(&mut group, &records[..1], &mut block);
    black_box(gate_log(&mut group, &records, &mut block));

    let mut applier = warmed(&warm);
    let batches: Vec<Batch> = requests.iter().map(Request::batch).collect();
    assert_eq!(gate_apply(&mut applier, &batches, &mut block), SAMPLES as u64);

    work_v2(&requests);
}

/// The stages of remote write 2.0 up to the key; from there on it is one path.
fn work_v2(of_v1: &[Request]) {
    let mut requests = Request::of_rounds(Version::V2, ROUNDS_PER_CHUNK);
    requests.iter_mut().for_each(Request::scan);
    let bodies: Vec<Vec<u8>> = requests.iter().map(|r| requests::body(&r.message)).collect();
    let mut decoded = requests[0].message.clone();
    black_box(gate_decode_v2(&bodies, &mut decoded));
    assert_eq!(decoded, requests[ROUNDS_PER_CHUNK - 1].message);
    gate_scan_v2(&mut requests);
    gate_key_v2(&mut requests, &keys());
    for (one, two) in of_v1.iter().zip(&requests) {
        assert_eq!((&one.keys, &one.scan.samples), (&two.keys, &two.scan.samples));
    }
}

/// A body becomes a message.
#[inline(never)]
fn gate_decode(bodies: &[Vec<u8>], message: &mut Vec<u8>) {
    for body in bodies {
        snappy::decode(body, DECODED_BYTES_MAX, message).expect("a block");
    }
}

/// The same in 2.0; what it gives back keeps the compiler from making one function of both.
#[inline(never)]
fn gate_decode_v2(bodies: &[Vec<u8>], message: &mut Vec<u8>) -> usize {
    for body in bodies {
        snappy::decode(body, DECODED_BYTES_MAX, message).expect("a block");
    }
    message.len()
}

/// A message becomes positions.
#[inline(never)]
fn gate_scan(requests: &mut [Request]) {
    for Request { message, scan, .. } in requests {
        write_request_v1(message, scan).expect("a request");
    }
}

/// A message becomes positions in label regions that are written out.
#[inline(never)]
fn gate_scan_v2(requests: &mut [Request]) {
    for Request { message, regions, scan, .. } in requests {
        write_request_v2(message, DECODED_BYTES_MAX, regions, scan).expect("a request");
    }
}

/// A label region becomes a key.
#[inline(never)]
fn gate_key(requests: &mut [Request], keys: &TenantKeys) {
    for Request { message, scan, keys: out, .. } in requests {
        key_all(keys, message, scan, out);
    }
}

#[inline(never)]
fn gate_key_v2(requests: &mut [Request], keys: &TenantKeys) {
    for Request { regions, scan, keys: out, .. } in requests {
        key_all(keys, regions, scan, out);
    }
}

fn key_all(keys: &TenantKeys, bytes: &[u8], scan: &Scan, out: &mut Vec<u128>) {
    let region = |s: &Range<u32>| &bytes[s.start as usize..s.end as usize];
    out.extend(scan.series.iter().map(|series| keys.key(region(&series.labels))));
}

/// A key becomes a series.
#[inline(never)]
fn gate_probe(head: &mut Head, requests: &[Request]) -> usize {
    let keys = requests.iter().flat_map(|request| &request.keys);
    keys.filter(|&&key| head.find(key).is_some()).count()
}

/// A sample goes into a chunk.
#[inline(never)]
fn gate_append(head: &mut Head, records: &[Vec<(SeriesIndex, Sample)>]) -> usize {
    let stored = |&&(series, sample): &&(SeriesIndex, Sample)| {
        head.append(series, sample, BOUNDS) == Appended::Stored
    };
    records.iter().flatten().filter(stored).count()
}

/// Samples become the payload of a commit block.
#[inline(never)]
fn gate_log(group: &mut Group, records: &[Vec<(SeriesIndex, Sample)>], block: &mut Vec<u8>) -> u32 {
    log(group, records, block)
}

/// All that a shard does with a batch: probe, append, log and what joins them.
#[inline(never)]
fn gate_apply(applier: &mut Applier, batches: &[Batch], block: &mut Vec<u8>) -> u64 {
    batches.iter().map(|batch| apply(applier, batch, block)).sum()
}

fn log(group: &mut Group, records: &[Vec<(SeriesIndex, Sample)>], block: &mut Vec<u8>) -> u32 {
    let mut crcs = 0;
    for request in records {
        for &(series, sample) in request {
            group.add_sample(u64::from(series) + 1, sample);
        }
        crcs ^= seal(group, block);
    }
    crcs
}

fn apply(applier: &mut Applier, batch: &Batch, block: &mut Vec<u8>) -> u64 {
    let stored = applier.apply(batch, &mut SentOn::default()).floats.stored;
    black_box(seal(&mut applier.group, block));
    stored
}

fn seal(group: &mut Group, block: &mut Vec<u8>) -> u32 {
    block.clear();
    group.seal(block);
    crc32c(block)
}

/// A request on its way.
#[derive(Debug)]
struct Request {
    version: Version,
    message: Vec<u8>,
    /// Labels written out, in 2.0.
    regions: Vec<u8>,
    scan: Scan,
    keys: Vec<u128>,
}

impl Request {
    /// The requests of a chunk's rounds.
    fn of_rounds(version: Version, first: usize) -> Vec<Self> {
        let fleet = Fleet::new(0..SERIES);
        let rounds = first..first + ROUNDS_PER_CHUNK;
        let message = |round| match version {
            Version::V1 => fleet.message(round..round + 1),
            Version::V2 => fleet.message_v2(round..round + 1),
        };
        let new = |message| Self {
            version,
            message,
            regions: Vec::new(),
            scan: Scan::default(),
            keys: Vec::with_capacity(SERIES),
        };
        rounds.map(message).map(new).collect()
    }

    fn scan(&mut self) {
        let Self { message, regions, scan, .. } = self;
        let scanned = match self.version {
            Version::V1 => write_request_v1(message, scan),
            Version::V2 => write_request_v2(message, DECODED_BYTES_MAX, regions, scan),
        };
        scanned.expect("a request");
    }

    /// The batch that route makes of it for the only shard.
    fn batch(&self) -> Batch {
        let item = |(series, &key): (&SeriesView, &u128)| Item {
            key,
            region: series.labels.clone(),
            samples: series.samples.clone(),
        };
        Batch {
            tenant: tenant(),
            items: self.scan.series.iter().zip(&self.keys).map(item).collect(),
            samples: self.scan.samples.clone(),
            histograms: Vec::new(),
            bytes: Home::new(1).lend(self.message.clone()),
            max_t: i64::MAX,
            past: Past { now_ms: 0, keep_ms: None, out_of_order_ms: None },
            reply: mpsc::unbounded_channel().0,
        }
    }
}

fn tenant() -> TenantId {
    TenantId::new("gate").expect("a tenant")
}

fn keys() -> TenantKeys {
    KeySecret::new(SECRET).of(&tenant())
}

/// A shard's state after requests that made the series.
fn warmed(warm: &[Request]) -> Applier {
    let slots = SlotSet::of_shard(0, 1);
    let (secret, quotas) = (KeySecret::new(SECRET), Quotas::unlimited(1));
    let mut applier = Applier::new(slots, secret, LabelLimits::default(), quotas);
    let mut block = Vec::new();
    for request in warm {
        apply(&mut applier, &request.batch(), &mut block);
    }
    applier
}

/// The samples of requests with their series.
fn records(head: &mut Head, requests: &[Request]) -> Vec<Vec<(SeriesIndex, Sample)>> {
    let mut series = |key: &u128| head.find(*key).expect("a known series");
    let of_one = |request: &Request| {
        request.keys.iter().map(&mut series).zip(request.scan.samples.iter().copied()).collect()
    };
    requests.iter().map(of_one).collect()
}
