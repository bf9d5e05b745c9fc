//! Who answers where RabbitMQ should: a wrong port or scheme, said instead of a parser's complaint.

use std::time::Duration;

use lapin::uri::{AMQPScheme, AMQPUri};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

/// The answer comes at once or never.
const LOOK_TIMEOUT: Duration = Duration::from_secs(1);
/// Every HTTP server answers it, RabbitMQ answers with its own protocol's name, and TLS with an alert.
const QUESTION: &[u8] = b"GET / HTTP/1.0\r\n\r\n";
/// The beginning of a TLS alert.
const TLS_ALERT: &[u8] = &[0x15, 3];

/// What is spoken at that address, unless it is what the URL says; follows the address in a sentence.
pub(super) async fn look(uri: &AMQPUri) -> Option<&'static str> {
    let asking = async {
        let address = (uri.authority.host.as_str(), uri.authority.port);
        let mut socket = TcpStream::connect(address).await.ok()?;
        socket.write_all(QUESTION).await.ok()?;
        let mut answer = [0; 5];
        let mut known = 0;
        while known < answer.len() {
            match socket.read(&mut answer[known..]).await {
                Ok(more) if more > 0 => known += more,
                _ => break,
            }
        }
        named(&answer[..known], &uri.scheme)
    };
    tokio::time::timeout(LOOK_TIMEOUT, asking)
        .await
        .ok()
        .flatten()
}

fn named(answer: &[u8], scheme: &AMQPScheme) -> Option<&'static str> {
    match scheme {
        _ if answer.starts_with(b"HTTP/") => Some(
            "speaks HTTP, not AMQP: that may be RabbitMQ's management page; its port for AMQP is 5672, \
             with TLS 5671",
        ),
        AMQPScheme::AMQP if answer.starts_with(TLS_ALERT) => {
            Some("speaks TLS: write amqps:// in the URL, or use the port without TLS, 5672")
        }
        AMQPScheme::AMQPS if answer.starts_with(b"AMQP") => Some(
            "speaks AMQP without TLS: write amqp:// in the URL, or use the port with TLS, 5671",
        ),
        _ => None,
    }
}
