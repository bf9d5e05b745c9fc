//! Standard output and standard error of commands: what is written there can't steer a terminal, and a failed write is
//! never a panic.
//!
//! Keys, buckets, ids and the errors of other systems come from strangers. A terminal obeys control characters in them:
//! it clears its screen, changes its title, or shows another line than the one that was printed. So they are escaped,
//! whether or not a terminal is there: the same command prints the same text into a file, and a file is shown later.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    io::{self, Write as _},
};

/// Whether a terminal does more with it than show it: control characters, and those that turn the direction of writing
/// or end a line.
fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// A stranger's text on one line: line breaks and tabs are `\n` and `\t`, what else a terminal obeys is `\u{…}`.
pub fn escaped(text: &str) -> Cow<'_, str> {
    replaced(text, is_obeyed, |c, into| match c {
        '\n' | '\r' | '\t' => into.extend(c.escape_default()),
        c => into.extend(c.escape_unicode()),
    })
}

/// A text of several lines, such as a table or a list of problems: its line breaks and tabs stay.
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| is_obeyed(c) && !matches!(c, '\n' | '\t'),
        |c, into| into.extend(c.escape_unicode()),
    )
}

/// A JSON text whose strings have their escapes: the value stays, for programs.
pub fn json(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| is_obeyed(c) && !matches!(c, '\n' | '\t' | '\r'),
        |c, into| {
            // All of them are below U+10000. Writing to a string can't fail.
            let written = write!(into, "\\u{:04x}", u32::from(c));
            debug_assert!(written.is_ok());
        },
    )
}

fn replaced(
    text: &str,
    is_meant: impl Fn(char) -> bool,
    replace: impl Fn(char, &mut String),
) -> Cow<'_, str> {
    if !text.contains(&is_meant) {
        return Cow::Borrowed(text);
    }
    let mut whole = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match is_meant(c) {
            true => replace(c, &mut whole),
            false => whole.push(c),
        }
    }
    Cow::Owned(whole)
}

/// Writes text and a line break to standard output.
pub fn print(text: impl Display) -> io::Result<()> {
    print_bytes(lines(&format!("{text}\n")).as_bytes())
}

/// Writes JSON and a line break to standard output.
pub fn print_json(text: &str) -> io::Result<()> {
    print_bytes(format!("{}\n", json(text)).as_bytes())
}

/// Writes bytes to standard output as they are: an object that was asked for.
pub fn print_bytes(bytes: &[u8]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    out.write_all(bytes).and_then(|()| out.flush())
}

/// Writes text and a line break to standard error; work goes on when that can't be written.
pub fn say(text: impl Display) {
    let text = format!("{text}\n");
    drop(io::stderr().lock().write_all(lines(&text).as_bytes()));
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOSTILE: &str = "a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\r\t\u{7f}\u{0}ä";

    #[test]
    fn what_a_terminal_obeys_is_escaped_and_the_rest_is_as_it_was() {
        assert_eq!(
            escaped(HOSTILE),
            r"a\u{1b}[2Jb\nc\u{9b}d\u{202e}e\r\t\u{7f}\u{0}ä"
        );
        assert_eq!(
            lines(HOSTILE),
            "a\\u{1b}[2Jb\nc\\u{9b}d\\u{202e}e\\u{d}\t\\u{7f}\\u{0}ä"
        );
        assert!(matches!(escaped("s3://b/ä ☃"), Cow::Borrowed(_)));
    }

    #[test]
    fn json_keeps_its_value() {
        let value = serde_json::json!({ HOSTILE: [HOSTILE, 1] });
        for text in [value.to_string(), format!("{value:#}")] {
            let shown = json(&text);
            assert!(!shown.chars().any(|c| c != '\n' && is_obeyed(c)), "{shown}");
            assert_eq!(
                serde_json::from_str::<serde_json::Value>(&shown).unwrap(),
                value
            );
        }
    }
}
