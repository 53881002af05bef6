//! `[[oidc]]` of the access file.

use std::{collections::BTreeMap, time::Duration};

use jsonwebtoken::{Algorithm, AlgorithmFamily};
use serde::Deserialize;
use toml::Spanned;

use super::{SpannedText, name, problem, role};
use crate::access::{
    error::AccessFileProblem,
    oidc::{ALGORITHMS, ClaimPattern, ClaimRule, KeySource, OidcSettings},
};

/// For clocks that differ; what everybody else takes.
const LEEWAY: Duration = Duration::from_secs(60);
/// More would be a token's life, not a clock's error.
const MOST_LEEWAY: Duration = Duration::from_secs(600);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawOidc {
    issuer: SpannedText,
    audience: Spanned<OneOrMany>,
    jwks: Option<SpannedText>,
    algorithms: Option<Spanned<Vec<SpannedText>>>,
    leeway: Option<SpannedText>,
    #[serde(default)]
    rule: Vec<RawRule>,
}

#[derive(Deserialize)]
#[serde(untagged, expecting = "audience is a string or a list of strings")]
enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawRule {
    claims: Spanned<BTreeMap<String, String>>,
    role: SpannedText,
    name: Option<SpannedText>,
}

impl RawOidc {
    pub(super) fn check(self, before: &[OidcSettings]) -> Result<OidcSettings, AccessFileProblem> {
        let issuer = name(&self.issuer)?;
        if before.iter().any(|other| other.issuer == issuer) {
            return Err(problem(
                &self.issuer,
                "there are two [[oidc]] of this issuer; put its rules into one",
            ));
        }
        if self.rule.is_empty() {
            return Err(problem(
                &self.issuer,
                "the [[oidc]] has no [[oidc.rule]], so it would let nobody in",
            ));
        }
        Ok(OidcSettings {
            source: source(&self.issuer, self.jwks.as_ref())?,
            audience: audience(self.audience)?,
            algorithms: self
                .algorithms
                .map_or(Ok(ALGORITHMS.to_vec()), algorithms)?,
            leeway: self.leeway.map_or(Ok(LEEWAY), |word| leeway(&word))?,
            rules: self
                .rule
                .into_iter()
                .map(RawRule::check)
                .collect::<Result<_, _>>()?,
            issuer,
        })
    }
}

fn source(
    issuer: &SpannedText,
    jwks: Option<&SpannedText>,
) -> Result<KeySource, AccessFileProblem> {
    match jwks {
        Some(jwks) => KeySource::parse(jwks.get_ref()).map_err(|text| problem(jwks, text)),
        None => KeySource::discover(issuer.get_ref()).map_err(|text| problem(issuer, text)),
    }
}

fn audience(word: Spanned<OneOrMany>) -> Result<Vec<String>, AccessFileProblem> {
    let at = word.span().start;
    let audience = match word.into_inner() {
        OneOrMany::One(only) => vec![only],
        OneOrMany::Many(many) => many,
    };
    if audience.is_empty() || audience.iter().any(String::is_empty) {
        return Err(AccessFileProblem::new(
            at,
            "audience is empty: name what the tokens for this daemon have as aud",
        ));
    }
    Ok(audience)
}

fn algorithms(words: Spanned<Vec<SpannedText>>) -> Result<Vec<Algorithm>, AccessFileProblem> {
    if words.get_ref().is_empty() {
        return Err(problem(&words, "algorithms is empty; leave it out for all"));
    }
    words.into_inner().iter().map(algorithm).collect()
}

fn algorithm(word: &SpannedText) -> Result<Algorithm, AccessFileProblem> {
    match word.get_ref().parse::<Algorithm>() {
        Ok(algorithm) if ALGORITHMS.contains(&algorithm) => Ok(algorithm),
        Ok(algorithm) if algorithm.family() == AlgorithmFamily::Hmac => Err(problem(
            word,
            "HS256, HS384 and HS512 are refused: whoever can check such a token can make one",
        )),
        _ => {
            let all = ALGORITHMS
                .map(|algorithm| format!("{algorithm:?}"))
                .join(", ");
            Err(problem(word, format!("an algorithm is one of {all}")))
        }
    }
}

fn leeway(word: &SpannedText) -> Result<Duration, AccessFileProblem> {
    match humantime::parse_duration(word.get_ref()) {
        Ok(leeway) if leeway <= MOST_LEEWAY => Ok(leeway),
        Ok(_) => Err(problem(word, "leeway is at most 10m; correct the clocks")),
        Err(_) => Err(problem(word, "leeway is a duration, for example \"60s\"")),
    }
}

impl RawRule {
    fn check(self) -> Result<ClaimRule, AccessFileProblem> {
        if self.claims.get_ref().is_empty() {
            return Err(problem(
                &self.claims,
                "claims is empty, so the rule would let in everybody whom the issuer knows",
            ));
        }
        let claims = self.claims.into_inner();
        Ok(ClaimRule {
            claims: claims
                .into_iter()
                .map(|(name, text)| (name, ClaimPattern::parse(&text)))
                .collect(),
            role: role(&self.role)?,
            name: self.name.as_ref().map_or(Ok("sub".into()), name)?,
        })
    }
}
