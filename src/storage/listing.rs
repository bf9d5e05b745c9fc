//! Pages of keys, as S3 wrote them and as they are.
//!
//! An answer is XML, and keys may hold what XML can't carry; so pages are asked for URL-encoded. A store may
//! ignore that wish: only what says that it is encoded is decoded.

use aws_sdk_s3::{operation::list_objects_v2::ListObjectsV2Output, types::EncodingType};

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

/// Undoes form encoding; a text that is none stays as it is.
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
    if let Ok(plain) = String::from_utf8(bytes) {
        *text = Some(plain);
    }
}

#[cfg(test)]
mod tests {
    use aws_sdk_s3::types::{CommonPrefix, Object};

    use super::*;

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
            ("%ff", "%ff"),
        ];
        for (raw, plain) in rows {
            let read = decoded(page(Some(EncodingType::Url), raw));
            assert_eq!(read.contents()[0].key(), Some(plain));
            assert_eq!(read.common_prefixes()[0].prefix(), Some(plain));
            let read = decoded(page(None, raw));
            assert_eq!(read.contents()[0].key(), Some(raw));
        }
    }
}
