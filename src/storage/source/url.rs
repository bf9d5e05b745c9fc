//! URLs as sources: a body in parts, counted, and resumed by range where the origin can say that it is
//! unchanged. How it is reached is `fetch.rs`'s.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Body;
use tokio::time::timeout;

use super::{
    Reader, Source, SourceIdentity, changed,
    fetch::{Answer, Fetcher, From, SILENCE, timed_out},
    too_large,
};
use crate::job::{
    Failure, FailureClass, Headers,
    options::{CONTENT_ENCODING, CONTENT_TYPE},
    place::SourceUrl,
};

/// Cuts in a row, each without this much in between, that are borne.
const MOST_CUTS: u32 = 3;
const PROGRESS: u64 = 1 << 20;
/// The wait after the second cut in a row; doubled after the third. Chosen.
const PAUSE: Duration = Duration::from_millis(250);

/// A URL that is being read.
#[derive(Debug)]
pub(super) struct UrlReader {
    fetcher: Fetcher,
    url: SourceUrl,
    answer: Option<Answer>,
    /// What is left of the chunk that came last.
    left: Bytes,
    /// Bytes that came so far, those that are left included.
    fetched: u64,
    /// Bytes handed out so far.
    offset: u64,
    size: Option<u64>,
    identity: SourceIdentity,
    validator: Option<HeaderValue>,
    /// Cuts in a row, and where the last of them was.
    cuts: (u32, u64),
}

impl UrlReader {
    pub(super) async fn open(fetcher: Fetcher, url: SourceUrl) -> Result<Source, Failure> {
        let answer = fetcher.get(url.clone(), None).await?;
        if answer.status != StatusCode::OK {
            return Err(changed("a part came where all of it was asked for"));
        }
        let size = answer.body.size_hint().exact();
        let most = fetcher.rules.max_bytes;
        if let Some(size) = size.filter(|size| *size > most) {
            return Err(too_large(
                &format!("{} announces {size} bytes", url.origin),
                most,
            ));
        }
        let (identity, validator) = identity_of(&answer.headers, size);
        let content = content_of(&answer.headers);
        let reader = Self {
            fetcher,
            url,
            answer: Some(answer),
            left: Bytes::new(),
            fetched: 0,
            offset: 0,
            size,
            identity: identity.clone(),
            validator,
            cuts: (0, 0),
        };
        Ok(Source {
            size,
            identity,
            content,
            reader: Reader::Url(Box::new(reader)),
        })
    }

    /// Into an empty buffer, chunk by chunk: nothing but the chunk that came last is held beside it.
    pub(super) async fn read_part_into(
        &mut self,
        mut buffer: Vec<u8>,
        max: usize,
    ) -> Result<Vec<u8>, Failure> {
        // A call that was given up took bytes along: they are fetched again.
        self.skip_to(self.offset).await?;
        buffer.reserve_exact(max);
        while buffer.len() < max && (!self.left.is_empty() || self.pull().await?) {
            let take = self.left.len().min(max - buffer.len());
            buffer.extend_from_slice(&self.left.split_to(take));
        }
        self.offset += buffer.len() as u64;
        Ok(buffer)
    }

    pub(super) async fn skip_to(&mut self, offset: u64) -> Result<(), Failure> {
        let reached = self.fetched - self.left.len() as u64;
        if (reached..=self.fetched).contains(&offset) {
            let ahead = usize::try_from(offset - reached).unwrap_or(usize::MAX);
            drop(self.left.split_to(ahead));
            self.offset = offset;
            return Ok(());
        }
        self.left = Bytes::new();
        (self.fetched, self.offset) = (offset, offset);
        let rest = self.reopen().await?;
        self.came(rest)
    }

    fn came(&mut self, chunk: Bytes) -> Result<(), Failure> {
        self.fetched += chunk.len() as u64;
        self.left = chunk;
        let most = self.fetcher.rules.max_bytes;
        if self.fetched <= most {
            return Ok(());
        }
        Err(too_large(&format!("{} goes on", self.url.origin), most))
    }

    /// Fetches the next chunk once nothing is left; false at the end.
    async fn pull(&mut self) -> Result<bool, Failure> {
        loop {
            if self.size == Some(self.fetched) {
                return Ok(false);
            }
            let failure = match self.chunk().await {
                Ok(Some(chunk)) => return self.came(chunk).map(|()| true),
                Ok(None) if self.size.is_none() => return Ok(false),
                Ok(None) => cut(&self.url, "it ended early"),
                Err(failure) => failure,
            };
            self.answer = None;
            self.bear(failure).await?;
        }
    }

    async fn chunk(&mut self) -> Result<Option<Bytes>, Failure> {
        if self.answer.is_none() {
            let rest = self.reopen().await?;
            if !rest.is_empty() {
                return Ok(Some(rest));
            }
        }
        match &mut self.answer {
            Some(answer) => next_of(answer, &self.url).await,
            None => Ok(None),
        }
    }

    /// Waits before the next try, or gives up with `failure`.
    async fn bear(&mut self, failure: Failure) -> Result<(), Failure> {
        let (cuts, last) = self.cuts;
        let cuts = if self.fetched >= last + PROGRESS {
            1
        } else {
            cuts + 1
        };
        self.cuts = (cuts, self.fetched);
        let passing = failure.class != FailureClass::JobLocal;
        if !passing || self.validator.is_none() || cuts > MOST_CUTS {
            return Err(failure);
        }
        tokio::time::sleep(PAUSE * (cuts - 1)).await;
        Ok(())
    }

    /// Asks for what comes after the bytes that were fetched; gives what of it is here already.
    async fn reopen(&mut self) -> Result<Bytes, Failure> {
        let at = self.fetched;
        self.answer = None;
        if self.size == Some(at) {
            return Ok(Bytes::new());
        }
        let validator = self.validator.clone().filter(|_| at > 0);
        let from = validator.map(|validator| From {
            offset: at,
            validator,
        });
        let answer = self.fetcher.get(self.url.clone(), from).await?;
        if answer.status == StatusCode::PARTIAL_CONTENT {
            self.check_part(&answer.headers, at)?;
            self.answer = Some(answer);
            return Ok(Bytes::new());
        }
        // No ranges here, or no longer the same: the condition makes it all of it.
        let (identity, _) = identity_of(&answer.headers, answer.body.size_hint().exact());
        if identity != self.identity {
            return Err(changed("its origin gives something else"));
        }
        // Kept apart until the place is reached: dropped on the way, nothing is read at the wrong place.
        let mut answer = answer;
        let rest = drop_first(at, &mut answer, &self.url).await?;
        self.answer = Some(answer);
        Ok(rest)
    }

    fn check_part(&self, headers: &HeaderMap, at: u64) -> Result<(), Failure> {
        let range = headers
            .get(header::CONTENT_RANGE)
            .and_then(|value| value.to_str().ok());
        let (first, total) = range.and_then(parse_range).unwrap_or((u64::MAX, None));
        let etag = headers.get(header::ETAG);
        let is_same = match (etag, &self.validator) {
            (Some(etag), Some(validator)) if is_strong(validator) => etag == validator,
            _ => true,
        };
        let fits = total.is_none() || self.size.is_none() || total == self.size;
        if first == at && fits && is_same {
            Ok(())
        } else {
            Err(changed(
                "its origin gives another part than the one asked for",
            ))
        }
    }
}

/// The next bytes of a body; none when it is over.
async fn next_of(answer: &mut Answer, url: &SourceUrl) -> Result<Option<Bytes>, Failure> {
    loop {
        match timeout(SILENCE, answer.body.frame()).await {
            Ok(None) => return Ok(None),
            // All that is not data is trailers.
            Ok(Some(Ok(frame))) => {
                if let Ok(chunk) = frame.into_data() {
                    return Ok(Some(chunk));
                }
            }
            Ok(Some(Err(error))) => return Err(cut(url, &error.to_string())),
            Err(_elapsed) => return Err(timed_out(&url.origin, "the body stalled")),
        }
    }
}

/// Reads `count` bytes and drops them; what came with the last of them is the answer.
async fn drop_first(count: u64, answer: &mut Answer, url: &SourceUrl) -> Result<Bytes, Failure> {
    let mut left = count;
    while left > 0 {
        let Some(mut chunk) = next_of(answer, url).await? else {
            return Err(changed("it ends before the place to go on from"));
        };
        let gone = usize::try_from(left).unwrap_or(usize::MAX).min(chunk.len());
        let rest = chunk.split_off(gone);
        left -= gone as u64;
        if left == 0 {
            return Ok(rest);
        }
    }
    Ok(Bytes::new())
}

fn cut(url: &SourceUrl, why: &str) -> Failure {
    let message = format!("{} broke off: {why}", url.origin);
    Failure::ours(FailureClass::Unavailable, "source_cut", message)
}

/// `bytes 5-9/10`: the first byte, and how many there are in all.
fn parse_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, _last) = range.split_once('-')?;
    Some((first.trim().parse().ok()?, total.trim().parse().ok()))
}

fn is_strong(validator: &HeaderValue) -> bool {
    validator.as_bytes().starts_with(b"\"")
}

/// Type and encoding as the origin says them. The bytes are stored as they come, so an encoding stays with them; what no
/// header of S3's can carry is left out.
fn content_of(headers: &HeaderMap) -> Headers {
    let mut content = Headers::default();
    for name in [CONTENT_TYPE, CONTENT_ENCODING] {
        let values = headers.get_all(name).iter().map(HeaderValue::to_str);
        let Ok(values) = values.collect::<Result<Vec<_>, _>>() else {
            continue;
        };
        let value = match name {
            CONTENT_TYPE => values.first().copied().unwrap_or_default().to_owned(),
            _ => values.join(", "),
        };
        if !value.trim().eq_ignore_ascii_case("identity") {
            content.set(name, &value.into()).unwrap_or_default();
        }
    }
    content
}

/// What shows that the source is unchanged, and what `If-Range` takes.
fn identity_of(headers: &HeaderMap, size: Option<u64>) -> (SourceIdentity, Option<HeaderValue>) {
    let etag = headers.get(header::ETAG).filter(|etag| is_strong(etag));
    let modified = headers.get(header::LAST_MODIFIED);
    let text = |value: &HeaderValue| value.to_str().map(str::to_owned).ok();
    let known = match (etag, modified, size) {
        (Some(etag), _, _) => text(etag).map(|text| (format!("etag:{text}"), etag.clone())),
        (None, Some(modified), Some(size)) => {
            text(modified).map(|text| (format!("modified:{text}:{size}"), modified.clone()))
        }
        _ => None,
    };
    let (identity, validator) = known.unzip();
    (SourceIdentity(identity), validator)
}
