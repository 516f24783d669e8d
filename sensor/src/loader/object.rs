//! One object in the loader: loaded into the kernel, its programs at hand, its messages in the log.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::maps::{Map, MapData};
use aya::programs::{Program as Loaded, ProgramError};
use aya::{Btf, Ebpf, EbpfLoader};
use aya_log::EbpfLogger;

use crate::channel::{Program, ProgramState};

/// `log`'s levels in their order, off first, as the programs know them.
const LEVELS: [u8; 6] = [0, 1, 2, 3, 4, 5];
/// The longest reason, in bytes.
const LONGEST: usize = 1000;

/// What loading needs, made once for all that is loaded at a time: the kernel's type information takes some
/// 20 MB while it is here.
pub struct Kit {
    btf: Option<Btf>,
}

/// A loaded object. Dropping it detaches its programs, but for those that are pinned.
pub struct Object {
    ebpf: Ebpf,
    log: Option<EbpfLogger<&'static dyn log::Log>>,
}

/// Why an object or a program does not run, in words, with what may help.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refusal(String);

// === impl Kit ===

impl Kit {
    /// Reads the kernel's type information, where it has any.
    pub fn new() -> Self {
        let btf = Btf::from_sys_fs().inspect_err(|error| {
            tracing::debug!(%error, "the kernel has no type information");
        });
        Self { btf: btf.ok() }
    }

    /// The kernel's type information.
    pub fn btf(&self) -> Option<&Btf> {
        self.btf.as_ref()
    }

    /// Loads an object, as the build packed it; `adjust` sets what is the caller's of it (globals, sizes of maps, pins).
    pub fn load<'a>(
        &'a self,
        packed: &[u8],
        adjust: impl FnOnce(&mut EbpfLoader<'a>),
    ) -> Result<Object, Refusal> {
        let bytes = lz4_flex::block::decompress_size_prepended(packed)
            .map_err(|error| Refusal::because(format!("the object of this program is damaged: {error}")))?;
        let mut loader = EbpfLoader::new();
        loader.btf(self.btf.as_ref());
        // What nobody sees is not said: a message costs its program several microseconds.
        loader.override_global(aya_log::LEVEL, &LEVELS[log::max_level() as usize], false);
        adjust(&mut loader);
        let mut ebpf = loader.load(&bytes).map_err(|error| Refusal::of(&error))?;
        let log = EbpfLogger::init(&mut ebpf)
            .inspect_err(|error| tracing::debug!(%error, "the messages of a kernel program are not shown"));
        Ok(Object { ebpf, log: log.ok() })
    }
}

impl Default for Kit {
    fn default() -> Self {
        Self::new()
    }
}

// === impl Object ===

impl Object {
    /// A program, by its function's name.
    pub fn program<'a, T>(&'a mut self, name: &str) -> Result<&'a mut T, Refusal>
    where
        &'a mut T: TryFrom<&'a mut Loaded, Error = ProgramError>,
    {
        let program = self.ebpf.program_mut(name).ok_or_else(|| Refusal::broken(name))?;
        program.try_into().map_err(|_: ProgramError| Refusal::broken(name))
    }

    /// Descriptors of maps, for the worker.
    pub fn maps(&self, names: &[&str]) -> Result<Vec<(String, OwnedFd)>, Refusal> {
        let descriptor = |name: &&str| {
            let map = self.ebpf.map(name).and_then(data).ok_or_else(|| Refusal::broken(name))?;
            let fd = map.fd().as_fd().try_clone_to_owned().map_err(|error| Refusal::of(&error))?;
            Ok(((*name).to_owned(), fd))
        };
        names.iter().map(descriptor).collect()
    }

    /// A program that runs, as it is shown: `shown` is its name there, `name` its function's.
    pub fn on(&self, shown: &str, name: &str, reason: impl Into<String>) -> Program {
        let info = self.ebpf.program(name).and_then(|program| program.info().ok());
        Program {
            instructions: info.as_ref().and_then(aya::programs::ProgramInfo::verified_instruction_count),
            id: info.as_ref().and_then(|info| (info.id() != 0).then(|| info.id())),
            ..Program::new(shown, ProgramState::On, reason.into())
        }
    }

    /// The object itself, for what this file does not know.
    pub fn ebpf(&mut self) -> &mut Ebpf {
        &mut self.ebpf
    }

    /// What to wait for until the programs have said something.
    pub fn messages(&self) -> Option<BorrowedFd<'_>> {
        self.log.as_ref().map(AsFd::as_fd)
    }

    /// Puts what the programs said into the log.
    pub fn log(&mut self) {
        if let Some(log) = &mut self.log {
            log.flush();
        }
    }
}

// === impl Refusal ===

impl Refusal {
    /// An error, its causes, and what may help.
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut reason = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            reason = format!("{reason}: {cause}");
            next = cause.source();
        }
        let hint = if is_confidential() {
            "; this kernel is locked down (lockdown=confidentiality), which keeps some programs out"
        } else if rustix::process::geteuid().is_root() {
            "; a kernel of 5.8 or later with CONFIG_BPF_SYSCALL and CONFIG_UPROBES is needed, and in a container the capabilities BPF and PERFMON"
        } else {
            "; run as root, or with the capabilities BPF, PERFMON and SYS_ADMIN"
        };
        if let Some(complaint) = complaint(&reason) {
            tracing::debug!("{reason}");
            let cause = reason.rsplit(": ").next().unwrap_or_default();
            return Self(format!("the kernel's verifier says `{complaint}`: {cause}{hint}"));
        }
        // Another reason may be long too: its end says most.
        let from = reason.ceil_char_boundary(reason.len().saturating_sub(LONGEST));
        let cut = if from > 0 { "…" } else { "" };
        Self(format!("{cut}{}{hint}", &reason[from..]))
    }

    /// Something else, in words.
    pub fn because(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// The object does not hold what it should.
    fn broken(name: &str) -> Self {
        Self(format!("the embedded eBPF object lacks {name}: this build is broken"))
    }

    /// A program that was refused, as it is shown.
    pub fn program(&self, shown: &str) -> Program {
        Program::not_on(shown, ProgramState::Refused, self.0.clone())
    }
}

/// What the verifier disliked, of its own words, which may be pages: the last line before its figures.
fn complaint(reason: &str) -> Option<&str> {
    // The last of them since 7.x.
    const FIGURES: [&str; 3] = ["verification time ", "stack depth ", "insns processed "];
    let (log, _) = reason.rsplit_once("\nprocessed ")?;
    let is_figure = |line: &&str| FIGURES.iter().any(|figure| line.starts_with(figure));
    let line = log.lines().rev().find(|line| !is_figure(line))?.trim();
    Some(&line[..line.floor_char_boundary(LONGEST)])
}

/// What is behind a map of the kinds that our objects have.
fn data(map: &Map) -> Option<&MapData> {
    match map {
        Map::Array(data)
        | Map::HashMap(data)
        | Map::LpmTrie(data)
        | Map::LruHashMap(data)
        | Map::PerCpuArray(data)
        | Map::RingBuf(data) => Some(data),
        _ => None,
    }
}

/// Whether the kernel keeps its memory even from root.
fn is_confidential() -> bool {
    std::fs::read_to_string("/sys/kernel/security/lockdown")
        .is_ok_and(|text| text.contains("[confidentiality]"))
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case::of_6_12("")]
    #[case::of_7_2("insns processed 21\n")]
    fn of_the_verifiers_pages_the_complaint_alone_is_told(#[case] further: &str) {
        let head = "the BPF_PROG_LOAD syscall returned Invalid argument (os error 22). Verifier output: \
                   17: (b7) r2 = 8   ; R2_w=8\n18: (85) call bpf_probe_read#4\nunknown func bpf_probe_read#4\n\
                   verification time 1531 usec\nstack depth 0+0\n";
        let end = "processed 21 insns (limit 1000000) max_states_per_insn 0 total_states 1 peak_states 1 mark_read 0\n";
        let error = std::io::Error::other(format!("{head}{further}{end}: Invalid argument (os error 22)"));
        let told = Refusal::of(&error).to_string();
        assert!(
            told.starts_with(
                "the kernel's verifier says `unknown func bpf_probe_read#4`: Invalid argument (os error 22);"
            ),
            "{told}"
        );
        let plain = Refusal::of(&std::io::Error::other("no such program")).to_string();
        assert!(plain.starts_with("no such program;"), "{plain}");
    }
}
