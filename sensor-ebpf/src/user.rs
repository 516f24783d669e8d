//! Reads the memory of the process in which a program runs, in two ways of which a kernel may allow one alone.
#![expect(unsafe_code, reason = "the helpers take raw pointers")]

use core::ffi::c_void;
use core::mem::MaybeUninit;

use aya_ebpf::helpers::generated::{bpf_copy_from_user, bpf_probe_read_user, bpf_probe_read_user_str};

/// A way to read it. Addresses are the process's, and may be anything.
pub trait User {
    /// Reads so many bytes into a buffer; whether all could be read.
    ///
    /// # Safety
    /// `into` must be valid for writes of `size` bytes.
    unsafe fn bytes(into: *mut c_void, size: u32, from: u64) -> bool;

    /// Copies a NUL-ended text, cut at the field's size less one; what follows is zero. Whether it could be read.
    fn text<const N: usize>(from: u64, into: &mut [u8; N]) -> bool;

    /// Reads one integer or pointer.
    #[inline(always)]
    fn value<T: Copy>(from: u64) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: the value's own memory; it is taken only if all of it was written, and callers ask for types of
        // which any bytes are a value.
        unsafe {
            Self::bytes(value.as_mut_ptr().cast(), size_of::<T>() as u32, from).then(|| value.assume_init())
        }
    }
}

/// Memory that is there; a page that would have to be fetched first is unreadable. Since Linux 5.5.
pub struct Resident;

/// Memory that may have to be fetched, for programs that may sleep (uprobes since Linux 6.0). Lockdown
/// `confidentiality` allows this one too: aya takes a kernel that lets nobody read its own memory for one older than
/// 5.5, and puts in place of [`Resident`]'s helpers the older one that reads both, which is refused.
pub struct Fetched;

// === impl Resident ===

impl User for Resident {
    #[inline(always)]
    unsafe fn bytes(into: *mut c_void, size: u32, from: u64) -> bool {
        // SAFETY: the caller's promise; the helper fails where nothing is mapped at `from`.
        unsafe { bpf_probe_read_user(into, size, from as *const c_void) == 0 }
    }

    #[inline(always)]
    fn text<const N: usize>(from: u64, into: &mut [u8; N]) -> bool {
        // SAFETY: the helper writes at most `N` bytes, always ends with a NUL, and fails where nothing is
        // mapped at `from`.
        unsafe { bpf_probe_read_user_str(into.as_mut_ptr().cast(), N as u32, from as *const c_void) >= 0 }
    }
}

// === impl Fetched ===

impl User for Fetched {
    #[inline(always)]
    unsafe fn bytes(into: *mut c_void, size: u32, from: u64) -> bool {
        // SAFETY: as above.
        unsafe { bpf_copy_from_user(into, size, from as *const c_void) == 0 }
    }

    /// There is no helper for texts: as much is read as there may be, at the end of a page no more than is there, and
    /// what does not belong to the text is wiped.
    #[inline(always)]
    fn text<const N: usize>(from: u64, into: &mut [u8; N]) -> bool {
        const PAGE: u64 = 4096;
        // SAFETY: the field's own memory.
        let mut read = unsafe { Self::bytes(into.as_mut_ptr().cast(), N as u32 - 1, from) };
        let rest = PAGE - (from & (PAGE - 1));
        if !read && rest < N as u64 {
            // SAFETY: fewer bytes than the field has.
            read = unsafe { Self::bytes(into.as_mut_ptr().cast(), rest as u32, from) };
        }
        // All ones until the NUL, then zeroes. Without branches, of which the verifier would follow each both ways.
        let mut keep = u64::MAX;
        for byte in into.iter_mut() {
            let value = core::hint::black_box(u64::from(*byte));
            keep &= ((value | value.wrapping_neg()) >> 63).wrapping_neg();
            *byte = (value & keep) as u8;
        }
        read
    }
}
