//! The uprobe on `libaudit.so.1:audit_log_acct_message`, which PAM and login programs call with every
//! verdict. It copies the call's arguments into the ring and decides nothing: user space does.
//!
//! `int audit_log_acct_message(int fd, int type, const char *pgname, const char *op, const char *name,
//! unsigned id, const char *host, const char *addr, const char *tty, int result)` (libaudit.h)

use core::ffi::c_char;

use atalaya_sensor_ebpf::{
    logins::{Text, UNREADABLE, USER_ACCT, USER_AUTH, USER_ERR, USER_LOGIN},
    losses::Loss,
    object::lose,
};
use aya_ebpf::{EbpfContext as _, helpers::bpf_probe_read_user, macros::uprobe, programs::ProbeContext};
use aya_log_ebpf::{debug, warn};

use crate::record::{begin, copy};

/// The arguments that the processor's calling convention puts beyond the first six.
struct Tail {
    host: *const c_char,
    addr: *const c_char,
    tty: *const c_char,
    result: i32,
}

#[uprobe]
pub fn audit_log_acct_message(ctx: ProbeContext) -> u32 {
    let kind: u32 = ctx.arg(1).unwrap_or(0);
    if !matches!(kind, USER_AUTH | USER_ACCT | USER_ERR | USER_LOGIN) {
        return 0;
    }
    let Some(tail) = tail(&ctx) else {
        lose(Loss::Unreadable);
        // Any user may call the function; only root's calls are worth a line.
        if ctx.uid() == 0 {
            warn!(&ctx, "a login verdict of process {} has an unreadable stack", ctx.tgid());
        }
        return 0;
    };
    let Some(mut entry) = begin(kind, tail.result) else { return 0 };
    // SAFETY: `begin` wrote all of it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    let mut texts = copy(Text::Host, tail.host, &mut record.host);
    texts |= copy(Text::Addr, tail.addr, &mut record.addr);
    texts |= copy(Text::Account, ctx.arg(4).unwrap_or(core::ptr::null()), &mut record.account);
    texts |= copy(Text::Op, ctx.arg(3).unwrap_or(core::ptr::null()), &mut record.op);
    texts |= copy(Text::Tty, tail.tty, &mut record.tty);
    record.texts = texts;
    let (uid, tgid, result) = (record.uid, record.tgid, record.result);
    entry.submit(0);
    if uid == 0 {
        let broken = Text::Host.shift(UNREADABLE) | Text::Addr.shift(UNREADABLE);
        if texts & broken != 0 {
            warn!(&ctx, "a login verdict of process {} has an unreadable host or address", tgid);
        }
        debug!(&ctx, "login verdict {} of process {}: result {}", kind, tgid, result);
    }
    0
}

/// System V ABI: from the seventh on, arguments are on the stack above the return address.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn tail(ctx: &ProbeContext) -> Option<Tail> {
    // SAFETY: the context of a uprobe is the caller's registers.
    let stack = unsafe { (*ctx.regs).rsp };
    let [host, addr, tty, result] = stacked::<[u64; 4]>(stack + 8)?;
    Some(Tail {
        host: host as *const c_char,
        addr: addr as *const c_char,
        tty: tty as *const c_char,
        result: result as i32,
    })
}

/// AAPCS64: eight arguments in registers, the rest on the stack, eight bytes each.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn tail(ctx: &ProbeContext) -> Option<Tail> {
    // SAFETY: the context of a uprobe is the caller's registers.
    let stack = unsafe { (*ctx.regs).sp };
    let [tty, result] = stacked::<[u64; 2]>(stack)?;
    Some(Tail { host: ctx.arg(6)?, addr: ctx.arg(7)?, tty: tty as *const c_char, result: result as i32 })
}

#[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "aarch64")))]
compile_error!("audit.rs knows the calling conventions of x86_64 and aarch64 only: add this processor's");

/// Reads arguments from the caller's stack.
#[inline(always)]
fn stacked<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
