//! The buckets: an index in memory over files in one directory.
//!
//! Owns what is stored and the rules that concern it (conditions, versions, limits), with S3's error
//! codes. It refuses to know HTTP and the SDK. It stands here instead of `s3s-fs` because resuming a
//! multipart upload needs `ListParts` with `ETag`s and `NoSuchUpload`, a bad checksum must leave the old
//! object alone, and `a` and `a/b` are both good keys; there, none of that holds.

mod file;
mod listing;
mod multipart;

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use s3s::{S3Error, S3Result, dto::ETag, dto::ETagCondition, s3_error};
use serde::{Deserialize, Serialize};

use super::kept::Kept;

pub(super) use self::{
    file::{DataFile, Draft},
    listing::{After, Page, Query},
    multipart::{CompletePart, Part},
};

/// What an upload says about an object beside its bytes.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attributes {
    #[serde(default)]
    pub(super) headers: Kept,
    /// A checksum of all bytes that came with them: the header's name, and its value.
    #[serde(default)]
    pub(super) checksum: Option<(String, String)>,
    pub(super) tags: Vec<(String, String)>,
}

/// An object as it was when it was looked up; its bytes stay readable while this is held.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Object {
    pub(super) size: u64,
    /// Without quotes.
    pub(super) etag: String,
    pub(super) modified: SystemTime,
    pub(super) attributes: Attributes,
    #[serde(skip, default = "no_file")]
    pub(super) file: Arc<DataFile>,
}

/// The preconditions of a write.
#[derive(Debug, Default)]
pub(super) struct Conditions {
    pub(super) if_match: Option<ETagCondition>,
    pub(super) if_none_match: Option<ETagCondition>,
}

/// The record of a file on disk.
#[derive(Debug, Serialize, Deserialize)]
enum Record {
    Object {
        bucket: String,
        key: String,
        object: Object,
    },
    Upload {
        id: String,
        upload: multipart::Upload,
    },
    Part {
        upload: String,
        number: i32,
        part: Part,
    },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Store {
    buckets_directory: PathBuf,
    files_directory: PathBuf,
    /// Nothing awaits under it.
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    buckets: BTreeMap<String, Bucket>,
    uploads: BTreeMap<String, multipart::Upload>,
}

#[derive(Debug)]
struct Bucket {
    created: SystemTime,
    objects: BTreeMap<String, Arc<Object>>,
}

impl Store {
    /// Opens what an earlier server left in the directory, or begins with nothing.
    pub(super) fn open(directory: &Path) -> io::Result<Self> {
        let store = Self {
            buckets_directory: directory.join("buckets"),
            files_directory: directory.join("files"),
            index: Mutex::default(),
        };
        fs::create_dir_all(&store.buckets_directory)?;
        fs::create_dir_all(&store.files_directory)?;
        store.load()?;
        Ok(store)
    }

    fn load(&self) -> io::Result<()> {
        let mut index = self.index();
        for entry in fs::read_dir(&self.buckets_directory)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            let created = entry.metadata()?.modified()?;
            let objects = BTreeMap::new();
            index.buckets.insert(name, Bucket { created, objects });
        }
        let mut paths: Vec<PathBuf> = fs::read_dir(&self.files_directory)?
            .map(|entry| Ok(entry?.path()))
            .collect::<io::Result<_>>()?;
        paths.sort();
        let mut parts = Vec::new();
        for path in paths {
            let record = file::read_record(&path)?;
            let file = Arc::new(DataFile::existing(path));
            match record {
                Some(Record::Object {
                    bucket,
                    key,
                    object,
                }) => {
                    index.adopt(&bucket, key, Object { file, ..object });
                }
                Some(Record::Upload { id, upload }) => {
                    index.uploads.insert(id, upload.with_file(file));
                }
                // An upload may be younger than no part of it, but names of one millisecond need not say so.
                Some(Record::Part {
                    upload,
                    number,
                    part,
                }) => {
                    parts.push((upload, number, Part { file, ..part }));
                }
                None => file.doom(),
            }
        }
        for (upload, number, part) in parts {
            match index.uploads.get_mut(&upload) {
                Some(upload) => drop(upload.adopt(number, part)),
                None => part.file.doom(),
            }
        }
        Ok(())
    }

    /// Makes a bucket; `false` if it is there already.
    pub(super) fn create_bucket(&self, name: &str) -> io::Result<bool> {
        let mut index = self.index();
        if index.buckets.contains_key(name) {
            return Ok(false);
        }
        fs::create_dir_all(self.buckets_directory.join(name))?;
        let bucket = Bucket {
            created: SystemTime::now(),
            objects: BTreeMap::new(),
        };
        index.buckets.insert(name.to_owned(), bucket);
        Ok(true)
    }

    /// Removes an empty bucket.
    pub(super) fn delete_bucket(&self, name: &str) -> S3Result<()> {
        let mut index = self.index();
        if !index.bucket(name)?.objects.is_empty() {
            return Err(s3_error!(BucketNotEmpty));
        }
        fs::remove_dir(self.buckets_directory.join(name)).map_err(S3Error::internal_error)?;
        index.buckets.remove(name);
        let abandoned = index
            .uploads
            .extract_if(.., |_, upload| upload.bucket == name);
        abandoned.for_each(|(_, upload)| upload.doom());
        Ok(())
    }

    /// The buckets by name, with the time each was made.
    pub(super) fn buckets(&self) -> Vec<(String, SystemTime)> {
        let index = self.index();
        let buckets = index.buckets.iter();
        buckets
            .map(|(name, bucket)| (name.clone(), bucket.created))
            .collect()
    }

    /// Fails with `NoSuchBucket`.
    pub(super) fn require_bucket(&self, bucket: &str) -> S3Result<()> {
        self.index().bucket(bucket).map(|_| ())
    }

    /// Fails with `NoSuchBucket` or `NoSuchKey`.
    pub(super) fn object(&self, bucket: &str, key: &str) -> S3Result<Arc<Object>> {
        let index = self.index();
        let object = index.bucket(bucket)?.objects.get(key);
        object
            .map(Arc::clone)
            .ok_or_else(|| s3_error!(NoSuchKey, "The specified key does not exist."))
    }

    /// One page of a bucket.
    pub(super) fn list(&self, bucket: &str, query: &Query) -> S3Result<Page> {
        Ok(listing::page(&self.index().bucket(bucket)?.objects, query))
    }

    /// Begins to receive bytes.
    pub(super) fn draft(&self) -> Draft {
        Draft::new(&self.files_directory)
    }

    /// Makes a received file the object under this key, if the conditions hold at that moment.
    pub(super) async fn put(
        &self,
        (bucket, key): (&str, &str),
        draft: Draft,
        attributes: Attributes,
        conditions: &Conditions,
    ) -> S3Result<Arc<Object>> {
        let modified = SystemTime::now();
        let object = |size, md5: [u8; 16]| Object {
            size,
            etag: hex(&md5),
            modified,
            attributes: attributes.clone(),
            file: no_file(),
        };
        let record = |size, md5: [u8; 16]| Record::Object {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            object: object(size, md5),
        };
        let sealed = draft.seal(record).await.map_err(S3Error::internal_error)?;
        let object = Object {
            file: sealed.file,
            ..object(sealed.size, sealed.md5)
        };
        self.index().commit((bucket, key), object, conditions)
    }

    /// Copies an object's bytes to a key; `ETag` and size are the source's.
    pub(super) async fn copy(
        &self,
        source: &Object,
        (bucket, key): (&str, &str),
        attributes: Attributes,
    ) -> S3Result<Arc<Object>> {
        self.require_bucket(bucket)?;
        let object = || Object {
            size: source.size,
            etag: source.etag.clone(),
            modified: SystemTime::now(),
            attributes: attributes.clone(),
            file: no_file(),
        };
        let record = Record::Object {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            object: object(),
        };
        let sources = vec![(Arc::clone(&source.file), 0..source.size)];
        let file = file::concatenate(&self.files_directory, sources, record).await;
        let file = file.map_err(S3Error::internal_error)?;
        let object = Object { file, ..object() };
        self.index()
            .commit((bucket, key), object, &Conditions::default())
    }

    /// Replaces an object's tags. All else stays, its time too; the file is new, since its record holds the tags.
    pub(super) async fn set_tags(
        &self,
        (bucket, key): (&str, &str),
        tags: Vec<(String, String)>,
    ) -> S3Result<()> {
        loop {
            let old = self.object(bucket, key)?;
            let object = || Object {
                size: old.size,
                etag: old.etag.clone(),
                modified: old.modified,
                attributes: Attributes {
                    tags: tags.clone(),
                    ..old.attributes.clone()
                },
                file: no_file(),
            };
            let record = Record::Object {
                bucket: bucket.to_owned(),
                key: key.to_owned(),
                object: object(),
            };
            let sources = vec![(Arc::clone(&old.file), 0..old.size)];
            let file = file::concatenate(&self.files_directory, sources, record).await;
            let file = file.map_err(S3Error::internal_error)?;
            let tagged = Object { file, ..object() };
            let mut index = self.index();
            let current = index.bucket(bucket)?.objects.get(key);
            // Another object by now: it is the one to be tagged.
            if current.is_some_and(|current| Arc::ptr_eq(current, &old)) {
                let at = (bucket, key);
                return index.commit(at, tagged, &Conditions::default()).map(drop);
            }
        }
    }

    /// Removes a key if it is there.
    pub(super) fn delete(&self, bucket: &str, key: &str) -> S3Result<()> {
        let mut index = self.index();
        if let Some(object) = index.bucket_mut(bucket)?.objects.remove(key) {
            object.file.doom();
        }
        Ok(())
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn bucket(&self, name: &str) -> S3Result<&Bucket> {
        self.buckets.get(name).ok_or_else(no_such_bucket)
    }

    fn bucket_mut(&mut self, name: &str) -> S3Result<&mut Bucket> {
        self.buckets.get_mut(name).ok_or_else(no_such_bucket)
    }

    fn commit(
        &mut self,
        (bucket, key): (&str, &str),
        object: Object,
        conditions: &Conditions,
    ) -> S3Result<Arc<Object>> {
        let objects = &mut self.bucket_mut(bucket)?.objects;
        conditions.check(objects.get(key).map(Arc::as_ref))?;
        let object = Arc::new(object);
        object.file.keep();
        if let Some(old) = objects.insert(key.to_owned(), Arc::clone(&object)) {
            old.file.doom();
        }
        Ok(object)
    }

    /// Takes up an object of an earlier run; the later of two files wins.
    fn adopt(&mut self, bucket: &str, key: String, object: Object) {
        let replaced = match self.buckets.get_mut(bucket) {
            Some(bucket) => bucket.objects.insert(key, Arc::new(object)),
            None => Some(Arc::new(object)),
        };
        if let Some(replaced) = replaced {
            replaced.file.doom();
        }
    }
}

impl Conditions {
    /// As S3 answers: 412 if a condition does not hold, 404 for `If-Match` on nothing.
    fn check(&self, current: Option<&Object>) -> S3Result<()> {
        let failed = || {
            s3_error!(
                PreconditionFailed,
                "At least one of the pre-conditions you specified did not hold"
            )
        };
        match (&self.if_match, current) {
            (Some(_), None) => return Err(s3_error!(NoSuchKey)),
            (Some(condition), Some(object)) if !object.has_etag(condition) => return Err(failed()),
            _ => {}
        }
        match (&self.if_none_match, current) {
            (Some(condition), Some(object)) if object.has_etag(condition) => Err(failed()),
            _ => Ok(()),
        }
    }
}

impl Object {
    /// Whether a condition names this object; `*` names any.
    pub(super) fn has_etag(&self, condition: &ETagCondition) -> bool {
        match condition {
            ETagCondition::Any => true,
            ETagCondition::ETag(etag) => etag.value() == self.etag,
        }
    }

    pub(super) fn e_tag(&self) -> ETag {
        ETag::Strong(self.etag.clone())
    }
}

fn no_such_bucket() -> S3Error {
    s3_error!(NoSuchBucket, "The specified bucket does not exist")
}

/// Stands in until the file's own record is read or written.
fn no_file() -> Arc<DataFile> {
    Arc::new(DataFile::existing(PathBuf::new()))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
