//! The door: where a request stops once the SDK has let it go, and before it goes out.
//!
//! `send()` waits before it sends: for the adaptive rate limiter, and for credentials. What must be known
//! when a request goes out can only be asked after that, and no hook of the SDK's may wait for an answer. So the
//! HTTP client that the SDK is given stops each request at a door, which whoever called `send()` opens.
//! A call without a door (doctor's) goes straight out. It knows neither breaker nor lease; that is
//! `attempt.rs`.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use aws_sdk_s3::config::{
    ConfigBag, HttpClient, RuntimeComponents, SharedHttpClient, http::HttpRequest,
};
use aws_smithy_runtime_api::{
    box_error::BoxError,
    client::{
        connector_metadata::ConnectorMetadata,
        http::{HttpConnector, HttpConnectorFuture, HttpConnectorSettings, SharedHttpConnector},
        runtime_components::RuntimeComponentsBuilder,
    },
};
use tokio::sync::Notify;

tokio::task_local! {
    /// The SDK hands nothing of ours through to its HTTP client, but polls it within the caller's task.
    static DOOR: Door;
}

/// One call's door; a clone is the same one.
#[derive(Debug, Clone, Default)]
pub(super) struct Door(Arc<Sides>);

#[derive(Debug, Default)]
struct Sides {
    knocked: Notify,
    opened: Notify,
}

impl Door {
    /// Runs `work`, the requests of which stop at this door.
    pub(super) async fn before<T>(&self, work: impl Future<Output = T>) -> T {
        DOOR.scope(self.clone(), work).await
    }

    /// Ends when a request stands at the door. It waits until [`Door::open`].
    pub(super) async fn knocked(&self) {
        self.0.knocked.notified().await;
    }

    /// Lets the request out.
    pub(super) fn open(&self) {
        self.0.opened.notify_one();
    }

    /// Runs `work` and counts each request when it goes out; nothing is asked of it.
    pub(super) async fn counting<T>(calls: &AtomicU32, work: impl Future<Output = T>) -> T {
        let door = Self::default();
        let mut work = std::pin::pin!(door.before(work));
        loop {
            tokio::select! {
                biased;
                end = &mut work => return end,
                () = door.knocked() => {
                    calls.fetch_add(1, Ordering::Relaxed);
                    door.open();
                }
            }
        }
    }

    async fn pass(&self) {
        self.0.knocked.notify_one();
        self.0.opened.notified().await;
    }
}

/// An HTTP client whose requests stop at the door of whoever makes them.
#[derive(Debug)]
pub(super) struct DoorClient(pub(super) SharedHttpClient);

#[derive(Debug)]
struct DoorConnector(SharedHttpConnector);

impl HttpConnector for DoorConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let Ok(door) = DOOR.try_with(Door::clone) else {
            return self.0.call(request);
        };
        let connector = self.0.clone();
        HttpConnectorFuture::new(async move {
            door.pass().await;
            connector.call(request).await
        })
    }
}

impl HttpClient for DoorClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        SharedHttpConnector::new(DoorConnector(self.0.http_connector(settings, components)))
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.0.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.0.connector_metadata()
    }
}
