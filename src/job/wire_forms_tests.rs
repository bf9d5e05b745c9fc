//! Messages that are JSON in another form: the sentence says which it is and what would be right.

use super::*;

fn utf16(text: &str, of: fn(u16) -> [u8; 2], mark: bool) -> Vec<u8> {
    let mark = mark.then_some(0xfeff);
    let units = mark.into_iter().chain(text.encode_utf16());
    units.flat_map(of).collect()
}

fn said(body: Vec<u8>) -> String {
    let sent = Message {
        body: body.into(),
        ..message(&put(json!({})))
    };
    let bad = decode(&sent, Lane::Upload, &rules(), NOW).unwrap_err();
    assert_eq!(bad.reason, DeadReason::Malformed);
    bad.message
}

#[test]
fn json_in_another_form_is_named_and_so_is_what_would_be_right() {
    let text = put(json!({})).to_string();
    let utf32 = |of: fn(u32) -> [u8; 4]| text.chars().flat_map(move |c| of(c.into())).collect();
    let table: [(Vec<u8>, &[&str]); 14] = [
        (
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            &["byte order mark", "leave that out"],
        ),
        (
            utf16(&text, u16::to_le_bytes, true),
            &["UTF-16", "little endian", "as UTF-8"],
        ),
        (
            utf16(&text, u16::to_be_bytes, true),
            &["UTF-16", "big endian", "as UTF-8"],
        ),
        (
            utf16(&text, u16::to_le_bytes, false),
            &["UTF-16", "little endian", "as UTF-8"],
        ),
        (
            utf16(&text, u16::to_be_bytes, false),
            &["UTF-16", "big endian", "as UTF-8"],
        ),
        (
            utf16(&format!("\n{text}"), u16::to_le_bytes, false),
            &["UTF-16"],
        ),
        (utf32(u32::to_le_bytes), &["UTF-32", "as UTF-8"]),
        (utf32(u32::to_be_bytes), &["UTF-32", "as UTF-8"]),
        (
            b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(),
            &["gzip", "send it uncompressed"],
        ),
        (b"\x28\xb5\x2f\xfd\x04\x58".to_vec(), &["zstd"]),
        (b"\x78\x9c\xab\x56".to_vec(), &["zlib"]),
        (
            b"eyJ2ZXJzaW9uIjogMX0=".to_vec(),
            &["Base64", "the JSON itself"],
        ),
        (Vec::new(), &["is empty"]),
        (
            json!(text).to_string().into_bytes(),
            &["is a string that holds one", "encoded twice"],
        ),
    ];
    for (body, parts) in table {
        let sentence = said(body);
        for part in parts {
            assert!(sentence.contains(part), "{part:?} is not in: {sentence}");
        }
    }
    // Nothing is made up.
    for body in [
        "{version: 1}",
        "hello",
        "<job/>",
        "ey",
        "\"x\"",
        "{\"a\": \"\u{e9}\"",
    ] {
        let sentence = said(body.as_bytes().to_vec());
        for word in ["UTF-16", "Base64", "twice", "gzip", "byte order"] {
            assert!(!sentence.contains(word), "{body}: {sentence}");
        }
    }
    let latin_1 = said(b"{\"key\": \"caf\xe9\"}".to_vec());
    assert!(latin_1.contains("unicode"), "{latin_1}");
}

#[test]
fn the_header_of_the_binary_form_says_it_as_well() {
    let with_mark = format!("\u{feff}{}", put(json!({})));
    let sent = Message::default().with_text("brigade-job", with_mark);
    let sent = Message {
        message_id: Some("j".to_owned()),
        ..sent
    };
    let bad = decode(&sent, Lane::Upload, &rules(), NOW).unwrap_err();
    assert!(
        bad.message.contains("header brigade-job is no valid JSON")
            && bad.message.contains("byte order mark"),
        "{}",
        bad.message
    );
}
