//! Remote write 1.0: one pass over the message, noting where things are.
//!
//! ```text
//! WriteRequest   0a len TimeSeries                 3 metadata: counted
//! TimeSeries     0a len Label*    12 len Sample*   22 len Histogram*   3 exemplars: counted
//! Sample         09 value: double                  10 timestamp: varint
//! ```
//! (prompb `remote.proto`, `types.proto`.) Labels are stepped over by their length: what counts is
//! the region they lie in. So what is wrong *inside* a label, an exemplar, a histogram or a
//! metadata record is not found here, but by whoever reads it; all else is accepted and refused as
//! prost does with these messages, but for groups.
//!
//! ## Why
//! Prost's structs cost tens of times as much, and their strings an allocation each. Labels seen as
//! slices would cost twice the scan, for bytes that nobody needs once the hash of the region is
//! known.

use std::ops::Range;

use crate::decode::Error;
use crate::decode::protobuf::{Cursor, FIXED64, RECORD, VARINT, key};
use crate::decode::scan::{MESSAGE_BYTES_MAX, Piece, Scan, SeriesView};
use crate::model::Sample;

const TIMESERIES: u32 = key(1, RECORD);
const METADATA: u32 = key(3, RECORD);
const LABELS: u32 = key(1, RECORD);
const SAMPLES: u32 = key(2, RECORD);
const EXEMPLARS: u32 = key(3, RECORD);
const HISTOGRAMS: u32 = key(4, RECORD);
const VALUE: u32 = key(1, FIXED64);
const TIMESTAMP: u32 = key(2, VARINT);

/// The shortest record of an honest message: a sample of this century with the value 0.
const RECORD_BYTES_MIN: usize = 9;

/// Scans a message of type `prometheus.WriteRequest`. What `scan` held before is forgotten.
///
/// Every range in `scan` points into `decoded`: the labels of a series that do not lie in one piece
/// are appended to it, at most as many bytes as it had. After an error `scan` is empty.
pub fn write_request_v1(decoded: &mut Vec<u8>, scan: &mut Scan) -> Result<(), Error> {
    scan.begin(decoded.len(), RECORD_BYTES_MIN);
    let outcome = scan_request(decoded, scan);
    match outcome {
        Ok(()) if scan.pieces.is_empty() => {}
        Ok(()) => gather(decoded, scan),
        Err(_) => scan.clear(),
    }
    outcome
}

fn scan_request(decoded: &[u8], scan: &mut Scan) -> Result<(), Error> {
    if decoded.len() > MESSAGE_BYTES_MAX {
        let (declared, limit) = (decoded.len(), MESSAGE_BYTES_MAX);
        return Err(Error::DecodedTooLarge { declared, limit });
    }
    let mut request = Cursor::new(decoded);
    while !request.is_at_end() {
        match request.key()? {
            TIMESERIES => {
                let record = request.record()?;
                scan_series(request.within(record), scan)?;
            }
            METADATA => {
                request.record()?;
                scan.metadata += 1;
            }
            other => request.skip(other, &[1, 3])?,
        }
    }
    Ok(())
}

/// Scans a series. Nearly all of them are labels below 128 bytes and one sample: their path is
/// short, all others go on where it ends.
#[inline]
fn scan_series(mut series: Cursor<'_>, scan: &mut Scan) -> Result<(), Error> {
    // With this one and its first sample it may be one record too many.
    scan.check_room()?;
    let samples_start = scan.samples.len() as u32;
    let labels_start = series.at() as u32;
    series.hop_short_records(LABELS as u8);
    let labels = labels_start..series.at() as u32;
    if let Some(sample) = series.usual_sample() {
        scan.samples.push(sample);
        if series.is_at_end() {
            let samples = samples_start..scan.samples.len() as u32;
            scan.series.push(SeriesView { labels, samples });
            return Ok(());
        }
    }
    scan_rest_of_series(series, labels, samples_start, scan)
}

/// Scans what follows of a series after its first labels, and perhaps its first sample. It is kept
/// apart, so that the short path has the registers to itself.
#[inline(never)]
fn scan_rest_of_series(
    mut series: Cursor<'_>,
    mut labels: Range<u32>,
    samples_start: u32,
    scan: &mut Scan,
) -> Result<(), Error> {
    let series_index = scan.series.len() as u32;
    let mut in_pieces = false;
    while !series.is_at_end() {
        if let Some(sample) = series.usual_sample() {
            scan.push_sample(sample)?;
            continue;
        }
        let start = series.at() as u32;
        match series.key()? {
            LABELS => {
                let end = series.record()?.end as u32;
                if labels.is_empty() {
                    labels.start = start;
                } else if labels.end != start {
                    scan.push_piece(Piece { series: series_index, labels })?;
                    labels = start..start;
                    in_pieces = true;
                }
                labels.end = end;
            }
            SAMPLES => {
                let record = series.record()?;
                scan.push_sample(read_sample(series.within(record))?)?;
            }
            EXEMPLARS => {
                series.record()?;
                scan.exemplars += 1;
            }
            HISTOGRAMS => {
                let record = series.record()?;
                scan.push_histogram(record.start as u32..record.end as u32)?;
            }
            other => series.skip(other, &[1, 2, 3, 4])?,
        }
    }
    if in_pieces {
        scan.push_piece(Piece { series: series_index, labels: labels.clone() })?;
    }
    scan.series.push(SeriesView { labels, samples: samples_start..scan.samples.len() as u32 });
    Ok(())
}

/// Reads a sample of any form: fields in any order, absent ones 0, of several the last.
fn read_sample(mut record: Cursor<'_>) -> Result<Sample, Error> {
    let mut sample = Sample { t: 0, bits: 0 };
    while !record.is_at_end() {
        match record.key()? {
            VALUE => sample.bits = record.fixed64()?,
            TIMESTAMP => sample.t = record.varint()? as i64,
            other => record.skip(other, &[1, 2])?,
        }
    }
    Ok(sample)
}

/// Appends the labels of each series that has them in pieces to `decoded`, in one piece.
#[cold]
fn gather(decoded: &mut Vec<u8>, scan: &mut Scan) {
    for of_one in scan.pieces.chunk_by(|a, b| a.series == b.series) {
        let start = decoded.len() as u32;
        for piece in of_one {
            decoded.extend_from_within(piece.labels.start as usize..piece.labels.end as usize);
        }
        let series = of_one.first().and_then(|p| scan.series.get_mut(p.series as usize));
        debug_assert!(series.is_some(), "a piece is of a series");
        if let Some(series) = series {
            series.labels = start..decoded.len() as u32;
        }
    }
}
