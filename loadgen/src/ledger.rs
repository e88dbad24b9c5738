//! The ledger: what was sent and what was acknowledged, request by request.
//!
//! The stream is a function of the seed, so a request is two numbers, and a ledger of 10^9 samples
//! is some 16 MB and regenerates each of them.
//!
//! ```text
//! DIR/scenario.json   the scenario, with its start time fixed; written once, by rename
//! DIR/requests.log    records of 16 bytes, appended:
//!
//!  0       1      2      4          8           12          16
//!  | event | zero | code | round    | request   | check     |    little endian
//!    1 sent  2 acked  3 refused     code: HTTP status, 0 if sent
//! ```
//!
//! ## Order
//!
//! `sent` is written before the first byte of the request leaves, `acked` after the answer came.
//! So `acked ⊆ stored ⊆ sent` can be demanded of the target, whatever happened to either side.
//!
//! ## Crash
//!
//! Each record is one `write` to a file in append mode: killing the generator loses nothing that
//! was written. A torn or foreign tail (the machine died) is cut off at the first record whose
//! check is wrong; what follows it was never promised. A cut-off `acked` only makes the check
//! milder, never wrong. A cut-off `sent` would make it wrong, hence [`Ledger::sync`] at the end
//! and the rule to trust a ledger only if its own machine stayed up.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result, at};
use crate::scenario::Scenario;
use crate::stream::{RequestId, mix};

const RECORD_SIZE: usize = 16;

/// Part of the check: a file of another format never passes by chance.
const CHECK_SEED: u64 = 0x6c65_6467_6572_3031;

/// What happened to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Event {
    /// It may have reached the target.
    Sent,
    /// The target answered 2xx.
    Acked(u16),
    /// The target answered that it does not want it; parts may be stored.
    Refused(u16),
}

/// What is known of a request in the end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Standing {
    /// May be stored.
    Sent,
    /// Must be stored.
    Acked,
}

/// A ledger open for writing.
#[derive(Debug)]
pub(crate) struct Ledger {
    path: PathBuf,
    log: File,
}

/// A ledger as read back.
#[derive(Debug, Clone)]
pub(crate) struct History {
    pub(crate) scenario: Scenario,
    /// Every request that was sent.
    pub(crate) requests: BTreeMap<RequestId, Standing>,
    /// Requests refused for good, by HTTP status.
    pub(crate) refused: BTreeMap<u16, u64>,
    /// Bytes cut off, or to be cut off, behind the last good record.
    pub(crate) torn_size: usize,
}

impl History {
    /// The first round in which nothing was sent yet.
    pub(crate) fn next_round(&self) -> u32 {
        self.requests.keys().next_back().map_or(0, |last| last.round + 1)
    }
}

impl Ledger {
    /// Opens the ledger in `folder`, or starts one for `scenario`. An existing one must be of the
    /// same stream; its scenario (with its start time) wins, and its torn tail is cut off.
    pub(crate) fn open(folder: &Path, scenario: &Scenario) -> Result<(Self, History)> {
        std::fs::create_dir_all(folder).map_err(at(folder))?;
        if !folder.join("scenario.json").exists() {
            write_scenario(folder, scenario)?;
        }
        let history = History::read(folder)?;
        if !same_stream(&history.scenario, scenario) {
            return Err(Error::Ledger {
                path: folder.to_owned(),
                reason: "it is of another scenario; give an empty folder".to_owned(),
            });
        }
        let path = folder.join("requests.log");
        let log = OpenOptions::new().create(true).append(true).open(&path).map_err(at(&path))?;
        let size = log.metadata().map_err(at(&path))?.len();
        log.set_len(size - history.torn_size as u64).map_err(at(&path))?;
        Ok((Self { path, log }, history))
    }

    /// Records an event. One `write`, safe from several threads.
    pub(crate) fn record(&self, id: RequestId, event: Event) -> Result<()> {
        (&self.log).write_all(&encode(id, event)).map_err(at(&self.path))
    }

    /// Flushes to the device.
    pub(crate) fn sync(&self) -> Result<()> {
        self.log.sync_all().map_err(at(&self.path))
    }
}

impl History {
    /// Reads a ledger without touching it.
    pub(crate) fn read(folder: &Path) -> Result<Self> {
        let path = folder.join("scenario.json");
        let text = std::fs::read_to_string(&path).map_err(at(&path))?;
        let scenario: Scenario = serde_json::from_str(&text)
            .map_err(|error| Error::Ledger { path, reason: error.to_string() })?;
        let path = folder.join("requests.log");
        let mut bytes = Vec::new();
        match File::open(&path) {
            Ok(mut file) => {
                file.read_to_end(&mut bytes).map_err(at(&path))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(at(&path)(error)),
        }
        let mut history =
            Self { scenario, requests: BTreeMap::new(), refused: BTreeMap::new(), torn_size: 0 };
        let mut read_size = 0;
        for record in bytes.chunks(RECORD_SIZE) {
            let Some((id, event)) = decode(record) else { break };
            read_size += RECORD_SIZE;
            let standing = match event {
                Event::Acked(_) => Standing::Acked,
                Event::Sent => Standing::Sent,
                Event::Refused(code) => {
                    *history.refused.entry(code).or_default() += 1;
                    Standing::Sent
                }
            };
            let known = history.requests.entry(id).or_insert(standing);
            *known = standing.max(*known);
        }
        history.torn_size = bytes.len() - read_size;
        Ok(history)
    }
}

fn write_scenario(folder: &Path, scenario: &Scenario) -> Result<()> {
    let path = folder.join("scenario.json");
    let draft = folder.join("scenario.json.tmp");
    let text = serde_json::to_string_pretty(scenario)
        .map_err(|error| Error::Ledger { path: path.clone(), reason: error.to_string() })?;
    std::fs::write(&draft, text).map_err(at(&draft))?;
    std::fs::rename(&draft, &path).map_err(at(&path))
}

/// Whether two scenarios send the same samples in the same requests. Pace, length and connections
/// may differ; a start that is not set yet follows the ledger's.
fn same_stream(ours: &Scenario, theirs: &Scenario) -> bool {
    let theirs = theirs.clone();
    let as_ours = Scenario {
        name: ours.name.clone(),
        purpose: ours.purpose.clone(),
        connections: ours.connections,
        mode: ours.mode,
        rate: ours.rate,
        rounds: ours.rounds,
        warmup_rounds: ours.warmup_rounds,
        duration_s: ours.duration_s,
        compression: ours.compression,
        start_time_ms: theirs.start_time_ms.or(ours.start_time_ms),
        ..theirs
    };
    as_ours == *ours
}

fn encode(id: RequestId, event: Event) -> [u8; RECORD_SIZE] {
    let (kind, code) = match event {
        Event::Sent => (1, 0),
        Event::Acked(code) => (2, code),
        Event::Refused(code) => (3, code),
    };
    let mut record = [0u8; RECORD_SIZE];
    record[0] = kind;
    record[2..4].copy_from_slice(&code.to_le_bytes());
    record[4..8].copy_from_slice(&id.round.to_le_bytes());
    record[8..12].copy_from_slice(&id.request.to_le_bytes());
    let sum = check(&record);
    record[12..16].copy_from_slice(&sum.to_le_bytes());
    record
}

fn decode(record: &[u8]) -> Option<(RequestId, Event)> {
    let record: &[u8; RECORD_SIZE] = record.try_into().ok()?;
    let word = |at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    if word(12) != check(record) || record[1] != 0 {
        return None;
    }
    let code = u16::from_le_bytes([record[2], record[3]]);
    let event = match record[0] {
        1 => Event::Sent,
        2 => Event::Acked(code),
        3 => Event::Refused(code),
        _ => return None,
    };
    Some((RequestId { round: word(4), request: word(8) }, event))
}

fn check(record: &[u8; RECORD_SIZE]) -> u32 {
    let word = |at: usize| {
        u32::from_le_bytes([record[at], record[at + 1], record[at + 2], record[at + 3]])
    };
    mix(CHECK_SEED ^ u64::from(word(0)), word(4), word(8)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(round: u32, request: u32) -> RequestId {
        RequestId { round, request }
    }

    fn scenario() -> Scenario {
        Scenario::load("smoke").unwrap().anchored(1_700_000_000_000).unwrap()
    }

    fn written(folder: &Path) {
        let (ledger, history) = Ledger::open(folder, &scenario()).unwrap();
        assert_eq!(history.next_round(), 0);
        for request in 0..10 {
            ledger.record(id(0, request), Event::Sent).unwrap();
        }
        for request in 0..5 {
            ledger.record(id(0, request), Event::Acked(204)).unwrap();
        }
        ledger.record(id(0, 5), Event::Refused(409)).unwrap();
        ledger.sync().unwrap();
    }

    fn acked(history: &History) -> usize {
        history.requests.values().filter(|standing| **standing == Standing::Acked).count()
    }

    #[test]
    fn what_was_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let history = History::read(folder.path()).unwrap();
        assert_eq!(history.requests.len(), 10);
        assert_eq!(acked(&history), 5);
        assert_eq!(history.refused, BTreeMap::from([(409, 1)]));
        assert_eq!((history.next_round(), history.torn_size), (1, 0));
    }

    /// Cut the file at every byte: whole records before the cut survive, the rest goes, and
    /// writing goes on at a record boundary.
    #[test]
    fn a_torn_tail_is_cut_off_and_writing_goes_on() {
        for torn in 1..3 * RECORD_SIZE as u64 {
            let folder = tempfile::tempdir().unwrap();
            written(folder.path());
            let path = folder.path().join("requests.log");
            let log = OpenOptions::new().write(true).open(&path).unwrap();
            let size = log.metadata().unwrap().len();
            log.set_len(size - torn).unwrap();
            let lost = torn.div_ceil(RECORD_SIZE as u64);
            let (ledger, history) = Ledger::open(folder.path(), &scenario()).unwrap();
            assert_eq!(acked(&history), 5.min(6 - lost as usize), "{torn} bytes torn");
            ledger.record(id(7, 7), Event::Sent).unwrap();
            let history = History::read(folder.path()).unwrap();
            assert_eq!((history.requests.len(), history.torn_size), (11, 0));
            assert_eq!(history.next_round(), 8);
        }
    }

    #[test]
    fn a_flipped_bit_anywhere_ends_the_good_part() {
        let good = encode(id(3, 4), Event::Acked(204));
        assert_eq!(decode(&good), Some((id(3, 4), Event::Acked(204))));
        for bit in 0..RECORD_SIZE * 8 {
            let mut bad = good;
            bad[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode(&bad), None, "bit {bit}");
        }
        assert_eq!(decode(&[0; RECORD_SIZE]), None, "zeros are no record");
    }

    #[test]
    fn another_stream_is_refused_another_pace_is_not() {
        let folder = tempfile::tempdir().unwrap();
        written(folder.path());
        let longer = Scenario { rounds: 1000, connections: 9, ..scenario() };
        assert!(Ledger::open(folder.path(), &longer).is_ok());
        let other = Scenario { seed: 1, ..scenario() };
        assert!(Ledger::open(folder.path(), &other).is_err());
    }
}
