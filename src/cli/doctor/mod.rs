//! `brigade doctor`: looks at everything that a worker leans on, and says how to mend what is wrong.
//!
//! A check never fails: what can't be reached is a finding like any other. Broker, S3 and ledger have a
//! file each.

mod broker;
mod ledger;
mod storage;

use std::{any::Any, panic::AssertUnwindSafe};

use clap::Args;
use futures_util::FutureExt;
use serde::Serialize;
use tokio::sync::oneshot;

use super::{
    Exit, Outcome, Output, Shared,
    output::{print, print_json},
};
use crate::terminal::escaped;

/// Arguments of `brigade doctor`.
#[derive(Debug, Args)]
pub(super) struct DoctorArgs {
    /// A bucket to try; may be repeated; default: those of lanes.*.buckets. A small object is written
    /// under .brigade-doctor/ and deleted again
    #[arg(long, value_name = "NAME")]
    bucket: Vec<String>,
    /// RabbitMQ's management API, such as http://10.0.0.7:15672; default: port 15672 beside amqp.url
    #[arg(long, value_name = "URL", value_parser = super::circuit::parse_url)]
    management: Option<String>,
}

/// How it stands with one thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    /// As it should be.
    Ok,
    /// Works, but an operator should know.
    Warn,
    /// Jobs can't be done until it is mended.
    Mend,
}

impl Verdict {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Mend => "mend",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Finding {
    /// What was looked at, such as `broker` or `s3 reports upload`.
    check: String,
    verdict: Verdict,
    /// What was found.
    message: String,
    /// What to do about it, unless it is ok.
    cure: Option<String>,
}

impl Finding {
    fn ok(check: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            check: check.into(),
            verdict: Verdict::Ok,
            message: message.into(),
            cure: None,
        }
    }

    fn warn(check: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Warn,
            cure: Some(cure.into()),
            ..Self::ok(check, message)
        }
    }

    fn mend(check: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Mend,
            cure: Some(cure.into()),
            ..Self::ok(check, message)
        }
    }
}

pub(super) async fn run(shared: &Shared, args: DoctorArgs) -> Outcome {
    let loaded = shared.load(Vec::new())?;
    let settings = &loaded.settings;
    let timeout = shared.timeout;
    // Whether the ledger is down, for those who look at what waits for it.
    let (told, heard) = oneshot::channel();
    let (kept, queued, stored) = tokio::join!(
        async {
            let findings = caught("ledger", ledger::examine(settings, timeout)).await;
            let is_down = findings.iter().any(|it| it.verdict == Verdict::Mend);
            // Nobody hears it when there is no broker to ask.
            let _unheard = told.send(is_down);
            findings
        },
        caught(
            "broker",
            broker::examine(settings, args.management, timeout, heard),
        ),
        caught("s3", storage::examine(settings, &args.bucket, timeout)),
    );
    // The ledger first: while it is down, lanes pause, and their queues look as if nobody worked.
    let mut findings = kept;
    findings.extend(queued);
    findings.extend(stored);
    findings.extend(loaded.warnings().iter().map(|warning| {
        let cure = "take it off where the value comes from: other programs may not";
        Finding::warn("settings", warning, cure)
    }));
    let sick = findings.iter().any(|it| it.verdict == Verdict::Mend);
    match shared.output {
        Output::Json => print_json(&serde_json::json!({"ok": !sick, "findings": findings}))?,
        Output::Text => {
            for finding in &findings {
                let (verdict, check) = (finding.verdict.as_str(), &finding.check);
                print(format!(
                    "{verdict:<5} {}: {}",
                    escaped(check),
                    escaped(&finding.message)
                ))?;
                if let Some(cure) = &finding.cure {
                    print(format!("      -> {}", escaped(cure)))?;
                }
            }
        }
    }
    Ok(if sick { Exit::Failed } else { Exit::Done })
}

/// What a check found. One that panics is a finding, and the others go on.
async fn caught(check: &str, examining: impl Future<Output = Vec<Finding>>) -> Vec<Finding> {
    let text = |panic: Box<dyn Any + Send>| {
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_else(|| "a panic without words".to_owned())
    };
    match AssertUnwindSafe(examining).catch_unwind().await {
        Ok(findings) => findings,
        Err(panic) => {
            let message = format!("the check panicked: {}", text(panic));
            let cure = "look at the settings and variables of this part for what is odd; it is a bug all the \
                        same, please report it";
            vec![Finding::mend(check, message, cure)]
        }
    }
}

/// A clock's lead over another in words.
fn apart(seconds: i64) -> String {
    let far = seconds.unsigned_abs();
    match seconds {
        0.. => format!("{far} s ahead of"),
        _ => format!("{far} s behind"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_check_that_panics_is_a_finding() {
        let found = caught("s3", async { panic!("no HeaderValue") }).await;
        assert_eq!(found[0].verdict, Verdict::Mend);
        assert_eq!(found[0].message, "the check panicked: no HeaderValue");
        let good = caught("s3", async { vec![Finding::ok("s3", "fine")] }).await;
        assert_eq!(good[0].verdict, Verdict::Ok);
    }
}
