//! Reads an object into a file: streamed, resumed after a cut, checked, and only then given its name.
//!
//! Each request is an attempt of a guarded operation. One that is cut after [`PROGRESS`] has paid for itself: the
//! next one begins a new guarded operation, so that a large object over a poor line is not out of attempts while it
//! comes on. It goes on from the first byte that is missing, on condition (`If-Match`) that the object is the same.

use std::path::Path;

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::{Bytes, BytesMut};
use tokio::sync::Mutex;

use super::{
    Done, Stop,
    attempt::Attempt,
    checksum::Checksum,
    destination::{EarlierRuns, PartFile},
    error, metadata,
    service::{StorageService, quoted, timestamp, unsigned},
    window::{ContentRange, Window},
};
use crate::job::{Failure, FailureClass, JobResult, OperationName, operation::GetObject};

/// A cut after this many bytes costs no attempt; chosen.
const PROGRESS: u64 = 1 << 20;
/// Bytes in one write, if there is memory for them, and if not.
const WRITE: usize = 1 << 20;
const SMALL_WRITE: usize = 64 << 10;

/// What is here of the object, over all attempts.
#[derive(Debug)]
struct Progress {
    part: PartFile,
    /// Came, and is not written yet.
    buffer: BytesMut,
    /// Bytes of it that are worth a write.
    write: usize,
    /// Bytes that came, those in the buffer included.
    got: u64,
    first: Option<FirstAnswer>,
}

/// What the first answer said; later ones must fit it.
#[derive(Debug)]
struct FirstAnswer {
    /// Its body taken out.
    head: GetObjectOutput,
    /// Where in the object the bytes begin.
    start: u64,
    /// How many bytes there are; `None`: the store did not say, so nothing can be resumed.
    length: Option<u64>,
    checksum: Option<Checksum>,
}

/// How one attempt ended that S3 did not fail.
enum End {
    /// All bytes are written.
    All,
    /// Not for S3's sake: disk, checksum.
    Ours(Failure),
}

/// How one guarded operation ended.
enum Step {
    All,
    /// It came on, and was cut.
    Cut(Failure),
}

impl StorageService<'_> {
    /// Reads an object, or the range asked for, into `path`. Never leaves a part of it under that name.
    ///
    /// Fails as [`PartFile::create`] does, before any call; `conflict` as `object_changed` when it is another one
    /// after a cut; `unavailable` as `checksum_mismatch` when the bytes are not those that S3 vouches for.
    pub(super) async fn download(&self, get: &GetObject, path: &Path) -> Result<Done, Stop> {
        let earlier = match self.0.context.unfinished {
            0 => EarlierRuns::Ended,
            _ => EarlierRuns::Died,
        };
        let roots = &self.0.storage.destinations;
        let threads = self.0.storage.sources.threads();
        let part = PartFile::create(threads, roots, path, self.0.job, earlier).await;
        let progress = Mutex::new(Progress {
            part: part.map_err(Stop::Failed)?,
            buffer: BytesMut::new(),
            write: SMALL_WRITE,
            got: 0,
            first: None,
        });
        let name = OperationName::GetObject;
        let work = async {
            self.fetch_all(get, &progress).await?;
            let progress = progress.into_inner();
            progress.part.commit().await.map_err(Stop::Failed)?;
            Ok((progress.first, progress.got))
        };
        let (first, size) = self.0.counted(name, &get.bucket, work).await?;
        let found = first.map(|first| first.head);
        let found = found.unwrap_or_else(|| GetObjectOutput::builder().build());
        Ok(JobResult::Object {
            size,
            etag: quoted(found.e_tag),
            version_id: found.version_id,
            content_type: found.content_type,
            last_modified: found.last_modified.map(timestamp),
            metadata: metadata::read(found.metadata),
            file: Some(path.to_string_lossy().into_owned()),
        }
        .into())
    }

    async fn fetch_all(&self, get: &GetObject, progress: &Mutex<Progress>) -> Result<(), Stop> {
        let name = OperationName::GetObject;
        loop {
            let step = self.0.guarded(name, |attempt| async move {
                let mut progress = progress.lock().await;
                let before = progress.got;
                let end = attempt
                    .call(name, self.fetch(&attempt, get, &mut progress))
                    .await;
                match end {
                    Ok(End::All) => Ok(Step::All),
                    Ok(End::Ours(failure)) => Err(failure),
                    Err(failure) if progress.got >= before + PROGRESS => Ok(Step::Cut(failure)),
                    Err(failure) => Err(failure),
                }
            });
            match step.await? {
                Step::All => return Ok(()),
                Step::Cut(failure) => {
                    let labels = [name.as_str(), failure.class.as_str()];
                    self.0.metrics().s3_retries.with_label_values(&labels).inc();
                    tracing::debug!(job = %self.0.job, lane = "read", operation = name.as_str(), bucket = get.bucket, %failure, "a download is cut and goes on");
                }
            }
        }
    }

    /// One request, and its body into the file.
    async fn fetch(
        &self,
        attempt: &Attempt<'_>,
        get: &GetObject,
        progress: &mut Progress,
    ) -> Result<End, Failure> {
        if let Some(failure) = progress.part.stalled() {
            return Ok(End::Ours(failure.clone()));
        }
        let missing = progress.missing();
        if progress.first.is_some()
            && missing.is_none()
            && let Err(failure) = progress.restart().await
        {
            return Ok(End::Ours(failure));
        }
        let mut request = self
            .0
            .client
            .get_object()
            .bucket(&get.bucket)
            .key(&get.key)
            .set_version_id(get.version_id.clone());
        request = match &missing {
            Some(missing) => request.range(&missing.range).if_match(&missing.etag),
            None => request.set_range(get.range.clone()),
        };
        let asks = get.range.is_none() && missing.is_none();
        let request = self.asking(asks, request.customize());
        let sent = attempt.proven(request.send(), error::failure);
        let answer = match sent.await {
            Ok(answer) => answer,
            Err(failure) if missing.is_some() && is_changed(&failure) => {
                return Ok(End::Ours(progress.changed().await));
            }
            Err(failure) => return Err(failure),
        };
        let range = missing.as_ref().map(|missing| missing.range.as_str());
        let window = Window::of(range.or(get.range.as_deref()), &answer);
        let window = window.map_err(|what| attempt.heard().unproven(&what))?;
        let body = match progress.begin(answer, get.range.is_some(), missing.as_ref(), window) {
            Some(body) => body,
            None => return Ok(End::Ours(progress.changed().await)),
        };
        self.receive(attempt, body, progress, window).await
    }

    async fn receive(
        &self,
        attempt: &Attempt<'_>,
        mut body: aws_sdk_s3::primitives::ByteStream,
        progress: &mut Progress,
        mut window: Window,
    ) -> Result<End, Failure> {
        let received = self.0.metrics().s3_bytes.with_label_values(&["in"]);
        let is_small = |length| length <= SMALL_WRITE as u64;
        // One that is written, and one that fills.
        let room = match progress.length().is_some_and(is_small) {
            true => None,
            false => self.0.storage.budget.try_reserve(2 * WRITE as u64),
        };
        progress.write = room.as_ref().map_or(SMALL_WRITE, |_| WRITE);
        loop {
            let chunk = match self.next_chunk(&mut body).await {
                Ok(chunk) => chunk,
                // All of them are here, however the connection ends.
                Err(_) if progress.length() == Some(progress.got) => break,
                Err(failure) => return Err(failure),
            };
            let Some(chunk) = chunk else { break };
            attempt.answered();
            received.inc_by(chunk.len() as u64);
            let chunk = window.cut(chunk);
            if let Err(failure) = progress.take(&chunk).await {
                return Ok(End::Ours(failure));
            }
            if window.is_full() {
                break;
            }
        }
        if let Some(length) = progress.length().filter(|length| progress.got < *length) {
            return Err(error::cut_short(progress.got, length));
        }
        if let Err(failure) = progress.flush().await {
            return Ok(End::Ours(failure));
        }
        match progress.wrong_checksum() {
            Some(why) => Ok(End::Ours(progress.mismatch(&why).await)),
            None => Ok(End::All),
        }
    }
}

/// What a second request must ask for.
struct Missing {
    range: String,
    etag: String,
}

impl Progress {
    /// What to ask for after a cut; `None` when it must begin anew.
    fn missing(&self) -> Option<Missing> {
        let first = self.first.as_ref()?;
        let at = first.start + self.got;
        let last = (first.start + first.length?).checked_sub(1)?;
        (at <= last).then_some(())?;
        Some(Missing {
            range: format!("bytes={at}-{last}"),
            etag: first.head.e_tag.clone()?,
        })
    }

    fn length(&self) -> Option<u64> {
        self.first.as_ref()?.length
    }

    /// Notes what an answer says and gives its body; `None` when it is of another object than those before.
    fn begin(
        &mut self,
        mut answer: GetObjectOutput,
        ranged: bool,
        missing: Option<&Missing>,
        window: Window,
    ) -> Option<aws_sdk_s3::primitives::ByteStream> {
        let body = std::mem::take(&mut answer.body);
        if let Some(missing) = missing {
            // The condition is ignored where the range is.
            let is_same = !window.is_cut() || answer.e_tag.as_deref() == Some(&missing.etag);
            return is_same.then_some(body);
        }
        let came = answer
            .content_range
            .as_deref()
            .and_then(ContentRange::parse);
        let announced = answer.content_length.map(|size| unsigned(Some(size)));
        self.first = Some(FirstAnswer {
            start: came.map_or(window.skipped(), |came| came.first),
            length: window.most(announced),
            checksum: (!ranged).then(|| Checksum::of(&answer)).flatten(),
            head: answer,
        });
        Some(body)
    }

    async fn take(&mut self, chunk: &Bytes) -> Result<(), Failure> {
        self.buffer.extend_from_slice(chunk);
        self.got += chunk.len() as u64;
        if let Some(checksum) = self
            .first
            .as_mut()
            .and_then(|first| first.checksum.as_mut())
        {
            checksum.update(chunk);
        }
        if self.buffer.len() < self.write {
            return Ok(());
        }
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), Failure> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let bytes = self.buffer.split().freeze();
        let written = self.part.append(bytes).await;
        if written.is_err() {
            // What could not be written is gone: only a new beginning is safe.
            self.first = None;
            self.got = 0;
            self.part.restart().await?;
        }
        written
    }

    async fn restart(&mut self) -> Result<(), Failure> {
        self.first = None;
        self.got = 0;
        self.buffer.clear();
        self.part.restart().await
    }

    /// Begins anew, and says that the object is another one now.
    async fn changed(&mut self) -> Failure {
        if let Err(failure) = self.restart().await {
            return failure;
        }
        let message = "the object changed while it was read, and is read anew";
        Failure::ours(FailureClass::Conflict, "object_changed", message)
    }

    /// Begins anew, and says that the bytes were not the object's.
    async fn mismatch(&mut self, why: &str) -> Failure {
        if let Err(failure) = self.restart().await {
            return failure;
        }
        let message = format!("the bytes are not the object's: {why}");
        Failure::ours(FailureClass::Unavailable, "checksum_mismatch", message)
    }

    fn wrong_checksum(&mut self) -> Option<String> {
        self.first.as_mut()?.checksum.take()?.wrong()
    }
}

fn is_changed(failure: &Failure) -> bool {
    matches!(
        failure.code.as_str(),
        "PreconditionFailed" | "InvalidRange" | "http_412" | "http_416"
    )
}

#[cfg(test)]
#[path = "download_tests.rs"]
mod tests;
