//! Crash points: the steps between delivery and ack at which a test has the process die, or the task panic.
//!
//! With the cargo feature `failpoints` the process aborts at the point that `BRIGADE_TEST_CRASH_AT` names,
//! as `NAME` or `NAME:HITS`, when it is reached for that many times; `BRIGADE_TEST_PANIC_AT` names one at which
//! the task panics likewise. Without the feature a point is no code
//! at all. Not the crate `fail`: it brings a registry, a language of actions and three crates for one abort.
//! `tests/it/crash.rs` has the table of all points and fails when it and the source differ.

/// A step at which the process may die.
#[cfg(not(feature = "failpoints"))]
macro_rules! crash_point {
    ($name:literal) => {};
}

/// A step at which the process may die.
#[cfg(feature = "failpoints")]
macro_rules! crash_point {
    ($name:literal) => {
        $crate::crash::reached($name)
    };
}

#[cfg(all(test, feature = "failpoints"))]
pub(crate) use armed::in_this_test::{disarm, panic_at};
#[cfg(feature = "failpoints")]
pub(crate) use armed::reached;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    /// A point that is armed, and how often it is still to be reached.
    type Armed = LazyLock<Option<(String, AtomicU32)>>;

    static CRASH: Armed = LazyLock::new(|| armed("BRIGADE_TEST_CRASH_AT"));
    static PANIC: Armed = LazyLock::new(|| armed("BRIGADE_TEST_PANIC_AT"));

    fn armed(variable: &str) -> Option<(String, AtomicU32)> {
        #[expect(
            clippy::disallowed_methods,
            reason = "no setting: only a test build knows it, and only a test sets it"
        )]
        let armed = std::env::var(variable).ok()?;
        let (name, hits) = armed.split_once(':').unwrap_or((&armed, "1"));
        Some((name.to_owned(), AtomicU32::new(hits.parse().ok()?)))
    }

    fn is_hit(armed: &Armed, name: &str) -> bool {
        armed
            .as_ref()
            .is_some_and(|(armed, left)| armed == name && left.fetch_sub(1, Ordering::Relaxed) == 1)
    }

    /// Dies or panics here if this is the point and the hit.
    pub(crate) fn reached(name: &str) {
        if is_hit(&CRASH, name) {
            crate::terminal::say(format_args!("crash point {name}"));
            std::process::abort();
        }
        assert!(!is_hit(&PANIC, name), "crash point {name}");
        #[cfg(test)]
        in_this_test::reached(name);
    }

    /// Points that a unit test arms for its own thread.
    #[cfg(test)]
    pub(crate) mod in_this_test {
        use std::cell::RefCell;

        thread_local! {
            static PANICS: RefCell<Vec<&'static str>> = const { RefCell::new(Vec::new()) };
        }

        /// The next task that reaches the point panics there, once for each call.
        pub(crate) fn panic_at(name: &'static str) {
            PANICS.with_borrow_mut(|armed| armed.push(name));
        }

        /// Takes every point back that was armed and not reached; returns which.
        pub(crate) fn disarm() -> Vec<&'static str> {
            PANICS.take()
        }

        pub(super) fn reached(name: &str) {
            let hit = PANICS.with_borrow_mut(|armed| {
                let found = armed.iter().position(|point| *point == name);
                found.map(|index| armed.remove(index))
            });
            assert!(hit.is_none(), "crash point {name}");
        }
    }
}
