//! What these credentials may do in a bucket, tried out: for `brigade doctor`, never on a job's way.
//!
//! Each try is one call, outside of circuits, metrics and retries. What it writes is one small object under
//! `.brigade-doctor/`, which it deletes again. An error's meaning is `error.rs`'s; what an operator should do
//! about it is the caller's.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_sdk_s3::{
    config::{
        ConfigBag, Intercept, RuntimeComponents, http::HttpResponse,
        interceptors::BeforeDeserializationInterceptorContextRef,
    },
    error::{BoxError, ProvideErrorMetadata, SdkError},
    primitives::{ByteStream, DateTime, DateTimeFormat},
    types::ExpirationStatus,
};

use super::{
    Clients, answer::Heard, client::check_bucket, error::failure, proof::Proof, said::Said,
};
use crate::job::{Failure, FailureClass, Lane, Timestamp, operation::PutOptions};

/// A class of operations, by what a lane needs of the bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// `HeadBucket`: it is there, and S3 answers.
    Reach,
    /// `ListObjectsV2`, which the read lane uses, and without which a missing key is an access denied.
    List,
    /// `PutObject`, for the upload lane.
    Upload,
    /// `GetObject`, for the read lane.
    Read,
    /// `DeleteObject`, for the cleanup lane.
    Cleanup,
}

impl Right {
    /// As shown to people.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reach => "reach",
            Self::List => "list",
            Self::Upload => "upload",
            Self::Read => "read",
            Self::Cleanup => "cleanup",
        }
    }
}

/// Whether S3 itself removes the parts of uploads that were abandoned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AbortRule {
    /// An enabled lifecycle rule does.
    Present,
    /// None does.
    Absent,
    /// S3 does not say, and why.
    Unknown(Failure),
}

/// What was tried in one bucket.
#[derive(Debug)]
pub struct BucketReport {
    /// In the order tried. Ends with the first finding that makes the rest pointless.
    pub tries: Vec<(Right, Result<(), Failure>)>,
    /// How far this machine's clock is ahead of S3's in whole seconds (behind: negative); `None` when S3
    /// never answered with a date.
    pub clock_ahead: Option<i64>,
    /// `None` when the bucket could not be reached.
    pub abort_rule: Option<AbortRule>,
    /// The object that could not be deleted again.
    pub left_behind: Option<String>,
}

/// Why no call can be made at all, if that can be seen from the settings.
pub fn misconfigured(clients: &Clients) -> Option<&Failure> {
    clients.misconfigured.as_ref()
}

/// Tries everything out. Each call ends within `timeout`.
pub async fn check(clients: &Clients, bucket: &str, timeout: Duration) -> BucketReport {
    let checker = Checker {
        clients,
        bucket,
        timeout,
        clock: Clock::default(),
    };
    checker.run().await
}

struct Checker<'c> {
    clients: &'c Clients,
    bucket: &'c str,
    timeout: Duration,
    clock: Clock,
}

impl Checker<'_> {
    async fn run(self) -> BucketReport {
        let mut report = BucketReport {
            tries: Vec::new(),
            clock_ahead: None,
            abort_rule: None,
            left_behind: None,
        };
        let known = check_bucket(self.bucket).err();
        if let Some(why) = known.or_else(|| self.clients.misconfigured.clone()) {
            report.tries.push((Right::Reach, Err(why)));
            return report;
        }
        let (reached, listed) = self.look().await;
        report.tries.push((Right::Reach, reached));
        if let Some(listed) = listed {
            let goes_on = !matches!(&listed, Err(why) if is_hopeless(why));
            report.tries.push((Right::List, listed));
            if goes_on {
                self.objects(&mut report).await;
                report.abort_rule = Some(self.abort_rule().await);
            }
        }
        report.clock_ahead = self.clock.ahead();
        report
    }

    /// Whether the bucket is reached, and if so, whether it may be listed.
    async fn look(&self) -> (Result<(), Failure>, Option<Result<(), Failure>>) {
        let head = match self.reach().await {
            // A HEAD's refusal is bare, so it is misrouted whoever gave it; the list tells more.
            Err(why) if is_hopeless(&why) && why.class != FailureClass::Misrouted => {
                return (Err(why), None);
            }
            head => head,
        };
        match (head, self.list().await) {
            // An error to a HEAD carries no code; the list says what it was.
            (Err(_), Err(why)) if why.code != "AccessDenied" => (Err(why), None),
            (_, listed) => (Ok(()), Some(listed)),
        }
    }

    async fn objects(&self, report: &mut BucketReport) {
        let key = format!(".brigade-doctor/{}", uuid::Uuid::now_v7());
        let put = self.put(&key).await;
        let is_there = put.is_ok();
        report.tries.push((Right::Upload, put));
        let read = match self.get(&key).await {
            // It may be read; there is nothing to read.
            Err(why) if !is_there && why.code == "NoSuchKey" => Ok(()),
            read => read,
        };
        report.tries.push((Right::Read, read));
        let deleted = self.delete(&key).await;
        if is_there && deleted.is_err() {
            report.left_behind = Some(key);
        }
        report.tries.push((Right::Cleanup, deleted));
    }

    async fn reach(&self) -> Result<(), Failure> {
        let call = self.clients.of(Lane::Read).head_bucket();
        let call = call.bucket(self.bucket).customize();
        let call = call.interceptor(self.clock.clone());
        let sent = async { call.send().await.map(drop).map_err(failure) };
        self.in_time(sent).await
    }

    async fn list(&self) -> Result<(), Failure> {
        let call = self.clients.of(Lane::Read).list_objects_v2();
        let call = call.bucket(self.bucket).max_keys(1).customize();
        let call = call.interceptor(self.clock.clone());
        self.in_time(self.proven(call.send())).await
    }

    async fn put(&self, key: &str) -> Result<(), Failure> {
        let call = self.clients.of(Lane::Upload).put_object();
        let body = ByteStream::from_static(b"brigade doctor was here");
        let call = call.bucket(self.bucket).key(key).body(body);
        // A bucket may take only what is encrypted as the operator says.
        let said = Said::of(&PutOptions::default(), &self.clients.put_defaults);
        let call = said.on(call.customize());
        self.in_time(self.proven(call.send())).await
    }

    async fn get(&self, key: &str) -> Result<(), Failure> {
        let call = self.clients.of(Lane::Read).get_object();
        let call = call.bucket(self.bucket).key(key);
        self.in_time(self.proven(call.send())).await
    }

    async fn delete(&self, key: &str) -> Result<(), Failure> {
        let call = self.clients.of(Lane::Cleanup).delete_object();
        let call = call.bucket(self.bucket).key(key);
        self.in_time(self.proven(call.send())).await
    }

    /// As a lane would take it: a good answer counts when it proves itself.
    async fn proven<T: Proof, E>(
        &self,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<(), Failure>
    where
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let heard = Arc::new(Heard::default());
        let answer = heard.listen(send).await.map_err(failure)?;
        heard.prove(answer, self.clients.require_etag).map(drop)
    }

    async fn abort_rule(&self) -> AbortRule {
        let call = self.clients.of(Lane::Read);
        let call = call.get_bucket_lifecycle_configuration();
        let call = call.bucket(self.bucket);
        let sent = async { call.send().await.map_err(failure) };
        match self.in_time(sent).await {
            Ok(lifecycle) => {
                let aborts = lifecycle.rules().iter().any(|rule| {
                    rule.status() == &ExpirationStatus::Enabled
                        && rule.abort_incomplete_multipart_upload().is_some()
                });
                if aborts {
                    AbortRule::Present
                } else {
                    AbortRule::Absent
                }
            }
            Err(why) if why.code == "NoSuchLifecycleConfiguration" => AbortRule::Absent,
            Err(why) => AbortRule::Unknown(why),
        }
    }

    async fn in_time<T>(
        &self,
        sent: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        let late = |_| {
            let message = format!("no answer within {:?}", self.timeout);
            Failure::ours(FailureClass::TimedOut, "no_answer", message)
        };
        tokio::time::timeout(self.timeout, sent)
            .await
            .map_err(late)?
    }
}

/// Whether other calls would end the same way.
fn is_hopeless(why: &Failure) -> bool {
    let service = matches!(
        why.class,
        FailureClass::Unavailable
            | FailureClass::TimedOut
            | FailureClass::Credentials
            | FailureClass::Misrouted
    );
    service || matches!(why.code.as_str(), "NoSuchBucket" | "PermanentRedirect")
}

/// Reads the `Date` of answers, refusals included.
#[derive(Debug, Clone, Default)]
pub(super) struct Clock {
    /// Seconds that this machine is ahead. Nothing awaits under it.
    ahead: Arc<Mutex<Option<i64>>>,
}

impl Clock {
    /// Seconds that this machine is ahead of S3 (behind: negative); `None` before an answer with a date.
    pub(super) fn ahead(&self) -> Option<i64> {
        *self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for Clock {
    fn name(&self) -> &'static str {
        "Clock"
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let date = context.response().headers().get("date");
        let date = date.and_then(|text| DateTime::from_str(text, DateTimeFormat::HttpDate).ok());
        if let Some(date) = date {
            let ours = Timestamp::now().as_micros() / 1_000_000;
            *self.ahead.lock().unwrap_or_else(PoisonError::into_inner) = Some(ours - date.secs());
        }
        Ok(())
    }
}
