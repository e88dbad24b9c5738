//! Blocks as promtool, a Thanos Compactor and our own reader see them.

mod damage;
mod peer;

use std::cell::Cell;
use std::path::{Path, PathBuf};

use futures_lite::future::block_on;
use tempfile::TempDir;

use crate::block::{Error, Meta, MetaDraft, Reader, Ulid, Writer, chunk_file, verify};
use crate::chunk::histogram::{self, Appended, Codec};
use crate::chunk::xor::{self, Appender, MAX_SAMPLE_BYTES};
use crate::chunk::{Chunk, Encoding};
use crate::index::{SeriesRef, tests::oracle};
use crate::model::MatchOp::{Equal, NotEqual, NotRegex, Regex};
use crate::model::histogram::{Float, Histogram, Integer, ResetHint};
use crate::model::{Labels, MatchOp, Matcher, STALE_NAN_BITS, Sample, TimeRange};
use crate::rt::{DirSink, Sink};

const RANGE: TimeRange = TimeRange { start: 0, end: 7_200_000 };

fn ulid() -> Ulid {
    Ulid::from_parts(1_700_000_000_000, 42)
}

/// An encoded float chunk that owns its bytes.
struct Owned {
    min_t: i64,
    max_t: i64,
    bytes: Vec<u8>,
}

impl Owned {
    fn new(samples: &[Sample]) -> Self {
        let mut appender = Appender::new();
        let mut bytes = vec![0; 2 + samples.len() * MAX_SAMPLE_BYTES + MAX_SAMPLE_BYTES];
        for sample in samples {
            appender.append(&mut bytes, sample.t, sample.bits);
        }
        let len = appender.finish(&mut bytes);
        bytes.truncate(len);
        let (first, last) = (samples.first(), samples.last());
        Self { min_t: first.map_or(0, |s| s.t), max_t: last.map_or(0, |s| s.t), bytes }
    }

    fn chunk(&self) -> Chunk<'_> {
        let Self { min_t, max_t, .. } = *self;
        Chunk { encoding: Encoding::Xor, min_t, max_t, bytes: &self.bytes }
    }
}

/// A series with the samples of each chunk.
struct Input {
    labels: Labels,
    chunks: Vec<Vec<Sample>>,
}

fn draft() -> MetaDraft {
    let external = Labels::new([("tenant_id", "default-tenant")]).expect("labels");
    MetaDraft::fresh(ulid(), RANGE, external)
}

async fn add<S: Sink>(writer: &mut Writer<S>, input: &Input) -> Result<(), Error> {
    let labels: Vec<_> = input.labels.iter().collect();
    let owned: Vec<Owned> = input.chunks.iter().map(|samples| Owned::new(samples)).collect();
    let chunks: Vec<Chunk<'_>> = owned.iter().map(Owned::chunk).collect();
    writer.add(&labels, &chunks).await
}

/// Writes a block below `dir`; its directory and what the writer says of it.
fn write(dir: &Path, file_bytes_max: u64, inputs: &[Input]) -> (PathBuf, Meta) {
    let target = dir.join(ulid().to_string());
    let sink = DirSink::create(&target).expect("a sink");
    let mut writer = Writer::with_file_bytes_max(sink, draft(), file_bytes_max);
    let meta = block_on(async {
        for input in inputs {
            add(&mut writer, input).await.expect("a series");
        }
        writer.finish().await.expect("a block").0
    });
    (target, meta)
}

/// Samples every 15 s from `t`, values made of `seed`.
fn samples(t: i64, count: i64, seed: u64) -> Vec<Sample> {
    let value = |i: i64| match (i + seed as i64) % 11 {
        0 => f64::NAN.to_bits(),
        1 => STALE_NAN_BITS,
        2 => f64::NEG_INFINITY.to_bits(),
        3 => (-0.0f64).to_bits(),
        _ => (seed as f64 * 0.1 + i as f64).to_bits(),
    };
    (0..count).map(|i| Sample { t: t + i * 15_000, bits: value(i) }).collect()
}

/// Some hundred series with one to four chunks, values that need quoting among them.
fn inputs() -> Vec<Input> {
    let mut inputs = Vec::new();
    for i in 0..300 {
        let pairs = [
            ("__name__", ["up", "http_requests_total", "é"][i % 3].to_owned()),
            ("instance", format!("10.0.0.{i}:9090")),
            ("job", format!("job-{}", i % 7)),
            ("path", if i % 5 == 0 { "C:\\\"x\"".to_owned() } else { String::new() }),
        ];
        let labels = Labels::new(pairs).expect("labels");
        let count = i as i64 % 4 + 1;
        let chunk = |n| samples(n * 1_800_000, 30 + i as i64 % 90, i as u64);
        inputs.push(Input { labels, chunks: (0..count).map(chunk).collect() });
    }
    inputs.sort_by(|a, b| a.labels.cmp(&b.labels));
    inputs
}

fn read(block: &Reader, at: SeriesRef) -> Input {
    let series = block.series(at).expect("a series");
    let labels = Labels::new(series.labels.iter().copied()).expect("labels");
    let chunk = |meta| {
        let (encoding, bytes) = block.chunk(meta).expect("a chunk");
        assert_eq!(encoding, Encoding::Xor);
        let reader = xor::Reader::new(bytes).expect("a chunk");
        reader.collect::<Result<Vec<_>, _>>().expect("samples")
    };
    Input { labels, chunks: series.chunks.iter().map(chunk).collect() }
}

fn assert_holds(block: &Reader, inputs: &[Input]) {
    let all = block.select(&[], &|| false).expect("all series");
    assert_eq!(all.len(), inputs.len());
    for (&at, want) in all.iter().zip(inputs) {
        let got = read(block, at);
        assert_eq!(got.labels, want.labels);
        assert_eq!(got.chunks, want.chunks, "{}", want.labels);
    }
}

#[test]
fn the_example_of_the_format_is_exact() {
    let dir = TempDir::new().expect("a directory");
    let values = [1.0f64, 1.0, 2.0, 2.5, f64::from_bits(STALE_NAN_BITS)].map(f64::to_bits);
    let times = [1000, 2000, 3000, 4001, 5001];
    let chunk = || times.iter().zip(values).map(|(&t, bits)| Sample { t, bits }).collect();
    let input = |job: &str| Input {
        labels: Labels::new([("__name__", "up"), ("job", job)]).expect("labels"),
        chunks: vec![chunk()],
    };
    let (target, meta) = write(dir.path(), chunk_file::FILE_BYTES_MAX, &[input("a"), input("b")]);
    let hex = |path: &str| {
        let bytes = std::fs::read(target.join(path)).expect("a file");
        bytes.iter().map(|b| format!("{b:02x}")).collect::<Vec<_>>().concat()
    };
    let record = "21010005d00f3ff0000000000000e8073097ffe0007683bfffc5effe800000000000407ddc1fde";
    assert_eq!(hex("chunks/000001"), format!("85bd40dd01000000{record}{record}"));
    assert_eq!(hex("tombstones"), "0130ba300100000000");
    let index = std::fs::read(target.join("index")).expect("an index");
    let meta_of = |reference| crate::index::ChunkMeta {
        min_t: 1000,
        max_t: 5001,
        reference: crate::index::ChunkRef(reference),
    };
    let labels = |job: &str| vec![("__name__".into(), "up".into()), ("job".into(), job.into())];
    let cases = [(labels("a"), vec![meta_of(8)]), (labels("b"), vec![meta_of(47)])];
    assert_eq!(index, oracle::write(&cases));
    let stored = std::fs::read(target.join("meta.json")).expect("a meta");
    assert_eq!(Meta::decode(&stored).expect("a meta"), meta);
    assert_eq!(meta.thanos.index_stats.chunk_max_size, 39);
    assert_eq!(meta.thanos.index_stats.series_max_size, 16);
    let sizes: Vec<_> =
        meta.thanos.files.iter().map(|f| (f.rel_path.as_str(), f.size_bytes)).collect();
    let want = [("chunks/000001", 86), ("index", index.len() as u64), ("meta.json", 0)];
    assert_eq!(sizes, want);
}

#[test]
fn what_was_written_is_read_and_sound() {
    let inputs = inputs();
    for (file_bytes_max, files) in [(chunk_file::FILE_BYTES_MAX, 1), (50_000, 10)] {
        let dir = TempDir::new().expect("a directory");
        let (target, meta) = write(dir.path(), file_bytes_max, &inputs);
        assert!(!dir.path().join(format!("{}.tmp-for-creation", ulid())).exists());
        let health = verify(&target).expect("a sound block");
        assert_eq!(health.stats, meta.stats);
        let samples: usize = inputs.iter().flat_map(|i| &i.chunks).map(Vec::len).sum();
        let chunks: usize = inputs.iter().map(|i| i.chunks.len()).sum();
        assert_eq!(meta.stats.num_samples, samples as u64);
        assert_eq!(meta.stats.num_float_samples, samples as u64);
        assert_eq!(meta.stats.num_chunks, chunks as u64);
        assert_eq!(meta.stats.num_series, 300);
        assert_eq!(meta.thanos.segment_files.len(), files, "{:?}", meta.thanos.segment_files);
        assert_eq!(meta.compaction.sources, [ulid()]);
        for file in &meta.thanos.files {
            let size = std::fs::metadata(target.join(&file.rel_path)).expect("a file").len();
            assert!(file.rel_path == "meta.json" || file.size_bytes == size, "{file:?}");
            assert!(!file.rel_path.starts_with("chunks") || size <= file_bytes_max, "{file:?}");
        }
        assert_holds(&Reader::open(&target).expect("a block"), &inputs);
    }
}

#[test]
fn matchers_select_what_a_plain_walk_selects() {
    let dir = TempDir::new().expect("a directory");
    let inputs = inputs();
    let (target, _) = write(dir.path(), chunk_file::FILE_BYTES_MAX, &inputs);
    let block = Reader::open(&target).expect("a block");
    let all = block.select(&[], &|| false).expect("all series");
    let check = |matchers: &[(&str, MatchOp, &str)], some: bool| {
        let matchers: Vec<Matcher> = matchers
            .iter()
            .map(|&(name, op, value)| Matcher::new(op, name, value).expect("a matcher"))
            .collect();
        let takes = |i: &Input| {
            matchers.iter().all(|m| m.matches(i.labels.get(m.name()).unwrap_or_default()))
        };
        let want: Vec<SeriesRef> =
            all.iter().zip(&inputs).filter(|(_, i)| takes(i)).map(|(&at, _)| at).collect();
        assert_eq!(block.select(&matchers, &|| false).expect("a selection"), want, "{matchers:?}");
        assert_eq!(!want.is_empty(), some, "{matchers:?}");
    };
    check(&[("__name__", Equal, "up")], true);
    check(&[("__name__", Equal, "down")], false);
    check(&[("__name__", Equal, "up"), ("job", Equal, "job-3")], true);
    check(&[("__name__", Equal, "up"), ("job", NotEqual, "job-3")], true);
    check(&[("job", NotEqual, "job-3")], true);
    check(&[("job", Regex, "job-1|job-2|nope")], true);
    check(&[("job", NotRegex, "job-1|job-2|nope")], true);
    check(&[("job", Regex, "job-[0-4]"), ("instance", Regex, ".*1.*")], true);
    check(&[("path", Equal, "")], true);
    check(&[("path", NotEqual, "")], true);
    check(&[("path", Regex, "")], true);
    check(&[("path", Regex, ".+")], true);
    check(&[("path", Regex, ".*")], true);
    check(&[("path", NotRegex, ".*")], false);
    check(&[("path", NotRegex, ".+")], true);
    check(&[("path", Regex, "|C:.*")], true);
    check(&[("path", Equal, "C:\\\"x\""), ("job", Regex, "job-0|")], true);
    check(&[("nope", Equal, "")], true);
    check(&[("nope", Equal, "x")], false);
    check(&[("nope", NotEqual, "x")], true);
    check(&[("", Equal, "")], true);
    check(&[("", Equal, "x")], false);
    let jobs: Vec<&str> = block.label_values("job").collect();
    assert_eq!(jobs, ["job-0", "job-1", "job-2", "job-3", "job-4", "job-5", "job-6"]);
    assert_eq!(block.label_names().collect::<Vec<_>>(), ["__name__", "instance", "job", "path"]);
}

#[test]
fn a_refused_series_changes_nothing() {
    let dir = TempDir::new().expect("a directory");
    let target = dir.path().join(ulid().to_string());
    let mut writer = Writer::new(DirSink::create(&target).expect("a sink"), draft());
    let input = |a: &str, chunks: &[Vec<Sample>]| Input {
        labels: Labels::new([("a", a)]).expect("labels"),
        chunks: chunks.to_vec(),
    };
    let good = [input("1", &[samples(0, 10, 4)]), input("2", &[samples(7_199_999, 1, 4)])];
    let short = [1];
    block_on(async {
        add(&mut writer, &good[0]).await.expect("a series");
        let mut refused = async |input: &Input, want: &str| {
            let error = add(&mut writer, input).await.expect_err("a refusal");
            assert!(error.to_string().contains(want), "{error} lacks {want:?}");
        };
        refused(&input("1", &[samples(0, 10, 4)]), "does not come after").await;
        refused(&input("0", &[samples(0, 10, 4)]), "does not come after").await;
        refused(&input("2", &[]), "has no chunks").await;
        refused(&input("2", &[vec![]]), "has no samples").await;
        refused(&input("2", &[samples(-1, 1, 4)]), "range [0, 7200000)").await;
        refused(&input("2", &[samples(7_200_000, 1, 4)]), "range [0, 7200000)").await;
        refused(&input("2", &[samples(0, 9, 4), samples(0, 9, 4)]), "overlaps").await;
        let chunk = Chunk { encoding: Encoding::Xor, min_t: 0, max_t: 0, bytes: &short };
        let error = writer.add(&[("a", "2")], &[chunk]).await.expect_err("a refusal");
        assert!(error.to_string().contains("too short"), "{error}");
        add(&mut writer, &good[1]).await.expect("a series");
        writer.finish().await.expect("a block");
    });
    verify(&target).expect("a sound block");
    assert_holds(&Reader::open(&target).expect("a block"), &good);
}

#[test]
fn nothing_is_published_before_the_end() {
    let dir = TempDir::new().expect("a directory");
    let target = dir.path().join(ulid().to_string());
    let writer = Writer::new(DirSink::create(&target).expect("a sink"), draft());
    assert!(matches!(block_on(writer.finish()), Err(Error::NoSeries)));
    let mut writer = Writer::new(DirSink::create(&target).expect("a sink"), draft());
    block_on(add(&mut writer, &inputs()[0])).expect("a series");
    drop(writer);
    assert!(!target.exists());
    let (target, _) = write(dir.path(), chunk_file::FILE_BYTES_MAX, &inputs());
    verify(&target).expect("a sound block in spite of what was left over");
}

/// A chunk of empty histograms at some times.
fn of_histograms<K: Codec>(times: std::ops::Range<i64>) -> Vec<u8> {
    let mut tail = Vec::new();
    let empty = Histogram::<K>::default();
    let mut appender =
        histogram::Appender::open(&mut tail, ResetHint::Unknown, times.start, &empty);
    for t in times.skip(1) {
        assert!(matches!(appender.append(&mut tail, t, &empty), Appended::Done));
    }
    appender.finish(&mut tail);
    tail
}

#[test]
fn histogram_chunks_are_copied_and_counted() {
    let dir = TempDir::new().expect("a directory");
    let target = dir.path().join(ulid().to_string());
    let mut writer = Writer::new(DirSink::create(&target).expect("a sink"), draft());
    let (integer, float) = (of_histograms::<Integer>(0..3), of_histograms::<Float>(3..7));
    let chunk = |encoding, min_t, max_t, bytes| Chunk { encoding, min_t, max_t, bytes };
    let chunks = [
        chunk(Encoding::Histogram, 0, 2, &integer[..]),
        chunk(Encoding::FloatHistogram, 3, 6, &float),
        chunk(Encoding::Xor, 7, 7, &[0, 1, 14, 0, 0, 0, 0, 0, 0, 0, 0]),
    ];
    let meta = block_on(async {
        writer.add(&[("a", "1")], &chunks).await.expect("a series");
        writer.finish().await.expect("a block").0
    });
    assert_eq!(meta.stats.num_samples, 8);
    assert_eq!((meta.stats.num_float_samples, meta.stats.num_histogram_samples), (1, 7));
    assert_eq!(verify(&target).expect("a sound block").stats, meta.stats);
    let block = Reader::open(&target).expect("a block");
    let all = block.select(&[], &|| false).expect("all series");
    let series = block.series(all[0]).expect("a series");
    for (meta, want) in series.chunks.iter().zip(&chunks) {
        assert_eq!(block.chunk(meta).expect("a chunk"), (want.encoding, want.bytes));
    }
}

#[test]
fn a_chunk_of_histograms_must_be_what_its_index_says() {
    let bytes = of_histograms::<Integer>(0..3);
    for (min_t, max_t, bytes) in [(1, 2, &bytes[..]), (0, 3, &bytes), (0, 2, &bytes[..4])] {
        let dir = TempDir::new().expect("a directory");
        let target = dir.path().join(ulid().to_string());
        let mut writer = Writer::new(DirSink::create(&target).expect("a sink"), draft());
        let chunk = Chunk { encoding: Encoding::Histogram, min_t, max_t, bytes };
        block_on(async {
            writer.add(&[("a", "1")], &[chunk]).await.expect("a series");
            writer.finish().await.expect("a block");
        });
        let fault = verify(&target).expect_err("it is not so").to_string();
        assert!(fault.contains("time") || fault.contains("chunk"), "{fault}");
    }
}

/// A sink that keeps nothing but the order of calls, and fails at one of them.
#[derive(Default)]
struct Recorder {
    calls: Vec<(&'static str, usize)>,
    fails_at: usize,
}

impl Recorder {
    fn call(&mut self, name: &'static str, size: usize) -> std::io::Result<()> {
        self.calls.push((name, size));
        if self.calls.len() == self.fails_at {
            return Err(std::io::Error::other("no room"));
        }
        Ok(())
    }
}

impl Sink for &mut Recorder {
    async fn begin(&mut self, _: &str) -> std::io::Result<()> {
        self.call("begin", 0)
    }

    async fn write(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.call("write", bytes.len())
    }

    async fn end(&mut self) -> std::io::Result<()> {
        self.call("end", 0)
    }

    async fn publish(&mut self) -> std::io::Result<()> {
        self.call("publish", 0)
    }
}

fn record(fails_at: usize, inputs: &[Input]) -> (Recorder, Result<Meta, Error>) {
    let mut recorder = Recorder { fails_at, ..Recorder::default() };
    let mut writer = Writer::with_file_bytes_max(&mut recorder, draft(), 200_000);
    let meta = block_on(async {
        for input in inputs {
            add(&mut writer, input).await?;
        }
        Ok(writer.finish().await?.0)
    });
    (recorder, meta)
}

#[test]
fn a_failing_sink_ends_the_block_unpublished() {
    let inputs = &inputs()[..20];
    let (whole, meta) = record(0, inputs);
    meta.expect("a block");
    let files = whole.calls.iter().filter(|(name, _)| *name == "begin").count();
    assert_eq!(files, 4, "chunks, index, tombstones, meta.json");
    assert_eq!(whole.calls.last(), Some(&("publish", 0)));
    for fails_at in 1..=whole.calls.len() {
        let (recorder, meta) = record(fails_at, inputs);
        let error = meta.expect_err("an error");
        assert!(matches!(error, Error::Io { .. }), "{error}");
        assert_eq!(recorder.calls, whole.calls[..fails_at], "it goes on after an error");
    }
}

#[test]
fn chunks_leave_as_they_come() {
    let (recorder, meta) = record(0, &inputs());
    let written: u64 = recorder.calls.iter().map(|(_, size)| *size as u64).sum();
    let meta = meta.expect("a block");
    let shipped: u64 = meta.thanos.files.iter().map(|file| file.size_bytes).sum();
    assert_eq!(written, shipped + 9 + meta.encode().expect("JSON").len() as u64);
    let most = (64 << 10) + meta.thanos.index_stats.chunk_max_size as usize;
    assert!(recorder.calls.iter().all(|(_, size)| *size <= most), "{:?}", recorder.calls);
    assert!(written > 400_000, "{written} bytes try nothing");
}

/// Whoever has left is noticed among the values of one label, not only at their end.
#[test]
fn a_pattern_is_given_up_when_nobody_waits() {
    let dir = TempDir::new().expect("a directory");
    let of = |i| {
        let pairs = [("__name__", "up".to_owned()), ("path", format!("/{i:04}"))];
        Input { labels: Labels::new(pairs).expect("labels"), chunks: vec![samples(0, 1, i)] }
    };
    let inputs: Vec<Input> = (0..3000).map(of).collect();
    let (target, _) = write(dir.path(), chunk_file::FILE_BYTES_MAX, &inputs);
    let block = Reader::open(&target).expect("a block");
    for (op, value) in [(Regex, "/[0-9]+"), (NotRegex, "/[0-9]+"), (Regex, ".*5"), (NotEqual, "")] {
        let matchers = [Matcher::new(op, "path", value).expect("a matcher")];
        for (leaves_after, looks) in [(usize::MAX, 3), (1, 2)] {
            let looked = Cell::new(0);
            let unwanted = || looked.replace(looked.get() + 1) >= leaves_after;
            let found = block.select(&matchers, &unwanted);
            assert_eq!(looked.get(), looks, "{op} {value}");
            assert_eq!(matches!(found, Err(Error::Unwanted)), looks == 2, "{found:?}");
        }
    }
}
