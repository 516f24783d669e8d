//! The way to the enforcer: HTTPS with the certificate pinned at joining. Batches leave one after
//! another, each again and again until it is acked; what arrives meanwhile goes with the next.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use atalaya_program::causes::Causes;
use atalaya_program::host_names::HostNames;
use atalaya_wire::{
    ALLOW_PATH, Ack, AllowList, Batch, Fingerprint, FirstJoin, Grounds, JOIN_PATH, MAX_BATCH, Name,
    NumberedOffence, NumberedRuling, OFFENCES_PATH, Problem, ProblemCode, REPORTS_PATH, RefusedOffence,
    Report, Ruling, UNBAN_PATH, Unban, VERSION,
};
use backon::BackoffBuilder;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, SignatureScheme};
use tokio::sync::watch;

use crate::uplink::membership::Membership;
use crate::uplink::outbox::Outbox;

mod bans;
pub mod fleet_bans;
pub mod membership;
pub mod outbox;
pub mod report;

pub use bans::Following;

/// How long one request may take, and how long a refused sensor waits before it asks again.
const REQUEST_DEADLINE: Duration = Duration::from_secs(20);
pub(crate) const REFUSED_PAUSE: Duration = Duration::from_secs(30);

/// How many offences of a batch that the enforcer took for none are logged one by one, and how many characters of the
/// reason.
const MOST_SAID: usize = 5;
const LONGEST_REASON: usize = 500;

/// A connection to one enforcer.
#[derive(Clone, Debug)]
pub struct Uplink {
    client: reqwest::Client,
    membership: Membership,
    /// Whether the last request was answered: 0 before the first, then 1 for no and 2 for yes.
    answered: Arc<AtomicU8>,
    /// Which ledger the enforcer said last that it has.
    ledger: Arc<watch::Sender<Option<Name>>>,
}

/// Why the enforcer did not take a request.
#[derive(Debug, thiserror::Error)]
pub enum UplinkError {
    /// The client cannot be made.
    #[error("cannot set up HTTPS: {0}")]
    Setup(String),
    /// The certificate is another one than at joining.
    #[error(
        "{url} shows another certificate than the one in the join token: this is not the enforcer that enrolled this sensor, or its certificate was made anew; make sure which, then enrol and join again"
    )]
    Certificate {
        /// Where it was seen.
        url: String,
    },
    /// No connection, or it broke.
    #[error("cannot reach {url}: {reason}")]
    Unreachable {
        /// The enforcer's, as it was joined.
        url: String,
        /// Why, from the outermost cause to the innermost.
        reason: String,
    },
    /// The enforcer answered and refused.
    #[error("{url} refused: {problem}")]
    Refused {
        /// The enforcer's, as it was joined.
        url: String,
        /// A code for programs and a sentence for people, as the enforcer sent them.
        problem: Problem,
    },
}

// === impl UplinkError ===

impl UplinkError {
    /// Why the enforcer refused; `None` where it gave no answer.
    pub fn code(&self) -> Option<ProblemCode> {
        match self {
            Self::Refused { problem, .. } => Some(problem.code),
            _ => None,
        }
    }

    /// How long to wait before sending again, where the enforcer said so.
    pub fn wait(&self) -> Option<Duration> {
        match self {
            Self::Refused { problem, .. } => problem.wait(),
            _ => None,
        }
    }
}

// === impl Uplink ===

impl Uplink {
    /// Prepares the connection; nothing is sent yet.
    pub fn new(membership: Membership) -> Result<Self, UplinkError> {
        let setup = |error: &(dyn std::error::Error + 'static)| UplinkError::Setup(Causes(error).to_string());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|error| setup(&error))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Pinned {
                fingerprint: membership.fingerprint,
                provider,
            }))
            .with_no_client_auth();
        let client = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .no_proxy()
            .dns_resolver(HostNames)
            .connect_timeout(Duration::from_secs(5))
            .timeout(REQUEST_DEADLINE)
            .pool_idle_timeout(None)
            .tcp_keepalive(Duration::from_secs(15))
            .user_agent(concat!("atalaya-sensor/", env!("CARGO_PKG_VERSION")))
            .build()
            .map_err(|error| setup(&error))?;
        Ok(Self { client, membership, answered: Arc::default(), ledger: Arc::default() })
    }

    /// Sends offences until the enforcer has them, for ever. Ends only with its task. `answered` is told what became
    /// of them, before the outbox forgets them; nothing of an enforcer that does not say.
    pub async fn send_all<Kept: Future<Output = ()>>(
        &self,
        outbox: &Outbox,
        answered: impl Fn(Vec<NumberedOffence>, Vec<NumberedRuling>) -> Kept,
    ) {
        loop {
            let offences = outbox.next(MAX_BATCH).await;
            let through = offences.last().map_or(0, |last| last.sequence);
            self.deliver(outbox, offences, &answered).await;
            outbox.acked(through);
        }
    }

    /// Sets this sensor's secret in place of its token's.
    pub async fn set_secret(&self, join: &FirstJoin) -> Result<(), UplinkError> {
        let request = self.client.post(format!("{}{JOIN_PATH}", self.membership.url)).json(join);
        self.body(request).await.map(drop)
    }

    /// Reads the allow list.
    pub async fn allow(&self) -> Result<AllowList, UplinkError> {
        let request = self.client.get(format!("{}{ALLOW_PATH}", self.membership.url));
        let allow: AllowList = self.answer(request).await?;
        self.saw(allow.ledger.as_ref());
        Ok(allow)
    }

    /// Posts a report, once.
    pub async fn report(&self, report: &Report) -> Result<(), UplinkError> {
        let request = self.client.post(format!("{}{REPORTS_PATH}", self.membership.url)).json(report);
        self.body(request).await.map(drop)
    }

    /// Lifts a ban that this sensor asked for.
    pub async fn unban(&self, unban: &Unban) -> Result<(), UplinkError> {
        let request = self.client.post(format!("{}{UNBAN_PATH}", self.membership.url)).json(unban);
        self.body(request).await.map(drop)
    }

    /// Which ledger the enforcer has; `None` before it said so.
    pub fn ledger(&self) -> watch::Receiver<Option<Name>> {
        self.ledger.subscribe()
    }

    /// Where the enforcer is.
    pub fn url(&self) -> &str {
        &self.membership.url
    }

    /// Whether the enforcer answered the last request; `None` before the first.
    pub fn is_connected(&self) -> Option<bool> {
        match self.answered.load(Ordering::Relaxed) {
            0 => None,
            answered => Some(answered == 2),
        }
    }

    /// Delivers offences, in one batch, or in halves where the enforcer cannot take them together.
    async fn deliver<Kept: Future<Output = ()>>(
        &self,
        outbox: &Outbox,
        offences: Vec<NumberedOffence>,
        answered: &impl Fn(Vec<NumberedOffence>, Vec<NumberedRuling>) -> Kept,
    ) {
        let mut stack = vec![offences];
        let mut backoff = backoff();
        let mut told = false;
        while let Some(offences) = stack.pop() {
            let sent = Some(jiff::Timestamp::now());
            let batch = Batch { version: VERSION, outbox: outbox.name().clone(), sent, offences };
            let request = self.client.post(format!("{}{OFFENCES_PATH}", self.membership.url)).json(&batch);
            let began = tokio::time::Instant::now();
            let error = match self.answer::<Ack>(request).await {
                Ok(ack) => {
                    outbox.was_answered(began.elapsed());
                    tracing::debug!(through = ack.through, offences = batch.offences.len(), "acked");
                    warn_refused(&ack.refused);
                    answered(batch.offences, ack.rulings).await;
                    // Of a ledger that is new here the bans that stand are sent again, those just refused not.
                    self.saw(ack.ledger.as_ref());
                    if told {
                        tracing::info!(url = self.membership.url, "the enforcer takes offences again");
                        told = false;
                    }
                    backoff = self::backoff();
                    continue;
                }
                Err(error) => error,
            };
            let code = error.code();
            let mut offences = batch.offences;
            if matches!(code, Some(ProblemCode::Malformed | ProblemCode::TooLarge)) {
                if offences.len() <= 1 {
                    // Sending it for ever would hold back all that follow.
                    tracing::error!(%error, ?offences, "the enforcer cannot take this offence; it is dropped");
                    let refused = |offence: &NumberedOffence| NumberedRuling {
                        sequence: offence.sequence,
                        ruling: Ruling::Refused(Grounds::Unusable),
                    };
                    let rulings = offences.iter().map(refused).collect();
                    answered(offences, rulings).await;
                } else {
                    let later = offences.split_off(offences.len() / 2);
                    stack.push(later);
                    stack.push(offences);
                }
                continue;
            }
            if !told {
                tracing::warn!(%error, "offences wait in the outbox and are sent again until the enforcer has them");
                told = true;
            }
            stack.push(offences);
            let pause = match code {
                Some(ProblemCode::Unauthorized | ProblemCode::UnknownVersion) => REFUSED_PAUSE,
                _ if let Some(wait) = error.wait() => wait,
                _ => backoff.next().unwrap_or(REFUSED_PAUSE),
            };
            tokio::time::sleep(pause).await;
        }
    }

    async fn answer<T: serde::de::DeserializeOwned>(
        &self,
        request: reqwest::RequestBuilder,
    ) -> Result<T, UplinkError> {
        serde_json::from_slice(&self.body(request).await?).map_err(|error| UplinkError::Unreachable {
            url: self.membership.url.clone(),
            reason: format!("the answer is not an enforcer's: {error}"),
        })
    }

    /// The body of an answer that is a success.
    async fn body(&self, request: reqwest::RequestBuilder) -> Result<Vec<u8>, UplinkError> {
        let response = self.open(request).await?;
        Ok(response.bytes().await.map_err(|error| self.failure(&error))?.into())
    }

    /// An answer that is a success, its body still to be read.
    async fn open(&self, request: reqwest::RequestBuilder) -> Result<reqwest::Response, UplinkError> {
        let secret = self.membership.secret.expose();
        let response = request
            .basic_auth(&self.membership.sensor, Some(secret))
            .send()
            .await
            .inspect(|_| self.answered.store(2, Ordering::Relaxed))
            .inspect_err(|_| self.answered.store(1, Ordering::Relaxed))
            .map_err(|error| self.failure(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = response.bytes().await.map_err(|error| self.failure(&error))?;
        let problem = serde_json::from_slice(&body).unwrap_or_else(|_| {
            let code = if status == reqwest::StatusCode::NOT_FOUND {
                ProblemCode::NotFound
            } else {
                ProblemCode::Other
            };
            Problem::new(code, format!("HTTP status {status}, which is not an enforcer's answer"))
        });
        Err(UplinkError::Refused { url: self.membership.url.clone(), problem })
    }

    /// Notes which ledger the enforcer has.
    fn saw(&self, ledger: Option<&Name>) {
        let Some(ledger) = ledger else { return };
        self.ledger.send_if_modified(|known| {
            let is_another = known.as_ref() != Some(ledger);
            if is_another {
                *known = Some(ledger.clone());
            }
            is_another
        });
    }

    fn failure(&self, error: &reqwest::Error) -> UplinkError {
        let url = self.membership.url.clone();
        let reason = Causes(error).to_string();
        if reason.contains(PIN_MISMATCH) {
            UplinkError::Certificate { url }
        } else {
            UplinkError::Unreachable { url, reason }
        }
    }
}

const PIN_MISMATCH: &str = "the certificate is not the pinned one";

/// Accepts one certificate, whatever names it carries; the handshake's signature is still checked,
/// so that the peer has the certificate's key.
#[derive(Debug)]
struct Pinned {
    fingerprint: Fingerprint,
    provider: Arc<CryptoProvider>,
}

// === impl Pinned ===

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if Fingerprint::of(end_entity) == self.fingerprint {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(rustls::Error::General(PIN_MISMATCH.to_owned()))
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// 0.1 s, doubling up to 2 s, each with jitter of as much again: an enforcer that is back, or has room on its disk again,
/// hears of an attacker within four seconds.
pub(crate) fn backoff() -> impl Iterator<Item = Duration> {
    backon::ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(100))
        .with_max_delay(Duration::from_secs(2))
        .with_jitter()
        .without_max_times()
        .build()
}

/// Says what the enforcer will never take. It says so once for each, and the log holds the first few of a batch: where
/// one is wrong the others mostly are in the same way.
fn warn_refused(refused: &[RefusedOffence]) {
    for RefusedOffence { sequence, reason } in refused.iter().take(MOST_SAID) {
        let reason: String = reason.chars().take(LONGEST_REASON).collect();
        tracing::warn!(sequence, reason, "the enforcer took an offence for none: nobody is banned for it");
    }
    let more = refused.len().saturating_sub(MOST_SAID);
    if more > 0 {
        tracing::warn!(offences = more, "the enforcer took more offences of the same batch for none");
    }
}
