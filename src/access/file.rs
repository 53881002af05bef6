//! The access file: TOML, checked as a whole, so that a daemon never runs on half of one.
//! docs/access.md is its reference.

mod certificate;
mod oidc;

use std::{path::Path, time::SystemTime};

use serde::Deserialize;
use toml::Spanned;

use super::{
    Role,
    certificate::CertificateRule,
    error::{AccessFileError, AccessFileProblem},
    oidc::OidcSettings,
    token::{TokenRule, ValidityPeriod},
};

/// All rules of a file.
#[derive(Debug, Default)]
pub(super) struct FileRules {
    pub tokens: Vec<TokenRule>,
    pub certificates: Vec<CertificateRule>,
    pub issuers: Vec<OidcSettings>,
}

/// A word of the file, with its place.
type SpannedText = Spanned<String>;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawAccessFile {
    #[serde(default)]
    token: Vec<RawToken>,
    #[serde(default)]
    certificate: Vec<Spanned<certificate::RawCertificate>>,
    #[serde(default)]
    oidc: Vec<oidc::RawOidc>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawToken {
    name: SpannedText,
    role: SpannedText,
    sha256: SpannedText,
    expires: Option<SpannedText>,
    not_before: Option<SpannedText>,
}

/// Reads and checks the text of the file at `path`.
pub(super) fn parse(path: &Path, text: &str) -> Result<FileRules, AccessFileError> {
    let rules = toml::from_str::<RawAccessFile>(text)
        .map_err(AccessFileProblem::from)
        .and_then(FileRules::of);
    rules.map_err(|problem| problem.located(path.into(), text))
}

impl FileRules {
    fn of(file: RawAccessFile) -> Result<Self, AccessFileProblem> {
        let mut rules = Self::default();
        for raw in file.token {
            let token = raw.check(&rules.tokens)?;
            rules.tokens.push(token);
        }
        for raw in file.certificate {
            let rule = certificate::check(raw, &rules.certificates)?;
            rules.certificates.push(rule);
        }
        for raw in file.oidc {
            let settings = raw.check(&rules.issuers)?;
            rules.issuers.push(settings);
        }
        Ok(rules)
    }
}

impl RawToken {
    fn check(self, before: &[TokenRule]) -> Result<TokenRule, AccessFileProblem> {
        let name = name(&self.name)?;
        if before.iter().any(|token| token.name == name) {
            return Err(problem(
                &self.name,
                format!("there are two tokens of the name {name}; names are unique"),
            ));
        }
        let digest = self.sha256.get_ref().parse().map_err(|()| {
            let what = "sha256 is not 64 hex digits: it is the SHA-256 of the token, never the \
                token itself";
            problem(&self.sha256, what)
        })?;
        if let Some(other) = before.iter().find(|token| token.digest == digest) {
            return Err(problem(
                &self.sha256,
                format!(
                    "{name} and {} are the same token; make one for each",
                    other.name
                ),
            ));
        }
        let period = ValidityPeriod {
            not_before: time(self.not_before.as_ref())?,
            expires: time(self.expires.as_ref())?,
        };
        if let (Some(begin), Some(end), Some(word)) =
            (period.not_before, period.expires, &self.expires)
            && end <= begin
        {
            return Err(problem(word, "expires is not after not_before"));
        }
        Ok(TokenRule {
            name,
            role: role(&self.role)?,
            digest,
            period,
        })
    }
}

/// A problem with a word.
fn problem<T>(word: &Spanned<T>, text: impl Into<String>) -> AccessFileProblem {
    AccessFileProblem::new(word.span().start, text)
}

fn role(word: &SpannedText) -> Result<Role, AccessFileProblem> {
    word.get_ref()
        .parse()
        .map_err(|()| problem(word, "role is viewer, deployer or admin"))
}

fn name(word: &SpannedText) -> Result<String, AccessFileProblem> {
    match word.get_ref() {
        name if printable(name) => Ok(name.clone()),
        _ => Err(problem(
            word,
            "a name has 1 to 200 characters, and all of them can be seen",
        )),
    }
}

fn time(word: Option<&SpannedText>) -> Result<Option<SystemTime>, AccessFileProblem> {
    let parse = |word: &SpannedText| humantime::parse_rfc3339(word.get_ref());
    word.map(|word| {
        parse(word).map_err(|_| problem(word, "a time is written \"2027-01-01T00:00:00Z\""))
    })
    .transpose()
}

/// Whether a text can be a principal's name: the ledger keeps it, and terminals and logs show it.
/// Characters that turn the direction of writing or cannot be seen would make it look like another.
pub(super) fn printable(text: &str) -> bool {
    let invisible = |c: char| {
        c.is_control()
            || (c.is_whitespace() && c != ' ')
            || matches!(c, '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}' | '\u{180b}'..='\u{180f}'
                | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{2800}' | '\u{3164}'
                | '\u{fe00}'..='\u{fe0f}' | '\u{feff}' | '\u{ffa0}' | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
                | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
    };
    !text.is_empty()
        && text.trim() == text
        && text.chars().count() <= 200
        && !text.chars().any(invisible)
}
