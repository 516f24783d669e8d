//! A way between two processes that can be cut, stalled, or made to swallow what is sent over it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// What the way does with what is sent over it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Condition {
    /// It passes it on.
    Whole,
    /// It keeps it back.
    Stalled,
    /// It swallows it; connections that lost bytes break when this is over.
    Swallowing,
    /// It has no connections.
    Cut,
}

/// A way. Dropping it cuts it for good.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    condition: watch::Sender<Condition>,
    listener: JoinHandle<()>,
}

// === impl Proxy ===

impl Proxy {
    /// A way to an address from a free port of the loopback, whole.
    pub async fn start(to: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let (condition, watched) = watch::channel(Condition::Whole);
        let listener = tokio::spawn(accept(listener, to, watched));
        Ok(Self { address, condition, listener })
    }

    /// Where it begins.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Changes what it does.
    pub fn set(&self, condition: Condition) {
        self.condition.send_replace(condition);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.condition.send_replace(Condition::Cut);
        self.listener.abort();
    }
}

async fn accept(listener: TcpListener, to: SocketAddr, condition: watch::Receiver<Condition>) {
    // Out of descriptors it would spin; a run that comes so far has failed anyway.
    while let Ok((from, _)) = listener.accept().await {
        if *condition.borrow() == Condition::Cut {
            reset(&from);
            continue;
        }
        let condition = condition.clone();
        tokio::spawn(async move {
            // Over a way that swallows, nobody learns that the other end is not there.
            let Ok(to) = TcpStream::connect(to).await else { return reset(&from) };
            let _ = (from.set_nodelay(true), to.set_nodelay(true));
            pass_both(from, to, condition).await;
        });
    }
}

/// Passes bytes on in both directions until one end is closed or the way is cut.
async fn pass_both(mut from: TcpStream, mut to: TcpStream, condition: watch::Receiver<Condition>) {
    let broken = {
        let (mut from_reader, mut from_writer) = from.split();
        let (mut to_reader, mut to_writer) = to.split();
        let there = pass(&mut from_reader, &mut to_writer, condition.clone());
        let back = pass(&mut to_reader, &mut from_writer, condition);
        tokio::pin!(there, back);
        // One end may close its half and still listen.
        tokio::select! {
            passed = &mut there => passed.is_err() || back.await.is_err(),
            passed = &mut back => passed.is_err() || there.await.is_err(),
        }
    };
    if broken {
        reset(&from);
        reset(&to);
    }
}

async fn pass(
    reader: &mut (impl AsyncReadExt + Unpin),
    writer: &mut (impl AsyncWriteExt + Unpin),
    mut condition: watch::Receiver<Condition>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let mut lost = false;
    loop {
        let now = *condition.borrow_and_update();
        let broken = || io::Error::from(io::ErrorKind::ConnectionReset);
        match now {
            Condition::Cut => return Err(broken()),
            Condition::Whole | Condition::Stalled if lost => return Err(broken()),
            Condition::Stalled => {
                condition.changed().await.map_err(|_| broken())?;
                continue;
            }
            Condition::Whole | Condition::Swallowing => {}
        }
        tokio::select! {
            biased;
            changed = condition.changed() => changed.map_err(|_| broken())?,
            read = reader.read(&mut buffer) => {
                let count = read?;
                if now == Condition::Swallowing {
                    lost = true;
                    if count == 0 {
                        condition.wait_for(|now| *now != Condition::Swallowing).await.map_err(|_| broken())?;
                    }
                    continue;
                }
                if count == 0 {
                    return writer.shutdown().await;
                }
                writer.write_all(&buffer[..count]).await?;
            }
        }
    }
}

/// Has the connection end with a reset.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}
