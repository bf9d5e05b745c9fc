//! Every option, in each way that an object is made; a new row of the table of options is a new row here.

use bucket_brigade::job::{
    JobResult,
    options::{HeaderOption, Kind, OPTIONS, Scope},
};
use serde_json::{Value, json};

use crate::{
    cases::{Attempt, Case, Run, attempt, job, judged},
    store::{End, LOCKED, PLAIN, Store},
};

/// Every option, in each way that an object is made.
pub(crate) fn options() -> Vec<Case> {
    let mut cases: Vec<Case> = OPTIONS.iter().map(of_option).collect();
    cases.push(Case {
        name: "`metadata`, beyond ASCII too".to_owned(),
        ways: vec![("", attempt!(|store| {
            let given = json!({"a": "größe", "b": " two  spaces "});
            let fields = json!({"key": "m", "body": {"text": "x"}, "metadata": given});
            if let Err(code) = store.result("put_object", fields).await {
                return End::Refused(code);
            }
            let end = store.result("head_object", json!({"key": "m"})).await;
            match end {
                Ok(JobResult::Object { metadata, .. }) if metadata.is_empty() => End::Ignored,
                end => judged(end, |result| matches!(result, JobResult::Object { metadata, .. } if json!(metadata) == given)),
            }
        }))],
    });
    cases.push(Case {
        name: "`tags`".to_owned(),
        ways: vec![(
            "",
            attempt!(|store| {
                let fields = json!({"key": "tags", "body": {"text": "x"}, "tags": {"a b": "ü+="}});
                if let Err(code) = store.result("put_object", fields).await {
                    return End::Refused(code);
                }
                if store.tags("tags").await == ["a b=ü+="] {
                    End::Yes
                } else {
                    End::Ignored
                }
            }),
        )],
    });
    cases
}

/// What an option is given, in messages, with what it needs beside it; and the header's value.
fn given(row: &HeaderOption) -> (Value, String) {
    let mut fields = json!({});
    let place = match row.within {
        Some(within) => &mut fields[within],
        None => &mut fields,
    };
    let value = match (row.field, row.kind) {
        ("type", _) => json!("AES256"),
        ("key_id", _) => {
            json!("arn:aws:kms:us-east-1:000000000000:key/00000000-0000-0000-0000-000000000001")
        }
        ("acl", _) => json!("public-read"),
        ("storage_class", _) => json!("STANDARD_IA"),
        ("expected_bucket_owner", _) => json!("999999999999"),
        (_, Kind::Switch(..)) => json!(true),
        (_, Kind::OneOf(names)) => json!(names[0]),
        (_, Kind::HttpDate | Kind::Date) => json!("2030-03-17T17:46:40Z"),
        (_, Kind::Location) => json!("/there"),
        _ => json!("inline"),
    };
    place[row.field] = value.clone();
    match row.field {
        "key_id" | "bucket_key" => place["type"] = json!("aws:kms"),
        "mode" => place["until"] = json!("2030-03-17T17:46:40Z"),
        "until" => place["mode"] = json!("GOVERNANCE"),
        _ => {}
    }
    let value = value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned);
    (fields, row.header_value(&value))
}

/// What a job says beside the option.
type FieldsOf = Box<dyn Fn(&Store) -> Value>;

fn of_option(row: &'static HeaderOption) -> Case {
    let of_lock = row.within == Some("object_lock");
    let bucket = if of_lock { LOCKED } else { PLAIN };
    let file = |store: &Store, name| json!({"source": {"file": store.file(name)}});
    let source = |_: &Store, key| json!({"source": {"bucket": PLAIN, "key": key}});
    let ways: [(&'static str, &'static str, FieldsOf); 4] = [
        (
            "put",
            "put_object",
            Box::new(|_| json!({"body": {"text": "hello"}})),
        ),
        (
            "parts",
            "upload_fileobj",
            Box::new(move |store| file(store, "large")),
        ),
        (
            "copy",
            "copy_object",
            Box::new(move |store| source(store, "source")),
        ),
        (
            "copy in parts",
            "copy_object",
            Box::new(move |store| source(store, "large-source")),
        ),
    ];
    let ways = ways.into_iter().map(|(way, operation, fields)| {
        let run: Box<Run> = Box::new(move |store| {
            let key = format!("{way} {}", row.path());
            let mut job = job(operation, &fields(store));
            job["bucket"] = bucket.into();
            job["key"] = key.as_str().into();
            let (options, value) = given(row);
            job.as_object_mut()
                .unwrap()
                .extend(options.as_object().unwrap().clone());
            Box::pin(async move { tried(store, &job, (bucket, &key), row, &value).await })
        });
        (
            way,
            Attempt {
                locked: of_lock,
                run,
            },
        )
    });
    Case {
        name: format!("`{}`", row.path()),
        ways: ways.collect(),
    }
}

async fn tried(
    store: &Store,
    job: &Value,
    at: (&str, &str),
    row: &HeaderOption,
    value: &str,
) -> End {
    let end = store.run(job).await;
    if row.scope == Scope::Request {
        // A stranger for an owner must be refused; that somebody pays shows nowhere in a bucket that wants nothing for it.
        return match (row.field, end) {
            ("expected_bucket_owner", Err(code))
                if code == "AccessDenied" || code == "BucketOwnerMismatch" =>
            {
                End::Yes
            }
            (_, Err(code)) => End::Refused(code),
            (_, Ok(_)) => End::Ignored,
        };
    }
    match end {
        Err(code) => End::Refused(code),
        Ok(_) if store.has(at, row.header, value).await => End::Yes,
        Ok(_) => End::Ignored,
    }
}
