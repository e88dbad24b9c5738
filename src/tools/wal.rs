//! `tidegate inspect wal PATH...`: what a log holds, block by block summed up, and what is damaged.
//!
//! A path is a segment, a folder of segments, or a data directory, also one that is in use: then
//! the last block may be seen half written, as a torn tail. The exit code is not zero when
//! something is damaged or of another format; a torn tail is no damage.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::model::Sample;
use crate::rt::files;
use crate::shard::wal::format::{FORMAT_VERSION, SegmentHeader};
use crate::shard::wal::reader::{Position, SegmentEnd, read_segment};
use crate::shard::wal::record::{CutRecord, Receive, read_payload};
use crate::shard::wal::writer::segment_number;

/// Why an inspection ended without a good word.
#[derive(Debug, Error)]
pub enum InspectError {
    /// A path cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// There is no segment.
    #[error(
        "{} is or holds no log segment: give a data directory, a folder of segments, or a file \
         named like 0000000000000001.log", .0.display()
    )]
    NoSegments(PathBuf),
    /// Segments are of a format that is not known here.
    #[error(
        "{segments} segments are of another format than {FORMAT_VERSION}, which this version \
         reads: use the tidegate that wrote them, or a newer one"
    )]
    Format {
        /// How many.
        segments: usize,
    },
    /// Something is damaged.
    #[error("{0} places are damaged, see above")]
    Damaged(usize),
    /// The answer cannot be written.
    #[error("cannot write the answer: {0}")]
    Print(#[from] io::Error),
}

/// Sums of one segment.
#[derive(Debug, Default)]
struct Sums {
    series: u64,
    samples: u64,
    histograms: u64,
    cuts: u64,
    min_t: Option<i64>,
    max_t: Option<i64>,
}

impl Sums {
    fn at(&mut self, t: i64) {
        self.min_t = Some(self.min_t.map_or(t, |min| min.min(t)));
        self.max_t = Some(self.max_t.map_or(t, |max| max.max(t)));
    }
}

impl Receive for Sums {
    fn series(&mut self, _: u64, _: &str, _: &[u8]) {
        self.series += 1;
    }

    fn sample(&mut self, _: u64, sample: Sample) {
        self.samples += 1;
        self.at(sample.t);
    }

    fn histogram(&mut self, _: u64, t: i64, _: &[u8]) {
        self.histograms += 1;
        self.at(t);
    }

    fn cut(&mut self, _: CutRecord) {
        self.cuts += 1;
    }

    fn floor(&mut self, _: u64) {}
}

/// Prints what the logs at `paths` hold to standard output.
pub fn inspect_wal(paths: &[PathBuf]) -> Result<(), InspectError> {
    let mut out = io::stdout().lock();
    let mut found = Found::default();
    for path in paths {
        let logs = logs_at(path)?;
        if logs.is_empty() {
            return Err(InspectError::NoSegments(path.clone()));
        }
        for segments in logs {
            print_log(&segments, &mut found, &mut out)?;
        }
    }
    match found {
        Found { damaged: 1.., .. } => Err(InspectError::Damaged(found.damaged)),
        Found { of_other_format: 1.., .. } => {
            Err(InspectError::Format { segments: found.of_other_format })
        }
        _ => Ok(()),
    }
}

/// What is not as it should be.
#[derive(Debug, Default)]
struct Found {
    damaged: usize,
    of_other_format: usize,
}

/// The logs a path stands for, each as its segments in order.
fn logs_at(path: &Path) -> Result<Vec<Vec<PathBuf>>, InspectError> {
    if is_segment(path) {
        return Ok(vec![vec![path.to_owned()]]);
    }
    let read = |path: &Path| {
        let error = |source| InspectError::Read { path: path.to_owned(), source };
        // What is not there has no names; here it is a mistake.
        path.metadata().map_err(error)?;
        if path.is_dir() { files::list(path).map_err(error) } else { Ok(Vec::new()) }
    };
    let mut logs = Vec::new();
    let here: Vec<PathBuf> =
        read(path)?.iter().map(|name| path.join(name)).filter(|p| is_segment(p)).collect();
    if !here.is_empty() {
        logs.push(here);
    }
    for name in read(path)? {
        if matches!(name.as_str(), "log" | "series") || name.starts_with("shard-") {
            logs.extend(logs_at(&path.join(name))?);
        }
    }
    Ok(logs)
}

fn is_segment(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.and_then(segment_number).is_some() && path.is_file()
}

fn print_log(
    segments: &[PathBuf],
    found: &mut Found,
    out: &mut impl Write,
) -> Result<(), InspectError> {
    let Some(dir) = segments.first().and_then(|s| s.parent()) else { return Ok(()) };
    writeln!(out, "{}", dir.display())?;
    writeln!(
        out,
        "  {:>16} {:>6} {:>10} {:>8} {:>12} {:>10} {:>5} {:>14} {:>14}  state",
        "segment",
        "gen",
        "blocks",
        "series",
        "samples",
        "histograms",
        "cuts",
        "first ms",
        "last ms"
    )?;
    let mut at = Position::default();
    for path in segments {
        let error = |source| InspectError::Read { path: path.clone(), source };
        // One that was let go meanwhile: the directory is in use.
        let Some(bytes) = files::read(path).map_err(error)? else { continue };
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        let Some(number) = segment_number(name) else { continue };
        let generation = SegmentHeader::decode(&bytes).map_or(0, |header| header.generation);
        let mut sums = Sums::default();
        let end =
            read_segment(&bytes, number, &mut at, |_, payload| read_payload(payload, &mut sums));
        let state = state(&bytes, number, &end);
        found.of_other_format += usize::from(state == OTHER_FORMAT);
        let time = |t: Option<i64>| t.map_or_else(|| "-".into(), |t| t.to_string());
        writeln!(
            out,
            "  {number:>16} {generation:>6} {:>10} {:>8} {:>12} {:>10} {:>5} {:>14} {:>14}  \
             {state}",
            end.blocks,
            sums.series,
            sums.samples,
            sums.histograms,
            sums.cuts,
            time(sums.min_t),
            time(sums.max_t),
        )?;
    }
    for damage in &at.damage {
        writeln!(out, "  DAMAGED: {damage}")?;
    }
    writeln!(out, "  last block {}", at.seq)?;
    found.damaged += at.damage.len();
    Ok(())
}

const OTHER_FORMAT: &str = "ANOTHER FORMAT";

/// What a segment is, in a word or two.
fn state(bytes: &[u8], number: u64, end: &SegmentEnd) -> &'static str {
    let header = SegmentHeader::decode(bytes);
    match end {
        SegmentEnd { damaged: true, .. } => "DAMAGED",
        SegmentEnd { torn: true, .. } => "torn tail",
        SegmentEnd { blocks: 1.., .. } => "whole",
        // Without a block.
        _ if header.as_ref().is_some_and(|header| header.number == number) => "empty",
        _ if header.is_some() || bytes.iter().all(|&byte| byte == 0) => "not begun",
        _ if SegmentHeader::version(bytes).is_some() => OTHER_FORMAT,
        _ => "no header, no blocks",
    }
}
