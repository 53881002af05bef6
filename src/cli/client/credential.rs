//! What a client shows and what it wants to be shown: TLS, a certificate, a bearer token. A token
//! goes only where nobody can read it on the way.

use std::{fmt, path::Path, path::PathBuf};

use clap::Args;
use tonic::{
    Request, Status,
    metadata::{Ascii, MetadataValue},
    service::{Interceptor, interceptor::InterceptedService},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::cli::{env_file, exit::CommandExit, file_name::FileNameParser, open_file};

/// A channel that shows the credential with each call.
pub(crate) type AuthenticatedChannel = InterceptedService<Channel, BearerCredential>;

/// Said at each option: a heading for the next ones would hold for those of the commands, too,
/// which come after these.
const HEADING: &str = "TLS and credential";

/// How to speak to the daemon, and as whom.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct SecurityArgs {
    /// Speak TLS; so does an address with https://, and so do the options below.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS", global = true)]
    tls: bool,
    /// The authorities to trust (PEM), instead of the machine's own.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_CA", value_name = "FILE", global = true, value_parser = FileNameParser)]
    tls_ca: Option<PathBuf>,
    /// The name that the daemon's certificate has to be for, instead of the address's host.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TLS_SERVER_NAME", value_name = "NAME", global = true)]
    tls_server_name: Option<String>,
    /// The certificate to show (PEM).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_CLIENT_CERT", value_name = "FILE", requires = "client_key", global = true, value_parser = FileNameParser)]
    client_cert: Option<PathBuf>,
    /// Its key (PEM).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_CLIENT_KEY", value_name = "FILE", requires = "client_cert", global = true, value_parser = FileNameParser)]
    client_key: Option<PathBuf>,
    /// A file with the bearer token to show, of `schemad token new` or a CI job's identity. The
    /// token itself can stand in SCHEMAD_TOKEN; it is no flag, for other users see a process's
    /// arguments.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_TOKEN_FILE", value_name = "FILE", global = true, value_parser = FileNameParser)]
    token_file: Option<PathBuf>,
}

impl SecurityArgs {
    /// Of a command whose flags have other names.
    pub(crate) fn new(
        tls: bool,
        tls_ca: Option<PathBuf>,
        tls_server_name: Option<String>,
        identity: Option<(PathBuf, PathBuf)>,
    ) -> Self {
        let (client_cert, client_key) = identity.unzip();
        Self {
            tls,
            tls_ca,
            tls_server_name,
            client_cert,
            client_key,
            token_file: None,
        }
    }

    pub(crate) fn wants_tls(&self) -> bool {
        self.tls
            || self.tls_ca.is_some()
            || self.tls_server_name.is_some()
            || self.client_cert.is_some()
    }

    pub(crate) fn tls(&self) -> Result<ClientTlsConfig, CommandExit> {
        let mut config = match &self.tls_ca {
            Some(file) => ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(read("--tls-ca", file)?)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        if let Some(name) = &self.tls_server_name {
            config = config.domain_name(name);
        }
        if let Some((certificate, key)) = self.client_cert.as_ref().zip(self.client_key.as_ref()) {
            open_file::warn_if_readable(key);
            let identity = Identity::from_pem(
                read("--client-cert", certificate)?,
                read("--client-key", key)?,
            );
            config = config.identity(identity);
        }
        Ok(config)
    }

    /// The token's name in a message, where there is one that neither stands in `.env` nor lies in
    /// a file beside it.
    pub(crate) fn foreign_token(&self) -> Option<&'static str> {
        let is_own = match self.token()? {
            TokenArgs::File(file) => is_of_env_file("SCHEMAD_TOKEN_FILE", file),
            TokenArgs::Variable(_) => env_file::sets("SCHEMAD_TOKEN"),
        };
        (!is_own).then_some("the token")
    }

    /// The same of the certificate that is shown.
    pub(crate) fn foreign_certificate(&self) -> Option<&'static str> {
        let files = [
            ("SCHEMAD_CLIENT_CERT", &self.client_cert),
            ("SCHEMAD_CLIENT_KEY", &self.client_key),
        ];
        let is_foreign = |(name, file): (&str, &Option<PathBuf>)| {
            file.as_ref()
                .is_some_and(|file| !is_of_env_file(name, file))
        };
        files
            .into_iter()
            .any(is_foreign)
            .then_some("the client's certificate")
    }

    /// Where the token is. A flag beats the environment, which beats `.env`, whichever form each
    /// has.
    fn token(&self) -> Option<TokenArgs<'_>> {
        let variable = std::env::var("SCHEMAD_TOKEN")
            .ok()
            .filter(|token| !token.is_empty());
        match (&self.token_file, variable) {
            (Some(_), Some(token))
                if env_file::decides("SCHEMAD_TOKEN_FILE") && !env_file::sets("SCHEMAD_TOKEN") =>
            {
                Some(TokenArgs::Variable(token))
            }
            (Some(file), _) => Some(TokenArgs::File(file)),
            (None, token) => token.map(TokenArgs::Variable),
        }
    }

    /// The token, if there is one. `private`: nobody can read it on the way.
    pub(crate) fn credential(&self, private: bool) -> Result<BearerCredential, CommandExit> {
        let token = match self.token() {
            Some(TokenArgs::File(file)) => {
                open_file::warn_if_readable(file);
                String::from_utf8_lossy(&read("--token-file", file)?).into_owned()
            }
            Some(TokenArgs::Variable(token)) => token,
            None => return Ok(BearerCredential(None)),
        };
        let word = token.split_whitespace().next().unwrap_or_default();
        if word.eq_ignore_ascii_case("bearer") {
            return Err(CommandExit::usage(
                "the token (SCHEMAD_TOKEN or --token-file) begins with the word `Bearer`, which \
                 schemad writes itself: give only what stands behind it",
            ));
        }
        if !private {
            return Err(CommandExit::usage(
                "a token is set, and it would be sent in plaintext: use https:// (or --tls), or a \
                 loopback address",
            ));
        }
        let mut value: MetadataValue<Ascii> =
            format!("Bearer {}", token.trim()).parse().map_err(|_| {
                CommandExit::usage(
                    "the token (SCHEMAD_TOKEN or --token-file) holds characters that no token has",
                )
            })?;
        value.set_sensitive(true);
        Ok(BearerCredential(Some(value)))
    }
}

/// Where a token comes from.
enum TokenArgs<'a> {
    File(&'a Path),
    Variable(String),
}

/// True for a file that `.env` names and that lies beside it.
fn is_of_env_file(name: &str, file: &Path) -> bool {
    env_file::decides(name) && env_file::is_beside(file)
}

fn read(flag: &str, file: &Path) -> Result<Vec<u8>, CommandExit> {
    std::fs::read(file)
        .map_err(|error| CommandExit::usage(format!("{flag} {}: {error}", file.display())))
}

/// The bearer token of every call, or none.
#[derive(Clone)]
pub(crate) struct BearerCredential(Option<MetadataValue<Ascii>>);

impl fmt::Debug for BearerCredential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() {
            "Credential(…)"
        } else {
            "Credential(none)"
        })
    }
}

impl Interceptor for BearerCredential {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", value.clone());
        }
        Ok(request)
    }
}
