//! A daemon that lets in whom its access file names, and everything that a caller can show it.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use rcgen::{KeyPair, PublicKeyData as _};
use ring::{rand::SystemRandom, signature};
use schemad::{
    ClientCertificates, Settings, TlsFiles, internals::access::SecretToken,
    pb::migration_service_client::MigrationServiceClient,
};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    codegen::{Service as _, http},
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity},
};

use super::{Authority, Set, TestDaemon, TestDatabase, daemon::settings, eventually};

const ISSUER: &str = "https://ci.example.org";

/// An issuer of identity tokens, with its key and the key's name.
pub struct Issuer {
    key: KeyPair,
    kid: &'static str,
}

impl Issuer {
    pub fn new(kid: &'static str) -> Self {
        Self {
            key: KeyPair::generate().unwrap(),
            kid,
        }
    }

    pub fn jwks(&self) -> String {
        let point = self.key.der_bytes();
        let [x, y] = [&point[1..33], &point[33..65]].map(|half| BASE64URL.encode(half));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y }] })
            .to_string()
    }

    /// A token that is right, but for what `changes` says.
    pub fn token(&self, changes: Value) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let mut claims = json!({ "iss": ISSUER, "aud": "schemad", "sub": "repo:acme/shop", "exp": now + 600, "repository": "acme/shop" });
        claims
            .as_object_mut()
            .unwrap()
            .extend(changes.as_object().unwrap().clone());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid });
        let signed = [header, claims]
            .map(|part| BASE64URL.encode(part.to_string()))
            .join(".");
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let key =
            signature::EcdsaKeyPair::from_pkcs8(algorithm, &self.key.serialize_der(), &random)
                .unwrap();
        let signature = key.sign(&random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}

/// A daemon that lets in whom its access file names, over TLS.
pub struct Guarded {
    pub folder: tempfile::TempDir,
    pub authority: Authority,
    pub issuer: Issuer,
    pub tokens: BTreeMap<&'static str, SecretToken>,
    pub database: TestDatabase,
    pub daemon: TestDaemon,
}

/// A request that shows a bearer token.
pub fn said<T>(bearer: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<Ascii> = format!("Bearer {bearer}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

/// Everything a caller can show.
#[derive(Clone, Copy, Default)]
pub struct Shown<'a> {
    pub bearer: Option<&'a str>,
    pub certificate: Option<&'a (String, String)>,
}

impl Guarded {
    pub async fn start() -> Self {
        Self::launch(true, |_| {}).await
    }

    /// With other settings.
    pub async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        Self::launch(true, change).await
    }

    /// The same, to which anybody may come.
    pub async fn start_open() -> Self {
        Self::launch(false, |_| {}).await
    }

    async fn launch(closed: bool, change: impl FnOnce(&mut Settings)) -> Self {
        let (folder, authority, issuer) = (
            tempfile::tempdir().unwrap(),
            Authority::new(),
            Issuer::new("one"),
        );
        let path = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.issue("localhost");
        for (name, text) in [
            ("cert.pem", certificate),
            ("key.pem", key),
            ("ca.pem", authority.pem()),
            ("jwks.json", issuer.jwks()),
        ] {
            fs::write(path(name), text).unwrap();
        }
        let names = ["viewer", "deployer", "admin", "expired", "early", "revoked"];
        let tokens: BTreeMap<_, _> = names
            .map(|name| (name, SecretToken::generate().unwrap()))
            .into();
        fs::write(path("access.toml"), access(&path("jwks.json"), &tokens)).unwrap();
        let database = TestDatabase::new().await;
        let mut settings = settings(&database.url);
        settings.access = closed.then(|| path("access.toml"));
        settings.tls = Some(TlsFiles {
            certificate: path("cert.pem"),
            key: path("key.pem"),
            client_ca: Some(path("ca.pem")),
            client_crl: None,
            clients: ClientCertificates::Optional,
        });
        change(&mut settings);
        let set = Set::of(&[
            ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
            ("2_gate", "SELECT pg_advisory_xact_lock(77);", "SELECT 1;"),
        ]);
        let daemon = TestDaemon::launch(settings, &set).await;
        let guarded = Self {
            folder,
            authority,
            issuer,
            tokens,
            database,
            daemon,
        };
        eventually("it is ready", async || {
            let viewer = Shown {
                bearer: Some(guarded.tokens["viewer"].reveal()),
                ..Shown::default()
            };
            let status = guarded
                .answer(viewer, "/schemad.v1.MigrationService/GetStatus")
                .await;
            (status == Code::Ok).then_some(())
        })
        .await;
        guarded
    }

    pub fn channel(&self, certificate: Option<&(String, String)>) -> Channel {
        self.endpoint(certificate).connect_lazy()
    }

    /// A new connection's settings.
    pub fn endpoint(&self, certificate: Option<&(String, String)>) -> Endpoint {
        let mut tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some((certificate, key)) = certificate {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Channel::from_shared(format!("https://{}", self.daemon.address)).unwrap();
        endpoint.tls_config(tls).unwrap()
    }

    /// The code of an empty message's answer, or Ok when a stream begins.
    pub async fn answer(&self, shown: Shown<'_>, path: &str) -> Code {
        let mut request = http::Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(axum::body::Body::from(vec![
                0_u8;
                5
            ])))
            .unwrap();
        if let Some(bearer) = shown.bearer {
            request
                .headers_mut()
                .insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        let mut channel = self.channel(shown.certificate);
        if std::future::poll_fn(|cx| channel.poll_ready(cx))
            .await
            .is_err()
        {
            return Code::Unavailable;
        }
        match channel.call(request).await {
            Ok(response) => {
                Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code())
            }
            Err(_) => Code::Unavailable, // no handshake
        }
    }

    /// A client of MigrationService that shows a token of this kind: `token`, or `identity`.
    pub fn client(&self, kind: &str) -> (MigrationServiceClient<Channel>, MetadataValue<Ascii>) {
        let token = match kind {
            "token" => self.tokens["viewer"].reveal().to_owned(),
            _ => self.issuer.token(json!({})),
        };
        (
            MigrationServiceClient::new(self.channel(None)),
            format!("Bearer {token}").parse().unwrap(),
        )
    }

    /// Writes its certificate, its access file and its issuer's keys again.
    pub fn touch(&self, round: usize) {
        let path = |name: &str| self.folder.path().join(name);
        let (certificate, key) = self.authority.issue("localhost");
        fs::write(path("key.pem"), key).unwrap();
        fs::write(path("cert.pem"), certificate).unwrap();
        let text = access(&path("jwks.json"), &self.tokens);
        fs::write(path("access.toml"), format!("{text}# {round}\n")).unwrap();
        fs::write(
            path("jwks.json"),
            format!("{}{}", self.issuer.jwks(), " ".repeat(round % 2)),
        )
        .unwrap();
    }
}

fn access(jwks: &PathBuf, tokens: &BTreeMap<&str, SecretToken>) -> String {
    let mut text = String::new();
    for (name, secret) in tokens {
        let role = if matches!(*name, "viewer" | "deployer") {
            name
        } else {
            "admin"
        };
        let when = match *name {
            "expired" => "expires = \"2020-01-01T00:00:00Z\"\n",
            "early" => "not_before = \"2120-01-01T00:00:00Z\"\n",
            _ => "",
        };
        text += &format!(
            "[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n{when}",
            secret.digest()
        );
    }
    for (uri, role) in [("ops", "admin"), ("deploy/*", "deployer")] {
        text +=
            &format!("[[certificate]]\nuri = \"spiffe://example.org/{uri}\"\nrole = \"{role}\"\n");
    }
    text + &format!(
        "[[oidc]]\nissuer = \"{ISSUER}\"\naudience = \"schemad\"\njwks = {jwks:?}\n\
         [[oidc.rule]]\nclaims = {{ repository = \"acme/shop\" }}\nrole = \"deployer\"\n"
    )
}
