//! `meta.json`: what a block holds and where it came from, in Prometheus's form with Thanos's section.
//!
//! Keys that are not known here are kept, so that a rewritten file loses nothing of what others put there.

use model::time::{TimeRange, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use ulid::Ulid;

/// The description of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockMeta {
    /// The block's id and the name of its folder.
    pub ulid: Ulid,
    /// First millisecond of the block's span.
    pub min_time: Timestamp,
    /// First millisecond after the block's span.
    pub max_time: Timestamp,
    /// What it holds.
    #[serde(default)]
    pub stats: BlockStats,
    /// Where it came from.
    #[serde(default)]
    pub compaction: Compaction,
    /// Version of this description, 1.
    pub version: u32,
    /// Thanos's part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub thanos: Option<ThanosMeta>,
    /// Keys not known here.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// What a block holds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BlockStats {
    /// Samples of both kinds.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_samples: u64,
    /// Floats.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_float_samples: u64,
    /// Native histograms.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_histogram_samples: u64,
    /// Series.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_series: u64,
    /// Chunks.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_chunks: u64,
    /// Deleted intervals.
    #[serde(skip_serializing_if = "is_zero")]
    pub num_tombstones: u64,
    /// Keys not known here.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Where a block came from.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Compaction {
    /// 1 for a block cut from a head, then one more with each compaction.
    pub level: u32,
    /// The level-1 blocks whose samples are in it; a level-1 block names itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Ulid>,
    /// Whether the block is empty and can go.
    #[serde(skip_serializing_if = "is_false")]
    pub deletable: bool,
    /// The blocks that it was directly made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parents: Vec<BlockParent>,
    /// Whether compacting it failed before.
    #[serde(skip_serializing_if = "is_false")]
    pub failed: bool,
    /// What else a compactor should know, such as `from-out-of-order`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hints: Vec<String>,
    /// Keys not known here.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// A block that another was made of.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BlockParent {
    /// Its id.
    pub ulid: Ulid,
    /// First millisecond of its span.
    pub min_time: Timestamp,
    /// First millisecond after its span.
    pub max_time: Timestamp,
}

/// Thanos's part of the description.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ThanosMeta {
    /// Version of this part.
    #[serde(skip_serializing_if = "is_zero_u32")]
    pub version: u32,
    /// External labels: which stream of blocks this one belongs to.
    pub labels: BTreeMap<String, String>,
    /// Resolution of the samples.
    pub downsample: Downsample,
    /// What made the block, such as `receive` or `compactor`.
    pub source: String,
    /// Names of the chunk segments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub segment_files: Vec<String>,
    /// Files of the block, sorted by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub files: Vec<BlockFile>,
    /// Sizes that help a reader to ask for the right ranges.
    pub index_stats: IndexSizes,
    /// When it was uploaded, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload_time: Option<String>,
    /// Keys not known here.
    #[serde(flatten)]
    pub unknown: Map<String, Value>,
}

/// Resolution of a block's samples.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Downsample {
    /// Milliseconds between samples, 0 for samples as they were sent.
    pub resolution: i64,
}

/// A file of a block.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BlockFile {
    /// Path inside the block's folder.
    pub rel_path: String,
    /// Its size; left out for the description itself, which cannot know its own.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size_bytes: u64,
    /// Its hash, when the writer was asked for one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hash: Option<FileHash>,
}

/// Hash of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct FileHash {
    /// Which function, such as `SHA256`.
    #[serde(rename = "hashFunc")]
    pub function: String,
    /// Its result in hex.
    pub value: String,
}

/// Largest sizes inside a block, 0 when unknown.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct IndexSizes {
    /// Of a series entry of the index, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub series_max_size: u64,
    /// Of a chunk in its segment with all that surrounds it, in bytes.
    #[serde(skip_serializing_if = "is_zero")]
    pub chunk_max_size: u64,
}

impl BlockMeta {
    /// A level-1 block of the span from `min_time` to before `max_time`, holding nothing yet.
    pub fn new(ulid: Ulid, min_time: Timestamp, max_time: Timestamp) -> Self {
        Self {
            ulid,
            min_time,
            max_time,
            stats: BlockStats::default(),
            compaction: Compaction {
                level: 1,
                sources: vec![ulid],
                ..Compaction::default()
            },
            version: 1,
            thanos: None,
            unknown: Map::new(),
        }
    }

    /// The same with Thanos's part: external labels and what makes the block.
    pub fn with_thanos(mut self, labels: BTreeMap<String, String>, source: &str) -> Self {
        self.thanos = Some(ThanosMeta {
            version: 1,
            labels,
            source: source.to_owned(),
            ..ThanosMeta::default()
        });
        self
    }

    /// The block's span with both ends included.
    pub fn range(&self) -> TimeRange {
        TimeRange::new(self.min_time, self.max_time.saturating_sub(1))
    }

    /// Milliseconds between samples, 0 for samples as they were sent.
    pub fn resolution(&self) -> i64 {
        self.thanos.as_ref().map_or(0, |thanos| thanos.downsample.resolution)
    }

    /// Reads a description and checks that it makes sense.
    pub fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let meta: Self = serde_json::from_slice(bytes).map_err(|error| error.to_string())?;
        if meta.version != 1 {
            return Err(format!("version {} is not supported, only version 1 is", meta.version));
        }
        if meta.min_time > meta.max_time {
            return Err(format!(
                "minTime {} lies after maxTime {}",
                meta.min_time, meta.max_time
            ));
        }
        Ok(meta)
    }

    /// The description as it is written, indented by tabs.
    pub fn to_json(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let formatter = serde_json::ser::PrettyFormatter::with_indent(b"\t");
        let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, formatter);
        // Writing to memory cannot fail, and all keys of the maps are strings.
        self.serialize(&mut serializer)
            .expect("a block description can always be written");
        bytes
    }
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

fn is_zero_u32(number: &u32) -> bool {
    *number == 0
}

fn is_false(flag: &bool) -> bool {
    !*flag
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_wrote_is_kept() {
        let text = r#"{"ulid":"01M38JHC709MT8XC2S4RTM7S74","minTime":-5,"maxTime":7200000,"stats":{"numSamples":3,"numOdd":1},
            "compaction":{"level":2,"sources":["01M38JHC709MT8XC2S4RTM7S74"],"hints":["from-out-of-order"],"why":"x"},
            "version":1,"thanos":{"labels":{"b":"2","a":"1"},"downsample":{"resolution":300000},"source":"compactor",
            "files":[{"rel_path":"index","size_bytes":9,"hash":{"hashFunc":"SHA256","value":"ab"}},{"rel_path":"meta.json"}],
            "index_stats":{"series_max_size":64},"upload_time":"0001-01-01T00:00:00Z","extensions":{"x":[1]},"rewrites":[{}]},
            "later":{"y":null}}"#;
        let meta = BlockMeta::from_json(text.as_bytes()).unwrap();
        assert_eq!(meta.resolution(), 300_000);
        assert_eq!(meta.range(), TimeRange::new(-5, 7_199_999));
        let again: Value = serde_json::from_slice(&meta.to_json()).unwrap();
        assert_eq!(again, serde_json::from_str::<Value>(text).unwrap());
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["", "{}", "[]", r#"{"ulid":"x","minTime":0,"maxTime":1,"version":1}"#] {
            assert!(BlockMeta::from_json(text.as_bytes()).is_err(), "{text}");
        }
        let mut meta = BlockMeta::new(Ulid::from_parts(1, 1), 5, 4);
        assert!(BlockMeta::from_json(&meta.to_json()).unwrap_err().contains("minTime"));
        meta.max_time = 6;
        meta.version = 2;
        assert!(BlockMeta::from_json(&meta.to_json()).unwrap_err().contains("version 2"));
    }
}
