//! Block directories by hand. Their index and chunks are noise: shipping does not look inside.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ulid::Ulid;

/// 2027-01-15T08:00:00Z: the present of these tests.
pub(crate) const NOW_MS: i64 = 1_800_000_000_000;
pub(crate) const HOUR_MS: i64 = 3_600_000;

/// A ULID made `age_ms` ago.
pub(crate) fn ulid(age_ms: i64) -> Ulid {
    Ulid::from_parts((NOW_MS - age_ms) as u64, 0x1234_5678_9abc)
}

/// Bytes that differ for each seed and in each kibibyte.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let pattern: Vec<u8> = (0..127).flat_map(|_| next().to_le_bytes()).collect();
    let mut bytes = Vec::with_capacity(len + 1024);
    for n in 0..(len as u64).div_ceil(1024) {
        bytes.extend_from_slice(&n.to_le_bytes());
        bytes.extend_from_slice(&pattern);
    }
    bytes.truncate(len);
    bytes
}

/// Makes a level-1 block with chunks files of these sizes.
pub(crate) fn make(tenant_dir: &Path, ulid: Ulid, min_time_ms: i64, chunks: &[usize]) -> PathBuf {
    let dir = tenant_dir.join(ulid.to_string());
    fs::create_dir_all(dir.join("chunks")).expect("a directory");
    for (i, len) in chunks.iter().enumerate() {
        let bytes = noise(ulid.timestamp_ms() + i as u64, *len);
        fs::write(dir.join(format!("chunks/{:06}", i + 1)), bytes).expect("a chunks file");
    }
    fs::write(dir.join("index"), noise(ulid.timestamp_ms() + 99, 777)).expect("an index");
    let meta = json!({
        "ulid": ulid.to_string(),
        "minTime": min_time_ms,
        "maxTime": min_time_ms + 2 * HOUR_MS,
        "stats": { "numSamples": 240, "numSeries": 2, "numChunks": 2 },
        "compaction": { "level": 1, "sources": [ulid.to_string()] },
        "version": 1,
        "thanos": {
            "labels": { "receive_replica": "a", "tenant_id": "default-tenant" },
            "downsample": { "resolution": 0 },
            "source": "receive",
            "index_stats": { "series_max_size": 96 },
            "extensions": { "of": ["tomorrow", 1.5, null] }
        }
    });
    write_meta(&dir, &meta);
    dir
}

pub(crate) fn write_meta(dir: &Path, meta: &Value) {
    fs::write(dir.join("meta.json"), meta.to_string()).expect("meta.json");
}

pub(crate) fn read_meta(dir: &Path) -> Value {
    let bytes = fs::read(dir.join("meta.json")).expect("meta.json");
    serde_json::from_slice(&bytes).expect("JSON")
}

/// The files of a directory tree by relative path, but for those whose name starts with a dot.
pub(crate) fn tree(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut open = vec![(dir.to_owned(), String::new())];
    while let Some((at, prefix)) = open.pop() {
        let Ok(entries) = fs::read_dir(&at) else { continue };
        for entry in entries {
            let entry = entry.expect("an entry");
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') {
                continue;
            }
            if entry.path().is_dir() {
                open.push((entry.path(), format!("{prefix}{name}/")));
            } else {
                files.insert(format!("{prefix}{name}"), fs::read(entry.path()).expect("a file"));
            }
        }
    }
    files
}

/// The blocks a reader of the bucket sees (those with `meta.json`), each checked to be whole: its
/// files are those of the local block, byte for byte, and its `meta.json` tells of them.
pub(crate) fn visible(bucket: &Path, local: &Path) -> Vec<Ulid> {
    let local_files = tree(local);
    let local_meta = read_meta(local);
    let mut blocks = Vec::new();
    for entry in fs::read_dir(bucket).expect("a bucket") {
        let dir = entry.expect("an entry").path();
        if !dir.join("meta.json").exists() {
            continue;
        }
        let copy = dir.file_name().and_then(|n| n.to_str()).expect("a name");
        let files = tree(&dir);
        let meta = read_meta(&dir);
        if meta["compaction"]["sources"] != local_meta["compaction"]["sources"] {
            continue;
        }
        let mut told = Vec::new();
        let not_shipped = ["meta.json", "tombstones"];
        for (name, bytes) in local_files.iter().filter(|(n, _)| !not_shipped.contains(&n.as_str()))
        {
            assert_eq!(files.get(name), Some(bytes), "{copy}/{name}");
            told.push((name.as_str(), Some(bytes.len() as u64)));
        }
        told.push(("meta.json", None));
        assert_eq!(files.len(), told.len(), "nothing else is there");
        let listed = meta["thanos"]["files"].as_array().expect("files");
        let listed: Vec<(&str, Option<u64>)> = listed
            .iter()
            .map(|f| (f["rel_path"].as_str().expect("a path"), f["size_bytes"].as_u64()))
            .collect();
        assert_eq!(listed, told);
        assert_eq!(meta["ulid"], copy);
        blocks.push(Ulid::from_string(copy).expect("a ulid"));
    }
    blocks
}
