//! What a message may say that becomes a header of S3's: one row an option.
//!
//! The reader and the writer of messages, the command line, storage, the settings `s3.put_defaults` and the reference
//! page go by [`OPTIONS`], so a new option is a new row. One of [`Scope::Content`] is a line in `storage/copy.rs`
//! (`content_of`) too, and one with a default a line in [`PUT_DEFAULTS`]. Metadata and tags are no rows: they are many
//! names each. Pure.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::{
    Timestamp,
    fields::{Fields, shown},
};

/// Longest text of one option, in bytes; S3 takes 8 KiB of headers in all.
const LONGEST: usize = 2048;

/// A field of messages that becomes a header of requests.
#[derive(Debug)]
pub struct HeaderOption {
    /// The object in which the field stands; `None` for the message itself.
    pub within: Option<&'static str>,
    /// The field's name.
    pub field: &'static str,
    /// The header, in lower case.
    pub header: &'static str,
    /// Which requests carry it.
    pub scope: Scope,
    /// What it may be.
    pub kind: Kind,
    /// What it does, for people.
    pub about: &'static str,
}

/// Which requests carry an option.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// Those that create an object. A copy has it from its source, unless the job says otherwise.
    Content,
    /// Those that create an object; no copy has it from its source.
    Object,
    /// All of the job's requests.
    Request,
}

/// What an option may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Printable ASCII. Empty is absent.
    Text,
    /// The same without spaces.
    Word,
    /// One of these.
    OneOf(&'static [&'static str]),
    /// True or false in messages, these words in the header.
    Switch(&'static str, &'static str),
    /// RFC 3339 in messages, a date of HTTP in the header. Whole seconds, a fraction counts as the next.
    HttpDate,
    /// RFC 3339 in both.
    Date,
    /// A path, or an `http` or `https` URL.
    Location,
    /// The number of an AWS account.
    Account,
}

/// `Content-Type`.
pub const CONTENT_TYPE: &str = "content-type";
/// `Content-Encoding`.
pub const CONTENT_ENCODING: &str = "content-encoding";
/// The storage class.
pub const STORAGE_CLASS: &str = "x-amz-storage-class";
/// The kind of encryption.
pub const ENCRYPTION: &str = "x-amz-server-side-encryption";
/// The key of KMS that it is done with.
pub const ENCRYPTION_KEY: &str = "x-amz-server-side-encryption-aws-kms-key-id";
/// Whether it is done with a key of the bucket, made from that of KMS.
pub const BUCKET_KEY: &str = "x-amz-server-side-encryption-bucket-key-enabled";
/// Who may lift the lock.
pub const LOCK_MODE: &str = "x-amz-object-lock-mode";
/// Until when the object is locked.
pub const LOCK_UNTIL: &str = "x-amz-object-lock-retain-until-date";
/// The lock that has no end.
pub const LEGAL_HOLD: &str = "x-amz-object-lock-legal-hold";
/// The account that must own the bucket.
pub const BUCKET_OWNER: &str = "x-amz-expected-bucket-owner";

/// The settings of `s3.put_defaults`, and the header that each becomes.
pub const PUT_DEFAULTS: [(&str, &str); 4] = [
    ("s3.put_defaults.server_side_encryption", ENCRYPTION),
    ("s3.put_defaults.key_id", ENCRYPTION_KEY),
    ("s3.put_defaults.bucket_key", BUCKET_KEY),
    ("s3.put_defaults.storage_class", STORAGE_CLASS),
];

/// The object that holds encryption.
const SSE: Option<&str> = Some("server_side_encryption");
/// The object that holds the lock.
const LOCK: Option<&str> = Some("object_lock");

/// All options, those of one object side by side.
pub static OPTIONS: [HeaderOption; 17] = {
    use Kind::{Account, Date, HttpDate, Location, OneOf, Switch, Text, Word};
    use Scope::{Content, Object, Request};

    const fn row(
        (within, field): (Option<&'static str>, &'static str),
        header: &'static str,
        scope: Scope,
        kind: Kind,
        about: &'static str,
    ) -> HeaderOption {
        HeaderOption {
            within,
            field,
            header,
            scope,
            kind,
            about,
        }
    }

    // One line each, whatever its length: it is read as a table.
    #[rustfmt::skip]
    let rows = [
        row((None, "content_type"), CONTENT_TYPE, Content, Text, "MIME type of the object"),
        row((None, "cache_control"), "cache-control", Content, Text, "how caches may keep the object"),
        row((None, "content_disposition"), "content-disposition", Content, Text, "how browsers show or name the object"),
        row((None, "content_encoding"), CONTENT_ENCODING, Content, Text, "how the bytes are encoded, such as gzip; they are stored as they come"),
        row((None, "content_language"), "content-language", Content, Text, "language of the content"),
        row((None, "expires"), "expires", Content, HttpDate, "when caches must ask again"),
        row((None, "storage_class"), STORAGE_CLASS, Object, Word, "storage class, as the store names it"),
        row((None, "acl"), "x-amz-acl", Object, OneOf(&["private", "public-read", "public-read-write", "authenticated-read", "aws-exec-read", "bucket-owner-read", "bucket-owner-full-control"]), "canned ACL; S3 refuses it where ACLs are off"),
        row((None, "website_redirect"), "x-amz-website-redirect-location", Object, Location, "where a bucket's website redirects to"),
        row((SSE, "type"), ENCRYPTION, Object, OneOf(&["AES256", "aws:kms", "aws:kms:dsse"]), "encryption by the store"),
        row((SSE, "key_id"), ENCRYPTION_KEY, Object, Word, "id, ARN or alias of the KMS key; with aws:kms and aws:kms:dsse only"),
        row((SSE, "bucket_key"), BUCKET_KEY, Object, Switch("true", "false"), "S3 Bucket Key; with aws:kms only"),
        row((LOCK, "mode"), LOCK_MODE, Object, OneOf(&["GOVERNANCE", "COMPLIANCE"]), "who may lift the lock; with until"),
        row((LOCK, "until"), LOCK_UNTIL, Object, Date, "until when the object is locked; with mode"),
        row((LOCK, "legal_hold"), LEGAL_HOLD, Object, Switch("ON", "OFF"), "lock without an end"),
        row((None, "expected_bucket_owner"), BUCKET_OWNER, Request, Account, "account that must own the bucket; S3 refuses the job's requests otherwise"),
        row((None, "request_payer"), "x-amz-request-payer", Request, OneOf(&["requester"]), "who pays, in a bucket whose requesters do"),
    ];
    rows
};

impl HeaderOption {
    /// The text of a flag or a setting, as a message would have it; [`HeaderOption::read`] is to judge it.
    pub fn value_of(&self, text: &str) -> Value {
        match self.kind {
            Kind::Switch(..) => text.parse().map_or_else(|_| text.into(), Value::Bool),
            _ => text.into(),
        }
    }

    /// As messages and errors name it.
    pub fn path(&self) -> String {
        match self.within {
            Some(within) => format!("{within}.{}", self.field),
            None => self.field.to_owned(),
        }
    }

    /// What is right, after "must be".
    pub fn rule(&self) -> String {
        match self.kind {
            Kind::Text => format!("printable ASCII without line breaks, at most {LONGEST} bytes"),
            Kind::Word => format!("printable ASCII without spaces, at most {LONGEST} bytes"),
            Kind::OneOf([only]) => format!("{only:?}"),
            Kind::OneOf(names) => {
                let last = names.len().saturating_sub(1);
                format!("{} or {}", names[..last].join(", "), names[last])
            }
            Kind::Switch(..) => "true or false".to_owned(),
            Kind::HttpDate | Kind::Date => {
                "a time of RFC 3339 from 1970 on, such as 2027-01-31T12:00:00Z".to_owned()
            }
            Kind::Location => "a path that begins with /, or an http or https URL".to_owned(),
            Kind::Account => "the 12 digits of an AWS account".to_owned(),
        }
    }

    /// The value in its one form, if it is right; an empty text that stands for nothing is `None`. The error is the
    /// rule.
    pub fn read(&self, value: &Value) -> Result<Option<String>, String> {
        let read = match (self.kind, value) {
            (Kind::Switch(..), Value::Bool(on)) => Some(on.to_string()),
            (Kind::Switch(..), _) => None,
            (Kind::Text | Kind::Word, Value::String(text)) if text.trim().is_empty() => {
                return Ok(None);
            }
            (Kind::OneOf(names), Value::String(text)) => {
                names.contains(&text.as_str()).then(|| text.clone())
            }
            (Kind::HttpDate | Kind::Date, Value::String(text)) => whole_seconds(text),
            (Kind::Account, Value::String(text)) => {
                let fits = text.len() == 12 && text.bytes().all(|byte| byte.is_ascii_digit());
                fits.then(|| text.clone())
            }
            (Kind::Text, Value::String(text)) => printable(text),
            (Kind::Word, Value::String(text)) => printable(text).filter(|text| !text.contains(' ')),
            (Kind::Location, Value::String(text)) => printable(text).filter(|text| {
                let starts = ["/", "http://", "https://"];
                starts.iter().any(|start| text.starts_with(start))
            }),
            (_, _) => None,
        };
        read.map(Some).ok_or_else(|| self.rule())
    }

    /// A value as its header carries it.
    pub fn header_value(&self, value: &str) -> String {
        match self.kind {
            Kind::Switch(on, off) => if value == "true" { on } else { off }.to_owned(),
            Kind::HttpDate => http_date(value).unwrap_or_else(|| value.to_owned()),
            _ => value.to_owned(),
        }
    }

    fn json(&self, value: &str) -> Value {
        match self.kind {
            Kind::Switch(..) => Value::Bool(value == "true"),
            _ => value.into(),
        }
    }
}

fn printable(text: &str) -> Option<String> {
    let text = text.trim();
    let fits = text.len() <= LONGEST && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    fits.then(|| text.to_owned())
}

/// A time from 1970 to the last year of four digits, in whole seconds of UTC.
fn whole_seconds(text: &str) -> Option<String> {
    let time = Timestamp::parse_rfc3339(text)?;
    let seconds = time.as_micros().div_euclid(1_000_000)
        + i64::from(time.as_micros().rem_euclid(1_000_000) > 0);
    let shown = format!("{:.0}", Timestamp::from_secs(seconds)?);
    (seconds >= 0 && shown.len() == "1970-01-01T00:00:00Z".len()).then_some(shown)
}

fn http_date(rfc3339: &str) -> Option<String> {
    let time: jiff::Timestamp = rfc3339.parse().ok()?;
    Some(time.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string())
}

/// Options with their values; mostly none.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Headers(
    /// By header, in the form of messages.
    BTreeMap<&'static str, String>,
);

/// No options.
pub static NO_HEADERS: Headers = Headers(BTreeMap::new());

impl Headers {
    /// Takes the options of those scopes out of a message's fields. The error is a sentence that names field, rule and
    /// value.
    pub(super) fn take(fields: &mut Fields<'_>, scopes: &[Scope]) -> Result<Self, String> {
        let mut headers = Self::default();
        for rows in OPTIONS.chunk_by(|one, next| one.within == next.within) {
            let mut rows = rows
                .iter()
                .filter(|row| scopes.contains(&row.scope))
                .peekable();
            let Some(within) = rows.peek().and_then(|row| row.within) else {
                rows.try_for_each(|row| headers.take_one(row, fields))?;
                continue;
            };
            let names: Vec<&str> = rows.clone().map(|row| row.field).collect();
            let Some(mut inner) = fields.object(within)? else {
                continue;
            };
            let before = headers.0.len();
            rows.try_for_each(|row| headers.take_one(row, &mut inner))?;
            if headers.0.len() == before {
                let names = names.join(", ");
                return Err(format!("field {within} must hold one of {names} at least"));
            }
        }
        headers.check().map_err(|why| format!("field {why}"))?;
        Ok(headers)
    }

    fn take_one(&mut self, row: &HeaderOption, fields: &mut Fields<'_>) -> Result<(), String> {
        let Some(value) = fields.take(row.field) else {
            return Ok(());
        };
        let read = row.read(&value);
        let read =
            read.map_err(|rule| fields.wrong(row.field, &format!("must be {rule}"), &value))?;
        self.0.extend(read.map(|value| (row.header, value)));
        Ok(())
    }

    /// What one option demands of another, as S3 does; the sentence begins with the name of one.
    pub fn check(&self) -> Result<(), String> {
        let encryption = self.get(ENCRYPTION);
        let demands = |header: &str, wanted: &[&str]| match (self.get(header), encryption) {
            (None, _) => Ok(()),
            (Some(_), Some(given)) if wanted.contains(&given) => Ok(()),
            (Some(_), given) => {
                let (name, wanted) = (path_of(header), wanted.join(" or "));
                let given = given.unwrap_or("missing");
                Err(format!(
                    "{name} needs {wanted} as {}, which is {given}",
                    path_of(ENCRYPTION)
                ))
            }
        };
        demands(ENCRYPTION_KEY, &["aws:kms", "aws:kms:dsse"])?;
        demands(BUCKET_KEY, &["aws:kms"])?;
        for (one, other) in [(LOCK_MODE, LOCK_UNTIL), (LOCK_UNTIL, LOCK_MODE)] {
            if self.get(one).is_some() && self.get(other).is_none() {
                return Err(format!(
                    "{} needs {}, which is missing",
                    path_of(one),
                    path_of(other)
                ));
            }
        }
        Ok(())
    }

    /// The value of the option that becomes this header, in the form of messages.
    pub fn get(&self, header: &str) -> Option<&str> {
        self.0.get(header).map(String::as_str)
    }

    /// Sets the option that becomes this header. The error is a sentence for whoever gave the value.
    pub fn set(&mut self, header: &str, value: &Value) -> Result<(), String> {
        let Some(row) = OPTIONS.iter().find(|row| row.header == header) else {
            return Err(format!("{header} is no option"));
        };
        let read = row.read(value);
        let read = read.map_err(|rule| format!("must be {rule}, but is {}", shown(value)))?;
        match read {
            Some(value) => self.0.insert(row.header, value),
            None => self.0.remove(row.header),
        };
        Ok(())
    }

    /// The same by value, for values that are right.
    #[must_use]
    pub fn with(mut self, header: &str, value: impl Into<Value>) -> Self {
        let set = self.set(header, &value.into());
        debug_assert_eq!(set, Ok(()), "{header}");
        self
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Each with its row, in the order of headers.
    pub fn iter(&self) -> impl Iterator<Item = (&'static HeaderOption, &str)> {
        let row = |header: &str| OPTIONS.iter().find(|row| row.header == header);
        self.0
            .iter()
            .filter_map(move |(header, value)| Some((row(header)?, value.as_str())))
    }

    /// These, and of the others those of which nothing is said here. What stands in one object belongs together.
    #[must_use]
    pub fn or(&self, others: &Self) -> Self {
        let is_said = |row: &HeaderOption| match row.within {
            None => self.get(row.header).is_some(),
            within => self.iter().any(|(own, _)| own.within == within),
        };
        let mut both = self.clone();
        for (row, value) in others.iter().filter(|(row, _)| !is_said(row)) {
            both.0.insert(row.header, value.to_owned());
        }
        both
    }

    /// As fields of a message.
    pub(super) fn written(&self, fields: &mut Map<String, Value>) {
        for (row, value) in self.iter() {
            let place = match row.within {
                None => &mut *fields,
                Some(within) => match fields.entry(within).or_insert_with(|| Map::new().into()) {
                    Value::Object(inner) => inner,
                    _ => continue,
                },
            };
            place.insert(row.field.to_owned(), row.json(value));
        }
    }
}

fn path_of(header: &str) -> String {
    let row = OPTIONS.iter().find(|row| row.header == header);
    row.map_or_else(|| header.to_owned(), HeaderOption::path)
}

#[cfg(test)]
#[path = "options_tests.rs"]
mod tests;
