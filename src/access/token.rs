//! Bearer tokens: 256 random bits of which the access file knows only the SHA-256. So much chance
//! needs no slow hash; what is compared is compared in constant time, over all entries.

use std::{fmt, str::FromStr, time::SystemTime};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::rand::{SecureRandom as _, SystemRandom};
use sha2::{Digest as _, Sha256};
use subtle::{ConditionallySelectable as _, ConstantTimeEq as _};

use super::{Principal, Role, refusal::CredentialRefusal};

/// How every token begins, so that scanners for leaked secrets know one.
pub(super) const PREFIX: &str = "schemad_";

/// A token in clear. It cannot print; [`SecretToken::reveal`] gives it to whoever asked for it.
pub struct SecretToken(String);

impl SecretToken {
    /// A new token.
    ///
    /// # Errors
    /// When the operating system has no random numbers.
    pub fn generate() -> Result<Self, &'static str> {
        let mut bytes = [0; 32];
        SystemRandom::new()
            .fill(&mut bytes)
            .map_err(|_| "the operating system gives no random numbers")?;
        Ok(Self(format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))))
    }

    /// The token, to be shown once.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What the access file holds of it.
    pub fn digest(&self) -> TokenDigest {
        TokenDigest::of(&self.0)
    }
}

impl fmt::Debug for SecretToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

/// The SHA-256 of a token; in text, 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TokenDigest([u8; 32]);

impl TokenDigest {
    fn of(token: &str) -> Self {
        Self(Sha256::digest(token).into())
    }
}

impl FromStr for TokenDigest {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let mut bytes = [0; 32];
        if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(());
        }
        for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
            let digits = std::str::from_utf8(digits).map_err(drop)?;
            *byte = u8::from_str_radix(digits, 16).map_err(drop)?;
        }
        Ok(Self(bytes))
    }
}

impl fmt::Display for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for TokenDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenDigest")
    }
}

/// When a credential is valid.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ValidityPeriod {
    pub not_before: Option<SystemTime>,
    pub expires: Option<SystemTime>,
}

impl ValidityPeriod {
    /// Whether `now` lies in it; its end does not.
    pub(super) fn contains(&self, now: SystemTime) -> bool {
        self.not_before.is_none_or(|begin| begin <= now) && self.expires.is_none_or(|end| now < end)
    }
}

/// One `[[token]]`.
#[derive(Debug)]
pub(super) struct TokenRule {
    pub name: String,
    pub role: Role,
    pub digest: TokenDigest,
    pub period: ValidityPeriod,
}

/// Whether it has the form of a token, genuine or not.
pub(super) fn looks_like_one(credential: &str) -> bool {
    credential.starts_with(PREFIX)
}

/// Whose token it is.
pub(super) fn authenticate(
    tokens: &[TokenRule],
    presented: &str,
    now: SystemTime,
) -> Result<Principal, CredentialRefusal> {
    if !well_formed(presented) {
        return Err(CredentialRefusal::invalid(
            "a token that `schemad token new` did not make",
        ));
    }
    let token = find(tokens, TokenDigest::of(presented)).ok_or_else(|| {
        CredentialRefusal::invalid("a token whose SHA-256 is not in the access file")
    })?;
    let name = format!("token:{}", token.name);
    if !token.period.contains(now) {
        return Err(CredentialRefusal::expired(name));
    }
    Ok(Principal {
        name,
        role: token.role,
    })
}

/// Words that a person chose have another form and are refused, whatever the access file holds.
fn well_formed(token: &str) -> bool {
    let random = token
        .strip_prefix(PREFIX)
        .and_then(|encoded| URL_SAFE_NO_PAD.decode(encoded).ok());
    random.is_some_and(|bytes| bytes.len() == 32)
}

/// Walks all entries, wherever the right one stands.
fn find(tokens: &[TokenRule], presented: TokenDigest) -> Option<&TokenRule> {
    let mut found = u64::MAX;
    for (index, token) in (0u64..).zip(tokens) {
        found.conditional_assign(&index, token.digest.0.ct_eq(&presented.0));
    }
    usize::try_from(found)
        .ok()
        .and_then(|index| tokens.get(index))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn token(name: &str, secret: &SecretToken, period: ValidityPeriod) -> TokenRule {
        TokenRule {
            name: name.into(),
            role: Role::Deployer,
            digest: secret.digest(),
            period,
        }
    }

    #[test]
    fn each_token_is_its_own_principal_and_others_are_nobody() {
        let secrets: Vec<SecretToken> = (0..3).map(|_| SecretToken::generate().unwrap()).collect();
        let tokens: Vec<TokenRule> = secrets
            .iter()
            .zip(["a", "b", "c"])
            .map(|(s, name)| token(name, s, ValidityPeriod::default()))
            .collect();
        let now = SystemTime::now();
        for (secret, name) in secrets.iter().zip(["token:a", "token:b", "token:c"]) {
            let principal = authenticate(&tokens, secret.reveal(), now).unwrap();
            assert_eq!(
                principal,
                Principal {
                    name: name.into(),
                    role: Role::Deployer
                }
            );
        }
        let other = SecretToken::generate().unwrap();
        assert!(matches!(
            authenticate(&tokens, other.reveal(), now),
            Err(CredentialRefusal::Invalid(_))
        ));
        assert!(matches!(
            authenticate(&[], other.reveal(), now),
            Err(CredentialRefusal::Invalid(_))
        ));
    }

    #[test]
    fn a_token_outside_its_time_is_expired_and_an_unknown_one_is_not() {
        let now = SystemTime::now();
        let hour = Duration::from_secs(3600);
        let secret = SecretToken::generate().unwrap();
        let over = token(
            "over",
            &secret,
            ValidityPeriod {
                not_before: None,
                expires: Some(now),
            },
        );
        assert_eq!(
            authenticate(&[over], secret.reveal(), now),
            Err(CredentialRefusal::Expired("token:over".into()))
        );
        let early = token(
            "early",
            &secret,
            ValidityPeriod {
                not_before: Some(now + hour),
                expires: None,
            },
        );
        let early = [early];
        assert_eq!(
            authenticate(&early, secret.reveal(), now),
            Err(CredentialRefusal::Expired("token:early".into()))
        );
        assert!(authenticate(&early, secret.reveal(), now + hour).is_ok());
    }

    #[test]
    fn a_password_is_no_token_even_when_its_hash_is_in_the_file() {
        for chosen in ["hunter2", "schemad_hunter2", "schemad_", "schemad_AAAA"] {
            let secret = SecretToken(chosen.into());
            let tokens = [token("weak", &secret, ValidityPeriod::default())];
            assert!(
                matches!(
                    authenticate(&tokens, chosen, SystemTime::now()),
                    Err(CredentialRefusal::Invalid(_))
                ),
                "{chosen}"
            );
        }
    }

    #[test]
    fn a_digest_survives_its_text_and_secrets_do_not_print() {
        let secret = SecretToken::generate().unwrap();
        let digest = secret.digest();
        assert!(digest.to_string().parse() == Ok(digest));
        assert!(digest.to_string().to_uppercase().parse() == Ok(digest));
        for wrong in [
            "",
            "abc",
            &"g".repeat(64),
            &"a".repeat(63),
            &"+1".repeat(32),
        ] {
            assert!(wrong.parse::<TokenDigest>().is_err(), "{wrong}");
        }
        assert_eq!(format!("{secret:?} {digest:?}"), "Secret TokenDigest");
        assert_ne!(secret.reveal(), SecretToken::generate().unwrap().reveal());
    }
}
