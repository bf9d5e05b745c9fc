//! Accepts connections and serves them: few at a time, and none that takes its time to ask.
//!
//! The port may be open to more than probes and scrapers. Whoever opens connections and sends nothing costs a bounded
//! number of them, and locks nobody out.

use std::{collections::VecDeque, time::Duration};

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
};
use tokio_util::sync::CancellationToken;

/// How long the head of a request may take, and how long a connection may be idle before the next one.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time; chosen, far above what probes, scrapers and status pages need.
const CONNECTIONS: usize = 64;
/// The wait after a connection that can't be accepted, such as for want of file descriptors.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// Serves until `stop`; then every connection is dropped.
pub(super) async fn serve(listener: TcpListener, router: Router, stop: CancellationToken) {
    let mut connections = Connections::default();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) => {
                told = false;
                connections.serve(stream, router.clone());
            }
            Err(error) => {
                if !told {
                    told = true;
                    tracing::warn!(%error, "the HTTP server can't accept connections");
                }
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(ACCEPT_AGAIN) => {}
                }
            }
        }
    }
}

/// The connections that stand. Dropped, all of them end.
#[derive(Debug, Default)]
struct Connections {
    tasks: JoinSet<()>,
    oldest_first: VecDeque<AbortHandle>,
}

impl Connections {
    /// Serves one more. At the limit the oldest makes room: it waits for its caller, while a new one asks.
    fn serve(&mut self, stream: TcpStream, router: Router) {
        while self.tasks.try_join_next().is_some() {}
        self.oldest_first.retain(|task| !task.is_finished());
        if self.oldest_first.len() >= CONNECTIONS
            && let Some(oldest) = self.oldest_first.pop_front()
        {
            oldest.abort();
        }
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
        let served = async move {
            // The caller's affair: it left, or sent no HTTP.
            if let Err(error) = connection.await {
                tracing::trace!(%error, "an HTTP connection ended");
            }
        };
        self.oldest_first.push_back(self.tasks.spawn(served));
    }
}
