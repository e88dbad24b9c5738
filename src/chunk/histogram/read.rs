//! Reading a chunk of histograms.

use crate::chunk::bits;
use crate::chunk::histogram::{Codec, Field, HEADER_BYTES, Track, header_of, layout};
use crate::chunk::start::Starts;
use crate::chunk::window::Xor;
use crate::chunk::{Error, Fault};
use crate::model::histogram::{Histogram, ResetHint, Side};

/// A sample as it was read. It is gone with the next.
#[derive(Debug, Clone, Copy)]
pub struct Point<'r, K: Codec> {
    /// Time, ms.
    pub t: i64,
    /// When the series began to count, ms; 0 is none, and encodings 2 and 3 have none.
    pub start_t: i64,
    /// The histogram, in the layout of the chunk. The hint of the first is unknown whatever the
    /// chunk's header says, because the chunk before may be missing; that of others is that there
    /// was no reset. Schemas above 8 are reserved, see [`Histogram::reduce_to`].
    pub histogram: &'r Histogram<K>,
}

/// Reads the samples of a chunk in order. After an error it ends.
#[derive(Debug)]
pub struct Reader<'a, K: Codec> {
    stream: bits::Reader<'a>,
    count: u16,
    /// How many samples were read.
    at: u16,
    header: ResetHint,
    starts: Starts,
    time: Track,
    counts: [K::Field; 2],
    sum: Xor,
    positive: Vec<K::Field>,
    negative: Vec<K::Field>,
    /// The last sample that was no stale marker.
    histogram: Histogram<K>,
    stale: Histogram<K>,
}

impl<'a, K: Codec> Reader<'a, K> {
    /// A reader of a payload of encoding 2 or 3. Only the header is looked at.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::behind(bytes, |[high, low, flags]| {
            (u16::from_be_bytes([high, low]), header_of(flags), Starts::default())
        })
    }

    /// A reader of a payload of encoding 5 or 6. Only the header is looked at.
    pub fn with_starts(bytes: &'a [u8]) -> Result<Self, Error> {
        Self::behind(bytes, |[high, low, starts]| {
            (u16::from_be_bytes([high & 0x3f, low]), header_of(high), Starts::new(starts))
        })
    }

    fn behind(
        bytes: &'a [u8],
        head: impl Fn([u8; HEADER_BYTES]) -> (u16, ResetHint, Starts),
    ) -> Result<Self, Error> {
        let (first, rest) = bytes
            .split_first_chunk::<HEADER_BYTES>()
            .ok_or(Error::NoHeader { len: bytes.len() })?;
        let (count, header, starts) = head(*first);
        Ok(Self {
            stream: bits::Reader::new(rest),
            count,
            at: 0,
            header,
            starts,
            time: Track::found(0),
            counts: [K::Field::found(0); 2],
            sum: Xor::found(0),
            positive: Vec::new(),
            negative: Vec::new(),
            histogram: Histogram::default(),
            stale: Histogram::stale(),
        })
    }

    /// How many samples the chunk announces.
    pub fn count(&self) -> u16 {
        self.count
    }

    /// What the chunk says of counter resets before its first sample.
    pub fn header(&self) -> ResetHint {
        self.header
    }

    /// The next sample.
    pub fn advance(&mut self) -> Option<Result<Point<'_, K>, Error>> {
        if self.at == self.count {
            return None;
        }
        let start_t = match self.read() {
            Ok(start_t) => start_t,
            Err(error) => {
                self.at = self.count;
                return Some(Err(error));
            }
        };
        let gauge = self.header == ResetHint::Gauge;
        self.histogram.hint = match self.at {
            _ if gauge => ResetHint::Gauge,
            0 => ResetHint::Unknown,
            _ => ResetHint::NotReset,
        };
        self.at += 1;
        let stale = self.sum.bits == self.stale.sum.0;
        let histogram = if stale { &self.stale } else { &self.histogram };
        Some(Ok(Point { t: self.time.raw() as i64, start_t, histogram }))
    }

    /// Reads a sample into the fields; returns its start time.
    fn read(&mut self) -> Result<i64, Error> {
        let (at, count) = (self.at, self.count);
        let before = self.time.raw() as i64;
        if at == 0 {
            layout::take(&mut self.stream, count, &mut self.histogram)?;
        }
        let read = if at == 0 { self.begin() } else { self.go_on() };
        read.and_then(|()| {
            self.histogram.count = K::count(self.counts[0].raw());
            self.histogram.zero_count = K::count(self.counts[1].raw());
            self.histogram.sum.0 = self.sum.bits;
            self.starts.take(&mut self.stream, at, self.time.raw() as i64, before)
        })
        .map_err(|fault| Error::at(fault, at, count))
    }

    /// Reads the first sample.
    fn begin(&mut self) -> Result<(), Fault> {
        self.time = Track::found(self.stream.take_varbit()? as u64);
        for count in &mut self.counts {
            *count = K::Field::found(K::take_first_count(&mut self.stream)?);
        }
        self.sum = Xor::found(self.stream.take(64)?);
        let Histogram { positive, negative, .. } = &mut self.histogram;
        for (side, fields) in [(positive, &mut self.positive), (negative, &mut self.negative)] {
            fields.reserve_exact(side.values.len());
            for stored in &mut side.values {
                let raw = K::take_first_bucket(&mut self.stream)?;
                fields.push(K::Field::found(raw));
                *stored = K::bucket(raw);
            }
        }
        Ok(())
    }

    /// Reads a later sample.
    fn go_on(&mut self) -> Result<(), Fault> {
        self.time.take(&mut self.stream)?;
        for count in &mut self.counts {
            count.take(&mut self.stream)?;
        }
        self.sum.take(&mut self.stream)?;
        if self.sum.bits == self.stale.sum.0 {
            return Ok(());
        }
        let Histogram { positive, negative, .. } = &mut self.histogram;
        for (side, fields) in [(positive, &mut self.positive), (negative, &mut self.negative)] {
            take_side::<K>(&mut self.stream, side, fields)?;
        }
        Ok(())
    }
}

fn take_side<K: Codec>(
    stream: &mut bits::Reader<'_>,
    side: &mut Side<K>,
    fields: &mut [K::Field],
) -> Result<(), Fault> {
    for (stored, field) in side.values.iter_mut().zip(fields) {
        field.take(stream)?;
        *stored = K::bucket(field.raw());
    }
    Ok(())
}
