//! Answers one HTTP request: the faults first, then S3, and a note in the journal.
//!
//! Owns how each fault looks on the wire. It refuses to know which calls are struck: that is
//! `faults.rs`. A request's body is read to its end before an answer is made up, so that the connection
//! stays good for the next request; only faults that end the connection leave it unread.

use std::{
    future::pending,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use s3s::service::S3Service;

use super::{
    ACCOUNT,
    call::Call,
    faults::{Fault, Faults, Strike},
    journal::{Journal, Recording},
    shapes::RefusedKeys,
    wire::Line,
};

/// What all connections share.
#[derive(Debug)]
pub(super) struct Front {
    s3: S3Service,
    faults: Faults,
    journal: Arc<Journal>,
    requests: AtomicU64,
}

impl Front {
    pub(super) fn new(s3: S3Service) -> Self {
        Self {
            s3,
            faults: Faults::default(),
            journal: Arc::default(),
            requests: AtomicU64::new(0),
        }
    }

    pub(super) fn faults(&self) -> &Faults {
        &self.faults
    }

    pub(super) fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Answers a request, or never returns because its connection is about to go.
    pub(super) async fn answer(
        &self,
        request: Request<Incoming>,
        line: &Line,
    ) -> Response<AnswerBody> {
        let (mut head, body) = request.into_parts();
        let mut body = s3s::Body::from(body);
        let call = Call::read(&head);
        let strikes = self.faults.strike(&call);
        let recording = self.journal.arrived(&call, !strikes.is_empty());
        let id = self.requests.fetch_add(1, Ordering::Relaxed);
        let mut cut = None;
        let mut lost = false;
        let mut made_up = None;
        for Strike { fault, released } in strikes {
            tracing::debug!(operation = %call.operation, key = call.key, ?fault, "a fault strikes");
            match fault {
                Fault::Delay(wait) => {
                    body = read_ahead(body).await;
                    tokio::time::sleep(wait).await;
                }
                Fault::Hang => {
                    body = read_ahead(body).await;
                    released.cancelled().await;
                }
                Fault::Reset => return sever(line).await,
                Fault::LoseAnswer => lost = true,
                Fault::CutBody(bytes) => cut = Some(bytes),
                Fault::RefuseKeys { prefix, code } => {
                    head.extensions.insert(RefusedKeys { prefix, code });
                }
                Fault::BareStatus(status) => made_up = Some(status_only(status)),
                Fault::ErrorIn200(code) => made_up = Some(with_error(200, &code, id)),
                Fault::Status {
                    status,
                    code,
                    retry_after,
                } => {
                    let mut response = with_error(status, &code, id);
                    if let Some(wait) = retry_after {
                        let seconds = HeaderValue::from(wait.as_secs());
                        response.headers_mut().insert(header::RETRY_AFTER, seconds);
                    }
                    made_up = Some(response);
                }
            }
        }
        let owner = head.headers.get("x-amz-expected-bucket-owner");
        if made_up.is_none() && owner.is_some_and(|owner| owner != ACCOUNT) {
            made_up = Some(with_error(403, "AccessDenied", id));
        }
        let mut response = match made_up {
            Some(response) => {
                drain(body).await;
                response
            }
            None => self.call(Request::from_parts(head, body)).await,
        };
        if lost {
            return sever(line).await;
        }
        let id = HeaderValue::from_str(&request_id(id));
        if let Ok(id) = id {
            response.headers_mut().insert("x-amz-request-id", id);
        }
        recording.answered(response.status().as_u16());
        response.map(|inner| AnswerBody {
            inner,
            cut: cut.map(|left| Cut {
                left,
                line: line.clone(),
            }),
            _in_flight: recording,
        })
    }

    async fn call(&self, request: Request<s3s::Body>) -> Response<s3s::Body> {
        match self.s3.call(request).await {
            Ok(response) => response,
            Err(error) => {
                tracing::error!(?error, "the embedded S3 server could not make an answer");
                status_only(500)
            }
        }
    }
}

/// Ends the connection; the caller is dropped with it.
async fn sever<T>(line: &Line) -> T {
    line.reset();
    pending().await
}

/// Reads a body to its end and forgets it. An error while reading ends the connection by itself.
async fn drain(mut body: s3s::Body) {
    while let Some(Ok(_)) = body.frame().await {}
}

/// Takes a body into memory before a wait. With a body unread hyper does not look at the connection, so
/// that a call which its client gave up on would still take effect afterwards.
async fn read_ahead(body: s3s::Body) -> s3s::Body {
    match body.collect().await {
        Ok(collected) => s3s::Body::from(collected.to_bytes()),
        // The connection is broken; whatever is answered goes nowhere.
        Err(_) => pending().await,
    }
}

fn with_error(status: u16, code: &str, id: u64) -> Response<s3s::Body> {
    let id = request_id(id);
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code>\
         <Message>made up by a fault rule</Message><RequestId>{id}</RequestId></Error>"
    );
    let mut response = status_only(status);
    let xml_type = HeaderValue::from_static("application/xml");
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, xml_type);
    *response.body_mut() = s3s::Body::from(xml);
    response
}

fn status_only(status: u16) -> Response<s3s::Body> {
    let mut response = Response::new(s3s::Body::empty());
    *response.status_mut() =
        StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

fn request_id(id: u64) -> String {
    format!("EMBEDDED{id:08X}")
}

/// An answer's body. The call is in flight until it is gone.
pub(super) struct AnswerBody {
    inner: s3s::Body,
    cut: Option<Cut>,
    _in_flight: Recording,
}

struct Cut {
    left: u64,
    line: Line,
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = s3s::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        if let Some(Cut { left: 0, line }) = &this.cut {
            line.cut_after_flush();
            // Never woken: the connection goes once hyper has flushed what it was given.
            return Poll::Pending;
        }
        let frame = Pin::new(&mut this.inner).poll_frame(cx);
        let Some(cut) = &mut this.cut else {
            return frame;
        };
        frame.map_ok(|frame| match frame.into_data() {
            Ok(mut bytes) => {
                bytes.truncate(usize::try_from(cut.left).unwrap_or(usize::MAX));
                cut.left -= bytes.len() as u64;
                Frame::data(bytes)
            }
            Err(trailers) => trailers,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.cut.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
