//! The bytes that a GET wanted, in the answer that came. Pure.
//!
//! A store may ignore `Range` and send the whole object with a 200. What came is cut to what was wanted where the
//! wanted part lies within bounds that are known; an answer that is neither the range nor the whole is none.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use bytes::Bytes;

use super::service::unsigned;

/// Bytes of a whole object that are passed over for a range that was ignored, at most; chosen.
const MOST_SKIPPED: u64 = 64 << 20;

/// Which part of the bytes to come is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Window {
    /// Bytes still to pass over.
    skip: u64,
    /// Bytes still wanted; `None` for all that come.
    want: Option<u64>,
}

/// What `bytes 5-9/10` says: first and last byte, and the object's size if it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct ContentRange {
    pub(super) first: u64,
    pub(super) last: u64,
    pub(super) size: Option<u64>,
}

impl ContentRange {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (range, size) = text.trim().strip_prefix("bytes ")?.split_once('/')?;
        let (first, last) = range.split_once('-')?;
        let range = Self {
            first: first.trim().parse().ok()?,
            last: last.trim().parse().ok()?,
            size: size.trim().parse().ok(),
        };
        (range.first <= range.last).then_some(range)
    }
}

/// A range as a message has it, which its reader has checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

impl Wanted {
    fn parse(range: &str) -> Option<Self> {
        let (first, last) = range.strip_prefix("bytes=")?.split_once('-')?;
        Some(match (first, last) {
            ("", last) => Self::Last(last.parse().ok()?),
            (first, "") => Self::From(first.parse().ok()?),
            (first, last) => Self::Between(first.parse().ok()?, last.parse().ok()?),
        })
    }

    /// First byte and count within an object of that size; `None` when it has none of them.
    fn within(self, size: u64) -> Option<(u64, u64)> {
        let (first, end) = match self {
            Self::From(first) => (first, size),
            Self::Between(first, last) => (first, last.saturating_add(1).min(size)),
            Self::Last(count) => (size - count.min(size), size),
        };
        (first < end).then(|| (first, end - first))
    }
}

impl Window {
    /// Everything that comes.
    pub(super) const ALL: Self = Self {
        skip: 0,
        want: None,
    };

    /// Where in the answer's body the wanted bytes are. The error says what the answer lacks.
    pub(super) fn of(range: Option<&str>, answer: &GetObjectOutput) -> Result<Self, String> {
        let came = answer.content_range.as_deref();
        let came = match came.map(|text| (text, ContentRange::parse(text))) {
            None => None,
            Some((_, Some(came))) => Some(came),
            Some((text, None)) => return Err(format!("Content-Range that can be read: {text:?}")),
        };
        let length = answer.content_length.map(|size| unsigned(Some(size)));
        let Some(wanted) = range.and_then(Wanted::parse) else {
            // A part came where all of it was asked for.
            let is_all =
                came.is_none_or(|came| came.first == 0 && came.size == Some(came.last + 1));
            return if is_all {
                Ok(Self::ALL)
            } else {
                Err("end: only a part of the object came".to_owned())
            };
        };
        match (came, length) {
            (Some(came), length) => Self::of_part(wanted, came, length),
            // Ignored: the whole object comes.
            (None, Some(size)) => match wanted.within(size) {
                Some((skip, want)) => Self::behind(skip, Some(want)),
                None => Err(format!(
                    "Content-Range, and {size} bytes do not hold the range"
                )),
            },
            (None, None) => match wanted {
                Wanted::Between(first, last) => Self::behind(first, Some(last - first + 1)),
                Wanted::From(skip) => Self::behind(skip, None),
                Wanted::Last(_) => Err("Content-Range and no Content-Length".to_owned()),
            },
        }
    }

    fn behind(skip: u64, want: Option<u64>) -> Result<Self, String> {
        if skip > MOST_SKIPPED {
            return Err(format!(
                "Content-Range, and the range begins {skip} bytes into the whole"
            ));
        }
        Ok(Self { skip, want })
    }

    fn of_part(wanted: Wanted, came: ContentRange, length: Option<u64>) -> Result<Self, String> {
        let count = came.last - came.first + 1;
        if length.is_some_and(|length| length != count) {
            return Err(format!(
                "Content-Length that fits bytes {}-{}",
                came.first, came.last
            ));
        }
        let is_wanted = match (came.size, wanted) {
            (Some(size), wanted) => wanted.within(size) == Some((came.first, count)),
            (None, Wanted::From(first)) => came.first == first,
            (None, Wanted::Between(first, last)) => came.first == first && came.last <= last,
            (None, Wanted::Last(most)) => count <= most,
        };
        if is_wanted {
            Ok(Self::ALL)
        } else {
            Err(format!(
                "range that was asked for, but bytes {}-{}",
                came.first, came.last
            ))
        }
    }

    /// How many bytes are wanted, if `announced` ones come; `None` when nobody knows.
    pub(super) fn most(&self, announced: Option<u64>) -> Option<u64> {
        self.want.or(announced)
    }

    /// The wanted part of the next bytes.
    pub(super) fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let skipped = usize::try_from(self.skip)
            .unwrap_or(usize::MAX)
            .min(chunk.len());
        drop(chunk.split_to(skipped));
        self.skip -= skipped as u64;
        if let Some(want) = &mut self.want {
            chunk.truncate(usize::try_from(*want).unwrap_or(usize::MAX));
            *want -= chunk.len() as u64;
        }
        chunk
    }

    /// Whether nothing of what is still to come is wanted.
    pub(super) fn is_full(&self) -> bool {
        self.want == Some(0)
    }

    /// How many bytes are passed over first.
    pub(super) const fn skipped(&self) -> u64 {
        self.skip
    }

    /// Whether the wanted bytes are only a part of those that come.
    pub(super) fn is_cut(&self) -> bool {
        *self != Self::ALL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(range: Option<&str>, length: Option<i64>) -> GetObjectOutput {
        GetObjectOutput::builder()
            .set_content_range(range.map(str::to_owned))
            .set_content_length(length)
            .build()
    }

    /// What is kept of an object of the bytes 0 to 99.
    fn kept(window: &mut Window) -> Vec<u8> {
        let object: Vec<u8> = (0..100).collect();
        let chunks = object.chunks(7).map(Bytes::copy_from_slice);
        chunks.flat_map(|chunk| window.cut(chunk)).collect()
    }

    #[test]
    fn an_object_that_came_whole_is_cut_to_the_range() {
        let rows = [
            ("bytes=10-19", Some(100), Some(10..20)),
            ("bytes=90-500", Some(100), Some(90..100)),
            ("bytes=95-", Some(100), Some(95..100)),
            ("bytes=-5", Some(100), Some(95..100)),
            ("bytes=-500", Some(100), Some(0..100)),
            ("bytes=10-19", None, Some(10..20)),
            ("bytes=100-", Some(100), None),
            ("bytes=900000000-900000009", Some(1_000_000_000), None),
            ("bytes=-5", None, None),
        ];
        for (range, length, bytes) in rows {
            let window = Window::of(Some(range), &answer(None, length));
            let kept = window.map(|mut window| kept(&mut window)).ok();
            assert_eq!(kept, bytes.map(Iterator::collect), "{range} {length:?}");
        }
    }

    #[test]
    fn a_part_is_taken_only_when_it_is_the_one_that_was_asked_for() {
        for (range, came, length, good) in [
            (Some("bytes=10-19"), "bytes 10-19/100", Some(10), true),
            (Some("bytes=10-19"), "bytes 10-14/15", Some(5), true),
            (Some("bytes=-5"), "bytes 95-99/100", Some(5), true),
            (Some("bytes=90-"), "bytes 90-99/*", None, true),
            (Some("bytes=10-19"), "bytes 0-9/100", Some(10), false),
            (Some("bytes=10-19"), "bytes 10-14/100", Some(5), false),
            (Some("bytes=10-19"), "bytes 10-19/100", Some(100), false),
            (Some("bytes=10-19"), "some of it", Some(10), false),
            (None, "bytes 0-9/100", Some(10), false),
            (None, "bytes 0-99/100", Some(100), true),
        ] {
            let window = Window::of(range, &answer(Some(came), length));
            assert_eq!(window.is_ok(), good, "{range:?} {came} {window:?}");
        }
    }
}
