//! What requests say in headers: of the object that they create, and of the job that makes them.
//!
//! Creating requests (a put, a copy, the first of a multipart upload) have the same headers for the same options, so
//! they are set on the request as it goes out, before it is signed; no builder of the SDK is asked for each. What all
//! requests of a job say is set where each attempt passes. It decides nothing: which options there are is
//! `job/options.rs`'s.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use aws_sdk_s3::{
    client::customize::CustomizableOperation,
    config::{
        ConfigBag, Intercept, RuntimeComponents, endpoint::Params, http::HttpRequest,
        interceptors::BeforeTransmitInterceptorContextMut,
    },
    error::BoxError,
};
use aws_smithy_runtime_api::{client::endpoint::EndpointResolverParams, http::HttpError};
use sha2::{Digest, Sha256};

use super::{metadata, service::query_string};
use crate::job::{
    Headers, JobId, SaidDigest,
    message::header,
    operation::PutOptions,
    options::{BUCKET_OWNER, NO_HEADERS},
};

const METADATA: &str = "x-amz-meta-";

/// Headers of a request that creates an object; of two with one name the later counts.
#[derive(Debug, Clone, Default)]
pub(super) struct Said(Vec<(String, String)>);

impl Said {
    /// Of the options, and of the operator's where they say nothing.
    pub(super) fn of(options: &PutOptions, defaults: &Headers) -> Self {
        let mut said = Self::default();
        for (row, value) in options.headers.or(defaults).iter() {
            said.add(row.header, row.header_value(value));
        }
        for (name, value) in &options.metadata {
            said.add(&format!("{METADATA}{name}"), metadata::written(value));
        }
        if !options.tags.is_empty() {
            said.add("x-amz-tagging", query_string(&options.tags));
        }
        said
    }

    /// Of the options alone.
    pub(super) fn by_job(options: &PutOptions) -> Self {
        Self::of(options, &NO_HEADERS)
    }

    /// The same, and that the object is this job's.
    #[must_use]
    pub(super) fn by(mut self, job: &JobId) -> Self {
        self.add(
            &format!("{METADATA}{}", header::JOB),
            job.as_str().to_owned(),
        );
        self
    }

    /// The same, but what is said here already.
    pub(super) fn add_missing(&mut self, name: &str, value: &str) {
        if !self.0.iter().any(|(said, _)| said == name) {
            self.add(name, value.to_owned());
        }
    }

    /// Metadata of another object.
    pub(super) fn add_metadata(&mut self, metadata: Option<&HashMap<String, String>>) {
        for (name, value) in metadata::kept(metadata) {
            self.add(&format!("{METADATA}{name}"), value);
        }
    }

    pub(super) fn add(&mut self, name: &str, value: String) {
        self.0.push((name.to_owned(), value));
    }

    /// Of what these headers say, in the order of their names: the same in every version, since ledgers keep it.
    pub(super) fn digest(&self) -> SaidDigest {
        let names = self.0.iter().map(|(name, _)| name.to_ascii_lowercase());
        let said: BTreeMap<_, _> = names.zip(self.0.iter().map(|(_, value)| value)).collect();
        let mut whole = Sha256::new();
        for (name, value) in said {
            // No header holds a zero.
            whole.update(format!("{name}\0{value}\0"));
        }
        let mut digest = SaidDigest::default();
        let half = digest.len();
        digest.copy_from_slice(&whole.finalize()[..half]);
        digest
    }

    /// The request with these headers; one that no header can carry fails it.
    pub(super) fn on<T, E, B>(
        self,
        request: CustomizableOperation<T, E, B>,
    ) -> CustomizableOperation<T, E, B> {
        if self.0.is_empty() {
            return request;
        }
        request.map_request(move |mut request: HttpRequest| {
            for (name, value) in &self.0 {
                let (name, value) = (name.clone(), value.clone());
                request.headers_mut().try_insert(name, value)?;
            }
            Ok::<_, HttpError>(request)
        })
    }
}

/// What all requests of a job say, and the job's bucket: another bucket has another owner.
#[derive(Debug)]
struct OfJob {
    bucket: String,
    headers: Vec<(&'static str, String)>,
}

tokio::task_local! {
    /// The SDK hands nothing of ours through to its interceptors, but runs them within the caller's task.
    static OF_JOB: Arc<OfJob>;
}

/// `request`, in which the job says so.
pub(super) async fn saying<F: Future>(headers: &Headers, bucket: &str, request: F) -> F::Output {
    if headers.is_empty() {
        return request.await;
    }
    let of_job = OfJob {
        bucket: bucket.to_owned(),
        headers: headers
            .iter()
            .map(|(row, value)| (row.header, row.header_value(value)))
            .collect(),
    };
    OF_JOB.scope(Arc::new(of_job), request).await
}

/// Sets what the job says that a request is made for, see [`saying`]; and that a body is empty, which the SDK leaves
/// to be guessed.
#[derive(Debug)]
pub(super) struct JobHeaders;

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for JobHeaders {
    fn name(&self) -> &'static str {
        "JobHeaders"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        cfg: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let request = context.request_mut();
        let may_have_body = matches!(request.method(), "PUT" | "POST");
        if may_have_body && request.body().content_length() == Some(0) {
            // Ceph refuses a part that is copied without it.
            request.headers_mut().try_insert("content-length", "0")?;
        }
        let Ok(of_job) = OF_JOB.try_with(Arc::clone) else {
            return Ok(());
        };
        let params = cfg.load::<EndpointResolverParams>();
        let params = params.and_then(|params| params.get::<Params>());
        let bucket = params.and_then(Params::bucket);
        for (name, value) in &of_job.headers {
            if *name != BUCKET_OWNER || bucket == Some(of_job.bucket.as_str()) {
                let headers = context.request_mut().headers_mut();
                headers.try_insert(*name, value.clone())?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
#[path = "said_tests.rs"]
mod tests;
