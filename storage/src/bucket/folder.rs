//! A bucket that is a folder: each object is a file of it.
//!
//! A block's way from the data folder into such a bucket mostly stays on one file system, and its files are written once: afterwards
//! only their names come and go, on both sides, and what takes the place of an object is a new file. So an upload that says by
//! [`LocalFile`] which file its object is gets another name for that file instead of a copy of it. Where that cannot be done,
//! because the folder is on another file system or on one without links, the bytes are copied as always.

use bytes::Bytes;
use futures::stream::BoxStream;
use object_store::{
    CopyMode, CopyOptions, Extensions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    ObjectStoreExt as _, PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result,
    UploadPart, local::LocalFileSystem, path::Path as ObjectPath,
};
use std::{
    fmt, io,
    ops::Range,
    path::{Path, PathBuf},
};

/// Says that what is put is this file as a whole: it is durable and will not change. An extension of the options of a put; buckets
/// elsewhere take no notice.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalFile(pub PathBuf);

/// A bucket in a folder.
#[derive(Debug)]
pub struct FolderBucket {
    folder: LocalFileSystem,
    /// The whole file system: both ends of a link have a name in it.
    root: LocalFileSystem,
    /// Only files below get a second name: those that this process writes, so that it is known how they are treated.
    own: Option<PathBuf>,
}

impl FolderBucket {
    /// The bucket in `folder`, which exists. Files below `own`, the data folder of this process, are linked rather than copied.
    pub fn open(folder: &Path, own: Option<&Path>) -> io::Result<Self> {
        let opened = LocalFileSystem::new_with_prefix(folder).map_err(io::Error::other)?;
        Ok(Self {
            // A block counts as stored once uploaded, so objects are synced before a put answers.
            folder: opened.with_fsync(true).with_automatic_cleanup(true),
            root: LocalFileSystem::new().with_fsync(true),
            own: own.map(std::path::absolute).transpose()?,
        })
    }

    /// Makes an object of the file that the options of a put name, if they name one that may be linked and it can be done.
    async fn link(&self, extensions: &Extensions, location: &ObjectPath) -> bool {
        let Some((source, own)) = extensions.get::<LocalFile>().zip(self.own.as_deref()) else {
            return false;
        };
        let Ok(source) = std::path::absolute(&source.0) else {
            return false;
        };
        let target = self.folder.path_to_filesystem(location);
        let (Ok(from), Ok(Ok(to))) = (
            ObjectPath::from_absolute_path(&source),
            target.map(ObjectPath::from_absolute_path),
        ) else {
            return false;
        };
        // An object that is there already is replaced by a copy: two names of one file cannot be swapped.
        let options = CopyOptions::new().with_mode(CopyMode::Create);
        source.starts_with(own) && self.root.copy_opts(&from, &to, options).await.is_ok()
    }
}

#[async_trait::async_trait]
impl ObjectStore for FolderBucket {
    async fn put_opts(&self, location: &ObjectPath, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if options.mode == PutMode::Overwrite && self.link(&options.extensions, location).await {
            return Ok(linked());
        }
        self.folder.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &ObjectPath,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        if self.link(&options.extensions, location).await {
            return Ok(Box::new(LinkedUpload {
                folder: self.folder.clone(),
                location: location.clone(),
            }));
        }
        self.folder.put_multipart_opts(location, options).await
    }

    async fn get_opts(&self, location: &ObjectPath, options: GetOptions) -> Result<GetResult> {
        self.folder.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &ObjectPath, ranges: &[Range<u64>]) -> Result<Vec<Bytes>> {
        self.folder.get_ranges(location, ranges).await
    }

    fn delete_stream(
        &self,
        locations: BoxStream<'static, Result<ObjectPath>>,
    ) -> BoxStream<'static, Result<ObjectPath>> {
        self.folder.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&ObjectPath>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list(prefix)
    }

    fn list_with_offset(
        &self,
        prefix: Option<&ObjectPath>,
        offset: &ObjectPath,
    ) -> BoxStream<'static, Result<ObjectMeta>> {
        self.folder.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&ObjectPath>) -> Result<ListResult> {
        self.folder.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &ObjectPath, to: &ObjectPath, options: CopyOptions) -> Result<()> {
        self.folder.copy_opts(from, to, options).await
    }

    async fn rename_opts(&self, from: &ObjectPath, to: &ObjectPath, options: RenameOptions) -> Result<()> {
        self.folder.rename_opts(from, to, options).await
    }
}

impl fmt::Display for FolderBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.folder, f)
    }
}

fn linked() -> PutResult {
    PutResult {
        e_tag: None,
        version: None,
        extensions: Extensions::default(),
    }
}

/// An upload in parts of a file that has its second name already: nothing is left to be sent.
#[derive(Debug)]
struct LinkedUpload {
    folder: LocalFileSystem,
    location: ObjectPath,
}

#[async_trait::async_trait]
impl MultipartUpload for LinkedUpload {
    fn put_part(&mut self, _: PutPayload) -> UploadPart {
        Box::pin(async { Ok(()) })
    }

    async fn complete(&mut self) -> Result<PutResult> {
        Ok(linked())
    }

    async fn abort(&mut self) -> Result<()> {
        self.folder.delete(&self.location).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    /// A data folder with a file, and a bucket beside it.
    struct World {
        dir: tempfile::TempDir,
        bucket: FolderBucket,
        file: PathBuf,
    }

    impl World {
        fn new(bucket_in: &Path) -> Self {
            let dir = tempfile::tempdir().unwrap();
            let own = dir.path().join("data");
            std::fs::create_dir_all(own.join("block")).unwrap();
            std::fs::create_dir_all(dir.path().join("foreign")).unwrap();
            std::fs::create_dir_all(dir.path().join(bucket_in)).unwrap();
            let bucket = FolderBucket::open(&dir.path().join(bucket_in), Some(&own)).unwrap();
            let file = own.join("block/index");
            write(&file, b"written once");
            Self { dir, bucket, file }
        }

        async fn put(&self, source: &Path, location: &str) {
            let mut options = PutOptions::default();
            options.extensions.insert(LocalFile(source.to_owned()));
            let payload = PutPayload::from(read(&self.file));
            self.bucket
                .put_opts(&ObjectPath::from(location), payload, options)
                .await
                .unwrap();
        }

        fn object(&self, location: &str) -> PathBuf {
            self.bucket
                .folder
                .path_to_filesystem(&ObjectPath::from(location))
                .unwrap()
        }
    }

    #[expect(clippy::disallowed_methods, reason = "looks at the folder from outside")]
    fn read(path: &Path) -> Vec<u8> {
        std::fs::read(path).unwrap()
    }

    #[expect(clippy::disallowed_methods, reason = "prepares folders")]
    fn write(path: &Path, bytes: &[u8]) {
        std::fs::write(path, bytes).unwrap();
    }

    fn names_of(path: &Path) -> u64 {
        std::fs::metadata(path).unwrap().nlink()
    }

    #[tokio::test]
    async fn one_file_has_two_names_and_neither_side_can_harm_the_other() {
        let world = World::new(Path::new("bucket"));
        for location in ["one/index", "two/a/b/index"] {
            world.put(&world.file, location).await;
            assert_eq!(
                std::fs::metadata(world.object(location)).unwrap().ino(),
                std::fs::metadata(&world.file).unwrap().ino()
            );
        }
        let (one, two) = (ObjectPath::from("one/index"), ObjectPath::from("two/a/b/index"));
        // Other content under the name is another file.
        world
            .bucket
            .put(&one, PutPayload::from_static(b"something else"))
            .await
            .unwrap();
        assert_eq!(read(&world.file), b"written once");
        assert_eq!(
            world.bucket.get(&one).await.unwrap().bytes().await.unwrap(),
            "something else"
        );
        // And an upload over what is there already puts the right content there.
        world.put(&world.file, "one/index").await;
        assert_eq!(
            world.bucket.get(&one).await.unwrap().bytes().await.unwrap(),
            "written once"
        );
        world.bucket.delete(&one).await.unwrap();
        assert_eq!(read(&world.file), b"written once");
        std::fs::remove_dir_all(world.file.parent().unwrap()).unwrap();
        assert_eq!(
            world.bucket.get(&two).await.unwrap().bytes().await.unwrap(),
            "written once"
        );
    }

    #[tokio::test]
    async fn an_upload_in_parts_links_as_well() {
        let world = World::new(Path::new("data/bucket"));
        let location = ObjectPath::from("block/index");
        let mut options = PutMultipartOptions::default();
        options.extensions.insert(LocalFile(world.file.clone()));
        let mut upload = world
            .bucket
            .put_multipart_opts(&location, options.clone())
            .await
            .unwrap();
        upload.put_part(PutPayload::from_static(b"written ")).await.unwrap();
        upload.put_part(PutPayload::from_static(b"once")).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(
            (names_of(&world.file), read(&world.object("block/index"))),
            (2, b"written once".to_vec())
        );
        let other = ObjectPath::from("other/index");
        let mut upload = world.bucket.put_multipart_opts(&other, options).await.unwrap();
        upload.abort().await.unwrap();
        assert!(!world.object("other/index").exists());
        assert_eq!(read(&world.file), b"written once");
    }

    #[tokio::test]
    async fn what_may_or_can_not_be_linked_is_copied() {
        let world = World::new(Path::new("bucket"));
        let foreign = world.dir.path().join("foreign/index");
        write(&foreign, b"written once");
        let missing = world.file.with_file_name("missing");
        for (source, location) in [(&foreign, "a"), (&missing, "b")] {
            world.put(source, location).await;
            assert_eq!(
                (names_of(&world.object(location)), read(&world.object(location))),
                (1, b"written once".to_vec())
            );
        }
        // A memory file system is another one than that of temporary files, on most machines.
        let elsewhere = tempfile::tempdir_in("/dev/shm");
        let device = |path: &Path| std::fs::metadata(path).unwrap().dev();
        match elsewhere {
            Ok(elsewhere) if device(elsewhere.path()) != device(&world.file) => {
                let world = World::new(elsewhere.path());
                world.put(&world.file, "far/index").await;
                assert_eq!(
                    (names_of(&world.file), read(&world.object("far/index"))),
                    (1, b"written once".to_vec())
                );
            }
            _ => eprintln!("there is no second file system here: not tried across file systems"),
        }
    }
}
