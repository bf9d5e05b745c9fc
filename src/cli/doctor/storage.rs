//! S3: what these credentials may do in each bucket, by class of operations, and whether clocks agree.

use std::{collections::BTreeSet, time::Duration};

use super::{Finding, apart};
use crate::{
    config::Settings,
    job::{Failure, FailureClass, Lane},
    storage::{
        Clients,
        checks::{self, AbortRule, BucketReport, Right},
    },
    worker::storage_settings,
};

/// Clocks may differ by so many seconds without a word: a `Date` is whole seconds old.
const CLOCKS_AGREE: i64 = 5;
/// S3 refuses from 15 minutes on; this near to it nothing should stay.
const CLOCKS_MUST_AGREE: i64 = 10 * 60;

pub(super) async fn examine(
    settings: &Settings,
    named: &[String],
    timeout: Duration,
) -> Vec<Finding> {
    let storage = storage_settings(settings);
    let building = Clients::build(&storage);
    let Ok(clients) = tokio::time::timeout(timeout, building).await else {
        let cure = "set s3.region (AWS_REGION), so that nobody has to be asked for it";
        return vec![Finding::mend("s3", "no region in time", cure)];
    };
    if let Some(why) = checks::misconfigured(&clients) {
        return vec![Finding::mend(
            "s3",
            &why.message,
            "correct s3.region and s3.endpoint",
        )];
    }
    let mut buckets: BTreeSet<&String> = named.iter().collect();
    if buckets.is_empty() {
        buckets.extend(
            Lane::ALL
                .iter()
                .flat_map(|lane| &settings.lanes.of(*lane).buckets),
        );
    }
    if buckets.is_empty() {
        return vec![Finding::ok("s3", "not tried: name a bucket with --bucket")];
    }
    let mut findings = Vec::new();
    for bucket in buckets {
        let report = checks::check(&clients, bucket, timeout).await;
        findings.extend(of_report(bucket, report));
    }
    findings
}

fn of_report(bucket: &str, report: BucketReport) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (right, tried) in report.tries {
        let check = format!("s3 {bucket} {}", right.as_str());
        findings.push(match tried {
            Ok(()) => Finding::ok(check, "allowed"),
            Err(why) => Finding::mend(check, why.to_string(), cure(bucket, right, &why)),
        });
    }
    if let Some(key) = report.left_behind {
        let cure = "delete it when you may";
        let message = format!("s3://{bucket}/{key} stays behind");
        findings.push(Finding::warn(format!("s3 {bucket} cleanup"), message, cure));
    }
    findings.extend(report.clock_ahead.map(|ahead| clock(bucket, ahead)));
    findings.extend(report.abort_rule.map(|rule| abort_rule(bucket, rule)));
    findings
}

fn cure(bucket: &str, right: Right, why: &Failure) -> String {
    if why.code == "NoSuchBucket" {
        return format!("create bucket {bucket}, or correct its name and s3.endpoint");
    }
    match why.class {
        FailureClass::Credentials => {
            "give this process valid credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a \
             profile, or a role), and a right clock"
                .to_owned()
        }
        FailureClass::Unavailable | FailureClass::TimedOut | FailureClass::Throttled => {
            "see that the store is up and that s3.endpoint and s3.region lead to it".to_owned()
        }
        FailureClass::Misrouted | FailureClass::Unreadable => {
            "see that s3.endpoint leads to the store itself, not to a proxy, a login or a console, and that s3.region, \
             quota and account are in order"
                .to_owned()
        }
        _ => {
            let (action, resource) = match right {
                Right::Reach | Right::List => ("s3:ListBucket", format!("arn:aws:s3:::{bucket}")),
                Right::Upload => ("s3:PutObject", format!("arn:aws:s3:::{bucket}/*")),
                Right::Read => ("s3:GetObject", format!("arn:aws:s3:::{bucket}/*")),
                Right::Cleanup => ("s3:DeleteObject", format!("arn:aws:s3:::{bucket}/*")),
            };
            format!("allow {action} on {resource}, and look for a deny in the bucket's policy")
        }
    }
}

fn clock(bucket: &str, ahead: i64) -> Finding {
    let check = format!("clock s3 {bucket}");
    let message = format!("this machine is {} S3", apart(ahead));
    let cure = "let NTP set this machine's clock: S3 refuses signatures that are 15 minutes off";
    let apart = ahead.abs();
    if apart <= CLOCKS_AGREE {
        Finding::ok(check, message)
    } else if apart <= CLOCKS_MUST_AGREE {
        Finding::warn(check, message, cure)
    } else {
        Finding::mend(check, message, cure)
    }
}

fn abort_rule(bucket: &str, rule: AbortRule) -> Finding {
    let check = format!("s3 {bucket} lifecycle");
    let cure = "add a lifecycle rule with AbortIncompleteMultipartUpload, such as after 7 days: parts of \
                uploads that were never finished cost money";
    match rule {
        AbortRule::Present => Finding::ok(check, "abandoned multipart uploads are removed"),
        AbortRule::Absent => {
            Finding::warn(check, "no rule removes abandoned multipart uploads", cure)
        }
        AbortRule::Unknown(why) if why.code == "NotImplemented" || why.code == "http_501" => {
            Finding::ok(check, "this store has no lifecycle rules")
        }
        AbortRule::Unknown(why) => {
            let cure = format!("allow s3:GetLifecycleConfiguration to let doctor see; {cure}");
            Finding::warn(check, why.to_string(), cure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Verdict;
    use super::*;

    #[test]
    fn a_refusal_names_the_right_that_is_missing() {
        let denied = Failure::ours(FailureClass::Permanent, "AccessDenied", "no");
        assert!(cure("b", Right::Upload, &denied).contains("s3:PutObject on arn:aws:s3:::b/*"));
        assert!(cure("b", Right::List, &denied).contains("s3:ListBucket on arn:aws:s3:::b,"));
        let expired = Failure::ours(FailureClass::Credentials, "ExpiredToken", "no");
        assert!(cure("b", Right::Read, &expired).contains("credentials"));
    }

    #[test]
    fn a_clock_far_off_must_be_mended_a_small_lead_is_fine() {
        let of = |ahead| clock("b", ahead).verdict;
        assert_eq!([of(5), of(-5)], [Verdict::Ok; 2]);
        assert_eq!([of(6), of(-600)], [Verdict::Warn; 2]);
        assert_eq!([of(601), of(-900)], [Verdict::Mend; 2]);
    }

    #[test]
    fn a_missing_lifecycle_rule_is_no_fault() {
        let absent = abort_rule("b", AbortRule::Absent);
        assert_eq!(absent.verdict, Verdict::Warn);
        let why = Failure::ours(FailureClass::Permanent, "NotImplemented", "no");
        assert_eq!(
            abort_rule("b", AbortRule::Unknown(why)).verdict,
            Verdict::Ok
        );
    }
}
