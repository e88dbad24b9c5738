//! Remote write 2.0: the symbols are found, then each series' labels are written out.
//!
//! ```text
//! Request      22 len symbol*   2a len TimeSeries*
//! TimeSeries   0a len reference*: varints, name and value in turn
//!              12 len Sample*   1a len Histogram*   5 metadata: checked
//!              4 exemplars: counted
//! Sample       09 value: double   10 timestamp: varint   18 start timestamp: varint
//! ```
//! (prompb `io/prometheus/write/v2/types.proto`.) What comes out is what [1.0] gives: for each
//! series a label region, spelt as a sender of 1.0 spells it, so that a series has one key by
//! either version. The regions lie in a buffer of their own, histograms behind the labels of their
//! series; the message is of no use after the scan.
//!
//! Most labels of a request come many times. The second time a value comes under the same name, the
//! whole label is copied from where it was written first: one lookup and 64 bytes.
//!
//! As the reference receiver does, a series with a reference beyond the table, an odd number of
//! them, no `__name__` or nothing to store is refused alone ([`Scan::bad`]). What is wrong *inside*
//! a histogram or an exemplar is not found here; all else is accepted and refused as prost does
//! with these messages, but for groups. When a counter began is read and counted; field 6 of a
//! series said so in early drafts.
//!
//! ## Limits
//! A byte of references can stand for kilobytes of labels, so what is written out of a request has
//! a limit in bytes, beside those of [`crate::decode::scan`].
//!
//! [1.0]: crate::decode::write_request_v1

use crate::decode::protobuf::{Cursor, FIXED64, RECORD, VARINT, key};
use crate::decode::scan::{HistogramView, MESSAGE_BYTES_MAX, Scan, SeriesView, Symbol};
use crate::decode::{BadSeries, Error, SeriesError, region};
use crate::model::Sample;

const SYMBOLS: u32 = key(4, RECORD);
const TIMESERIES: u32 = key(5, RECORD);
const REFS: u32 = key(1, RECORD);
const REF: u32 = key(1, VARINT);
const SAMPLES: u32 = key(2, RECORD);
const HISTOGRAMS: u32 = key(3, RECORD);
const EXEMPLARS: u32 = key(4, RECORD);
const METADATA: u32 = key(5, RECORD);
const CREATED: u32 = key(6, VARINT);
const VALUE: u32 = key(1, FIXED64);
const TIMESTAMP: u32 = key(2, VARINT);
const START_TIMESTAMP: u32 = key(3, VARINT);
const TYPE: u32 = key(1, VARINT);
const HELP_REF: u32 = key(3, VARINT);
const UNIT_REF: u32 = key(4, VARINT);

/// Keys of what is written: `Label` in a `TimeSeries` of 1.0, name and value in a `Label`.
const LABEL: u8 = key(1, RECORD) as u8;
const NAME: u8 = key(1, RECORD) as u8;
const LABEL_VALUE: u8 = key(2, RECORD) as u8;

/// The shortest record of an honest message that has many of them: a symbol of three characters.
const RECORD_BYTES_MIN: usize = 5;
/// Bytes a label is copied by: all but the longest fit.
const LABEL_BYTES: usize = 64;
/// Keys and lengths of a label at their longest, beside name and value.
const FRAME_BYTES_MAX: usize = 16;

/// Scans a message of type `io.prometheus.write.v2.Request`. What `scan` held before is forgotten.
///
/// Every range in `scan` points into `regions`, where labels take at most `limit_bytes`. Hand that
/// buffer back as it was left: what is behind the regions is of earlier requests and is written
/// over. After an error `scan` is empty.
pub fn write_request_v2(
    message: &[u8],
    limit_bytes: usize,
    regions: &mut Vec<u8>,
    scan: &mut Scan,
) -> Result<(), Error> {
    scan.begin(message.len(), RECORD_BYTES_MIN);
    let outcome = scan_request(message, limit_bytes, regions, scan);
    if outcome.is_err() {
        scan.clear();
    }
    outcome
}

fn scan_request(
    message: &[u8],
    limit_bytes: usize,
    out: &mut Vec<u8>,
    scan: &mut Scan,
) -> Result<(), Error> {
    if message.len() > MESSAGE_BYTES_MAX {
        let (declared, limit) = (message.len(), MESSAGE_BYTES_MAX);
        return Err(Error::DecodedTooLarge { declared, limit });
    }
    find_symbols(message, scan)?;
    let symbols = std::mem::take(&mut scan.symbols);
    let limit = limit_bytes.min(MESSAGE_BYTES_MAX);
    let mut regions = Regions { message, symbols, out, at: 0, limit, pending: None, error: None };
    let outcome = scan_all_series(message, &mut regions, scan);
    scan.symbols = regions.symbols;
    outcome
}

/// Notes where the symbols are. They may stand anywhere in the message, so it is walked twice; the
/// first time series are stepped over.
fn find_symbols(message: &[u8], scan: &mut Scan) -> Result<(), Error> {
    let mut request = Cursor::new(message);
    while !request.is_at_end() {
        match request.key()? {
            SYMBOLS => {
                let at = request.at();
                let text = request.record()?;
                if scan.symbols.is_empty() && !text.is_empty() {
                    return Err(Error::FirstSymbolNotEmpty { length: text.len() });
                }
                let (at, len) = (at as u32, (text.end - at) as u32);
                scan.push_symbol(Symbol { at, len, name: 0, label_at: 0, label_len: 0 })?;
            }
            TIMESERIES => {
                request.record()?;
            }
            other => request.skip(other, &[4, 5])?,
        }
    }
    Ok(())
}

fn scan_all_series(
    message: &[u8],
    regions: &mut Regions<'_>,
    scan: &mut Scan,
) -> Result<(), Error> {
    let mut request = Cursor::new(message);
    while !request.is_at_end() {
        match request.key()? {
            TIMESERIES => {
                let record = request.record()?;
                scan_series(request.within(record), regions, scan)?;
            }
            SYMBOLS => {
                request.record()?;
            }
            other => request.skip(other, &[4, 5])?,
        }
    }
    Ok(())
}

fn scan_series(
    mut series: Cursor<'_>,
    regions: &mut Regions<'_>,
    scan: &mut Scan,
) -> Result<(), Error> {
    let (samples_start, histograms_start) = (scan.samples.len(), scan.histograms.len());
    let labels_start = regions.at;
    while !series.is_at_end() {
        if let Some(sample) = series.usual_sample() {
            scan.push_sample(sample)?;
            continue;
        }
        match series.key()? {
            REFS => {
                let record = series.record()?;
                regions.push_refs(series.within(record))?;
            }
            REF => regions.push_ref(series.varint()? as u32)?,
            SAMPLES => {
                let record = series.record()?;
                let (sample, start) = read_sample(series.within(record))?;
                scan.start_timestamps += u64::from(start != 0);
                scan.push_sample(sample)?;
            }
            HISTOGRAMS => {
                let record = series.record()?;
                scan.push_histogram(record.start as u32..record.end as u32)?;
            }
            EXEMPLARS => {
                series.record()?;
                scan.exemplars += 1;
            }
            METADATA => {
                let record = series.record()?;
                scan.metadata += u64::from(!record.is_empty());
                regions.check_metadata(series.within(record))?;
            }
            CREATED => scan.start_timestamps += u64::from(series.varint()? != 0),
            other => series.skip(other, &[1, 2, 3, 4, 5])?,
        }
    }
    if regions.at > regions.limit {
        return Err(Error::LabelsTooLarge { limit: regions.limit });
    }
    let histograms = scan.histograms.len() - histograms_start;
    let is_bare = scan.samples.len() == samples_start && histograms == 0;
    if is_bare || !regions.are_good(labels_start) {
        let error = regions.error_of(labels_start);
        let samples = (scan.samples.len() - samples_start + histograms) as u64;
        scan.samples.truncate(samples_start);
        scan.histograms.truncate(histograms_start);
        BadSeries::add(&mut scan.bad, error, samples, regions.since(labels_start));
        return Ok(());
    }
    let labels = labels_start as u32..regions.at as u32;
    let samples = samples_start as u32..scan.samples.len() as u32;
    if histograms > 0 {
        regions.copy_histograms(scan.histograms.iter_mut().skip(histograms_start))?;
    }
    scan.series.push(SeriesView { labels, samples });
    Ok(())
}

/// Reads a sample of any form, and when its counter began: fields in any order, absent ones 0, of
/// several the last.
fn read_sample(mut record: Cursor<'_>) -> Result<(Sample, i64), Error> {
    let (mut sample, mut start) = (Sample { t: 0, bits: 0 }, 0);
    while !record.is_at_end() {
        match record.key()? {
            VALUE => sample.bits = record.fixed64()?,
            TIMESTAMP => sample.t = record.varint()? as i64,
            START_TIMESTAMP => start = record.varint()? as i64,
            other => record.skip(other, &[1, 2, 3])?,
        }
    }
    Ok((sample, start))
}

/// Writes the label regions of a request.
struct Regions<'a> {
    message: &'a [u8],
    symbols: Vec<Symbol>,
    out: &'a mut Vec<u8>,
    /// Where the next label goes; what is behind is of earlier requests.
    at: usize,
    limit: usize,
    /// The name of a label of this series whose value is still to come.
    pending: Option<u32>,
    /// Why this series cannot be stored.
    error: Option<SeriesError>,
}

impl Regions<'_> {
    /// Writes the labels of packed references.
    #[inline]
    fn push_refs(&mut self, mut refs: Cursor<'_>) -> Result<(), Error> {
        while !refs.is_at_end() {
            if self.pending.is_none() {
                let (known, at) = copy_known(&self.symbols, self.out, self.at, refs.rest());
                refs.step(known);
                self.at = at;
                if refs.is_at_end() {
                    break;
                }
            }
            // More than 32 bits are cut off, as everywhere in protobuf.
            self.push_ref(refs.varint()? as u32)?;
        }
        Ok(())
    }

    /// Takes one reference: a name, or the value of the one before it.
    fn push_ref(&mut self, reference: u32) -> Result<(), Error> {
        if let Some(name) = self.pending.take() {
            return self.write_label(name, reference);
        }
        self.pending = Some(reference);
        Ok(())
    }

    /// Writes a label out, and notes where.
    #[inline(never)]
    fn write_label(&mut self, name_ref: u32, value_ref: u32) -> Result<(), Error> {
        let (name, value) = match (self.symbol(name_ref), self.symbol(value_ref)) {
            (Ok(name), Ok(value)) => (name, value),
            (Err(error), _) | (_, Err(error)) => {
                self.error.get_or_insert(error);
                return Ok(());
            }
        };
        let message = self.message;
        let text = |symbol: Symbol| {
            let (at, len) = (symbol.at as usize, symbol.len as usize);
            message.get(at..at + len).unwrap_or_default()
        };
        let (name, value) = (text(name), text(value));
        // Nobody writes an empty field.
        let size = |text: &[u8]| if text == [0] { 0 } else { 1 + text.len() };
        let content = size(name) + size(value);
        self.make_room(content + FRAME_BYTES_MAX)?;
        let start = self.at;
        self.put(&[LABEL]);
        self.put_varint(content as u64);
        for (key, text) in [(NAME, name), (LABEL_VALUE, value)] {
            if size(text) > 0 {
                self.put(&[key]);
                self.put(text);
            }
        }
        let (label_at, label_len) = (start as u32, (self.at - start) as u32);
        if let Some(symbol) = self.symbols.get_mut(value_ref as usize) {
            *symbol = Symbol { name: name_ref, label_at, label_len, ..*symbol };
        }
        Ok(())
    }

    fn symbol(&self, reference: u32) -> Result<Symbol, SeriesError> {
        let symbols = self.symbols.len();
        let symbol = self.symbols.get(reference as usize).copied();
        symbol.ok_or(SeriesError::RefOutOfRange { reference, symbols })
    }

    /// Makes room for so many bytes, and for a label to be copied by [`LABEL_BYTES`] behind them.
    fn make_room(&mut self, bytes: usize) -> Result<(), Error> {
        if self.at + bytes > self.limit + FRAME_BYTES_MAX {
            return Err(Error::LabelsTooLarge { limit: self.limit });
        }
        let end = self.at + bytes + LABEL_BYTES;
        if end > self.out.len() {
            let doubled = (2 * self.out.len()).min(self.limit + FRAME_BYTES_MAX + LABEL_BYTES);
            self.out.resize(end.max(doubled), 0);
        }
        Ok(())
    }

    /// Writes bytes for which there is room.
    fn put(&mut self, bytes: &[u8]) {
        let end = self.at + bytes.len();
        let room = self.out.get_mut(self.at..end);
        debug_assert!(room.is_some(), "room was made");
        if let Some(room) = room {
            room.copy_from_slice(bytes);
            self.at = end;
        }
    }

    fn put_varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.put(&[value as u8 | 0x80]);
            value >>= 7;
        }
        self.put(&[value as u8]);
    }

    /// Brings the messages of histograms behind the labels of their series: the message they lie
    /// in is let go.
    #[cold]
    fn copy_histograms<'v>(
        &mut self,
        histograms: impl Iterator<Item = &'v mut HistogramView>,
    ) -> Result<(), Error> {
        for view in histograms {
            let message = &view.message;
            let bytes = self.message.get(message.start as usize..message.end as usize);
            let (start, bytes) = (self.at as u32, bytes.unwrap_or_default());
            self.make_room(bytes.len())?;
            self.put(bytes);
            view.message = start..self.at as u32;
        }
        Ok(())
    }

    /// Holds the references of a metadata record against the table. Nothing of it is kept.
    fn check_metadata(&mut self, mut metadata: Cursor<'_>) -> Result<(), Error> {
        let (mut help, mut unit) = (0, 0);
        while !metadata.is_at_end() {
            match metadata.key()? {
                TYPE => {
                    metadata.varint()?;
                }
                HELP_REF => help = metadata.varint()? as u32,
                UNIT_REF => unit = metadata.varint()? as u32,
                other => metadata.skip(other, &[1, 3, 4])?,
            }
        }
        // 0 is what is not said, and without symbols the labels are refused.
        for reference in [help, unit] {
            if reference != 0
                && let Err(error) = self.symbol(reference)
            {
                self.error.get_or_insert(error);
            }
        }
        Ok(())
    }

    /// The region from here on.
    fn since(&self, start: usize) -> &[u8] {
        self.out.get(start..self.at).unwrap_or_default()
    }

    /// Whether the labels of a series are whole and name its metric.
    #[inline]
    fn are_good(&self, start: usize) -> bool {
        self.pending.is_none() && self.error.is_none() && names_metric(self.since(start))
    }

    /// Why a series cannot be stored. The next one begins afresh.
    #[cold]
    fn error_of(&mut self, start: usize) -> SeriesError {
        let odd = self.pending.take().map(|_| SeriesError::OddRefs);
        self.error.take().or(odd).unwrap_or_else(|| match self.since(start) {
            [] => SeriesError::NoLabels,
            region if !names_metric(region) => SeriesError::NoMetricName,
            _ => SeriesError::NoSamples,
        })
    }
}

/// Copies labels that were written before, up to the first that was not: how many bytes of
/// references they took, and where the labels end. Nearly all labels are of this kind, so it has
/// the registers to itself.
#[inline(never)]
fn copy_known(symbols: &[Symbol], out: &mut [u8], mut at: usize, packed: &[u8]) -> (usize, usize) {
    let mut rest = packed;
    while let Some((name, after)) = short_ref(rest)
        && let Some((value, after)) = short_ref(after)
        && let Some(symbol) = symbols.get(value as usize)
        && symbol.name == name
        && (1..=LABEL_BYTES as u32).contains(&symbol.label_len)
        && let Some(label) = out.get(symbol.label_at as usize..).and_then(<[u8]>::first_chunk)
    {
        let label: [u8; LABEL_BYTES] = *label;
        let Some(room) = out.get_mut(at..).and_then(<[u8]>::first_chunk_mut) else { break };
        *room = label;
        at += symbol.label_len as usize;
        rest = after;
    }
    (packed.len() - rest.len(), at)
}

/// Splits a reference of one or two bytes off.
#[inline]
fn short_ref(bytes: &[u8]) -> Option<(u32, &[u8])> {
    match *bytes {
        [a, ref rest @ ..] if a < 0x80 => Some((a.into(), rest)),
        [a, b, ref rest @ ..] if b < 0x80 => Some((u32::from(a & 0x7f) | u32::from(b) << 7, rest)),
        _ => None,
    }
}

/// Whether there is a `__name__`. In nearly all regions it comes first.
#[inline]
fn names_metric(region: &[u8]) -> bool {
    let is_first = region.get(2..13).is_some_and(|name| name == b"\x0a\x08__name__\x12");
    // Behind the key of the value comes its length; of two bytes, it may still be 0.
    if is_first && region.get(13).is_some_and(|length| (1..0x80).contains(length)) {
        return true;
    }
    let is_name = |(name, value): (&[u8], &[u8])| name == b"__name__" && !value.is_empty();
    region::labels(region).any(|label| label.is_ok_and(is_name))
}
