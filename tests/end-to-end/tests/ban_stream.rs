//! The stream of bans over HTTPS from the enforcer's process to a sensor's client, through a proxy that cuts
//! where the test says.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use atalaya_end_to_end::process::output;
use atalaya_end_to_end::stage::Stage;
use atalaya_enforcer::router::pin::Pin;
use atalaya_sensor::uplink::fleet_bans::{BanChange, Ends};
use atalaya_sensor::uplink::membership::Membership;
use atalaya_sensor::uplink::{Following, Uplink};
use atalaya_wire::{JoinToken, OFFENCES_PATH};
use ipnet::IpNet;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(30);

/// How many bans stand: a snapshot of some 450 kB.
const BANS: u32 = 10_000;

/// Sends on what comes from the enforcer until the connection has had its share, and then cuts it.
struct Proxy {
    address: SocketAddr,
    /// How much a connection may bring, in bytes.
    share: Arc<AtomicU64>,
    /// How much all of them brought.
    brought: Arc<AtomicU64>,
}

/// A sensor's client, and what it holds.
struct Follower {
    changes: mpsc::Receiver<BanChange>,
    following: watch::Receiver<Following>,
    held: BTreeMap<IpNet, Ends>,
    resets: u32,
    bans: u32,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snapshot_that_is_cut_goes_on_where_it_was_and_a_restart_of_the_enforcer_brings_a_new_one()
-> Result<()> {
    let stage = Stage::of_this_test()?;
    stage.write_enforcer_config(&[], "")?;
    let enforcer = stage.start_enforcer()?;
    let token: JoinToken = stage.enrol("web-1")?.parse()?;
    post(&stage, &token, 0..BANS, 3600).await?;

    let proxy = Proxy::start(stage.url().trim_start_matches("https://").parse()?).await?;
    proxy.share.store(150_000, Ordering::SeqCst);
    let mut follower = Follower::start(&proxy, token.clone())?;
    follower.until(|change| *change == BanChange::Whole).await?;
    let brought = proxy.brought.load(Ordering::SeqCst);
    ensure!(follower.held.len() == BANS as usize, "{} bans are held", follower.held.len());
    ensure!(follower.resets == 1, "the snapshot began {} times", follower.resets);
    // What was under way at a cut comes again, and nothing else.
    ensure!(follower.bans < BANS * 2, "{} bans were told", follower.bans);
    ensure!(brought < 1_000_000, "{brought} bytes came over");

    // What happens during a cut, and after it.
    let quiet = follower.bans;
    proxy.share.store(u64::MAX, Ordering::SeqCst);
    post(&stage, &token, BANS..BANS + 1, 3600).await?;
    let new = network(BANS);
    follower.until(|change| matches!(change, BanChange::Ban { network, .. } if *network == new)).await?;
    output(stage.enforcer().args(["unban", &network(3).addr().to_string()]))?;
    follower.until(|change| *change == BanChange::Lift { network: network(3) }).await?;
    ensure!(follower.bans - quiet < 10_000 && follower.resets == 1, "everything came anew");
    let status: Value = serde_json::from_str(&output(stage.enforcer().args(["status", "--json"]))?)?;
    ensure!(status["sensors"]["web-1"]["follows"] == true, "{status:#}");

    // The changes are numbered anew after a start, and the bans stand on.
    enforcer.kill()?;
    follower.following.wait_for(|following| !following.is_connected).await?;
    let _enforcer = stage.start_enforcer()?;
    follower.until(|change| *change == BanChange::Whole).await?;
    ensure!(follower.resets == 2 && follower.held.len() == BANS as usize, "{}", follower.held.len());
    ensure!(!follower.held.contains_key(&network(3)) && follower.held.contains_key(&new));
    let trouble = follower.following.borrow().trouble.clone();
    ensure!(trouble.is_none(), "{trouble:?}");

    // A sensor that is enrolled no more is told no more.
    output(stage.enforcer().args(["revoke", "web-1"]))?;
    let refused = |following: &Following| {
        following.trouble.as_ref().is_some_and(|trouble| trouble.contains("enrolled"))
    };
    tokio::time::timeout(PATIENCE, follower.following.wait_for(refused)).await.context("it goes on")??;
    Ok(())
}

/// Bans of these addresses, for so many seconds.
async fn post(stage: &Stage, token: &JoinToken, numbers: std::ops::Range<u32>, bantime: u32) -> Result<()> {
    let client = reqwest::Client::builder().tls_backend_preconfigured(Pin::new(token.fingerprint).client()?);
    let client = client.no_proxy().build()?;
    let now = jiff::Timestamp::now();
    let numbers: Vec<u32> = numbers.collect();
    for batch in numbers.chunks(1000) {
        let offences: Vec<Value> = batch
            .iter()
            .map(|number| {
                json!({"sequence": number + 1, "jail": "ssh", "address": network(*number).addr(), "time": now,
                       "failures": 3, "bantime": bantime})
            })
            .collect();
        let answer = client
            .post(format!("{}{OFFENCES_PATH}", stage.url()))
            .basic_auth(&token.sensor, Some(token.secret.expose()))
            .json(&json!({"version": 1, "outbox": "test", "offences": offences}))
            .send()
            .await?;
        answer.error_for_status()?;
    }
    Ok(())
}

fn network(number: u32) -> IpNet {
    IpNet::from(std::net::IpAddr::V4(Ipv4Addr::from(0x0B00_0001 + number)))
}

// === impl Proxy ===

impl Proxy {
    async fn start(enforcer: SocketAddr) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let address = listener.local_addr()?;
        let (share, brought) = (Arc::<AtomicU64>::default(), Arc::<AtomicU64>::default());
        let proxy = Self { address, share: share.clone(), brought: brought.clone() };
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (share, brought) = (share.load(Ordering::SeqCst), brought.clone());
                tokio::spawn(async move {
                    if let Ok(server) = TcpStream::connect(enforcer).await {
                        pass(client, server, share, &brought).await;
                    }
                });
            }
        });
        Ok(proxy)
    }
}

/// Passes bytes both ways until one side ends or the server's share is used up.
async fn pass(client: TcpStream, server: TcpStream, mut share: u64, brought: &AtomicU64) {
    let ((mut from_client, mut to_client), (mut from_server, mut to_server)) =
        (client.into_split(), server.into_split());
    let asked = tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
    let mut piece = vec![0; 4096];
    while let Ok(length @ 1..) = from_server.read(&mut piece).await {
        if share < length as u64 || to_client.write_all(&piece[..length]).await.is_err() {
            break;
        }
        share -= length as u64;
        brought.fetch_add(length as u64, Ordering::SeqCst);
    }
    asked.abort();
}

// === impl Follower ===

impl Follower {
    fn start(proxy: &Proxy, token: JoinToken) -> Result<Self> {
        let uplink = Uplink::new(Membership::new(&format!("https://{}", proxy.address), token)?)?;
        let (sink, changes) = mpsc::channel(64);
        let (told, following) = watch::channel(Following::default());
        tokio::spawn(async move { uplink.follow_bans(None, || 0, sink, told).await });
        Ok(Self { changes, following, held: BTreeMap::new(), resets: 0, bans: 0 })
    }

    /// Takes changes up to one that is meant.
    async fn until(&mut self, is_meant: impl Fn(&BanChange) -> bool) -> Result<()> {
        loop {
            let change = tokio::time::timeout(PATIENCE, self.changes.recv()).await;
            let change = change
                .with_context(|| format!("nothing comes: {:?}", *self.following.borrow()))?
                .context("following ended")?;
            let is_last = is_meant(&change);
            match change {
                BanChange::Reset { .. } => {
                    self.resets += 1;
                    // The snapshot is the first thing after it here.
                    self.held.clear();
                }
                BanChange::Ban { network, ends } => {
                    self.bans += 1;
                    self.held.insert(network, ends);
                }
                BanChange::Lift { network } => {
                    self.held.remove(&network);
                }
                BanChange::Whole | BanChange::Reached(_) | BanChange::AllowList => {}
            }
            if is_last {
                return Ok(());
            }
        }
    }
}
