//! An S3 in process whose answers are decided as requests come, for tests: no network, Tokio's clock also for the
//! SDK. `script.rs` gives answers in order; here a test's own store decides.

use std::{fmt, sync::Arc};

use aws_sdk_s3::{
    config::{
        HttpClient, RuntimeComponents,
        http::{HttpRequest, HttpResponse},
    },
    error::ConnectorError,
    primitives::SdkBody,
};
use aws_smithy_runtime_api::client::http::{
    HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector,
};
use futures_util::future::BoxFuture;

use super::{Clients, Storage, StorageSettings, UploadSettings, script};
use crate::metrics::Metrics;

/// A store's side of the wire.
pub(crate) trait Respond: fmt::Debug + Send + Sync + 'static {
    /// What becomes of a request; takes as long as the store does.
    fn respond(&self, request: Asked) -> BoxFuture<'static, Turn>;
}

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) method: String,
    /// Path and query, without the endpoint.
    pub(crate) target: String,
    pub(crate) body: String,
    pub(crate) is_conditional: bool,
}

/// What becomes of a request.
#[derive(Debug, Clone)]
pub(crate) enum Turn {
    /// An answer, exactly so.
    Answer(u16, Vec<(&'static str, String)>, String),
    /// The connection is reset.
    Reset,
    /// No connection comes about.
    NoConnection,
    /// Nothing ever comes.
    Silence,
    /// Whoever calls panics.
    Panic,
}

#[derive(Debug, Clone)]
struct Connector(Arc<dyn Respond>);

impl HttpClient for Connector {
    fn http_connector(
        &self,
        _settings: &HttpConnectorSettings,
        _components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(self.clone())
    }
}

impl HttpConnector for Connector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let body = request.body().bytes().unwrap_or_default();
        let uri = request.uri();
        let target = uri.strip_prefix(script::ENDPOINT).unwrap_or(uri);
        let asked = Asked {
            method: request.method().to_owned(),
            target: target.to_owned(),
            body: String::from_utf8_lossy(body).into_owned(),
            is_conditional: request.headers().get("if-none-match").is_some(),
        };
        let turn = self.0.respond(asked);
        HttpConnectorFuture::new(async move {
            match turn.await {
                Turn::Answer(status, headers, body) => Ok(answer(status, &headers, body)),
                Turn::Reset => {
                    let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                    Err(ConnectorError::io(reset.into()))
                }
                Turn::NoConnection => Err(ConnectorError::timeout("connect".into())),
                Turn::Silence => std::future::pending().await,
                Turn::Panic => panic!("the store's answer makes its caller panic"),
            }
        })
    }
}

fn answer(status: u16, headers: &[(&'static str, String)], body: String) -> HttpResponse {
    let mut response = HttpResponse::new(status.try_into().unwrap(), SdkBody::from(body));
    for (name, value) in headers {
        response.headers_mut().insert(*name, value.clone());
    }
    response
}

/// A storage on that store. `chance` as for [`Storage::new`].
pub(crate) fn storage(
    store: Arc<dyn Respond>,
    metrics: Arc<Metrics>,
    chance: fn() -> f64,
    (settings, uploads): (&StorageSettings, UploadSettings),
) -> Storage {
    let shared = script::shared(script::keys());
    let clients = Clients::from_shared(&shared, settings, Connector(store));
    Storage::new(clients, metrics, chance, uploads)
}

/// As a test's script has them.
pub(crate) fn settings() -> (StorageSettings, UploadSettings) {
    (script::settings(), script::uploads())
}
