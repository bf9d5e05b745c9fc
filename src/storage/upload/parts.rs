//! One upload's source, read part by part: reserves memory first, hashes what goes by, and skips the parts
//! that are there already.
//!
//! It knows the plan and the source, and nothing of S3.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use sha2::{Digest, Sha256};

use super::plan::{MOST_PARTS, Plan, endless};
use crate::{
    job::{Failure, FailureClass},
    resilience::Budget,
    storage::{file_threads::patience, source::Source},
};

/// A part in memory.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) number: u32,
    /// Within the budget until the last clone is gone.
    pub(super) bytes: Bytes,
}

/// A part that S3 has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sent {
    pub(super) etag: String,
    pub(super) size: u64,
    /// Of its bytes, if S3 has it from us.
    pub(super) crc32: Option<u32>,
}

/// A source on its way into parts.
#[derive(Debug)]
pub(super) struct Parts<'a> {
    source: Source,
    plan: Plan,
    budget: &'a Budget,
    /// Parts that S3 has from an earlier run, by number.
    finished: BTreeMap<u32, Sent>,
    /// Running SHA-256 of all bytes, if the job names one.
    digest: Option<Sha256>,
    /// Read already, to see whether the source is longer than one part.
    first: Option<Held>,
    next: u32,
    /// Bytes of the parts before `next`.
    offset: u64,
    ended: bool,
}

impl<'a> Parts<'a> {
    pub(super) fn new(source: Source, plan: Plan, budget: &'a Budget, hashes: bool) -> Self {
        Self {
            source,
            plan,
            budget,
            finished: BTreeMap::new(),
            digest: hashes.then(Sha256::new),
            first: None,
            next: 1,
            offset: 0,
            ended: false,
        }
    }

    /// Parts that S3 has already. Those that are not as the plan has them are sent again.
    pub(super) fn skip(&mut self, mut finished: BTreeMap<u32, Sent>) {
        finished.retain(|number, sent| {
            let planned = self.plan.part(*number);
            planned.is_some_and(|part| part.end - part.start == sent.size)
        });
        self.finished = finished;
    }

    /// Reads the first part; gives it back if it is the whole source, and keeps it otherwise.
    pub(super) async fn read_first(&mut self) -> Result<Option<Held>, Failure> {
        let length = self.plan.part(1).map_or(0, |part| part.end - part.start);
        let first = self.read(1, length).await?;
        if (first.bytes.len() as u64) < length {
            return Ok(Some(first));
        }
        self.first = Some(first);
        Ok(None)
    }

    /// The next part to be sent; `None` when the source has ended. A source that is not as long as it said
    /// fails `job_local`. By value, since reading must not be given up half-way.
    pub(super) async fn step(mut self) -> (Self, Result<Option<Held>, Failure>) {
        let next = self.read_next().await;
        (self, next)
    }

    async fn read_next(&mut self) -> Result<Option<Held>, Failure> {
        loop {
            if self.ended {
                return Ok(None);
            }
            let number = self.next;
            let Some(range) = self.plan.part(number) else {
                return self.past_the_last_part().await;
            };
            let is_there = self.finished.contains_key(&number);
            if is_there && self.digest.is_none() {
                self.advance(range.end);
                continue;
            }
            let held = match self.first.take() {
                Some(first) => first,
                None => self.read(number, range.end - range.start).await?,
            };
            let length = held.bytes.len() as u64;
            if length < range.end - range.start {
                if self.plan.size().is_some() || is_there {
                    return Err(changed("the source ended early"));
                }
                self.ended = true;
                if length == 0 && number > 1 {
                    return Ok(None);
                }
            }
            if let Some(digest) = &mut self.digest {
                digest.update(&held.bytes);
            }
            self.advance(range.start + length);
            if !is_there {
                return Ok(Some(held));
            }
        }
    }

    async fn read(&mut self, number: u32, length: u64) -> Result<Held, Failure> {
        self.source.skip_to(self.offset).await?;
        let bytes = read(&mut self.source, self.budget, length).await?;
        Ok(Held { number, bytes })
    }

    fn advance(&mut self, offset: u64) {
        self.next += 1;
        self.offset = offset;
    }

    async fn past_the_last_part(&mut self) -> Result<Option<Held>, Failure> {
        self.ended = true;
        if self.plan.size().is_none() && self.next > MOST_PARTS {
            self.source.skip_to(self.offset).await?;
            let more = read(&mut self.source, self.budget, 1).await?;
            if !more.is_empty() {
                return Err(endless(self.offset));
            }
        }
        Ok(None)
    }

    /// Bytes of all parts, once the source has ended.
    pub(super) const fn size(&self) -> u64 {
        self.offset
    }

    /// See [`check_unchanged`].
    pub(super) async fn check_unchanged(&self) -> Result<(), Failure> {
        check_unchanged(&self.source).await
    }

    /// SHA-256 of all bytes, and the parts that were there before.
    pub(super) fn finish(self) -> (Option<[u8; 32]>, BTreeMap<u32, Sent>) {
        let digest = self.digest.map(|digest| digest.finalize().into());
        (digest, self.finished)
    }
}

/// The next bytes of a source, at most `most`, within the budget for as long as they are used.
pub(super) async fn read(
    source: &mut Source,
    budget: &Budget,
    most: u64,
) -> Result<Bytes, Failure> {
    let buffer = budget.buffer(most).await;
    // A source is never asked for nothing.
    let most = usize::try_from(most.max(1)).unwrap_or(usize::MAX);
    let patience = patience(most);
    // It holds memory meanwhile that other uploads wait for.
    tokio::time::timeout(patience, source.read_part_into(buffer, most))
        .await
        .unwrap_or_else(|_| Err(too_slow(most, patience)))
}

fn too_slow(bytes: usize, patience: Duration) -> Failure {
    let seconds = patience.as_secs();
    let message = format!("the source gave less than {bytes} bytes in {seconds} s");
    Failure::ours(FailureClass::TimedOut, "source_too_slow", message)
}

/// Whether the source is still what was opened; fails `job_local` as `source_changed` otherwise.
pub(super) async fn check_unchanged(source: &Source) -> Result<(), Failure> {
    if source.unchanged().await? {
        Ok(())
    } else {
        Err(changed("the source changed while it was read"))
    }
}

pub(super) fn changed(message: &str) -> Failure {
    Failure::ours(FailureClass::JobLocal, "source_changed", message)
}
