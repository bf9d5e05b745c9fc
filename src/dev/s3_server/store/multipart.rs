//! Multipart uploads: parts until they are completed or aborted.
//!
//! Owns the uploads and S3's rules for their completion. Ids of another bucket or key, and ids that are
//! done, are `NoSuchUpload`.

use std::{collections::BTreeMap, ops::Range, sync::Arc, time::SystemTime};

use s3s::{
    S3Error, S3Result,
    crypto::{Checksum, Md5},
    dto::ETag,
    s3_error,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::{
    Attributes, Conditions, DataFile, Draft, Index, Object, Record, Store, file, hex, no_file,
};

/// Every part but the last is at least this large.
const SMALLEST_PART: u64 = 5 * 1024 * 1024;

/// An upload under way.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Upload {
    pub(super) bucket: String,
    key: String,
    initiated: SystemTime,
    attributes: Attributes,
    #[serde(skip)]
    parts: BTreeMap<i32, Arc<Part>>,
    #[serde(skip, default = "no_file")]
    file: Arc<DataFile>,
}

/// A part that has arrived whole.
#[derive(Debug, Serialize, Deserialize)]
pub(in crate::dev::s3_server) struct Part {
    pub(in crate::dev::s3_server) size: u64,
    pub(super) md5: [u8; 16],
    pub(in crate::dev::s3_server) modified: SystemTime,
    #[serde(skip, default = "no_file")]
    pub(super) file: Arc<DataFile>,
}

/// A part as a completion names it.
#[derive(Debug)]
pub(in crate::dev::s3_server) struct CompletePart {
    pub(in crate::dev::s3_server) number: i32,
    pub(in crate::dev::s3_server) etag: Option<ETag>,
}

impl Part {
    pub(in crate::dev::s3_server) fn e_tag(&self) -> ETag {
        ETag::Strong(hex(&self.md5))
    }
}

impl Upload {
    pub(super) fn with_file(self, file: Arc<DataFile>) -> Self {
        Self { file, ..self }
    }

    pub(super) fn adopt(&mut self, number: i32, part: Part) -> Arc<Part> {
        let part = Arc::new(part);
        part.file.keep();
        if let Some(old) = self.parts.insert(number, Arc::clone(&part)) {
            old.file.doom();
        }
        part
    }

    pub(super) fn doom(&self) {
        self.file.doom();
        self.parts.values().for_each(|part| part.file.doom());
    }

    fn is_for(&self, bucket: &str, key: &str) -> bool {
        self.bucket == bucket && self.key == key
    }
}

impl Index {
    fn upload(&mut self, (bucket, key): (&str, &str), id: &str) -> S3Result<&mut Upload> {
        self.bucket(bucket)?;
        let upload = self
            .uploads
            .get_mut(id)
            .filter(|upload| upload.is_for(bucket, key));
        upload.ok_or_else(|| s3_error!(NoSuchUpload, "The specified upload does not exist."))
    }
}

impl Store {
    /// Begins an upload; its id.
    pub(in crate::dev::s3_server) async fn create_upload(
        &self,
        (bucket, key): (&str, &str),
        attributes: Attributes,
    ) -> S3Result<String> {
        self.require_bucket(bucket)?;
        let id = Uuid::now_v7().simple().to_string();
        let initiated = SystemTime::now();
        let upload = || Upload {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            initiated,
            attributes: attributes.clone(),
            parts: BTreeMap::new(),
            file: no_file(),
        };
        let record = |_, _| Record::Upload {
            id: id.clone(),
            upload: upload(),
        };
        let sealed = self
            .draft()
            .seal(record)
            .await
            .map_err(S3Error::internal_error)?;
        sealed.file.keep();
        self.index()
            .uploads
            .insert(id.clone(), upload().with_file(sealed.file));
        Ok(id)
    }

    /// Makes a received file that part of the upload, in place of an earlier one.
    pub(in crate::dev::s3_server) async fn put_part(
        &self,
        at: (&str, &str),
        id: &str,
        number: i32,
        draft: Draft,
    ) -> S3Result<Arc<Part>> {
        check_number(number)?;
        let modified = SystemTime::now();
        let part = |size, md5| Part {
            size,
            md5,
            modified,
            file: no_file(),
        };
        let record = |size, md5| Record::Part {
            upload: id.to_owned(),
            number,
            part: part(size, md5),
        };
        let sealed = draft.seal(record).await.map_err(S3Error::internal_error)?;
        let part = Part {
            file: sealed.file,
            ..part(sealed.size, sealed.md5)
        };
        Ok(self.index().upload(at, id)?.adopt(number, part))
    }

    /// Makes a range of an object that part of the upload.
    pub(in crate::dev::s3_server) async fn copy_part(
        &self,
        at: (&str, &str),
        id: &str,
        number: i32,
        (source, range): (&Object, Range<u64>),
    ) -> S3Result<Arc<Part>> {
        check_number(number)?;
        self.index().upload(at, id)?;
        let size = range.end - range.start;
        let md5 = file::md5_of(Arc::clone(&source.file), range.clone()).await;
        let md5 = md5.map_err(S3Error::internal_error)?;
        let modified = SystemTime::now();
        let part = |file| Part {
            size,
            md5,
            modified,
            file,
        };
        let record = Record::Part {
            upload: id.to_owned(),
            number,
            part: part(no_file()),
        };
        let sources = vec![(Arc::clone(&source.file), range)];
        let file = file::concatenate(&self.files_directory, sources, record).await;
        let part = part(file.map_err(S3Error::internal_error)?);
        Ok(self.index().upload(at, id)?.adopt(number, part))
    }

    /// The parts so far by number.
    pub(in crate::dev::s3_server) fn parts(
        &self,
        at: (&str, &str),
        id: &str,
    ) -> S3Result<Vec<(i32, Arc<Part>)>> {
        let mut index = self.index();
        let parts = index.upload(at, id)?.parts.iter();
        Ok(parts
            .map(|(number, part)| (*number, Arc::clone(part)))
            .collect())
    }

    /// Makes the named parts an object. The upload stays if this fails.
    pub(in crate::dev::s3_server) async fn complete(
        &self,
        at: (&str, &str),
        id: &str,
        named: &[CompletePart],
        conditions: &Conditions,
        checksum: Option<(String, String)>,
    ) -> S3Result<Arc<Object>> {
        let (parts, attributes) = {
            let mut index = self.index();
            let upload = index.upload(at, id)?;
            let attributes = Attributes {
                checksum,
                ..upload.attributes.clone()
            };
            (chosen(&upload.parts, named)?, attributes)
        };
        let mut md5 = Md5::new();
        parts.iter().for_each(|part| md5.update(&part.md5));
        let etag = format!("{}-{}", hex(&md5.finalize()), parts.len());
        let modified = SystemTime::now();
        let object = |file| Object {
            size: parts.iter().map(|part| part.size).sum(),
            etag: etag.clone(),
            modified,
            attributes: attributes.clone(),
            file,
        };
        let record = Record::Object {
            bucket: at.0.to_owned(),
            key: at.1.to_owned(),
            object: object(no_file()),
        };
        let sources = parts
            .iter()
            .map(|part| (Arc::clone(&part.file), 0..part.size))
            .collect();
        let file = file::concatenate(&self.files_directory, sources, record).await;
        let object = object(file.map_err(S3Error::internal_error)?);
        let mut index = self.index();
        // It may have been completed or aborted meanwhile.
        index.upload(at, id)?;
        let object = index.commit(at, object, conditions)?;
        if let Some(upload) = index.uploads.remove(id) {
            upload.doom();
        }
        Ok(object)
    }

    /// Forgets an upload and its parts.
    pub(in crate::dev::s3_server) fn abort(&self, at: (&str, &str), id: &str) -> S3Result<()> {
        let mut index = self.index();
        index.upload(at, id)?.doom();
        index.uploads.remove(id);
        Ok(())
    }

    /// The uploads under way in a bucket: key, id, time, by key and then age.
    pub(in crate::dev::s3_server) fn uploads(
        &self,
        bucket: &str,
    ) -> S3Result<Vec<(String, String, SystemTime)>> {
        let index = self.index();
        index.bucket(bucket)?;
        let uploads = index
            .uploads
            .iter()
            .filter(|(_, upload)| upload.bucket == bucket);
        let mut uploads: Vec<_> = uploads
            .map(|(id, upload)| (upload.key.clone(), id.clone(), upload.initiated))
            .collect();
        uploads.sort();
        Ok(uploads)
    }
}

fn check_number(number: i32) -> S3Result<()> {
    match number {
        1..=10_000 => Ok(()),
        _ => Err(s3_error!(
            InvalidArgument,
            "Part number must be an integer between 1 and 10000, inclusive"
        )),
    }
}

/// The parts that a completion names, checked by S3's rules.
fn chosen(parts: &BTreeMap<i32, Arc<Part>>, named: &[CompletePart]) -> S3Result<Vec<Arc<Part>>> {
    if named.is_empty() {
        return Err(s3_error!(
            MalformedXML,
            "You must specify at least one part"
        ));
    }
    if !named.is_sorted_by(|one, next| one.number < next.number) {
        return Err(s3_error!(InvalidPartOrder));
    }
    let mut chosen = Vec::with_capacity(named.len());
    for (index, name) in named.iter().enumerate() {
        let part = parts.get(&name.number).filter(|part| {
            name.etag
                .as_ref()
                .is_some_and(|etag| etag.value() == hex(&part.md5))
        });
        let part = part.ok_or_else(|| s3_error!(InvalidPart))?;
        if part.size < SMALLEST_PART && index + 1 < named.len() {
            return Err(s3_error!(EntityTooSmall));
        }
        chosen.push(Arc::clone(part));
    }
    Ok(chosen)
}
