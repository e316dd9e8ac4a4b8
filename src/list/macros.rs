//! `shareable_list!`.

/// Creates a [`ShareableList`](crate::ShareableList) of values of different types, as
/// [`ShareableList::new`](crate::ShareableList::new) does for those of one type. `None` stands for Python's.
///
/// # Errors
///
/// It is a `Result`, as for [`ShareableList::new`](crate::ShareableList::new).
///
/// # Examples
///
/// ```
/// use ndshm::{Value, shareable_list};
///
/// let list = shareable_list![1, 2.5, "abc", b"xyz", true, None]?;
/// assert_eq!(list.len(), 6);
/// assert_eq!(list.get(3)?, Value::from(b"xyz"));
/// assert_eq!(list.get(5)?, Value::None);
/// assert!(shareable_list![]?.is_empty());
/// # Ok::<(), ndshm::Error>(())
/// ```
#[macro_export]
macro_rules! shareable_list {
    ($($value:expr),* $(,)?) => {{
        #[allow(unused_imports, reason = "not every list has a None")]
        use $crate::Value::None;
        $crate::ShareableList::new::<$crate::Value>([$($crate::Value::from($value)),*])
    }};
}
