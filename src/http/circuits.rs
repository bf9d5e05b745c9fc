//! `POST /api/circuits/{name}`: an operator forces a circuit open or closed, or lets it decide again.

use std::sync::Arc;

use axum::{
    Json,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use super::status;
use crate::{job::Circuit, resilience::Mode, worker::WorkerView};

/// 404 while no token is configured, 401 without it, 404 for an unknown name, 400 for a bad body.
pub(super) async fn set_mode(
    State(view): State<Arc<WorkerView>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let Some(token) = &view.admin_token else {
        return problem(
            StatusCode::NOT_FOUND,
            "http.admin_token is not set, so circuits can't be forced",
        );
    };
    let given = headers
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
    let circuit = Circuit::parse(&name)
        .and_then(|name| view.circuits.iter().find(|circuit| circuit.name == name));
    let Some(circuit) = circuit else {
        return problem(
            StatusCode::NOT_FOUND,
            "no such circuit here; there are upload and download",
        );
    };
    let mode = serde_json::from_slice::<Value>(&body).ok();
    let mode = mode
        .as_ref()
        .and_then(|body| body.get("mode")?.as_str())
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

fn problem(code: StatusCode, message: &str) -> Response {
    (code, Json(json!({ "error": message }))).into_response()
}

/// Takes the same time wherever the texts differ, so that a token can't be guessed byte by byte.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |acc, (x, y)| acc | (x ^ y)) == 0
}
