//! PAM's verdicts where it reports to no libaudit, from the beginnings of functions alone: libpam's public ones, whose
//! arguments are a stable interface. A verdict is what a function returns; but return probes are not harmless, and
//! what is called after a verdict tells it as well:
//! - `pam_unix.so` keeps what it returned with `pam_set_data`, before libpam's two seconds of delay;
//! - nobody asks for an account or for credentials whose password was wrong, or again for one that was right;
//! - `pam_end` is told the last verdict, and where a program tells it success in any case, that says nothing.

use core::{ffi::c_char, mem::MaybeUninit};

use atalaya_sensor_ebpf::logins::{
    MODULE_AUTH, PRESENT, PROCESSES, SOURCE_PAM, TEXT_LONG, TEXT_SHORT, Text, USER_ACCT, USER_AUTH,
};
use aya_ebpf::{
    helpers::bpf_probe_read_user,
    macros::{map, uprobe},
    maps::LruHashMap,
    programs::ProbeContext,
};

use crate::caller::{self, Process};
use crate::record::{begin, copy, zero};

/// What a process said of the login that it asks about, and how far it came.
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
    /// One of those below.
    stage: u64,
}

/// Nothing was asked yet.
const BEGUN: u64 = 0;
/// The password was asked about, and there is no word of what came of it.
const ASKED: u64 = 1;
/// A module refused the password, and that is told; another may let in.
const REFUSED: u64 = 2;
/// As [`REFUSED`], and since then a child asks about another one, and tells itself what comes of that.
const HANDED_ON: u64 = 3;
/// The account was asked about, without a password: that of a key.
const KEYED: u64 = 4;
/// The password was right, and that is told; the account is asked about.
const PASSED: u64 = 5;
/// All is told.
const LET_IN: u64 = 6;

/// Items, flags and results, of security/_pam_types.h.
const PAM_USER: i32 = 2;
const PAM_RHOST: i32 = 4;
const PAM_ESTABLISH_CRED: i32 = 2;
const PAM_REINITIALIZE_CRED: i32 = 8;
const PAM_SUCCESS: i32 = 0;
const PAM_ACCT_EXPIRED: i32 = 13;
/// `PAM_DATA_SILENT` and `PAM_DATA_REPLACE`, which may be added to the result that `pam_end` is told.
const FOR_DATA: i32 = 0x6000_0000;
/// What says that the account or the password is wrong: `PAM_PERM_DENIED`, `PAM_AUTH_ERR`,
/// `PAM_CRED_INSUFFICIENT`, `PAM_USER_UNKNOWN` and `PAM_MAXTRIES`. Anything else is trouble of PAM's own.
const REFUSALS: [i32; 5] = [6, 7, 8, 10, 11];

/// Under which name `pam_unix.so` keeps what its `pam_sm_authenticate` returns (`AUTH_RETURN` of its source), in three
/// pieces.
const UNIX_RETURN: [u64; 2] = [u64::from_ne_bytes(*b"unix_set"), u64::from_ne_bytes(*b"cred_ret")];
const UNIX_RETURN_END: u32 = u32::from_ne_bytes(*b"urn\0");

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
    let Some(items) = own() else { return 0 };
    let (text, bits) = if kind == PAM_USER {
        (Text::Account, copy(Text::Account, pointer(&ctx, 2), &mut items.user))
    } else {
        (Text::Host, copy(Text::Host, pointer(&ctx, 2), &mut items.host))
    };
    items.texts = items.texts & !u64::from(text.shift(3)) | u64::from(bits);
    0
}

/// `int pam_authenticate(pam_handle_t *, int flags)`
#[uprobe]
pub fn pam_authenticate(_: ProbeContext) -> u32 {
    if !caller::is_root() {
        return 0;
    }
    let Some(items) = inherited() else { return 0 };
    if matches!(items.stage, ASKED | REFUSED | HANDED_ON) {
        tell(USER_AUTH, false, Some(items));
    }
    items.stage = ASKED;
    0
}

/// `int pam_set_data(pam_handle_t *, const char *module_data_name, void *data, void (*cleanup)(…))`
#[uprobe]
pub fn pam_set_data(ctx: ProbeContext) -> u32 {
    // Modules keep much else, so that it must be quick.
    let name: u64 = ctx.arg(1).unwrap_or(0);
    if read::<u64>(name) != Some(UNIX_RETURN[0])
        || read::<u64>(name + 8) != Some(UNIX_RETURN[1])
        || read::<u32>(name + 16) != Some(UNIX_RETURN_END)
    {
        return 0;
    }
    // What this module lets in another may still refuse.
    let Some(code) = read::<i32>(ctx.arg(2).unwrap_or(0)) else { return 0 };
    if !REFUSALS.contains(&code) {
        return 0;
    }
    let mut items = own();
    if let Some(items) = &mut items
        && items.stage == ASKED
    {
        items.stage = REFUSED;
    }
    tell(MODULE_AUTH, false, items.or_else(parents).map(|items| &*items));
    0
}

/// `int pam_acct_mgmt(pam_handle_t *, int flags)`
#[uprobe]
pub fn pam_acct_mgmt(_: ProbeContext) -> u32 {
    if !caller::is_root() {
        return 0;
    }
    let Some(items) = own().or_else(parents) else { return 0 };
    match items.stage {
        ASKED | REFUSED | HANDED_ON => {
            tell(USER_AUTH, true, Some(items));
            items.stage = PASSED;
        }
        BEGUN => items.stage = KEYED,
        _ => {}
    }
    0
}

/// `int pam_setcred(pam_handle_t *, int flags)`
#[uprobe]
pub fn pam_setcred(ctx: ProbeContext) -> u32 {
    let flags: i32 = ctx.arg(1).unwrap_or(0);
    if !caller::is_root() || flags & (PAM_ESTABLISH_CRED | PAM_REINITIALIZE_CRED) == 0 {
        return 0;
    }
    // Not for a child's sake: sshd sets the same credentials once more in one.
    let Some(items) = own() else { return 0 };
    match items.stage {
        ASKED | REFUSED => tell(USER_AUTH, true, Some(items)),
        KEYED => tell(USER_ACCT, true, Some(items)),
        PASSED | HANDED_ON => {}
        _ => return 0,
    }
    items.stage = LET_IN;
    0
}

/// `int pam_end(pam_handle_t *, int pam_status)`
#[uprobe]
pub fn pam_end(ctx: ProbeContext) -> u32 {
    let status = ctx.arg::<i32>(1).unwrap_or(0) & !FOR_DATA;
    let is_refusal = REFUSALS.contains(&status);
    if !caller::is_root() {
        // Of what a user runs it is told that it failed, which may be shown: `su`.
        if is_refusal {
            tell(USER_AUTH, false, None);
        }
        return 0;
    }
    let Some(items) = own() else { return 0 };
    match items.stage {
        REFUSED | HANDED_ON => tell(USER_AUTH, false, Some(items)),
        ASKED if is_refusal => tell(USER_AUTH, false, Some(items)),
        KEYED | PASSED if is_refusal || status == PAM_ACCT_EXPIRED => tell(USER_ACCT, false, Some(items)),
        KEYED if status == PAM_SUCCESS => tell(USER_ACCT, true, Some(items)),
        _ => {}
    }
    let _ = ITEMS.remove(&caller::process());
    0
}

/// What the calling process said itself.
#[inline(always)]
fn own() -> Option<&'static mut Items> {
    get(caller::process())
}

/// What its parent said.
#[inline(always)]
fn parents() -> Option<&'static mut Items> {
    caller::parent().and_then(get)
}

/// What it said itself, else what it has from its parent, its own from now on: sshd's keyboard-interactive asks in a
/// child of the process that began, and a child for each answer. What came of the parent's own question is told.
#[inline(always)]
fn inherited() -> Option<&'static mut Items> {
    if let Some(items) = own() {
        return Some(items);
    }
    let before = parents()?;
    match before.stage {
        ASKED => {
            tell(USER_AUTH, false, Some(before));
            before.stage = BEGUN;
        }
        REFUSED => before.stage = HANDED_ON,
        _ => {}
    }
    ITEMS.insert(&caller::process(), &*before, 0).ok()?;
    let items = own()?;
    items.stage = BEGUN;
    Some(items)
}

#[inline(always)]
fn get(process: Process) -> Option<&'static mut Items> {
    // SAFETY: the map gave the pointer, which is valid for as long as the program runs; the calls of one login come
    // one after the other.
    ITEMS.get_ptr_mut(&process).map(|items| unsafe { &mut *items })
}

/// Puts a verdict into the ring. Who comes from nowhere is told of only where it failed, which is shown.
#[inline(always)]
fn tell(kind: u32, success: bool, items: Option<&Items>) {
    let host = u64::from(Text::Host.shift(PRESENT));
    if success && items.is_none_or(|items| items.texts & host == 0) {
        return;
    }
    let Some(mut entry) = begin(kind, i32::from(success)) else { return };
    // SAFETY: `begin` wrote all of it.
    let record = unsafe { &mut *entry.as_mut_ptr() };
    record.source = SOURCE_PAM;
    if let Some(items) = items {
        record.op = items.service;
        record.account = items.user;
        record.host = items.host;
        record.texts = items.texts as u32;
    }
    entry.submit(0);
}

#[inline(always)]
fn pointer(ctx: &ProbeContext, argument: usize) -> *const c_char {
    ctx.arg(argument).unwrap_or(core::ptr::null())
}

#[inline(always)]
fn read<T>(address: u64) -> Option<T> {
    // SAFETY: the helper checks the address and fails where nothing is mapped.
    unsafe { bpf_probe_read_user(address as *const T) }.ok()
}
