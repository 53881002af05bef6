//! Who gets in: TLS, the access file, and the refusal to be reached from elsewhere without both.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum};

use crate::{
    cli::{exit::CommandExit, file_name::FileNameParser},
    transport::{ClientCertificates, TlsFiles},
};

/// Said at each option: a heading for the next ones would hold for those of the commands, too,
/// which come after these.
const HEADING: &str = "Who gets in";

#[derive(Clone, Debug, Args)]
pub(crate) struct AccessArgs {
    /// Serve TLS with this certificate and the chain behind it (PEM). Read again when it changes,
    /// like the files below.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_CERT", value_name = "FILE", requires = "tls_key", value_parser = FileNameParser)]
    tls_cert: Option<PathBuf>,
    /// The certificate's key (PEM).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_KEY", value_name = "FILE", requires = "tls_cert", value_parser = FileNameParser)]
    tls_key: Option<PathBuf>,
    /// The authorities that sign client certificates (PEM).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_CLIENT_CA", value_name = "FILE", requires = "tls_cert", value_parser = FileNameParser)]
    tls_client_ca: Option<PathBuf>,
    /// What these authorities have revoked (PEM).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_CLIENT_CRL", value_name = "FILE", requires = "tls_client_ca", value_parser = FileNameParser)]
    tls_client_crl: Option<PathBuf>,
    /// Whether clients have to show a certificate [default: optional with --tls-client-ca, else
    /// off].
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_CLIENT_CERTIFICATES", value_enum, value_name = "WHEN", requires = "tls_cert")]
    tls_client_certificates: Option<ClientCertificateMode>,
    /// The file that says who may do what: docs/access.md. Without it anybody who can connect may
    /// do everything.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_ACCESS", value_name = "FILE", value_parser = FileNameParser)]
    access: Option<PathBuf>,
    /// Serve on any address although it is not both encrypted and closed to strangers.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_INSECURE")]
    insecure: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum ClientCertificateMode {
    /// They are not asked for one.
    Off,
    /// Verified where there is one; who shows none needs another credential.
    Optional,
    /// No connection without one.
    Required,
}

impl AccessArgs {
    pub(crate) fn tls(&self) -> Option<TlsFiles> {
        let (certificate, key) = self.tls_cert.clone().zip(self.tls_key.clone())?;
        let clients = match (self.tls_client_certificates, &self.tls_client_ca) {
            (Some(ClientCertificateMode::Required), _) => ClientCertificates::Required,
            (Some(ClientCertificateMode::Optional), _) | (None, Some(_)) => {
                ClientCertificates::Optional
            }
            (Some(ClientCertificateMode::Off), _) | (None, None) => ClientCertificates::Off,
        };
        let (client_ca, client_crl) = (self.tls_client_ca.clone(), self.tls_client_crl.clone());
        Some(TlsFiles {
            certificate,
            key,
            client_ca,
            client_crl,
            clients,
        })
    }

    /// What decides who gets in.
    pub(crate) fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [
            &self.access,
            &self.tls_key,
            &self.tls_client_ca,
            &self.tls_client_crl,
        ]
        .into_iter()
        .flatten()
    }

    /// What holds a secret.
    pub(crate) fn secret_files(&self) -> impl Iterator<Item = &PathBuf> {
        self.tls_key.iter()
    }

    pub(crate) fn access(&self) -> Option<PathBuf> {
        self.access.clone()
    }

    fn is_closed(&self) -> bool {
        self.tls_cert.is_some() && self.access.is_some()
    }

    /// True when it was told to serve although it is open.
    pub(crate) fn insecure(&self) -> bool {
        self.insecure && !self.is_closed()
    }

    /// Refuses to be reached from elsewhere while it is not encrypted, or nobody has to say who
    /// they are.
    pub(crate) fn check(&self, listen: SocketAddr) -> Result<(), CommandExit> {
        if listen.ip().to_canonical().is_loopback() || self.insecure || self.is_closed() {
            return Ok(());
        }
        let missing = match (&self.tls_cert, &self.access) {
            (None, None) => {
                "it has neither TLS (--tls-cert, --tls-key) nor an access file (--access)"
            }
            (None, Some(_)) => {
                "it has no TLS (--tls-cert, --tls-key), so credentials could be read on the way"
            }
            _ => {
                "it has no access file (--access), so whoever can connect could change the \
                schema"
            }
        };
        Err(CommandExit::usage(format!(
            "--listen {listen} can be reached from other machines, and {missing}. Give both, use a \
             loopback address, or insist with --insecure"
        )))
    }
}
