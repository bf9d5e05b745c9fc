//! What every database does with a batch: text and numbers that all of them can hold, and answers in the order of
//! the questions.

use std::{borrow::Cow, collections::HashMap};

use super::{Claim, ClaimRequest, Committed, Ending, JobRecord};

/// The longest error code, in characters. S3's own have at most 60.
const MAX_CODE: usize = 200;

/// Answers by job id.
pub(super) type Claims<'a> = HashMap<&'a str, Claim>;

/// A size or a count as a database holds it; none is beyond `i64::MAX`.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

/// Text without U+0000, which PostgreSQL holds in no column. Messages have none; a store's error might.
pub(super) fn clean(text: &str) -> Cow<'_, str> {
    if text.contains('\0') {
        Cow::Owned(text.replace('\0', "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// An error code as the ledger holds it: bounded, because it is indexed, and who answers in a store's place
/// may call its page of HTML a code.
pub(super) fn clean_code(code: &str) -> Cow<'_, str> {
    let end = code
        .char_indices()
        .nth(MAX_CODE)
        .map_or(code.len(), |(end, _)| end);
    clean(&code[..end])
}

/// The fields of a request that were ignored, as a column holds them: a JSON array, if there are any.
pub(super) fn ignored_text(request: &ClaimRequest) -> Option<String> {
    let names = &request.ignored;
    (!names.is_empty()).then(|| serde_json::Value::from(names.as_slice()).to_string())
}

/// The claims in the order of the requests.
pub(super) fn claimed(
    requests: &[ClaimRequest],
    mut claims: Claims<'_>,
) -> Result<Vec<Claim>, sqlx::Error> {
    let claim = |request: &ClaimRequest| claims.remove(request.id.as_str());
    let answers: Option<Vec<Claim>> = requests.iter().map(claim).collect();
    answers.ok_or_else(|| sqlx::Error::Encode("an id stands twice in a batch".into()))
}

/// What became of the endings, in their order; those whose row is not among `recorded` are superseded.
pub(super) fn committed(
    endings: &[Ending],
    recorded: impl Iterator<Item = Result<JobRecord, sqlx::Error>>,
) -> Result<Vec<Committed>, sqlx::Error> {
    let rows = recorded.map(|row| row.map(|row| (row.id.clone(), row)));
    let mut rows: HashMap<_, _> = rows.collect::<Result<_, _>>()?;
    let answer = |ending: &Ending| match rows.remove(&ending.id) {
        Some(row) => Committed::Recorded(Box::new(row)),
        None => Committed::Superseded,
    };
    Ok(endings.iter().map(answer).collect())
}
