//! Whom a client certificate names. That the client CA signed it and that its bearer holds the key,
//! the TLS handshake has proved; its time is looked at again, because a connection outlives it.

use std::time::SystemTime;

use x509_cert::{
    Certificate,
    der::{Decode as _, Tag, oid::db::rfc4519::COMMON_NAME},
    ext::pkix::{SubjectAltName, name::GeneralName},
};

use super::{Principal, Role, file::printable, refusal::CredentialRefusal};

/// One `[[certificate]]`.
#[derive(Debug)]
pub(super) struct CertificateRule {
    pub pattern: NamePattern,
    pub role: Role,
}

/// Which name it wants.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum NamePattern {
    /// This SAN URI.
    Uri(String),
    /// A SAN URI with one or more segments after this, which ends with a slash.
    UriUnder(String),
    /// This SAN DNS name, in lower case.
    Dns(String),
    /// This CN, the subject's only one.
    Cn(String),
}

impl NamePattern {
    /// A URI, perhaps with `/*` at its end. `None`: it has no host, or a `*` elsewhere.
    pub(super) fn uri(text: &str) -> Option<Self> {
        let (fixed, pattern) = match text.strip_suffix("/*") {
            Some(parent) => (parent, Self::UriUnder(format!("{parent}/"))),
            None => (text, Self::Uri(text.into())),
        };
        let host = fixed
            .split_once("://")
            .is_some_and(|(scheme, rest)| !scheme.is_empty() && rest.starts_with(in_a_name));
        (host && !fixed.contains('*')).then_some(pattern)
    }

    /// A DNS name. `None`: it has a `*`, or is none.
    pub(super) fn dns(text: &str) -> Option<Self> {
        let fine = !text.is_empty()
            && text
                .chars()
                .all(|c| in_a_name(c) || c == '-' || c == '.' || c == '_');
        fine.then(|| Self::Dns(text.to_ascii_lowercase()))
    }

    /// The certificate's name that it matches.
    fn matched<'a>(&self, names: &'a CertificateNames) -> Option<&'a str> {
        let found = match self {
            Self::Uri(uri) => names.uris.iter().find(|name| *name == uri),
            Self::UriUnder(parent) => names.uris.iter().find(|name| is_under(name, parent)),
            Self::Dns(dns) => names.dns.iter().find(|name| *name == dns),
            Self::Cn(cn) => names.cn.as_ref().filter(|name| *name == cn),
        };
        found.map(String::as_str)
    }
}

fn in_a_name(c: char) -> bool {
    c.is_ascii_alphanumeric()
}

/// A path that could climb out again, or that a reader could take for another, is under nothing.
fn is_under(uri: &str, parent: &str) -> bool {
    let plain = |segment: &str| {
        !matches!(segment, "" | "." | "..") && !segment.contains(['?', '#', '%', '\\'])
    };
    uri.strip_prefix(parent)
        .is_some_and(|rest| rest.split('/').all(plain))
}

/// What a certificate says its bearer is called.
#[derive(Debug, Default)]
struct CertificateNames {
    uris: Vec<String>,
    dns: Vec<String>,
    cn: Option<String>,
}

/// Whose certificate it is: the first rule that matches says so.
pub(super) fn authenticate(
    rules: &[CertificateRule],
    der: &[u8],
    now: SystemTime,
) -> Result<Principal, CredentialRefusal> {
    let certificate = Certificate::from_der(der)
        .map_err(|_| CredentialRefusal::invalid("a certificate that cannot be read"))?;
    let names = CertificateNames::of(&certificate)?;
    let (name, role) = rules
        .iter()
        .find_map(|rule| Some((rule.pattern.matched(&names)?, rule.role)))
        .ok_or_else(|| {
            CredentialRefusal::invalid("a certificate that no [[certificate]] matches")
        })?;
    if !printable(name) {
        return Err(CredentialRefusal::invalid(
            "a certificate whose name cannot be shown",
        ));
    }
    let name = format!("cert:{name}");
    let validity = certificate.tbs_certificate.validity;
    if now < validity.not_before.to_system_time() || now > validity.not_after.to_system_time() {
        return Err(CredentialRefusal::expired(name));
    }
    Ok(Principal { name, role })
}

impl CertificateNames {
    fn of(certificate: &Certificate) -> Result<Self, CredentialRefusal> {
        let mut names = Self {
            cn: common_name(certificate),
            ..Self::default()
        };
        let alternative = certificate.tbs_certificate.get::<SubjectAltName>();
        let alternative = alternative
            .map_err(|_| CredentialRefusal::invalid("a certificate whose SAN cannot be read"))?;
        for name in alternative
            .into_iter()
            .flat_map(|(_, SubjectAltName(names))| names)
        {
            match name {
                GeneralName::UniformResourceIdentifier(uri) => names.uris.push(uri.to_string()),
                GeneralName::DnsName(dns) => names.dns.push(dns.as_str().to_ascii_lowercase()),
                _ => {}
            }
        }
        Ok(names)
    }
}

/// The CN, where there is exactly one: of several nobody knows which is meant.
fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = certificate
        .tbs_certificate
        .subject
        .0
        .iter()
        .flat_map(|part| part.0.iter());
    let mut found = subject.filter(|attribute| attribute.oid == COMMON_NAME);
    let (only, None) = (found.next()?, found.next()) else {
        return None;
    };
    let text = matches!(
        x509_cert::der::Tagged::tag(&only.value),
        Tag::Utf8String | Tag::PrintableString
    );
    std::str::from_utf8(only.value.value())
        .ok()
        .filter(|_| text)
        .map(str::to_owned)
}
