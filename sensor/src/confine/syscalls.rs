//! Seccomp (seccomp(2)): a list of the system calls that a process may make; all others fail as not permitted.
//! The list is what a service needs that reads files, talks over sockets and keeps a database: nothing that
//! changes who the process is, starts programs, mounts, traces, loads into the kernel or looks into others.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Whose list of permitted system calls is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Calls {
    /// The worker's.
    Worker,
    /// The loader's: also what loads and attaches programs.
    Loader,
}

/// Why calls could not be restricted.
#[derive(Debug, thiserror::Error)]
enum SyscallsError {
    #[error("seccomp is not known for {0}")]
    Processor(&'static str),
    #[error("the list of system calls cannot be made: {0}")]
    Compile(#[from] seccompiler::BackendError),
    #[error("the kernel refused the list of system calls: {0}")]
    Apply(#[from] seccompiler::Error),
}

/// Restricts this thread; what is left, in words.
pub fn restrict(calls: Calls) -> String {
    match apply(calls) {
        Ok(()) => match calls {
            Calls::Worker => "those of a service that starts nothing",
            Calls::Loader => "those of a service that starts nothing, bpf and perf_event_open",
        }
        .to_owned(),
        Err(error) => {
            tracing::warn!(%error, "system calls are not restricted");
            format!("all: {error}")
        }
    }
}

fn apply(calls: Calls) -> Result<(), SyscallsError> {
    let processor = std::env::consts::ARCH;
    let arch = TargetArch::try_from(processor).map_err(|_| SyscallsError::Processor(processor))?;
    let refuse = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let allowed: BpfProgram =
        SeccompFilter::new(rules(calls)?, refuse, SeccompAction::Allow, arch)?.try_into()?;
    // Its flags are out of seccomp's sight, so C libraries are told to use clone, whose flags are in it. Of two
    // filters that refuse, the later one's error is given.
    let absent = SeccompAction::Errno(libc::ENOSYS.cast_unsigned());
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let without_clone3: BpfProgram =
        SeccompFilter::new(clone3, SeccompAction::Allow, absent, arch)?.try_into()?;
    seccompiler::apply_filter(&allowed)?;
    seccompiler::apply_filter(&without_clone3)?;
    Ok(())
}

fn rules(calls: Calls) -> Result<BTreeMap<i64, Vec<SeccompRule>>, seccompiler::BackendError> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        ALWAYS.iter().chain(OLD).map(|call| (*call, Vec::new())).collect();
    let mut families = vec![libc::AF_UNIX];
    if calls == Calls::Loader {
        // Interfaces are asked for and given their programs over netlink.
        families.push(libc::AF_NETLINK);
        rules.extend([libc::SYS_bpf, libc::SYS_perf_event_open].map(|call| (call, Vec::new())));
    } else {
        families.extend([libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]);
        rules.insert(libc::SYS_bpf, any_of(0, &MAP_COMMANDS)?);
    }
    let families: Vec<u64> = families.into_iter().map(|family| u64::from(family.cast_unsigned())).collect();
    rules.insert(libc::SYS_socket, any_of(0, &families)?);
    let no_namespaces = SeccompCondition::new(
        0,
        SeccompCmpArgLen::Qword,
        SeccompCmpOp::MaskedEq(u64::from(NAMESPACES.cast_unsigned())),
        0,
    )?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_namespaces])?]);
    Ok(rules)
}

/// One rule for each value that an argument may have.
fn any_of(argument: u8, values: &[u64]) -> Result<Vec<SeccompRule>, seccompiler::BackendError> {
    let rule = |value: &u64| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, *value)?;
        SeccompRule::new(vec![condition])
    };
    values.iter().map(rule).collect()
}

/// The commands of bpf(2) that use a map whose descriptor one has: look up, update, delete, next key, what it
/// is, look up and delete, and the first three for many.
const MAP_COMMANDS: [u64; 10] = [1, 2, 3, 4, 15, 21, 24, 25, 26, 27];

/// The flags of clone(2) that make namespaces.
const NAMESPACES: i32 = libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET;

/// The calls that need no look at their arguments.
#[rustfmt::skip]
const ALWAYS: &[i64] = &[
    // Files and folders.
    libc::SYS_openat, libc::SYS_openat2, libc::SYS_close, libc::SYS_close_range, libc::SYS_read, libc::SYS_readv,
    libc::SYS_pread64, libc::SYS_preadv, libc::SYS_preadv2, libc::SYS_write, libc::SYS_writev, libc::SYS_pwrite64,
    libc::SYS_pwritev, libc::SYS_pwritev2, libc::SYS_lseek, libc::SYS_fsync, libc::SYS_fdatasync,
    libc::SYS_sync_file_range, libc::SYS_fallocate, libc::SYS_ftruncate, libc::SYS_truncate, libc::SYS_fadvise64,
    libc::SYS_flock, libc::SYS_fcntl, libc::SYS_ioctl, libc::SYS_dup, libc::SYS_dup3, libc::SYS_pipe2,
    libc::SYS_fstat, libc::SYS_newfstatat, libc::SYS_statx, libc::SYS_statfs, libc::SYS_fstatfs,
    libc::SYS_getdents64, libc::SYS_getcwd, libc::SYS_chdir, libc::SYS_fchdir, libc::SYS_faccessat,
    libc::SYS_faccessat2, libc::SYS_readlinkat, libc::SYS_unlinkat, libc::SYS_renameat, libc::SYS_renameat2,
    libc::SYS_linkat, libc::SYS_symlinkat, libc::SYS_mkdirat, libc::SYS_fchmod, libc::SYS_fchmodat,
    libc::SYS_fchown, libc::SYS_fchownat, libc::SYS_utimensat, libc::SYS_umask, libc::SYS_copy_file_range,
    libc::SYS_sendfile, libc::SYS_splice, libc::SYS_memfd_create, libc::SYS_name_to_handle_at,
    libc::SYS_fgetxattr, libc::SYS_getxattr, libc::SYS_lgetxattr, libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch, libc::SYS_inotify_rm_watch,
    // Sockets, but for making them.
    libc::SYS_socketpair, libc::SYS_bind, libc::SYS_listen, libc::SYS_accept, libc::SYS_accept4, libc::SYS_connect,
    libc::SYS_shutdown, libc::SYS_getsockname, libc::SYS_getpeername, libc::SYS_getsockopt, libc::SYS_setsockopt,
    libc::SYS_sendto, libc::SYS_sendmsg, libc::SYS_sendmmsg, libc::SYS_recvfrom, libc::SYS_recvmsg,
    libc::SYS_recvmmsg,
    // Waiting.
    libc::SYS_epoll_create1, libc::SYS_epoll_ctl, libc::SYS_epoll_pwait, libc::SYS_epoll_pwait2, libc::SYS_ppoll,
    libc::SYS_pselect6, libc::SYS_eventfd2, libc::SYS_signalfd4, libc::SYS_timerfd_create,
    libc::SYS_timerfd_settime, libc::SYS_timerfd_gettime, libc::SYS_futex, libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep, libc::SYS_restart_syscall, libc::SYS_wait4, libc::SYS_waitid,
    libc::SYS_pidfd_open, libc::SYS_pidfd_send_signal,
    // Memory.
    libc::SYS_mmap, libc::SYS_munmap, libc::SYS_mremap, libc::SYS_mprotect, libc::SYS_madvise, libc::SYS_brk,
    libc::SYS_mincore, libc::SYS_msync, libc::SYS_membarrier,
    // The process itself.
    libc::SYS_exit, libc::SYS_exit_group, libc::SYS_getpid, libc::SYS_getppid, libc::SYS_gettid, libc::SYS_getpgid,
    libc::SYS_getsid, libc::SYS_setsid, libc::SYS_setpgid, libc::SYS_getuid, libc::SYS_geteuid, libc::SYS_getgid,
    libc::SYS_getegid, libc::SYS_getgroups, libc::SYS_getresuid, libc::SYS_getresgid, libc::SYS_capget,
    libc::SYS_prctl, libc::SYS_seccomp, libc::SYS_prlimit64, libc::SYS_getrusage, libc::SYS_times,
    libc::SYS_sysinfo, libc::SYS_uname, libc::SYS_getcpu, libc::SYS_getpriority, libc::SYS_set_tid_address,
    libc::SYS_set_robust_list, libc::SYS_get_robust_list, libc::SYS_rseq, libc::SYS_getrandom,
    libc::SYS_kill, libc::SYS_tkill, libc::SYS_tgkill, libc::SYS_rt_sigaction, libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn, libc::SYS_rt_sigpending, libc::SYS_rt_sigsuspend, libc::SYS_rt_sigtimedwait,
    libc::SYS_rt_sigqueueinfo, libc::SYS_sigaltstack,
    // Time and the processors.
    libc::SYS_clock_gettime, libc::SYS_clock_getres, libc::SYS_gettimeofday, libc::SYS_getitimer,
    libc::SYS_setitimer, libc::SYS_sched_yield, libc::SYS_sched_getaffinity, libc::SYS_sched_setaffinity,
    libc::SYS_sched_getparam, libc::SYS_sched_getscheduler, libc::SYS_sched_get_priority_max,
    libc::SYS_sched_get_priority_min,
];

/// Calls that only older processors have, for what newer ones have one of the above.
#[cfg(target_arch = "x86_64")]
#[rustfmt::skip]
const OLD: &[i64] = &[
    libc::SYS_open, libc::SYS_stat, libc::SYS_lstat, libc::SYS_access, libc::SYS_readlink, libc::SYS_unlink,
    libc::SYS_rename, libc::SYS_link, libc::SYS_symlink, libc::SYS_mkdir, libc::SYS_rmdir, libc::SYS_chmod,
    libc::SYS_chown, libc::SYS_dup2, libc::SYS_pipe, libc::SYS_poll, libc::SYS_select, libc::SYS_epoll_create,
    libc::SYS_epoll_wait, libc::SYS_eventfd, libc::SYS_signalfd, libc::SYS_inotify_init, libc::SYS_getdents,
    libc::SYS_getpgrp, libc::SYS_alarm, libc::SYS_pause, libc::SYS_time, libc::SYS_arch_prctl, libc::SYS_fork,
    libc::SYS_vfork, libc::SYS_getrlimit, libc::SYS_utimes,
];
#[cfg(not(target_arch = "x86_64"))]
const OLD: &[i64] = &[];
