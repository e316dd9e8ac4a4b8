//! Arrays in `.npy` files: made in place and never over another file, saved whole or not at all, loaded as copies.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "opening files in place")]

mod common;
mod reexec;

use std::fs;

use common::{assert_kind, unique_name};
use ndarray::{Array, Array2, Ix1, Ix2, ShapeBuilder};
use ndshm::{ErrorKind, SharedArray};

#[test]
fn npy_files_are_made_in_place_and_never_over_another() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("in place.npy");
    let mut array = SharedArray::<i32, _>::create_npy(&file, (2, 3).f()).unwrap();
    assert_eq!(array.name(), None);
    array.write().unwrap()[[1, 2]] = -7;
    drop(array);
    // SAFETY: nobody else knows the file.
    let mut again = unsafe { SharedArray::<i32, Ix2>::open_npy(&file) }.unwrap();
    assert_eq!((again.read().unwrap().sum(), again.is_fortran()), (-7, true));
    again.write().unwrap()[[0, 0]] = 10;
    let loaded = SharedArray::<i32, Ix2>::load_npy(&file).unwrap();
    assert_eq!((loaded.read().unwrap().sum(), loaded.is_fortran()), (3, true));
    // SAFETY: nobody else knows the file.
    let mut read_only = unsafe { SharedArray::<i32, Ix2>::open_npy_read_only(&file) }.unwrap();
    assert_eq!(read_only.read().unwrap().sum(), 3);
    assert_kind(read_only.write(), ErrorKind::Permission, &[]);

    assert_kind(SharedArray::<i32, _>::create_npy(&file, 4), ErrorKind::AlreadyExists, &["in place.npy already: "]);
    assert_eq!(loaded.shape(), SharedArray::<i32, Ix2>::load_npy(&file).unwrap().shape());
    assert_kind(
        SharedArray::<i32, _>::options().name("x").create_npy(dir.path().join("b.npy"), 4),
        ErrorKind::InvalidArgument,
        &["\"x\""],
    );
    assert_kind(SharedArray::<i32, _>::create_npy(dir.path().join("no/b.npy"), 4), ErrorKind::NotFound, &["no"]);
    assert_kind(SharedArray::<i32, Ix1>::load_npy(dir.path().join("b.npy")), ErrorKind::NotFound, &["b.npy"]);

    // What is wrong with it, and which one it is.
    let shown = file.to_str().unwrap();
    assert_kind(SharedArray::<i32, Ix1>::load_npy(&file), ErrorKind::ShapeMismatch, &["2 axes", shown]);
    assert_kind(SharedArray::<f32, Ix2>::load_npy(&file), ErrorKind::TypeMismatch, &["'<i4'", shown]);
    let other = dir.path().join("other.npy");
    fs::write(&other, "a text").unwrap();
    let shown = other.to_str().unwrap();
    assert_kind(SharedArray::<i32, Ix1>::load_npy(&other), ErrorKind::Layout, &["NUMPY", shown]);
    // SAFETY: nobody else knows the file.
    assert_kind(unsafe { SharedArray::<i32, Ix1>::open_npy(&other) }, ErrorKind::Layout, &["NUMPY", shown]);
    fs::remove_file(&other).unwrap();
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);
}

#[test]
fn saving_replaces_a_file_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("saved.npy");
    fs::write(&file, "something else").unwrap();
    let expected = Array::from_shape_fn((3, 2), |(i, j)| i as f64 - j as f64);
    let in_order = SharedArray::from_array(&expected).unwrap();
    let transposed = SharedArray::from_array(&expected.t()).unwrap();
    assert!(transposed.is_fortran());
    for array in [in_order, transposed] {
        array.save_npy(&file).unwrap();
        let named = SharedArray::<f64, Ix2>::options().name(unique_name("loaded")).load_npy(&file).unwrap();
        assert_eq!(*named.read().unwrap(), *array.read().unwrap());
        assert_eq!((named.is_fortran(), named.name().is_some()), (array.is_fortran(), true));
        let read: Array2<f64> = ndarray_npy::read_npy(&file).unwrap();
        assert_eq!(read, *array.read().unwrap());
    }
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 1);

    // A directory can't be replaced by a file: the temporary one goes again.
    let taken = dir.path().join("taken");
    fs::create_dir(&taken).unwrap();
    assert!(SharedArray::<u8, _>::zeros(3).unwrap().save_npy(&taken).is_err());
    assert_eq!(fs::read_dir(&dir).unwrap().count(), 2);
}

#[test]
fn saving_takes_no_memory_for_what_was_never_touched() {
    if reexec::role().is_none() {
        reexec::with_own_shm("size=8m", "saving_takes_no_memory_for_what_was_never_touched", "child");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sparse.npy");
    // Twice what there is room for.
    let mut sparse =
        SharedArray::<u8, _>::options().reserve(ndshm::Reserve::Lazily).name("sparse").zeros(16 << 20).unwrap();
    sparse.write().unwrap()[12 << 20] = 7;
    sparse.save_npy(&file).unwrap();
    let loaded = SharedArray::<u8, Ix1>::load_npy(&file).unwrap();
    let guard = loaded.read().unwrap();
    assert_eq!((guard[12 << 20], guard.iter().map(|&x| u64::from(x)).sum::<u64>()), (7, 7));
}

#[test]
fn a_file_that_was_cut_short_is_saved_as_an_error_and_not_as_a_bus_error() {
    let dir = tempfile::tempdir().unwrap();
    let (file, copy) = (dir.path().join("cut.npy"), dir.path().join("copy.npy"));
    SharedArray::<u8, _>::from_elem(100_000, 1).unwrap().save_npy(&file).unwrap();
    // SAFETY: nobody else knows the file.
    let array = unsafe { SharedArray::<u8, Ix1>::open_npy(&file) }.unwrap();
    fs::OpenOptions::new().write(true).open(&file).unwrap().set_len(50_000).unwrap();
    assert_kind(array.save_npy(&copy), ErrorKind::Layout, &["cut.npy", "cut short"]);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
