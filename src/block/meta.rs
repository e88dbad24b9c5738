//! `meta.json`: what a block is.
//!
//! ## Format
//!
//! The object of Prometheus (version 1) and in it, under `thanos`, that of Thanos (version 1), in
//! the order of fields and with the omissions of their Go code: tab-indented, with a final newline
//! as Thanos writes it. Unknown fields are ignored when reading and lost when writing again.
//!
//! Two things matter to others beyond the names: `sources` is never empty, or Thanos' duplicate
//! filter takes the block to be contained in any other and deletes it; and `thanos.labels` are the
//! external labels, by which Thanos tells whose block it is.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;
use ulid::Ulid;

use crate::model::{LabelError, Labels, TimeRange};

/// The version of both objects.
const VERSION: u32 = 1;

/// A block's `meta.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Meta {
    /// Its name, and the name of its directory.
    pub ulid: Ulid,
    /// First millisecond of its range.
    pub min_time: i64,
    /// First millisecond after its range.
    pub max_time: i64,
    /// What is in it.
    #[serde(default)]
    pub stats: Stats,
    /// Where it comes from.
    pub compaction: Compaction,
    /// Always 1.
    pub version: u32,
    /// What Thanos adds. Blocks of Prometheus do not have it.
    #[serde(default)]
    pub thanos: Thanos,
}

/// Counts of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Stats {
    /// Samples of all kinds.
    #[serde(skip_serializing_if = "is_default")]
    pub num_samples: u64,
    /// Float samples. Old blocks do not tell.
    #[serde(skip_serializing_if = "is_default")]
    pub num_float_samples: u64,
    /// Native histograms. Old blocks do not tell.
    #[serde(skip_serializing_if = "is_default")]
    pub num_histogram_samples: u64,
    /// Series.
    #[serde(skip_serializing_if = "is_default")]
    pub num_series: u64,
    /// Chunks.
    #[serde(skip_serializing_if = "is_default")]
    pub num_chunks: u64,
    /// Deleted ranges.
    #[serde(skip_serializing_if = "is_default")]
    pub num_tombstones: u64,
}

/// Where a block comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// 1 for a block of fresh samples, one more for each compaction.
    pub level: u32,
    /// The level-1 blocks it holds. Never empty in a bucket.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub sources: Vec<Ulid>,
    /// It holds nothing any more.
    #[serde(skip_serializing_if = "is_default")]
    pub deletable: bool,
    /// The blocks it was made of.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub parents: Vec<BlockDesc>,
    /// A compaction of it has failed.
    #[serde(skip_serializing_if = "is_default")]
    pub failed: bool,
    /// Such as `from-out-of-order`.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub hints: Vec<String>,
}

/// A block as another one mentions it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockDesc {
    /// Its name.
    pub ulid: Ulid,
    /// First millisecond of its range.
    pub min_time: i64,
    /// First millisecond after its range.
    pub max_time: i64,
}

/// What Thanos adds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Thanos {
    /// 1; 0 in old blocks means the same.
    pub version: u32,
    /// External labels.
    #[serde(deserialize_with = "or_null")]
    pub labels: BTreeMap<String, String>,
    /// Resolution.
    pub downsample: Downsample,
    /// Which component made it: `receive`, `compactor`, ...
    pub source: String,
    /// Names of the chunk files, in order.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub segment_files: Vec<String>,
    /// The files that are shipped, by name.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub files: Vec<MetaFile>,
    /// Rewrites by `thanos tools bucket rewrite`, kept as they are.
    #[serde(skip_serializing_if = "is_default", deserialize_with = "or_null")]
    pub rewrites: Vec<serde_json::Value>,
    /// What its readers should expect.
    pub index_stats: IndexStats,
    /// Anything, kept as it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extensions: Option<serde_json::Value>,
    /// When it was shipped. In Go this is never absent but year 1.
    #[serde(with = "upload_time")]
    pub upload_time: Option<Timestamp>,
}

/// Resolution of a block.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Downsample {
    /// Milliseconds between samples: 0 for raw, 300,000 or 3,600,000.
    pub resolution: i64,
}

/// A file of a block.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MetaFile {
    /// Its name, relative to the block.
    pub rel_path: String,
    /// Its length; not known for `meta.json` itself.
    #[serde(skip_serializing_if = "is_default")]
    pub size_bytes: u64,
    /// Its hash, where somebody wanted one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<FileHash>,
}

/// A hash of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FileHash {
    /// Such as `SHA256`.
    #[serde(rename = "hashFunc")]
    pub function: String,
    /// In hexadecimal.
    pub value: String,
}

/// How much a reader should fetch at once. 0 is unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexStats {
    /// Bytes of the longest series entry with its padding.
    #[serde(skip_serializing_if = "is_default")]
    pub series_max_size: u64,
    /// Bytes of the longest chunk record.
    #[serde(skip_serializing_if = "is_default")]
    pub chunk_max_size: u64,
}

/// What is known of a block before its first series.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetaDraft {
    /// Its name.
    pub ulid: Ulid,
    /// Its range. Every chunk must lie inside.
    pub range: TimeRange,
    /// Its external labels.
    pub labels: Labels,
    /// Where it comes from.
    pub compaction: Compaction,
    /// `thanos.source`.
    pub source: String,
    /// `thanos.extensions`.
    pub extensions: Option<serde_json::Value>,
}

impl MetaDraft {
    /// A block of fresh samples: level 1, its own source, made by a receiver.
    pub fn fresh(ulid: Ulid, range: TimeRange, labels: Labels) -> Self {
        let compaction = Compaction { level: 1, sources: vec![ulid], ..Compaction::default() };
        Self { ulid, range, labels, compaction, source: "receive".into(), extensions: None }
    }

    /// The whole, with what the writer has counted.
    pub(super) fn complete(
        self,
        stats: Stats,
        segment_files: Vec<String>,
        files: Vec<MetaFile>,
        index_stats: IndexStats,
    ) -> Meta {
        let labels = self.labels.iter().map(|(n, v)| (n.to_owned(), v.to_owned())).collect();
        Meta {
            ulid: self.ulid,
            min_time: self.range.start,
            max_time: self.range.end,
            stats,
            compaction: self.compaction,
            version: VERSION,
            thanos: Thanos {
                version: VERSION,
                labels,
                source: self.source,
                segment_files,
                files,
                index_stats,
                extensions: self.extensions,
                ..Thanos::default()
            },
        }
    }
}

/// Why bytes are not a `meta.json` of a block.
#[derive(Debug, Error)]
pub enum MetaError {
    /// Not JSON, or not this object.
    #[error("not a block's meta.json: {0}")]
    Json(#[from] serde_json::Error),
    /// A version of Prometheus' object that is not known.
    #[error("block version {version} is unknown, only {VERSION} is read")]
    Version {
        /// The version.
        version: u32,
    },
    /// A version of Thanos' object that is not known.
    #[error("version {version} of the thanos section is unknown, only {VERSION} is read")]
    ThanosVersion {
        /// The version.
        version: u32,
    },
}

impl Meta {
    /// Its range.
    pub fn range(&self) -> TimeRange {
        TimeRange { start: self.min_time, end: self.max_time }
    }

    /// Its external labels.
    pub fn external_labels(&self) -> Result<Labels, LabelError> {
        Labels::new(self.thanos.labels.clone())
    }

    /// The bytes of the file.
    pub fn encode(&self) -> Result<Vec<u8>, MetaError> {
        let mut out = Vec::new();
        let format = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        self.serialize(&mut serde_json::Serializer::with_formatter(&mut out, format))?;
        out.push(b'\n');
        Ok(out)
    }

    /// Reads the bytes of the file.
    pub fn decode(bytes: &[u8]) -> Result<Self, MetaError> {
        let meta: Self = serde_json::from_slice(bytes)?;
        if meta.version != VERSION {
            return Err(MetaError::Version { version: meta.version });
        }
        if meta.thanos.version > VERSION {
            return Err(MetaError::ThanosVersion { version: meta.thanos.version });
        }
        Ok(meta)
    }
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Go writes an empty slice or map that was never made as `null`.
fn or_null<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// A time as RFC 3339; none as Go's zero time.
mod upload_time {
    use super::{Deserialize, Deserializer, Serializer, Timestamp};
    use serde::de;

    const NEVER: &str = "0001-01-01T00:00:00Z";

    #[expect(clippy::ref_option, reason = "this is how serde's `with` calls it")]
    pub(super) fn serialize<S: Serializer>(
        time: &Option<Timestamp>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        match time {
            Some(time) => to.collect_str(time),
            None => to.serialize_str(NEVER),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<Timestamp>, D::Error> {
        let text = String::deserialize(from)?;
        if text == NEVER {
            return Ok(None);
        }
        let time = text.parse();
        time.map(Some).map_err(|e| de::Error::custom(format!("{text:?} is no time: {e}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ULID: &str = "01HF7YAT00000000000000001A";

    fn meta() -> Meta {
        let ulid = Ulid::from_string(ULID).expect("a ULID");
        let labels = Labels::new([("tenant_id", "a"), ("receive_replica", "0")]).expect("labels");
        let draft = MetaDraft::fresh(ulid, TimeRange { start: 0, end: 7_200_000 }, labels);
        let stats = Stats {
            num_samples: 10,
            num_float_samples: 10,
            num_series: 2,
            num_chunks: 2,
            ..Stats::default()
        };
        let file = |rel_path: &str, size_bytes| MetaFile {
            rel_path: rel_path.into(),
            size_bytes,
            hash: None,
        };
        let files = vec![file("chunks/000001", 86), file("index", 263), file("meta.json", 0)];
        let index_stats = IndexStats { series_max_size: 16, chunk_max_size: 39 };
        draft.complete(stats, vec!["000001".into()], files, index_stats)
    }

    /// As Go's `json.Encoder` with tabs writes the same value.
    const TEXT: &str = r#"{
	"ulid": "01HF7YAT00000000000000001A",
	"minTime": 0,
	"maxTime": 7200000,
	"stats": {
		"numSamples": 10,
		"numFloatSamples": 10,
		"numSeries": 2,
		"numChunks": 2
	},
	"compaction": {
		"level": 1,
		"sources": [
			"01HF7YAT00000000000000001A"
		]
	},
	"version": 1,
	"thanos": {
		"version": 1,
		"labels": {
			"receive_replica": "0",
			"tenant_id": "a"
		},
		"downsample": {
			"resolution": 0
		},
		"source": "receive",
		"segment_files": [
			"000001"
		],
		"files": [
			{
				"rel_path": "chunks/000001",
				"size_bytes": 86
			},
			{
				"rel_path": "index",
				"size_bytes": 263
			},
			{
				"rel_path": "meta.json"
			}
		],
		"index_stats": {
			"series_max_size": 16,
			"chunk_max_size": 39
		},
		"upload_time": "0001-01-01T00:00:00Z"
	}
}
"#;

    #[test]
    fn the_text_is_that_of_thanos() {
        let text = meta().encode().expect("JSON");
        assert_eq!(String::from_utf8_lossy(&text), TEXT);
        assert_eq!(Meta::decode(&text).expect("a meta"), meta());
        assert_eq!(meta().external_labels().expect("labels").get("tenant_id"), Some("a"));
    }

    #[test]
    fn everything_others_write_is_kept() {
        let text = r#"{"ulid":"01HF7YAT00000000000000001A","minTime":-5,"maxTime":5,
            "stats":{"numTombstones":3,"numHistogramSamples":4},
            "compaction":{"level":3,"sources":["01HF7YAT00000000000000001A"],"deletable":true,
              "parents":[{"ulid":"01HF7YAT00000000000000001A","minTime":1,"maxTime":2}],
              "failed":true,"hints":["from-out-of-order"]},
            "version":1,"thanos":{"version":1,"labels":{"a":"<&>"},
              "downsample":{"resolution":300000},
              "source":"compactor","files":[{"rel_path":"index","size_bytes":1,
                "hash":{"hashFunc":"SHA256","value":"00"}}],
              "rewrites":[{"sources":["01HF7YAT00000000000000001A"]}],"index_stats":{},
              "extensions":{"x":[1,2]},"upload_time":"2024-05-06T07:08:09.123456789Z"}}"#;
        let meta = Meta::decode(text.as_bytes()).expect("a meta");
        let again = meta.encode().expect("JSON");
        let value = |bytes| serde_json::from_slice::<serde_json::Value>(bytes).expect("JSON");
        assert_eq!(value(&again), value(text.as_bytes()));
    }

    #[test]
    fn blocks_of_prometheus_and_nulls_of_go_are_read() {
        let text = r#"{"ulid":"01HF7YAT00000000000000001A","minTime":1,"maxTime":2,"new":7,
            "stats":{},"compaction":{"level":1,"sources":null,"parents":null},"version":1}"#;
        let meta = Meta::decode(text.as_bytes()).expect("a meta");
        assert_eq!(meta.thanos, Thanos::default());
        let text = text.replace("\"version\":1}", "\"version\":1,\"thanos\":{\"labels\":null}}");
        assert_eq!(Meta::decode(text.as_bytes()).expect("a meta"), meta);
    }

    #[test]
    fn what_is_not_ours_is_refused() {
        let check = |from: &str, to: &str, want: &str| {
            assert!(TEXT.contains(from), "{from}");
            let error = Meta::decode(TEXT.replacen(from, to, 1).as_bytes()).expect_err("an error");
            assert!(error.to_string().contains(want), "{error} lacks {want:?}");
        };
        check("\"version\": 1", "\"version\": 2", "block version 2 is unknown");
        check("\"thanos\": {\n\t\t\"version\": 1", "\"thanos\": {\"version\": 2", "thanos section");
        check(ULID, "no", "not a block's");
        check("0001-01-01T00:00:00Z", "never", "no time");
        check("\"minTime\": 0,", "", "minTime");
        check("}\n", "", "not a block's");
    }
}
