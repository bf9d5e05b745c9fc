//! `POST /api/circuits/{name}`: an operator forces a circuit open or closed, or lets it decide again.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::{Body, HttpBody, to_bytes},
    extract::{Path, Request, State, rejection::PathRejection},
    http::{StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::status;
use crate::{job::Circuit, resilience::Mode, worker::WorkerView};

/// The longest body, in bytes; a good one has 25.
const LARGEST_BODY: usize = 4096;
/// How long a body may take.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// Lets a request through that has the token, before anything else of it is looked at or read. 404 while no token is
/// configured, 401 without it.
pub(super) async fn demand_token(
    State(view): State<Arc<WorkerView>>,
    request: Request,
    next: Next,
) -> Response {
    let Some(token) = &view.admin_token else {
        return problem(
            StatusCode::NOT_FOUND,
            "http.admin_token is not set, so circuits can't be forced",
        );
    };
    let given = request
        .headers()
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let given = given
        .and_then(|value| value.strip_prefix("Bearer "))
        .unwrap_or_default();
    if !same(given.as_bytes(), token.expose_secret().as_bytes()) {
        return problem(
            StatusCode::UNAUTHORIZED,
            "the bearer token is not http.admin_token",
        );
    }
    next.run(request).await
}

/// 404 for an unknown name, 400, 408 or 413 for a bad body. The token is checked before.
pub(super) async fn set_mode(
    State(view): State<Arc<WorkerView>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    let name = name.ok().and_then(|Path(name)| Circuit::parse(&name));
    let circuit = name.and_then(|name| view.circuits.iter().find(|circuit| circuit.name == name));
    let Some(circuit) = circuit else {
        return problem(
            StatusCode::NOT_FOUND,
            "no such circuit here; there are upload and download",
        );
    };
    let body = match read(request.into_body()).await {
        Ok(body) => body,
        Err(refused) => return refused,
    };
    let mode = body
        .get("mode")
        .and_then(Value::as_str)
        .and_then(Mode::parse);
    let Some(mode) = mode else {
        let rule = r#"the body must be {"mode": "auto" | "force_open" | "force_closed"}"#;
        return problem(StatusCode::BAD_REQUEST, rule);
    };
    circuit.breaker.force(mode);
    tracing::warn!(
        circuit = circuit.name.as_str(),
        mode = mode.as_str(),
        "an operator set the circuit"
    );
    Json(status::circuit(circuit)).into_response()
}

/// The body as JSON, `null` when it is none; else the answer that refuses it.
async fn read(body: Body) -> Result<Value, Response> {
    let too_large = || {
        let rule = format!("the body must be at most {LARGEST_BODY} bytes");
        problem(StatusCode::PAYLOAD_TOO_LARGE, &rule)
    };
    // What is announced need not be waited for.
    if body.size_hint().lower() > LARGEST_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(BODY_TIMEOUT, to_bytes(body, LARGEST_BODY)).await {
        Ok(Ok(bytes)) => Ok(serde_json::from_slice(&bytes).unwrap_or_default()),
        Ok(Err(_)) => Err(too_large()),
        Err(_) => {
            let mut late = problem(StatusCode::REQUEST_TIMEOUT, "the body did not come in time");
            let close = header::HeaderValue::from_static("close");
            late.headers_mut().insert(header::CONNECTION, close);
            Err(late)
        }
    }
}

fn problem(code: StatusCode, message: &str) -> Response {
    (code, Json(json!({ "error": message }))).into_response()
}

/// Takes the same time wherever the texts differ, so that a token can't be guessed byte by byte.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}
