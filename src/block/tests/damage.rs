//! Blocks that are damaged or were never sound: [`verify`] must name the fault.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use super::{Input, Owned, RANGE, Reader, assert_holds, inputs, samples, ulid, verify, write};
use crate::block::chunk_file::{FILE_BYTES_MAX, HEADER, put_record};
use crate::block::meta::{IndexStats, Stats};
use crate::block::{Fault, MetaDraft};
use crate::chunk::Encoding;
use crate::index::coding::crc;
use crate::index::tests::{Case, oracle};
use crate::index::{ChunkMeta, ChunkRef, Toc};
use crate::model::Labels;

/// A block made by hand, which may be unsound.
struct Unsound {
    dir: TempDir,
    chunks: Vec<u8>,
    cases: Vec<Case>,
    stats: Stats,
}

impl Unsound {
    fn new() -> Self {
        let dir = TempDir::new().expect("a directory");
        let (chunks, cases) = (HEADER.to_vec(), Vec::new());
        Self { dir, chunks, cases, stats: Stats::default() }
    }

    /// Adds a series whose chunks have ten samples each from these times on.
    fn series(mut self, labels: &[(&str, &str)], starts: &[i64]) -> Self {
        let labels = labels.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
        let mut metas = Vec::new();
        for &start in starts {
            let chunk = Owned::new(&samples(start, 10, 4));
            let reference = ChunkRef::new(0, self.chunks.len() as u32);
            put_record(&mut self.chunks, Encoding::Xor, &chunk.bytes);
            metas.push(ChunkMeta { min_t: chunk.min_t, max_t: chunk.max_t, reference });
            self.stats.num_chunks += 1;
            self.stats.num_samples += 10;
            self.stats.num_float_samples += 10;
        }
        self.stats.num_series += 1;
        self.cases.push((labels, metas));
        self
    }

    /// Changes what the index will say of a chunk.
    fn tell(mut self, series: usize, chunk: usize, change: impl Fn(&mut ChunkMeta)) -> Self {
        change(&mut self.cases[series].1[chunk]);
        self
    }

    fn count(mut self, change: impl Fn(&mut Stats)) -> Self {
        change(&mut self.stats);
        self
    }

    /// Writes the block, its index changed at last.
    fn write(self, change: impl Fn(&mut Vec<u8>)) -> (TempDir, PathBuf) {
        let target = self.dir.path().join(ulid().to_string());
        fs::create_dir_all(target.join("chunks")).expect("a directory");
        let mut index = oracle::write(&self.cases);
        change(&mut index);
        let labels = Labels::new([("tenant_id", "a")]).expect("labels");
        let draft = MetaDraft::fresh(ulid(), RANGE, labels);
        let meta = draft.complete(self.stats, vec![], vec![], IndexStats::default());
        let put = |name: &str, bytes: &[u8]| fs::write(target.join(name), bytes).expect("a file");
        put("chunks/000001", &self.chunks);
        put("index", &index);
        put("meta.json", &meta.encode().expect("JSON"));
        (self.dir, target)
    }

    fn check(self, want: &str) {
        self.check_changed(|_| {}, want);
    }

    fn check_changed(self, change: impl Fn(&mut Vec<u8>), want: &str) {
        let (_dir, target) = self.write(change);
        match verify(&target) {
            Ok(health) => panic!("{health:?} instead of {want:?}"),
            Err(fault) => assert!(fault.to_string().contains(want), "{fault} lacks {want:?}"),
        }
    }
}

const A1: &[(&str, &str)] = &[("a", "1")];
const A2: &[(&str, &str)] = &[("a", "2"), ("b", "1")];

fn two() -> Unsound {
    Unsound::new().series(A1, &[0]).series(A2, &[0, 1_000_000])
}

/// Replaces bytes of a checksummed run and makes the checksum good again.
fn forge(index: &mut [u8], at: usize, len: usize, change: impl Fn(&mut [u8])) {
    change(&mut index[at..at + len]);
    let crc = crc(&index[at..at + len]).to_be_bytes();
    index[at + len..at + len + 4].copy_from_slice(&crc);
}

/// Offset of the bytes of the list with this number, behind its length.
fn list(index: &[u8], number: usize) -> usize {
    let reader = crate::index::Reader::open(index).expect("an index");
    let list = reader.lists().nth(number).expect("a list");
    list.offset as usize + 4
}

#[test]
fn a_sound_block_passes() {
    let (_dir, target) = two().write(|_| {});
    let health = verify(&target).expect("a sound block");
    assert_eq!((health.stats.num_series, health.stats.num_chunks), (2, 3));
    assert_eq!((health.min_t, health.max_t), (0, 1_135_000));
    assert_eq!(health.label_pairs, 3);
    let elsewhere = target.with_file_name("copy");
    fs::rename(&target, &elsewhere).expect("renamed");
    verify(&elsewhere).expect("a block in a directory of another kind");
    let other = elsewhere.with_file_name(crate::block::Ulid::nil().to_string());
    fs::rename(&elsewhere, &other).expect("renamed");
    assert!(matches!(verify(&other), Err(Fault::MetaContradicts { .. })));
}

#[test]
fn series_out_of_order_or_without_chunks_are_found() {
    Unsound::new().check("has no series");
    Unsound::new().series(A2, &[0]).series(A1, &[0]).check("does not come after");
    Unsound::new().series(A1, &[0]).series(A1, &[0]).check("does not come after");
    Unsound::new().series(A1, &[0]).series(A2, &[]).check("{a=\"2\", b=\"1\"} has no chunks");
    Unsound::new().series(&[("b", "1"), ("a", "2")], &[0]).check("not in order");
    Unsound::new().series(&[("a", "1"), ("a", "2")], &[0]).check("not in order");
    Unsound::new().series(&[("a", "")], &[0]).check("empty or not in order");
    Unsound::new().series(&[], &[0]).check("empty or not in order");
}

#[test]
fn chunks_where_they_may_not_be_are_found() {
    Unsound::new().series(A1, &[-15_000]).check("outside of the block's range");
    Unsound::new().series(A1, &[7_199_999]).check("outside of the block's range");
    // The closed end of a chunk may not be the open end of the block.
    Unsound::new().series(A1, &[7_200_000 - 9 * 15_000]).check("outside of the block's range");
    Unsound::new().series(A1, &[0, 0]).check("overlaps");
    Unsound::new().series(A1, &[0, 9 * 15_000]).check("overlaps");
    Unsound::new().series(A1, &[1_000_000, 0]).check("overlaps");
    two().tell(0, 0, |chunk| chunk.max_t = -1).check("range");
    two().tell(1, 0, |chunk| chunk.reference = ChunkRef(8)).check("lies before the chunk");
    two().tell(1, 1, |chunk| chunk.reference = ChunkRef(8)).check("lies before the chunk");
    two().tell(1, 1, |chunk| chunk.reference.0 += 1).check("chunk");
    two().tell(1, 1, |chunk| chunk.reference = ChunkRef::new(1, 8)).check("file that is missing");
    two().tell(0, 0, |chunk| chunk.reference = ChunkRef(0)).check("header of the file");
}

#[test]
fn an_index_that_lies_about_samples_is_found() {
    two().tell(0, 0, |chunk| chunk.min_t += 1).check("begins at another time");
    two().tell(0, 0, |chunk| chunk.max_t += 1).check("ends at another time");
    two().count(|stats| stats.num_samples += 1).check("numSamples = 31, the block has 30");
    two().count(|stats| stats.num_series += 1).check("numSeries = 3");
    two().count(|stats| stats.num_chunks -= 1).check("numChunks = 2");
    two().count(|stats| stats.num_histogram_samples += 1).check("30 + 1, the block has 30 + 0");
    let (_dir, target) = two().count(|stats| stats.num_float_samples = 0).write(|_| {});
    verify(&target).expect("a block of an old writer");
}

#[test]
fn samples_out_of_order_are_found() {
    let mut backwards = samples(0, 10, 4);
    backwards.swap(4, 5);
    let chunk = Owned::new(&backwards);
    let mut unsound = Unsound::new().series(A1, &[0]);
    unsound.chunks.truncate(HEADER.len());
    put_record(&mut unsound.chunks, Encoding::Xor, &chunk.bytes);
    unsound.check("times that do not ascend");
    let mut unsound = Unsound::new().series(A1, &[0]);
    unsound.chunks.truncate(HEADER.len());
    put_record(&mut unsound.chunks, Encoding::Xor, &[0, 0]);
    unsound.check("has no samples");
}

#[test]
fn postings_that_lie_are_found() {
    // The list of all series: 12 bytes, count and two ids.
    let all = |index: &mut Vec<u8>, change: fn(&mut [u8])| {
        let at = list(index, 0);
        forge(index, at, 12, change);
    };
    two().check_changed(|index| all(index, |list| list.swap(7, 11)), "not in order");
    two().check_changed(|index| all(index, |list| list[11] = list[7]), "not in order");
    two().check_changed(|index| all(index, |list| list[11] = 200), "reaches over the end");
    two().check_changed(|index| all(index, |list| list[3] = 1), "another length than it says");
    // The list of a="1" holds the first series: now the second.
    let first = |index: &mut Vec<u8>| {
        let at = list(index, 1);
        forge(index, at, 8, |list| list[7] = 4);
    };
    two().check_changed(first, "a=\"1\" are missing or do not hold");
    // A pair of the table loses its name.
    let renamed = |index: &mut Vec<u8>| {
        let toc = *crate::index::Reader::open(&index[..]).expect("an index").toc();
        let at = toc.table as usize + 4;
        let len = index.len() - Toc::BYTES - 4 - at;
        forge(index, at, len, |table| {
            let last = table.len() - 1;
            // uvarint 2 · "b" · "1" · offset of one byte, or two.
            let at = table[..last].iter().rposition(|&b| b == b'b').expect("the name");
            table[at] = b'c';
        });
    };
    two().check_changed(renamed, "c=\"1\" are missing or do not hold");
}

#[test]
fn missing_and_unsorted_symbols_are_found() {
    // The second series: uvarint length · 2 labels · symbols of a, 2, b, 1.
    let missing = |index: &mut Vec<u8>| {
        let reader = crate::index::Reader::open(&index[..]).expect("an index");
        let second = reader.all().expect("all series").nth(1).expect("a series");
        let at = second.0 as usize * 16;
        let len = usize::from(index[at]);
        forge(index, at + 1, len, |body| body[2] = 100);
    };
    two().check_changed(missing, "lacks a symbol that a series has");
    // Symbols: count · "1" · "2" · "a" · "b", two bytes each, from byte 9 on.
    let unsorted = |index: &mut Vec<u8>| forge(index, 9, 12, |symbols| symbols.swap(5, 7));
    two().check_changed(unsorted, "symbol 1 does not come after");
}

/// Verifies a block with each byte of a file changed or cut off, then whole again. `unread` are
/// the bytes that may change unseen: then the block must still hold `inputs`.
fn damage_each_byte(target: &Path, name: &str, inputs: &[Input], unread: &[usize]) {
    let path = target.join(name);
    let whole = fs::read(&path).expect("a file");
    let file = fs::File::options().write(true).open(&path).expect("a file");
    for (at, byte) in whole.iter().enumerate() {
        for mask in [0x01, 0xa0] {
            file.write_all_at(&[byte ^ mask], at as u64).expect("written");
            let sound = verify(target).is_ok();
            assert_eq!(sound, unread.contains(&at), "{name}, byte {at} ^ {mask}");
            if sound {
                assert_holds(&Reader::open(target).expect("a block"), inputs);
            }
        }
        file.write_all_at(&[*byte], at as u64).expect("written");
    }
    verify(target).expect("whole again");
    for len in (0..whole.len()).rev() {
        file.set_len(len as u64).expect("cut");
        assert!(verify(target).is_err(), "{name} cut at {len}");
    }
    fs::remove_file(&path).expect("removed");
    assert!(verify(target).is_err(), "{name} is missing");
    fs::write(&path, whole).expect("a file");
    verify(target).expect("whole again");
}

#[test]
fn every_damaged_byte_is_found() {
    let dir = TempDir::new().expect("a directory");
    let inputs = &inputs()[..3];
    let (target, _) = write(dir.path(), FILE_BYTES_MAX, inputs);
    // Three zeros in the header.
    damage_each_byte(&target, "chunks/000001", inputs, &[5, 6, 7]);
    // The padding before each series and before the lists.
    let block = Reader::open(&target).expect("a block");
    let toc = *block.index.toc();
    let index = fs::read(target.join("index")).expect("an index");
    let mut end = toc.series as usize;
    let mut unread = Vec::new();
    for id in block.index.all().expect("all series") {
        let at = id.0 as usize * 16;
        unread.extend(end..at);
        // These entries are shorter than 128 bytes: length, body, checksum.
        end = at + 1 + usize::from(index[at]) + 4;
    }
    unread.extend(end..(toc.postings as usize).next_multiple_of(4));
    drop(block);
    damage_each_byte(&target, "index", inputs, &unread);
}
