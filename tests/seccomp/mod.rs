//! Filters that make a system call fail in this thread and what it starts, as the sandbox of a container does.
#![allow(dead_code, reason = "not every test file uses all of it")]
#![allow(clippy::unwrap_used, reason = "a test's helpers fail as tests do")]

use nix::errno::Errno;
use nix::libc::{self, c_long, sock_filter, sock_fprog};

/// The offsets in `struct seccomp_data` of the call's number and of the lower half of its third argument.
const NUMBER: u32 = 0;
const THIRD: u32 = if cfg!(target_endian = "little") { 32 } else { 36 };
/// What `O_TMPFILE` has and `O_DIRECTORY` alone has not.
const TMPFILE: u32 = (libc::O_TMPFILE & !libc::O_DIRECTORY).cast_unsigned();

fn step(code: u32, yes: u8, no: u8, k: u32) -> sock_filter {
    sock_filter { code: u16::try_from(code).unwrap(), jt: yes, jf: no, k }
}

fn load(offset: u32) -> sock_filter {
    step(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS, 0, 0, offset)
}

fn answer(with: u32) -> sock_filter {
    step(libc::BPF_RET | libc::BPF_K, 0, 0, with)
}

fn number(call: c_long) -> u32 {
    u32::try_from(call).unwrap()
}

fn deny_with(errno: Errno) -> sock_filter {
    answer(libc::SECCOMP_RET_ERRNO | (errno as u32 & libc::SECCOMP_RET_DATA))
}

/// From here on the call fails.
pub(crate) fn deny(call: c_long, errno: Errno) {
    install(&mut [
        load(NUMBER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 1, number(call)),
        deny_with(errno),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

/// From here on no file can be made without a name, as on gVisor.
pub(crate) fn deny_nameless_files() {
    install(&mut [
        load(NUMBER),
        step(libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, 0, 3, number(libc::SYS_openat)),
        load(THIRD),
        step(libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K, 0, 1, TMPFILE),
        deny_with(Errno::EOPNOTSUPP),
        answer(libc::SECCOMP_RET_ALLOW),
    ]);
}

fn install(filter: &mut [sock_filter]) {
    let program = sock_fprog { len: u16::try_from(filter.len()).unwrap(), filter: filter.as_mut_ptr() };
    // SAFETY: takes numbers only.
    let status = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(status, 0, "{}", Errno::last());
    // SAFETY: `program` points at as many instructions as it says, and the kernel copies them.
    let status = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(status, 0, "{}", Errno::last());
}
