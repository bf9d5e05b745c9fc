//! Uploads and reads, one short method an operation: its request and its result, and nothing else.
//!
//! What surrounds a call (breaker, attempts, metrics) is `guard.rs`; deletes are `cleanup.rs`. Two answers
//! get a second look within their attempt before they are judged (RESILIENCE.md): a bare 400 or 403 to a
//! HEAD, and a 412 to a conditional put.

use aws_sdk_s3::{
    operation::{get_object::GetObjectOutput, head_object::HeadObjectOutput},
    primitives::{ByteStream, DateTime},
};
use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::{
    Done, ReplyBody, Stop, attempt::Attempt, body::Body, error, guard::Caller, metadata, said::Said,
};
use crate::job::{
    Failure, FailureClass, JobResult, OperationName, Timestamp,
    message::header,
    operation::{GetObject, HeadObject, PutObject},
};

/// Uploads and reads of one job.
#[derive(Debug)]
pub(super) struct StorageService<'a>(pub(super) Caller<'a>);

impl StorageService<'_> {
    /// Stores the bytes that came with the job.
    ///
    /// Fails `job_local`, without a call, when they are not those of the job's SHA-256; `permanent` when
    /// `if_none_match` finds another's object. Its own object, from an earlier attempt or delivery, is success.
    pub(super) async fn put_object(&self, put: &PutObject) -> Result<Done, Stop> {
        check_sha256(put).map_err(Stop::Failed)?;
        let name = OperationName::PutObject;
        let stored = self
            .0
            .counted(name, &put.bucket, self.put(name, put))
            .await?;
        Ok(JobResult::from(stored).into())
    }

    /// One guarded PUT of checked bytes, in the name of an operation that counts it.
    pub(super) async fn put(&self, name: OperationName, put: &PutObject) -> Result<Stored, Stop> {
        let size = put.body.len() as u64;
        let md5 = self
            .0
            .lock_md5(&put.options, &put.body)
            .await
            .map_err(Stop::Failed)?;
        let md5 = &md5;
        let work = self.0.guarded(name, |attempt| async move {
            let md5 = md5.clone();
            let request = self.put_request(put, md5.clone(), None);
            let end = self.0.create(&attempt, name, &put.options, request).await;
            let (etag, version_id) = match end {
                Ok(stored) => (stored.e_tag, stored.version_id),
                Err(failure) if put.options.if_none_match && failure.code == EXISTS => {
                    Box::pin(self.put_before(&attempt, name, put, md5, failure)).await?
                }
                Err(failure) => return Err(failure),
            };
            self.check_md5(&attempt, put, etag.as_deref()).await?;
            Ok((etag, version_id))
        });
        let (etag, version_id) = work.await?;
        self.0
            .metrics()
            .s3_bytes
            .with_label_values(&["out"])
            .inc_by(size);
        Ok(Stored {
            etag,
            version_id,
            size,
        })
    }

    /// The object of this job that was there already. One that is damaged is put anew, over that one alone.
    async fn put_before(
        &self,
        attempt: &Attempt<'_>,
        name: OperationName,
        put: &PutObject,
        md5: Option<String>,
        exists: Failure,
    ) -> Result<(Option<String>, Option<String>), Failure> {
        let placed = Placed {
            bucket: &put.bucket,
            key: &put.key,
            size: Some(put.body.len() as u64),
        };
        let head = self.own_object(attempt, placed, exists).await?;
        let etag = head.e_tag.as_deref();
        if self.check_md5(attempt, put, etag).await.is_ok() {
            return Ok((head.e_tag, head.version_id));
        }
        let again = self.put_request(put, md5, head.e_tag);
        let stored = self.0.create(attempt, name, &put.options, again).await?;
        Ok((stored.e_tag, stored.version_id))
    }

    /// Reads an object's size, `ETag` and metadata; no body. Fails `permanent` for a missing key.
    pub(super) async fn head_object(&self, head: &HeadObject) -> Result<Done, Stop> {
        let name = OperationName::HeadObject;
        let work = self.0.guarded(name, |attempt| async move {
            self.head(
                &attempt,
                &head.bucket,
                &head.key,
                head.version_id.as_deref(),
            )
            .await
        });
        let found = self.0.counted(name, &head.bucket, work).await?;
        Ok(JobResult::Object {
            size: unsigned(found.content_length),
            etag: quoted(found.e_tag),
            version_id: found.version_id,
            content_type: found.content_type,
            last_modified: found.last_modified.map(timestamp),
            metadata: metadata::read(found.metadata),
            file: None,
        }
        .into())
    }

    /// Reads an object, or the range asked for, into memory: at most `max_reply_bytes`, else it fails
    /// `permanent` as `too_large_for_reply`. The breaker's verdict comes with the first byte; a body that
    /// breaks off or stalls later is a failure of its own and read again from its start.
    pub(super) async fn get_object(&self, get: &GetObject) -> Result<Done, Stop> {
        let name = OperationName::GetObject;
        let (found, body) = self
            .0
            .counted(name, &get.bucket, self.read_whole(get))
            .await?;
        let Body { bytes, held } = body;
        let content_type = found.content_type;
        let result = JobResult::Object {
            size: bytes.len() as u64,
            etag: quoted(found.e_tag),
            version_id: found.version_id,
            content_type: content_type.clone(),
            last_modified: found.last_modified.map(timestamp),
            metadata: metadata::read(found.metadata),
            file: None,
        };
        Ok(Done {
            result,
            body: Some(ReplyBody {
                bytes,
                content_type,
            }),
            held: Some(Box::new(held)),
        })
    }

    /// `md5`: of the body, where S3 wants it; `over`: the `ETag` of the job's own object, which alone may be replaced by a put with `if_none_match`.
    fn put_request(
        &self,
        put: &PutObject,
        md5: Option<String>,
        over: Option<String>,
    ) -> impl Future<Output = PutAnswer> + Send + use<> {
        let options = &put.options;
        let request = self.0.client.put_object();
        let request = request.bucket(&put.bucket).key(&put.key);
        let request = request.body(ByteStream::from(put.body.clone()));
        let mut request = request.set_content_md5(md5);
        let mut said = Said::of(options, &self.0.storage.clients.put_defaults);
        if options.if_none_match {
            let condition = over.is_none().then(|| "*".to_owned());
            request = request.set_if_none_match(condition).set_if_match(over);
            said = said.by(self.0.job);
        }
        said.on(request.customize()).send()
    }

    /// Second look after a 412: the object, if this job put it there, else `exists` or a failure to look.
    pub(super) async fn own_object(
        &self,
        attempt: &Attempt<'_>,
        placed: Placed<'_>,
        exists: Failure,
    ) -> Result<HeadObjectOutput, Failure> {
        let found = match self.head(attempt, placed.bucket, placed.key, None).await {
            Ok(found) => found,
            // Deleted in between: the put may be made again.
            Err(look) if matches!(look.code.as_str(), error::NOT_FOUND | "NoSuchKey") => {
                let message = "the object was there and is gone again".to_owned();
                return Err(Failure {
                    class: FailureClass::Conflict,
                    message,
                    ..exists
                });
            }
            Err(look) if look.class == FailureClass::Permanent => {
                let why = format!("{}; it can't be compared: {look}", exists.message);
                return Err(Failure {
                    message: why,
                    ..exists
                });
            }
            Err(look) => return Err(look),
        };
        if self.is_own(&found, placed.size) {
            Ok(found)
        } else {
            Err(exists)
        }
    }

    /// Whether an object is of this job, and of that size if one is given.
    pub(super) fn is_own(&self, found: &HeadObjectOutput, size: Option<u64>) -> bool {
        let metadata = found.metadata.as_ref();
        let owner = metadata.and_then(|metadata| metadata.get(header::JOB));
        owner.is_some_and(|owner| owner == self.0.job.as_str())
            && size.is_none_or(|size| unsigned(found.content_length) == size)
    }

    /// A HEAD, and a GET of one byte when its refusal says too little to be judged: nobody's word but S3's counts.
    pub(super) async fn head(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        key: &str,
        version_id: Option<&str>,
    ) -> Result<HeadObjectOutput, Failure> {
        let version_id = version_id.map(str::to_owned);
        let head = self.0.client.head_object().bucket(bucket).key(key);
        let head = head.set_version_id(version_id.clone()).send();
        let head = attempt.proven(head, error::of_head);
        let failure = match attempt.call(OperationName::HeadObject, head).await {
            Ok(found) => return Ok(found),
            Err(failure) if error::is_bare_refusal(&failure) => failure,
            Err(failure) => return Err(failure),
        };
        match self.first_byte(attempt, bucket, key, version_id).await {
            Err(look) if look.code != "InvalidRange" => Err(look),
            // An object is there, or an empty one, and may be read: the HEAD was wrong by now.
            Ok(_) | Err(_) => {
                let message = "a HEAD was refused and a GET was not".to_owned();
                Err(Failure {
                    class: FailureClass::Conflict,
                    message,
                    ..failure
                })
            }
        }
    }

    /// A GET of one byte, for the code that a HEAD does not have.
    pub(super) async fn first_byte(
        &self,
        attempt: &Attempt<'_>,
        bucket: &str,
        key: &str,
        version_id: Option<String>,
    ) -> Result<GetObjectOutput, Failure> {
        let get = self.0.client.get_object().bucket(bucket).key(key);
        let get = get.range("bytes=0-0").set_version_id(version_id);
        attempt.request(OperationName::GetObject, get.send()).await
    }

    /// The next bytes of a body; none when it is over.
    pub(super) async fn next_chunk(&self, body: &mut ByteStream) -> Result<Option<Bytes>, Failure> {
        let next = body.try_next().await;
        next.map_err(|broken| error::of_body(&broken))
    }
}

/// An object as a put left it. Sizes in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stored {
    pub(super) etag: Option<String>,
    pub(super) version_id: Option<String>,
    pub(super) size: u64,
}

impl From<Stored> for JobResult {
    fn from(stored: Stored) -> Self {
        let Stored {
            etag,
            version_id,
            size,
        } = stored;
        Self::Stored {
            etag: quoted(etag),
            version_id,
            size,
        }
    }
}

/// Where a job puts its object, and how large that must be, if it is known.
#[derive(Debug, Clone, Copy)]
pub(super) struct Placed<'a> {
    pub(super) bucket: &'a str,
    pub(super) key: &'a str,
    pub(super) size: Option<u64>,
}

/// What a put says of an object that is there already.
pub(super) const EXISTS: &str = "PreconditionFailed";

type PutAnswer = Result<
    aws_sdk_s3::operation::put_object::PutObjectOutput,
    aws_sdk_s3::error::SdkError<aws_sdk_s3::operation::put_object::PutObjectError>,
>;

/// Fails `job_local` as `checksum_mismatch` when the bytes are not those that the job means.
pub(super) fn check_sha256(put: &PutObject) -> Result<(), Failure> {
    let Some(wanted) = put.options.sha256 else {
        return Ok(());
    };
    check_digest(Sha256::digest(&put.body).into(), wanted)
}

/// Fails `job_local` as `checksum_mismatch` unless the two are the same.
pub(super) fn check_digest(got: [u8; 32], wanted: [u8; 32]) -> Result<(), Failure> {
    if got == wanted {
        return Ok(());
    }
    let hex = |bytes: [u8; 32]| {
        bytes
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect::<String>()
    };
    let (got, wanted) = (hex(got), hex(wanted));
    let message = format!("the bytes have SHA-256 {got}, and the job says {wanted}");
    Err(Failure::ours(
        FailureClass::JobLocal,
        "checksum_mismatch",
        message,
    ))
}

/// The service answered, and what it has does not fit.
pub(super) fn too_large(what: &str, most: u64) -> Failure {
    let message = format!("{what}, and a reply holds at most {most}");
    let failure = Failure::ours(FailureClass::Permanent, "too_large_for_reply", message);
    Failure {
        called: true,
        ..failure
    }
}

/// An `ETag` in the one form that all results have, whatever the store writes: with its quotes.
pub(super) fn quoted(etag: Option<String>) -> Option<String> {
    etag.map(|etag| {
        let is_quoted = etag.ends_with('"') && (etag.starts_with('"') || etag.starts_with("W/\""));
        if is_quoted {
            etag
        } else {
            format!("\"{etag}\"")
        }
    })
}

/// Tags as S3 wants them: a URL query.
pub(super) fn query_string(tags: &std::collections::BTreeMap<String, String>) -> String {
    let pair = |(name, value): (&String, &String)| format!("{}={}", escaped(name), escaped(value));
    tags.iter().map(pair).collect::<Vec<_>>().join("&")
}

pub(super) fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

/// Sizes are signed in the SDK; S3 has no negative ones.
pub(super) fn unsigned(size: Option<i64>) -> u64 {
    size.and_then(|size| u64::try_from(size).ok()).unwrap_or(0)
}

pub(super) fn timestamp(time: DateTime) -> Timestamp {
    let micros = i64::from(time.subsec_nanos() / 1000);
    Timestamp::from_micros(time.secs().saturating_mul(1_000_000).saturating_add(micros))
}

#[cfg(test)]
#[path = "service_tests.rs"]
mod tests;
