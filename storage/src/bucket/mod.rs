//! Blocks in a bucket, laid out as Thanos does.
//!
//! ```text
//! 01J…/                        a block, by its ULID
//!     chunks/000001 …          uploaded first
//!     index                    then
//!     meta.json                last: a block without it is partial, and nobody reads it
//!     deletion-mark.json       optional: to be deleted, and after a delay not read any more
//!     no-compact-mark.json     optional
//!     no-downsample-mark.json  optional
//!     no-query-mark.json       optional, ours: not to be read
//! narthex-manifest.json        optional: what a listing would say, in one object
//! ```
//!
//! The ingester uploads through [`upload_block`], gateway and compactor list through [`list_blocks`].

mod layout;
mod listing;
mod mark;
mod manifest;
mod metered;
mod folder;
mod selector;
mod upload;

pub use folder::{FolderBucket, LocalFile};
pub use layout::{
    DELETION_MARK_FILE, NO_COMPACT_MARK_FILE, NO_DOWNSAMPLE_MARK_FILE, NO_QUERY_MARK_FILE, block_dir, block_object,
    chunks_object,
};
pub use listing::{BlockListing, list_blocks, read_meta};
pub use manifest::{MANIFEST_FILE, Manifest, ManifestBlock, manifest_tag, read_manifest, write_manifest};
pub use mark::{
    DeletionMark, Mark, NoCompactMark, NoDownsampleMark, NoQueryMark, delete_block, mark_for_deletion, read_mark,
    write_mark,
};
pub use metered::MeteredBucket;
pub use selector::{Selector, SelectorAction, SelectorRule};
pub use upload::{UploadError, Uploaded, upload_block};

/// The bucket itself, so that whoever only passes one on need not know the library.
pub use object_store::ObjectStore;

/// Why something in a bucket cannot be done.
#[derive(Debug, thiserror::Error)]
pub enum BucketError {
    /// The store answered with an error, or not at all. It may be worth trying again.
    #[error("{what}: {error}")]
    Store {
        /// What was tried, and on which object.
        what: String,
        /// What the store said.
        error: object_store::Error,
    },
    /// An object is not what it should be. Trying again does not help.
    #[error("{object}: {reason}")]
    Invalid {
        /// Which object.
        object: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl BucketError {
    pub(crate) fn store(what: impl Into<String>) -> impl FnOnce(object_store::Error) -> Self {
        let what = what.into();
        move |error| Self::Store { what, error }
    }

    pub(crate) fn invalid(object: &object_store::path::Path, reason: impl Into<String>) -> Self {
        Self::Invalid {
            object: object.to_string(),
            reason: reason.into(),
        }
    }
}
