//! What a scan finds, the same for both versions of remote write: series as positions, samples as
//! numbers.
//!
//! ## Limits
//! Series, samples, histograms, pieces of torn label regions (1.0) and symbols (2.0) are records,
//! of at most 20 bytes of memory each. All of them together are at most as many as an honest
//! message of that length can hold, and [`RECORDS_FREE`] beyond. A hostile message can hold one per
//! two bytes; the smallest sample of this century has nine, and a series with it nineteen.

use std::ops::Range;

use crate::decode::{BadSeries, Error};
use crate::model::Sample;

/// Records that any message may have, however short it is.
pub const RECORDS_FREE: usize = 1 << 16;
/// Longest message in bytes: positions are 32 bits, and gathered labels may need as much again.
pub const MESSAGE_BYTES_MAX: usize = 1 << 31;
/// Arenas that grew beyond this are given back: one monster request must not cost its memory for
/// ever, on every core it visits.
const RECORDS_KEPT_MAX: usize = 1 << 17;

/// What one request holds. Label regions are positions in the buffer that the scan of its version
/// names. It is reused from request to request, so that in the steady state a scan allocates
/// nothing.
#[derive(Debug, Default)]
pub struct Scan {
    /// The series in the order of the message; the same labels may come more than once.
    pub series: Vec<SeriesView>,
    /// All samples, those of one series together and in the order of the message.
    pub samples: Vec<Sample>,
    /// How many exemplars there were.
    pub exemplars: u64,
    /// Native histograms, those of one series together and in the order of the message.
    pub histograms: Vec<HistogramView>,
    /// How many metadata records there were that say something.
    pub metadata: u64,
    /// How many times were said at which a counter began. Only 2.0 can.
    pub start_timestamps: u64,
    /// Series that are not in `series`, because they cannot be stored. Only 2.0 has them.
    pub bad: Vec<BadSeries>,
    /// Runs of labels of the series whose labels are not contiguous, in 1.0.
    pub(super) pieces: Vec<Piece>,
    /// The symbol table, in 2.0.
    pub(super) symbols: Vec<Symbol>,
    /// Most records of the message.
    records_max: usize,
    /// How many of these may be series and samples: all others are taken off.
    views_max: usize,
}

/// One series of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeriesView {
    /// Bytes of the label region; empty if the series has no labels.
    pub labels: Range<u32>,
    /// Samples in [`Scan::samples`].
    pub samples: Range<u32>,
}

/// One histogram of a request. Nobody has looked into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramView {
    /// Position of its series in [`Scan::series`].
    pub series: u32,
    /// Its message, in the buffer of the labels.
    pub message: Range<u32>,
}

/// One of several runs of labels of a series.
#[derive(Debug)]
pub(super) struct Piece {
    /// Position of the series in [`Scan::series`].
    pub(super) series: u32,
    /// Bytes in the decoded buffer.
    pub(super) labels: Range<u32>,
}

/// A text of the symbol table, and the label it was last the value of.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Where its length begins in the message.
    pub(super) at: u32,
    /// Bytes of length and text.
    pub(super) len: u32,
    /// Reference to the name of that label.
    pub(super) name: u32,
    /// Where that label begins among the regions.
    pub(super) label_at: u32,
    /// Its bytes; 0 if there is none yet.
    pub(super) label_len: u32,
}

impl Scan {
    /// Forgets the request and keeps the memory, unless that is unusually much.
    pub fn clear(&mut self) {
        fn empty<T>(arena: &mut Vec<T>) {
            arena.clear();
            arena.shrink_to(RECORDS_KEPT_MAX);
        }
        empty(&mut self.series);
        empty(&mut self.samples);
        empty(&mut self.histograms);
        empty(&mut self.pieces);
        empty(&mut self.symbols);
        self.bad.clear();
        self.exemplars = 0;
        self.metadata = 0;
        self.start_timestamps = 0;
    }

    /// Forgets the request before, for a message of so many bytes, with a record in
    /// `record_bytes` of them at most.
    pub(super) fn begin(&mut self, message_bytes: usize, record_bytes: usize) {
        self.clear();
        self.records_max = message_bytes / record_bytes + RECORDS_FREE;
        self.views_max = self.records_max;
    }

    /// Bytes of memory that its records take.
    pub fn record_bytes(&self) -> usize {
        size_of_val(&*self.series)
            + size_of_val(&*self.samples)
            + size_of_val(&*self.histograms)
            + size_of_val(&*self.pieces)
            + size_of_val(&*self.symbols)
    }

    /// Records that there is memory for.
    #[cfg(test)]
    pub(crate) fn room(&self) -> usize {
        self.series.capacity()
            + self.samples.capacity()
            + self.histograms.capacity()
            + self.pieces.capacity()
            + self.symbols.capacity()
    }

    /// Whether one more record may come.
    #[inline]
    pub(super) fn check_room(&self) -> Result<(), Error> {
        if self.series.len() + self.samples.len() >= self.views_max {
            return Err(Error::TooManyRecords { max: self.records_max });
        }
        Ok(())
    }

    /// Takes room for a record that is no series and no sample.
    fn take_room(&mut self) -> Result<(), Error> {
        self.check_room()?;
        self.views_max -= 1;
        Ok(())
    }

    #[inline]
    pub(super) fn push_sample(&mut self, sample: Sample) -> Result<(), Error> {
        self.check_room()?;
        self.samples.push(sample);
        Ok(())
    }

    pub(super) fn push_histogram(&mut self, message: Range<u32>) -> Result<(), Error> {
        self.take_room()?;
        self.histograms.push(HistogramView { series: self.series.len() as u32, message });
        Ok(())
    }

    pub(super) fn push_symbol(&mut self, symbol: Symbol) -> Result<(), Error> {
        self.take_room()?;
        self.symbols.push(symbol);
        Ok(())
    }

    pub(super) fn push_piece(&mut self, piece: Piece) -> Result<(), Error> {
        self.take_room()?;
        self.pieces.push(piece);
        Ok(())
    }
}
