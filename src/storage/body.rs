//! An object's bytes in memory, for a reply: read when there is memory for them.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;

use super::{
    Stop,
    answer::called,
    attempt::Attempt,
    checksum::Checksum,
    error,
    service::{StorageService, too_large, unsigned},
    window::Window,
};
use crate::{
    job::{Failure, FailureClass, OperationName, operation::GetObject},
    resilience::Held,
};

/// How long an answer may wait for memory for its body; chosen: longer than one body takes on a good line, and far
/// below what makes a store hang up.
const MEMORY_WAIT: Duration = Duration::from_secs(1);

/// What became of one GET of a body.
enum Read {
    All(Box<GetObjectOutput>, Body),
    /// So many bytes must be reserved first.
    NoMemory(u64),
}

/// What a body takes that is to be published: a few at a time are copied on their way.
const fn with_its_copy(bytes: u64) -> u64 {
    bytes + bytes / 4
}

/// A body, and its place in the budget.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Bytes,
    pub(super) held: Held,
}

impl StorageService<'_> {
    /// Asks until there is memory for the body. An answer that it does not come in time for is given up, and its
    /// slot with it: nobody waits for long with a connection in hand.
    pub(super) async fn read_whole(
        &self,
        get: &GetObject,
    ) -> Result<(GetObjectOutput, Body), Stop> {
        let name = OperationName::GetObject;
        let reserved = Mutex::new(None);
        let reserved = &reserved;
        loop {
            let read = self.0.guarded(name, |attempt| async move {
                let held = reserved
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .take();
                attempt.call(name, self.get(&attempt, get, held)).await
            });
            match read.await? {
                Read::All(found, body) => return Ok((*found, body)),
                Read::NoMemory(bytes) => {
                    let held = self.0.storage.budget.reserve(bytes).await;
                    *reserved.lock().unwrap_or_else(PoisonError::into_inner) = Some(held);
                }
            }
        }
    }

    /// `held` is memory for the body, if an earlier answer said how much it takes.
    async fn get(
        &self,
        attempt: &Attempt<'_>,
        get: &GetObject,
        held: Option<Held>,
    ) -> Result<Read, Failure> {
        let request = self.0.client.get_object().bucket(&get.bucket).key(&get.key);
        let request = request
            .set_range(get.range.clone())
            .set_version_id(get.version_id.clone());
        let request = self.asking(get.range.is_none(), request.customize());
        let mut found = attempt.proven(request.send(), error::failure).await?;
        let most = self.0.context.max_reply_bytes;
        let announced = found.content_length.map(|size| unsigned(Some(size)));
        let mut window = Window::of(get.range.as_deref(), &found)
            .map_err(|what| attempt.heard().unproven(&what))?;
        if let Some(size) = window.most(announced).filter(|size| *size > most) {
            return Err(too_large(&format!("the object has {size} bytes"), most));
        }
        let size = window.most(announced).unwrap_or(most);
        let need = with_its_copy(size);
        let held = match held.filter(|held| held.bytes() >= need) {
            Some(held) => Some(held),
            None => self.memory_now(need).await,
        };
        let Some(mut held) = held else {
            return Ok(Read::NoMemory(need));
        };
        let mut checksum = match get.range {
            None => Checksum::of(&found),
            Some(_) => None,
        };
        let mut body = std::mem::take(&mut found.body);
        let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
        let mut came = 0;
        while let Some(chunk) = self.next_chunk(&mut body).await? {
            attempt.answered();
            self.0
                .metrics()
                .s3_bytes
                .with_label_values(&["in"])
                .inc_by(chunk.len() as u64);
            came += chunk.len() as u64;
            let chunk = window.cut(chunk);
            if bytes.len() as u64 + chunk.len() as u64 > most {
                return Err(too_large("the object goes on", most));
            }
            if let Some(checksum) = &mut checksum {
                checksum.update(&chunk);
            }
            bytes.extend_from_slice(&chunk);
            if window.is_full() {
                break;
            }
        }
        if let Some(announced) =
            announced.filter(|announced| !window.is_full() && came < *announced)
        {
            return Err(error::cut_short(came, announced));
        }
        if let Some(why) = checksum.and_then(Checksum::wrong) {
            let message = format!("the bytes are not the object's: {why}");
            return Err(called(
                FailureClass::Unavailable,
                "checksum_mismatch",
                message,
            ));
        }
        bytes.shrink_to_fit();
        held.shrink_to(with_its_copy(bytes.len() as u64));
        let bytes = Bytes::from(bytes);
        Ok(Read::All(Box::new(found), Body { bytes, held }))
    }

    /// Memory for a body whose answer is here, if it comes soon.
    async fn memory_now(&self, bytes: u64) -> Option<Held> {
        let reserved = self.0.storage.budget.reserve(bytes);
        tokio::time::timeout(MEMORY_WAIT, reserved).await.ok()
    }
}

#[cfg(test)]
#[path = "body_tests.rs"]
mod tests;
