//! What bytes that are no JSON are instead, as far as their beginning tells, and what would be right.

/// A sentence's end on bytes that were to be JSON in UTF-8; `None` when nothing is known of them.
pub(crate) fn instead(bytes: &[u8]) -> Option<&'static str> {
    let sentence = match bytes {
        [0x00, 0x00, 0xfe, 0xff, ..]
        | [0xff, 0xfe, 0x00, 0x00, ..]
        | [0x00, 0x00, 0x00, 1..=0x7f, ..]
        | [1..=0x7f, 0x00, 0x00, 0x00, ..] => "it is UTF-32: write it as UTF-8",
        [0xef, 0xbb, 0xbf, ..] => {
            "it begins with a byte order mark (EF BB BF): leave that out (in Python `utf-8`, not `utf-8-sig`)"
        }
        [0xfe, 0xff, ..] => {
            "it is UTF-16 with a byte order mark, big endian: write it as UTF-8 without one"
        }
        [0xff, 0xfe, ..] => {
            "it is UTF-16 with a byte order mark, little endian: write it as UTF-8 without one"
        }
        [0x00, 1..=0x7f, ..] => "it is UTF-16, big endian: write it as UTF-8",
        [1..=0x7f, 0x00, ..] => "it is UTF-16, little endian: write it as UTF-8",
        [0x1f, 0x8b, ..] => {
            "it is compressed by gzip: send it uncompressed, content_encoding is not read"
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            "it is compressed by zstd: send it uncompressed, content_encoding is not read"
        }
        [0x78, 0x01 | 0x5e | 0x9c | 0xda, ..] => {
            "it is compressed by zlib: send it uncompressed, content_encoding is not read"
        }
        // `{"`, `{ ` and `{` with a line break, in Base64.
        [b'e', b'y', b'J' | b'A', _, ..] | [b'e', b'w', b'o' | b'0', _, ..] => {
            "it is Base64: send the JSON itself"
        }
        [] => "it is empty",
        _ => return None,
    };
    Some(sentence)
}
