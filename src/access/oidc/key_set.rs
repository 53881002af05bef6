//! A JSON Web Key Set (RFC 7517): the public keys that an issuer signs with at the moment. A key
//! that cannot verify anything here (another kind, for encryption, symmetric) is passed over,
//! because sets are shared with other uses.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, CommonParameters, EllipticCurve, Jwk, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;

/// The usable keys.
#[derive(Debug, Default)]
pub(super) struct KeySet {
    keys: Vec<VerificationKey>,
    /// As it came, to tell whether it changed.
    text: Vec<u8>,
}

#[derive(Debug)]
struct VerificationKey {
    id: Option<String>,
    /// The algorithms of its kind, or the one that it says it is for.
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

#[derive(Deserialize)]
struct RawKeySet {
    keys: Vec<serde_json::Value>,
}

/// Why a token's key is not found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeyNotFound {
    /// The issuer may have begun to use a new one.
    Unknown,
    /// The key exists and is not for that algorithm.
    OtherAlgorithm,
}

impl KeySet {
    /// Reads a document.
    ///
    /// # Errors
    /// What is wrong with it, in words that quote nothing.
    pub(super) fn parse(text: &[u8]) -> Result<Self, String> {
        let document: RawKeySet = serde_json::from_slice(text)
            .map_err(|_| "is not a JSON Web Key Set ({\"keys\": [...]})".to_owned())?;
        let keys: Vec<VerificationKey> = document
            .keys
            .into_iter()
            .filter_map(VerificationKey::of)
            .collect();
        if keys.is_empty() {
            return Err("holds no public key for signatures (RSA, P-256, P-384 or Ed25519)".into());
        }
        Ok(Self {
            keys,
            text: text.to_vec(),
        })
    }

    /// Whether it was read from this.
    pub(super) fn is_of(&self, text: &[u8]) -> bool {
        self.text == text
    }

    /// The key that a token names; one that names none is only understood where there is no choice.
    pub(super) fn find(
        &self,
        id: Option<&str>,
        algorithm: Algorithm,
    ) -> Result<&DecodingKey, KeyNotFound> {
        let mut candidates: Vec<&VerificationKey> = self
            .keys
            .iter()
            .filter(|key| id.is_none() || key.id.as_deref() == id)
            .collect();
        if candidates.is_empty() {
            return Err(KeyNotFound::Unknown);
        }
        candidates.retain(|key| key.algorithms.contains(&algorithm));
        match candidates.as_slice() {
            [only] => Ok(&only.decoding),
            [] => Err(KeyNotFound::OtherAlgorithm),
            _ => Err(KeyNotFound::Unknown),
        }
    }
}

impl VerificationKey {
    fn of(value: serde_json::Value) -> Option<Self> {
        let jwk: Jwk = serde_json::from_value(value).ok()?;
        if !signs(&jwk.common) {
            return None;
        }
        let mut algorithms = of_kind(&jwk.algorithm);
        if let Some(named) = jwk.common.key_algorithm {
            algorithms.retain(|algorithm| named.to_string() == format!("{algorithm:?}"));
        }
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        (!algorithms.is_empty()).then_some(Self {
            id: jwk.common.key_id,
            algorithms,
            decoding,
        })
    }
}

fn signs(common: &CommonParameters) -> bool {
    let used = common
        .public_key_use
        .as_ref()
        .is_none_or(|used| *used == PublicKeyUse::Signature);
    used && common
        .key_operations
        .as_ref()
        .is_none_or(|operations| operations.contains(&KeyOperations::Verify))
}

/// A curve has one algorithm; an RSA key may be used with any of its family. A symmetric key has
/// none here.
fn of_kind(parameters: &AlgorithmParameters) -> Vec<Algorithm> {
    let curve = match parameters {
        AlgorithmParameters::RSA(_) => {
            return jsonwebtoken::AlgorithmFamily::Rsa.algorithms().to_vec();
        }
        AlgorithmParameters::EllipticCurve(key) => &key.curve,
        AlgorithmParameters::OctetKeyPair(key) => &key.curve,
        _ => return Vec::new(),
    };
    match curve {
        EllipticCurve::P256 => vec![Algorithm::ES256],
        EllipticCurve::P384 => vec![Algorithm::ES384],
        EllipticCurve::Ed25519 => vec![Algorithm::EdDSA],
        _ => Vec::new(),
    }
}
