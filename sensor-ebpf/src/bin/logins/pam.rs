//! PAM's verdicts where it reports to no libaudit: libpam's public functions, whose arguments are a stable
//! interface, say which service, account and remote host a verdict is about. The return of
//! `pam_authenticate` is the verdict, two seconds late where it is a refusal; that of `pam_unix.so` is early.

use core::{ffi::c_char, mem::MaybeUninit};

use atalaya_sensor_ebpf::logins::{
    MODULE_AUTH, PROCESSES, SOURCE_PAM, TEXT_LONG, TEXT_SHORT, Text, USER_AUTH,
};
use aya_ebpf::{
    macros::{map, uprobe, uretprobe},
    maps::LruHashMap,
    programs::{ProbeContext, RetProbeContext},
};

use crate::caller::{self, Process};
use crate::record::{begin, copy, zero};

/// What a process said of the login that it asks about.
#[map]
static ITEMS: LruHashMap<Process, Items> = LruHashMap::with_max_entries(PROCESSES, 0);

#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Items {
    service: [u8; TEXT_SHORT],
    user: [u8; TEXT_LONG],
    host: [u8; TEXT_LONG],
    /// As in a record.
    texts: u64,
}

/// Items and results, of security/_pam_types.h.
const PAM_USER: i32 = 2;
const PAM_RHOST: i32 = 4;
const PAM_SUCCESS: i32 = 0;
/// What says that the account or the password is wrong: `PAM_PERM_DENIED`, `PAM_AUTH_ERR`,
/// `PAM_CRED_INSUFFICIENT`, `PAM_USER_UNKNOWN` and `PAM_MAXTRIES`. Anything else is trouble of PAM's own.
const REFUSALS: [i32; 5] = [6, 7, 8, 10, 11];

/// `int pam_start(const char *service, const char *user, const struct pam_conv *, pam_handle_t **)`
#[uprobe]
pub fn pam_start(ctx: ProbeContext) -> u32 {
    if !caller::is_root() {
        return 0;
    }
    let mut items = MaybeUninit::<Items>::uninit();
    // SAFETY: every field is an integer or an array of bytes, of which zeroes are one.
    let items = unsafe {
        zero(items.as_mut_ptr());
        items.assume_init_mut()
    };
    let texts = copy(Text::Op, pointer(&ctx, 0), &mut items.service)
        | copy(Text::Account, pointer(&ctx, 1), &mut items.user);
    items.texts = u64::from(texts);
    let _ = ITEMS.insert(&caller::process(), &*items, 0);
    0
}

/// `int pam_set_item(pam_handle_t *, int item_type, const void *item)`
#[uprobe]
pub fn pam_set_item(ctx: ProbeContext) -> u32 {
    let kind: i32 = ctx.arg(1).unwrap_or(0);
    if !caller::is_root() || !matches!(kind, PAM_USER | PAM_RHOST) {
        return 0;
    }
    let Some(items) = ITEMS.get_ptr_mut(&caller::process()) else { return 0 };
    // SAFETY: the map gave the pointer; the calls of one login come one after the other.
    let items = unsafe { &mut *items };
    let (text, bits) = if kind == PAM_USER {
        (Text::Account, copy(Text::Account, pointer(&ctx, 2), &mut items.user))
    } else {
        (Text::Host, copy(Text::Host, pointer(&ctx, 2), &mut items.host))
    };
    items.texts = items.texts & !u64::from(text.shift(3)) | u64::from(bits);
    0
}

#[uretprobe]
pub fn pam_authenticate(ctx: RetProbeContext) -> u32 {
    verdict(USER_AUTH, ctx.ret())
}

#[uretprobe]
pub fn pam_sm_authenticate(ctx: RetProbeContext) -> u32 {
    match ctx.ret() {
        // What this module lets in another may still refuse.
        PAM_SUCCESS => 0,
        code => verdict(MODULE_AUTH, code),
    }
}

#[inline(always)]
fn verdict(kind: u32, code: i32) -> u32 {
    if code != PAM_SUCCESS && !REFUSALS.contains(&code) {
        return 0;
    }
    let Some(mut entry) = begin(kind, i32::from(code == PAM_SUCCESS)) else { return 0 };
    // SAFETY: `begin` wrote all of it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    record.source = SOURCE_PAM;
    // sshd's keyboard-interactive asks in a child of the process that began.
    // SAFETY: an entry is copied out; the calls of one login come one after the other.
    let find = |process: Process| unsafe { ITEMS.get(&process) };
    let found = match find(caller::process()) {
        Some(items) => Some(items),
        None => caller::parent().and_then(find),
    };
    if let Some(items) = found {
        record.op = items.service;
        record.account = items.user;
        record.host = items.host;
        record.texts = items.texts as u32;
    }
    entry.submit(0);
    0
}

#[inline(always)]
fn pointer(ctx: &ProbeContext, argument: usize) -> *const c_char {
    ctx.arg(argument).unwrap_or(core::ptr::null())
}
