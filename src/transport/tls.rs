//! TLS of the main listener. Its files are followed, and taken together when they agree:
//! connections that are open keep what they began with, new ones get the new.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, UnixTime, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier, danger::ClientCertVerifier},
    version::{TLS12, TLS13},
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::{revocations::RevocationLists, validity::CertificateValidity};
use crate::transport::{
    pem::problem,
    reload::{ApplyChange, ReloadableFiles},
};

/// Whether clients have to show a certificate.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Not even asked for.
    #[default]
    Off,
    /// Verified where there is one.
    Optional,
    /// No handshake without one.
    Required,
}

/// Where certificates and keys are, as PEM.
#[derive(Clone, Debug)]
pub struct TlsFiles {
    /// The certificate and the chain behind it.
    pub certificate: PathBuf,
    /// Its key.
    pub key: PathBuf,
    /// The authorities of client certificates.
    pub client_ca: Option<PathBuf>,
    /// What they have revoked.
    pub client_crl: Option<PathBuf>,
    /// Who has to show one.
    pub clients: ClientCertificates,
}

/// Why the files cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// One of them cannot be read, or holds something else.
    #[error("{setting} {file}: {cause}")]
    File {
        /// The setting that names it.
        setting: &'static str,
        /// The file.
        file: String,
        /// Why not.
        cause: String,
    },
    /// They do not go together.
    #[error("--tls-cert {certificate} with --tls-key {key}: {cause}")]
    Pair {
        /// The certificate's file.
        certificate: String,
        /// The key's file.
        key: String,
        /// Why not.
        cause: String,
    },
    /// Client certificates need an authority.
    #[error("--tls-client-certificates needs --tls-client-ca, the authorities that sign them")]
    NoClientCa,
    /// Never in practice.
    #[error("TLS cannot be set up: {0}")]
    Setup(String),
}

/// TLS as it is now.
#[derive(Clone)]
pub struct ServerTls {
    files: Arc<TlsFiles>,
    current: Arc<RwLock<CurrentTls>>,
}

/// What the files came to.
#[derive(Clone)]
struct CurrentTls {
    config: Arc<ServerConfig>,
    clients: Option<Arc<dyn ClientCertVerifier>>,
    revocations: Arc<RevocationLists>,
    validity: Arc<CertificateValidity>,
    fingerprint: [u8; 32],
}

impl CurrentTls {
    fn read(files: &TlsFiles, fingerprint: [u8; 32]) -> Result<Self, TlsError> {
        let (clients, revocations) = verifier(files)?;
        let config = Arc::new(config(files, clients.clone())?);
        let validity = Arc::new(validity(files)?);
        Ok(Self {
            config,
            clients,
            revocations: Arc::new(revocations),
            validity,
            fingerprint,
        })
    }
}

/// A client's certificate, which the handshake verified.
#[derive(Debug)]
pub struct VerifiedCertificate {
    chain: Vec<CertificateDer<'static>>,
    /// The files that it was verified with.
    with: [u8; 32],
}

impl VerifiedCertificate {
    /// The certificate, in DER.
    pub fn der(&self) -> &[u8] {
        self.chain
            .first()
            .map_or(&[], |certificate| certificate.as_ref())
    }
}

impl fmt::Debug for ServerTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerTls")
            .field("files", &self.files)
            .finish_non_exhaustive()
    }
}

impl ServerTls {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, and why.
    pub fn open(files: TlsFiles) -> Result<Self, TlsError> {
        let current = CurrentTls::read(&files, fingerprint(&files))?;
        Ok(Self {
            files: Arc::new(files),
            current: Arc::new(RwLock::new(current)),
        })
    }

    /// Whether clients are asked for a certificate.
    pub fn asks_clients(&self) -> bool {
        self.files.clients != ClientCertificates::Off
    }

    /// Whether no connection is let in without a certificate.
    pub fn requires_clients(&self) -> bool {
        self.files.clients == ClientCertificates::Required
    }

    /// The handshake of one connection.
    ///
    /// # Errors
    /// The client's, or the way's.
    pub async fn accept(
        &self,
        stream: TcpStream,
    ) -> std::io::Result<(TlsStream<TcpStream>, Option<VerifiedCertificate>)> {
        let CurrentTls {
            config,
            fingerprint: with,
            ..
        } = self.current();
        let stream = TlsAcceptor::from(config).accept(stream).await?;
        let verified = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| VerifiedCertificate {
                chain: chain.to_vec(),
                with,
            });
        Ok((stream, verified))
    }

    /// False for a certificate that would not be let in any more: its connection may be older than
    /// its revocation.
    pub fn still_trusts(&self, verified: &VerifiedCertificate) -> bool {
        let current = self.current();
        if current.fingerprint == verified.with {
            return true;
        }
        let (Some(clients), Some((certificate, chain))) =
            (current.clients, verified.chain.split_first())
        else {
            return false;
        };
        clients
            .verify_client_cert(certificate, chain, UnixTime::now())
            .is_ok()
    }

    /// The settings that name certificates, and when the first of each expires.
    pub fn certificates_end(&self) -> Vec<(&'static str, SystemTime)> {
        self.current().validity.ends()
    }

    fn current(&self) -> CurrentTls {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

impl ReloadableFiles for ServerTls {
    const NOT_TAKEN: &'static str = "tls.not_reloaded";

    fn read_again(&self) -> Result<Option<ApplyChange>, String> {
        let (tls, now) = (self.clone(), fingerprint(&self.files));
        if now == self.current().fingerprint {
            return Ok(None);
        }
        let new = CurrentTls::read(&self.files, now).map_err(|error| error.to_string())?;
        Ok(Some(Box::new(move || {
            *tls.current.write().unwrap_or_else(PoisonError::into_inner) = new;
            tracing::info!(
                event = "tls.reloaded",
                "new connections use the changed certificates"
            );
        })))
    }

    fn tend(&self) {
        let CurrentTls {
            revocations,
            validity,
            ..
        } = self.current();
        revocations.complain(SystemTime::now());
        validity.complain(SystemTime::now());
    }
}

/// What the files hold, so that a change is seen whatever their times say.
fn fingerprint(files: &TlsFiles) -> [u8; 32] {
    let all = [
        Some(&files.certificate),
        Some(&files.key),
        files.client_ca.as_ref(),
        files.client_crl.as_ref(),
    ];
    let mut digest = Sha256::new();
    for file in all.into_iter().flatten() {
        let bytes = fs::read(file).unwrap_or_default();
        digest.update(bytes.len().to_be_bytes());
        digest.update(bytes);
    }
    digest.finalize().into()
}

/// Who says which clients' certificates are good, and which of them are revoked; nobody when they
/// are not asked for one.
fn verifier(
    files: &TlsFiles,
) -> Result<(Option<Arc<dyn ClientCertVerifier>>, RevocationLists), TlsError> {
    let ca = match (files.clients, &files.client_ca) {
        (ClientCertificates::Off, _) => return Ok((None, RevocationLists::default())),
        (_, None) => return Err(TlsError::NoClientCa),
        (_, Some(ca)) => ca,
    };
    let mut roots = RootCertStore::empty();
    let authorities = certificates("--tls-client-ca", ca)?;
    let revocations = files
        .client_crl
        .as_ref()
        .map(|file| RevocationLists::read(file, &authorities))
        .transpose()?;
    for certificate in authorities {
        roots
            .add(certificate)
            .map_err(|e| of_file("--tls-client-ca", ca, &e))?;
    }
    let provider = Arc::new(ring::default_provider());
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    if let Some(revocations) = &revocations {
        verifier = verifier
            .with_crls(revocations.lists.clone())
            .allow_unknown_revocation_status();
    }
    if files.clients == ClientCertificates::Optional {
        verifier = verifier.allow_unauthenticated();
    }
    let verifier = verifier
        .build()
        .map_err(|e| match (&files.client_crl, &e) {
            (Some(list), VerifierBuilderError::InvalidCrl(_)) => of_file(
                "--tls-client-crl",
                list,
                &"holds a list that is not of version 2, or has no number (RFC 5280, section 5)",
            ),
            _ => of_file("--tls-client-ca", ca, &e),
        })?;
    Ok((Some(verifier), revocations.unwrap_or_default()))
}

fn config(
    files: &TlsFiles,
    clients: Option<Arc<dyn ClientCertVerifier>>,
) -> Result<ServerConfig, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let setup = |error: &dyn fmt::Display| TlsError::Setup(error.to_string());
    let builder = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|e| setup(&e))?;
    let builder = match clients {
        None => builder.with_no_client_auth(),
        Some(verifier) => builder.with_client_cert_verifier(verifier),
    };
    let chain = certificates("--tls-cert", &files.certificate)?;
    let key = PrivateKeyDer::from_pem_file(&files.key)
        .map_err(|e| of_file("--tls-key", &files.key, &problem(&e, "private key")))?;
    let mut config = builder
        .with_single_cert(chain, key)
        .map_err(|e| TlsError::Pair {
            certificate: files.certificate.display().to_string(),
            key: files.key.display().to_string(),
            cause: e.to_string(),
        })?;
    // HTTP/1.1 comes second, so that who speaks only that is told in words that this port does not.
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// How long the certificates are valid that the listener shows, and those of the authorities that
/// it trusts.
fn validity(files: &TlsFiles) -> Result<CertificateValidity, TlsError> {
    let mut validity = CertificateValidity::default();
    validity.add(
        "--tls-cert",
        &files.certificate,
        &certificates("--tls-cert", &files.certificate)?,
    );
    if let Some(ca) = files
        .client_ca
        .as_ref()
        .filter(|_| files.clients != ClientCertificates::Off)
    {
        validity.add("--tls-client-ca", ca, &certificates("--tls-client-ca", ca)?);
    }
    Ok(validity)
}

fn certificates(
    setting: &'static str,
    file: &Path,
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let refuse = |e: pem::Error| of_file(setting, file, &problem(&e, "certificate"));
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(file)
        .map_err(refuse)?
        .collect();
    match found.map_err(refuse)? {
        none if none.is_empty() => Err(of_file(setting, file, &"holds no certificate (PEM)")),
        found => Ok(found),
    }
}

pub(super) fn of_file(setting: &'static str, file: &Path, cause: &dyn fmt::Display) -> TlsError {
    TlsError::File {
        setting,
        file: file.display().to_string(),
        cause: cause.to_string(),
    }
}
