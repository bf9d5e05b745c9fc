//! Crash points: the steps between delivery and ack at which a test has the process die.
//!
//! With the cargo feature `failpoints` the process aborts at the point that `BRIGADE_TEST_CRASH_AT` names,
//! as `NAME` or `NAME:HITS`, when it is reached for that many times. Without the feature a point is no code
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

#[cfg(feature = "failpoints")]
pub(crate) use armed::reached;

#[cfg(feature = "failpoints")]
mod armed {
    use std::sync::{
        LazyLock,
        atomic::{AtomicU32, Ordering},
    };

    /// The point that is armed, and how often it is still to be reached.
    static ARMED: LazyLock<Option<(String, AtomicU32)>> = LazyLock::new(|| {
        #[expect(
            clippy::disallowed_methods,
            reason = "no setting: only a test build knows it, and only a test sets it"
        )]
        let armed = std::env::var("BRIGADE_TEST_CRASH_AT").ok()?;
        let (name, hits) = armed.split_once(':').unwrap_or((&armed, "1"));
        Some((name.to_owned(), AtomicU32::new(hits.parse().ok()?)))
    });

    /// Dies here if this is the point and the hit.
    pub(crate) fn reached(name: &str) {
        if let Some((armed, left)) = &*ARMED
            && armed == name
            && left.fetch_sub(1, Ordering::Relaxed) == 1
        {
            crate::terminal::say(format_args!("crash point {name}"));
            std::process::abort();
        }
    }
}
