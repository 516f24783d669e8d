//! A record in the making: who calls is filled in for all programs alike, and says in which ring it goes.

use core::{
    ffi::{c_char, c_void},
    mem::size_of,
};

use atalaya_sensor_ebpf::{
    logins::{DOUBTED_BYTES, LOGINS_BYTES, LoginRecord, PRESENT, Text, UNREADABLE},
    losses::Loss,
    object::lose,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid, bpf_ktime_get_ns,
        generated::{bpf_get_current_cgroup_id, bpf_probe_read_user_str},
    },
    macros::map,
    maps::{RingBuf, ring_buf::RingBufEntry},
};

use crate::{caller, peers};

#[map]
static LOGINS: RingBuf = RingBuf::with_byte_size(LOGINS_BYTES, 0);
#[map]
static DOUBTED: RingBuf = RingBuf::with_byte_size(DOUBTED_BYTES, 0);

/// Room for a record with who calls filled in, all else zero.
#[inline(always)]
pub fn begin(kind: u32, result: i32) -> Option<RingBufEntry<LoginRecord>> {
    let mounts = caller::mounts();
    let uid = bpf_get_current_uid_gid() as u32;
    let ours = uid == 0 && mounts != 0 && mounts == caller::host_mounts();
    let ring = if ours { &LOGINS } else { &DOUBTED };
    let Some(mut entry) = ring.reserve::<LoginRecord>(0) else {
        lose(if ours { Loss::RingFull } else { Loss::DoubtedRingFull });
        return None;
    };
    let record = entry.as_mut_ptr();
    // SAFETY: the kernel reserved `size_of::<LoginRecord>()` bytes at an 8-byte boundary, and every field
    // is an integer or an array of bytes, so that zeroes are a valid record; all of it is written here
    // because the ring's memory holds earlier records.
    let record = unsafe {
        zero(record);
        &mut *record
    };
    let identity = bpf_get_current_pid_tgid();
    // SAFETY: helpers without arguments.
    (record.time_ns, record.cgroup) = unsafe { (bpf_ktime_get_ns(), bpf_get_current_cgroup_id()) };
    record.kind = kind;
    record.result = result;
    record.pid = identity as u32;
    record.tgid = (identity >> 32) as u32;
    record.parent = caller::parent().map_or(0, |parent| parent.tgid as u32);
    record.uid = uid;
    record.mounts = mounts;
    if let Ok(program) = bpf_get_current_comm() {
        record.program = program;
    }
    peers::fill(&mut record.peer);
    Some(entry)
}

/// Writes zeroes, eight bytes at a time: what the compiler makes of the usual way writes them one by one.
///
/// # Safety
/// The place must be valid for writes, at an 8-byte boundary, and of a size that eight divides; zeroes must be a
/// valid `T`.
#[inline(always)]
pub unsafe fn zero<T>(place: *mut T) {
    const { assert!(size_of::<T>() % 8 == 0) };
    for index in 0..size_of::<T>() / 8 {
        // SAFETY: promised by the caller; volatile, so that it stays as it is written here.
        unsafe { place.cast::<u64>().add(index).write_volatile(0) };
    }
}

/// Copies a NUL-ended text of the caller's, cut at the field's size less one; returns the text's bits.
#[inline(always)]
pub fn copy<const N: usize>(text: Text, from: *const c_char, into: &mut [u8; N]) -> u32 {
    if from.is_null() {
        return 0;
    }
    // SAFETY: the helper writes at most `N` bytes, always ends with a NUL, and fails where nothing is
    // mapped at `from`.
    let copied = unsafe {
        bpf_probe_read_user_str(into.as_mut_ptr().cast::<c_void>(), N as u32, from.cast::<c_void>())
    };
    text.shift(if copied < 0 { UNREADABLE } else { PRESENT })
}
