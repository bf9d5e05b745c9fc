//! `brigade dev` and `brigade demo`.

use super::{CommandError, Exit, Outcome, Shared, signals::Signals};
use crate::{
    dev::{
        demo::{self, DemoArgs, Verdict},
        playground::Playground,
    },
    telemetry,
};

pub(super) async fn playground(shared: &Shared) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    let _log = telemetry::install(&settings.log.level, settings.log.format)
        .map_err(CommandError::usage)?;
    let mut signals = Signals::try_new()?;
    let playground = Playground::start(settings).await?;
    super::output::print(playground.describe())?;
    signals.next().await;
    tokio::select! {
        () = playground.stop() => Ok(Exit::Done),
        () = signals.next() => Ok(Exit::Failed),
    }
}

pub(super) async fn demo(shared: &Shared, args: DemoArgs) -> Outcome {
    let settings = shared.load(Vec::new())?.settings;
    match demo::run(&settings, args).await? {
        Verdict::AllDone => Ok(Exit::Done),
        Verdict::Wrong => Ok(Exit::Failed),
    }
}
