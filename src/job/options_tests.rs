use serde_json::json;

use super::*;
use crate::job::fields::Names;

const ALL: [Scope; 3] = [Scope::Content, Scope::Object, Scope::Request];

fn taken(message: Value) -> Result<Headers, String> {
    let names = Names::default();
    let Value::Object(map) = message else {
        panic!("{message} is no object")
    };
    Headers::take(&mut Fields::new(map, &names), &ALL)
}

fn as_headers(headers: &Headers) -> Vec<(&'static str, String)> {
    let each = headers.iter();
    each.map(|(row, value)| (row.header, row.header_value(value)))
        .collect()
}

/// A good value of each option, as messages have it and as its header carries it.
fn good(row: &HeaderOption) -> (Value, &'static str) {
    match (row.field, row.kind) {
        ("expires", _) => (
            json!("2026-03-20T10:46:40.5+01:00"),
            "Fri, 20 Mar 2026 09:46:41 GMT",
        ),
        ("until", _) => (json!("2027-03-20T09:46:40Z"), "2027-03-20T09:46:40Z"),
        ("type", _) => (json!("aws:kms"), "aws:kms"),
        ("legal_hold", _) => (json!(false), "OFF"),
        (_, Kind::Switch(on, _)) => (json!(true), on),
        (_, Kind::OneOf(names)) => (json!(names[0]), names[0]),
        (_, Kind::Account) => (json!("000000000012"), "000000000012"),
        (_, Kind::Location) => (json!("/there"), "/there"),
        _ => (json!(" x/y "), "x/y"),
    }
}

fn full() -> Value {
    let mut message = json!({});
    for row in &OPTIONS {
        let place = match row.within {
            Some(within) => &mut message[within],
            None => &mut message,
        };
        place[row.field] = good(row).0;
    }
    message
}

#[test]
fn every_option_is_read_becomes_its_header_and_is_written_as_it_reads() {
    let headers = taken(full()).unwrap();
    let mut expected: Vec<_> = OPTIONS
        .iter()
        .map(|row| (row.header, good(row).1.to_owned()))
        .collect();
    expected.sort_unstable();
    assert_eq!(as_headers(&headers), expected);
    let mut written = Map::new();
    headers.written(&mut written);
    assert_eq!(taken(written.into()), Ok(headers));
    assert_eq!(taken(json!({})), Ok(Headers::default()));
    assert_eq!(
        taken(json!({"content_type": " ", "acl": null})),
        Ok(Headers::default())
    );
}

#[test]
fn a_wrong_value_is_refused_with_a_sentence_that_names_field_rule_and_value() {
    let rows = [
        (
            json!({"content_type": 1}),
            "field content_type must be printable ASCII without line breaks, at most 2048 bytes, but is 1",
        ),
        (
            json!({"content_disposition": "größe"}),
            "field content_disposition must be printable ASCII",
        ),
        (json!({"cache_control": "a\nb"}), "but is \"a\\nb\""),
        (
            json!({"cache_control": "a\tb"}),
            "field cache_control must be printable ASCII",
        ),
        (
            json!({"content_language": "x".repeat(2049)}),
            "at most 2048 bytes",
        ),
        (
            json!({"storage_class": "A B"}),
            "field storage_class must be printable ASCII without spaces",
        ),
        (
            json!({"expires": "tomorrow"}),
            "field expires must be a time of RFC 3339 from 1970 on, such as",
        ),
        (
            json!({"expires": "Fri, 20 Mar 2026 09:46:40 GMT"}),
            "RFC 3339",
        ),
        (json!({"expires": "1969-12-31T00:00:00Z"}), "from 1970 on"),
        (json!({"expires": 1_774_000_000}), "RFC 3339"),
        (
            json!({"acl": "public"}),
            "field acl must be private, public-read, public-read-write,",
        ),
        (
            json!({"acl": ""}),
            "bucket-owner-read or bucket-owner-full-control, but is \"\"",
        ),
        (
            json!({"website_redirect": "there"}),
            "field website_redirect must be a path that begins with /, or an http",
        ),
        (
            json!({"server_side_encryption": "AES256"}),
            "field server_side_encryption must be an object",
        ),
        (
            json!({"server_side_encryption": {}}),
            "field server_side_encryption must hold one of type, key_id, bucket_key at least",
        ),
        (
            json!({"server_side_encryption": {"type": "aes256"}}),
            "field server_side_encryption.type must be AES256, aws:kms or aws:kms:dsse",
        ),
        (
            json!({"server_side_encryption": {"key_id": "k"}}),
            "field server_side_encryption.key_id needs aws:kms or aws:kms:dsse as server_side_encryption.type, which is missing",
        ),
        (
            json!({"server_side_encryption": {"type": "AES256", "key_id": "k"}}),
            "which is AES256",
        ),
        (
            json!({"server_side_encryption": {"type": "aws:kms:dsse", "bucket_key": true}}),
            "bucket_key needs aws:kms as",
        ),
        (
            json!({"server_side_encryption": {"type": "aws:kms", "bucket_key": "true"}}),
            "must be true or false",
        ),
        (
            json!({"object_lock": {"mode": "governance", "until": "2030-01-01T00:00:00Z"}}),
            "object_lock.mode must be GOVERNANCE or COMPLIANCE",
        ),
        (
            json!({"object_lock": {"mode": "GOVERNANCE"}}),
            "field object_lock.mode needs object_lock.until, which is missing",
        ),
        (
            json!({"object_lock": {"until": "2030-01-01T00:00:00Z"}}),
            "field object_lock.until needs object_lock.mode, which is missing",
        ),
        (
            json!({"object_lock": {"legal_hold": "ON"}}),
            "field object_lock.legal_hold must be true or false",
        ),
        (
            json!({"expected_bucket_owner": "12345"}),
            "must be the 12 digits of an AWS account",
        ),
        (
            json!({"request_payer": "owner"}),
            "field request_payer must be \"requester\"",
        ),
    ];
    for (message, part) in rows {
        let said = taken(message.clone()).unwrap_err();
        assert!(said.contains(part), "{message}: {said}");
    }
}

#[test]
fn what_is_not_said_comes_from_the_others_and_an_object_belongs_together() {
    let others = Headers::default()
        .with(STORAGE_CLASS, "COLD")
        .with(ENCRYPTION, "aws:kms")
        .with(ENCRYPTION_KEY, "theirs");
    let own = Headers::default().with(ENCRYPTION, "AES256");
    let both = Headers::default()
        .with(STORAGE_CLASS, "COLD")
        .with(ENCRYPTION, "AES256");
    assert_eq!(own.or(&others), both);
    assert_eq!(Headers::default().or(&others), others);
    assert_eq!(own.or(&Headers::default()), own);
}

#[test]
fn rows_of_one_object_stand_side_by_side_and_no_two_are_one_header() {
    let mut objects: Vec<_> = OPTIONS
        .chunk_by(|one, next| one.within == next.within)
        .filter_map(|rows| rows[0].within)
        .collect();
    objects.sort_unstable();
    assert!(objects.is_sorted_by(|one, next| one < next), "{objects:?}");
    let mut names: Vec<_> = OPTIONS.iter().map(|row| row.header).collect();
    names.sort_unstable();
    assert!(names.is_sorted_by(|one, next| one < next), "{names:?}");
}

#[test]
fn the_reference_page_has_a_row_for_each_option() {
    let page = include_str!("../../docs/reference/messages.md");
    for row in &OPTIONS {
        let rule = match row.kind {
            Kind::OneOf(names) => names
                .iter()
                .map(|name| format!("`{name}`"))
                .collect::<Vec<_>>()
                .join(", "),
            _ => row.rule(),
        };
        let line = format!(
            "| `{}` | `{}` | {rule} | {} |",
            row.path(),
            row.header,
            row.about
        );
        assert!(
            page.contains(&line),
            "docs/reference/messages.md lacks\n{line}"
        );
    }
}
