//! The best that this processor has for filling and copying memory that is mapped.
#![expect(unsafe_code, reason = "instructions that the compiler does not choose by itself")]

/// A way to fill, by name. All bytes of the value are alike.
pub(crate) type Fill = fn(&mut [u64], u64);
pub(crate) type Copy = fn(&mut [u64], &[u64]);

pub(crate) const FILLS: &[(&str, Fill)] = &[
    ("memset", |to, value| bytemuck::cast_slice_mut::<u64, u8>(to).fill(value.to_ne_bytes()[0])),
    #[cfg(target_arch = "x86_64")]
    ("rep stosb", x86::rep_stosb),
    #[cfg(target_arch = "x86_64")]
    ("non-temporal fill", x86::stream_fill),
];

pub(crate) const COPIES: &[(&str, Copy)] = &[
    ("memcpy", <[u64]>::copy_from_slice),
    #[cfg(target_arch = "x86_64")]
    ("rep movsb", x86::rep_movsb),
    #[cfg(target_arch = "x86_64")]
    ("non-temporal copy", x86::stream_copy),
];

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::asm;
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_set1_epi64x, _mm_sfence, _mm_stream_si128};

    pub(super) fn rep_stosb(to: &mut [u64], value: u64) {
        // SAFETY: writes as many bytes as `to` has, from its start on, and changes nothing but the two registers; the
        // direction flag is clear on entry, as the calling convention has it.
        unsafe {
            asm!(
                "rep stosb",
                inout("rcx") size_of_val(to) => _,
                inout("rdi") to.as_mut_ptr() => _,
                in("al") value.to_ne_bytes()[0],
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) fn rep_movsb(to: &mut [u64], from: &[u64]) {
        assert_eq!(to.len(), from.len());
        // SAFETY: copies as many bytes as both have, from their starts on; they do not overlap, since one is borrowed
        // mutably. The direction flag is clear on entry.
        unsafe {
            asm!(
                "rep movsb",
                inout("rcx") size_of_val(to) => _,
                inout("rdi") to.as_mut_ptr() => _,
                inout("rsi") from.as_ptr() => _,
                options(nostack, preserves_flags),
            );
        }
    }

    pub(super) fn stream_fill(to: &mut [u64], value: u64) {
        // SAFETY: every x86-64 processor has these instructions.
        let value = unsafe { _mm_set1_epi64x(value.cast_signed()) };
        for to in vectors(to) {
            // SAFETY: `to` is 16 bytes that may be written, aligned to 16.
            unsafe { _mm_stream_si128(to, value) };
        }
        fence();
    }

    pub(super) fn stream_copy(to: &mut [u64], from: &[u64]) {
        assert_eq!(to.len(), from.len());
        for (to, from) in vectors(to).iter_mut().zip(from.chunks_exact(2)) {
            // SAFETY: `from` is 16 bytes that may be read, in any alignment.
            let value = unsafe { _mm_loadu_si128(from.as_ptr().cast()) };
            // SAFETY: `to` is 16 bytes that may be written, aligned to 16.
            unsafe { _mm_stream_si128(to, value) };
        }
        fence();
    }

    /// Blocks are whole pages: nothing stands before the first vector or after the last.
    fn vectors(to: &mut [u64]) -> &mut [__m128i] {
        // SAFETY: any bytes are a vector, and any vector is bytes.
        let (before, vectors, after) = unsafe { to.align_to_mut() };
        assert!(before.is_empty() && after.is_empty(), "blocks are aligned and of an even number of elements");
        vectors
    }

    /// Such stores are weakly ordered, and not done when the instruction is.
    fn fence() {
        // SAFETY: every x86-64 processor has it.
        unsafe { _mm_sfence() };
    }
}
