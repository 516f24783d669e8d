//! The uprobe on `libaudit.so.1:audit_log_acct_message`, which PAM and login programs call with every
//! verdict. It copies the call's arguments into the ring and decides nothing: user space does.
//!
//! `int audit_log_acct_message(int fd, int type, const char *pgname, const char *op, const char *name,
//! unsigned id, const char *host, const char *addr, const char *tty, int result)` (libaudit.h)

use atalaya_sensor_ebpf::{
    logins::{PRESENT, Text, UNREADABLE, USER_ACCT, USER_AUTH, USER_ERR, USER_LOGIN},
    losses::Loss,
    object::lose,
    user::{Fetched, Resident, User},
};
use aya_ebpf::{EbpfContext as _, macros::uprobe, programs::ProbeContext};
use aya_log_ebpf::{debug, warn};

use crate::record::begin;

/// The arguments that the processor's calling convention puts beyond the first six.
struct Tail {
    host: u64,
    addr: u64,
    tty: u64,
    result: i32,
}

#[uprobe]
pub fn audit_log_acct_message(ctx: ProbeContext) -> u32 {
    record::<Resident>(&ctx)
}

#[uprobe(sleepable)]
pub fn audit_log_acct_message_sleepable(ctx: ProbeContext) -> u32 {
    record::<Fetched>(&ctx)
}

#[inline(always)]
fn record<U: User>(ctx: &ProbeContext) -> u32 {
    let kind: u32 = ctx.arg(1).unwrap_or(0);
    if !matches!(kind, USER_AUTH | USER_ACCT | USER_ERR | USER_LOGIN) {
        return 0;
    }
    let Some(tail) = tail::<U>(ctx) else {
        lose(Loss::Unreadable);
        // Any user may call the function; only root's calls are worth a line.
        if ctx.uid() == 0 {
            warn!(ctx, "a login verdict of process {} has an unreadable stack", ctx.tgid());
        }
        return 0;
    };
    let Some(mut entry) = begin(kind, tail.result) else { return 0 };
    // SAFETY: `begin` wrote all of it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    copy::<U, _>(Text::Host, tail.host, &mut record.host, &mut record.texts);
    copy::<U, _>(Text::Addr, tail.addr, &mut record.addr, &mut record.texts);
    copy::<U, _>(Text::Account, ctx.arg(4).unwrap_or(0), &mut record.account, &mut record.texts);
    copy::<U, _>(Text::Op, ctx.arg(3).unwrap_or(0), &mut record.op, &mut record.texts);
    copy::<U, _>(Text::Tty, tail.tty, &mut record.tty, &mut record.texts);
    // SAFETY: as in `copy`.
    let texts = unsafe { (&raw const record.texts).read_volatile() };
    let (uid, tgid, result) = (record.uid, record.tgid, record.result);
    entry.submit(0);
    if uid == 0 {
        let broken = Text::Host.shift(UNREADABLE) | Text::Addr.shift(UNREADABLE);
        if texts & broken != 0 {
            warn!(ctx, "a login verdict of process {} has an unreadable host or address", tgid);
        }
        debug!(ctx, "login verdict {} of process {}: result {}", kind, tgid, result);
    }
    0
}

/// System V ABI: from the seventh on, arguments are on the stack above the return address.
#[cfg(bpf_target_arch = "x86_64")]
#[inline(always)]
fn tail<U: User>(ctx: &ProbeContext) -> Option<Tail> {
    // SAFETY: the context of a uprobe is the caller's registers.
    let stack = unsafe { (*ctx.regs).rsp };
    let [host, addr, tty, result] = U::value::<[u64; 4]>(stack + 8)?;
    Some(Tail { host, addr, tty, result: result as i32 })
}

/// AAPCS64: eight arguments in registers, the rest on the stack, eight bytes each.
#[cfg(bpf_target_arch = "aarch64")]
#[inline(always)]
fn tail<U: User>(ctx: &ProbeContext) -> Option<Tail> {
    // SAFETY: the context of a uprobe is the caller's registers.
    let stack = unsafe { (*ctx.regs).sp };
    let [tty, result] = U::value::<[u64; 2]>(stack)?;
    Some(Tail { host: ctx.arg(6)?, addr: ctx.arg(7)?, tty, result: result as i32 })
}

#[cfg(not(any(bpf_target_arch = "x86_64", bpf_target_arch = "aarch64")))]
compile_error!("audit.rs knows the calling conventions of x86_64 and aarch64 only: add this processor's");

/// Copies a text, where there is one, and adds its bits. They are kept in the ring's memory, of which the verifier
/// knows nothing: in a register it would follow every text's outcomes through all that comes after.
#[inline(always)]
fn copy<U: User, const N: usize>(text: Text, from: u64, into: &mut [u8; N], bits: &mut u32) {
    if from == 0 {
        return;
    }
    let outcome = text.shift(if U::text(from, into) { PRESENT } else { UNREADABLE });
    // SAFETY: a reference; volatile, so that it is not kept in a register.
    unsafe {
        let before = core::ptr::from_ref(bits).read_volatile();
        core::ptr::from_mut(bits).write_volatile(before | outcome);
    }
}
