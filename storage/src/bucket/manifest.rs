//! The manifest: one object that says what a listing and a thousand small reads would say.
//!
//! A gateway with an empty disk reads it and serves at once; then it lists the bucket as always, corrects what it knows, and
//! writes the manifest anew when it was missing, damaged or behind. The same form keeps what a gateway knows in its cache folder. So it is only ever a shortcut: a bucket without one, or one
//! that others write to, works the same. Its first line carries a checksum over the rest:
//!
//! ```text
//! narthex-manifest 1 <crc32c of what follows, in hex>
//! {"written": …, "blocks": [{"ulid": …, "modified": …, "files": {…}, "meta": {…}}, …]}
//! ```

use super::{BlockListing, BucketError};
use crate::block::BlockMeta;
use model::time::Timestamp;
use object_store::{ObjectMeta, ObjectStore, ObjectStoreExt as _, PutPayload, path::Path};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Name of the object. It is no ULID, so everybody else passes over it.
pub const MANIFEST_FILE: &str = "narthex-manifest.json";

/// What its first line begins with.
const FIRST_WORDS: &str = "narthex-manifest 1 ";

/// Larger manifests are neither read nor written: about a hundred thousand blocks.
const MANIFEST_BYTES_MAX: u64 = 256 << 20;

/// What a bucket held at some moment.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// When it was written.
    pub written: Timestamp,
    /// Complete blocks, marked ones included, by ULID.
    pub blocks: Vec<ManifestBlock>,
}

/// A block in a manifest.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ManifestBlock {
    /// When the newest of its objects was written.
    pub modified: Timestamp,
    /// Its objects: path inside the block, and size.
    pub files: BTreeMap<String, u64>,
    /// Its description.
    pub meta: BlockMeta,
    /// When it was marked for deletion, in seconds since the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deletion_time: Option<i64>,
}

impl ManifestBlock {
    /// The same as a listing would tell.
    pub fn listing(&self) -> BlockListing {
        BlockListing {
            ulid: self.meta.ulid,
            files: self.files.clone(),
            modified: self.modified,
        }
    }
}

impl Manifest {
    /// The object.
    pub fn to_bytes(&self) -> Result<Vec<u8>, BucketError> {
        let path = Path::from(MANIFEST_FILE);
        let json = serde_json::to_vec(self).map_err(|error| BucketError::invalid(&path, error.to_string()))?;
        let mut bytes = format!("{FIRST_WORDS}{:08x}\n", crc32c::crc32c(&json)).into_bytes();
        bytes.extend_from_slice(&json);
        Ok(bytes)
    }

    /// Reads the object; says what is wrong with it.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, String> {
        let line_end = bytes
            .iter()
            .position(|byte| *byte == b'\n')
            .ok_or("it has no first line")?;
        let (line, json) = (&bytes[..line_end], &bytes[line_end + 1..]);
        let sum = std::str::from_utf8(line)
            .ok()
            .and_then(|line| line.strip_prefix(FIRST_WORDS));
        let sum = sum
            .and_then(|sum| u32::from_str_radix(sum, 16).ok())
            .ok_or("its first line is not ours")?;
        if sum != crc32c::crc32c(json) {
            return Err("it fails its checksum".to_owned());
        }
        serde_json::from_slice(json).map_err(|error| error.to_string())
    }
}

/// Reads the manifest, with what [`manifest_tag`] says of it; `None` when there is none. One that is damaged is an error.
pub async fn read_manifest(store: &dyn ObjectStore) -> Result<Option<(Manifest, String)>, BucketError> {
    let path = Path::from(MANIFEST_FILE);
    let got = match store.get(&path).await {
        Ok(got) => got,
        Err(object_store::Error::NotFound { .. }) => return Ok(None),
        Err(error) => return Err(BucketError::store(format!("read {path}"))(error)),
    };
    if got.meta.size > MANIFEST_BYTES_MAX {
        let reason = format!("{} bytes are too many for a manifest", got.meta.size);
        return Err(BucketError::invalid(&path, reason));
    }
    let tag = tag_of(&got.meta);
    let bytes = got.bytes().await.map_err(BucketError::store(format!("read {path}")))?;
    Manifest::from_bytes(&bytes)
        .map(|manifest| Some((manifest, tag)))
        .map_err(|reason| BucketError::invalid(&path, reason))
}

/// What tells whether the manifest is still the one that was seen; `None` when there is none.
pub async fn manifest_tag(store: &dyn ObjectStore) -> Result<Option<String>, BucketError> {
    let path = Path::from(MANIFEST_FILE);
    match store.head(&path).await {
        Ok(object) => Ok(Some(tag_of(&object))),
        Err(object_store::Error::NotFound { .. }) => Ok(None),
        Err(error) => Err(BucketError::store(format!("look for {path}"))(error)),
    }
}

fn tag_of(object: &ObjectMeta) -> String {
    let tag = object.e_tag.as_deref().unwrap_or("");
    format!("{} {} {tag}", object.size, object.last_modified.timestamp_millis())
}

/// Writes the manifest and gives its tag. Several gateways may do so at the same time: each writes what it saw, and the next look
/// corrects it.
pub async fn write_manifest(store: &dyn ObjectStore, manifest: &Manifest) -> Result<String, BucketError> {
    let path = Path::from(MANIFEST_FILE);
    let bytes = manifest.to_bytes()?;
    if bytes.len() as u64 > MANIFEST_BYTES_MAX {
        return Err(BucketError::invalid(
            &path,
            "it would be too large; the bucket is listed instead",
        ));
    }
    let put = store.put(&path, PutPayload::from(bytes)).await;
    put.map_err(BucketError::store(format!("write {path}")))?;
    Ok(manifest_tag(store).await?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::executor::block_on;
    use object_store::memory::InMemory;
    use ulid::Ulid;

    #[test]
    fn a_manifest_is_read_as_written_and_damage_is_noticed() {
        let store = InMemory::new();
        assert_eq!(block_on(manifest_tag(&store)).unwrap(), None);
        assert_eq!(block_on(read_manifest(&store)).unwrap(), None);
        let manifest = Manifest {
            written: 7,
            blocks: vec![ManifestBlock {
                modified: 3,
                files: BTreeMap::from([("index".to_owned(), 5)]),
                meta: BlockMeta::new(Ulid::from_parts(1, 2), 0, 10),
                deletion_time: Some(4),
            }],
        };
        let tag = block_on(write_manifest(&store, &manifest)).unwrap();
        assert_eq!(block_on(read_manifest(&store)).unwrap(), Some((manifest.clone(), tag)));
        let bytes = manifest.to_bytes().unwrap();
        for at in 0..bytes.len() {
            let mut broken = bytes.clone();
            broken[at] ^= 1;
            assert!(Manifest::from_bytes(&broken).is_err(), "byte {at}");
            assert!(Manifest::from_bytes(&bytes[..at]).is_err());
        }
    }
}
