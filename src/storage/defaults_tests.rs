//! Whose fault a refused option is.

use std::io::Write;

use super::*;
use crate::{
    job::{
        Operation,
        operation::{CopyObject, CopySource},
        options::{ENCRYPTION, ENCRYPTION_KEY, LEGAL_HOLD, NO_HEADERS},
    },
    storage::{
        Stop,
        script::{Answer, Stage, keys, op, settings, shared},
    },
};

fn refusal(status: u16, code: &str, message: &str) -> Answer {
    let xml = format!("<Error><Code>{code}</Code><Message>{message}</Message></Error>");
    Answer::body(status, &xml)
}

async fn failed(defaults: &Headers, operation: Operation, answers: Vec<Answer>) -> Failure {
    let mut settings = settings();
    settings.put_defaults = defaults.clone();
    let stage = Stage::with(answers, &settings, &shared(keys()));
    match stage.run(operation).await {
        Err(Stop::Failed(failure)) => failure,
        end => panic!("{end:?}"),
    }
}

fn with(headers: Headers) -> PutOptions {
    PutOptions {
        headers,
        ..PutOptions::default()
    }
}

fn cold() -> Headers {
    Headers::default().with(STORAGE_CLASS, "STANDARD_IA")
}

fn kms() -> Headers {
    Headers::default()
        .with(ENCRYPTION, "aws:kms")
        .with(ENCRYPTION_KEY, "theirs")
}

const NO_KMS: &str = "Server side encryption specified but KMS is not configured";
const NO_KEY: &str = "User: a is not authorized to perform: kms:GenerateDataKey on resource: b";

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_operators_defaults_is_misrouted_and_names_the_setting() {
    let class = "s3.put_defaults.storage_class = \"STANDARD_IA\"";
    let key = "s3.put_defaults.key_id = \"theirs\"";
    let kind = "s3.put_defaults.server_side_encryption = \"aws:kms\"";
    for (defaults, status, code, message, setting) in [
        (cold(), 400, "InvalidStorageClass", "not valid", class),
        (kms(), 501, "NotImplemented", NO_KMS, kind),
        (kms(), 400, "KMS.NotFoundException", "no such key", key),
        (kms(), 403, "AccessDenied", NO_KEY, key),
        // It does not say which header; the job has said none.
        (
            cold(),
            501,
            "NotImplemented",
            "A header you provided",
            class,
        ),
        // Ceph says no more.
        (cold(), 400, "InvalidArgument", "", class),
    ] {
        let refused = vec![refusal(status, code, message)];
        let failure = failed(&defaults, op::put(PutOptions::default()), refused).await;
        assert_eq!(failure.class, FailureClass::Misrouted, "{failure}");
        assert_eq!(failure.code, code);
        assert!(failure.message.starts_with(message), "{failure}");
        assert!(failure.message.contains(setting), "{failure}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_what_the_job_says_itself_is_its_fault() {
    let own_class = with(Headers::default().with(STORAGE_CLASS, "ODD"));
    let locked = with(Headers::default().with(LEGAL_HOLD, true));
    let none = PutOptions::default;
    for (defaults, options, code, message) in [
        (NO_HEADERS.clone(), none(), "InvalidStorageClass", "odd"),
        (kms(), own_class.clone(), "InvalidStorageClass", "odd"),
        (cold(), own_class, "InvalidStorageClass", "odd"),
        (cold(), with(kms()), "NotImplemented", NO_KMS),
        (cold(), with(kms()), "KMS.NotFoundException", "no such key"),
        (cold(), with(kms()), "AccessDenied", NO_KEY),
        (
            cold(),
            locked.clone(),
            "NotImplemented",
            "A header you provided",
        ),
        (cold(), locked, "InvalidArgument", "odd"),
        (NO_HEADERS.clone(), none(), "InvalidArgument", "odd"),
        (kms(), none(), "AccessDenied", "on arn:aws:s3:::encrypted"),
        (kms(), none(), "NoSuchBucket", "no such bucket"),
    ] {
        let refused = vec![refusal(400, code, message)];
        let failure = failed(&defaults, op::put(options), refused).await;
        assert_eq!(failure.class, FailureClass::Permanent, "{failure}");
        assert_eq!(failure.message, message);
    }
}

#[tokio::test(start_paused = true)]
async fn whichever_way_the_object_is_created() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"small").unwrap();
    let mut large = tempfile::NamedTempFile::new().unwrap();
    large.write_all(&vec![7; (5 << 20) + 1]).unwrap();
    let copy = Operation::CopyObject(CopyObject {
        bucket: "b".into(),
        key: "copy".into(),
        source: CopySource {
            bucket: "from".into(),
            key: "k".into(),
            version_id: None,
        },
        options: PutOptions::default(),
    });
    let source = |size: u32| {
        Answer::status(200)
            .header("content-length", size)
            .header("x-amz-tagging-count", 0)
    };
    let refused = || refusal(400, "InvalidStorageClass", "not valid");
    let upload = |file: &tempfile::NamedTempFile| op::upload(file.path(), PutOptions::default());
    for (operation, answers) in [
        (upload(&file), vec![refused()]),
        (upload(&large), vec![refused()]),
        (copy.clone(), vec![source(1), refused()]),
        (copy, vec![source(101), refused()]),
    ] {
        let name = format!("{operation:?}");
        let failure = failed(&cold(), operation, answers).await;
        assert_eq!(failure.class, FailureClass::Misrouted, "{name}: {failure}");
    }
}
