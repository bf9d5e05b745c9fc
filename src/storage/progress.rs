//! Whether a request still moves: the time-out of an attempt is for progress, not for the whole call (RESILIENCE.md,
//! event 18).
//!
//! A request that has left is given up when, for its patience, the HTTP client has taken no byte of its body and the
//! store has sent none. What the client has taken may still lie in buffers on the way, which take more in large steps,
//! and it goes as slowly as what went before. So an upload is given as much longer as its body took so far.
//! The bodies of answers are watched in the same way, for as long as somebody waits for their next byte. It knows
//! neither attempts nor breakers.

use std::{
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use aws_sdk_s3::{
    config::http::{HttpRequest, HttpResponse},
    error::{BoxError, ConnectorError},
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::http::{HttpConnector, SharedHttpConnector};
use bytes::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep};

/// A body up to this size leaves at once: there is nothing to watch.
const AT_ONCE: u64 = 64 * 1024;
/// A body is handed over in pieces of this size. The client takes sixteen of them ahead of the socket.
const PIECE: usize = 16 * 1024;

/// What one call has moved. A clone is of the same call.
#[derive(Debug, Clone)]
pub(super) struct Progress(Arc<Marks>);

#[derive(Debug)]
struct Marks {
    began: Instant,
    /// Milliseconds from then to the last byte that moved.
    last: AtomicU64,
    /// The same to the last byte of a body that was taken.
    sent: AtomicU64,
    /// Bytes, both ways; of the request's body those that it has.
    bytes: AtomicU64,
}

/// Nothing has moved for that long.
#[derive(Debug)]
pub(super) struct Stalled(pub(super) Duration);

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "nothing moved for {:?}", self.0)
    }
}

impl std::error::Error for Stalled {}

impl Default for Progress {
    fn default() -> Self {
        Self(Arc::new(Marks {
            began: Instant::now(),
            last: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
        }))
    }
}

impl Progress {
    /// Bytes that the call has moved so far, or is about to.
    pub(super) fn bytes(&self) -> u64 {
        self.0.bytes.load(Ordering::Relaxed)
    }

    /// When something moved last.
    pub(super) fn last(&self) -> Instant {
        self.0.began + Duration::from_millis(self.0.last.load(Ordering::Relaxed))
    }

    /// Bytes that are about to move, or stand for work of the store's that no byte shows.
    pub(super) fn weigh(&self, bytes: u64) {
        self.0.bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        u64::try_from(self.0.began.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn took(&self) {
        let now = self.now();
        self.0.last.store(now, Ordering::Relaxed);
        self.0.sent.store(now, Ordering::Relaxed);
    }

    fn came(&self, bytes: usize) {
        self.weigh(bytes as u64);
        self.0.last.store(self.now(), Ordering::Relaxed);
    }

    /// Until when the call may stand still.
    fn until(&self, patience: Duration) -> Instant {
        let sending = Duration::from_millis(self.0.sent.load(Ordering::Relaxed));
        self.last() + patience + sending
    }

    /// The call's answer, unless nothing moves for `patience`; then it fails with [`Stalled`], a time-out.
    pub(super) async fn watch(
        &self,
        connector: &SharedHttpConnector,
        mut request: HttpRequest,
        patience: Duration,
    ) -> Result<HttpResponse, ConnectorError> {
        let size = request.body().content_length();
        self.weigh(size.unwrap_or(0));
        if size.is_none_or(|size| size > AT_ONCE) {
            let body = std::mem::replace(request.body_mut(), SdkBody::taken());
            *request.body_mut() = SdkBody::from_body_1_x(Outgoing {
                body,
                piece: Bytes::new(),
                progress: self.clone(),
            });
        }
        let mut answer = std::pin::pin!(connector.call(request));
        let mut due = std::pin::pin!(tokio::time::sleep_until(self.until(patience)));
        loop {
            tokio::select! {
                biased;
                answer = &mut answer => return answer.map(|it| self.watched(it, patience)),
                () = &mut due => {
                    let until = self.until(patience);
                    if until <= Instant::now() {
                        let waited = self.last().elapsed();
                        return Err(ConnectorError::timeout(Stalled(waited).into()));
                    }
                    due.as_mut().reset(until);
                }
            }
        }
    }

    fn watched(&self, mut answer: HttpResponse, patience: Duration) -> HttpResponse {
        let body = answer.body_mut();
        if let Some(bytes) = body.bytes() {
            self.came(bytes.len());
        } else if !body.is_end_stream() {
            let body = std::mem::replace(body, SdkBody::taken());
            *answer.body_mut() = SdkBody::from_body_1_x(Incoming {
                body,
                patience,
                due: None,
                progress: self.clone(),
            });
        }
        answer
    }
}

/// A request's body, in pieces.
struct Outgoing {
    body: SdkBody,
    /// Of the body, and not handed over yet.
    piece: Bytes,
    progress: Progress,
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if self.piece.is_empty() {
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => self.piece = data,
                    Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
                },
                end => return Poll::Ready(end),
            }
        }
        self.progress.took();
        let length = self.piece.len().min(PIECE);
        let piece = self.piece.split_to(length);
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.piece.is_empty() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let piece = self.piece.len() as u64;
        let body = Body::size_hint(&self.body);
        let mut hint = SizeHint::new();
        if let Some(upper) = body.upper() {
            hint.set_upper(upper + piece);
        }
        hint.set_lower(body.lower() + piece);
        hint
    }
}

/// An answer's body.
struct Incoming {
    body: SdkBody,
    patience: Duration,
    /// While somebody waits.
    due: Option<Pin<Box<Sleep>>>,
    progress: Progress,
}

impl Body for Incoming {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            self.due = None;
            if let Some(Ok(frame)) = &frame {
                self.progress.came(frame.data_ref().map_or(0, Bytes::len));
            }
            return Poll::Ready(frame);
        }
        let patience = self.patience;
        let due = self
            .due
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(patience)));
        ready!(due.as_mut().poll(cx));
        Poll::Ready(Some(Err(Stalled(patience).into())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        Body::size_hint(&self.body)
    }
}

#[cfg(test)]
#[path = "progress_tests.rs"]
mod tests;
