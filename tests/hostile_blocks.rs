//! A block or file that is not what it says is an error of its kind, never a panic, a crash or a wait: arbitrary bytes,
//! mutated blocks, lengths that lie, and things that are no files at all.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]
#![allow(unsafe_code, reason = "attaching")]

mod common;

use std::fs::{self, File};
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use bytemuck::Pod;
use common::unique_name;
use ndarray::{Dimension, Ix1, Ix2, IxDyn};
use ndshm::{ErrorKind, FrozenArray, SharedArray, SharedMemory};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::stat::Mode;
use proptest::prelude::*;

/// Where a named block and a file lie in which the contents are put; both go when this does.
struct Places {
    name: String,
    dir: tempfile::TempDir,
}

impl Places {
    fn new(label: &str) -> Self {
        Self { name: unique_name(label), dir: tempfile::tempdir().unwrap() }
    }

    fn named(&self) -> PathBuf {
        Path::new("/dev/shm").join(&self.name)
    }

    fn file(&self) -> PathBuf {
        self.dir.path().join("block.npy")
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        let path = self.named();
        let _ = fs::remove_file(&path).or_else(|_| fs::remove_dir(&path));
    }
}

/// A memfd of those contents, sealed as frozen arrays are.
fn sealed(contents: &[u8]) -> File {
    let mut file = File::from(memfd_create(c"hostile", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).unwrap());
    file.write_all(contents).unwrap();
    let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).unwrap();
    file
}

/// All that a damaged block may be answered with.
fn is_fair(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::Layout
            | ErrorKind::TypeMismatch
            | ErrorKind::ShapeMismatch
            | ErrorKind::InvalidSize
            // An array made here, as `load_npy` makes one, has fewer axes than NumPy's may.
            | ErrorKind::InvalidArgument
    )
}

/// Opens it in every way, and uses what opens: locks it, reads every element, writes every element.
fn open_in_every_way<T: Pod, D: Dimension>(
    places: &Places,
    contents: &[u8],
) -> Vec<ndshm::Result<(Vec<usize>, Vec<u8>)>> {
    fs::write(places.named(), contents).unwrap();
    fs::write(places.file(), contents).unwrap();
    let sealed = sealed(contents);
    // SAFETY: nobody else knows the name, and the contents do not change while the array is used.
    let attached = unsafe { SharedArray::<T, D>::attach(&places.name) };
    // SAFETY: as above.
    let read_only = unsafe { SharedArray::<T, D>::attach_read_only(&places.name) };
    // SAFETY: as above.
    let opened = unsafe { SharedArray::<T, D>::open_npy(places.file()) };
    // SAFETY: as above.
    let opened_read_only = unsafe { SharedArray::<T, D>::open_npy_read_only(places.file()) };
    // SAFETY: nobody can write it.
    let by_descriptor = unsafe { SharedArray::<T, D>::attach_fd_read_only(sealed.as_fd()) };
    let loaded = SharedArray::<T, D>::load_npy(places.file());
    let frozen = FrozenArray::<T, D>::attach_fd(sealed.as_fd()).map(|array| {
        let bytes = array.view().iter().flat_map(|element| bytemuck::bytes_of(element).to_vec()).collect();
        (array.shape().to_vec(), bytes)
    });

    let mut seen: Vec<_> = [read_only, opened_read_only, by_descriptor, loaded, attached, opened]
        .into_iter()
        .map(|array| use_all(array?))
        .collect();
    seen.push(frozen);
    seen
}

fn use_all<T: Pod, D: Dimension>(mut array: SharedArray<T, D>) -> ndshm::Result<(Vec<usize>, Vec<u8>)> {
    // A mutated trailer may say that somebody is writing.
    if array.is_poisoned() && !array.is_read_only() {
        array.clear_poison()?;
    }
    let bytes = match array.read() {
        Ok(guard) => guard.iter().flat_map(|element| bytemuck::bytes_of(element).to_vec()).collect(),
        Err(error) => {
            assert_eq!((error.kind(), array.is_read_only()), (ErrorKind::Poisoned, true));
            return Err(error);
        }
    };
    if !array.is_read_only() {
        let guard = &mut array.write()?;
        for element in guard.iter_mut() {
            *element = T::zeroed();
        }
    }
    Ok((array.shape().to_vec(), bytes))
}

/// Every way gives an array, or every way gives an error.
fn check<T: Pod, D: Dimension>(places: &Places, contents: &[u8]) -> Result<(), TestCaseError> {
    let seen = open_in_every_way::<T, D>(places, contents);
    let sound: Vec<_> = seen.iter().filter_map(|result| result.as_ref().ok()).collect();
    prop_assert!(sound.windows(2).all(|pair| pair[0] == pair[1]), "they differ: {:?}", seen);
    for (shape, bytes) in &sound {
        prop_assert_eq!(shape.iter().product::<usize>() * size_of::<T>(), bytes.len());
        prop_assert!(bytes.len() <= contents.len());
    }
    for error in seen.iter().filter_map(|result| result.as_ref().err()) {
        prop_assert!(is_fair(error.kind()) || error.kind() == ErrorKind::Poisoned, "{error:?}");
    }
    Ok(())
}

fn check_types(places: &Places, contents: &[u8]) -> Result<(), TestCaseError> {
    check::<f64, Ix2>(places, contents)?;
    check::<u8, IxDyn>(places, contents)?;
    // The raw bytes are there whatever they mean.
    fs::write(places.named(), contents).unwrap();
    match SharedMemory::attach(&places.name) {
        Ok(memory) => {
            let mut bytes = vec![0; memory.size()];
            memory.read_at(0, &mut bytes).unwrap();
            prop_assert_eq!(bytes, contents);
        }
        Err(error) => {
            prop_assert_eq!(error.kind(), ErrorKind::Layout);
            prop_assert!(contents.is_empty());
        }
    }
    Ok(())
}

/// The bytes of a block as this crate makes it: header, 96 bytes of elements, trailer.
fn valid_block() -> &'static [u8] {
    static BLOCK: OnceLock<Vec<u8>> = OnceLock::new();
    BLOCK.get_or_init(|| {
        let name = unique_name("valid");
        let array = SharedArray::<f64, Ix2>::options().name(&name).from_elem((3, 4), 1.5).unwrap();
        let bytes = fs::read(Path::new("/dev/shm").join(&name)).unwrap();
        assert_eq!((array.len(), bytes.len()), (12, 4096 + 128 + 64));
        bytes
    })
}

/// A file with that dict for a header, and `data` bytes after it.
fn with_header(dict: &str, data: usize) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    let len = (dict.len() + 1).next_multiple_of(64) + 54;
    bytes.extend(u16::try_from(len).unwrap().to_le_bytes());
    bytes.extend(format!("{dict:len$}").as_bytes());
    bytes.resize(bytes.len() + data, 7);
    bytes
}

fn dict(descr: &str, shape: &str) -> String {
    format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}")
}

fn axis() -> impl Strategy<Value = u64> {
    prop_oneof![0..6_u64, Just(1 << 31), Just(1 << 32), Just(1 << 61), Just(i64::MAX as u64), any::<u64>()]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_are_an_error(bytes in prop::collection::vec(any::<u8>(), 0..6000)) {
        check_types(&Places::new("arbitrary"), &bytes)?;
    }

    #[test]
    fn arbitrary_bytes_after_the_magic_are_an_error(
        version in 0..5_u8,
        bytes in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        let contents = [b"\x93NUMPY", &[version, 0][..], &bytes].concat();
        check_types(&Places::new("magic"), &contents)?;
    }

    #[test]
    fn a_mutated_block_opens_within_its_bounds_or_is_an_error(
        mutations in prop::collection::vec((prop_oneof![0..130_usize, 4090..4288_usize], any::<u8>()), 0..4),
        // Digits and brackets keep the header one that can be read.
        digits in prop::collection::vec((55..75_usize, prop::sample::select(b"0123456789, ()".to_vec())), 0..3),
        len in prop_oneof![Just(4288_usize), 0..4400_usize],
    ) {
        let mut contents = valid_block().to_vec();
        for (at, byte) in mutations.into_iter().chain(digits) {
            contents[at] = byte;
        }
        contents.resize(len, 0);
        check_types(&Places::new("mutated"), &contents)?;
    }

    #[test]
    fn any_shape_and_type_in_the_header_opens_within_its_bounds_or_is_an_error(
        descr in prop::sample::select(vec!["<f8", "|u1", "|b1", ">f8", "<f4", "|V8", "|V0", "|O", "<M8[ns]", "<x9", ""]),
        axes in prop::collection::vec(axis(), 0..5),
        fortran: bool,
        data in 0..200_usize,
    ) {
        let axes: Vec<_> = axes.iter().map(u64::to_string).collect();
        let comma = if axes.len() == 1 { "," } else { "" };
        let shape = format!("({}{comma})", axes.join(", "));
        let mut dict = dict(descr, &shape);
        if fortran {
            dict = dict.replace("False", "True");
        }
        check_types(&Places::new("header"), &with_header(&dict, data))?;
    }
}

/// The kinds of error in every way of opening, which must be one.
#[track_caller]
fn only_kind<T: Pod, D: Dimension>(contents: &[u8]) -> ErrorKind {
    let places = Places::new("refused");
    let kinds: Vec<_> =
        open_in_every_way::<T, D>(&places, contents).into_iter().map(|result| result.unwrap_err().kind()).collect();
    assert!(kinds.windows(2).all(|pair| pair[0] == pair[1]), "{kinds:?}");
    kinds[0]
}

#[test]
fn a_block_cut_short_anywhere_is_a_layout_error() {
    let block = valid_block();
    for len in [1, 5, 6, 8, 9, 10, 11, 12, 100, 4095, 4096, 4097, 4100, 4191] {
        assert_eq!(only_kind::<f64, Ix2>(&block[..len]), ErrorKind::Layout, "{len}");
    }
    // All elements are there: without its trailer it has no mark, and opens.
    for len in [4192, 4223, 4224, 4287, 4288] {
        let places = Places::new("no-trailer");
        for seen in open_in_every_way::<f64, Ix2>(&places, &block[..len]) {
            assert_eq!(seen.unwrap().0, [3, 4], "{len}");
        }
    }
    assert_eq!(only_kind::<f64, Ix2>(b""), ErrorKind::Layout);
}

#[test]
fn a_block_cut_short_after_it_was_made_is_a_layout_error() {
    let name = unique_name("cut");
    let array = SharedArray::<f64, Ix2>::options().name(&name).from_elem((3, 4), 1.5).unwrap();
    let file = File::options().write(true).open(Path::new("/dev/shm").join(&name)).unwrap();
    for len in [4150, 4096, 4000, 20, 3, 0] {
        file.set_len(len).unwrap();
        // SAFETY: nobody writes, and what does not attach is not touched.
        let error = unsafe { SharedArray::<f64, Ix2>::attach(&name) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Layout, "{len}: {error}");
        // SAFETY: as above.
        let error = unsafe { SharedArray::<f64, Ix2>::attach_read_only(&name) }.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Layout, "{len}: {error}");
    }
    drop(array);
}

#[test]
fn a_header_that_changes_after_it_was_read_changes_nothing() {
    let places = Places::new("rewritten");
    fs::write(places.named(), valid_block()).unwrap();
    // SAFETY: nobody writes elements.
    let mut array = unsafe { SharedArray::<f64, Ix2>::attach(&places.name) }.unwrap();
    let before = array.read().unwrap().to_owned();
    let mut larger = valid_block()[..4096].to_vec();
    larger[10..70].fill(b' ');
    let text = dict("<f8", "(3000, 4000)");
    larger[10..10 + text.len()].copy_from_slice(text.as_bytes());
    let file = File::options().write(true).open(places.named()).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&file, &larger, 0).unwrap();
    assert_eq!((array.shape(), array.len()), ([3, 4].as_slice(), 12));
    assert_eq!(*array.read().unwrap(), before);
    assert_eq!(array.write().unwrap().len(), 12);
    // SAFETY: as above.
    let error = unsafe { SharedArray::<f64, Ix2>::attach(&places.name) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
}

#[test]
fn shapes_that_claim_more_than_is_there_are_layout_errors() {
    for shape in [
        "(4,)",
        "(1000000000,)",
        "(1152921504606846976,)",
        "(2305843009213693952, 8)",
        "(4294967296, 4294967296)",
        "(18446744073709551615,)",
        "(18446744073709551615, 18446744073709551615)",
        "(0, 18446744073709551615)",
        "(99999999999999999999999999,)",
        "(-1,)",
        "(3.0,)",
        "3",
        "None",
    ] {
        assert_eq!(only_kind::<f64, IxDyn>(&with_header(&dict("<f8", shape), 24)), ErrorKind::Layout, "{shape}");
    }
    assert_eq!(only_kind::<f64, Ix2>(&with_header(&dict("<f8", "(3,)"), 24)), ErrorKind::ShapeMismatch);
    assert_eq!(only_kind::<f32, Ix1>(&with_header(&dict("<f8", "(3,)"), 24)), ErrorKind::TypeMismatch);
    assert_eq!(only_kind::<f64, Ix1>(&with_header(&dict(">f8", "(3,)"), 24)), ErrorKind::TypeMismatch);
    assert_eq!(only_kind::<f64, Ix1>(&with_header(&dict("|O", "(3,)"), 24)), ErrorKind::TypeMismatch);
}

#[test]
fn a_huge_sparse_file_that_says_so_is_no_room_and_no_kill() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("sparse.npy");
    let size = 1_u64 << 42;
    fs::write(&path, with_header(&dict("|u1", &format!("({size},)")), 0)).unwrap();
    let file = File::options().write(true).open(&path).unwrap();
    let header = file.metadata().unwrap().len();
    if let Err(error) = file.set_len(header + size) {
        println!("skipped: no sparse file of 4 TiB can be made here: {error}");
        return;
    }
    let error = SharedArray::<u8, Ix1>::load_npy(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    // In place it takes no memory.
    // SAFETY: nobody else knows the file.
    match unsafe { SharedArray::<u8, Ix1>::open_npy_read_only(&path) } {
        Ok(array) => assert_eq!((array.len() as u64, array.read().unwrap()[1 << 40]), (size, 0)),
        Err(error) => assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}"),
    }
}

#[test]
fn elements_that_are_not_aligned_are_refused_in_place_and_copied_by_loading() {
    let places = Places::new("misaligned");
    // Old versions of NumPy aligned to 16, other programs to nothing.
    let mut contents = b"\x93NUMPY\x01\x00".to_vec();
    let text = dict("<f8", "(2,)") + "\n";
    let len = if (text.len() + 10).is_multiple_of(8) { text.len() + 1 } else { text.len() };
    contents.extend(u16::try_from(len).unwrap().to_le_bytes());
    contents.extend(format!("{text:len$}").as_bytes());
    contents.extend([1.5_f64, -2.0].map(f64::to_le_bytes).concat());
    fs::write(places.file(), &contents).unwrap();
    // SAFETY: nobody else knows the file.
    let error = unsafe { SharedArray::<f64, Ix1>::open_npy(places.file()) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(error.to_string().contains("aligned to 8"), "{error}");
    let loaded = SharedArray::<f64, Ix1>::load_npy(places.file()).unwrap();
    assert_eq!(loaded.read().unwrap().to_vec(), [1.5, -2.0]);
    // Bytes need no alignment.
    let error = FrozenArray::<f64, Ix1>::attach_fd(sealed(&contents).as_fd()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
}

/// Puts something where a block could be.
type Plant = fn(&Path);

#[test]
fn what_is_no_file_is_a_layout_error_and_never_waited_for() {
    let plants: [(&str, Plant); 4] = [
        ("FIFO", |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap()),
        ("directory", |path| fs::create_dir(path).unwrap()),
        ("socket", |path| drop(UnixListener::bind(path).unwrap())),
        ("symbolic link", |path| symlink("nowhere", path).unwrap()),
    ];
    for (what, plant) in plants {
        let places = Places::new("planted");
        plant(&places.named());
        plant(&places.file());
        let start = Instant::now();
        // SAFETY: nothing attaches.
        let attached = unsafe { SharedArray::<u8, Ix1>::attach(&places.name) };
        // SAFETY: nothing attaches.
        let read_only = unsafe { SharedArray::<u8, Ix1>::attach_read_only(&places.name) };
        let raw = SharedMemory::attach(&places.name).map(drop);
        for error in [attached.unwrap_err(), read_only.unwrap_err(), raw.unwrap_err()] {
            assert_eq!(error.kind(), ErrorKind::Layout, "{error}");
            assert!(error.to_string().contains(what), "{error}");
        }
        // SAFETY: nothing opens.
        let opened = unsafe { SharedArray::<u8, Ix1>::open_npy(places.file()) };
        // SAFETY: nothing opens.
        let read_only = unsafe { SharedArray::<u8, Ix1>::open_npy_read_only(places.file()) };
        let loaded = SharedArray::<u8, Ix1>::load_npy(places.file());
        for error in [opened.unwrap_err(), read_only.unwrap_err(), loaded.unwrap_err()] {
            // A link of the user's own is followed, and this one leads nowhere.
            let expected = if what == "symbolic link" { ErrorKind::NotFound } else { ErrorKind::Layout };
            assert_eq!(error.kind(), expected, "{what}: {error}");
        }
        assert_eq!(
            SharedArray::<u8, _>::options().name(&places.name).zeros(3).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(SharedArray::<u8, _>::create_npy(places.file(), 3).unwrap_err().kind(), ErrorKind::AlreadyExists);
        assert!(start.elapsed() < Duration::from_secs(5), "{what}");
    }
}

#[test]
fn a_symbolic_link_to_an_array_is_followed_on_disk_and_refused_in_dev_shm() {
    let places = Places::new("link");
    let target = places.dir.path().join("target.npy");
    fs::write(&target, valid_block()).unwrap();
    symlink(&target, places.file()).unwrap();
    symlink(&target, places.named()).unwrap();
    assert_eq!(SharedArray::<f64, Ix2>::load_npy(places.file()).unwrap().len(), 12);
    // SAFETY: nobody else knows the file.
    assert_eq!(unsafe { SharedArray::<f64, Ix2>::open_npy(places.file()) }.unwrap().len(), 12);
    // SAFETY: nothing attaches.
    let error = unsafe { SharedArray::<f64, Ix2>::attach(&places.name) }.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Layout);
    assert!(error.to_string().contains("symbolic link"), "{error}");
}

#[test]
fn a_trailer_of_another_version_or_in_another_place_is_none() {
    let places = Places::new("trailer");
    for (at, byte) in [(4224, b'X'), (4232, 2)] {
        let mut contents = valid_block().to_vec();
        contents[at] = byte;
        // A writer's id, which nobody looks at.
        contents[4236] = 9;
        fs::write(places.named(), &contents).unwrap();
        // SAFETY: nobody else knows the name.
        let mut array = unsafe { SharedArray::<f64, Ix2>::attach(&places.name) }.unwrap();
        assert!(!array.is_poisoned());
        array.write().unwrap()[[0, 0]] = 3.0;
        drop(array);
        let after = fs::read(places.named()).unwrap();
        assert_eq!(after[4224..], contents[4224..], "what is not a trailer is not written");
    }
    let mut contents = valid_block().to_vec();
    contents[4236] = 9;
    fs::write(places.named(), &contents).unwrap();
    // SAFETY: nobody else knows the name.
    let array = unsafe { SharedArray::<f64, Ix2>::attach(&places.name) }.unwrap();
    let error = array.read().unwrap_err();
    assert!(error.kind() == ErrorKind::Poisoned && error.to_string().contains("process 9"), "{error}");
}
