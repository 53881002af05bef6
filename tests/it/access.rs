//! Every method, with every kind of credential: exactly who may do what.

use std::{collections::BTreeMap, fs, path::PathBuf, time::SystemTime};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD as BASE64URL};
use rcgen::{KeyPair, PublicKeyData as _, SanType};
use ring::{rand::SystemRandom, signature};
use schemad::{
    access::{Role, Secret},
    grpc::{
        methods::METHODS,
        pb::{self, migration_service_client::MigrationServiceClient, operation_event::Event},
    },
    transport::{ClientCertificates, TlsFiles},
};
use serde_json::{Value, json};
use tonic::{
    Code, Request, Status,
    codegen::{Service as _, http},
    metadata::{Ascii, MetadataValue},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};

use crate::harness::{
    Authority, Set, TestDaemon, TestDatabase,
    daemon::{Failed, collect, settings},
    eventually,
};

const ISSUER: &str = "https://ci.example.org";

/// An issuer of identity tokens, with its key and the key's name.
struct Issuer {
    key: KeyPair,
    kid: &'static str,
}

impl Issuer {
    fn new(kid: &'static str) -> Self {
        Self { key: KeyPair::generate().unwrap(), kid }
    }

    fn jwks(&self) -> String {
        let point = self.key.der_bytes();
        let [x, y] = [&point[1..33], &point[33..65]].map(|half| BASE64URL.encode(half));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid, "x": x, "y": y }] })
            .to_string()
    }

    /// A token that is right, but for what `changes` says.
    fn token(&self, changes: Value) -> String {
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
        let mut claims = json!({ "iss": ISSUER, "aud": "schemad", "sub": "repo:acme/shop", "exp": now + 600, "repository": "acme/shop" });
        claims.as_object_mut().unwrap().extend(changes.as_object().unwrap().clone());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": self.kid });
        let signed = [header, claims].map(|part| BASE64URL.encode(part.to_string())).join(".");
        let algorithm = &signature::ECDSA_P256_SHA256_FIXED_SIGNING;
        let random = SystemRandom::new();
        let key = signature::EcdsaKeyPair::from_pkcs8(algorithm, &self.key.serialize_der(), &random).unwrap();
        let signature = key.sign(&random, signed.as_bytes()).unwrap();
        format!("{signed}.{}", BASE64URL.encode(signature))
    }
}

/// A daemon that lets in whom its access file names, over TLS.
pub struct Guarded {
    folder: tempfile::TempDir,
    authority: Authority,
    issuer: Issuer,
    tokens: BTreeMap<&'static str, Secret>,
    _database: TestDatabase,
    daemon: TestDaemon,
}

/// Everything a caller can show.
#[derive(Clone, Copy, Default)]
struct Shown<'a> {
    bearer: Option<&'a str>,
    certificate: Option<&'a (String, String)>,
}

impl Guarded {
    pub async fn start() -> Self {
        Self::launch(true).await
    }

    /// The same, to which anybody may come.
    pub async fn start_open() -> Self {
        Self::launch(false).await
    }

    async fn launch(closed: bool) -> Self {
        let (folder, authority, issuer) = (tempfile::tempdir().unwrap(), Authority::new(), Issuer::new("one"));
        let path = |name: &str| folder.path().join(name);
        let (certificate, key) = authority.issue("localhost");
        for (name, text) in
            [("cert.pem", certificate), ("key.pem", key), ("ca.pem", authority.pem()), ("jwks.json", issuer.jwks())]
        {
            fs::write(path(name), text).unwrap();
        }
        let names = ["viewer", "deployer", "admin", "expired", "early", "revoked"];
        let tokens: BTreeMap<_, _> = names.map(|name| (name, Secret::generate().unwrap())).into();
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
        let set = Set::of(&[
            ("1_a", "CREATE TABLE a ();", "DROP TABLE a;"),
            ("2_gate", "SELECT pg_advisory_xact_lock(77);", "SELECT 1;"),
        ]);
        let daemon = TestDaemon::launch(settings, &set).await;
        let guarded = Self { folder, authority, issuer, tokens, _database: database, daemon };
        eventually("it is ready", async || {
            let viewer = Shown { bearer: Some(guarded.tokens["viewer"].reveal()), ..Shown::default() };
            let status = guarded.answer(viewer, "/schemad.v1.MigrationService/GetStatus").await;
            (status == Code::Ok).then_some(())
        })
        .await;
        guarded
    }

    fn channel(&self, certificate: Option<&(String, String)>) -> Channel {
        let mut tls =
            ClientTlsConfig::new().domain_name("localhost").ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some((certificate, key)) = certificate {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Channel::from_shared(format!("https://{}", self.daemon.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }

    /// The code of an empty message's answer, or Ok when a stream begins.
    async fn answer(&self, shown: Shown<'_>, path: &str) -> Code {
        let mut request = http::Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .body(tonic::body::Body::new(axum::body::Body::from(vec![0_u8; 5])))
            .unwrap();
        if let Some(bearer) = shown.bearer {
            request.headers_mut().insert("authorization", format!("Bearer {bearer}").parse().unwrap());
        }
        let mut channel = self.channel(shown.certificate);
        if std::future::poll_fn(|cx| channel.poll_ready(cx)).await.is_err() {
            return Code::Unavailable;
        }
        match channel.call(request).await {
            Ok(response) => Status::from_header_map(response.headers()).map_or(Code::Ok, |status| status.code()),
            Err(_) => Code::Unavailable, // no handshake
        }
    }

    /// A client of MigrationService that shows a token of this kind: `token`, or `identity`.
    pub fn client(&self, kind: &str) -> (MigrationServiceClient<Channel>, MetadataValue<Ascii>) {
        let token = match kind {
            "token" => self.tokens["viewer"].reveal().to_owned(),
            _ => self.issuer.token(json!({})),
        };
        (MigrationServiceClient::new(self.channel(None)), format!("Bearer {token}").parse().unwrap())
    }

    /// Writes its certificate, its access file and its issuer's keys again.
    pub fn touch(&self, round: usize) {
        let path = |name: &str| self.folder.path().join(name);
        let (certificate, key) = self.authority.issue("localhost");
        fs::write(path("key.pem"), key).unwrap();
        fs::write(path("cert.pem"), certificate).unwrap();
        let text = access(&path("jwks.json"), &self.tokens);
        fs::write(path("access.toml"), format!("{text}# {round}\n")).unwrap();
        fs::write(path("jwks.json"), format!("{}{}", self.issuer.jwks(), " ".repeat(round % 2))).unwrap();
    }

    async fn expect(&self, kind: &str, shown: Shown<'_>, expected: impl Fn(Option<Role>, Code) -> Code) {
        for method in METHODS {
            let right = passed(method.path);
            let code = self.answer(shown, method.path).await;
            assert_eq!(code, expected(method.role, right), "{kind} {}", method.path);
        }
    }
}

fn access(jwks: &PathBuf, tokens: &BTreeMap<&str, Secret>) -> String {
    let mut text = String::new();
    for (name, secret) in tokens {
        let role = if matches!(*name, "viewer" | "deployer") { name } else { "admin" };
        let when = match *name {
            "expired" => "expires = \"2020-01-01T00:00:00Z\"\n",
            "early" => "not_before = \"2120-01-01T00:00:00Z\"\n",
            _ => "",
        };
        text += &format!("[[token]]\nname = \"{name}\"\nrole = \"{role}\"\nsha256 = \"{}\"\n{when}", secret.digest());
    }
    for (uri, role) in [("ops", "admin"), ("deploy/*", "deployer")] {
        text += &format!("[[certificate]]\nuri = \"spiffe://example.org/{uri}\"\nrole = \"{role}\"\n");
    }
    text + &format!(
        "[[oidc]]\nissuer = \"{ISSUER}\"\naudience = \"schemad\"\njwks = {jwks:?}\n\
         [[oidc.rule]]\nclaims = {{ repository = \"acme/shop\" }}\nrole = \"deployer\"\n"
    )
}

/// How each method answers an empty message of somebody who may call it.
fn passed(path: &str) -> Code {
    match path.rsplit('/').next().unwrap() {
        "GetStatus"
        | "DescribeSchema"
        | "ListMigrations"
        | "ListOperations"
        | "Apply"
        | "Check"
        | "Watch"
        | "ServerReflectionInfo" => Code::Ok,
        _ => Code::InvalidArgument,
    }
}

/// The code for somebody with this role.
fn with_role(own: Role) -> impl Fn(Option<Role>, Code) -> Code {
    move |least, right| if least.is_none_or(|least| own >= least) { right } else { Code::PermissionDenied }
}

fn refused(least: Option<Role>, right: Code) -> Code {
    if least.is_none() { right } else { Code::Unauthenticated }
}

fn spiffe(authority: &Authority, path: &str) -> (String, String) {
    let uri = format!("spiffe://example.org/{path}");
    authority.issue_with("x", |params| params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())])
}

fn bearer(token: &str) -> Shown<'_> {
    Shown { bearer: Some(token), certificate: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_asks_every_credential_for_its_role() {
    let guarded = Guarded::start().await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();

    guarded.expect("none", Shown::default(), refused).await;
    for role in [Role::Viewer, Role::Deployer, Role::Admin] {
        let token = guarded.tokens[role.as_str()].reveal();
        guarded.expect(role.as_str(), bearer(token), with_role(role)).await;
    }
    let other = Secret::generate().unwrap();
    let strangers = [
        ("garbage", "garbage"),
        ("another token", other.reveal()),
        ("expired token", guarded.tokens["expired"].reveal()),
        ("token before its time", guarded.tokens["early"].reveal()),
    ];
    for (kind, token) in strangers {
        guarded.expect(kind, bearer(token), refused).await;
    }

    let right = guarded.issuer.token(json!({}));
    guarded.expect("identity token", bearer(&right), with_role(Role::Deployer)).await;
    for (kind, changes) in [
        ("expired", json!({ "exp": now - 600 })),
        ("not yet valid", json!({ "nbf": now + 600 })),
        ("another audience", json!({ "aud": "another" })),
        ("another issuer", json!({ "iss": "https://another.example.org" })),
        ("another repository", json!({ "repository": "acme/other" })),
    ] {
        guarded.expect(kind, bearer(&guarded.issuer.token(changes)), refused).await;
    }
    guarded.expect("another key", bearer(&Issuer::new("one").token(json!({}))), refused).await;

    for (path, role) in [("ops", Role::Admin), ("deploy/web", Role::Deployer)] {
        let certificate = spiffe(&guarded.authority, path);
        let shown = Shown { bearer: None, certificate: Some(&certificate) };
        guarded.expect(path, shown, with_role(role)).await;
        // A bad token is not made good by a certificate.
        let shown = Shown { bearer: Some("garbage"), ..shown };
        guarded.expect("garbage with a certificate", shown, refused).await;
    }
    let nobody = spiffe(&guarded.authority, "nobody");
    guarded.expect("an unknown certificate", Shown { bearer: None, certificate: Some(&nobody) }, refused).await;
    let foreign = spiffe(&Authority::new(), "ops");
    let shown = Shown { bearer: None, certificate: Some(&foreign) };
    guarded.expect("another authority's certificate", shown, |_, _| Code::Unavailable).await;

    // Revoked.
    let revoked = guarded.tokens["revoked"].reveal();
    guarded.expect("before it is revoked", bearer(revoked), with_role(Role::Admin)).await;
    let path = guarded.folder.path().join("access.toml");
    let text = fs::read_to_string(&path).unwrap();
    let entry = text.split("[[token]]").find(|entry| entry.contains("\"revoked\"")).unwrap();
    let entry = entry.split("[[certificate]]").next().unwrap();
    fs::write(&path, text.replace(&format!("[[token]]{entry}"), "")).unwrap();
    eventually("it is revoked", async || {
        let code = guarded.answer(bearer(revoked), "/schemad.v1.MigrationService/GetStatus").await;
        (code == Code::Unauthenticated).then_some(())
    })
    .await;
    guarded.expect("revoked", bearer(revoked), refused).await;

    // The issuer's next key.
    let next = Issuer::new("two");
    fs::write(guarded.folder.path().join("jwks.json"), next.jwks()).unwrap();
    eventually("the next key", async || {
        let code = guarded.answer(bearer(&next.token(json!({}))), "/schemad.v1.MigrationService/GetStatus").await;
        (code == Code::Ok).then_some(())
    })
    .await;
    guarded.expect("the next key", bearer(&next.token(json!({}))), with_role(Role::Deployer)).await;
}

fn said<T>(bearer: &str, message: T) -> Request<T> {
    let mut request = Request::new(message);
    let value: MetadataValue<Ascii> = format!("Bearer {bearer}").parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_carry_their_principal_and_a_deployer_cancels_only_its_own() {
    let guarded = Guarded::start().await;
    let gate = guarded._database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
    let [admin, deployer] = ["admin", "deployer"].map(|name| guarded.tokens[name].reveal());
    let mut migrations = MigrationServiceClient::new(guarded.channel(None));
    let mut operations = pb::operation_service_client::OperationServiceClient::new(guarded.channel(None));

    let mut stream = migrations.apply(said(admin, pb::ApplyRequest::default())).await.unwrap().into_inner();
    let accepted = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(accepted.event, Some(Event::Accepted(_))));
    let id = accepted.operation;
    let cancel = || pb::CancelOperationRequest { id: id.clone() };
    let denied = Failed::of(&operations.cancel_operation(said(deployer, cancel())).await.unwrap_err());
    denied.assert(Code::PermissionDenied, "PERMISSION_DENIED");
    assert!(denied.message.contains("token:admin") && denied.message.contains("token:deployer"), "{}", denied.message);
    let get = pb::GetOperationRequest { id: id.clone() };
    let operation = operations.get_operation(said(deployer, get)).await.unwrap().into_inner().operation.unwrap();
    assert_eq!((operation.principal.as_str(), operation.state()), ("token:admin", pb::OperationState::Running));
    let ended = operations.cancel_operation(said(admin, cancel())).await.unwrap().into_inner().operation.unwrap();
    assert_eq!(ended.state(), pb::OperationState::Cancelled);

    let own = migrations.apply(said(deployer, pb::ApplyRequest::default())).await.unwrap().into_inner();
    let mut own = Box::pin(own);
    let id = own.message().await.unwrap().unwrap().event.unwrap().operation;
    let cancel = said(deployer, pb::CancelOperationRequest { id });
    let ended = operations.cancel_operation(cancel).await.unwrap().into_inner().operation.unwrap();
    assert_eq!((ended.principal.as_str(), ended.state()), ("token:deployer", pb::OperationState::Cancelled));

    // What a known caller may not do is in the ledger, what a stranger tried is not.
    let rollback = pb::RollbackRequest { target: Some(pb::rollback_request::Target::All(true)), ..Default::default() };
    let outcome =
        collect(migrations.rollback(said(deployer, rollback.clone())).await, |r: pb::RollbackResponse| r.event).await;
    outcome.failure().assert(Code::PermissionDenied, "PERMISSION_DENIED");
    let outcome =
        collect(migrations.rollback(said("stranger", rollback)).await, |r: pb::RollbackResponse| r.event).await;
    outcome.failure().assert(Code::Unauthenticated, "CREDENTIAL_INVALID");
    let kept = "SELECT string_agg(principal || ' ' || kind || ' ' || reason, ', ' ORDER BY id) FROM schemad.refusals";
    assert_eq!(
        guarded._database.text(kept).await,
        "token:deployer cancel PERMISSION_DENIED, token:deployer rollback PERMISSION_DENIED"
    );
}

/// A connection outlives what is believed of its certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_trusted_any_more_is_refused_on_an_open_connection() {
    let guarded = Guarded::start().await;
    let certificate = spiffe(&guarded.authority, "ops");
    let mut client = MigrationServiceClient::new(guarded.channel(Some(&certificate)));
    client.get_status(pb::GetStatusRequest {}).await.unwrap();
    fs::write(guarded.folder.path().join("ca.pem"), Authority::new().pem()).unwrap();
    let refused = eventually("a refusal", async || client.get_status(pb::GetStatusRequest {}).await.err()).await;
    Failed::of(&refused).assert(Code::Unauthenticated, "CREDENTIAL_INVALID");
}
