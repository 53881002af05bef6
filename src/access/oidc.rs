//! OpenID Connect: a JWT that an issuer signed says who its bearer is, so a CI job needs no secret
//! that somebody keeps. A token chooses its issuer, and nothing else: algorithms, keys, audience
//! and rules are the access file's.

mod fetch;
mod key_set;
mod key_store;
mod provider;
mod rule;
mod source;
mod verified;

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use jsonwebtoken::{
    Algorithm, DecodingKey, Header, Validation, dangerous::insecure_decode_claims, decode,
    decode_header, errors::ErrorKind,
};
use serde::Deserialize;

use self::{
    key_set::{KeyNotFound, KeySet},
    verified::{TokenFingerprint, VerifiedTokens, fingerprint},
};
pub(super) use self::{
    key_store::KeyStore,
    provider::{ALGORITHMS, install as install_provider},
    rule::{ClaimPattern, ClaimRule, Claims},
    source::KeySource,
};
use super::{Principal, file::printable, refusal::CredentialRefusal};

/// Since 1970. The claims exp and nbf may have fractions (RFC 7519, section 2).
type NumericDate = f64;

/// One `[[oidc]]`, as the file says it.
#[derive(Debug)]
pub(super) struct OidcSettings {
    pub issuer: String,
    pub audience: Vec<String>,
    pub source: KeySource,
    pub algorithms: Vec<Algorithm>,
    pub leeway: Duration,
    pub rules: Vec<ClaimRule>,
}

/// Settings with the keys and what was verified under them.
#[derive(Debug)]
pub(super) struct Issuer {
    settings: OidcSettings,
    pub keys: Arc<KeyStore>,
    verified: VerifiedTokens,
}

/// Why it is not let in yet.
enum NotAccepted {
    /// Perhaps with newer keys.
    KeyUnknown,
    Refused(CredentialRefusal),
}

impl From<CredentialRefusal> for NotAccepted {
    fn from(refusal: CredentialRefusal) -> Self {
        Self::Refused(refusal)
    }
}

/// Whether it has the form of a JWT, genuine or not.
pub(super) fn looks_like_one(credential: &str) -> bool {
    credential.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// Whose JWT it is. Waits only when it names a key that is not known.
///
/// Dropping the future has no effect on anybody else.
pub(super) async fn authenticate(
    issuers: &[Issuer],
    jwt: &str,
    now: SystemTime,
) -> Result<Principal, CredentialRefusal> {
    let now = now
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs_f64();
    let issuer = route(issuers, jwt)?;
    let fingerprint = fingerprint(jwt);
    let keys = issuer.keys.current();
    if let Some(principal) = issuer.verified.get(&fingerprint, &keys, now) {
        return Ok(principal);
    }
    match issuer.verify(jwt, fingerprint, &keys, now) {
        Err(NotAccepted::KeyUnknown) => issuer.keys.look_again(&keys).await,
        Err(NotAccepted::Refused(refusal)) => return Err(refusal),
        Ok(principal) => return Ok(principal),
    }
    issuer
        .verify(jwt, fingerprint, &issuer.keys.current(), now)
        .map_err(|not| match not {
            NotAccepted::KeyUnknown => {
                issuer.refusal("names a key that is not in the issuer's key set")
            }
            NotAccepted::Refused(refusal) => refusal,
        })
}

/// The issuer that it says it has. Nothing is believed yet.
fn route<'a>(issuers: &'a [Issuer], jwt: &str) -> Result<&'a Issuer, CredentialRefusal> {
    #[derive(Deserialize)]
    struct TokenError {
        iss: String,
    }
    let said = insecure_decode_claims::<TokenError>(jwt)
        .map_err(|_| CredentialRefusal::invalid("a JWT without a readable iss"))?;
    issuers
        .iter()
        .find(|issuer| issuer.settings.issuer == said.iss)
        .ok_or_else(|| CredentialRefusal::invalid("a JWT whose iss is that of no [[oidc]]"))
}

impl Issuer {
    /// With these keys.
    pub(super) fn new(settings: OidcSettings, keys: Arc<KeyStore>) -> Self {
        Self {
            settings,
            keys,
            verified: VerifiedTokens::default(),
        }
    }

    fn verify(
        &self,
        jwt: &str,
        fingerprint: TokenFingerprint,
        keys: &Arc<KeySet>,
        now: NumericDate,
    ) -> Result<Principal, NotAccepted> {
        let header = self.header(jwt)?;
        let key = keys
            .find(header.kid.as_deref(), header.alg)
            .map_err(|no_key| match no_key {
                KeyNotFound::Unknown => NotAccepted::KeyUnknown,
                KeyNotFound::OtherAlgorithm => self
                    .refusal("names a key that is not for its algorithm")
                    .into(),
            })?;
        let claims = self.claims(jwt, key, header.alg)?;
        let principal = self.principal(&claims)?;
        let until = self.in_time(&claims, &principal, now)?;
        self.verified
            .put(fingerprint, keys, principal.clone(), until, now);
        Ok(principal)
    }

    /// What does not fit is refused before any cryptography.
    fn header(&self, jwt: &str) -> Result<Header, CredentialRefusal> {
        let header = decode_header(jwt).map_err(|_| {
            self.refusal("has no readable header, or an algorithm that is not known")
        })?;
        if !self.settings.algorithms.contains(&header.alg) {
            return Err(self.refusal("has an algorithm that is not accepted from this issuer"));
        }
        // An extension that has to be understood (RFC 7515, 4.1.11), and none is.
        if header.crit.is_some() || header.extras.inner().contains_key("b64") {
            return Err(self.refusal("asks for an extension (crit)"));
        }
        Ok(header)
    }

    /// The claims, once the signature, the issuer and the audience are right. Time comes last, by
    /// [`Issuer::in_time`]: only of a token that is right otherwise is it said that it has expired.
    fn claims(
        &self,
        jwt: &str,
        key: &DecodingKey,
        algorithm: Algorithm,
    ) -> Result<Claims, CredentialRefusal> {
        let mut validation = Validation::new(algorithm);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        validation.set_issuer(&[&self.settings.issuer]);
        validation.set_audience(&self.settings.audience);
        validation.validate_exp = false;
        let decoded = decode::<Claims>(jwt, key, &validation);
        decoded
            .map(|token| token.claims)
            .map_err(|error| self.refusal(cause(error.kind())))
    }

    /// Whom the first rule that matches makes of it.
    fn principal(&self, claims: &Claims) -> Result<Principal, CredentialRefusal> {
        let rule = self.settings.rules.iter().find(|rule| rule.matches(claims));
        let rule = rule
            .ok_or_else(|| self.refusal("is genuine, and no [[oidc.rule]] matches its claims"))?;
        let name = claims
            .get(&rule.name)
            .and_then(serde_json::Value::as_str)
            .filter(|name| printable(name));
        let name = name.ok_or_else(|| {
            self.refusal("is genuine, and the claim that names the principal is no name")
        })?;
        Ok(Principal {
            name: format!("oidc:{name}"),
            role: rule.role,
        })
    }

    /// Until when it is valid, if it is now.
    fn in_time(
        &self,
        claims: &Claims,
        principal: &Principal,
        now: NumericDate,
    ) -> Result<NumericDate, CredentialRefusal> {
        let time = |name: &str| match claims.get(name) {
            None => Ok(None),
            Some(claim) => claim
                .as_f64()
                .map(Some)
                .ok_or_else(|| self.refusal(format!("has an {name} that is no time"))),
        };
        let leeway = self.settings.leeway.as_secs_f64();
        let until = time("exp")?.ok_or_else(|| self.refusal("has no exp"))? + leeway;
        let from = time("nbf")?.map(|from| from - leeway);
        if until <= now || from.is_some_and(|from| from > now) {
            return Err(CredentialRefusal::expired(&principal.name));
        }
        Ok(until)
    }

    fn refusal(&self, what: impl std::fmt::Display) -> CredentialRefusal {
        CredentialRefusal::invalid(format!("a JWT of {} {what}", self.settings.issuer))
    }
}

/// In words without anything of the token; the crate's own may quote it.
fn cause(kind: &ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidSignature => "has a signature that does not verify",
        ErrorKind::InvalidAudience => "has another aud",
        ErrorKind::InvalidIssuer => "has another iss",
        ErrorKind::MissingRequiredClaim(claim) => match claim.as_str() {
            "exp" => "has no exp",
            "aud" => "has no aud",
            _ => "has no iss",
        },
        ErrorKind::InvalidAlgorithm => "has an algorithm that is not its key's",
        _ => "cannot be read",
    }
}
