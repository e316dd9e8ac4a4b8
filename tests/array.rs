//! Every way to make an array gives the shape, order and elements that were asked for; what cannot be an array is an
//! error that says why and leaves nothing behind.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching, and the marker traits of an over-aligned type")]

mod common;

use std::fs;
use std::marker::PhantomData;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use bytemuck::{Pod, Zeroable};
use common::{BlocksLeft, assert_kind, unique_name};
use ndarray::{Array, ArrayD, Axis, Dimension, Ix0, Ix1, Ix2, Ix3, IxDyn, ShapeBuilder, arr0, s};
use ndshm::{ErrorKind, FrozenArray, HugePages, ReadGuard, Reserve, SharedArray, SharedMemory, WriteGuard};

/// What one process may see of another one's array is what a second handle of its own sees.
fn attach<T: Pod, D: Dimension>(name: &str) -> ndshm::Result<SharedArray<T, D>> {
    // SAFETY: only these tests know the name, they write through guards, and nobody cuts the block short.
    unsafe { SharedArray::attach(name) }
}

fn path(name: &str) -> PathBuf {
    Path::new("/dev/shm").join(name)
}

#[test]
fn zeros_from_elem_and_from_shape_fn_give_what_ndarray_gives() {
    let zeros = SharedArray::<f64, _>::zeros((3, 4)).unwrap();
    assert_eq!(*zeros.read().unwrap(), Array::<f64, _>::zeros((3, 4)));
    let sevens = SharedArray::from_elem((2, 5), 7_i16).unwrap();
    assert_eq!(*sevens.read().unwrap(), Array::from_elem((2, 5), 7_i16));
    let index = |(i, j)| (10 * i + j) as u32;
    for fortran in [false, true] {
        let made = SharedArray::from_shape_fn((3, 4).set_f(fortran), index).unwrap();
        assert_eq!(*made.read().unwrap(), Array::from_shape_fn((3, 4).set_f(fortran), index));
        assert_eq!(made.is_fortran(), fortran);
    }
    let mut order = Vec::new();
    SharedArray::from_shape_fn((2, 2).f(), |at| {
        order.push(at);
        0_u8
    })
    .unwrap();
    assert_eq!(order, [(0, 0), (0, 1), (1, 0), (1, 1)]);
}

#[test]
fn from_array_copies_any_array_or_view_and_keeps_its_order() {
    let array = Array::from_shape_fn((4, 6), |(i, j)| (10 * i + j) as i32);
    let shared = SharedArray::from_array(&array).unwrap();
    assert_eq!((&*shared.read().unwrap(), shared.is_fortran()), (&*array, false));

    let transposed = SharedArray::from_array(&array.t()).unwrap();
    assert_eq!((&*transposed.read().unwrap(), transposed.is_fortran()), (&*array.t(), true));

    let slice = array.slice(s![1..;2, ..;-1]);
    let sliced = SharedArray::from_array(&slice).unwrap();
    assert_eq!((&*sliced.read().unwrap(), sliced.is_fortran()), (&*slice, false));

    let scalar = SharedArray::from_array(&arr0(2.5)).unwrap();
    assert_eq!(scalar.read().unwrap()[()], 2.5);
}

#[test]
fn arrays_of_0_to_6_axes_are_laid_out_in_either_order() {
    fn check<D: Dimension>(shape: &D) {
        for fortran in [false, true] {
            // In logical order, whatever the order in memory is.
            let mut expected = Array::zeros(shape.clone().set_f(fortran));
            (1_u16..).zip(&mut expected).for_each(|(number, element)| *element = number);
            let name = unique_name("rank");
            let options = SharedArray::<u16, D>::options().name(&name);
            let mut numbers = 1_u16..;
            let next = |_| numbers.next().unwrap();
            let array = options.from_shape_fn(shape.clone().set_f(fortran), next).unwrap();
            assert_eq!(*array.read().unwrap(), *expected);
            assert_eq!((array.shape(), array.ndim(), array.len()), (shape.slice(), shape.ndim(), shape.size()));
            assert_eq!((array.raw_dim(), array.nbytes(), array.is_empty()), (shape.clone(), 2 * shape.size(), false));
            assert_eq!(array.read().unwrap().strides(), expected.strides());
            assert_eq!(array.is_fortran(), fortran && shape.ndim() > 1);

            let again = attach::<u16, D>(&name).unwrap();
            assert_eq!(*again.read().unwrap(), *expected);
            let dynamic = attach::<u16, IxDyn>(&name).unwrap();
            assert_eq!(*dynamic.read().unwrap(), *expected.into_dyn());
            assert_eq!(dynamic.ndim(), shape.ndim());
        }
    }
    check(&Ix0());
    check(&Ix1(5));
    check(&Ix2(2, 3));
    check(&Ix3(4, 2, 3));
    check(&ndarray::Ix4(2, 3, 1, 4));
    check(&ndarray::Ix5(2, 3, 1, 4, 2));
    check(&ndarray::Ix6(2, 1, 3, 2, 1, 4));
    check(&IxDyn(&[2, 3]));
    check(&IxDyn(&[2, 1, 2, 1, 2, 1, 2, 3]));
}

#[test]
fn axes_of_length_0_hold_nothing_and_attach_like_others() {
    let name = unique_name("zero-length");
    let left = BlocksLeft::watch([&name]);
    for shape in [vec![0], vec![0, 5], vec![3, 0], vec![2, 0, 4], vec![0, 0, 0]] {
        for fortran in [false, true] {
            let options = SharedArray::<f32, IxDyn>::options().name(&name);
            let mut array = options.from_elem(IxDyn(&shape).set_f(fortran), 1.0).unwrap();
            assert_eq!((array.shape(), array.len(), array.is_empty(), array.nbytes()), (&*shape, 0, true, 0));
            array.write().unwrap().fill(2.0);
            let again = attach::<f32, IxDyn>(&name).unwrap();
            assert_eq!(again.read().unwrap().shape(), shape);
            assert_eq!(again.read().unwrap().sum(), 0.0);
            let frozen = SharedArray::<f32, _>::zeros(IxDyn(&shape)).unwrap().freeze().unwrap();
            assert_eq!(frozen.view().shape(), shape);
        }
    }
    left.assert_gone();
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Particle {
    position: [f64; 3],
    id: u32,
    charge: i32,
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(4096))]
struct Page([u8; 4096]);

#[test]
fn elements_may_be_structs_of_ones_own() {
    let name = unique_name("struct");
    let make = |i: usize| Particle { position: [i as f64; 3], id: i as u32, charge: -1 };
    let mut particles = SharedArray::options().name(&name).from_shape_fn(100, make).unwrap();
    assert_eq!((particles.dtype().descr(), particles.dtype().item_size()), ("|V32", 32));
    particles.write().unwrap()[7].charge = 3;
    let again = attach::<Particle, Ix1>(&name).unwrap();
    let guard = again.read().unwrap();
    assert_eq!((guard[99], guard[7].charge), (make(99), 3));
}

#[test]
fn elements_may_be_aligned_to_a_page() {
    let name = unique_name("page");
    let array = SharedArray::<Page, _>::options().name(&name).from_elem(3, Page([5; 4096])).unwrap();
    let again = attach::<Page, Ix1>(&name).unwrap();
    assert_eq!(again.read().unwrap()[2], Page([5; 4096]));
    assert!(array.read().unwrap().as_ptr().is_aligned());
}

#[derive(Clone, Copy, Debug)]
#[repr(C, align(8192))]
struct TooAligned([u8; 8192]);

// SAFETY: zero bytes are an array of zeros.
unsafe impl Zeroable for TooAligned {}
// SAFETY: an array of bytes that fills the type: no padding, any bits, `Copy`, 'static, no pointers, repr(C).
unsafe impl Pod for TooAligned {}

#[test]
fn elements_that_no_block_can_hold_are_refused_everywhere() {
    fn check<T: Pod>(words: &[&str]) {
        let name = unique_name("element");
        let left = BlocksLeft::watch([&name]);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("new.npy");
        let kind = ErrorKind::TypeMismatch;
        assert_kind(SharedArray::<T, _>::zeros(3), kind, words);
        assert_kind(SharedArray::<T, _>::zeros(0), kind, words);
        assert_kind(SharedArray::from_elem((2, 2), T::zeroed()), kind, words);
        assert_kind(SharedArray::from_shape_fn(2, |_| T::zeroed()), kind, words);
        assert_kind(SharedArray::<T, _>::options().name(&name).zeros(3), kind, words);
        assert_kind(SharedArray::<T, _>::create_npy(&file, 3), kind, words);
        assert_kind(SharedArray::<T, _>::fill_with(3, |_| Ok::<_, ndshm::Error>(())), kind, words);
        let memory = SharedMemory::anonymous(1 << 16).unwrap();
        // SAFETY: nobody else has this block.
        assert_kind(unsafe { SharedArray::<T, _>::from_memory(memory, 0, 2) }, kind, words);
        let bytes = SharedArray::<u8, _>::options().name(&name).zeros(1 << 16).unwrap();
        assert_kind(attach::<T, Ix1>(&name), kind, &["'|u1'"]);
        drop(bytes);
        left.assert_gone();
        assert!(fs::read_dir(&dir).unwrap().next().is_none());
    }
    check::<()>(&["no bytes"]);
    check::<[f64; 0]>(&["no bytes"]);
    check::<TooAligned>(&["TooAligned", "8192", "4096"]);
}

#[test]
fn shapes_that_no_memory_can_hold_are_refused_with_a_zero_axis_too() {
    let max = isize::MAX as usize;
    let name = unique_name("overflow");
    for shape in [
        vec![usize::MAX],
        vec![max / 8 + 1],
        vec![1 << 32, 1 << 32],
        vec![usize::MAX, usize::MAX, usize::MAX],
        vec![0, max],
        vec![1 << 40, 0, 1 << 40],
        vec![usize::MAX, 0],
    ] {
        let words = &[&*format!("{shape:?}")];
        for fortran in [false, true] {
            let shape = || IxDyn(&shape).set_f(fortran);
            assert_kind(SharedArray::<f64, _>::zeros(shape()), ErrorKind::InvalidSize, words);
            let options = SharedArray::<f64, _>::options().name(&name).reserve(Reserve::Lazily);
            assert_kind(options.from_elem(shape(), 1.0), ErrorKind::InvalidSize, words);
            let memory = SharedMemory::anonymous(8192).unwrap();
            // SAFETY: nobody else has this block.
            let headerless = unsafe { SharedArray::<f64, _>::from_memory(memory, 0, shape()) };
            assert_kind(headerless, ErrorKind::InvalidSize, words);
        }
    }
    assert!(!path(&name).exists());
    // Just an axis of 0 is no excuse, and no obstacle either.
    assert_eq!(SharedArray::<u8, _>::zeros((0, 1 << 40)).unwrap().shape(), [0, 1 << 40]);
}

#[test]
fn more_than_32_axes_are_refused() {
    assert_kind(SharedArray::<u8, _>::zeros(IxDyn(&[1; 33])), ErrorKind::InvalidArgument, &["33 axes", "at most 32"]);
    let array = SharedArray::<u8, _>::from_elem(IxDyn(&[1; 32]), 3).unwrap();
    assert_eq!((array.ndim(), array.read().unwrap().sum()), (32, 3));
}

#[test]
fn what_does_not_fit_is_an_error_when_it_is_made() {
    assert_kind(SharedArray::<u8, _>::zeros((1 << 31, 1 << 20)), ErrorKind::NoSpace, &["free"]);
}

#[test]
fn fill_with_shows_zeros_and_gives_the_name_last() {
    let name = unique_name("fill");
    let file = path(&name);
    let array = SharedArray::<u64, _>::options()
        .name(&name)
        .fill_with((2, 3).f(), |mut view| {
            assert!(view.iter().all(|&x| x == 0));
            assert!(!file.exists(), "nobody sees it half filled");
            view.row_mut(1).fill(4);
            Ok::<_, ndshm::Error>(())
        })
        .unwrap();
    assert!(file.exists());
    assert_eq!((array.read().unwrap().sum(), array.is_fortran()), (12, true));
    assert_eq!(attach::<u64, Ix2>(&name).unwrap().read().unwrap().sum(), 12);
}

#[test]
fn fill_with_leaves_nothing_where_the_closure_fails_or_panics() {
    let name = unique_name("fill-fails");
    let left = BlocksLeft::watch([&name]);
    let descriptors = || fs::read_dir("/proc/self/fd").unwrap().count();
    let options = || SharedArray::<u64, Ix1>::options().name(&name);

    let failed = options().fill_with(5, |mut view| {
        view[0] = 1;
        Err(std::io::Error::other("the sensor is off"))
    });
    assert_eq!(failed.unwrap_err().to_string(), "the sensor is off");
    left.assert_gone();

    // An error of ours becomes one of theirs.
    let failed: std::io::Error = options().fill_with(usize::MAX, |_| Ok(())).unwrap_err();
    assert_eq!(failed.kind(), std::io::ErrorKind::InvalidInput);

    let panicked = catch_unwind(AssertUnwindSafe(|| {
        options().fill_with(5, |_| -> ndshm::Result<()> { std::panic::resume_unwind(Box::new("no")) })
    }));
    assert!(panicked.is_err());
    left.assert_gone();

    // Other tests of this file come and go, so what matters is that it does not grow with the number of failures.
    let before = descriptors();
    for _ in 0..200 {
        let _ = options().fill_with(5, |_| Err::<(), _>(SharedMemory::create(0).unwrap_err()));
    }
    assert!(descriptors() < before + 100);
    assert_eq!(options().zeros(5).unwrap().len(), 5, "the name is free");
}

#[test]
fn a_named_array_is_removed_with_its_maker_unless_it_is_kept() {
    let name = unique_name("named");
    let array = SharedArray::<i8, _>::options().name(&name).from_elem(3, 5).unwrap();
    assert_eq!(array.name(), Some(&*name));
    assert_kind(SharedArray::<i8, _>::options().name(&name).zeros(3), ErrorKind::AlreadyExists, &[&name]);
    let attached = attach::<i8, Ix1>(&name).unwrap();
    drop(attach::<i8, Ix1>(&name).unwrap());
    assert!(path(&name).exists(), "who attached removes nothing");
    drop(array);
    assert_kind(attach::<i8, Ix1>(&name), ErrorKind::NotFound, &[&name]);
    assert_eq!(attached.read().unwrap().to_vec(), [5, 5, 5]);

    let mut kept = SharedArray::<i8, _>::options().name(&name).zeros(3).unwrap();
    kept.keep();
    drop(kept);
    let mut later = attach::<i8, Ix1>(&name).unwrap();
    later.unlink().unwrap();
    assert_eq!(later.name(), None);
    assert_kind(later.unlink(), ErrorKind::NotFound, &[]);
    assert_eq!(later.read().unwrap().len(), 3);
    assert_eq!(SharedArray::<i8, _>::zeros(3).unwrap().name(), None);
}

#[test]
fn bad_names_are_refused() {
    for name in ["", ".", "..", "a/b", "a\0b", &"x".repeat(256)] {
        assert_kind(SharedArray::<u8, _>::options().name(name).zeros(3), ErrorKind::InvalidName, &[]);
        assert_kind(attach::<u8, Ix1>(name), ErrorKind::InvalidName, &[]);
    }
}

#[test]
fn guards_compare_as_their_elements_do() {
    let expected = Array::from_shape_fn((2, 3), |(i, j)| 3 * i + j);
    let mut one = SharedArray::from_array(&expected).unwrap();
    let other = SharedArray::from_array(&expected.t()).unwrap();
    assert_eq!(one.read().unwrap(), one.read().unwrap());
    assert_eq!(one.read().unwrap(), expected);
    assert_eq!(one.read().unwrap(), expected.view());
    assert_eq!(one.read().unwrap(), *other.read().unwrap().t());
    assert_ne!(one.read().unwrap(), other.read().unwrap(), "of another shape");
    let same = SharedArray::from_array(&expected).unwrap();
    let mut guard = one.write().unwrap();
    assert_eq!(guard, same.read().unwrap());
    guard[[1, 1]] += 1;
    assert_ne!(guard, same.read().unwrap());
    assert_ne!(guard, expected);
}

#[test]
fn options_reach_the_block() {
    let name = unique_name("options");
    let size = 1 << 20;
    let metadata = || fs::metadata(path(&name)).unwrap();
    let options = || SharedArray::<u8, Ix1>::options().name(&name);

    let array = options().zeros(size).unwrap();
    assert_eq!(metadata().permissions().mode() & 0o7777, 0o600);
    assert!(metadata().blocks() * 512 > size as u64, "reserved");
    drop(array);
    let array = options().mode(0o640).reserve(Reserve::Lazily).zeros(size).unwrap();
    assert_eq!(metadata().permissions().mode() & 0o7777, 0o640);
    assert!(metadata().blocks() * 512 < 1 << 16, "only header and trailer");
    drop(array);
    let array = options().reserve(Reserve::Lazily).populate(true).zeros(size).unwrap();
    assert!(metadata().blocks() * 512 > size as u64);
    drop(array);
    let array = options().huge_pages(HugePages::Try).core_dump(true).zeros(4 << 20).unwrap();
    assert_eq!(array.read().unwrap().as_ptr().addr() % (2 << 20), 4096, "the block starts at a huge page");
    let printed = format!("{:?}", options().mode(0o640));
    assert!(printed.contains(&name) && printed.contains("416"), "{printed}");
}

#[test]
fn another_type_or_rank_is_an_error_that_names_both() {
    let name = unique_name("mismatch");
    let array = SharedArray::<f32, _>::options().name(&name).zeros((3, 4)).unwrap();
    let type_words = ["'<f4'", "'<f8'", "`f64`"];
    assert_kind(attach::<f64, Ix2>(&name), ErrorKind::TypeMismatch, &type_words);
    assert_kind(attach::<u32, Ix2>(&name), ErrorKind::TypeMismatch, &["'<f4'", "'<u4'"]);
    assert_kind(attach::<[u8; 4], Ix2>(&name), ErrorKind::TypeMismatch, &["'<f4'", "'|V4'"]);
    let rank_words = ["2 axes", "[3, 4]", "expected 3 axes"];
    assert_kind(attach::<f32, Ix3>(&name), ErrorKind::ShapeMismatch, &rank_words);
    assert_kind(attach::<f32, Ix1>(&name), ErrorKind::ShapeMismatch, &["2 axes", "expected 1 axis", &name]);
    assert_kind(attach::<f32, Ix0>(&name), ErrorKind::ShapeMismatch, &["2 axes", "expected 0 axes"]);
    // SAFETY: as in `attach`.
    assert_kind(unsafe { SharedArray::<f64, Ix2>::attach_read_only(&name) }, ErrorKind::TypeMismatch, &type_words);

    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("mismatch.npy");
    array.save_npy(&file).unwrap();
    assert_kind(SharedArray::<f64, Ix2>::load_npy(&file), ErrorKind::TypeMismatch, &type_words);
    assert_kind(SharedArray::<f32, Ix3>::load_npy(&file), ErrorKind::ShapeMismatch, &rank_words);
    // SAFETY: nobody else knows the file.
    assert_kind(unsafe { SharedArray::<f64, Ix2>::open_npy(&file) }, ErrorKind::TypeMismatch, &type_words);
    // SAFETY: nobody else knows the file.
    assert_kind(unsafe { SharedArray::<f32, Ix3>::open_npy(&file) }, ErrorKind::ShapeMismatch, &rank_words);
}

#[test]
fn a_read_only_handle_sees_writes_and_refuses_to_write() {
    let name = unique_name("read-only");
    let mut array = SharedArray::<u16, _>::options().name(&name).zeros(4).unwrap();
    // SAFETY: as in `attach`.
    let mut reader = unsafe { SharedArray::<u16, Ix1>::attach_read_only(&name) }.unwrap();
    assert!(reader.is_read_only() && !array.is_read_only());
    array.write().unwrap()[2] = 9;
    assert_eq!(reader.read().unwrap()[2], 9);
    assert_kind(reader.write(), ErrorKind::Permission, &["read-only"]);
    assert_kind(reader.clear_poison(), ErrorKind::Permission, &["read-only"]);
    let failed = reader.freeze().unwrap_err();
    assert_eq!(failed.error().kind(), ErrorKind::Permission);
    assert_eq!(failed.into_array().unwrap().read().unwrap()[2], 9);
}

#[test]
fn memory_without_a_header_is_an_array_where_it_fits_and_is_aligned() {
    let memory = |bytes: usize| {
        let memory = SharedMemory::anonymous(bytes).unwrap();
        memory.write_at(0, &(0..bytes).map(|i| i as u8).collect::<Vec<_>>()).unwrap();
        memory
    };
    // SAFETY: nobody else has these blocks.
    let from = |bytes, offset, shape| unsafe { SharedArray::<u32, Ix2>::from_memory(memory(bytes), offset, shape) };
    let mut array = from(24, 0, (2, 3)).unwrap();
    assert_eq!(array.read().unwrap()[[1, 0]], u32::from_le_bytes([12, 13, 14, 15]));
    array.write().unwrap()[[1, 2]] = 1;
    assert_eq!(from(24, 20, (1, 1)).unwrap().read().unwrap()[[0, 0]], u32::from_le_bytes([20, 21, 22, 23]));
    assert_eq!(from(24, 24, (0, 7)).unwrap().shape(), [0, 7]);

    // SAFETY: nobody else has this block.
    let fortran = unsafe { SharedArray::<u32, _>::from_memory(memory(24), 0, (2, 3).f()) }.unwrap();
    assert!(fortran.is_fortran());
    assert_eq!(fortran.read().unwrap()[[1, 0]], u32::from_le_bytes([4, 5, 6, 7]));

    for offset in [1, 2, 3, 5, 4097] {
        let words = [&*format!("byte {offset}"), "u32", "aligned to 4"];
        assert_kind(from(8192, offset, (1, 1)), ErrorKind::Layout, &words);
    }
    for (bytes, offset, shape) in
        [(23, 0, (2, 3)), (24, 4, (2, 3)), (24, 28, (0, 1)), (24, usize::MAX, (1, 1)), (24, usize::MAX - 3, (1, 1))]
    {
        let words = [&*format!("offset {offset} of {bytes} bytes"), "4 bytes an element"];
        assert_kind(from(bytes, offset, shape), ErrorKind::InvalidSize, &words);
    }
}

#[test]
fn an_array_from_memory_owns_what_the_memory_owned() {
    let name = unique_name("from-memory");
    let memory = SharedMemory::create_named(&name, 64).unwrap();
    // SAFETY: nobody else knows the name.
    let array = unsafe { SharedArray::<u8, _>::from_memory(memory, 0, 64) }.unwrap();
    assert_eq!(array.name(), Some(&*name));
    assert!(path(&name).exists());
    drop(array);
    assert!(!path(&name).exists());

    let memory = SharedMemory::create_named(&name, 64).unwrap();
    // SAFETY: nobody else knows the name.
    let refused = unsafe { SharedArray::<u8, _>::from_memory(memory, 0, 65) };
    assert_kind(refused, ErrorKind::InvalidSize, &[]);
    assert!(!path(&name).exists());
}

#[test]
fn each_guard_has_a_layout_of_its_own() {
    let mut array = SharedArray::<u8, _>::from_shape_fn((2, 3), |(i, j)| (3 * i + j) as u8).unwrap();
    let expected = array.read().unwrap().to_owned();
    {
        let mut guard = array.write().unwrap();
        guard.swap_axes(0, 1);
        guard.invert_axis(Axis(0));
        assert_eq!(guard.shape(), [3, 2]);
    }
    assert_eq!(array.shape(), [2, 3]);
    assert_eq!(*array.read().unwrap(), expected);
}

#[test]
fn arrays_and_guards_print() {
    let name = unique_name("print");
    let mut array = SharedArray::<i32, _>::options().name(&name).from_elem((1, 2), 41).unwrap();
    let printed = format!("{array:?}");
    for word in [&*name, "i32", "[1, 2]"] {
        assert!(printed.contains(word), "`{word}` is missing in {printed}");
    }
    let guard = array.read().unwrap();
    assert_eq!(format!("{guard}"), "[[41, 41]]");
    assert!(format!("{guard:?}").contains("[[41, 41]], shape=[1, 2]"));
    drop(guard);
    let guard = array.write().unwrap();
    assert_eq!(format!("{guard}"), "[[41, 41]]");
    assert!(format!("{guard:?}").contains("[[41, 41]], shape=[1, 2]"));
    drop(guard);
    let frozen = SharedArray::<i32, _>::from_elem(2, 41).unwrap().freeze().unwrap();
    assert!(format!("{frozen:?}").contains("[2]"));
    let failed = array.freeze().unwrap_err();
    assert!(format!("{failed:?} {failed}").contains("cannot be frozen"));
}

#[test]
fn arrays_go_between_threads() {
    fn send_and_sync<T: Send + Sync + 'static>() {}
    send_and_sync::<SharedArray<f64, Ix2>>();
    send_and_sync::<SharedArray<Particle, IxDyn>>();
    send_and_sync::<FrozenArray<f64, Ix2>>();
    send_and_sync::<ndshm::FreezeError<f64, Ix2>>();
    send_and_sync::<ndshm::ArrayOptions<f64, Ix2>>();

    let mut array = SharedArray::<u8, _>::zeros(8).unwrap();
    let mut array = std::thread::spawn(move || {
        array.write().unwrap()[1] = 1;
        array
    })
    .join()
    .unwrap();
    array.write().unwrap()[2] = 2;
    let sums = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| array.read().unwrap().sum())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect::<Vec<_>>()
    });
    assert_eq!(sums, [3; 4]);
}

/// Does not compile where `$type` is `Send`: then both implementations apply, and `some` is ambiguous.
macro_rules! assert_not_send {
    ($type:ty) => {{
        trait Ambiguous<A> {
            fn some() {}
        }
        impl<T: ?Sized> Ambiguous<()> for T {}
        impl<T: ?Sized + Send> Ambiguous<u8> for T {}
        <$type as Ambiguous<_>>::some();
    }};
}

/// Plain data that is bound to its thread, as far as the compiler knows.
#[derive(Clone, Copy)]
#[repr(transparent)]
struct Bound(u8, PhantomData<*const ()>);

// SAFETY: zero bytes are a zero.
unsafe impl Zeroable for Bound {}
// SAFETY: a byte: no padding, any bits, `Copy`, 'static, no pointers, repr(transparent).
unsafe impl Pod for Bound {}

#[test]
fn arrays_of_elements_that_are_bound_to_a_thread_are_bound_too() {
    assert_not_send!(SharedArray<Bound, Ix1>);
    assert_not_send!(FrozenArray<Bound, Ix1>);
    let array = SharedArray::<Bound, _>::zeros(3).unwrap();
    assert_eq!(array.read().unwrap()[2].0, 0);
}

#[test]
fn guards_stay_in_their_thread() {
    fn sync<T: Sync>() {}
    // A lock knows its holder by the thread.
    assert_not_send!(ReadGuard<'static, f64, Ix2>);
    assert_not_send!(WriteGuard<'static, f64, Ix2>);
    // But a guard may be looked at by the threads of a scope, rayon's for one.
    sync::<ReadGuard<'static, f64, Ix2>>();
}

#[test]
fn elements_are_where_the_format_says() {
    let name = unique_name("bytes");
    let array =
        SharedArray::<u16, _>::options().name(&name).from_shape_fn((2, 3), |(i, j)| (256 * i + j) as u16).unwrap();
    let bytes = fs::read(path(&name)).unwrap();
    assert_eq!(bytes.len(), 4096 + 64 + 64, "header, elements up to a multiple of 64, trailer");
    assert!(
        bytes.starts_with(b"\x93NUMPY\x01\x00\xf6\x0f{'descr': '<u2', 'fortran_order': False, 'shape': (2, 3), }   ")
    );
    assert_eq!(bytes[4095], b'\n');
    assert_eq!(bytes[4096..4108], [0, 0, 1, 0, 2, 0, 0, 1, 1, 1, 2, 1]);
    assert!(bytes[4108..4160].iter().all(|&byte| byte == 0));
    assert_eq!(bytes[4160..4172], *b"NDSHMCTL\x01\0\0\0");
    assert!(bytes[4172..].iter().all(|&byte| byte == 0), "nobody writes, and nobody has since it was made");
    drop(array);
}

#[test]
fn the_generation_counts_writes() {
    let name = unique_name("generation");
    let mut array = SharedArray::<u8, _>::options().name(&name).zeros(1).unwrap();
    let generation = || u64::from_le_bytes(fs::read(path(&name)).unwrap()[4160 + 16..][..8].try_into().unwrap());
    let writer = || u32::from_le_bytes(fs::read(path(&name)).unwrap()[4160 + 12..][..4].try_into().unwrap());
    assert_eq!((generation(), writer()), (0, 0));
    let guard = array.write().unwrap();
    assert_eq!((generation(), writer()), (0, std::process::id()));
    drop(guard);
    assert_eq!((generation(), writer()), (1, 0));
    drop(array.read().unwrap());
    drop(array.write().unwrap());
    assert_eq!(generation(), 2);
    assert_eq!(ArrayD::<u8>::zeros(IxDyn(&[1])), *attach::<u8, IxDyn>(&name).unwrap().read().unwrap());
}
