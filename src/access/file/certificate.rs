//! `[[certificate]]` of the access file.

use serde::Deserialize;
use toml::Spanned;

use super::{SpannedText, name, problem, role};
use crate::access::{
    certificate::{CertificateRule, NamePattern},
    error::AccessFileProblem,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    uri: Option<SpannedText>,
    dns: Option<SpannedText>,
    cn: Option<SpannedText>,
    role: SpannedText,
}

/// One rule, which must not stand behind an equal one.
pub(super) fn check(
    raw: Spanned<RawCertificate>,
    before: &[CertificateRule],
) -> Result<CertificateRule, AccessFileProblem> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    let (word, pattern) = match (&raw.uri, &raw.dns, &raw.cn) {
        (Some(uri), None, None) => (uri, NamePattern::uri(&name(uri)?)),
        (None, Some(dns), None) => (dns, NamePattern::dns(&name(dns)?)),
        (None, None, Some(cn)) => (cn, Some(NamePattern::Cn(name(cn)?))),
        _ => {
            return Err(AccessFileProblem::new(
                at,
                "a [[certificate]] has exactly one of uri, dns and cn",
            ));
        }
    };
    let pattern = pattern.ok_or_else(|| match word {
        _ if raw.dns.is_some() => problem(word, "dns is a whole name; a * is not understood"),
        _ => problem(
            word,
            "uri is written scheme://host/path; a * can only be its last segment",
        ),
    })?;
    if before.iter().any(|rule| rule.pattern == pattern) {
        return Err(problem(
            word,
            "an earlier [[certificate]] wants the same name, and the first one wins",
        ));
    }
    Ok(CertificateRule {
        pattern,
        role: role(&raw.role)?,
    })
}
