//! Where a task panicked: the panic hook sees the place, `catch_unwind` only the payload.

use std::cell::RefCell;

thread_local! {
    static PLACE: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Notes the place of every panic from here on, and then does what was done before.
pub(super) fn record() {
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let place = info.location().map(ToString::to_string);
        // A panic while the thread's storage goes away has nobody to tell.
        let _ = PLACE.try_with(|slot| *slot.borrow_mut() = place);
        before(info);
    }));
}

/// There was no panic yet that anybody asks for.
pub(super) fn forget_place() {
    if PLACE.with_borrow(Option::is_some) {
        PLACE.take();
    }
}

/// The place of the last panic of this thread.
pub(super) fn take_place() -> Option<String> {
    PLACE.take()
}
