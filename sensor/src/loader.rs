//! The loader, the privileged one of the two processes, and all that runs in it: does what the worker asks, looks around
//! every few seconds, and ends with the worker.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};

use crate::channel::messages::{CONNECTIONS, LOCAL_DROP, LOGINS, LoaderRequest, Said};
use crate::channel::socket::Channel;
use crate::channel::{Program, Wanted};
use crate::confine;
use crate::confine::logs::OpenedLog;

mod connections;
mod container;
mod elf;
mod layout;
mod listener;
pub mod local_drop;
mod logins;
mod logs;
pub mod object;
mod offsets;
mod part;
mod process;
mod tracefs;
mod tracepoint;

use connections::ConnectionsPart;
use local_drop::LocalDropPart;
use logins::LoginsPart;
use logs::Logs;
use object::{Kit, Object};
use part::Part;

/// How often the parts look around.
const LOOK: Duration = Duration::from_secs(5);

/// What can be loaded, one part for each object of `sensor-ebpf`.
#[derive(Default)]
struct Parts {
    logins: LoginsPart,
    connections: ConnectionsPart,
    local_drop: LocalDropPart,
}

/// Runs until the worker has ended.
pub fn run(channel: &Channel) -> anyhow::Result<()> {
    let mut parts = Parts::default();
    let mut logs = Logs::default();
    let mut said = Vec::new();
    let mut confinement = None;
    let mut next_look = Instant::now() + LOOK;
    loop {
        if wait(channel, &mut parts, next_look)? {
            let Some((request, _)) = channel.receive().context("the sensor's request cannot be read")? else {
                return Ok(());
            };
            match request {
                LoaderRequest::Want(wanted) => {
                    let (maps, handed): (Vec<_>, Vec<_>) = parts.want(&wanted).into_iter().unzip();
                    release_free_memory();
                    said = parts.programs();
                    let descriptors: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
                    // Mounting is over; loading and attaching go on, for programs and interfaces that come.
                    let confinement = confinement.get_or_insert_with(|| {
                        if wanted.confine { confine::loader() } else { confine::nothing("`confine = false`") }
                    });
                    let loaded =
                        Said::Loaded { programs: said.clone(), confinement: confinement.clone(), maps };
                    channel.send(&loaded, &descriptors)?;
                }
                LoaderRequest::Logs(wanted) => logs.set(wanted),
                LoaderRequest::Open { question, path, part } => match logs.open(&path, &part) {
                    Ok(OpenedLog { file, at }) => {
                        channel.send(&Said::Opened { question, at, trouble: None }, &[file.as_fd()])?;
                    }
                    Err(error) => {
                        let trouble = Some((error.raw_os_error(), error.to_string()));
                        channel.send(&Said::Opened { question, at: None, trouble }, &[])?;
                    }
                },
                LoaderRequest::Vouch { process, address } => {
                    channel.send(&Said::Vouched(parts.logins.vouch(process, address)), &[])?;
                }
                LoaderRequest::Listener { question, netns, port } => {
                    let listener = listener::find(netns, port);
                    channel.send(&Said::Listener { question, listener }, &[])?;
                }
            }
        }
        parts.objects().for_each(Object::log);
        let mut changed = false;
        parts.each().into_iter().for_each(|part| changed |= part.wake());
        if Instant::now() >= next_look {
            parts.each().into_iter().for_each(Part::look);
            next_look = Instant::now() + LOOK;
            changed = true;
        }
        if changed {
            let programs = parts.programs();
            if programs != said {
                channel.send(&Said::Changed { programs: programs.clone() }, &[])?;
                said = programs;
            }
        }
    }
}

/// Waits for a request (then true), a message of a program, what wakes a part, or the time to look around.
fn wait(channel: &Channel, parts: &mut Parts, until: Instant) -> anyhow::Result<bool> {
    let mut fds = vec![PollFd::new(channel, PollFlags::IN)];
    let waits = parts.each().into_iter().flat_map(Part::waits);
    fds.extend(waits.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
    let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
    match rustix::event::poll(&mut fds, Some(&timeout)) {
        Ok(_) => Ok(!fds[0].revents().is_empty()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error).context("the loader cannot wait"),
    }
}

// === impl Parts ===

impl Parts {
    /// Brings what is loaded to what is wanted; the new maps, each with its object's name.
    fn want(&mut self, wanted: &Wanted) -> Vec<((String, String), OwnedFd)> {
        let kit = Kit::new();
        let handed = [
            (LOGINS, self.logins.want(wanted.logins.as_ref(), &kit)),
            (CONNECTIONS, self.connections.want(wanted.connections.as_ref(), &kit)),
            (LOCAL_DROP, self.local_drop.want(wanted.local_drop.as_ref(), &kit)),
        ];
        let maps = handed.into_iter().flat_map(|(object, handed)| {
            handed.into_iter().flatten().map(move |(map, fd)| ((object.to_owned(), map), fd))
        });
        maps.collect()
    }

    fn programs(&self) -> Vec<Program> {
        let parts: [&dyn Part; 3] = [&self.logins, &self.connections, &self.local_drop];
        parts.into_iter().flat_map(Part::programs).collect()
    }

    fn each(&mut self) -> [&mut dyn Part; 3] {
        [&mut self.logins, &mut self.connections, &mut self.local_drop]
    }

    fn objects(&mut self) -> impl Iterator<Item = &mut Object> {
        self.each().into_iter().filter_map(Part::object)
    }
}

/// Gives back what only loading needed, which the allocator would keep for the loader's whole life.
fn release_free_memory() {
    #[cfg(target_env = "gnu")]
    #[expect(unsafe_code, reason = "glibc's function has no safe wrapper")]
    // SAFETY: it may be called at any time from any thread, and touches only free memory.
    unsafe {
        libc::malloc_trim(0);
    }
}
