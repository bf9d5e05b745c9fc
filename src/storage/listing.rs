//! Pages of keys: as S3 wrote them and as they are, and the way from one to the next.
//!
//! An answer is XML, and keys may hold what XML can't carry; so pages are asked for URL-encoded. A store may
//! ignore that wish: only what says that it is encoded is decoded. A list either proves its end or fails: one that
//! says that it goes on and not where, or that does not move on, would else be a lie or a storm.

use std::{
    collections::HashSet,
    hash::{DefaultHasher, Hash, Hasher},
};

use aws_sdk_s3::{operation::list_objects_v2::ListObjectsV2Output, types::EncodingType};

use super::answer::{UNREADABLE, called};
use crate::job::{Failure, FailureClass};

/// Pages in a row with nothing on them, after which a list is taken for endless; chosen.
const MOST_EMPTY: u32 = 100;

/// Whether there is another page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Turn {
    /// Yes: what to go on with.
    More(Next),
    /// No: S3 said so.
    End,
}

/// Where a list goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Next {
    token: String,
    /// First and last name on this page.
    edges: Option<(String, String)>,
}

/// How far a list has come.
#[derive(Debug, Default)]
pub(super) struct Pages {
    token: Option<String>,
    /// Hashes of the tokens so far: a list may have ten thousand pages.
    seen: HashSet<u64>,
    /// First and last name on the page before.
    edges: Option<(String, String)>,
    empty: u32,
}

impl Pages {
    /// What to ask the next page with; `None` for the first.
    pub(super) fn token(&self) -> Option<String> {
        self.token.clone()
    }

    /// What follows from a decoded page. Fails `unreadable` when the list neither ends nor moves on.
    pub(super) fn turn(&self, page: &ListObjectsV2Output) -> Result<Turn, Failure> {
        if page.is_truncated() == Some(false) {
            return Ok(Turn::End);
        }
        let token = page
            .next_continuation_token()
            .filter(|token| !token.is_empty());
        let Some(token) = token else {
            return Err(stuck(
                "it says that it goes on, and gives no token to go on with",
            ));
        };
        if self.seen.contains(&hash_of(token)) {
            return Err(stuck("it gives the same token again"));
        }
        let edges = edges(page);
        if edges.is_some() && edges == self.edges {
            return Err(stuck("it gives the same page again"));
        }
        if edges.is_none() && self.empty >= MOST_EMPTY {
            return Err(stuck("page after page is empty"));
        }
        let token = token.to_owned();
        Ok(Turn::More(Next { token, edges }))
    }

    /// Goes on to the next page.
    pub(super) fn go(&mut self, next: Next) {
        self.seen.insert(hash_of(&next.token));
        self.token = Some(next.token);
        if next.edges.is_none() {
            self.empty += 1;
        } else {
            self.empty = 0;
            self.edges = next.edges;
        }
    }
}

fn hash_of(token: &str) -> u64 {
    let mut hash = DefaultHasher::new();
    token.hash(&mut hash);
    hash.finish()
}

fn edges(page: &ListObjectsV2Output) -> Option<(String, String)> {
    let keys = page.contents().iter().map(|object| object.key());
    let prefixes = page.common_prefixes().iter().map(|prefix| prefix.prefix());
    let mut names = keys.chain(prefixes).map(Option::unwrap_or_default);
    let first = names.next()?;
    Some((
        first.to_owned(),
        names.next_back().unwrap_or(first).to_owned(),
    ))
}

fn stuck(why: &str) -> Failure {
    let message = format!("the list does not come to its end: {why}");
    called(FailureClass::Unreadable, UNREADABLE, message)
}

/// A key or prefix that can't be read, see `xml.rs`.
pub(super) fn nameless() -> Failure {
    let message = "the list has a key that can't be read as a whole".to_owned();
    called(FailureClass::Unreadable, UNREADABLE, message)
}

/// The page with its keys and common prefixes as they are.
pub(super) fn decoded(mut page: ListObjectsV2Output) -> ListObjectsV2Output {
    if page.encoding_type != Some(EncodingType::Url) {
        return page;
    }
    for object in page.contents.iter_mut().flatten() {
        decode(&mut object.key);
    }
    for prefix in page.common_prefixes.iter_mut().flatten() {
        decode(&mut prefix.prefix);
    }
    page
}

/// Undoes form encoding; a text that is none stays as it is, and one that is no UTF-8 has no name.
fn decode(text: &mut Option<String>) {
    let Some(encoded) = text.as_deref() else {
        return;
    };
    if !encoded.contains(['%', '+']) {
        return;
    }
    let mut bytes = Vec::with_capacity(encoded.len());
    let mut rest = encoded.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let escape = after.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let escape = escape.and_then(|hex| u8::from_str_radix(hex, 16).ok());
        rest = after;
        match (first, escape) {
            (b'%', Some(byte)) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            (b'+', _) => bytes.push(b' '),
            (other, _) => bytes.push(*other),
        }
    }
    *text = String::from_utf8(bytes).ok();
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{CommonPrefix, Object};

    use super::*;

    fn keys(token: Option<&str>, keys: &[&str]) -> ListObjectsV2Output {
        let objects = keys.iter().map(|key| Object::builder().key(*key).build());
        ListObjectsV2Output::builder()
            .is_truncated(true)
            .set_next_continuation_token(token.map(str::to_owned))
            .set_contents(Some(objects.collect()))
            .build()
    }

    #[test]
    fn a_list_that_goes_in_circles_is_stopped_however_it_turns() {
        let walk = |pages: &[ListObjectsV2Output]| {
            let mut list = Pages::default();
            for page in pages {
                if let Turn::More(next) = list.turn(page)? {
                    list.go(next);
                }
            }
            Ok::<_, Failure>(())
        };
        let circles = [
            vec![keys(None, &["a"])],
            vec![keys(Some(""), &["a"])],
            vec![keys(Some("1"), &["a"]), keys(Some("1"), &["b"])],
            vec![
                keys(Some("1"), &["a"]),
                keys(Some("2"), &["b"]),
                keys(Some("1"), &["c"]),
            ],
            vec![keys(Some("1"), &["a", "b"]), keys(Some("2"), &["a", "b"])],
            (0..200)
                .map(|number| keys(Some(&number.to_string()), &[]))
                .collect(),
        ];
        for pages in circles {
            let failure = walk(&pages).unwrap_err();
            assert_eq!(failure.class, FailureClass::Unreadable, "{failure}");
        }
        assert!(
            walk(&[
                keys(Some("1"), &["a"]),
                keys(Some("2"), &[]),
                keys(Some("3"), &["b"])
            ])
            .is_ok()
        );
    }

    fn page(encoding: Option<EncodingType>, key: &str) -> ListObjectsV2Output {
        ListObjectsV2Output::builder()
            .set_encoding_type(encoding)
            .contents(Object::builder().key(key).build())
            .common_prefixes(CommonPrefix::builder().prefix(key).build())
            .build()
    }

    #[test]
    fn only_what_says_that_it_is_encoded_is_decoded() {
        let rows = [
            ("a%01b+c%2Bd/e%C3%A4", "a\u{1}b c+d/eä"),
            ("100%", "100%"),
            ("%zz", "%zz"),
        ];
        let nameless = decoded(page(Some(EncodingType::Url), "%ff"));
        assert_eq!(nameless.contents()[0].key(), None);
        for (raw, plain) in rows {
            let read = decoded(page(Some(EncodingType::Url), raw));
            assert_eq!(read.contents()[0].key(), Some(plain));
            assert_eq!(read.common_prefixes()[0].prefix(), Some(plain));
            let read = decoded(page(None, raw));
            assert_eq!(read.contents()[0].key(), Some(raw));
        }
    }
}
