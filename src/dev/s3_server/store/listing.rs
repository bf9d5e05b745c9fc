//! Pages of a bucket's keys: prefix, delimiter, where to begin and how many.
//!
//! Owns the order and the continuation token. Keys are in the order of their bytes, as in S3.

use std::{
    collections::BTreeMap,
    ops::Bound::{Excluded, Included, Unbounded},
    sync::Arc,
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};

use super::Object;

/// What a page begins behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::dev::s3_server) enum After {
    /// A key.
    Key(String),
    /// All keys of a common prefix.
    CommonPrefix(String),
}

impl After {
    /// As a continuation token. Which kind it is must be in it: behind a common prefix, its keys are done.
    pub(in crate::dev::s3_server) fn token(&self) -> String {
        match self {
            Self::Key(key) => URL_SAFE_NO_PAD.encode(format!("k{key}")),
            Self::CommonPrefix(prefix) => URL_SAFE_NO_PAD.encode(format!("p{prefix}")),
        }
    }

    /// Reads a token of ours.
    pub(in crate::dev::s3_server) fn parse(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        match text.split_at_checked(1)? {
            ("k", key) => Some(Self::Key(key.to_owned())),
            ("p", prefix) => Some(Self::CommonPrefix(prefix.to_owned())),
            _ => None,
        }
    }
}

/// What is asked for.
#[derive(Debug, Default)]
pub(in crate::dev::s3_server) struct Query {
    pub(in crate::dev::s3_server) prefix: String,
    pub(in crate::dev::s3_server) delimiter: String,
    pub(in crate::dev::s3_server) after: Option<After>,
    pub(in crate::dev::s3_server) most: usize,
}

/// One page. Keys and common prefixes count alike.
#[derive(Debug, Default)]
pub(in crate::dev::s3_server) struct Page {
    pub(in crate::dev::s3_server) objects: Vec<(String, Arc<Object>)>,
    pub(in crate::dev::s3_server) common_prefixes: Vec<String>,
    /// Where the next page begins; `None` if this is the last.
    pub(in crate::dev::s3_server) next: Option<After>,
}

/// Walks from the first key of the page, not of the bucket.
pub(super) fn page(objects: &BTreeMap<String, Arc<Object>>, query: &Query) -> Page {
    let mut page = Page::default();
    let mut last = None;
    let mut skipped = match &query.after {
        Some(After::CommonPrefix(prefix)) => Some(prefix.clone()),
        _ => None,
    };
    let start = match &query.after {
        Some(After::Key(key) | After::CommonPrefix(key)) if *key >= query.prefix => Excluded(key),
        _ => Included(&query.prefix),
    };
    let candidates = objects.range::<String, _>((start, Unbounded));
    for (key, object) in candidates.take_while(|(key, _)| key.starts_with(&query.prefix)) {
        if skipped
            .as_ref()
            .is_some_and(|prefix| key.starts_with(prefix))
        {
            continue;
        }
        if page.objects.len() + page.common_prefixes.len() == query.most {
            // Without a last entry none was asked for, and S3 then says that it is complete.
            page.next = last;
            break;
        }
        match common_prefix(key, query) {
            Some(prefix) => {
                last = Some(After::CommonPrefix(prefix.to_owned()));
                skipped = Some(prefix.to_owned());
                page.common_prefixes.push(prefix.to_owned());
            }
            None => {
                last = Some(After::Key(key.clone()));
                page.objects.push((key.clone(), Arc::clone(object)));
            }
        }
    }
    page
}

/// The key up to the first delimiter behind the prefix.
fn common_prefix<'a>(key: &'a str, query: &Query) -> Option<&'a str> {
    if query.delimiter.is_empty() {
        return None;
    }
    let found = key[query.prefix.len()..].find(&query.delimiter)?;
    Some(&key[..query.prefix.len() + found + query.delimiter.len()])
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use proptest::prelude::*;

    use super::{super::file::DataFile, *};

    fn bucket(keys: &[&str]) -> BTreeMap<String, Arc<Object>> {
        let object = Arc::new(Object {
            size: 0,
            etag: String::new(),
            modified: SystemTime::UNIX_EPOCH,
            attributes: Default::default(),
            file: Arc::new(DataFile::existing("nowhere".into())),
        });
        keys.iter()
            .map(|key| ((*key).to_owned(), Arc::clone(&object)))
            .collect()
    }

    /// All pages one behind the other: keys as they are, common prefixes in brackets.
    fn walk(objects: &BTreeMap<String, Arc<Object>>, mut query: Query) -> Vec<String> {
        let mut found = Vec::new();
        loop {
            let page = page(objects, &query);
            let mut entries: Vec<(String, String)> = Vec::new();
            entries.extend(page.objects.into_iter().map(|(key, _)| (key.clone(), key)));
            let prefixes = page.common_prefixes.into_iter();
            entries.extend(prefixes.map(|prefix| (prefix.clone(), format!("[{prefix}]"))));
            assert!(entries.len() <= query.most);
            entries.sort();
            found.extend(entries.into_iter().map(|(_, shown)| shown));
            match page.next {
                Some(next) => query.after = After::parse(&next.token()),
                None => return found,
            }
        }
    }

    fn query(prefix: &str, delimiter: &str, most: usize) -> Query {
        Query {
            prefix: prefix.to_owned(),
            delimiter: delimiter.to_owned(),
            after: None,
            most,
        }
    }

    #[test]
    fn a_delimiter_folds_keys_whatever_the_page_size() {
        let objects = bucket(&["a", "a/1", "a/2", "a/b/3", "a0", "b/1", "c"]);
        for most in 1..8 {
            assert_eq!(
                walk(&objects, query("", "/", most)),
                ["a", "[a/]", "a0", "[b/]", "c"]
            );
            assert_eq!(
                walk(&objects, query("a/", "/", most)),
                ["a/1", "a/2", "[a/b/]"]
            );
            assert_eq!(walk(&objects, query("a", "", most)).len(), 5);
            assert_eq!(walk(&objects, query("d", "/", most)).len(), 0);
        }
    }

    #[test]
    fn start_after_begins_behind_that_key_and_never_before_the_prefix() {
        let objects = bucket(&["a/1", "a/2", "b/1", "b/2"]);
        let from = |prefix: &str, delimiter: &str, key: &str| {
            let mut query = query(prefix, delimiter, 10);
            query.after = Some(After::Key(key.to_owned()));
            walk(&objects, query)
        };
        assert_eq!(from("", "", "a/1"), ["a/2", "b/1", "b/2"]);
        assert_eq!(from("b/", "", "a/1"), ["b/1", "b/2"]);
        assert_eq!(from("", "/", "a/1"), ["[a/]", "[b/]"]);
        assert_eq!(from("", "/", "a/2"), ["[b/]"]);
        assert_eq!(from("a/", "", "b/1").len(), 0);
    }

    #[test]
    fn no_keys_asked_for_is_a_complete_empty_page() {
        let page = page(&bucket(&["a"]), &query("", "", 0));
        assert!(page.objects.is_empty() && page.next.is_none());
    }

    proptest! {
        #[test]
        fn pages_of_any_size_give_what_one_page_gives(
            keys in proptest::collection::btree_set("[ab/]{1,5}", 0..40),
            prefix in "[ab/]{0,2}",
            delimiter in "/?",
            most in 1_usize..6,
        ) {
            let keys: Vec<&str> = keys.iter().map(String::as_str).collect();
            let objects = bucket(&keys);
            let all = walk(&objects, query(&prefix, &delimiter, 1_000));
            prop_assert_eq!(walk(&objects, query(&prefix, &delimiter, most)), all);
        }
    }
}
