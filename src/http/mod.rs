//! What operators look at: `/metrics`, `/livez`, `/readyz`, `/api/status` and the status page
//! (CONTRACT.md, section 8). Read only, but for the circuits' modes behind a token.

mod circuits;
pub mod client;
mod readiness;
mod server;
mod status;

use std::{net::SocketAddr, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    middleware,
    response::{Html, IntoResponse, Response},
    routing::{get, post},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::worker::WorkerView;

/// The worker's HTTP server.
#[derive(Debug)]
pub struct HttpServer {
    address: SocketAddr,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl HttpServer {
    /// Listens on `listen` and shows `view`. Fails when the address can't be had.
    pub async fn start(listen: SocketAddr, view: Arc<WorkerView>) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let address = listener.local_addr()?;
        let stop = CancellationToken::new();
        let mut task = JoinSet::new();
        task.spawn(server::serve(listener, router(view), stop.clone()));
        Ok(Self {
            address,
            stop,
            task,
        })
    }

    /// Where it listens; the port is a real one also when 0 was asked for.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Stops at once; a slow reader is not waited for.
    pub async fn stop(mut self) {
        self.stop.cancel();
        self.task.shutdown().await;
    }
}

fn router(view: Arc<WorkerView>) -> Router {
    let token = middleware::from_fn_with_state(Arc::clone(&view), circuits::demand_token);
    Router::new()
        .route("/", get(page))
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(readyz))
        .route("/api/status", get(api_status))
        .route(
            "/api/circuits/{name}",
            post(circuits::set_mode).layer(token),
        )
        .with_state(view)
}

async fn page() -> Html<&'static str> {
    Html(include_str!("status.html"))
}

async fn metrics(State(view): State<Arc<WorkerView>>) -> Response {
    match view.metrics.render() {
        Ok(page) => (
            [(
                header::CONTENT_TYPE,
                "text/plain; version=0.0.4; charset=utf-8",
            )],
            page,
        )
            .into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readyz(State(view): State<Arc<WorkerView>>) -> Response {
    let readiness = readiness::of(&view);
    let code = if readiness.ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (code, Json(readiness)).into_response()
}

async fn api_status(State(view): State<Arc<WorkerView>>) -> Json<status::Status> {
    Json(status::of(&view).await)
}
