//! `brigade healthcheck`: the binary as its own probe, for images without a shell.

use super::{CommandError, Exit, Outcome, Shared, circuit::authority};
use crate::http::client;

pub(super) async fn run(shared: &Shared) -> Outcome {
    let listen = authority(shared.load(Vec::new())?.settings.http.listen);
    match client::get(&listen, "/livez", shared.timeout).await {
        Ok(answer) if answer.code == 200 => Ok(Exit::Done),
        Ok(answer) => {
            let message = format!("http://{listen}/livez answered {}", answer.code);
            Err(CommandError::new(Exit::Failed, message))
        }
        Err(error) => Err(CommandError::new(
            Exit::Failed,
            format!("http://{listen}/livez: {error}"),
        )),
    }
}
