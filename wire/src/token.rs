//! The join token: everything that a sensor needs to trust its enforcer and to be trusted.

use std::fmt;
use std::str::FromStr;

use data_encoding::{BASE64URL_NOPAD, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::{Name, NameError};

/// What `atalaya-enforcer enrol NAME` prints and `atalaya-sensor join` takes:
/// `atalaya1:NAME:SECRET:FINGERPRINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JoinToken {
    /// The sensor's name at the enforcer.
    pub sensor: Name,
    /// What proves that a request is this sensor's.
    pub secret: Secret,
    /// SHA-256 of the enforcer's certificate, by which the sensor knows it.
    pub fingerprint: Fingerprint,
}

/// What `atalaya-sensor join` takes: a token whose secret lasts, or one that is good for one join.
/// As text the second is `atalaya2:NAME:SECRET:FINGERPRINT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyToken {
    /// The sensor's secret from now on.
    Lasting(JoinToken),
    /// Its secret lets the sensor set one of its own, once ([`JOIN_PATH`](crate::JOIN_PATH)).
    Once(JoinToken),
}

/// The body of `POST /v1/join`: the secret that the sensor made for itself, of which the enforcer learns the digest alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FirstJoin {
    /// The SHA-256 of the secret's bytes: 64 hexadecimal digits.
    pub digest: String,
}

/// 256 random bits, written in unpadded URL-safe base64. Never shown by `Debug`; compared in
/// constant time.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Secret([u8; 32]);

/// The SHA-256 of a certificate's DER form, written in hexadecimal (colons are accepted).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Fingerprint([u8; 32]);

/// Why a token, a secret or a fingerprint cannot be read. No variant repeats the secret.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The text is not `atalaya1:NAME:SECRET:FINGERPRINT`.
    #[error(
        "this is not a join token: expected `atalaya1:NAME:SECRET:FINGERPRINT` as printed by `atalaya-enforcer enrol`"
    )]
    Shape,
    /// The token is of a later version.
    #[error(
        "this join token has the version `{0}`; this program reads `atalaya1`: use the same release on both sides"
    )]
    Version(String),
    /// The name is not one.
    #[error("the join token's sensor name is wrong: {0}")]
    Name(#[from] NameError),
    /// The secret is damaged.
    #[error(
        "the join token's secret is damaged (expected 43 characters of base64): copy the whole token again"
    )]
    Secret,
    /// The fingerprint is damaged.
    #[error("the certificate fingerprint is damaged: expected 64 hexadecimal digits of SHA-256")]
    Fingerprint,
}

// === impl FirstJoin ===

impl FirstJoin {
    /// Of a secret that was just made.
    pub fn of(secret: &Secret) -> Self {
        Self { digest: HEXLOWER.encode(&secret.digest()) }
    }

    /// The digest's bytes; none where they are not 32.
    pub fn bytes(&self) -> Option<[u8; 32]> {
        HEXLOWER_PERMISSIVE.decode(self.digest.as_bytes()).ok()?.try_into().ok()
    }
}

// === impl JoinToken ===

impl FromStr for JoinToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let mut parts = text.trim().split(':');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some("atalaya1"), Some(name), Some(secret), Some(fingerprint), None) => {
                Ok(Self { sensor: name.parse()?, secret: secret.parse()?, fingerprint: fingerprint.parse()? })
            }
            (Some(version), Some(_), ..) if version.starts_with("atalaya") && version != "atalaya1" => {
                Err(TokenError::Version(version.escape_debug().take(20).collect()))
            }
            _ => Err(TokenError::Shape),
        }
    }
}

impl FromStr for AnyToken {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        match text.trim().strip_prefix("atalaya2:") {
            Some(rest) => Ok(Self::Once(format!("atalaya1:{rest}").parse()?)),
            None => text.parse().map(Self::Lasting),
        }
    }
}

impl AnyToken {
    /// The token as text. It holds the secret: print it to the administrator, log it nowhere.
    pub fn expose(&self) -> String {
        match self {
            Self::Lasting(token) => token.expose(),
            Self::Once(token) => token.expose().replacen("atalaya1:", "atalaya2:", 1),
        }
    }

    /// What is in it.
    pub fn parts(&self) -> &JoinToken {
        match self {
            Self::Lasting(token) | Self::Once(token) => token,
        }
    }
}

impl JoinToken {
    /// The token as text. It holds the secret: print it to the administrator, log it nowhere.
    pub fn expose(&self) -> String {
        format!("atalaya1:{}:{}:{}", self.sensor, self.secret.expose(), self.fingerprint)
    }
}

// === impl Secret ===

impl Secret {
    /// A secret of the given random bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The secret as text.
    pub fn expose(&self) -> String {
        BASE64URL_NOPAD.encode(&self.0)
    }

    /// What the enforcer stores in its place: the SHA-256 of the secret's bytes. The secret is 256
    /// random bits, so that a slow password hash would add nothing.
    pub fn digest(&self) -> [u8; 32] {
        Sha256::digest(self.0).into()
    }
}

impl FromStr for Secret {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let bytes = BASE64URL_NOPAD.decode(text.as_bytes()).map_err(|_| TokenError::Secret)?;
        bytes.try_into().map(Self).map_err(|_| TokenError::Secret)
    }
}

impl TryFrom<String> for Secret {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<Secret> for String {
    fn from(secret: Secret) -> Self {
        secret.expose()
    }
}

impl PartialEq for Secret {
    fn eq(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }
}

impl Eq for Secret {}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

// === impl Fingerprint ===

impl Fingerprint {
    /// The fingerprint of a certificate in DER form.
    pub fn of(certificate: &[u8]) -> Self {
        Self(Sha256::digest(certificate).into())
    }
}

impl FromStr for Fingerprint {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let digits: String = text.trim().chars().filter(|c| *c != ':').collect();
        let bytes = HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).map_err(|_| TokenError::Fingerprint)?;
        bytes.try_into().map(Self).map_err(|_| TokenError::Fingerprint)
    }
}

impl TryFrom<String> for Fingerprint {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, TokenError> {
        text.parse()
    }
}

impl From<Fingerprint> for String {
    fn from(fingerprint: Fingerprint) -> Self {
        fingerprint.to_string()
    }
}

impl fmt::Display for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token() -> JoinToken {
        JoinToken {
            sensor: "web-1".parse().unwrap(),
            secret: Secret::new([7; 32]),
            fingerprint: Fingerprint::of(b"certificate"),
        }
    }

    #[test]
    fn a_token_survives_its_text_form_and_surrounding_white_space() {
        assert_eq!(format!(" {}\n", token().expose()).parse(), Ok(token()));
    }

    #[test]
    fn a_damaged_token_says_which_part_and_never_repeats_the_secret() {
        let text = token().expose();
        let secret = token().secret.expose();
        let damaged = text.replace(&secret, &secret[..40]);
        let error = damaged.parse::<JoinToken>().unwrap_err();
        assert_eq!(error, TokenError::Secret);
        assert!(!error.to_string().contains(&secret[..40]));
        assert_eq!(
            text.replace("atalaya1", "atalaya2").parse::<JoinToken>(),
            Err(TokenError::Version("atalaya2".into()))
        );
        assert_eq!("hello".parse::<JoinToken>(), Err(TokenError::Shape));
    }

    #[test]
    fn debug_output_hides_the_secret() {
        assert!(!format!("{:?}", token()).contains(&token().secret.expose()));
    }
}
