//! Panics of a run: armed by its schedule, and kept from the terminal.

use std::{
    cell::{Cell, RefCell},
    sync::Once,
};

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
    static TEXTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// From now on this thread's panics are noted and not printed.
pub(super) fn begin() {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let loud = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                return loud(panic);
            }
            let text = panic.payload_as_str().unwrap_or("?").to_owned();
            let place = panic.location().map(ToString::to_string);
            let text = format!("{text} ({})", place.unwrap_or_default());
            TEXTS.with_borrow_mut(|texts| texts.push(text));
        }));
    });
    QUIET.set(true);
    TEXTS.take();
}

/// The thread's panics are printed again; gives those that were noted.
pub(super) fn end() -> Vec<String> {
    QUIET.set(false);
    #[cfg(feature = "failpoints")]
    crate::crash::disarm();
    TEXTS.take()
}

/// Whether there was any.
pub(super) fn any() -> bool {
    TEXTS.with_borrow(|texts| !texts.is_empty())
}

/// How many.
pub(super) fn count() -> u64 {
    TEXTS.with_borrow(|texts| texts.len() as u64)
}

/// The next task that reaches the point panics.
pub(super) fn arm(point: &'static str) {
    #[cfg(feature = "failpoints")]
    crate::crash::panic_at(point);
    #[cfg(not(feature = "failpoints"))]
    let _ = point;
}

/// What is armed and was not reached is armed no longer.
pub(super) fn disarm() {
    #[cfg(feature = "failpoints")]
    drop(crate::crash::disarm());
}
