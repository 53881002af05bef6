//! TLS to the database, as libpq's sslmode means it. Files are read at every connect, so a renewed
//! certificate needs no restart.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error as TlsError, RootCertStore,
    SignatureScheme,
    client::{
        WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_name,
    },
    crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject as _},
    server::ParsedCertificate,
    version::{TLS12, TLS13},
};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::{options::UrlOptions, url::InvalidUrl};
use crate::transport::pem;

/// How the server has to prove who it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerifyMode {
    /// No TLS.
    Disable,
    /// TLS where the server has it; no proof.
    Prefer,
    /// TLS; no proof.
    Require,
    /// TLS; a certificate of a known authority.
    VerifyCa,
    /// TLS; a certificate of a known authority for the host's name.
    VerifyFull,
}

impl VerifyMode {
    /// libpq's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Disable => "disable",
            Self::Prefer => "prefer",
            Self::Require => "require",
            Self::VerifyCa => "verify-ca",
            Self::VerifyFull => "verify-full",
        }
    }

    /// What it proves.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Disable => "no TLS",
            Self::Prefer => "TLS where the server has it, and no proof of who answers",
            Self::Require => "TLS, and no proof of who answers",
            Self::VerifyCa => "a certificate of a known authority",
            Self::VerifyFull => "a certificate of a known authority for the host's name",
        }
    }

    /// Whether the server has to prove who it is.
    pub fn verifies(self) -> bool {
        matches!(self, Self::VerifyCa | Self::VerifyFull)
    }
}

/// What a URL says about TLS.
#[derive(Clone, Debug)]
pub(super) struct DatabaseTls {
    pub mode: VerifyMode,
    roots: RootCertificates,
    /// Certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
    only_13: bool,
    sni: bool,
}

#[derive(Clone, Debug)]
enum RootCertificates {
    /// What the operating system trusts.
    System,
    File(PathBuf),
}

impl DatabaseTls {
    /// The client's certificate and key.
    pub(super) fn identity_files(&self) -> Option<[&Path; 2]> {
        self.identity
            .as_ref()
            .map(|(certificate, key)| [certificate.as_path(), key.as_path()])
    }

    /// Reads the options of a URL.
    pub(super) fn of(options: &UrlOptions) -> Result<Self, InvalidUrl> {
        let get = |name: &str| {
            options
                .get(name)
                .map(String::as_str)
                .filter(|value| !value.is_empty())
        };
        let invalid = |name, problem: &str| {
            Err(InvalidUrl::Option {
                name,
                problem: problem.into(),
            })
        };
        let roots = match get("sslrootcert") {
            Some("system") => Some(RootCertificates::System),
            Some(file) => Some(RootCertificates::File(file.into())),
            None => None,
        };
        let mode = match (get("sslmode"), &roots) {
            // As libpq: whoever names the system's authorities wants the name checked too.
            (None | Some("verify-full"), Some(RootCertificates::System))
            | (Some("verify-full"), _) => VerifyMode::VerifyFull,
            (Some(_), Some(RootCertificates::System)) => {
                return invalid(
                    "sslmode",
                    "is weaker than sslrootcert=system allows: use verify-full",
                );
            }
            // As libpq: with a root certificate, require verifies.
            (Some("verify-ca"), _) | (Some("require"), Some(RootCertificates::File(_))) => {
                VerifyMode::VerifyCa
            }
            (Some("disable"), _) => VerifyMode::Disable,
            (None | Some("allow" | "prefer"), _) => VerifyMode::Prefer,
            (Some("require"), None) => VerifyMode::Require,
            (Some(_), _) => {
                return invalid(
                    "sslmode",
                    "is one of disable, allow, prefer, require, verify-ca, verify-full",
                );
            }
        };
        let identity = match (get("sslcert"), get("sslkey")) {
            (Some(cert), Some(key)) => Some((cert.into(), key.into())),
            (None, None) => None,
            (Some(_), None) => return invalid("sslkey", "is missing; sslcert needs it"),
            (None, Some(_)) => return invalid("sslcert", "is missing; sslkey needs it"),
        };
        let only_13 = match get("ssl_min_protocol_version") {
            None | Some("TLSv1" | "TLSv1.1" | "TLSv1.2") => false,
            Some("TLSv1.3") => true,
            Some(_) => return invalid("ssl_min_protocol_version", "is TLSv1.2 or TLSv1.3"),
        };
        if get("ssl_max_protocol_version").is_some_and(|version| version != "TLSv1.3") {
            return invalid("ssl_max_protocol_version", "can only be TLSv1.3");
        }
        if get("gssencmode") == Some("require") {
            return invalid(
                "gssencmode",
                "cannot be require: schemad does not speak GSSAPI",
            );
        }
        let sni = get("sslsni") != Some("0");
        Ok(Self {
            mode,
            roots: roots.unwrap_or_else(default_roots),
            identity,
            only_13,
            sni,
        })
    }

    /// What connects, with the files as they are now.
    ///
    /// # Errors
    /// Which file cannot be used, and why.
    pub(super) fn connector(&self) -> Result<MakeRustlsConnect, String> {
        let provider = Arc::new(ring::default_provider());
        let verifier = ServerVerifier::new(self, provider.clone())?;
        let versions = if self.only_13 {
            &[&TLS13][..]
        } else {
            &[&TLS13, &TLS12][..]
        };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(|e| e.to_string())?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut config = match self
            .identity
            .as_ref()
            .filter(|_| self.mode != VerifyMode::Disable)
        {
            None => builder.with_no_client_auth(),
            Some((cert, key)) => {
                let chain = certificates(cert)?;
                let parsed = PrivateKeyDer::from_pem_file(key).map_err(|e| {
                    format!(
                        "sslkey {} {}",
                        key.display(),
                        pem::problem(&e, "private key")
                    )
                })?;
                builder.with_client_auth_cert(chain, parsed).map_err(|e| {
                    format!(
                        "sslcert {} with sslkey {}: {e}",
                        cert.display(),
                        key.display()
                    )
                })?
            }
        };
        config.enable_sni = self.sni;
        // sslnegotiation=direct needs it, and PostgreSQL before 17 takes no notice.
        config.alpn_protocols = vec![b"postgresql".to_vec()];
        Ok(MakeRustlsConnect::new(config))
    }

    fn root_store(&self) -> Result<(RootCertStore, Vec<CertificateDer<'static>>), String> {
        let mut store = RootCertStore::empty();
        let roots = match &self.roots {
            RootCertificates::File(file) => certificates(file)?,
            RootCertificates::System => rustls_native_certs::load_native_certs().certs,
        };
        let (added, _) = store.add_parsable_certificates(roots.iter().cloned());
        match added {
            0 => Err(
                "the operating system's certificates cannot be found; name a file with \
                 sslrootcert"
                    .into(),
            ),
            _ => Ok((store, roots)),
        }
    }
}

/// libpq's own file, where there is one; else what the operating system trusts.
fn default_roots() -> RootCertificates {
    let file = std::env::home_dir().map(|home| home.join(".postgresql/root.crt"));
    file.filter(|file| file.exists())
        .map_or(RootCertificates::System, RootCertificates::File)
}

fn certificates(file: &PathBuf) -> Result<Vec<CertificateDer<'static>>, String> {
    let pem = fs::read(file).map_err(|e| format!("{}: {e}", file.display()))?;
    let found = CertificateDer::pem_slice_iter(&pem).collect::<Result<Vec<_>, _>>();
    match found.map_err(|e| format!("{} {}", file.display(), pem::problem(&e, "certificate")))? {
        none if none.is_empty() => Err(format!(
            "{} holds no certificate in PEM form",
            file.display()
        )),
        found => Ok(found),
    }
}

/// Checks as much as the mode asks for, and always that the server holds its certificate's key.
#[derive(Debug)]
struct ServerVerifier {
    provider: Arc<CryptoProvider>,
    /// None: no proof is asked for.
    authorities: Option<RootStore>,
}

#[derive(Debug)]
struct RootStore {
    webpki: Arc<WebPkiServerVerifier>,
    roots: Vec<CertificateDer<'static>>,
    check_name: bool,
}

impl ServerVerifier {
    fn new(tls: &DatabaseTls, provider: Arc<CryptoProvider>) -> Result<Self, String> {
        let authorities = match tls.mode {
            VerifyMode::Disable | VerifyMode::Prefer | VerifyMode::Require => None,
            VerifyMode::VerifyCa | VerifyMode::VerifyFull => {
                let (store, roots) = tls.root_store()?;
                let webpki =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider.clone())
                        .build()
                        .map_err(|e| e.to_string())?;
                Some(RootStore {
                    webpki,
                    roots,
                    check_name: tls.mode == VerifyMode::VerifyFull,
                })
            }
        };
        Ok(Self {
            provider,
            authorities,
        })
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let Some(authorities) = &self.authorities else {
            return Ok(ServerCertVerified::assertion());
        };
        // A self-signed certificate that is itself in sslrootcert: libpq takes it, webpki does not.
        if authorities.roots.iter().any(|root| root == end_entity) {
            if authorities.check_name {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
            }
            return Ok(ServerCertVerified::assertion());
        }
        let verified = authorities.webpki.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        );
        match verified {
            Err(TlsError::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) if !authorities.check_name => Ok(ServerCertVerified::assertion()),
            other => other,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls12_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        verify_tls13_signature(
            message,
            cert,
            signature,
            &self.provider.signature_verification_algorithms,
        )
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
