//! Where the bytes of an upload come from: a file beneath a root, or a URL of a listed origin.
//!
//! A source is hostile input. [`Sources::open`] judges the place and opens it; [`Source`] hands its bytes out
//! in parts of the caller's size, holds no more than one, and says at the end whether they are still what
//! was opened. It knows nothing of S3: no failure of a source is a call, so none gives a breaker a verdict.

mod address;
mod fetch;
mod file;
mod url;

use std::{path::PathBuf, sync::Arc};

use bytes::Bytes;

use fetch::Fetcher;
pub use fetch::Resolver;
use file::FileReader;
use url::UrlReader;

use super::file_threads::FileThreads;
use crate::{
    job::{
        Failure, FailureClass, Headers,
        operation::SourceRef,
        place::{Origins, Refused, Roots},
    },
    resilience::Buffer,
};

/// What the operator allows.
#[derive(Debug, Clone)]
pub struct SourceRules {
    /// `sources.file_roots`.
    pub file_roots: Roots,
    /// `sources.url_hosts`.
    pub url_hosts: Origins,
    /// Whether a name may lead to an address that is not public.
    pub allow_private_addresses: bool,
    /// Longest file or download, in bytes.
    pub max_bytes: u64,
}

impl SourceRules {
    /// No file and no URL.
    pub const fn nothing() -> Self {
        Self {
            file_roots: Roots::new("sources.file_roots", Vec::new()),
            url_hosts: Origins::new(Vec::new()),
            allow_private_addresses: false,
            max_bytes: u64::MAX,
        }
    }
}

/// Opens sources by the operator's rules. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Sources {
    rules: Arc<SourceRules>,
    fetcher: Fetcher,
    threads: FileThreads,
}

impl Sources {
    /// Opens by these rules, and asks the system for the addresses of hosts.
    pub fn new(rules: SourceRules) -> Self {
        Self::with_resolver(rules, Resolver::system())
    }

    /// The same with addresses from `resolver`.
    pub fn with_resolver(rules: SourceRules, resolver: Resolver) -> Self {
        let rules = Arc::new(rules);
        let fetcher = Fetcher::new(Arc::clone(&rules), resolver);
        Self {
            rules,
            fetcher,
            threads: FileThreads::default(),
        }
    }

    /// The threads that work on files, for those that are written too.
    pub(super) const fn threads(&self) -> &FileThreads {
        &self.threads
    }

    /// Opens a source for reading from its start.
    ///
    /// Fails `job_local`: `forbidden_source` for a place that the rules do not allow, `source_not_found`,
    /// `source_not_a_file`, `source_access_denied`, `source_too_large`, `source_refused`,
    /// `too_many_redirects`; `throttled`, `unavailable` or `timed_out` for what may pass (an origin that is
    /// down, a root that is not mounted), which no breaker hears of.
    pub async fn open(&self, source: &SourceRef) -> Result<Source, Failure> {
        match source {
            SourceRef::File(path) => {
                let (root, relative) = self.rules.file_roots.covering(path).map_err(refused)?;
                let (threads, root) = (self.threads.clone(), root.to_owned());
                FileReader::open(threads, root, relative, self.rules.max_bytes).await
            }
            SourceRef::Url(url) => {
                let url = self.rules.url_hosts.check(url).map_err(refused)?;
                UrlReader::open(self.fetcher.clone(), url).await
            }
        }
    }
}

/// An open source. Dropped, it closes file or connection.
#[derive(Debug)]
pub struct Source {
    /// Bytes in all, where that is known.
    pub size: Option<u64>,
    /// What was opened.
    pub identity: SourceIdentity,
    /// What it says of its content: type and encoding of a URL's.
    pub content: Headers,
    reader: Reader,
}

#[derive(Debug)]
enum Reader {
    File(FileReader),
    Url(Box<UrlReader>),
}

impl Source {
    /// The next bytes into `buffer`, at most `max` (at least 1): fewer only at the end, none when it is over. Dropped
    /// or failed before it is done, it has taken nothing: the next call goes on from the same place. Holds nothing
    /// beside the buffer but the last chunk of a URL.
    ///
    /// Fails as [`Sources::open`] does; a URL that breaks off is resumed where that is safe.
    pub async fn read_part_into(
        &mut self,
        mut buffer: Buffer,
        max: usize,
    ) -> Result<Bytes, Failure> {
        match &mut self.reader {
            Reader::File(file) => file.read_part_into(buffer, max).await,
            Reader::Url(url) => {
                let filled = url.read_part_into(buffer.take_memory(), max).await?;
                Ok(buffer.hold(filled))
            }
        }
    }

    #[cfg(test)]
    async fn read_part(&mut self, max: usize) -> Result<Bytes, Failure> {
        let budget = crate::resilience::Budget::new(u64::MAX);
        let buffer = budget.buffer(max as u64).await;
        self.read_part_into(buffer, max).await
    }

    /// Goes to `offset`, in bytes from the start, forwards or backwards. A URL is asked for the rest, on
    /// condition that it is unchanged, or else read and dropped.
    ///
    /// Fails `job_local` as `source_changed` when it is not what was opened, or ends before `offset`.
    pub async fn skip_to(&mut self, offset: u64) -> Result<(), Failure> {
        if self.size.is_some_and(|size| offset > size) {
            return Err(changed("it ends before the place to go on from"));
        }
        match &mut self.reader {
            Reader::File(file) => {
                file.skip_to(offset);
                Ok(())
            }
            Reader::Url(url) => url.skip_to(offset).await,
        }
    }

    /// Whether the bytes that were read are those of one unchanged source: asks the file system again. What
    /// a URL gave is judged while it is read, since its origin may change it at any time.
    pub async fn unchanged(&self) -> Result<bool, Failure> {
        match &self.reader {
            Reader::File(file) => Ok(file.identity().await? == self.identity),
            Reader::Url(_) => Ok(true),
        }
    }
}

/// What shows that a source is unchanged, as one short line: size, time of modification in nanoseconds and
/// inode of a file; strong `ETag`, or else `Last-Modified` and size, of a URL.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceIdentity(Option<String>);

impl SourceIdentity {
    /// As it was written down.
    pub fn from_text(text: Option<String>) -> Self {
        Self(text)
    }

    /// To write down; `None`: it can't be told, so never resume.
    pub fn as_text(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether both are known, and the same.
    pub fn is_same(&self, other: &Self) -> bool {
        self.0.is_some() && self == other
    }
}

fn refused(refused: Refused) -> Failure {
    match refused {
        Refused::Forbidden(why) => Failure::forbidden(why),
        Refused::Malformed(rule) => job_local("source_refused", format!("the URL {rule}")),
    }
}

fn job_local(code: &str, message: impl Into<String>) -> Failure {
    Failure::ours(FailureClass::JobLocal, code, message)
}

fn changed(how: &str) -> Failure {
    let message = format!("the source is not what was opened: {how}");
    job_local("source_changed", message)
}

fn too_large(what: &str, most: u64) -> Failure {
    job_local(
        "source_too_large",
        format!("{what}, and sources.max_bytes is {most}"),
    )
}

/// The path as people know it.
fn shown(root: &std::path::Path, relative: &std::path::Path) -> PathBuf {
    root.join(relative)
}

#[cfg(test)]
mod escape_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod url_escape_tests;
