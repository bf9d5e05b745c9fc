//! `brigade doctor`: looks at everything that a worker leans on, and says how to mend what is wrong.
//!
//! A check never fails: what can't be reached is a finding like any other. Broker, S3 and ledger have a
//! file each.

mod broker;
mod ledger;
mod storage;

use clap::Args;
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
    let settings = shared.load(Vec::new())?.settings;
    let timeout = shared.timeout;
    // Whether the ledger is down, for those who look at what waits for it.
    let (told, heard) = oneshot::channel();
    let (kept, queued, stored) = tokio::join!(
        async {
            let findings = ledger::examine(&settings, timeout).await;
            let is_down = findings.iter().any(|it| it.verdict == Verdict::Mend);
            // Nobody hears it when there is no broker to ask.
            let _unheard = told.send(is_down);
            findings
        },
        broker::examine(&settings, args.management, timeout, heard),
        storage::examine(&settings, &args.bucket, timeout),
    );
    // The ledger first: while it is down, lanes pause, and their queues look as if nobody worked.
    let mut findings = kept;
    findings.extend(queued);
    findings.extend(stored);
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

/// A clock's lead over another in words.
fn apart(seconds: i64) -> String {
    let far = seconds.unsigned_abs();
    match seconds {
        0.. => format!("{far} s ahead of"),
        _ => format!("{far} s behind"),
    }
}
