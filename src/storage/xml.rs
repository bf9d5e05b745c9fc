//! Mends an XML answer before the SDK parses it. Pure.
//!
//! The SDK takes an element's first piece of text and drops the rest, so that a key with a CDATA section in it is
//! read short, and a shorter key is another object. Here a text that is one CDATA section becomes plain text; a
//! key or a prefix of pieces, which can't be told from one that a store forgot to escape, loses its element, and
//! so has no name that anybody could act on. A date that can't be parsed loses its element, too.

use aws_sdk_s3::primitives::{DateTime, DateTimeFormat};
use bytes::Bytes;

use super::reader::lenient;

const CDATA: &str = "<![CDATA[";
/// What moto calls the result of a completed upload, and what it is called.
const OTHER_ROOT: &str = "CompleteMultipartUploadResponse";
const ROOT: &str = "CompleteMultipartUploadResult";
const DATE: &str = "<LastModified>";

/// The answer, as the SDK reads it rightly. What is no UTF-8 stays as it is.
pub(super) fn mended(xml: Bytes) -> Bytes {
    let Ok(text) = std::str::from_utf8(&xml) else {
        return xml;
    };
    let named = text
        .contains(OTHER_ROOT)
        .then(|| text.replace(OTHER_ROOT, ROOT));
    let text = named.as_deref().unwrap_or(text);
    let plain = in_one_piece(text);
    let dated = with_dates(plain.as_deref().unwrap_or(text));
    match dated.or(plain).or_else(|| named.clone()) {
        Some(mended) => Bytes::from(mended),
        None => xml,
    }
}

/// Without sections, comments and instructions inside of elements; `None` when there are none.
fn in_one_piece(text: &str) -> Option<String> {
    let declared = text.trim_start().starts_with("<?xml");
    let declaration = text.find("?>").filter(|_| declared);
    let mut from = declaration.map_or(0, |end| end + 2);
    let mut mended: Option<String> = None;
    let mut copied = 0;
    while let Some(at) = next_markup(text, from) {
        let (content, after) = inside(text, at);
        let opened = text[..at].rfind('<').map_or(0, |start| start);
        let begins = text[..at].ends_with('>') && !text[opened..].starts_with("</");
        let ends = text[after..].starts_with("</");
        let out = mended.get_or_insert_default();
        if let (Some(content), true, true) = (content, begins, ends) {
            out.push_str(&text[copied..at]);
            out.push_str(&escaped(content));
            (copied, from) = (after, after);
            continue;
        }
        match element_around(text, at, after) {
            // Nobody may take a part of a name for the name.
            Some((start, end)) if start >= copied => {
                out.push_str(&text[copied..start]);
                (copied, from) = (end, end);
            }
            _ => from = after,
        }
    }
    mended.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

fn next_markup(text: &str, from: usize) -> Option<usize> {
    let rest = &text[from..];
    let found = [rest.find("<!"), rest.find("<?")]
        .into_iter()
        .flatten()
        .min();
    found.map(|at| from + at)
}

/// The content of a CDATA section, nothing for other markup, and where it ends.
fn inside(text: &str, at: usize) -> (Option<&str>, usize) {
    let rest = &text[at..];
    let (open, close) = if rest.starts_with(CDATA) {
        (CDATA, "]]>")
    } else if rest.starts_with("<!--") {
        ("<!--", "-->")
    } else {
        ("<", ">")
    };
    match rest[open.len()..].find(close) {
        Some(length) => {
            let content = &rest[open.len()..open.len() + length];
            let after = at + open.len() + length + close.len();
            ((open == CDATA).then_some(content), after)
        }
        None => (None, text.len()),
    }
}

/// The key or prefix that holds the markup from `at` to `after`.
fn element_around(text: &str, at: usize, after: usize) -> Option<(usize, usize)> {
    ["Key", "Prefix"].into_iter().find_map(|name| {
        let (open, close) = (format!("<{name}>"), format!("</{name}>"));
        let start = text[..at].rfind(&open)?;
        let is_inside = !text[start..at].contains(&close);
        let end = text[after..].find(&close)? + after + close.len();
        is_inside.then_some((start, end))
    })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
}

/// With dates that can be parsed; `None` when all can.
fn with_dates(text: &str) -> Option<String> {
    let mut mended: Option<String> = None;
    let (mut copied, mut from) = (0, 0);
    while let Some(start) = text[from..].find(DATE).map(|at| from + at) {
        let begin = start + DATE.len();
        let Some(length) = text[begin..].find("</LastModified>") else {
            break;
        };
        let end = begin + length;
        from = end;
        let date = &text[begin..end];
        if DateTime::from_str(date, DateTimeFormat::DateTimeWithOffset).is_ok() {
            continue;
        }
        let out = mended.get_or_insert_default();
        let better = lenient(date.trim());
        let better = better.and_then(|date| date.fmt(DateTimeFormat::DateTime).ok());
        if let Some(better) = better {
            out.push_str(&text[copied..begin]);
            out.push_str(&better);
            copied = end;
        } else {
            out.push_str(&text[copied..start]);
            copied = end + "</LastModified>".len();
        }
    }
    mended.map(|mut out| {
        out.push_str(&text[copied..]);
        out
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(xml: &str) -> String {
        String::from_utf8(mended(Bytes::from(xml.to_owned())).to_vec()).unwrap()
    }

    #[test]
    fn a_section_that_is_all_of_a_text_becomes_that_text() {
        let head = r#"<?xml version="1.0"?>"#;
        for (given, read) in [
            ("<Key><![CDATA[a<b&c]]></Key>", "<Key>a&lt;b&amp;c</Key>"),
            ("<Key><![CDATA[]]></Key><X>1</X>", "<Key></Key><X>1</X>"),
            (
                "<Key>a</Key><Key><![CDATA[b]]></Key>",
                "<Key>a</Key><Key>b</Key>",
            ),
        ] {
            assert_eq!(
                after(&format!("{head}<L>{given}</L>")),
                format!("{head}<L>{read}</L>")
            );
        }
    }

    #[test]
    fn a_result_under_another_name_is_that_result() {
        let given = r#"<CompleteMultipartUploadResponse xmlns="x"><Key>k</Key></CompleteMultipartUploadResponse>"#;
        let read = r#"<CompleteMultipartUploadResult xmlns="x"><Key>k</Key></CompleteMultipartUploadResult>"#;
        assert_eq!(after(given), read);
    }

    #[test]
    fn a_name_of_pieces_is_no_name() {
        for piece in [
            "p/<![CDATA[a]]>",
            "<![CDATA[a]]>b",
            "<![CDATA[a]]><![CDATA[b]]>",
            "a<!-- x -->b",
            "a<?x y?>b",
        ] {
            let given = format!("<C><Key>{piece}</Key><Size>1</Size></C><C><Key>ok</Key></C>");
            assert_eq!(
                after(&given),
                "<C><Size>1</Size></C><C><Key>ok</Key></C>",
                "{piece}"
            );
        }
        assert_eq!(after("<P><Prefix>a/<![CDATA[b]]>/</Prefix></P>"), "<P></P>");
        assert_eq!(after("<Key>a<![CDATA[b"), "<Key>a<![CDATA[b");
    }

    #[test]
    fn an_odd_date_is_read_as_it_is_meant_or_left_out() {
        for (given, read) in [
            (
                "<LastModified>2026-11-24T10:00:00.000Z</LastModified>",
                None,
            ),
            (
                "<LastModified>2026-11-24 10:00:00</LastModified>",
                Some("<LastModified>2026-11-24T10:00:00Z</LastModified>"),
            ),
            (
                "<LastModified>Tue, 24 Nov 2026 10:00:00 GMT</LastModified>",
                Some("<LastModified>2026-11-24T10:00:00Z</LastModified>"),
            ),
            ("<LastModified>last week</LastModified>", Some("")),
            ("<LastModified></LastModified>", Some("")),
        ] {
            let xml = format!("<C><Key>a</Key>{given}<Size>1</Size></C>");
            let wanted = read.map_or_else(|| xml.clone(), |read| xml.replace(given, read));
            assert_eq!(after(&xml), wanted);
        }
    }
}
