//! A refusal of what the operator's defaults say (`s3.put_defaults`) is no fault of the job to which they were added: all
//! other jobs would be refused, too.

use aws_sdk_s3::{
    config::http::HttpResponse,
    error::{ProvideErrorMetadata, SdkError},
};

use super::{attempt::Attempt, error, guard::Caller, proof::Proof};
use crate::job::{
    CallName, Failure, FailureClass, Headers,
    operation::PutOptions,
    options::{HeaderOption, PUT_DEFAULTS, STORAGE_CLASS, Scope},
};

/// How stores speak of encryption, in codes and sentences, in lower case.
const OF_ENCRYPTION: [&str; 4] = ["encrypt", "kms", "server side", "server-side"];
/// How they speak of a storage class.
const OF_STORAGE_CLASS: [&str; 3] = ["storageclass", "storage class", "storage-class"];
/// How AWS names a right of KMS that is missing; else a denial is of the object's place, and names may hold any word.
const DENIED_KEY: &str = "kms:";
/// The codes for a header that a store can't heed, mostly without its name.
const UNHEEDED: [&str; 2] = ["NotImplemented", "InvalidArgument"];

/// Headers of a request that creates an object.
#[derive(Debug)]
struct Added<'a> {
    /// What the defaults add to the job's options.
    defaults: Vec<(&'static HeaderOption, &'a str)>,
    /// Whether the job says something of its own that a store may refuse.
    beside_own: bool,
}

impl Caller<'_> {
    /// A request that creates an object with these options and the operator's defaults.
    pub(super) async fn create<T, E>(
        &self,
        attempt: &Attempt<'_>,
        name: impl Into<CallName>,
        options: &PutOptions,
        send: impl Future<Output = Result<T, SdkError<E, HttpResponse>>>,
    ) -> Result<T, Failure>
    where
        T: Proof,
        E: ProvideErrorMetadata + std::error::Error + 'static,
    {
        let defaults = &self.storage.clients.put_defaults;
        let classify = |failed| Added::new(options, defaults).judged(error::failure(failed));
        attempt.call(name, attempt.proven(send, classify)).await
    }
}

impl<'a> Added<'a> {
    fn new(options: &PutOptions, defaults: &'a Headers) -> Self {
        let said = options.headers.or(defaults);
        let is_added = |row: &HeaderOption| {
            options.headers.get(row.header).is_none() && said.get(row.header).is_some()
        };
        let mut own = options.headers.iter();
        Self {
            defaults: defaults.iter().filter(|(row, _)| is_added(row)).collect(),
            beside_own: own.any(|(row, _)| row.scope == Scope::Object) || !options.tags.is_empty(),
        }
    }

    fn judged(&self, failure: Failure) -> Failure {
        if failure.class != FailureClass::Permanent {
            return failure;
        }
        let refused: Vec<_> = self
            .defaults
            .iter()
            .filter(|(row, _)| self.is_about(row, &failure))
            .map(|(row, value)| format!("{} = {value:?}", setting(row)))
            .collect();
        if refused.is_empty() {
            return failure;
        }
        let message = format!(
            "{}; the option is the worker's, not the job's: {}",
            failure.message,
            refused.join(", ")
        );
        Failure {
            class: FailureClass::Misrouted,
            message,
            ..failure
        }
    }

    /// Whether S3 refuses this option. Where it does not say what it refuses, it does if the job has said nothing.
    fn is_about(&self, row: &HeaderOption, failure: &Failure) -> bool {
        let text = format!("{} {}", failure.code, failure.message).to_ascii_lowercase();
        let names = |words: &[&str]| words.iter().any(|word| text.contains(word));
        let is_class = row.header == STORAGE_CLASS;
        if failure.code == "AccessDenied" {
            return !is_class && names(&[DENIED_KEY]);
        }
        match (names(&OF_ENCRYPTION), names(&OF_STORAGE_CLASS)) {
            (false, false) => UNHEEDED.contains(&&*failure.code) && !self.beside_own,
            (_, class) if is_class => class,
            (encryption, _) => encryption,
        }
    }
}

/// The setting that holds an option.
fn setting(row: &HeaderOption) -> &'static str {
    let named = PUT_DEFAULTS
        .iter()
        .find(|(_, header)| *header == row.header);
    named.map_or(row.field, |(setting, _)| setting)
}

#[cfg(test)]
#[path = "defaults_tests.rs"]
mod tests;
