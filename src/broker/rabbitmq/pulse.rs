//! Whether the node at the other end still answers.
//!
//! A node that hangs (a stopped process, a frozen machine, a cut network) leaves its sockets open, and lapin
//! gives a connection up only after two heartbeats without a byte: 20 s by default. Where there is another
//! node to go to that is too long. So a question goes out each second, `basic.qos` on a channel of its own,
//! which the node answers alone. A late answer is no proof: it may be queued behind a large message. Only
//! when nothing at all comes in meanwhile, the node is given up.

use std::time::Duration;

use lapin::{Channel, Connection, options::BasicQosOptions};
use tokio::time::{sleep, timeout};

use super::lifeline::Lifeline;

/// How often the node is asked.
const EVERY: Duration = Duration::from_secs(1);
/// An answer that takes longer is late.
const PROMPT: Duration = Duration::from_millis(500);

/// Ends when nothing has come in for `limit` although an answer is due. While the broker blocks the
/// connection nothing is asked: lapin would not send it.
pub(super) async fn silence(connection: &Connection, lifeline: &Lifeline, limit: Duration) {
    let mut channel = None;
    loop {
        sleep(EVERY).await;
        if connection.status().blocked() {
            continue;
        }
        let mut question = std::pin::pin!(ask(connection, &mut channel));
        if timeout(PROMPT, &mut question).await.is_ok() {
            continue;
        }
        let Some(ear) = lifeline.listen() else {
            question.await;
            continue;
        };
        let mut quiet = limit.saturating_sub(PROMPT);
        loop {
            tokio::select! {
                () = &mut question => break,
                heard = timeout(quiet, ear.heard()) => {
                    if heard.is_err() && !connection.status().blocked() {
                        return;
                    }
                    quiet = limit;
                }
            }
        }
    }
}

/// Any answer is one, an error too: what it means for the connection is seen elsewhere.
async fn ask(connection: &Connection, channel: &mut Option<Channel>) {
    let usable = channel
        .take()
        .filter(|channel| channel.status().connected());
    let opened = match usable {
        Some(channel) => Ok(channel),
        None => connection.create_channel().await,
    };
    if let Ok(opened) = opened {
        let answered = opened.basic_qos(1, BasicQosOptions { global: false }).await;
        if answered.is_ok() {
            *channel = Some(opened);
        }
    }
}
