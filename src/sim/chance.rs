//! Chance that a seed decides: the same numbers in every run, on every machine.

/// Numbers drawn in order.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// Of one thing's own: the `nth` time that it is asked about. What else happens in a run does not change it, so a
    /// schedule stays itself when parts of it are left out.
    pub(super) fn of(seed: u64, what: &str, nth: u64) -> Self {
        let mut hash = 0xcbf2_9ce4_8422_2325_u64;
        for byte in what.bytes() {
            hash = (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
        let mut chance =
            Self(seed ^ hash.rotate_left(17) ^ nth.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        chance.next();
        chance
    }

    /// `SplitMix64`, by its published constants.
    pub(super) const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From `least` to `most`, both included.
    pub(super) const fn between(&mut self, least: u64, most: u64) -> u64 {
        least + self.next() % (most - least + 1)
    }

    pub(super) const fn permille(&mut self, permille: u64) -> bool {
        self.next() % 1000 < permille
    }

    pub(super) fn pick<T: Clone>(&mut self, choices: &[T]) -> T {
        let index = self.between(0, choices.len() as u64 - 1);
        choices[index as usize].clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_gives_the_same_numbers_and_another_seed_others() {
        let draw = |seed| {
            let mut chance = Chance::new(seed);
            [(); 4].map(|()| chance.between(0, 1_000_000))
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
        let of = |what, nth| Chance::of(7, what, nth).next();
        assert_eq!(of("u-1", 3), of("u-1", 3));
        assert!(of("u-1", 3) != of("u-1", 4) && of("u-1", 3) != of("u-2", 3));
    }
}
