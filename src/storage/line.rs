//! A scripted line, for tests: an S3 behind a line that carries so many bytes a second over all connections, on the
//! test's clock. It answers each put well once it has read all of it, and each get with an object that it has.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use aws_sdk_s3::{
    config::{
        HttpClient, RuntimeComponents,
        http::{HttpRequest, HttpResponse},
    },
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http_body::Frame;
use http_body_util::{BodyExt, StreamBody};
use tokio::sync::Mutex;

/// What goes over the line at a time, for one connection.
const PIECE: usize = 1024;

/// What a client sees of a body that is on its way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sight {
    /// It is read as the line carries it.
    Bytes,
    /// Buffers on the way take all of it at once.
    Nothing,
}

/// See the module. A clone is the same line.
#[derive(Debug, Clone)]
pub(crate) struct Line {
    per_second: usize,
    latency: Duration,
    sight: Sight,
    /// Stands still once it has carried so many bytes.
    carries: usize,
    carried: Arc<AtomicUsize>,
    /// Size of the object that it has.
    object: usize,
    /// Whose turn it is; fair.
    turn: Arc<Mutex<()>>,
    answered: Arc<AtomicUsize>,
}

impl Line {
    pub(crate) fn new(per_second: usize, latency: Duration, sight: Sight) -> Self {
        Self {
            per_second,
            latency,
            sight,
            carries: usize::MAX,
            carried: Arc::default(),
            object: 0,
            turn: Arc::default(),
            answered: Arc::default(),
        }
    }

    /// The same line, which carries so many bytes and not one more.
    pub(crate) fn carrying(self, carries: usize) -> Self {
        Self { carries, ..self }
    }

    /// The same line, with an object of so many bytes behind it.
    pub(crate) fn with_object(self, object: usize) -> Self {
        Self { object, ..self }
    }

    /// Puts that it has answered.
    pub(crate) fn answered(&self) -> usize {
        self.answered.load(Ordering::Relaxed)
    }

    async fn carry(&self, bytes: usize) {
        let mut left = bytes;
        while left > 0 {
            let piece = left.min(PIECE);
            let _turn = self.turn.lock().await;
            let took = piece as f64 / self.per_second as f64;
            tokio::time::sleep(Duration::from_secs_f64(took)).await;
            if self.carried.fetch_add(piece, Ordering::Relaxed) + piece > self.carries {
                std::future::pending::<()>().await;
            }
            left -= piece;
        }
    }

    async fn read(&self, mut body: SdkBody) {
        let mut behind = 0;
        while let Some(frame) = body.frame().await {
            let bytes = frame.unwrap().into_data().unwrap_or_default().len();
            match self.sight {
                Sight::Bytes => self.carry(bytes).await,
                Sight::Nothing => behind += bytes,
            }
        }
        self.carry(behind).await;
    }
}

impl Line {
    /// Comes piece by piece.
    fn object_body(&self) -> SdkBody {
        let pieces = stream::unfold((self.clone(), self.object), |(line, left)| async move {
            let piece = left.min(PIECE);
            if piece == 0 {
                return None;
            }
            line.carry(piece).await;
            let frame = Frame::data(Bytes::from(vec![b'x'; piece]));
            Some((Ok::<_, std::io::Error>(frame), (line, left - piece)))
        });
        SdkBody::from_body_1_x(StreamBody::new(Box::pin(pieces.fuse())))
    }
}

impl HttpClient for Line {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Line {
    fn call(&self, mut request: HttpRequest) -> HttpConnectorFuture {
        let line = self.clone();
        let reads = request.method() == "GET";
        let body = std::mem::replace(request.body_mut(), SdkBody::taken());
        HttpConnectorFuture::new(async move {
            line.read(body).await;
            tokio::time::sleep(line.latency).await;
            line.answered.fetch_add(1, Ordering::Relaxed);
            let (size, body) = match reads {
                true => (line.object, line.object_body()),
                false => (0, SdkBody::empty()),
            };
            let mut response = HttpResponse::new(200.try_into().unwrap(), body);
            let headers = response.headers_mut();
            headers.insert("x-amz-request-id", "REQ1");
            headers.insert("etag", "\"line\"");
            headers.insert("content-length", size.to_string());
            Ok(response)
        })
    }
}
