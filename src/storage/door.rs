//! The door: where a request stops once the SDK has let it go, and before it goes out.
//!
//! `send()` waits before it sends: for the adaptive rate limiter, and for credentials. What must be known
//! when a request goes out can only be asked after that, and no hook of the SDK's may wait for an answer. So the
//! HTTP client that the SDK is given stops each request at a door, which whoever called `send()` opens.
//! A call without a door (doctor's) goes straight out. What has left is given up when it does not move any more
//! (`progress.rs`). It knows neither breaker nor lease; that is `attempt.rs`.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
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
use tokio::{sync::Notify, time::Instant};

use super::{client::worked_on, progress::Progress};

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
    /// Of the request that has left. Nothing awaits under it.
    progress: Mutex<Option<Progress>>,
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

    /// Runs `work` and counts each request when it goes out; nothing is asked of it. `None` when it has not ended `most`
    /// after its last request went out: what it waits for before that is the limiter's and the credentials' time.
    pub(super) async fn counting<T>(
        calls: &AtomicU32,
        most: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let door = Self::default();
        let mut work = std::pin::pin!(door.before(work));
        let mut sent = None;
        loop {
            let late = async {
                match sent {
                    Some(sent) => tokio::time::sleep_until(sent + most).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                end = &mut work => return Some(end),
                () = door.knocked() => {
                    calls.fetch_add(1, Ordering::Relaxed);
                    sent = Some(Instant::now());
                    door.open();
                }
                () = late => return None,
            }
        }
    }

    /// What the request has moved that has left last.
    pub(super) fn progress(&self) -> Option<Progress> {
        self.last().clone()
    }

    async fn pass(&self) -> Progress {
        self.0.knocked.notify_one();
        self.0.opened.notified().await;
        let progress = Progress::default();
        *self.last() = Some(progress.clone());
        progress
    }

    fn last(&self) -> std::sync::MutexGuard<'_, Option<Progress>> {
        let progress = &self.0.progress;
        progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An HTTP client whose requests stop at the door of whoever makes them.
#[derive(Debug)]
pub(super) struct DoorClient {
    pub(super) inner: SharedHttpClient,
    /// For how long a request that has left may stand still, if it makes the store do nothing that nobody sees.
    pub(super) patience: Duration,
}

#[derive(Debug)]
struct DoorConnector {
    inner: SharedHttpConnector,
    /// For how long this request may stand still.
    patience: Duration,
    /// Bytes that the store works on meanwhile, and nobody sees.
    unseen: u64,
}

impl HttpConnector for DoorConnector {
    fn call(&self, request: HttpRequest) -> HttpConnectorFuture {
        let door = DOOR.try_with(Door::clone).ok();
        let (connector, patience, unseen) = (self.inner.clone(), self.patience, self.unseen);
        HttpConnectorFuture::new(async move {
            let progress = match door {
                Some(door) => door.pass().await,
                None => Progress::default(),
            };
            progress.weigh(unseen);
            progress.watch(&connector, request, patience).await
        })
    }
}

impl HttpClient for DoorClient {
    fn http_connector(
        &self,
        settings: &HttpConnectorSettings,
        components: &RuntimeComponents,
    ) -> SharedHttpConnector {
        // One HTTP client for all: it keeps connections by these settings, and the patience is ours to keep.
        let mut inner = HttpConnectorSettings::builder();
        inner.set_connect_timeout(settings.connect_timeout());
        let patience = settings.read_timeout().unwrap_or(self.patience);
        SharedHttpConnector::new(DoorConnector {
            inner: self.inner.http_connector(&inner.build(), components),
            patience,
            unseen: worked_on(patience.saturating_sub(self.patience)),
        })
    }

    fn validate_base_client_config(
        &self,
        components: &RuntimeComponentsBuilder,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_base_client_config(components, config)
    }

    fn validate_final_config(
        &self,
        components: &RuntimeComponents,
        config: &ConfigBag,
    ) -> Result<(), BoxError> {
        self.inner.validate_final_config(components, config)
    }

    fn connector_metadata(&self) -> Option<ConnectorMetadata> {
        self.inner.connector_metadata()
    }
}
