//! libc's `syslog`: log lines with no log file. The format and the first arguments are copied as they are, and the
//! texts behind them where there are any; user space makes a line of it. Only root's programs of this host are
//! heard, but what they say of others is still their text.

use core::ffi::c_void;

use atalaya_sensor_ebpf::{
    logins::{ARGUMENT, ARGUMENTS, FORMAT, SYSLOG_BYTES, SyslogCall},
    losses::Loss,
    object::lose,
};
use aya_ebpf::{
    helpers::{
        bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_ktime_get_ns, bpf_probe_read_user,
        generated::bpf_probe_read_user_str,
    },
    macros::{map, uprobe},
    maps::RingBuf,
    programs::ProbeContext,
};

use crate::caller;

#[map]
static SYSLOG: RingBuf = RingBuf::with_byte_size(SYSLOG_BYTES, 0);

/// How many arguments registers hold, and where on the stack the rest begins, in bytes.
const REGISTERS: usize = if cfg!(bpf_target_arch = "x86_64") { 6 } else { 8 };
const STACKED: u64 = if cfg!(bpf_target_arch = "x86_64") { 8 } else { 0 };

/// `void syslog(int priority, const char *format, ...)`
#[uprobe]
pub fn syslog(ctx: ProbeContext) -> u32 {
    call::<1>(&ctx)
}

/// `void __syslog_chk(int priority, int flag, const char *format, ...)`
#[uprobe]
pub fn syslog_chk(ctx: ProbeContext) -> u32 {
    call::<2>(&ctx)
}

/// Copies a call whose format is the argument of this number.
#[inline(always)]
fn call<const AT: usize>(ctx: &ProbeContext) -> u32 {
    let mounts = caller::mounts();
    if !caller::is_root() || mounts == 0 || mounts != caller::host_mounts() {
        return 0;
    }
    let Some(mut entry) = SYSLOG.reserve::<SyslogCall>(0) else {
        lose(Loss::SyslogRingFull);
        return 0;
    };
    let call = entry.as_mut_ptr();
    // SAFETY: the kernel reserved a call's bytes, of which every pattern is one; the texts, which are long, keep
    // what was there where nothing is copied, and their lengths say so.
    unsafe {
        (*call).time_ns = bpf_ktime_get_ns();
        (*call).tgid = (bpf_get_current_pid_tgid() >> 32) as u32;
        (*call).zero = 0;
        (*call).zero_too = 0;
        (*call).program = bpf_get_current_comm().unwrap_or_default();
        (*call).format_length = text::<FORMAT>((&raw mut (*call).format).cast(), value(ctx, AT));
        macro_rules! arguments {
            ($($number:literal),+) => {$(
                (*call).values[$number] = value(ctx, AT + 1 + $number);
                (*call).lengths[$number] = text::<ARGUMENT>(
                    (&raw mut (*call).texts[$number]).cast(),
                    (*call).values[$number],
                );
            )+};
        }
        arguments!(0, 1, 2, 3, 4, 5);
    }
    const { assert!(ARGUMENTS == 6) };
    entry.submit(0);
    0
}

/// An argument as it was passed, in a register or on the stack.
#[inline(always)]
fn value(ctx: &ProbeContext, number: usize) -> u64 {
    if number < REGISTERS {
        return ctx.arg(number).unwrap_or(0);
    }
    #[cfg(bpf_target_arch = "x86_64")]
    // SAFETY: the context of a uprobe is the caller's registers.
    let stack = unsafe { (*ctx.regs).rsp };
    #[cfg(bpf_target_arch = "aarch64")]
    // SAFETY: as above.
    let stack = unsafe { (*ctx.regs).sp };
    let place = stack + STACKED + 8 * (number - REGISTERS) as u64;
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(place as *const u64) }.unwrap_or(0)
}

/// Copies the text at an address of the caller's; how many bytes it has, negative where there is none.
#[inline(always)]
fn text<const N: usize>(into: *mut c_void, from: u64) -> i32 {
    // What is lower is a number: Linux maps nothing there.
    if from < 4096 {
        return -1;
    }
    // SAFETY: the helper writes at most `N` bytes, and fails where nothing is mapped at `from`.
    unsafe { bpf_probe_read_user_str(into, N as u32, from as *const c_void) as i32 }
}
