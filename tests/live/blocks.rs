//! Blocks on disk: as our verifier, Prometheus' promtool and a reader of the bucket see them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use tidegate::block::{self, Meta, Reader, Ulid, filenames};
use tidegate::chunk::xor;

use crate::bucket::block::visible;
use crate::live::harness::{home, wait_for};
use crate::live::ledger::Ledger;
use crate::live::wire::{Labels, Samples};
use crate::peer;

/// Width of a block, and the time after its end at which it is cut.
const RANGE_MS: i64 = 2 * 60 * 60 * 1000;
const GRACE_MS: i64 = 60 * 60 * 1000;

/// A finished block.
pub(crate) struct Block {
    pub(crate) dir: PathBuf,
    pub(crate) tenant: String,
    pub(crate) meta: Meta,
}

/// The end of the last range that is cut when a tenant's newest sample has this time.
pub(crate) fn end_of_cut(newest_ms: i64) -> i64 {
    (newest_ms - GRACE_MS).div_euclid(RANGE_MS) * RANGE_MS
}

fn names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).into_iter().flatten();
    entries.map(|e| e.expect("an entry").file_name().into_string().expect("a name")).collect()
}

/// The finished blocks of a data directory.
pub(crate) fn local(data: &Path) -> Vec<Block> {
    let mut blocks = Vec::new();
    for tenant in names(&data.join("blocks")) {
        let dir = data.join("blocks").join(&tenant);
        for ulid in names(&dir).iter().filter_map(|name| filenames::block(name)) {
            let dir = dir.join(ulid.to_string());
            let meta = fs::read(dir.join(filenames::META)).expect("a meta.json");
            let meta = Meta::decode(&meta).expect("a meta.json");
            blocks.push(Block { dir, tenant: tenant.clone(), meta });
        }
    }
    blocks
}

/// The blocks of a tenant that the shipper has noted as shipped.
pub(crate) fn shipped(data: &Path, tenant: &str) -> BTreeSet<Ulid> {
    let state = data.join("blocks").join(tenant).join(tidegate::ship::STATE_FILE);
    let Ok(bytes) = fs::read(state) else { return BTreeSet::new() };
    let state: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    let uploaded = state["uploaded"].as_array().into_iter().flatten();
    uploaded.map(|ulid| ulid.as_str().and_then(|u| u.parse().ok()).expect("a ULID")).collect()
}

/// Waits until all that is to be cut of what the ledgers hold is in blocks, and all blocks are
/// noted as shipped. Whether that is right is for [`check`] to say.
pub(crate) fn wait_until_settled(data: &Path, ledgers: &[Ledger]) {
    let ends: BTreeMap<&str, i64> =
        ledgers.iter().map(|l| (l.tenant(), end_of_cut(l.newest_ms()))).collect();
    let mut before = 0;
    wait_for("all blocks, shipped", || {
        let blocks = local(data);
        let reached = ends.iter().all(|(tenant, end)| {
            blocks.iter().any(|b| b.tenant == *tenant && b.meta.max_time == *end)
        });
        let all = blocks.iter().all(|b| shipped(data, &b.tenant).contains(&b.meta.ulid));
        // Shards write one after the other.
        let still = blocks.len() == std::mem::replace(&mut before, blocks.len());
        thread::sleep(Duration::from_secs(1));
        (reached && all && still).then_some(())
    });
}

/// The finished blocks, each sound, of one range, and overlapping no other of its shard; those in
/// the default bucket are sound as well.
pub(crate) fn sound(data: &Path) -> Vec<Block> {
    let blocks = local(data);
    let mut of_shard = BTreeSet::new();
    for Block { dir, tenant, meta } in &blocks {
        block::verify(dir).unwrap_or_else(|fault| panic!("{}: {fault}", dir.display()));
        let dir = dir.display();
        assert_eq!(meta.max_time - meta.min_time, RANGE_MS, "{dir}");
        assert_eq!(meta.min_time % RANGE_MS, 0, "{dir}");
        let origin = meta.thanos.extensions.as_ref().map(ToString::to_string);
        let origin = origin.expect("the shard that wrote it");
        let only = of_shard.insert((tenant, origin, meta.min_time));
        assert!(only, "{dir} overlaps another block of its shard");
    }
    for ulid in names(&data.join("bucket")).iter().filter(|name| filenames::block(name).is_some()) {
        let dir = data.join("bucket").join(ulid);
        if dir.join(filenames::META).exists() {
            block::verify(&dir).unwrap_or_else(|fault| panic!("{}: {fault}", dir.display()));
        }
    }
    blocks
}

/// The blocks are sound, and hold together what the ledgers have up to the ends of their cuts,
/// once.
pub(crate) fn check(data: &Path, ledgers: &[Ledger]) {
    let mut stored: BTreeMap<Labels, Samples> = BTreeMap::new();
    for block in sound(data) {
        let external = block.meta.external_labels().expect("labels");
        for (mut labels, samples) in read(&block.dir) {
            labels.extend(external.iter().map(|(n, v)| (n.to_owned(), v.to_owned())));
            labels.sort();
            stored.entry(labels).or_default().extend(samples);
        }
    }
    for samples in stored.values_mut() {
        samples.sort_unstable();
    }
    for ledger in ledgers {
        let end_ms = end_of_cut(ledger.newest_ms());
        ledger.check_before(end_ms, &mut stored).expect("acked ⊆ in blocks ⊆ sent, once");
    }
    assert!(stored.is_empty(), "series that nobody sent: {:?}", stored.keys().next());
}

/// The series of a block.
fn read(dir: &Path) -> Vec<(Labels, Samples)> {
    let block = Reader::open(dir).expect("a block");
    let all = block.select(&[], &|| false).expect("all series");
    let series = all.into_iter().map(|at| {
        let series = block.series(at).expect("a series");
        let owned = |&(name, value): &(&str, &str)| (name.to_owned(), value.to_owned());
        let mut samples = Samples::new();
        for chunk in &series.chunks {
            let (_, bytes) = block.chunk(chunk).expect("a chunk");
            let read = xor::Reader::new(bytes).expect("a chunk");
            samples.extend(read.map(|s| s.expect("a sample")).map(|s| (s.t, s.bits)));
        }
        (series.labels.iter().map(owned).collect(), samples)
    });
    series.collect()
}

/// A line of promtool's dump: labels, time, bits with one NaN for all.
type Line = (String, i64, u64);

fn line(labels: &str, t: i64, value: f64) -> Line {
    let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
    (labels.to_owned(), t, bits)
}

/// Prometheus' own tool reads from the blocks, all together, what we read, sample by sample.
pub(crate) fn check_with_promtool(data: &Path) {
    let found = Command::new("promtool").arg("--version").output();
    if !peer::is_there(found, "promtool", "the blocks as Prometheus reads them") {
        return;
    }
    let shelf = home();
    fs::create_dir(shelf.path().join("wal")).expect("a directory");
    let mut want: Vec<Line> = Vec::new();
    let blocks = local(data);
    for block in &blocks {
        let name = block.meta.ulid.to_string();
        link_tree(&block.dir, &shelf.path().join(&name));
        for (labels, samples) in read(&block.dir) {
            let labels: Vec<String> =
                labels.iter().map(|(name, value)| format!("{name}={value:?}")).collect();
            let labels = format!("{{{}}}", labels.join(", "));
            want.extend(samples.iter().map(|&(t, bits)| line(&labels, t, f64::from_bits(bits))));
        }
    }
    for block in blocks.iter().rev().take(3) {
        let text = promtool(&["analyze"], shelf.path(), &[&block.meta.ulid.to_string()]);
        assert!(text.contains(&format!("Series: {}\n", block.meta.stats.num_series)), "{text}");
    }
    let text = promtool(&["dump"], shelf.path(), &[]);
    let mut got: Vec<Line> = text.lines().map(parse).collect();
    got.sort_unstable();
    want.sort_unstable();
    let differs = got.iter().zip(&want).find(|(got, want)| got != want);
    assert_eq!((got.len(), differs), (want.len(), None));
    println!("promtool reads {} samples", got.len());
}

/// The same files under another name: promtool takes no link to a directory for a block.
pub(crate) fn link_tree(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a directory");
    for name in names(from) {
        let (from, to) = (from.join(&name), to.join(&name));
        if from.is_dir() {
            link_tree(&from, &to);
        } else {
            fs::hard_link(from, to).expect("a link");
        }
    }
}

fn promtool(command: &[&str], dir: &Path, more: &[&str]) -> String {
    let output = Command::new("promtool").arg("tsdb").args(command).arg(dir).args(more).output();
    let output = output.expect("runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

/// `{labels} value time`.
fn parse(text: &str) -> Line {
    let mut parts = text.rsplitn(3, ' ');
    let mut part = || parts.next().expect("labels, a value and a time");
    let (t, value, labels) = (part(), part(), part());
    line(labels, t.parse().expect("a time"), value.parse().expect("a number"))
}

/// The bucket shows each local block once, whole, and nothing else.
pub(crate) fn check_bucket(bucket: &Path, data: &Path) {
    let blocks = local(data);
    for block in &blocks {
        let copies = visible(bucket, &block.dir);
        assert_eq!(copies.len(), 1, "{} as {copies:?}", block.dir.display());
        let copy = bucket.join(copies[0].to_string());
        block::verify(&copy).unwrap_or_else(|fault| panic!("{}: {fault}", copy.display()));
    }
    let is_visible = |name: &String| bucket.join(name).join(filenames::META).exists();
    let all = names(bucket).into_iter().filter(is_visible).count();
    assert_eq!(all, blocks.len(), "blocks in the bucket and here");
}
