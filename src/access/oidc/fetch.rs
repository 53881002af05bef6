//! One small document over HTTPS. No redirect is followed: whoever serves keys serves them where
//! the issuer says, and a redirect is a way to somewhere that nobody configured.

use std::{sync::Arc, time::Duration};

use http::{StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use rustls::{ClientConfig, RootCertStore, crypto::ring};

use crate::postgres::error::chain;

/// Real ones have 2 to 20 KiB.
pub(super) const MOST_BYTES: usize = 256 * 1024;
/// From the name's look-up to the last byte.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Gets it.
///
/// # Errors
/// In words, with the address but not its query, and without the content.
///
/// Dropping the future closes the connection.
pub(super) async fn get(uri: &Uri) -> Result<Vec<u8>, String> {
    match tokio::time::timeout(TIMEOUT, attempt(uri)).await {
        Ok(result) => result.map_err(|problem| format!("{}: {problem}", shown(uri))),
        Err(_) => Err(format!("{}: no answer within {TIMEOUT:?}", shown(uri))),
    }
}

/// An address for people. Its query may hold a key.
pub(super) fn shown(uri: &Uri) -> String {
    let authority = uri.authority().map_or("", |authority| authority.as_str());
    format!(
        "{}://{authority}{}",
        uri.scheme_str().unwrap_or_default(),
        uri.path()
    )
}

async fn attempt(uri: &Uri) -> Result<Vec<u8>, String> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(tls().await?)
        .https_or_http()
        .enable_http1()
        .build();
    // Made anew each time: one request every few minutes needs no pool, and the system's
    // certificates may have changed.
    let client: Client<_, Full<&'static [u8]>> =
        Client::builder(TokioExecutor::new()).build(connector);
    let request = http::Request::get(uri)
        .header(header::ACCEPT, "application/json")
        .header(
            header::USER_AGENT,
            concat!("schemad/", env!("CARGO_PKG_VERSION")),
        )
        .body(Full::default())
        .map_err(|error| error.to_string())?;
    let response = client
        .request(request)
        .await
        .map_err(|error| chain(&error))?;
    match response.status() {
        StatusCode::OK => {}
        status if status.is_redirection() => {
            return Err(format!(
                "answers with a redirect ({}), which is not followed; set `jwks`",
                status.as_u16()
            ));
        }
        status => return Err(format!("answers with status {}", status.as_u16())),
    }
    let body = Limited::new(response.into_body(), MOST_BYTES)
        .collect()
        .await;
    Ok(body
        .map_err(|error| format!("{error} (at most {MOST_BYTES} bytes are read)"))?
        .to_bytes()
        .to_vec())
}

/// Trusts what the operating system trusts, or SSL_CERT_FILE.
async fn tls() -> Result<ClientConfig, String> {
    let read = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(read.map_err(|error| error.to_string())?.certs);
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
