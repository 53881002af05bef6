//! Where an issuer's keys come from: a file, a URL, or what the issuer's discovery document names.

use std::path::PathBuf;

use http::Uri;
use serde::Deserialize;

use super::{fetch, key_set::KeySet};

/// Two entries with equal sources have the same keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::access) enum KeySource {
    File(PathBuf),
    Url(Uri),
    /// OpenID Connect Discovery 1.0, section 4.
    Discovery {
        issuer: String,
        document: Uri,
    },
}

#[derive(Deserialize)]
struct DiscoveryDocument {
    issuer: String,
    jwks_uri: String,
}

impl KeySource {
    /// As the access file says it.
    ///
    /// # Errors
    /// What it has to be.
    pub(in crate::access) fn parse(text: &str) -> Result<Self, String> {
        if text.starts_with('/') {
            return Ok(Self::File(text.into()));
        }
        secure(text)
            .map(Self::Url)
            .ok_or_else(|| format!("jwks is an absolute path or a URL; {ONLY_HTTPS}"))
    }

    /// By discovery.
    ///
    /// # Errors
    /// What the issuer has to be for that.
    pub(in crate::access) fn discover(issuer: &str) -> Result<Self, String> {
        let document = format!(
            "{}/.well-known/openid-configuration",
            issuer.trim_end_matches('/')
        );
        match secure(&document) {
            Some(document) => Ok(Self::Discovery {
                issuer: issuer.into(),
                document,
            }),
            None => Err(format!(
                "the issuer has to be a URL, or set jwks; {ONLY_HTTPS}"
            )),
        }
    }

    /// The document as it is now, if it is another than `known` was read from.
    ///
    /// Dropping the future ends the request.
    pub(super) async fn load(&self, known: &KeySet) -> Result<Option<KeySet>, String> {
        let (text, from) = match self {
            Self::File(path) => {
                let path = path.clone();
                let read = tokio::task::spawn_blocking(move || read(&path)).await;
                (read.map_err(|error| error.to_string())??, self.to_string())
            }
            Self::Url(uri) => (fetch::get(uri).await?, fetch::shown(uri)),
            Self::Discovery { issuer, document } => {
                let uri = discovered(issuer, &fetch::get(document).await?)
                    .map_err(|problem| format!("{} {problem}", fetch::shown(document)))?;
                (fetch::get(&uri).await?, fetch::shown(&uri))
            }
        };
        if known.is_of(&text) {
            return Ok(None);
        }
        KeySet::parse(&text)
            .map(Some)
            .map_err(|problem| format!("{from} {problem}"))
    }

    /// The keys of a file, at once; of others, none yet.
    pub(super) fn load_file(&self) -> Result<KeySet, String> {
        match self {
            Self::File(path) => {
                KeySet::parse(&read(path)?).map_err(|problem| format!("{self} {problem}"))
            }
            Self::Url(_) | Self::Discovery { .. } => Ok(KeySet::default()),
        }
    }
}

impl std::fmt::Display for KeySource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Url(uri) | Self::Discovery { document: uri, .. } => {
                f.write_str(&fetch::shown(uri))
            }
        }
    }
}

fn read(path: &PathBuf) -> Result<Vec<u8>, String> {
    let text = std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match text.len() {
        0..=fetch::MOST_BYTES => Ok(text),
        _ => Err(format!(
            "{} is larger than {} bytes",
            path.display(),
            fetch::MOST_BYTES
        )),
    }
}

/// The document has to be the issuer's own, as section 4.3 asks.
fn discovered(issuer: &str, document: &[u8]) -> Result<Uri, String> {
    let found: DiscoveryDocument = serde_json::from_slice(document)
        .map_err(|_| "is not a discovery document with issuer and jwks_uri".to_owned())?;
    if found.issuer != issuer {
        return Err("is another issuer's; write the issuer exactly as the document does".into());
    }
    let follows = |uri: &Uri| uri.scheme_str() == Some("https") || issuer.starts_with("http://");
    secure(&found.jwks_uri)
        .filter(follows)
        .ok_or_else(|| format!("names a jwks_uri that is not used; {ONLY_HTTPS}"))
}

const ONLY_HTTPS: &str =
    "only https is used, and http for a loopback address, without a user or password";

/// A URL over which nobody can put keys of their own.
fn secure(text: &str) -> Option<Uri> {
    let uri: Uri = text.parse().ok()?;
    let authority = uri.authority()?;
    let host = authority.host().trim_matches(['[', ']']);
    let loopback = host == "localhost"
        || host
            .parse()
            .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    let fine = match uri.scheme_str()? {
        "https" => !host.is_empty(),
        "http" => loopback,
        _ => false,
    };
    (fine && !authority.as_str().contains('@')).then_some(uri)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_come_over_https_or_from_this_machine() {
        for fine in [
            "https://x.example/jwks",
            "http://127.0.0.1:8080/k",
            "http://localhost/k",
            "http://[::1]:1/k",
            "/k.json",
        ] {
            assert!(KeySource::parse(fine).is_ok(), "{fine}");
        }
        for wrong in [
            "http://x.example/k",
            "k.json",
            "file:///k",
            "https://u:p@x/k",
            "http://localhost.evil.example/k",
            "https:///k",
            "",
        ] {
            let error = KeySource::parse(wrong).unwrap_err();
            assert!(!error.contains("u:p"), "{error}");
        }
    }

    #[test]
    fn a_discovery_document_is_believed_only_about_its_own_issuer() {
        let of = |issuer: &str, uri: &str| {
            serde_json::json!({"issuer": issuer, "jwks_uri": uri}).to_string()
        };
        let issuer = "https://x.example";
        let good = discovered(issuer, of(issuer, "https://keys.example/k").as_bytes()).unwrap();
        assert_eq!(good, "https://keys.example/k");
        assert!(
            discovered(
                issuer,
                of("https://y.example", "https://keys.example/k").as_bytes()
            )
            .is_err()
        );
        assert!(discovered(issuer, of(issuer, "http://keys.example/k").as_bytes()).is_err());
        assert!(discovered(issuer, b"<html>").is_err());
        let Ok(KeySource::Discovery { document, .. }) = KeySource::discover("https://x.example/")
        else {
            panic!()
        };
        assert_eq!(
            document,
            "https://x.example/.well-known/openid-configuration"
        );
    }
}
