//! Feeds the detector with the syslog messages that other hosts and routers send here.

use std::net::IpAddr;

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{DROPS_INTERVAL, Shared, lock, stop_at};
use crate::source::syslog::{Syslog, SyslogOptions};

/// Opens the listener; what was cut or turned away is told as it grows.
pub(super) async fn listen(
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
    watch: &Shared,
    options: SyslogOptions,
) -> anyhow::Result<()> {
    let syslog = Syslog::bind(options).await?;
    let status = syslog.status();
    tasks.spawn(stop_at(shutdown.clone(), async move {
        let mut told = (0, 0, 0);
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        loop {
            interval.tick().await;
            let now = (status.cut(), status.turned_away(), status.strangers());
            if now != told {
                tracing::warn!(
                    cut = now.0,
                    turned_away = now.1,
                    strangers = now.2,
                    "syslog messages cut, connections turned away, and messages and connections of senders that are not in `from`, in total since the start"
                );
                told = now;
            }
        }
    }));
    let watch = watch.clone();
    tasks.spawn(syslog.run(
        move |message| {
            let peer: IpAddr = message.peer.ip();
            let mut watch = lock(&watch);
            watch.detector.syslog(peer, message.time, message.text, Timestamp::now());
            watch.lines += 1;
        },
        shutdown.clone(),
    ));
    Ok(())
}
