//! `[[certificate]]` of the access file.

use serde::Deserialize;
use toml::Spanned;

use super::{Word, name, problem, role};
use crate::access::{
    certificate::{Pattern, Rule},
    error::Problem,
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawCertificate {
    uri: Option<Word>,
    dns: Option<Word>,
    cn: Option<Word>,
    role: Word,
}

/// One rule, which must not stand behind an equal one.
pub(super) fn check(raw: Spanned<RawCertificate>, before: &[Rule]) -> Result<Rule, Problem> {
    let at = raw.span().start;
    let raw = raw.into_inner();
    let (word, pattern) = match (&raw.uri, &raw.dns, &raw.cn) {
        (Some(uri), None, None) => (uri, Pattern::uri(&name(uri)?)),
        (None, Some(dns), None) => (dns, Pattern::dns(&name(dns)?)),
        (None, None, Some(cn)) => (cn, Some(Pattern::Cn(name(cn)?))),
        _ => {
            return Err(Problem::new(
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
    Ok(Rule {
        pattern,
        role: role(&raw.role)?,
    })
}
