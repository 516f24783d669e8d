//! Connections a second through a server on the loopback, with the sensor and without: opened, accepted and closed,
//! nothing sent, so that the sensor's share is as large as it can be.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::{KernelBench, PORT, end, median};

/// Rounds with the sensor, and as many without.
const ROUNDS: usize = 9;
/// How many connections are made in a round, one after another.
const CONNECTIONS: u32 = 20_000;

/// A server that accepts and closes.
pub struct Server {
    address: SocketAddr,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What a round took.
pub struct Round {
    count: u32,
    clock: Duration,
}

/// Alternates rounds with and without the sensor.
pub fn rate(bench: &KernelBench) -> Result<()> {
    println!(
        "  connections through a server on the loopback, {ROUNDS} rounds of {CONNECTIONS} each, alternating"
    );
    let server = Server::start()?;
    server.round(CONNECTIONS)?;
    let (mut with, mut without, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        // Who is first changes, so that a load that grows or fades does not favour one.
        let measure_with = || -> Result<f64> {
            let sensor = bench.sensor()?;
            let rate = server.round(CONNECTIONS)?.rate();
            end(sensor)?;
            Ok(rate)
        };
        let measure_without = || Ok::<_, anyhow::Error>(server.round(CONNECTIONS)?.rate());
        let (on, off) = if round % 2 == 0 {
            let on = measure_with()?;
            (on, measure_without()?)
        } else {
            let off = measure_without()?;
            (measure_with()?, off)
        };
        with.push(on);
        without.push(off);
        ratios.push((1.0 - on / off) * 100.0);
    }
    let spread = |values: &[f64]| {
        let least = values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (least, most)
    };
    let (least, most) = spread(&ratios);
    println!("    without {:.0}/s, with {:.0}/s (medians)", median(without), median(with));
    println!(
        "    {:+.1} % fewer (median of the pairs; {least:+.1} to {most:+.1} %; budget: under 3 %)\n",
        median(ratios)
    );
    Ok(())
}

/// Touches a closed port so often.
pub fn closed_ports(count: u32) -> Result<()> {
    // Nobody listens there any more when it is known.
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
    for _ in 0..count {
        let _ = TcpStream::connect(free);
    }
    Ok(())
}

// === impl Server ===

impl Server {
    /// Starts it at the guarded port.
    pub fn start() -> Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, PORT))
            .with_context(|| format!("port {PORT} is in use; the bench needs it"))?;
        let address = listener.local_addr()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            for stream in listener.incoming() {
                drop(stream);
                if stopped.load(Ordering::Relaxed) {
                    return;
                }
            }
        });
        Ok(Self { address, stop, thread: Some(thread) })
    }

    /// Opens so many connections one after another and waits for the end of each.
    pub fn round(&self, count: u32) -> Result<Round> {
        let start = Instant::now();
        for number in 0..count {
            // Many destinations, so that ports are not used up by connections that wait for their end.
            let [.., low] = number.to_be_bytes();
            let address = SocketAddr::new(Ipv4Addr::new(127, 0, 7, low).into(), self.address.port());
            let mut stream = TcpStream::connect(address).with_context(|| format!("connection {number}"))?;
            std::io::Read::read(&mut stream, &mut [0; 1])?;
        }
        Ok(Round { clock: start.elapsed(), count })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        // One more connection, for it to see that.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.address.port()));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

// === impl Round ===

impl Round {
    fn rate(&self) -> f64 {
        f64::from(self.count) / self.clock.as_secs_f64()
    }
}
