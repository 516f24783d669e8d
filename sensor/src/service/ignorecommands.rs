//! The jails' ignorecommands, which are asked before an offence goes out.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use atalaya_wire::Offence;
use tokio::sync::{Semaphore, mpsc};

use super::local_drop::LocalDrop;
use super::{Shared, lock};
use crate::jail::ignore::IgnoreCommand;
use crate::uplink::outbox::Outbox;

/// How many offences wait for an ignorecommand at most.
pub(super) const DOUBTS: usize = 10_000;
/// How many ignorecommands run at once.
const COMMANDS: usize = 16;

/// Asks the jails' ignorecommands, several at once, and hands over the offences that none spares.
pub(super) async fn ask_commands(
    watch: Shared,
    mut doubts: mpsc::Receiver<(Offence, Arc<IgnoreCommand>)>,
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
                tracing::info!(jail = %offence.jail, address = %offence.address, "spared by the ignorecommand");
                watch.detector.withdraw(&offence.jail, offence.address);
            } else {
                local_drop.offence(&offence);
                outbox.push(offence);
            }
            watch.asked.fetch_sub(1, Ordering::SeqCst);
            drop(permit);
        });
    }
}
