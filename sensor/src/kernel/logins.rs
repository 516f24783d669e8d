//! The object `logins` in the loader: a uprobe in every libaudit of this host.

use serde::{Deserialize, Serialize};

#[cfg(feature = "kernel")]
pub use probe::Logins;

/// What of it is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wanted {}

#[cfg(feature = "kernel")]
mod probe {
    use std::collections::HashSet;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    use atalaya_sensor_ebpf::logins::{AUDIT_PROGRAM, LOGINS_MAP};
    use atalaya_sensor_ebpf::losses::LOSSES_MAP;
    use aya::programs::UProbe;
    use aya::programs::uprobe::UProbeScope;

    use super::Wanted;
    use crate::kernel::object::{Kit, Object, Refusal};
    use crate::kernel::part::{Handed, Part};
    use crate::kernel::{Program, ProgramState, tracefs};

    /// The program as it is shown.
    const AUDIT: &str = "logins: audit";
    /// The probed function.
    const FUNCTION: &str = "audit_log_acct_message";
    /// Where distributions keep libaudit.
    const FOLDERS: [&str; 10] = [
        "/usr/lib/x86_64-linux-gnu",
        "/usr/lib/aarch64-linux-gnu",
        "/lib/x86_64-linux-gnu",
        "/lib/aarch64-linux-gnu",
        "/usr/lib64",
        "/lib64",
        "/usr/lib",
        "/lib",
        "/usr/local/lib",
        "/usr/local/lib64",
    ];
    const LIBAUDIT: &str = "libaudit.so.1";

    /// The part.
    #[derive(Default)]
    pub struct Logins {
        object: Option<Object>,
        programs: Vec<Program>,
    }

    // === impl Logins ===

    impl Logins {
        /// Brings what is loaded to what is wanted.
        pub fn want(&mut self, wanted: Option<&Wanted>, kit: &Kit) -> Option<Handed> {
            if wanted.is_none() {
                self.object = None;
                let reason = "no jail has the source `logins`";
                self.programs = vec![Program::not_on(AUDIT, ProgramState::Off, reason)];
                return None;
            }
            if self.object.is_some() {
                return None;
            }
            match self.load(kit) {
                Ok(handed) => Some(handed),
                Err(program) => {
                    self.programs = vec![program];
                    None
                }
            }
        }

        fn load(&mut self, kit: &Kit) -> Result<Handed, Program> {
            let libraries = libraries();
            if libraries.is_empty() {
                let reason = format!(
                    "{LIBAUDIT} is not on this host (looked in {}): sshd and PAM here do not report to it",
                    FOLDERS.join(", ")
                );
                return Err(Program::not_on(AUDIT, ProgramState::Off, reason));
            }
            tracefs::mount_for_probes();
            let (object, handed, attached) =
                attach(kit, &libraries).map_err(|refusal| refusal.program(AUDIT))?;
            self.programs = vec![object.on(AUDIT, AUDIT_PROGRAM, attached)];
            self.object = Some(object);
            Ok(handed)
        }
    }

    impl Part for Logins {
        fn programs(&self) -> Vec<Program> {
            self.programs.clone()
        }

        fn object(&mut self) -> Option<&mut Object> {
            self.object.as_mut()
        }
    }

    /// Loads the object and attaches its program to every library; where it is attached, in words.
    fn attach(kit: &Kit, libraries: &[PathBuf]) -> Result<(Object, Handed, String), Refusal> {
        let mut object =
            kit.load(aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/logins")), |_| {})?;
        let program: &mut UProbe = object.program(AUDIT_PROGRAM)?;
        program.load().map_err(|error| Refusal::of(&error))?;
        let mut attached = Vec::new();
        let mut failure = None;
        for library in libraries {
            match program.attach(FUNCTION, library, UProbeScope::AllProcesses) {
                Ok(_) => attached.push(library.display().to_string()),
                Err(error) => failure = Some(Refusal::of(&error)),
            }
        }
        if let Some(refusal) = failure.filter(|_| attached.is_empty()) {
            return Err(refusal);
        }
        let handed = object.maps(&[LOGINS_MAP, LOSSES_MAP])?;
        Ok((object, handed, attached.join(", ")))
    }

    /// Every libaudit of this host, each file once.
    fn libraries() -> Vec<PathBuf> {
        let mut seen = HashSet::new();
        FOLDERS
            .iter()
            .map(|folder| Path::new(folder).join(LIBAUDIT))
            .filter(|path| {
                path.metadata().is_ok_and(|metadata| seen.insert((metadata.dev(), metadata.ino())))
            })
            .collect()
    }
}
