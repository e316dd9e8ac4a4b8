//! Where the main executable lies in memory, so that parent and worker can name its code to each other by offset.
#![expect(unsafe_code, reason = "dl_iterate_phdr and the program's own headers are read where the loader put them")]
#![expect(clippy::cast_possible_truncation, reason = "the crate is for 64-bit machines")]

use std::ffi::c_void;
use std::fs::File;
use std::io;
use std::mem::offset_of;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::slice;
use std::sync::OnceLock;

use libc::{Elf64_Ehdr, Elf64_Phdr};

use crate::{Error, ErrorKind, Result};

/// What starts a copy of this program, whatever became of its file.
pub(crate) const SELF: &str = "/proc/self/exe";

/// The program that this process runs, as the loader placed it.
///
/// Offsets are addresses as linked: the same in every process that runs the same file.
#[derive(Debug)]
pub(crate) struct Executable {
    /// Address in memory minus address as linked.
    bias: usize,
    segments: Vec<Segment>,
    build_id: Vec<u8>,
}

/// A range that is mapped for as long as the process lives.
#[derive(Clone, Copy, Debug)]
struct Segment {
    /// Offset of the first byte.
    start: usize,
    /// Offset behind the last byte.
    end: usize,
    readable: bool,
    executable: bool,
}

/// The main executable of this process.
///
/// # Errors
/// `Unsupported` where `/proc/self/exe` is another file, so that no copy of this program can be started from it.
pub(crate) fn main_executable() -> Result<&'static Executable> {
    static FOUND: OnceLock<Executable> = OnceLock::new();
    if let Some(executable) = FOUND.get() {
        return Ok(executable);
    }
    // Only success is kept: a full table of open files is no lasting answer.
    let executable = Executable::find()?;
    Ok(FOUND.get_or_init(|| executable))
}

/// Whether the program runs with other rights than its caller's (setuid, setgid, file capabilities).
pub(crate) fn is_secure_execution() -> bool {
    // SAFETY: `getauxval` only looks up a word that the kernel gave this process.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

impl Executable {
    /// The offset of an address of code; `None` outside the executable's own code.
    pub(crate) fn code_offset(&self, address: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.bias);
        self.is_code(offset).then_some(offset)
    }

    /// The offset of `len` readable bytes; `None` unless all lie in one of the executable's segments.
    pub(crate) fn data_offset(&self, address: usize, len: usize) -> Option<usize> {
        let offset = address.wrapping_sub(self.bias);
        self.is_data(offset, len).then_some(offset)
    }

    /// Where an offset lies in this process; not checked.
    pub(crate) fn address(&self, offset: usize) -> usize {
        self.bias.wrapping_add(offset)
    }

    /// Where the code of an offset that another process gave lies; `None` outside the executable's own code.
    pub(crate) fn code_address(&self, offset: usize) -> Option<usize> {
        self.is_code(offset).then(|| self.address(offset))
    }

    /// Where `len` readable bytes at an offset that another process gave lie; `None` unless all lie in one segment and
    /// the address is a multiple of `align`.
    pub(crate) fn data_address(&self, offset: usize, len: usize, align: usize) -> Option<usize> {
        let address = self.is_data(offset, len).then(|| self.address(offset))?;
        (align != 0 && address.is_multiple_of(align)).then_some(address)
    }

    /// What tells two builds apart: the linker's build id, or else 32 bytes of what the file system says of the file.
    pub(crate) fn build_id(&self) -> &[u8] {
        &self.build_id
    }

    fn is_code(&self, offset: usize) -> bool {
        self.segments.iter().any(|segment| segment.executable && segment.contains(offset, 1))
    }

    fn is_data(&self, offset: usize, len: usize) -> bool {
        self.segments.iter().any(|segment| segment.readable && segment.contains(offset, len))
    }

    fn find() -> Result<Executable> {
        let program = Program::loaded()?;
        let segments: Vec<_> = program.loads().map(Segment::new).collect();
        let identity =
            std::fs::metadata(SELF).map_err(|error| not_startable("it cannot be looked up").with_source(error))?;
        match File::open(SELF) {
            Ok(file) => {
                let opened =
                    file.metadata().map_err(|error| Error::from_os(error, format!("cannot look at {SELF}")))?;
                if (identity.dev(), identity.ino()) != (opened.dev(), opened.ino()) {
                    return Err(not_startable("opening and looking it up give two different files, as under valgrind"));
                }
                if !program.is_image_of(&file).map_err(|error| Error::from_os(error, format!("cannot read {SELF}")))? {
                    return Err(not_startable(
                        "it is another program, as where this one was started through ld.so or an emulator",
                    ));
                }
            }
            // A program that may be executed but not read, mode 0711. With no file to compare, what the kernel said it
            // had loaded has to do: it brings a program's interpreter along, unless the interpreter is what was started.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                // SAFETY: `getauxval` only looks up a word that the kernel gave this process.
                let interpreter = unsafe { libc::getauxval(libc::AT_BASE) };
                if program.headers.iter().any(|header| header.p_type == libc::PT_INTERP) && interpreter == 0 {
                    return Err(not_startable("it is the loader, through which this program was started"));
                }
            }
            Err(error) => return Err(not_startable("it cannot be opened").with_source(error)),
        }
        let build_id = program.build_id().map_or_else(|| file_id(&identity), <[u8]>::to_vec);
        Ok(Executable { bias: program.bias, segments, build_id })
    }
}

impl Segment {
    fn new(header: &Elf64_Phdr) -> Segment {
        let start = header.p_vaddr as usize;
        Segment {
            start,
            end: start.saturating_add(header.p_memsz as usize),
            readable: header.p_flags & libc::PF_R != 0,
            executable: header.p_flags & libc::PF_X != 0,
        }
    }

    fn contains(&self, offset: usize, len: usize) -> bool {
        offset >= self.start && offset.checked_add(len).is_some_and(|end| end <= self.end)
    }
}

/// The main program's headers where the loader put them.
#[derive(Clone, Copy)]
struct Program {
    bias: usize,
    headers: &'static [Elf64_Phdr],
}

impl Program {
    fn loaded() -> Result<Program> {
        /// Keeps the first object, which is the program itself (glibc, musl, static programs alike), and stops.
        unsafe extern "C" fn keep_first(info: *mut libc::dl_phdr_info, _size: usize, found: *mut c_void) -> i32 {
            // SAFETY: `dl_iterate_phdr` passes a filled `dl_phdr_info` that lives for this call.
            let info = unsafe { &*info };
            if !info.dlpi_phdr.is_null() && info.dlpi_phdr.is_aligned() {
                // SAFETY: `dlpi_phdr` points at `dlpi_phnum` headers inside the program's own mapping, never unmapped
                // while the process lives, and nobody writes them.
                let headers = unsafe { slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
                let program = Program { bias: info.dlpi_addr as usize, headers };
                // SAFETY: `found` is the pointer below, to an `Option<Program>` that nothing else uses meanwhile.
                unsafe { *found.cast::<Option<Program>>() = Some(program) };
            }
            1
        }
        let mut found: Option<Program> = None;
        // SAFETY: the callback gets what it expects in `found`, which outlives the call, and does not unwind.
        unsafe { libc::dl_iterate_phdr(Some(keep_first), (&raw mut found).cast()) };
        found.ok_or_else(|| not_startable("the loader does not say where the running program lies"))
    }

    fn loads(&self) -> impl Iterator<Item = &'static Elf64_Phdr> {
        self.headers.iter().filter(|header| header.p_type == libc::PT_LOAD)
    }

    /// The bytes of a range of the file, where they are mapped for reading.
    fn file_bytes(&self, offset: u64, len: u64) -> Option<&'static [u8]> {
        let end = offset.checked_add(len)?;
        let load = self.loads().find(|load| {
            load.p_flags & (libc::PF_R | libc::PF_W) == libc::PF_R
                && load.p_offset <= offset
                && end <= load.p_offset.saturating_add(load.p_filesz)
        })?;
        let start = self.bias.wrapping_add((load.p_vaddr + (offset - load.p_offset)) as usize);
        // SAFETY: the range lies in the file's part of a loaded segment of the main program: mapped, readable, not
        // writable, and so for as long as the process lives.
        Some(unsafe { slice::from_raw_parts(start as *const u8, len as usize) })
    }

    /// Whether the file has the program's headers: the ELF header, where it is mapped, and the program headers.
    fn is_image_of(&self, file: &File) -> io::Result<bool> {
        let mut header = [0; size_of::<Elf64_Ehdr>()];
        let mut headers = vec![0; size_of_val(self.headers)];
        let read = file.read_exact_at(&mut header, 0).and_then(|()| {
            let at = offset_of!(Elf64_Ehdr, e_phoff);
            let mut offset = [0; 8];
            offset.copy_from_slice(&header[at..at + 8]);
            file.read_exact_at(&mut headers, u64::from_ne_bytes(offset))
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            other => other?,
        }
        // SAFETY: the headers are initialized, and structs of integers without padding, so plain bytes.
        let loaded = unsafe { slice::from_raw_parts(self.headers.as_ptr().cast::<u8>(), headers.len()) };
        let first = self.file_bytes(0, header.len() as u64).unwrap_or(&header);
        Ok(first == header && loaded == headers)
    }

    /// What the linker wrote into the program to tell builds apart, where it was asked to.
    fn build_id(&self) -> Option<&'static [u8]> {
        let notes = self.headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
        notes.filter_map(|note| self.file_bytes(note.p_offset, note.p_filesz)).find_map(gnu_build_id)
    }
}

/// The contents of the first `NT_GNU_BUILD_ID` note among several.
fn gnu_build_id(mut notes: &[u8]) -> Option<&[u8]> {
    const NT_GNU_BUILD_ID: u32 = 3;
    loop {
        let (name_len, rest) = notes.split_first_chunk::<4>()?;
        let (len, rest) = rest.split_first_chunk::<4>()?;
        let (kind, rest) = rest.split_first_chunk::<4>()?;
        let name_len = u32::from_ne_bytes(*name_len) as usize;
        let len = u32::from_ne_bytes(*len) as usize;
        let (name, rest) = rest.split_at_checked(name_len)?;
        // Names and contents are padded to 4 bytes; the notes that pad to 8 stand in a segment of their own.
        let rest = rest.get(name_len.next_multiple_of(4) - name_len..)?;
        let (content, rest) = rest.split_at_checked(len)?;
        if name == b"GNU\0" && u32::from_ne_bytes(*kind) == NT_GNU_BUILD_ID && !content.is_empty() {
            return Some(content);
        }
        notes = rest.get(len.next_multiple_of(4) - len..)?;
    }
}

fn file_id(file: &std::fs::Metadata) -> Vec<u8> {
    let modified = file.mtime().wrapping_mul(1_000_000_000).wrapping_add(file.mtime_nsec());
    [file.dev(), file.ino(), file.size(), modified.cast_unsigned()].iter().flat_map(|word| word.to_ne_bytes()).collect()
}

fn not_startable(why: &str) -> Error {
    let message =
        format!("cannot start copies of this program: {SELF} should be the program that is running, but {why}");
    Error::new(ErrorKind::Unsupported, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    static CONSTANT: [u64; 4] = [1, 2, 3, 4];

    fn here() {}

    #[test]
    fn our_own_code_lies_in_the_executable_and_a_library_does_not() {
        let executable = main_executable().unwrap();
        let code = here as fn() as usize;
        let offset = executable.code_offset(code).unwrap();
        assert_eq!(executable.code_address(offset), Some(code));
        assert_eq!(executable.address(offset), code);

        let local = 0_u8;
        for elsewhere in [&raw const CONSTANT as usize, &raw const local as usize, 0, usize::MAX] {
            assert_eq!(executable.code_offset(elsewhere), None);
        }
        // Statically linked programs hold the C library themselves, and others may hold stubs of its functions.
        #[cfg(all(target_env = "gnu", not(target_feature = "crt-static")))]
        {
            // SAFETY: the C library is loaded, so this runs no constructors; the name ends with NUL.
            let libc = unsafe { libc::dlopen(c"libc.so.6".as_ptr(), libc::RTLD_LAZY | libc::RTLD_NOLOAD) };
            assert!(!libc.is_null());
            // SAFETY: an open handle and a name that ends with NUL.
            let library = unsafe { libc::dlsym(libc, c"getpid".as_ptr()) } as usize;
            assert_ne!(library, 0);
            assert_eq!(executable.code_offset(library), None);
            assert_eq!(executable.data_offset(library, 1), None);
        }
    }

    #[test]
    fn data_goes_there_and_back_only_whole_and_aligned() {
        let executable = main_executable().unwrap();
        let address = &raw const CONSTANT as usize;
        let offset = executable.data_offset(address, size_of_val(&CONSTANT)).unwrap();
        assert_eq!(executable.data_address(offset, 32, 8), Some(address));
        assert_eq!(executable.data_address(offset + 1, 8, 8), None);
        assert_eq!(executable.data_address(offset, 8, 0), None);
        assert_eq!(executable.data_address(offset, usize::MAX, 8), None);
        assert_eq!(executable.data_address(usize::MAX, 1, 1), None);
        assert_eq!(executable.code_address(usize::MAX), None);
        let end = executable.segments.iter().map(|segment| segment.end).max().unwrap();
        assert_eq!(executable.data_address(end - 1, 2, 1), None);
        assert_eq!(executable.data_address(end, 0, 1), Some(executable.address(end)));
        let on_the_heap = Box::new(1_u64);
        assert_eq!(executable.data_offset(&raw const *on_the_heap as usize, 8), None);
    }

    #[test]
    fn the_build_id_is_that_of_the_file() {
        let executable = main_executable().unwrap();
        assert!(executable.build_id().len() >= 8);
        assert_eq!(executable.build_id(), Executable::find().unwrap().build_id());
        let file = std::fs::read(SELF).unwrap();
        let id = executable.build_id();
        let fallback = file_id(&std::fs::metadata(SELF).unwrap());
        assert!(id == fallback || file.windows(id.len()).any(|window| window == id));
        assert_eq!(fallback.len(), 32);
    }

    #[test]
    fn notes_are_searched_and_damaged_ones_end_the_search() {
        let other = b"\x04\0\0\0\x05\0\0\0\x01\0\0\0GNU\0abcde\0\0\0";
        let wanted = b"\x04\0\0\0\x04\0\0\0\x03\0\0\0GNU\0\x01\x02\x03\x04";
        let notes = [other.as_slice(), wanted].concat();
        assert_eq!(gnu_build_id(&notes), Some([1, 2, 3, 4].as_slice()));
        for end in 0..notes.len() {
            assert_eq!(gnu_build_id(&notes[..end]), None);
        }
        assert_eq!(gnu_build_id(&[0xff; 64]), None);
    }

    #[test]
    fn another_file_is_not_taken_for_this_program() {
        let program = Program::loaded().unwrap();
        assert!(program.is_image_of(&File::open(SELF).unwrap()).unwrap());
        assert!(!program.is_image_of(&File::open("/bin/sh").unwrap()).unwrap());
        assert!(!program.is_image_of(&File::open("/dev/null").unwrap()).unwrap());
    }

    #[test]
    fn tests_do_not_run_with_raised_rights() {
        assert!(!is_secure_execution());
    }
}
