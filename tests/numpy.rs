//! NumPy opens our arrays in place and we open what NumPy makes, for every element type, in both orders, with writes
//! that go both ways; Python takes the same lock.
#![allow(clippy::cast_possible_truncation, clippy::cast_possible_wrap, reason = "the numbers are small")]
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching to what Python writes")]

mod common;

use std::fs;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::Duration;

use bytemuck::{Pod, Zeroable};
use common::{BlocksLeft, PythonProcess, python, unique_name};
use ndarray::{Dimension, Ix1, Ix2, Ix3, IxDyn, ShapeBuilder, arr1, arr2};
use ndshm::{ErrorKind, SharedArray, SharedMemory};

/// Attaches to what Python, which waits for our next request meanwhile, made or writes.
fn attach<T: Pod, D: Dimension>(name: &str) -> ndshm::Result<SharedArray<T, D>> {
    // SAFETY: the tests' Python writes only while a request of theirs runs, and no guard is alive then.
    unsafe { SharedArray::attach(name) }
}

/// A Python that has NumPy and what the tests call in it.
fn numpy() -> PythonProcess {
    let mut python = PythonProcess::start();
    python.run(
        "import fcntl, os, numpy as np\n\
         from multiprocessing import shared_memory, resource_tracker\n\
         def untracked(*args, **kwargs):\n\
         \x20   shm = shared_memory.SharedMemory(*args, **kwargs)\n\
         \x20   resource_tracker.unregister(shm._name, 'shared_memory')\n\
         \x20   return shm\n\
         def order(a):\n\
         \x20   return ('C' if a.flags.c_contiguous else '') + ('F' if a.flags.f_contiguous else '')\n\
         def look(a):\n\
         \x20   return f'{a.dtype.str} {a.shape} {order(a)} {a.tobytes().hex()}'",
    );
    python
}

/// Elements in logical order as bytes, as `ndarray.tobytes()` gives them in Python.
fn hex<'a, T: Pod>(elements: impl IntoIterator<Item = &'a T>) -> String {
    let bytes = elements.into_iter().flat_map(|element| bytemuck::bytes_of(element));
    bytes.fold(String::new(), |hex, byte| hex + &format!("{byte:02x}"))
}

fn tuple(shape: &[usize]) -> String {
    match shape {
        [one] => format!("({one},)"),
        _ => format!("({})", shape.iter().map(usize::to_string).collect::<Vec<_>>().join(", ")),
    }
}

/// What `look` says in Python of the array that `array` is.
fn expected<T: Pod>(descr: &str, array: &SharedArray<T, IxDyn>) -> String {
    let one_axis_counts = array.shape().iter().filter(|&&axis| axis != 1).count() < 2 || array.is_empty();
    let order = match (one_axis_counts, array.is_fortran()) {
        (true, _) => "CF",
        (false, true) => "F",
        (false, false) => "C",
    };
    format!("'{descr} {} {order} {}'", tuple(array.shape()), hex(array.read().unwrap().iter()))
}

const SHAPES: [&[usize]; 7] = [&[], &[5], &[2, 3], &[2, 3, 4], &[2, 1, 3, 2, 1, 2], &[0], &[2, 0, 3]];

/// NumPy sees what is written here and the reverse, through the name and through a descriptor.
#[track_caller]
fn check_type<T: Pod + PartialEq + std::fmt::Debug>(python: &mut PythonProcess, descr: &str, value: impl Fn(u8) -> T) {
    for shape in SHAPES {
        for fortran in [false, true] {
            let name = unique_name("numpy");
            let mut count = 0;
            let next = |_| {
                count += 1;
                value(count)
            };
            let options = SharedArray::<T, IxDyn>::options().name(&name);
            let mut named = options.from_shape_fn(IxDyn(shape).set_f(fortran), next).unwrap();
            let mut anonymous = SharedArray::from_array(&named.read().unwrap()).unwrap();
            let fd = format!("/proc/{}/fd/{}", std::process::id(), anonymous.share_fd().unwrap().as_raw_fd());
            let context = format!("{descr} {shape:?} fortran: {fortran}");

            python.run(&format!("a = np.load('/dev/shm/{name}', mmap_mode='r+')"));
            python.run(&format!("b = np.load('{fd}', mmap_mode='r')"));
            let seen = expected(descr, &named);
            assert_eq!(python.run("look(a)"), seen, "{context}");
            assert_eq!(python.run("look(b)"), seen, "{context}");
            assert_eq!(python.run("isinstance(a, np.memmap) and isinstance(b, np.memmap)"), "True");

            if named.is_empty() {
                continue;
            }
            let last = IxDyn(&shape.iter().map(|axis| axis - 1).collect::<Vec<_>>());
            // Theirs, seen here.
            let theirs = value(100);
            let theirs_hex = hex([&theirs]);
            let set = format!("a[{}] = np.frombuffer(bytes.fromhex('{theirs_hex}'), a.dtype)[0]", tuple(last.slice()));
            python.run(&set);
            assert_eq!(named.read().unwrap()[last.clone()], theirs, "{context}");
            // Ours, seen there, at both of their mappings.
            let first = IxDyn(&vec![0; shape.len()]);
            for array in [&mut named, &mut anonymous] {
                array.write().unwrap()[first.clone()] = value(101);
            }
            assert_eq!(python.run("look(a)"), expected(descr, &named), "{context}");
            assert_eq!(python.run("look(b)"), expected(descr, &anonymous), "{context}");
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Sample {
    time: f64,
    channel: u16,
    flags: [u8; 6],
}

#[test]
fn numpy_shares_integers() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    check_type(&mut python, "|i1", |i| -(i as i8));
    check_type(&mut python, "|u1", |i| i + 100);
    check_type(&mut python, "<i2", |i| i16::from(i) - 300);
    check_type(&mut python, "<u2", |i| u16::from(i) + 0x1234);
    check_type(&mut python, "<i4", |i| i32::from(i) - 70_000);
    check_type(&mut python, "<u4", |i| u32::from(i) + 0x1234_5678);
    check_type(&mut python, "<i8", |i| i64::from(i) - (1 << 40));
    check_type(&mut python, "<u8", |i| u64::from(i) + 0x1234_5678_9abc_def0);
    check_type(&mut python, "<i8", |i| isize::from(i) - (1 << 40));
    check_type(&mut python, "<u8", |i| usize::from(i) + (1 << 40));
}

#[test]
fn numpy_shares_floats() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    check_type(&mut python, "<f4", |i| f32::from(i) + 0.25);
    check_type(&mut python, "<f8", |i| f64::from(i) / 3.0);
    let array = SharedArray::from_array(&arr1(&[f64::NAN, f64::INFINITY, -0.0, f64::MIN_POSITIVE])).unwrap();
    let dir = tempfile::tempdir().unwrap();
    array.save_npy(dir.path().join("special.npy")).unwrap();
    python.run(&format!("a = np.load({:?})", dir.path().join("special.npy")));
    assert_eq!(python.run("a.tolist()"), "[nan, inf, -0.0, 2.2250738585072014e-308]");
}

#[cfg(feature = "complex")]
#[test]
fn numpy_shares_complex_numbers() {
    use num_complex::Complex;
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    check_type(&mut python, "<c8", |i| Complex::new(f32::from(i), -0.5));
    check_type(&mut python, "<c16", |i| Complex::new(0.25, f64::from(i)));
    let array = SharedArray::from_elem(1, Complex::new(1.0_f64, -2.0)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    array.save_npy(dir.path().join("complex.npy")).unwrap();
    assert_eq!(python.run(&format!("bool(np.load({:?})[0] == 1 - 2j)", dir.path().join("complex.npy"))), "True");
}

#[cfg(feature = "half")]
#[test]
fn numpy_shares_half_precision() {
    use half::f16;
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    check_type(&mut python, "<f2", |i| f16::from_f32(f32::from(i) / 8.0));
    let array = SharedArray::from_elem(1, f16::from_f32(-1.5)).unwrap();
    let dir = tempfile::tempdir().unwrap();
    array.save_npy(dir.path().join("half.npy")).unwrap();
    assert_eq!(python.run(&format!("float(np.load({:?})[0])", dir.path().join("half.npy"))), "-1.5");
}

#[cfg(not(any(feature = "complex", feature = "half")))]
#[test]
fn complex_and_half_precision_without_their_features_are_opaque_here_and_the_error_names_the_feature() {
    assert_eq!(SharedArray::<num_complex::Complex<f64>, _>::zeros(1).unwrap().dtype().descr(), "|V16");
    if python().is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("a.npy");
    let mut python = numpy();
    python.run(&format!("np.save({path:?}, np.zeros(2, 'c16'))"));
    let error = SharedArray::<num_complex::Complex<f64>, Ix1>::load_npy(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
    assert!(error.to_string().contains("feature `complex`"), "{error}");
    python.run(&format!("np.save({path:?}, np.zeros(2, 'f2'))"));
    let error = SharedArray::<half::f16, Ix1>::load_npy(&path).unwrap_err();
    assert!(error.to_string().contains("feature `half`"), "{error}");
}

#[test]
fn numpy_shares_structs_as_opaque_elements_that_it_can_view() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let sample = |i: u8| Sample { time: f64::from(i), channel: u16::from(i) * 3, flags: [i; 6] };
    check_type(&mut python, "|V16", sample);
    check_type(&mut python, "|V3", |i| [i, i + 1, i + 2]);

    let name = unique_name("struct");
    let mut array = SharedArray::options().name(&name).from_shape_fn(4, |i| sample(i as u8)).unwrap();
    python.run(&format!(
        "a = np.load('/dev/shm/{name}', mmap_mode='r+')\n\
         s = a.view([('time', '<f8'), ('channel', '<u2'), ('flags', 'u1', 6)])"
    ));
    assert_eq!(python.run("s['time'].tolist(), s['channel'].tolist()"), "([0.0, 1.0, 2.0, 3.0], [0, 3, 6, 9])");
    python.run("s['channel'][2] = 77");
    assert_eq!(array.read().unwrap()[2], Sample { channel: 77, ..sample(2) });
    array.write().unwrap()[3].time = -1.0;
    assert_eq!(python.run("float(s['time'][3])"), "-1.0");
}

#[test]
fn booleans_open_as_bytes() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("mask.npy");
    python.run(&format!("np.save({path:?}, np.array([[True, False], [False, True]]))"));
    // SAFETY: Python has closed the file.
    let mut mask = unsafe { SharedArray::<u8, Ix2>::open_npy(&path) }.unwrap();
    assert_eq!(*mask.read().unwrap(), arr2(&[[1, 0], [0, 1]]));
    mask.write().unwrap()[[0, 1]] = 1;
    assert_eq!(python.run(&format!("np.load({path:?}).tolist()")), "[[True, True], [False, True]]");
    let error = SharedArray::<i8, Ix2>::load_npy(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch, "{error}");
}

#[test]
fn big_endian_elements_are_refused_by_name() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("big.npy");
    for descr in [">f8", ">i8"] {
        python.run(&format!("np.save({path:?}, np.arange(3, dtype='{descr}'))"));
        // SAFETY: Python has closed the file.
        let opened = unsafe { SharedArray::<f64, Ix1>::open_npy(&path) };
        for error in [opened.unwrap_err(), SharedArray::<f64, Ix1>::load_npy(&path).unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::TypeMismatch);
            assert!(error.to_string().contains("big-endian") && error.to_string().contains(descr), "{error}");
        }
    }
}

#[test]
fn what_numpy_has_no_fixed_number_for_is_a_type_mismatch() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("other.npy");
    for (made, word) in [
        ("np.array([{}], dtype=object)", "Python objects"),
        ("np.zeros(2, [('a', '<i4'), ('b', '<f4')])", "structured"),
        ("np.array(['abc'])", "<U3"),
        ("np.array([b'abc'])", "|S3"),
        ("np.zeros(2, 'M8[ns]')", "<M8[ns]"),
        ("np.zeros(2, 'longdouble')", "<f16"),
    ] {
        python.run(&format!("np.save({path:?}, {made})"));
        let error = SharedArray::<f64, Ix1>::load_npy(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TypeMismatch, "{made}: {error}");
        assert!(error.to_string().contains(word), "{made}: {error}");
    }
}

/// Loads a file as a copy and in place, which must be the same.
fn load_and_open<T: Pod + PartialEq + std::fmt::Debug, D: Dimension>(path: &Path) -> SharedArray<T, D> {
    let loaded = SharedArray::<T, D>::load_npy(path).unwrap();
    // SAFETY: nobody writes the file.
    let opened = unsafe { SharedArray::<T, D>::open_npy_read_only(path) }.unwrap();
    assert_eq!(*loaded.read().unwrap(), *opened.read().unwrap());
    assert_eq!(loaded.is_fortran(), opened.is_fortran());
    loaded
}

#[test]
fn kept_files_of_every_version_open() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let read = |name: &str| data.join(name);
    let one = load_and_open::<f64, Ix2>(&read("version_1.npy"));
    assert_eq!((one.shape(), one.is_fortran()), (&[3, 4][..], false));
    let two = load_and_open::<i16, Ix2>(&read("version_2.npy"));
    assert_eq!((two.shape(), two.is_fortran()), (&[3, 4][..], true));
    assert_eq!(load_and_open::<u8, Ix1>(&read("version_3.npy")).len(), 5);
    assert_eq!(load_and_open::<f32, ndarray::Ix0>(&read("scalar.npy")).len(), 1);
    assert_eq!(load_and_open::<u16, Ix3>(&read("empty.npy")).shape(), [2, 0, 3]);
    assert_eq!(load_and_open::<u8, Ix1>(&read("booleans.npy")).len(), 3);
    // `True` in the header of what is in both orders.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("both.npy");
    for (shape, elements) in [("(3,)", 3), ("(1, 4, 1)", 4), ("()", 1), ("(2, 0)", 0)] {
        let text = format!("{:<118}", format!("{{'descr': '|u1', 'fortran_order': True, 'shape': {shape}, }}"));
        fs::write(&path, [b"\x93NUMPY\x01\0\x76\0", text.as_bytes(), &vec![1; elements]].concat()).unwrap();
        let array = load_and_open::<u8, IxDyn>(&path);
        assert_eq!((array.is_fortran(), array.len()), (false, elements), "{shape}");
    }
    let error = SharedArray::<f64, Ix1>::load_npy(read("big_endian.npy")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
    let error = SharedArray::<f64, Ix1>::load_npy(read("structured.npy")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TypeMismatch);
}

#[test]
fn files_that_numpy_writes_open_in_every_version_and_order() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("theirs.npy");
    for version in [(1, 0), (2, 0), (3, 0)] {
        for (shape, order) in
            [("()", 'C'), ("(7,)", 'C'), ("(3, 4)", 'C'), ("(3, 4)", 'F'), ("(2, 3, 4)", 'F'), ("(2, 0, 3)", 'C')]
        {
            python.run(&format!(
                "a = np.asarray(np.arange(np.prod({shape}, dtype=int)).reshape({shape}) * 1.5, order='{order}')\n\
                 with open({path:?}, 'wb') as f: np.lib.format.write_array(f, a, version={version:?})"
            ));
            let array = load_and_open::<f64, IxDyn>(&path);
            assert_eq!(python.run("look(a)"), expected("<f8", &array), "{version:?} {shape} {order}");
            assert_eq!(array.is_fortran(), order == 'F');
        }
    }
}

#[test]
fn a_file_that_numpy_wrote_is_written_in_place() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("in-place.npy");
    python.run(&format!("np.save({path:?}, np.asfortranarray(np.arange(12.).reshape(3, 4)))"));
    let size = fs::metadata(&path).unwrap().len();
    {
        // SAFETY: Python has closed the file.
        let mut array = unsafe { SharedArray::<f64, Ix2>::open_npy(&path) }.unwrap();
        array.write().unwrap()[[2, 0]] = -1.0;
    }
    assert_eq!(python.run(&format!("np.load({path:?})[:, 0].tolist()")), "[0.0, 4.0, -1.0]");
    assert_eq!(fs::metadata(&path).unwrap().len(), size, "no trailer was added");
}

#[test]
fn files_of_ours_load_in_numpy() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let dir = tempfile::tempdir().unwrap();
    for (i, shape) in SHAPES.into_iter().enumerate() {
        for fortran in [false, true] {
            let mut count = 0;
            let make = |_| {
                count += 1;
                f64::from(count)
            };
            let array = SharedArray::<f64, _>::from_shape_fn(IxDyn(shape).set_f(fortran), make).unwrap();
            let saved = dir.path().join(format!("saved-{i}-{fortran}.npy"));
            array.save_npy(&saved).unwrap();
            assert_eq!(python.run(&format!("look(np.load({saved:?}))")), expected("<f8", &array));

            let created = dir.path().join(format!("created-{i}-{fortran}.npy"));
            let mut in_place = SharedArray::<f64, _>::create_npy(&created, IxDyn(shape).set_f(fortran)).unwrap();
            in_place.write().unwrap().assign(&*array.read().unwrap());
            assert_eq!(python.run(&format!("look(np.load({created:?}))")), expected("<f8", &array));
            drop(in_place);
            assert_eq!(python.run(&format!("look(np.load({created:?}, mmap_mode='r'))")), expected("<f8", &array));
        }
    }
}

#[test]
fn blocks_that_python_makes_without_a_header_are_arrays_here() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let name = unique_name("headerless");
    let _left = BlocksLeft::watch([&name]);
    python.run(&format!(
        "shm = shared_memory.SharedMemory(create=True, size=24 * 8 + 5, name='{name}')\n\
         a = np.ndarray((4, 6), '<f8', buffer=shm.buf)\n\
         a[:] = np.arange(24).reshape(4, 6)"
    ));
    let memory = SharedMemory::attach(&name).unwrap();
    // SAFETY: Python writes only while a request runs.
    let mut array = unsafe { SharedArray::<f64, _>::from_memory(memory, 0, (4, 6)) }.unwrap();
    assert_eq!(array.read().unwrap()[[3, 5]], 23.0);
    array.write().unwrap().column_mut(0).fill(-1.0);
    assert_eq!(python.run("a[:, 0].tolist(), float(a.sum())"), "([-1.0, -1.0, -1.0, -1.0], 236.0)");
    python.run("a[2, 2] = 1000");
    assert_eq!(array.read().unwrap()[[2, 2]], 1000.0);

    // A part of it, in the other order.
    let memory = SharedMemory::attach(&name).unwrap();
    // SAFETY: as above.
    let part = unsafe { SharedArray::<f64, _>::from_memory(memory, 48, (3, 2).f()) }.unwrap();
    python.run("b = np.ndarray((3, 2), '<f8', buffer=shm.buf, offset=48, order='F')");
    let seen = hex(part.read().unwrap().iter());
    assert_eq!(python.run("b.tobytes().hex()"), format!("'{seen}'"));
    python.run("del a, b");
    python.run("shm.close(); shm.unlink()");
}

#[test]
fn python_s_shared_memory_attaches_to_our_arrays() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let name = unique_name("psm");
    let array =
        SharedArray::<u32, _>::options().name(&name).from_shape_fn((2, 3), |(i, j)| (10 * i + j) as u32).unwrap();
    python.run(&format!("shm = untracked(name='{name}')\na = np.ndarray((2, 3), '<u4', buffer=shm.buf, offset=4096)"));
    assert_eq!(python.run("a.tolist()"), "[[0, 1, 2], [10, 11, 12]]");
    python.run("a[1, 0] = 99");
    assert_eq!(array.read().unwrap()[[1, 0]], 99);
    python.run("del a");
    python.run("shm.close()");
    assert_eq!(attach::<u32, Ix2>(&name).unwrap().read().unwrap()[[1, 0]], 99, "who attached removed nothing");
}

#[test]
fn a_npy_file_that_python_puts_into_dev_shm_is_an_array_here() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let name = unique_name("np-save");
    let _left = BlocksLeft::watch([&name]);
    python
        .run(&format!("with open('/dev/shm/{name}', 'wb') as f: np.save(f, np.arange(6, dtype='<i4').reshape(2, 3))"));
    let mut array = attach::<i32, Ix2>(&name).unwrap();
    assert_eq!(array.read().unwrap().sum(), 15);
    array.write().unwrap()[[0, 0]] = 100;
    assert_eq!(python.run(&format!("int(np.load('/dev/shm/{name}').sum())")), "115");
    array.unlink().unwrap();
}

/// Locks as the documentation tells Python's users to.
const LOCK: &str = "fcntl.lockf(fd, fcntl.LOCK_EX, 2**62, 0)";
const TRY_LOCK: &str = "fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 2**62, 0)";
const LOCK_SHARED: &str = "fcntl.lockf(fd, fcntl.LOCK_SH, 2**62, 0)";
const TRY_LOCK_SHARED: &str = "fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 2**62, 0)";
const UNLOCK: &str = "fcntl.lockf(fd, fcntl.LOCK_UN, 2**62, 0)";

fn check_locks(python: &mut PythonProcess, array: &mut SharedArray<u8, Ix1>) {
    let busy = |python: &mut PythonProcess, source: &str| python.try_run(source).unwrap_err();
    // Ours excludes theirs.
    let guard = array.write().unwrap();
    for source in [TRY_LOCK, TRY_LOCK_SHARED] {
        assert!(busy(python, source).contains("BlockingIOError"), "{source}");
    }
    python.begin(LOCK);
    assert!(python.is_busy_after(Duration::from_millis(50)));
    drop(guard);
    assert_eq!(python.finish().unwrap(), "None");

    // Theirs excludes ours.
    assert_eq!(array.try_read().unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(array.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
    let timeout = Duration::from_millis(20);
    assert_eq!(array.read_timeout(timeout).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert_eq!(array.write_timeout(timeout).unwrap_err().kind(), ErrorKind::WouldBlock);
    assert!(!array.is_poisoned(), "being written is not poisoned");
    python.begin(&format!("import time; time.sleep(0.05); t = time.monotonic(); {UNLOCK}"));
    let guard = array.write().unwrap();
    assert_eq!(python.finish().unwrap(), "None");
    drop(guard);

    // Readers share.
    let guard = array.read().unwrap();
    python.run(TRY_LOCK_SHARED);
    drop(guard);
    drop(array.try_read().unwrap());
    assert_eq!(array.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
    python.run(UNLOCK);
    let guard = array.read().unwrap();
    assert!(busy(python, TRY_LOCK).contains("BlockingIOError"));
    python.run(LOCK_SHARED);
    drop(guard);
    python.run(UNLOCK);
    drop(array.try_write().unwrap());
}

#[test]
fn python_s_lockf_and_our_guards_exclude_each_other() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let name = unique_name("lockf");
    let mut named = SharedArray::<u8, _>::options().name(&name).zeros(10).unwrap();
    python.run(&format!("fd = os.open('/dev/shm/{name}', os.O_RDWR)"));
    check_locks(&mut python, &mut named);
    python.run("os.close(fd)");

    let mut anonymous = SharedArray::<u8, _>::zeros(10).unwrap();
    let number = anonymous.share_fd().unwrap().as_raw_fd();
    python.run(&format!("fd = os.open('/proc/{}/fd/{number}', os.O_RDWR)", std::process::id()));
    check_locks(&mut python, &mut anonymous);
    python.run("os.close(fd)");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("file.npy");
    let mut file = SharedArray::<u8, _>::create_npy(&path, 10).unwrap();
    python.run(&format!("fd = os.open({path:?}, os.O_RDWR)"));
    check_locks(&mut python, &mut file);
}

/// The script that the README and the documentation of `SharedArray` give, for the array `name`.
fn documented_script(name: &str) -> String {
    let readme = include_str!("../README.md");
    let script = readme.split_once("```python\n").and_then(|(_, rest)| rest.split_once("```")).unwrap().0;
    let documentation = include_str!("../src/array/mod.rs").replace("///\n", "/// \n").replace("/// ", "");
    assert!(documentation.contains(script), "both say the same");
    assert!(script.contains("\"/dev/shm/climate\""));
    script.replace("climate\"", &format!("{name}\""))
}

#[test]
fn the_documented_script_locks_while_it_writes() {
    if python().is_none() {
        return;
    }
    let mut python = PythonProcess::start();
    let name = unique_name("script");
    let mut climate = SharedArray::<f32, _>::options().name(&name).zeros((12, 180, 360)).unwrap();
    let script = documented_script(&name);
    let guard = climate.write().unwrap();
    python.begin(&script);
    assert!(python.is_busy_after(Duration::from_millis(300)), "it waits for the guard");
    assert_eq!(guard[[0, 90, 180]], 0.0);
    drop(guard);
    python.finish().unwrap();
    assert_eq!(climate.read().unwrap()[[0, 90, 180]], 21.5);

    // It holds the lock until it says otherwise.
    python.run("import os\nreached, go = os.pipe(), os.pipe()");
    let paused = script.replace("    climate.flush()", "    os.write(reached[1], b'.'); os.read(go[0], 1)");
    python
        .run(&format!("import threading\nt = threading.Thread(target=exec, args=({paused:?}, globals())); t.start()"));
    python.run("os.read(reached[0], 1)");
    assert_eq!(climate.try_read().unwrap_err().kind(), ErrorKind::WouldBlock);
    python.run("os.write(go[1], b'.'); t.join()");
    drop(climate.try_write().unwrap());

    // What it warns of: the lock goes when anything of the file is closed.
    python.run("file = open(path, 'r+b'); fcntl.lockf(file, fcntl.LOCK_EX, 2**62, 0)");
    assert_eq!(climate.try_read().unwrap_err().kind(), ErrorKind::WouldBlock);
    python.run("again = np.load(path, mmap_mode='r+')");
    drop(climate.try_write().unwrap());

    // A file that is open for reading will do to read.
    python.run("file = open(path, 'rb'); fcntl.lockf(file, fcntl.LOCK_SH, 2**62, 0)");
    drop(climate.try_read().unwrap());
    assert_eq!(climate.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
}

#[test]
fn a_python_that_is_killed_lets_go_of_the_lock() {
    if python().is_none() {
        return;
    }
    let mut python = numpy();
    let name = unique_name("killed");
    let mut array = SharedArray::<u8, _>::options().name(&name).zeros(10).unwrap();
    python.run(&format!("fd = os.open('/dev/shm/{name}', os.O_RDWR)\n{LOCK}"));
    assert_eq!(array.try_write().unwrap_err().kind(), ErrorKind::WouldBlock);
    python.kill();
    drop(array.write_timeout(Duration::from_secs(10)).unwrap());
}
