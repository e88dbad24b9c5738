//! What a commit block holds: series, samples and cuts, coded against the block alone.
//!
//! Losing a block must cost that block and no other. So nothing in a payload refers to an earlier
//! one but the number of a series, and the labels behind a number are also in the series file.
//!
//! ## Format
//! A payload is a run of sections: `u8 kind · u32le length · bytes`.
//!
//! ```text
//! 1 series    { uvarint id · ustr tenant · ustr label region }*   labels as RW 1.0 writes them;
//!             an empty tenant is that of the series before
//! 2 samples   { control · [varint id step] · [varint time step] · value bytes
//!             | control · [varint id step] · [varint time step] · ustr histogram }*
//! 3 cuts      { ustr tenant · varint end_ms · 16 bytes ULID · 32 bytes slots }*
//! 4 floor     uvarint id      only in series files: a series below it that is not told is gone
//!
//! control     bits 0-3  n: bytes of the value that follow, big-endian from the top; the rest is 0
//!                       15: a histogram follows, as remote write's message
//!             bits 4-5  id    0 one more than the last   1 the last   2 a step follows
//!             bits 6-7  time  0 the last   1 a step follows   2 the step before, once more
//! ```
//!
//! The first sample of a block steps from id 0 and time 0. A counter or a small whole number has
//! few bytes that are not zero: a scrape in order costs two to five bytes a sample. Floats and
//! histograms lie in one section, because a series may have both and their order is that of its
//! times. A section of a kind the reader does not know stops it, because skipping it would lose
//! data silently.

use std::collections::{BTreeMap, VecDeque};

use ulid::Ulid;

use crate::model::Sample;
use crate::stdx::varint;

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
const CUTS: u8 = 3;
const FLOOR: u8 = 4;

/// In place of the number of value bytes.
const HISTOGRAM: u8 = 15;
const ID_NEXT: u8 = 0;
const ID_SAME: u8 = 1 << 4;
const ID_STEP: u8 = 2 << 4;
const TIME_SAME: u8 = 0;
const TIME_STEP: u8 = 1 << 6;
const TIME_REPEAT: u8 = 2 << 6;

/// The newest sample time of each tenant, by its position in the shard, in a block or a segment:
/// when all of them are cut, it may go.
pub(crate) type Newest = BTreeMap<u32, i64>;

/// A cut: every sample of the tenant before `end_ms` in these slots lies in finished blocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CutRecord {
    /// Whose data.
    pub(crate) tenant: String,
    /// First millisecond that is not covered.
    pub(crate) end_ms: i64,
    /// The block, or nil when the cut is only told again or the range was empty.
    pub(crate) block: Ulid,
    /// The slots it speaks of.
    pub(crate) slots: [u8; 32],
}

/// Most bytes of a sample: control, two varints, the value; rounded up.
const SAMPLE_BYTES_MAX: usize = 32;

/// The open group: records on their way into one commit block.
#[derive(Debug, Default)]
pub(crate) struct Group {
    series: Vec<u8>,
    /// How many they are.
    series_count: u64,
    /// Tenant of the last series.
    tenant: String,
    samples: Samples,
    cuts: Vec<u8>,
    /// A floor as it is written, if there is one.
    floor: Vec<u8>,
    last_id: u64,
    last_t: i64,
    last_step: i64,
}

/// The samples of the open group. The buffer is longer than what is in it, so that a sample is
/// written in stores of a fixed size and not by a call that copies one to eight bytes.
#[derive(Debug, Default)]
struct Samples {
    bytes: Vec<u8>,
    len: usize,
}

impl Samples {
    /// Room for one more sample; what is in it is left over.
    #[inline]
    fn room(&mut self) -> &mut [u8] {
        if self.bytes.len() < self.len + SAMPLE_BYTES_MAX {
            self.grow();
        }
        &mut self.bytes[self.len..][..SAMPLE_BYTES_MAX]
    }

    fn extend(&mut self, bytes: &[u8]) {
        let end = self.len + bytes.len();
        if self.bytes.len() < end {
            self.bytes.resize(end.max(2 * self.bytes.len()), 0);
        }
        self.bytes[self.len..end].copy_from_slice(bytes);
        self.len = end;
    }

    #[cold]
    fn grow(&mut self) {
        self.bytes.resize((2 * self.bytes.len()).max(128 * SAMPLE_BYTES_MAX), 0);
    }
}

impl Group {
    /// Adds a series. It must come before its first sample is committed; within a block the order
    /// does not matter, for readers take the series first.
    pub(crate) fn add_series(&mut self, id: u64, tenant: &str, region: &[u8]) {
        let told = !self.series.is_empty() && self.tenant == tenant;
        put_series(&mut self.series, id, if told { "" } else { tenant }, region);
        if !told {
            tenant.clone_into(&mut self.tenant);
        }
        self.series_count += 1;
    }

    /// How many series it tells.
    pub(crate) fn series_count(&self) -> u64 {
        self.series_count
    }

    /// Adds a sample of a series.
    #[inline]
    pub(crate) fn add_sample(&mut self, id: u64, sample: Sample) {
        let kept = 8 - (sample.bits.trailing_zeros() / 8).min(8) as usize;
        let steps = self.step(id, sample.t);
        let room = self.samples.room();
        let at = steps.write(kept as u8, room);
        room[at..at + 8].copy_from_slice(&sample.bits.to_be_bytes());
        self.samples.len += at + kept;
    }

    /// Adds a histogram of a series, as remote write's message.
    pub(crate) fn add_histogram(&mut self, id: u64, t: i64, message: &[u8]) {
        let steps = self.step(id, t);
        let room = self.samples.room();
        let mut at = steps.write(HISTOGRAM, room);
        at += varint::write_u64(&mut room[at..], message.len() as u64);
        self.samples.len += at;
        self.samples.extend(message);
    }

    /// Goes on to the next sample.
    #[inline]
    fn step(&mut self, id: u64, t: i64) -> Steps {
        let (id_step, t_step) = (id.wrapping_sub(self.last_id), t.wrapping_sub(self.last_t));
        let id_control = match id_step {
            1 => ID_NEXT,
            0 => ID_SAME,
            _ => ID_STEP,
        };
        let time_control = match t_step {
            0 => TIME_SAME,
            s if s == self.last_step => TIME_REPEAT,
            _ => TIME_STEP,
        };
        self.last_id = id;
        self.last_t = t;
        if t_step != 0 {
            self.last_step = t_step;
        }
        Steps { id: id_step, t: t_step, control: id_control | time_control }
    }

    /// Adds a cut.
    pub(crate) fn add_cut(&mut self, cut: &CutRecord) {
        varint::put_bytes(&mut self.cuts, cut.tenant.as_bytes());
        varint::put_i64(&mut self.cuts, cut.end_ms);
        self.cuts.extend_from_slice(&cut.block.to_bytes());
        self.cuts.extend_from_slice(&cut.slots);
    }

    /// Sets the floor: all series below `id` that are not gone were told before.
    pub(crate) fn set_floor(&mut self, id: u64) {
        self.floor.clear();
        varint::put_u64(&mut self.floor, id);
    }

    /// Whether there is nothing to commit.
    pub(crate) fn is_empty(&self) -> bool {
        self.len_bytes() == 0
    }

    /// Bytes gathered.
    pub(crate) fn len_bytes(&self) -> usize {
        self.series.len() + self.samples.len + self.cuts.len() + self.floor.len()
    }

    /// Appends the payload to `out` and starts anew. Buffers are kept.
    pub(crate) fn seal(&mut self, out: &mut Vec<u8>) {
        let samples = &self.samples.bytes[..self.samples.len];
        let before = [(SERIES, &*self.series), (CUTS, &*self.cuts)];
        for (kind, section) in before.into_iter().chain([(SAMPLES, samples), (FLOOR, &self.floor)])
        {
            if !section.is_empty() {
                put_section(out, kind, section);
            }
        }
        self.series.clear();
        self.series_count = 0;
        self.cuts.clear();
        self.floor.clear();
        self.samples.len = 0;
        (self.last_id, self.last_t, self.last_step) = (0, 0, 0);
    }
}

/// How far a sample is from the one before.
struct Steps {
    id: u64,
    t: i64,
    control: u8,
}

impl Steps {
    /// Writes what comes before a value; returns its length.
    #[inline]
    fn write(&self, kind: u8, room: &mut [u8]) -> usize {
        room[0] = self.control | kind;
        let mut at = 1;
        if self.control & 0x30 == ID_STEP {
            at += varint::write_i64(&mut room[at..], self.id as i64);
        }
        if self.control & 0xc0 == TIME_STEP {
            at += varint::write_i64(&mut room[at..], self.t);
        }
        at
    }
}

/// Bytes of untold series that are worth a write. They are one block, far below what a reader
/// takes.
pub(crate) const TELL_BYTES: usize = 1024 * 1024;

/// Series on their way into the series file, in groups that are a write each.
#[derive(Debug, Default)]
pub(crate) struct Untold {
    /// Oldest first.
    full: VecDeque<Group>,
    full_bytes: usize,
    open: Group,
}

impl Untold {
    /// Adds a series.
    pub(crate) fn add_series(&mut self, id: u64, tenant: &str, region: &[u8]) {
        self.open.add_series(id, tenant, region);
        if self.open.len_bytes() >= TELL_BYTES {
            let full = std::mem::take(&mut self.open);
            self.full_bytes += full.len_bytes();
            self.full.push_back(full);
        }
    }

    /// Bytes gathered.
    pub(crate) fn len_bytes(&self) -> usize {
        self.full_bytes + self.open.len_bytes()
    }

    /// Takes the oldest group; an empty one when there is none.
    pub(crate) fn take_oldest(&mut self) -> Group {
        let Some(full) = self.full.pop_front() else { return std::mem::take(&mut self.open) };
        self.full_bytes -= full.len_bytes();
        full
    }

    /// How many groups they are: one that is empty may be among them.
    pub(crate) fn groups(&self) -> usize {
        self.full.len() + 1
    }
}

fn put_section(out: &mut Vec<u8>, kind: u8, bytes: &[u8]) {
    out.push(kind);
    out.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    out.extend_from_slice(bytes);
}

fn put_series(out: &mut Vec<u8>, id: u64, tenant: &str, region: &[u8]) {
    varint::put_u64(out, id);
    varint::put_bytes(out, tenant.as_bytes());
    varint::put_bytes(out, region);
}

/// Receives the records of a payload.
pub(crate) trait Receive {
    /// A series got a number.
    fn series(&mut self, id: u64, tenant: &str, region: &[u8]);
    /// A sample of a series.
    fn sample(&mut self, id: u64, sample: Sample);
    /// A histogram of a series, as remote write's message. Whether it can be read.
    fn histogram(&mut self, id: u64, t: i64, message: &[u8]) -> bool;
    /// A range was cut.
    fn cut(&mut self, cut: CutRecord);
    /// Series below this number that were not told before are gone.
    fn floor(&mut self, id: u64);
}

/// Why a payload with a good checksum cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PayloadError {
    /// A section of a kind this version does not know.
    #[error("record kind {0} is not known: the log was written by a newer tidegate; use that one")]
    UnknownKind(u8),
    /// The bytes end early or say the impossible.
    #[error("the payload does not follow the format")]
    Malformed,
}

/// The records of a payload, read some at a time. Its checksum was good, so an error is a defect
/// or another version; nothing can be read behind one.
#[derive(Debug)]
pub(crate) struct Records<'a> {
    /// The sections not begun.
    payload: &'a [u8],
    kind: u8,
    /// What is left of the section that was begun.
    section: &'a [u8],
    /// Tenant of the series before.
    tenant: &'a str,
    id: u64,
    t: i64,
    step: i64,
}

impl<'a> Records<'a> {
    /// At the start of a payload.
    pub(crate) fn new(payload: &'a [u8]) -> Self {
        Self { payload, kind: 0, section: &[], tenant: "", id: 0, t: 0, step: 0 }
    }

    /// Hands up to `most` records on; whether there may be more.
    pub(crate) fn read(
        &mut self,
        most: usize,
        out: &mut impl Receive,
    ) -> Result<bool, PayloadError> {
        let mut left = most;
        while left > 0 {
            if self.section.is_empty() {
                if self.payload.is_empty() {
                    return Ok(false);
                }
                self.begin_section().ok_or(PayloadError::Malformed)?;
            }
            let done = match self.kind {
                SERIES => self.read_series(left, out),
                SAMPLES => self.read_samples(left, out),
                CUTS => self.read_cuts(left, out),
                FLOOR => self.read_floor(out),
                kind => return Err(PayloadError::UnknownKind(kind)),
            };
            left -= done.ok_or(PayloadError::Malformed)?;
        }
        Ok(true)
    }

    fn begin_section(&mut self) -> Option<()> {
        let (&kind, rest) = self.payload.split_first()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        (self.section, self.payload) = rest.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        (self.kind, self.tenant, self.id, self.t, self.step) = (kind, "", 0, 0, 0);
        Some(())
    }

    fn read_series(&mut self, most: usize, out: &mut impl Receive) -> Option<usize> {
        let mut done = 0;
        while done < most && !self.section.is_empty() {
            let id = varint::take_u64(&mut self.section)?;
            let told = str::from_utf8(varint::take_bytes(&mut self.section)?).ok()?;
            match (told, self.tenant) {
                ("", "") => return None,
                ("", _) => {}
                (told, _) => self.tenant = told,
            }
            out.series(id, self.tenant, varint::take_bytes(&mut self.section)?);
            done += 1;
        }
        Some(done)
    }

    fn read_samples(&mut self, most: usize, out: &mut impl Receive) -> Option<usize> {
        let Self { section: bytes, id, t, step, .. } = self;
        let mut done = 0;
        while done < most
            && let Some((&control, rest)) = bytes.split_first()
        {
            *bytes = rest;
            match control & 0x30 {
                ID_NEXT => *id = id.wrapping_add(1),
                ID_SAME => {}
                ID_STEP => *id = id.wrapping_add(varint::take_i64(bytes)? as u64),
                _ => return None,
            }
            match control & 0xc0 {
                TIME_SAME => {}
                TIME_STEP => {
                    *step = varint::take_i64(bytes)?;
                    *t = t.wrapping_add(*step);
                }
                TIME_REPEAT => *t = t.wrapping_add(*step),
                _ => return None,
            }
            done += 1;
            if control & 0x0f == HISTOGRAM {
                if !out.histogram(*id, *t, varint::take_bytes(bytes)?) {
                    return None;
                }
                continue;
            }
            let (kept, rest) = bytes.split_at_checked(usize::from(control & 0x0f))?;
            *bytes = rest;
            let mut value = [0; 8];
            value.get_mut(..kept.len())?.copy_from_slice(kept);
            out.sample(*id, Sample { t: *t, bits: u64::from_be_bytes(value) });
        }
        Some(done)
    }

    fn read_floor(&mut self, out: &mut impl Receive) -> Option<usize> {
        out.floor(varint::take_u64(&mut self.section)?);
        Some(1)
    }

    fn read_cuts(&mut self, most: usize, out: &mut impl Receive) -> Option<usize> {
        let bytes = &mut self.section;
        let mut done = 0;
        while done < most && !bytes.is_empty() {
            let tenant = str::from_utf8(varint::take_bytes(bytes)?).ok()?.to_owned();
            let end_ms = varint::take_i64(bytes)?;
            let (ulid, rest) = bytes.split_first_chunk::<16>()?;
            let (slots, rest) = rest.split_first_chunk::<32>()?;
            *bytes = rest;
            out.cut(CutRecord { tenant, end_ms, block: Ulid::from_bytes(*ulid), slots: *slots });
            done += 1;
        }
        Some(done)
    }
}

/// Reads a payload at a stretch.
pub(crate) fn read_payload(payload: &[u8], out: &mut impl Receive) -> Result<(), PayloadError> {
    Records::new(payload).read(usize::MAX, out).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::STALE_NAN_BITS;
    use proptest::prelude::*;

    #[derive(Debug, Clone, PartialEq)]
    enum Value {
        Float(Sample),
        Histogram(i64, Vec<u8>),
    }

    #[derive(Debug, Default, PartialEq)]
    struct Seen {
        series: Vec<(u64, String, Vec<u8>)>,
        samples: Vec<(u64, Value)>,
        cuts: Vec<CutRecord>,
        floors: Vec<u64>,
    }

    impl Receive for Seen {
        fn series(&mut self, id: u64, tenant: &str, region: &[u8]) {
            self.series.push((id, tenant.into(), region.into()));
        }
        fn sample(&mut self, id: u64, sample: Sample) {
            self.samples.push((id, Value::Float(sample)));
        }
        fn histogram(&mut self, id: u64, t: i64, message: &[u8]) -> bool {
            self.samples.push((id, Value::Histogram(t, message.into())));
            !message.starts_with(b"broken")
        }
        fn cut(&mut self, cut: CutRecord) {
            self.cuts.push(cut);
        }
        fn floor(&mut self, id: u64) {
            self.floors.push(id);
        }
    }

    fn value_bits() -> impl Strategy<Value = u64> {
        prop_oneof![
            any::<u64>(),
            (0..1000_i32).prop_map(|i| f64::from(i).to_bits()),
            Just(0),
            Just((-0.0_f64).to_bits()),
            Just(STALE_NAN_BITS)
        ]
    }

    fn a_sample() -> impl Strategy<Value = (u64, Value)> {
        let id = prop_oneof![0..5_u64, any::<u64>()];
        let t = prop_oneof![Just(1000), Just(2000), Just(3000), any::<i64>()];
        let message = proptest::option::weighted(0.3, any::<Vec<u8>>());
        (id, t, value_bits(), message).prop_map(|(id, t, bits, message)| {
            let float = Value::Float(Sample { t, bits });
            (id, message.map_or(float, |message| Value::Histogram(t, message)))
        })
    }

    proptest! {
        #[test]
        fn a_group_comes_back(
            samples in proptest::collection::vec(a_sample(), 0..50),
            series in proptest::collection::vec(
                (any::<u64>(), "[ab]{1,2}", any::<Vec<u8>>()), 0..5
            ),
            end_ms in any::<i64>(),
            floor in proptest::option::of(any::<u64>()),
            slice in 1..20_usize,
        ) {
            let cut = CutRecord { tenant: "t".into(), end_ms, block: Ulid::nil(), slots: [3; 32] };
            let mut group = Group::default();
            let mut out = Vec::new();
            for round in 0..2 {
                for (id, tenant, region) in &series {
                    group.add_series(*id, tenant, region);
                }
                for (id, value) in &samples {
                    match value {
                        Value::Float(sample) => group.add_sample(*id, *sample),
                        Value::Histogram(t, message) => group.add_histogram(*id, *t, message),
                    }
                }
                group.add_cut(&cut);
                if let Some(id) = floor {
                    group.set_floor(id);
                }
                prop_assert_eq!(group.series_count(), series.len() as u64);
                out.clear();
                group.seal(&mut out);
                prop_assert!(group.is_empty(), "round {round}");
            }
            let mut seen = Seen::default();
            let mut records = Records::new(&out);
            while records.read(slice, &mut seen).expect("a readable payload") {}
            let floors = floor.into_iter().collect();
            prop_assert_eq!(seen, Seen { series, samples, cuts: vec![cut], floors });
        }

        #[test]
        fn garbage_is_an_error_and_nothing_else(bytes in any::<Vec<u8>>()) {
            let _ = read_payload(&bytes, &mut Seen::default());
        }
    }

    #[test]
    fn a_histogram_that_cannot_be_read_stops_the_payload() {
        let mut group = Group::default();
        group.add_histogram(1, 1000, b"broken");
        group.add_sample(1, Sample::new(2000, 1.0));
        let mut out = Vec::new();
        group.seal(&mut out);
        let mut seen = Seen::default();
        assert_eq!(read_payload(&out, &mut seen), Err(PayloadError::Malformed));
        assert_eq!(seen.samples.len(), 1);
    }

    #[test]
    fn a_scrape_in_order_is_small() {
        let mut group = Group::default();
        for id in 0..1000 {
            group.add_sample(id + 1, Sample::new(1_700_000_000_000, 42.0));
        }
        assert!(group.len_bytes() <= 3 * 1000 + 20, "{}", group.len_bytes());
    }
}
