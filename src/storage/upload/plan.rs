//! How an object is cut into parts: a pure function of its size, so that a later run cuts it the same way.
//!
//! S3's limits (facts: s3.md, 6): 10,000 parts, each of 5 MiB to 5 GiB but for the last. A known size gives
//! parts of one size, which every store takes. An unknown one gives parts that grow on the way, which S3
//! allows and few stores refuse; they grow no further than the memory budget.

use std::ops::Range;

use crate::job::{BegunUpload, Failure, FailureClass, Headers, SaidDigests};

/// Parts of one upload; S3 takes no more.
pub(super) const MOST_PARTS: u32 = 10_000;
/// The largest part that S3 takes.
const LARGEST_PART: u64 = 5 * 1024 * MIB;
const MIB: u64 = 1024 * 1024;
/// Parts that a known size is cut into at most: a few are left over, so that nothing hangs on the limit.
const AIM: u64 = 9_500;
/// How parts of an unknown size grow: so many parts of so many times the first one's size.
const GROWTH: [(u32, u64); 3] = [(1_000, 1), (3_000, 4), (6_000, 16)];

/// The parts of one object, numbered from 1. Sizes in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Plan {
    size: Option<u64>,
    first: u64,
    largest: u64,
}

impl Plan {
    /// Parts for an object of `size`, `part_size` each, or more when it would need too many.
    ///
    /// Fails `job_local`: as `object_too_large` when no cut fits S3's limits, as `memory_budget_too_small`
    /// when the parts would be larger than `budget`, which holds one part at least.
    pub(super) fn known(size: u64, part_size: u64, budget: u64) -> Result<Self, Failure> {
        let round_up = |bytes: u64| bytes.div_ceil(MIB) * MIB;
        let mut part = part_size.max(round_up(size.div_ceil(AIM)));
        if part > LARGEST_PART {
            part = part_size.max(round_up(size.div_ceil(u64::from(MOST_PARTS))));
        }
        if part > LARGEST_PART {
            let message = format!("{size} bytes are more than 10,000 parts of 5 GiB");
            return Err(too_large(message));
        }
        if part > budget {
            let message = format!(
                "{size} bytes need parts of {part} bytes, and upload.memory_budget is {budget}"
            );
            return Err(failure("memory_budget_too_small", message));
        }
        Ok(Self {
            size: Some(size),
            first: part,
            largest: part,
        })
    }

    /// Parts for a source of unknown length: they grow, to 16 times `part_size` or to `budget`.
    pub(super) fn unknown(part_size: u64, budget: u64) -> Self {
        Self {
            size: None,
            first: part_size,
            largest: budget.min(LARGEST_PART).max(part_size),
        }
    }

    /// The bytes of a part as offsets in the object; `None` past the last. Of an unknown size, the last
    /// part is the one at which the source ends.
    pub(super) fn part(&self, number: u32) -> Option<Range<u64>> {
        if !(1..=MOST_PARTS).contains(&number) {
            return None;
        }
        match self.size {
            Some(size) => {
                let start = u64::from(number - 1) * self.first;
                (start < size).then(|| start..size.min(start + self.first))
            }
            None => {
                let (mut before, mut start) = (number - 1, 0);
                for (count, times) in GROWTH {
                    let part = (self.first * times).min(self.largest);
                    if before < count {
                        start += u64::from(before) * part;
                        return Some(start..start + part);
                    }
                    before -= count;
                    start += u64::from(count) * part;
                }
                None
            }
        }
    }

    /// The object's size, where it is known beforehand.
    pub(super) const fn size(&self) -> Option<u64> {
        self.size
    }

    /// Writes it down.
    pub(super) fn begun(
        &self,
        (bucket, key): (&str, &str),
        upload_id: String,
        source: Option<String>,
        said: SaidDigests,
    ) -> BegunUpload {
        BegunUpload {
            bucket: bucket.to_owned(),
            key: key.to_owned(),
            upload_id,
            source,
            size: self.size,
            part_size: self.first,
            largest_part: self.largest,
            said: Some(said),
            headers: Headers::default(),
        }
    }

    /// Whether an upload was begun with this very plan.
    pub(super) fn is_of(&self, begun: &BegunUpload) -> bool {
        let Self {
            size,
            first,
            largest,
        } = *self;
        (begun.size, begun.part_size, begun.largest_part) == (size, first, largest)
    }
}

/// A source that goes on past the last part.
pub(super) fn endless(bytes: u64) -> Failure {
    too_large(format!(
        "after {bytes} bytes in 10,000 parts the source goes on: raise upload.part_size or upload.memory_budget"
    ))
}

fn too_large(message: String) -> Failure {
    failure("object_too_large", message)
}

fn failure(code: &str, message: String) -> Failure {
    Failure::ours(FailureClass::JobLocal, code, message)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SMALLEST_PART: u64 = 5 * MIB;
    const TIB: u64 = 1024 * 1024 * MIB;

    fn check(plan: &Plan, size: u64) {
        let mut end = 0;
        let mut number = 0;
        while let Some(part) = plan.part(number + 1) {
            number += 1;
            assert_eq!(part.start, end, "part {number} of {size}");
            end = part.end;
            let length = part.end - part.start;
            assert!(length <= LARGEST_PART, "part {number} of {size}: {length}");
            if end < size {
                assert!(length >= SMALLEST_PART, "part {number} of {size}: {length}");
            }
        }
        assert_eq!(end, size);
        assert!(number <= MOST_PARTS, "{size}: {number} parts");
        assert_eq!(plan.part(number + 1), None);
        assert_eq!(plan.part(0), None);
    }

    proptest! {
        #[test]
        fn every_size_fits_into_s3s_limits(
            size in prop_oneof![1..TIB, 1..=5 * TIB, 1..=48 * TIB, 1..200 * MIB],
            part_size in SMALLEST_PART..=LARGEST_PART,
        ) {
            check(&Plan::known(size, part_size, u64::MAX).unwrap(), size);
        }

        #[test]
        fn parts_of_an_unknown_size_follow_each_other_and_stay_within_the_budget(
            part_size in SMALLEST_PART..=LARGEST_PART,
            budget in SMALLEST_PART..=8 * LARGEST_PART,
        ) {
            let plan = Plan::unknown(part_size, budget.max(part_size));
            let mut end = 0;
            for number in 1..=MOST_PARTS {
                let part = plan.part(number).unwrap();
                prop_assert_eq!(part.start, end);
                end = part.end;
                let length = part.end - part.start;
                prop_assert!((SMALLEST_PART..=LARGEST_PART).contains(&length));
                prop_assert!(length <= budget.max(part_size));
            }
            prop_assert_eq!(plan.part(MOST_PARTS + 1), None);
        }
    }

    #[test]
    fn the_edges_of_the_sizes_are_cut_right() {
        let part = 8 * MIB;
        for size in [
            1,
            part - 1,
            part,
            part + 1,
            AIM * part,
            AIM * part + 1,
            5 * TIB,
            AIM * LARGEST_PART,
            AIM * LARGEST_PART + 1,
            u64::from(MOST_PARTS) * LARGEST_PART,
        ] {
            check(&Plan::known(size, part, u64::MAX).unwrap(), size);
        }
        let code = |size, budget| Plan::known(size, part, budget).unwrap_err().code;
        let most = u64::from(MOST_PARTS) * LARGEST_PART;
        assert_eq!(code(most + 1, u64::MAX), "object_too_large");
        assert_eq!(code(5 * TIB, 64 * MIB), "memory_budget_too_small");
    }

    const SAID: SaidDigests = SaidDigests {
        by_job: [0; 16],
        in_all: [0; 16],
    };

    #[test]
    fn what_is_written_down_is_known_again_and_no_other_plan_is() {
        let plan = Plan::known(100 * MIB, 8 * MIB, 64 * MIB).unwrap();
        let begun = plan.begun(("b", "k"), "u".to_owned(), None, SAID);
        assert!(plan.is_of(&begun));
        for other in [
            Plan::known(100 * MIB + 1, 8 * MIB, 64 * MIB).unwrap(),
            Plan::known(100 * MIB, 9 * MIB, 64 * MIB).unwrap(),
            Plan::unknown(8 * MIB, 64 * MIB),
        ] {
            assert!(!other.is_of(&begun), "{other:?}");
        }
    }
}
