//! Where a task panicked: the panic hook sees the place, `catch_unwind` only the payload.

use std::cell::{Cell, RefCell};

thread_local! {
    /// Whether there is a place: to look at this costs next to nothing.
    static PANICKED: Cell<bool> = const { Cell::new(false) };
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes the place of every panic from here on, and then does what was done before.
pub(super) fn record() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string);
        // A panic while the thread's storage goes away has nobody to tell.
        let _ = PLACE.try_with(|slot| *slot.borrow_mut() = place);
        PANICKED.set(true);
        before(info);
    }));
}

/// There was no panic yet that anybody asks for.
#[inline]
pub(super) fn forget_place() {
    if PANICKED.get() {
        drop_place();
    }
}

#[cold]
fn drop_place() {
    take_place();
}

/// The place of the last panic of this thread.
#[cold]
pub(super) fn take_place() -> Option<String> {
    PANICKED.set(false);
    PLACE.take()
}
