//! The loader process: does what the worker asks, looks around every few seconds, and ends with the worker.

use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::event::{PollFd, PollFlags, Timespec};
use serde::{Deserialize, Serialize};

use super::channel::Channel;
use super::connections::Connections;
use super::listener::{self, Listener};
use super::logins::Logins;
use super::object::{Kit, Object};
use super::part::Part;
use super::{Program, Wanted};

/// How often the parts look around.
const LOOK: Duration = Duration::from_secs(5);

/// The objects' names, under which the worker gets their maps.
pub const LOGINS: &str = "logins";
/// See [`LOGINS`].
pub const CONNECTIONS: &str = "connections";

/// What the worker asks.
#[derive(Debug, Serialize, Deserialize)]
pub enum Request {
    /// Brings what is loaded to this; answered with [`Said::Loaded`].
    Want(Wanted),
    /// Finds who listens on a port; answered with [`Said::Listener`].
    Listener {
        /// The worker's number of the question.
        question: u64,
        /// In which network namespace, by its number; zero for the loader's own.
        netns: u32,
        /// On which port.
        port: u16,
    },
}

/// What the loader says.
#[derive(Debug, Serialize, Deserialize)]
pub enum Said {
    /// What was wanted is loaded, as far as the kernel lets it be.
    Loaded {
        /// All programs.
        programs: Vec<Program>,
        /// The maps of objects that were loaded just now: object and map, in the order of the descriptors.
        maps: Vec<(String, String)>,
    },
    /// Who listens, where anybody does.
    Listener {
        /// The worker's number of the question.
        question: u64,
        /// Who.
        listener: Option<Listener>,
    },
    /// Programs stand otherwise than was said last.
    Changed {
        /// All of them.
        programs: Vec<Program>,
    },
}

/// All parts.
#[derive(Default)]
struct Parts {
    logins: Logins,
    connections: Connections,
}

/// Runs until the worker has ended.
pub fn run(channel: &Channel) -> anyhow::Result<()> {
    let mut parts = Parts::default();
    let mut said = Vec::new();
    let mut next_look = Instant::now() + LOOK;
    loop {
        if wait(channel, &mut parts, next_look)? {
            let Some((request, _)) = channel.receive().context("the sensor's request cannot be read")? else {
                return Ok(());
            };
            match request {
                Request::Want(wanted) => {
                    let (maps, handed): (Vec<_>, Vec<_>) = parts.want(&wanted).into_iter().unzip();
                    release_free_memory();
                    said = parts.programs();
                    let descriptors: Vec<_> = handed.iter().map(AsFd::as_fd).collect();
                    channel.send(&Said::Loaded { programs: said.clone(), maps }, &descriptors)?;
                }
                Request::Listener { question, netns, port } => {
                    let listener = listener::find(netns, port);
                    channel.send(&Said::Listener { question, listener }, &[])?;
                }
            }
        }
        parts.objects().for_each(Object::log);
        if Instant::now() >= next_look {
            parts.each().into_iter().for_each(Part::look);
            next_look = Instant::now() + LOOK;
            let programs = parts.programs();
            if programs != said {
                channel.send(&Said::Changed { programs: programs.clone() }, &[])?;
                said = programs;
            }
        }
    }
}

/// Waits for a request (then true), a message of a program, or the time to look around.
fn wait(channel: &Channel, parts: &mut Parts, until: Instant) -> anyhow::Result<bool> {
    let objects: Vec<&Object> = parts.objects().map(|object| &*object).collect();
    let messages = objects.iter().filter_map(|object| object.messages());
    let mut fds = vec![PollFd::new(channel, PollFlags::IN)];
    fds.extend(messages.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
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
        ];
        let maps = handed.into_iter().flat_map(|(object, handed)| {
            handed.into_iter().flatten().map(move |(map, fd)| ((object.to_owned(), map), fd))
        });
        maps.collect()
    }

    fn programs(&self) -> Vec<Program> {
        [&self.logins as &dyn Part, &self.connections].into_iter().flat_map(Part::programs).collect()
    }

    fn each(&mut self) -> [&mut dyn Part; 2] {
        [&mut self.logins, &mut self.connections]
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
