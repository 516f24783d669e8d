//! Feeds the detector with what root's programs of this host say to syslog.

use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use super::kernel::Feeding;
use super::{DROPS_INTERVAL, lock, stop_at};
use crate::kernel::maps::{Maps, MapsError};
use crate::source::syslog_calls::SyslogCalls;

/// Starts to feed, until the token says so.
pub(super) fn feed(
    maps: &mut Maps,
    token: CancellationToken,
    feeding: &Feeding<'_>,
) -> Result<(), MapsError> {
    let mut calls = SyslogCalls::new(maps)?;
    let watch = feeding.watch.clone();
    feeding.tasks.spawn(stop_at(token, async move {
        let mut interval = tokio::time::interval(DROPS_INTERVAL);
        let mut told = 0;
        loop {
            tokio::select! {
                said = calls.next() => match said {
                    Ok(said) => {
                        let mut watch = lock(&watch);
                        watch.lines += said.len() as u64;
                        for said in said {
                            watch.detector.syslog_call(&said.program, said.time, &said.text, Timestamp::now());
                        }
                    }
                    Err(error) => {
                        tracing::error!(%error, "the ring of calls of syslog cannot be read any more");
                        return;
                    }
                },
                _ = interval.tick() => {
                    let unformatted = calls.unformatted();
                    if unformatted != told {
                        tracing::warn!(unformatted, "calls of syslog of which no line could be made, in total since the start");
                        told = unformatted;
                    }
                }
            }
        }
    }));
    Ok(())
}
