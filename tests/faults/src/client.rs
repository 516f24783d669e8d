//! A client that posts batches by itself, as a shell script with curl would: again and again until they are acked.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use atalaya_wire::{
    Ack, BanTime, Batch, Grounds, JoinToken, Left, Name, NumberedOffence, OFFENCES_PATH, Offence, Ruling,
    Seconds, VERSION,
};
use jiff::{SignedDuration, Timestamp};

use crate::claims::{ClaimId, ClaimKind, ROUNDING};
use crate::invariants::Invariant;
use crate::record::{Record, attacker_address, attacker_prefix};

/// How long one attempt may take, and the pause after it.
const DEADLINE: Duration = Duration::from_secs(3);
const PAUSE: Duration = Duration::from_millis(150);

/// A client, with the clock of its host.
#[derive(Debug)]
pub struct Client {
    http: reqwest::Client,
    url: String,
    token: JoinToken,
    outbox: Name,
    clock_off: SignedDuration,
    /// The last number given. Batches go one after another, so that numbers grow.
    last: tokio::sync::Mutex<u64>,
}

// === impl Client ===

impl Client {
    /// A client that reaches the enforcer at an address, and whose clock is off by so many seconds.
    pub fn new(enforcer: SocketAddr, token: &str, clock_off: i64) -> Result<Self> {
        // The certificate is the enforcer's own, made a moment ago for no name of ours.
        let http =
            reqwest::Client::builder().tls_danger_accept_invalid_certs(true).no_proxy().timeout(DEADLINE);
        Ok(Self {
            http: http.build()?,
            url: format!("https://{enforcer}{OFFENCES_PATH}"),
            token: token.parse()?,
            outbox: "posts".parse()?,
            clock_off: SignedDuration::from_secs(clock_off),
            last: tokio::sync::Mutex::default(),
        })
    }

    /// Posts one batch until it is acked, and takes down what was asked for and what was answered.
    pub async fn post(self: Arc<Self>, attackers: Vec<u16>, bantime: u32, record: Arc<Record>) -> Result<()> {
        let mut last = self.last.lock().await;
        let seen = Timestamp::now();
        let ends = seen + SignedDuration::from_secs(i64::from(bantime));
        let mut offences = Vec::new();
        let mut claims = Vec::new();
        for &attacker in &attackers {
            *last += 1;
            let latest = self.is_right(&record).then_some(ends);
            claims.push(record.ask(attacker_prefix(attacker), ClaimKind::Ban { earliest: ends, latest }));
            let offence = Offence {
                jail: "posted".parse()?,
                address: attacker_address(attacker),
                time: seen + self.clock_off,
                failures: 3,
                bantime: BanTime::For(Seconds(bantime.into())),
                escalation: None,
                evidence: Vec::new(),
            };
            offences.push(NumberedOffence { sequence: *last, offence });
        }
        let rulings = self.deliver(&offences).await;
        let acked = Timestamp::now();
        if rulings.len() != offences.len() {
            bail!("{} rulings on {} offences", rulings.len(), offences.len());
        }
        for ((attacker, claim), ruling) in attackers.iter().zip(&claims).zip(&rulings) {
            // A clock that is off is corrected by what the way took, too.
            record
                .claims()
                .bound(claim, if self.is_right(&record) { ends } else { ends + acked.duration_since(seen) });
            judge(*attacker, claim, *ruling, ends, acked, &record);
        }
        record.tell(format!(
            "acked to {}: {} of {bantime} s, first {}",
            self.token.sensor,
            rulings.len(),
            attackers[0]
        ));
        Ok(())
    }

    /// Whether this client's clock and the enforcer's are what they are to be.
    fn is_right(&self, record: &Record) -> bool {
        self.clock_off.is_zero() && record.clock_spread().is_zero()
    }

    /// Posts until there is an ack.
    async fn deliver(&self, offences: &[NumberedOffence]) -> Vec<Ruling> {
        loop {
            let batch = Batch {
                version: VERSION,
                outbox: self.outbox.clone(),
                sent: Some(Timestamp::now() + self.clock_off),
                offences: offences.to_vec(),
            };
            let (name, secret) = (self.token.sensor.as_str(), self.token.secret.expose());
            let sent = self.http.post(&self.url).basic_auth(name, Some(secret)).json(&batch).send().await;
            if let Ok(answer) = sent
                && answer.status().is_success()
                && let Ok(ack) = answer.json::<Ack>().await
            {
                return ack.rulings.iter().map(|numbered| numbered.ruling).collect();
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Takes down what the enforcer made of an offence, and whether it may.
fn judge(attacker: u16, claim: &ClaimId, ruling: Ruling, ends: Timestamp, acked: Timestamp, record: &Record) {
    let prefix = attacker_prefix(attacker);
    let is_reasoned = match ruling {
        Ruling::Banned { net, ms } => {
            record.claims().done(claim, acked);
            let long_enough = match ms {
                Left::Permanent => true,
                Left::Milliseconds(left) => {
                    acked + SignedDuration::from_millis(left as i64) + ROUNDING + record.clock_spread()
                        >= ends
                }
            };
            net.contains(&attacker_address(attacker)) && long_enough
        }
        // What was asked of others may have been carried out although it was not answered.
        Ruling::Refused(Grounds::Allowed) => {
            record.claims().of(prefix).iter().any(|claim| matches!(claim.kind, ClaimKind::Allow(_)))
        }
        Ruling::Refused(Grounds::Over) => {
            ends <= acked + ROUNDING + record.clock_spread()
                || record
                    .claims()
                    .of(prefix)
                    .iter()
                    .any(|claim| matches!(claim.kind, ClaimKind::Unban | ClaimKind::Allow(_)))
        }
        Ruling::Refused(_) => false,
    };
    if !is_reasoned {
        let what =
            format!("{prefix}, to be banned until {ends:.1}, was answered with {ruling:?} without a reason");
        record.breach(Invariant::NothingAckedIsLost, what);
    }
}
