//! The jails' ignorecommands, which are asked before an offence goes out.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use atalaya_wire::Offence;
use tokio::sync::{Semaphore, mpsc};

use super::local_drop::LocalDrop;
use super::{Shared, lock};
use crate::detector::{Handed, Sent};
use crate::jail::ignore::IgnoreCommand;
use crate::uplink::outbox::Outbox;

/// How many offences wait for an ignorecommand at most.
const DOUBTS: usize = 10_000;
/// How many ignorecommands run at once.
const COMMANDS: usize = 16;

/// An offence that waits for its jail's ignorecommand.
pub(super) type Doubt = (Offence, Arc<IgnoreCommand>);

/// What takes the jails' offences, and where those come out that an ignorecommand is to be asked about first. `asked`
/// counts these until their commands have ended.
pub(super) fn outlet(
    outbox: Outbox,
    local_drop: LocalDrop,
    asked: Arc<AtomicUsize>,
) -> (impl FnMut(Offence, Option<Arc<IgnoreCommand>>) -> Handed + Send + 'static, mpsc::Receiver<Doubt>) {
    let (doubtful, doubts) = mpsc::channel(DOUBTS);
    let take = move |offence: Offence, command: Option<Arc<IgnoreCommand>>| {
        let Some(command) = command else { return Handed::Sent(send(offence, &outbox, &local_drop)) };
        asked.fetch_add(1, Ordering::SeqCst);
        if let Err(error) = doubtful.try_send((offence, command)) {
            asked.fetch_sub(1, Ordering::SeqCst);
            tracing::warn!(%error, "an ignorecommand is too slow for the offences that come: one is dropped, and comes again with its next failures");
            return Handed::Lost;
        }
        Handed::Asked
    };
    (take, doubts)
}

/// An offence goes out: on this host at once, before the network and the disk, and to the enforcer.
fn send(offence: Offence, outbox: &Outbox, local_drop: &LocalDrop) -> Sent {
    let held = local_drop.offence(&offence);
    Sent { sequence: outbox.push(offence), held }
}

/// Asks the jails' ignorecommands, several at once, and hands over the offences that none spares.
pub(super) async fn ask_commands(
    watch: Shared,
    mut doubts: mpsc::Receiver<Doubt>,
    outbox: Outbox,
    local_drop: LocalDrop,
) {
    let room = Arc::new(Semaphore::new(COMMANDS));
    while let Some((offence, command)) = doubts.recv().await {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        let (watch, outbox, local_drop) = (watch.clone(), outbox.clone(), local_drop.clone());
        tokio::spawn(async move {
            let spares = command.spares(offence.address).await;
            let mut watch = lock(&watch);
            if spares {
                tracing::info!(jail = %offence.jail, address = %offence.address, "protected by the ignorecommand");
                watch.detector.withdraw(&offence.jail, offence.address);
            } else {
                let (jail, address) = (offence.jail.clone(), offence.address);
                let sent = send(offence, &outbox, &local_drop);
                watch.detector.sent(&jail, address, sent);
            }
            watch.asked.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        });
    }
}
