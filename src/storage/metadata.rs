//! User metadata on its way through headers, which carry ASCII only (AWS: "user-defined object metadata").
//!
//! AWS gives a value beyond ASCII back as an encoded word of RFC 2047 and takes one as such; other stores keep the
//! header as it came. So a value that a header would change is written as encoded words, and every value is
//! decoded when it is read: what comes back is what was given, wherever it was stored. Pure.

use std::collections::{BTreeMap, HashMap};

use base64::{Engine, engine::general_purpose::STANDARD};

/// Bytes of text in one encoded word, whose length RFC 2047 limits to 75.
const WORD: usize = 45;

/// A value as its header carries it.
pub(super) fn written(value: &str) -> String {
    // A header loses spaces at its ends, and signatures fold those within.
    let kept = value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && value.trim() == value
        && !value.contains("  ")
        && !value.contains("=?");
    if kept {
        return value.to_owned();
    }
    let mut words = Vec::new();
    let mut rest = value;
    while !rest.is_empty() {
        let mut end = rest.len().min(WORD);
        while !rest.is_char_boundary(end) {
            end -= 1;
        }
        words.push(format!("=?UTF-8?B?{}?=", STANDARD.encode(&rest[..end])));
        rest = &rest[end..];
    }
    words.join(" ")
}

/// All of an object's metadata, decoded, by name.
pub(super) fn read(metadata: Option<HashMap<String, String>>) -> BTreeMap<String, String> {
    let metadata = metadata.unwrap_or_default().into_iter();
    metadata
        .map(|(name, value)| (name, decoded(value)))
        .collect()
}

/// An object's metadata as another object's headers carry it.
pub(super) fn kept(metadata: Option<&HashMap<String, String>>) -> HashMap<String, String> {
    let metadata = read(metadata.cloned()).into_iter();
    metadata
        .map(|(name, value)| (name, written(&value)))
        .collect()
}

/// A header's bytes, each of which is a character.
pub(super) fn from_latin_1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// Undoes [`written`] and what AWS writes; a value that is not made of encoded words alone stays as it is.
fn decoded(value: String) -> String {
    if !value.contains("=?") {
        return value;
    }
    let mut text = String::new();
    // Of one character set, and not yet text: a character may be split between two words.
    let mut bytes: (String, Vec<u8>) = Default::default();
    for word in value.split_ascii_whitespace() {
        let Some((charset, mut decoded)) = decoded_word(word) else {
            return value;
        };
        if bytes.0 != charset {
            let (charset, bytes) = std::mem::replace(&mut bytes, (charset, Vec::new()));
            match in_charset(&charset, &bytes) {
                Some(more) => text.push_str(&more),
                None => return value,
            }
        }
        bytes.1.append(&mut decoded);
    }
    match in_charset(&bytes.0, &bytes.1) {
        Some(more) => text + &more,
        None => value,
    }
}

/// The character set, in lower case, and the bytes of `=?charset?B?text?=`.
fn decoded_word(word: &str) -> Option<(String, Vec<u8>)> {
    let inner = word.strip_prefix("=?")?.strip_suffix("?=")?;
    let mut parts = inner.splitn(3, '?');
    let (charset, encoding, text) = (parts.next()?, parts.next()?, parts.next()?);
    let bytes = match encoding {
        "B" | "b" => STANDARD.decode(text).ok()?,
        "Q" | "q" => unquoted(text)?,
        _ => return None,
    };
    // A language may follow, by RFC 2231.
    let charset = charset.split('*').next()?.to_ascii_lowercase();
    Some((charset, bytes))
}

fn unquoted(text: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'_' => b' ',
            b'=' => {
                let hex = [rest.next()?, rest.next()?];
                u8::from_str_radix(std::str::from_utf8(&hex).ok()?, 16).ok()?
            }
            byte => byte,
        });
    }
    Some(bytes)
}

fn in_charset(charset: &str, bytes: &[u8]) -> Option<String> {
    match charset {
        "" if bytes.is_empty() => Some(String::new()),
        "utf-8" | "us-ascii" => std::str::from_utf8(bytes).ok().map(str::to_owned),
        "iso-8859-1" => Some(from_latin_1(bytes)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_written_is_read_again_and_fits_a_header(value in "\\PC{0,200}") {
            let header = written(&value);
            prop_assert!(header.bytes().all(|byte| (b' '..=b'~').contains(&byte)), "{header}");
            prop_assert!(header.split(' ').all(|word| !word.starts_with("=?") || word.len() <= 75));
            prop_assert_eq!(header.trim(), &header);
            prop_assert_eq!(decoded(header), value);
        }
    }

    #[test]
    fn plain_values_travel_as_they_are() {
        for value in ["", "report 7", "a=b?c", "{\"x\": 1}"] {
            assert_eq!(written(value), value);
        }
    }

    #[test]
    fn values_that_a_header_would_change_travel_encoded() {
        for value in [
            " a",
            "a ",
            "a  b",
            "gr\u{f6}\u{df}e",
            "a\u{a0}b",
            "=?UTF-8?B?YQ==?=",
        ] {
            let header = written(value);
            assert!(header.starts_with("=?UTF-8?B?"), "{header}");
            assert_eq!(decoded(header), value);
        }
    }

    #[test]
    fn what_others_write_is_read_too() {
        for (header, value) in [
            ("=?UTF-8?Q?gr=C3=B6=C3=9Fe_7?=", "größe 7"),
            ("=?iso-8859-1?q?gr=F6=DFe?=", "größe"),
            // A character between two words.
            ("=?UTF-8?Q?gr=C3?= =?UTF-8?Q?=B6?=", "grö"),
            ("=?utf-8?b?w4TDliBTMw==?=", "ÄÖ S3"),
            // Not ours to read.
            ("see =?UTF-8?Q?a?=", "see =?UTF-8?Q?a?="),
            ("=?koi8-r?Q?=C1?=", "=?koi8-r?Q?=C1?="),
            ("=?UTF-8?Q?=FF?=", "=?UTF-8?Q?=FF?="),
        ] {
            assert_eq!(decoded(header.to_owned()), value);
        }
    }
}
