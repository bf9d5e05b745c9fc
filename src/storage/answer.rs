//! What answered a request, as far as a rule or a sentence needs it, whatever the SDK made of it.
//!
//! The SDK gives an operation's fields and drops the rest, and the rest says whether S3 answered at all. [`Heard`]
//! keeps it for one attempt; `reader.rs` fills it. A sentence of [`Answered`] is bounded and escaped, since anybody
//! may have written it.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use aws_sdk_s3::config::http::HttpResponse;

use super::proof::Proof;
use crate::job::{Failure, FailureClass};

/// Longest part of a foreign text in a sentence, in characters.
const SHOWN: usize = 80;

/// Code of an answer that can't be parsed or lacks its proof.
pub(super) const UNREADABLE: &str = "response_unreadable";
/// Code of a 2xx of something that is not S3.
pub(super) const NOT_S3: &str = "not_s3";

/// Who answered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Answered {
    pub(super) status: u16,
    /// Whether it carries what only S3 sends: an id of the request, an `ETag`, another header of S3.
    pub(super) is_s3: bool,
    pub(super) is_page: bool,
    pub(super) encryption: Option<String>,
    server: Option<String>,
    content_type: Option<String>,
    first_words: Option<String>,
    request_id: Option<String>,
}

impl Answered {
    pub(super) fn of(raw: &HttpResponse) -> Self {
        let header = |name| raw.headers().get(name).map(str::to_owned);
        let content_type = header("content-type");
        let is_html = |text: &String| text.to_ascii_lowercase().contains("html");
        let is_s3 = raw.headers().iter_bytes().any(|(name, _)| is_trait(name));
        let unknown = !is_s3 || raw.status().as_u16() >= 300;
        Self {
            status: raw.status().as_u16(),
            is_s3,
            is_page: content_type.as_ref().is_some_and(is_html),
            encryption: header("x-amz-server-side-encryption")
                .or_else(|| header("x-amz-server-side-encryption-customer-algorithm")),
            server: header("server"),
            content_type,
            // Only where somebody will ask who that was.
            first_words: raw.body().bytes().filter(|_| unknown).and_then(first_words),
            request_id: header("x-amz-request-id"),
        }
    }

    /// Such as `HTTP 404 from nginx/1.25, text/html: "<html><head>"`.
    pub(super) fn sentence(&self) -> String {
        let mut text = format!("HTTP {}", self.status);
        if let Some(server) = &self.server {
            text.push_str(&format!(" from {}", shown(server)));
        }
        if let Some(content_type) = &self.content_type {
            text.push_str(&format!(", {}", shown(content_type)));
        }
        if let Some(words) = &self.first_words {
            text.push_str(&format!(": \"{words}\""));
        }
        text
    }

    /// A 2xx without what proves it.
    fn unproven(&self, what: &str) -> Failure {
        let (class, code, why) = if self.is_s3 {
            let why = format!("the answer does not prove the success: it has no {what}");
            (FailureClass::Unreadable, UNREADABLE, why)
        } else {
            let why = "what answered is not S3, nothing in it says so".to_owned();
            (FailureClass::Misrouted, NOT_S3, why)
        };
        Failure {
            request_id: self.request_id.clone(),
            ..called(class, code, format!("{why} ({})", self.sentence()))
        }
    }
}

/// The last answer of an attempt, and whether one of them told us where its bucket is.
#[derive(Debug, Default)]
pub(super) struct Heard {
    /// Nothing awaits under it.
    last: Mutex<Answered>,
    moved: AtomicBool,
    /// Of the last error. Nothing awaits under it.
    bucket: Mutex<Option<String>>,
}

tokio::task_local! {
    /// Where the request that is under way in this task leaves what it hears.
    static HEARD: Arc<Heard>;
}

impl Heard {
    /// What was heard in the request of this task, if anybody listens.
    pub(super) fn note(raw: &HttpResponse, bucket: Option<&str>, moved: bool) {
        let note = |heard: &Arc<Self>| {
            *heard.lock() = Answered::of(raw);
            if !raw.status().is_success() {
                let mut of_error = heard.bucket.lock().unwrap_or_else(PoisonError::into_inner);
                *of_error = bucket.map(str::to_owned);
            }
            if moved {
                heard.moved.store(true, Ordering::Relaxed);
            }
        };
        // Nobody listens outside of an attempt, which is no fault.
        HEARD.try_with(note).unwrap_or_default();
    }

    /// The bucket of the last answer that was an error.
    pub(super) fn bucket(&self) -> Option<String> {
        self.bucket
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// `request`, with its answer noted here.
    pub(super) fn listen<F: Future>(
        self: &Arc<Self>,
        request: F,
    ) -> impl Future<Output = F::Output> {
        HEARD.scope(Arc::clone(self), request)
    }

    /// Who answered last.
    pub(super) fn last(&self) -> Answered {
        self.lock().clone()
    }

    /// Whether an answer told us that the bucket is in another region than we thought. Says so once.
    pub(super) fn take_moved(&self) -> bool {
        self.moved.swap(false, Ordering::Relaxed)
    }

    /// The output, if the answer proves it.
    pub(super) fn prove<T: Proof>(&self, output: T, needs_etag: bool) -> Result<T, Failure> {
        let lack = {
            let answered = self.lock();
            let lack = output.lack(&answered, needs_etag);
            lack.map(|what| answered.unproven(what))
        };
        lack.map_or(Ok(output), Err)
    }

    /// A proof that only the caller can look for was not there.
    pub(super) fn unproven(&self, what: &str) -> Failure {
        self.lock().unproven(what)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Answered> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A failure that S3, or something in its place, was called for.
pub(super) fn called(class: FailureClass, code: &str, message: String) -> Failure {
    Failure {
        called: true,
        ..Failure::ours(class, code, message)
    }
}

/// Headers that S3 and its like send and web servers don't.
fn is_trait(name: &str) -> bool {
    let prefixes = [
        "x-amz-",
        "x-amzn-",
        "x-goog-",
        "x-guploader-",
        "x-rgw-",
        "x-minio-",
    ];
    matches!(
        name,
        "etag" | "opc-request-id" | "x-oss-request-id" | "x-obs-request-id"
    ) || prefixes.iter().any(|prefix| name.starts_with(prefix))
}

fn first_words(body: &[u8]) -> Option<String> {
    let start = &body[..body.len().min(4 * SHOWN)];
    let text = String::from_utf8_lossy(start);
    let text = text.split_whitespace().collect::<Vec<_>>().join(" ");
    (!text.is_empty()).then(|| shown(&text))
}

/// A foreign text: escaped, and cut.
fn shown(text: &str) -> String {
    let cut: String = text.chars().take(SHOWN).collect();
    let more = if cut.len() < text.len() { "…" } else { "" };
    format!("{}{more}", cut.escape_debug())
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::primitives::SdkBody;

    use super::*;

    fn raw(status: u16, headers: &[(&'static str, &str)], body: &str) -> Answered {
        let mut raw = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
        for (name, value) in headers {
            raw.headers_mut().insert(*name, (*value).to_owned());
        }
        Answered::of(&raw)
    }

    #[test]
    fn a_sentence_is_bounded_and_escaped_whoever_wrote_it() {
        let headers = [("server", "nginx\t1"), ("content-type", "text/html")];
        let body = "<html>\n\u{1b}[31m\"boo\"".to_owned() + &"x".repeat(5000);
        let sentence = raw(404, &headers, &body).sentence();
        assert!(
            sentence
                .starts_with(r#"HTTP 404 from nginx\t1, text/html: "<html> \u{1b}[31m\"boo\"xx"#),
            "{sentence}"
        );
        assert!(sentence.len() < 250, "{sentence}");
    }

    #[test]
    fn a_header_of_s3_or_an_etag_is_a_trait_and_a_web_servers_are_none() {
        for name in [
            "x-amz-request-id",
            "x-amz-id-2",
            "etag",
            "x-guploader-uploadid",
        ] {
            assert!(raw(200, &[(name, "a")], "").is_s3, "{name}");
        }
        assert!(!raw(200, &[("server", "AmazonS3"), ("date", "now")], "").is_s3);
    }
}
