//! One request to a worker's own HTTP server, or to RabbitMQ's management API: for `healthcheck`, `circuit`,
//! `doctor` and the demo.
//!
//! Knows HTTP/1.0 without TLS, redirects or chunks, which is all that these need; no general client.

use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// No answer of a worker is larger, in bytes.
const LARGEST: u64 = 16 << 20;

/// What a worker answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status code, such as 200.
    pub code: u16,
    /// The body as it came.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON; `Null` when it is none.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }
}

/// Sends `GET path` to `authority` (`host:port`) and reads the whole answer, within `timeout`.
pub async fn get(authority: &str, path: &str, timeout: Duration) -> std::io::Result<Answer> {
    let request = format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\n\r\n");
    exchange(authority, request.into_bytes(), timeout).await
}

/// The same with user and password (basic authentication).
pub async fn get_as(
    authority: &str,
    path: &str,
    (user, password): (&str, &str),
    timeout: Duration,
) -> std::io::Result<Answer> {
    let login = BASE64_STANDARD.encode(format!("{user}:{password}"));
    let request =
        format!("GET {path} HTTP/1.0\r\nHost: {authority}\r\nAuthorization: Basic {login}\r\n\r\n");
    exchange(authority, request.into_bytes(), timeout).await
}

/// Sends `POST path` with a JSON body and a bearer token, within `timeout`.
pub async fn post(
    authority: &str,
    path: &str,
    token: &str,
    body: &str,
    timeout: Duration,
) -> std::io::Result<Answer> {
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.0\r\nHost: {authority}\r\nAuthorization: Bearer {token}\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    );
    exchange(authority, request.into_bytes(), timeout).await
}

async fn exchange(authority: &str, request: Vec<u8>, timeout: Duration) -> std::io::Result<Answer> {
    let exchanged = async {
        let mut stream = TcpStream::connect(authority).await?;
        stream.write_all(&request).await?;
        let mut answer = Vec::new();
        stream.take(LARGEST).read_to_end(&mut answer).await?;
        parse(&answer)
            .ok_or_else(|| std::io::Error::new(std::io::ErrorKind::InvalidData, "no HTTP answer"))
    };
    match tokio::time::timeout(timeout, exchanged).await {
        Ok(exchanged) => exchanged,
        Err(_) => Err(std::io::Error::new(
            std::io::ErrorKind::TimedOut,
            "no answer in time",
        )),
    }
}

fn parse(answer: &[u8]) -> Option<Answer> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let code = head
        .strip_prefix("HTTP/1.")?
        .split(' ')
        .nth(1)?
        .parse()
        .ok()?;
    Some(Answer {
        code,
        body: answer[end + 4..].to_vec(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_and_body_are_read_and_anything_else_is_no_answer() {
        let answer = parse(b"HTTP/1.1 503 Service Unavailable\r\nx: y\r\n\r\n{\"a\":1}").unwrap();
        assert_eq!(
            (answer.code, answer.json()),
            (503, serde_json::json!({"a": 1}))
        );
        for other in [
            &b""[..],
            b"HTTP/1.1 200 OK\r\n",
            b"SSH-2.0\r\n\r\n",
            b"HTTP/1.1 abc\r\n\r\n",
        ] {
            assert_eq!(parse(other), None);
        }
    }
}
