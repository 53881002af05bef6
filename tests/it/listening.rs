//! The main listener: TLS whose files change under it, and limits that end one client's greed and
//! nobody else's work.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use prost::Message as _;
use schemad::{
    ClientCertificates, Limits, Settings, TlsFiles,
    internals::transport::ServerTls,
    pb::{self, migration_service_client::MigrationServiceClient},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::{
    Code, Request,
    codegen::{Service as _, http},
    transport::{Certificate, Channel, ClientTlsConfig, Identity},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};

use crate::harness::{
    Authority, PATIENCE, Set, TestDaemon, TestDatabase,
    daemon::{Failed, get, settings},
    eventually,
};

/// A folder with a daemon's certificate and the authority of its clients.
struct Files {
    folder: tempfile::TempDir,
    authority: Authority,
}

impl Files {
    fn new() -> Self {
        let files = Self {
            folder: tempfile::tempdir().unwrap(),
            authority: Authority::new(),
        };
        files.renew();
        fs::write(files.path("ca.pem"), files.authority.pem()).unwrap();
        files
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Another certificate for the daemon. The key comes first, so for a moment the two do not go
    /// together.
    fn renew(&self) {
        let (certificate, key) = self.authority.issue("localhost");
        fs::write(self.path("key.pem"), key).unwrap();
        fs::write(self.path("cert.pem"), certificate).unwrap();
    }

    fn tls(&self, clients: ClientCertificates) -> TlsFiles {
        TlsFiles {
            certificate: self.path("cert.pem"),
            key: self.path("key.pem"),
            client_ca: Some(self.path("ca.pem")),
            client_crl: None,
            clients,
        }
    }

    /// A client that trusts the authority and shows `identity`.
    fn channel(&self, daemon: &TestDaemon, identity: Option<&(String, String)>) -> Channel {
        let mut tls = ClientTlsConfig::new()
            .domain_name("localhost")
            .ca_certificate(Certificate::from_pem(self.authority.pem()));
        if let Some((certificate, key)) = identity {
            tls = tls.identity(Identity::from_pem(certificate, key));
        }
        let endpoint = Channel::from_shared(format!("https://{}", daemon.address)).unwrap();
        endpoint.tls_config(tls).unwrap().connect_lazy()
    }
}

async fn serving(channel: Channel) -> bool {
    HealthClient::new(channel)
        .check(HealthCheckRequest::default())
        .await
        .is_ok()
}

async fn launch(change: impl FnOnce(&mut Settings)) -> (TestDatabase, TestDaemon) {
    let database = TestDatabase::new().await;
    let mut settings = settings(&database.url);
    change(&mut settings);
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    (database, daemon)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn client_certificates_are_off_optional_or_required_and_of_the_right_authority() {
    let files = Files::new();
    let (right, wrong) = (
        files.authority.issue("client"),
        Authority::new().issue("client"),
    );
    for (clients, none, of_another) in [
        (ClientCertificates::Off, true, true),
        (ClientCertificates::Optional, true, false),
        (ClientCertificates::Required, false, false),
    ] {
        let (_database, daemon) = launch(|settings| settings.tls = Some(files.tls(clients))).await;
        assert!(
            serving(files.channel(&daemon, Some(&right))).await,
            "{clients:?}"
        );
        assert_eq!(
            serving(files.channel(&daemon, None)).await,
            none,
            "{clients:?} none"
        );
        assert_eq!(
            serving(files.channel(&daemon, Some(&wrong))).await,
            of_another,
            "{clients:?} of another"
        );
        assert!(!serving(daemon.channel()).await, "plaintext");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_certificate_is_taken_and_no_stream_ends() {
    let files = Files::new();
    let (_database, daemon) =
        launch(|settings| settings.tls = Some(files.tls(ClientCertificates::Required))).await;
    let client = files.authority.issue("client");
    let mut health = HealthClient::new(files.channel(&daemon, Some(&client)));
    let current = HealthCheckRequest {
        service: "schemad.schema.current".into(),
    };
    let mut watch = health.watch(current).await.unwrap().into_inner();
    assert_ne!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving
    );
    // Another authority for the daemon and for its clients.
    let renewed = Files::new();
    let other_client = renewed.authority.issue("client");
    for name in ["key.pem", "ca.pem", "cert.pem"] {
        fs::copy(renewed.path(name), files.path(name)).unwrap();
    }
    eventually("the new certificate", async || {
        serving(renewed.channel(&daemon, Some(&other_client)))
            .await
            .then_some(())
    })
    .await;
    assert!(
        !serving(files.channel(&daemon, Some(&client))).await,
        "the old authority's client"
    );
    // One that cannot be used leaves the last.
    fs::write(files.path("cert.pem"), "no certificate").unwrap();
    health.check(HealthCheckRequest::default()).await.unwrap();
    assert!(serving(renewed.channel(&daemon, Some(&other_client))).await);
    let mut client = MigrationServiceClient::new(renewed.channel(&daemon, Some(&other_client)));
    client
        .apply(pb::ApplyRequest {
            queue_timeout: None,
            ..Default::default()
        })
        .await
        .unwrap();
    assert_eq!(
        watch.message().await.unwrap().unwrap().status(),
        ServingStatus::Serving,
        "the stream goes on"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_client_certificate_is_refused_once_the_list_says_so() {
    let files = Files::new();
    let client = files
        .authority
        .issue_with("client", |params| params.serial_number = Some(7.into()));
    fs::write(files.path("crl.pem"), files.authority.revoke(&[])).unwrap();
    let (_database, daemon) = launch(|settings| {
        let tls = files.tls(ClientCertificates::Required);
        settings.tls = Some(TlsFiles {
            client_crl: Some(files.path("crl.pem")),
            ..tls
        });
    })
    .await;
    assert!(serving(files.channel(&daemon, Some(&client))).await);
    fs::write(files.path("crl.pem"), files.authority.revoke(&[7])).unwrap();
    eventually("a refusal", async || {
        (!serving(files.channel(&daemon, Some(&client))).await).then_some(())
    })
    .await;
    assert!(serving(files.channel(&daemon, Some(&files.authority.issue("another")))).await);
    // A list that cannot be read leaves the last one in force.
    fs::write(files.path("crl.pem"), "").unwrap();
    assert!(!serving(files.channel(&daemon, Some(&client))).await);
    let tls = files.tls(ClientCertificates::Required);
    let refused = ServerTls::open(TlsFiles {
        client_crl: Some(files.path("crl.pem")),
        ..tls.clone()
    })
    .unwrap_err();
    assert!(
        refused.to_string().contains("holds no revocation list"),
        "{refused}"
    );
    // One that openssl makes without a configuration: version 1.
    fs::write(
        files.path("crl.pem"),
        "-----BEGIN X509 CRL-----\nMAA=\n-----END X509 CRL-----\n",
    )
    .unwrap();
    let refused = ServerTls::open(TlsFiles {
        client_crl: Some(files.path("crl.pem")),
        ..tls
    })
    .unwrap_err()
    .to_string();
    assert!(
        refused.starts_with("--tls-client-crl ") && refused.contains("crl.pem: holds a list"),
        "{refused}"
    );
}

#[test]
fn files_that_cannot_be_used_are_named() {
    let files = Files::new();
    let refusal = |tls: TlsFiles| ServerTls::open(tls).unwrap_err().to_string();
    let tls = || files.tls(ClientCertificates::Required);
    let missing = Path::new("/nowhere/x.pem").to_path_buf();
    assert!(
        refusal(TlsFiles {
            key: missing.clone(),
            ..tls()
        })
        .starts_with("--tls-key /nowhere/x.pem: ")
    );
    assert!(
        refusal(TlsFiles {
            certificate: missing,
            ..tls()
        })
        .starts_with("--tls-cert /nowhere/x.pem: ")
    );
    assert!(
        refusal(TlsFiles {
            certificate: files.path("key.pem"),
            ..tls()
        })
        .contains("holds no certificate")
    );
    assert!(
        refusal(TlsFiles {
            client_ca: None,
            ..tls()
        })
        .contains("--tls-client-ca")
    );
    fs::write(
        files.path("other.pem"),
        files.authority.issue("localhost").1,
    )
    .unwrap();
    let mixed = refusal(TlsFiles {
        key: files.path("other.pem"),
        ..tls()
    });
    assert!(
        mixed.contains("cert.pem with --tls-key") && mixed.contains("other.pem"),
        "{mixed}"
    );
}

#[track_caller]
fn exhausted<T: std::fmt::Debug>(result: Result<T, tonic::Status>, reason: &str) {
    Failed::of(&result.unwrap_err()).assert(Code::ResourceExhausted, reason);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_is_over_a_limit_is_told_and_nobody_else_notices() {
    let limits = Limits {
        streams_per_connection: 4,
        watchers: 8,
        watchers_per_client: 6,
        watched_names: 3,
        header_bytes: 2048,
        message_bytes: 10_000,
        ..Limits::default()
    };
    let (_database, daemon) = launch(|settings| settings.limits = limits).await;
    daemon.until_ready().await;

    // Streams of one connection.
    let mut health = daemon.health();
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(
            health
                .watch(HealthCheckRequest::default())
                .await
                .unwrap()
                .into_inner(),
        );
    }
    // Over HTTP/2's own limit a client waits.
    let waits = tokio::time::timeout(
        Duration::from_millis(200),
        health.check(HealthCheckRequest::default()),
    )
    .await;
    assert!(waits.is_err(), "{waits:?}");
    daemon
        .health()
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    // Watchers of one client.
    let mut another = daemon.health();
    for _ in 0..2 {
        open.push(
            another
                .watch(HealthCheckRequest::default())
                .await
                .unwrap()
                .into_inner(),
        );
    }
    exhausted(
        another.watch(HealthCheckRequest::default()).await,
        "TOO_MANY_WATCHERS",
    );
    open.clear();
    // Names.
    let applied = |n: usize| HealthCheckRequest {
        service: format!("schemad.schema.applied.{n}"),
    };
    eventually("room", async || {
        health
            .watch(applied(0))
            .await
            .ok()
            .map(|w| open.push(w.into_inner()))
    })
    .await;
    open.push(health.watch(applied(1)).await.unwrap().into_inner());
    open.push(health.watch(applied(2)).await.unwrap().into_inner());
    exhausted(another.watch(applied(3)).await, "TOO_MANY_WATCHERS");
    open.push(another.watch(applied(2)).await.unwrap().into_inner());
    // Messages and headers.
    let version = "1".repeat(20_000);
    exhausted(
        daemon
            .client()
            .get_migration(pb::GetMigrationRequest {
                version,
                ..Default::default()
            })
            .await,
        "MESSAGE_TOO_LARGE",
    );
    let service = "s".repeat(5000);
    exhausted(
        daemon.health().check(HealthCheckRequest { service }).await,
        "MESSAGE_TOO_LARGE",
    );
    let mut request = Request::new(pb::GetStatusRequest {
        ..Default::default()
    });
    request
        .metadata_mut()
        .insert("x-large", "x".repeat(3000).parse().unwrap());
    exhausted(
        daemon.client().get_status(request).await,
        "HEADERS_TOO_LARGE",
    );
    daemon.apply_all().await.finished();
}

/// HTTP/2 itself refuses what is larger than four times the limit, before anybody could say it in
/// gRPC's words.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn headers_that_are_far_too_large_are_refused_by_http_and_the_connection_goes_on() {
    let (_database, daemon) = launch(|_| {}).await;
    daemon.until_ready().await;
    let mut client = daemon.health();
    let check = |size: usize| {
        let mut request = Request::new(HealthCheckRequest::default());
        for n in 0..8 {
            let name: tonic::metadata::MetadataKey<_> = format!("x-{n}").parse().unwrap();
            request
                .metadata_mut()
                .insert(name, "x".repeat(size / 8).parse().unwrap());
        }
        request
    };
    for (size, code) in [
        (60 << 10, Code::ResourceExhausted),
        (70 << 10, Code::Unknown),
    ] {
        let refused = client.check(check(size)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{size}: {refused:?}");
        client.check(check(0)).await.unwrap();
    }
    let metrics = get(&daemon.admin, "/metrics").await.1;
    assert!(
        metrics.contains("schemad_connections 1"),
        "the same connection: {metrics}"
    );
}

/// Reads until the other side ends the connection.
async fn end_of(mut socket: TcpStream) {
    let read = async { while let Ok(1..) = socket.read(&mut [0; 4096]).await {} };
    tokio::time::timeout(PATIENCE, read)
        .await
        .expect("it is not closed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_longest_idle_connection_makes_room_and_who_says_nothing_is_cut_off() {
    let limits = Limits {
        connections: 8,
        arrive_within: Duration::from_millis(300),
        ..Limits::default()
    };
    let (_database, daemon) = launch(|settings| settings.limits = limits).await;
    daemon.until_ready().await;
    // Busy connections keep their seats.
    let mut busy = daemon
        .health()
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let connect = async || TcpStream::connect(&daemon.address).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..20 {
        let mut socket = connect().await;
        socket
            .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
            .await
            .unwrap();
        idle.push(socket);
    }
    end_of(idle.swap_remove(0)).await;
    assert!(
        serving(daemon.channel()).await,
        "a new connection takes an idle one's place"
    );
    end_of(connect().await).await; // not a byte within the time
    busy.message().await.unwrap().expect("the first status");
}

/// A call as it goes over the wire.
async fn call(
    daemon: &TestDaemon,
    method: &str,
    body: axum::body::Body,
) -> http::Response<tonic::body::Body> {
    let request = http::Request::post(format!(
        "http://{}/schemad.v1.MigrationService/{method}",
        daemon.address
    ))
    .header("content-type", "application/grpc")
    .body(tonic::body::Body::new(body))
    .unwrap();
    // HTTP/2's own window; a client takes no more without reading.
    let endpoint = Channel::from_shared(format!("http://{}", daemon.address)).unwrap();
    let mut channel = endpoint.initial_stream_window_size(65_535).connect_lazy();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    channel.call(request).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_does_not_arrive_is_not_waited_for() {
    let limits = Limits {
        arrive_within: Duration::from_millis(300),
        ..Limits::default()
    };
    let (_database, daemon) = launch(|settings| settings.limits = limits).await;
    daemon.until_ready().await;
    let never = futures_util::stream::pending::<Result<prost::bytes::Bytes, std::io::Error>>();
    let response = call(&daemon, "GetStatus", axum::body::Body::from_stream(never)).await;
    let status =
        tonic::Status::from_header_map(response.headers()).expect("a status in the headers");
    Failed::of(&status).assert(Code::ResourceExhausted, "REQUEST_TOO_SLOW");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_not_read_ends_its_connection() {
    let database = TestDatabase::new().await;
    let mut settings = settings(&database.url);
    settings.limits.read_within = Duration::from_millis(300);
    // More than a client takes without reading.
    let set = Set::of(&[(
        "1_large",
        &format!("SELECT 1; -- {}", "x".repeat(500_000)),
        "",
    )]);
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    let message = pb::GetMigrationRequest {
        version: "1".into(),
        ..Default::default()
    }
    .encode_to_vec();
    let frame = [
        &[0, 0, 0, 0, u8::try_from(message.len()).unwrap()][..],
        &message,
    ]
    .concat();
    let response = call(&daemon, "GetMigration", frame.into()).await;
    eventually("its connection is closed", async || {
        let metrics = get(&daemon.admin, "/metrics").await.1;
        metrics.contains("schemad_connections 0").then_some(())
    })
    .await;

    assert!(
        axum::body::to_bytes(axum::body::Body::new(response.into_body()), usize::MAX)
            .await
            .is_err()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_talks_without_asking_anything_is_cut_off() {
    let (_database, daemon) = launch(|_| {}).await;
    daemon.until_ready().await;
    let socket = TcpStream::connect(&daemon.address).await.unwrap();
    let (mut reads, mut writes) = socket.into_split();
    tokio::spawn(async move { while let Ok(1..) = reads.read(&mut [0; 65536]).await {} });
    writes
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0")
        .await
        .unwrap();
    let pings = b"\0\0\x08\x06\0\0\0\0\0abcdefgh".repeat(1000);
    let flood = async { while writes.write_all(&pings).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, flood)
        .await
        .expect("it is not closed");
}

/// Plaintext where TLS is spoken, and HTTP/1.1 within TLS.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_on_a_tls_port_is_told_what_the_port_is() {
    let files = Files::new();
    let (_database, daemon) =
        launch(|settings| settings.tls = Some(files.tls(ClientCertificates::Optional))).await;
    const GET: &[u8] = b"GET /livez HTTP/1.1\r\nHost: x\r\n\r\n";
    let connect = async || TcpStream::connect(&daemon.address).await.unwrap();
    let told = async |io: &mut dyn schemad::internals::transport::ByteStream| {
        io.write_all(GET).await.unwrap();
        let mut answer = Vec::new();
        let _ = tokio::time::timeout(PATIENCE, io.read_to_end(&mut answer))
            .await
            .expect("it is not closed");
        String::from_utf8_lossy(&answer).into_owned()
    };
    let plain = told(&mut connect().await).await;
    assert!(
        plain.starts_with("HTTP/1.1 ") && plain.contains("TLS") && plain.contains("--admin-listen"),
        "{plain}"
    );
    let mut roots = rustls::RootCertStore::empty();
    let pem = files.authority.pem();
    roots
        .add(rustls::pki_types::pem::PemObject::from_pem_slice(pem.as_bytes()).unwrap())
        .unwrap();
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    for protocols in [vec![], vec![b"http/1.1".to_vec()]] {
        let config = rustls::ClientConfig::builder_with_provider(provider.clone());
        let config = config
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots.clone());
        let mut config = config.with_no_client_auth();
        config.alpn_protocols = protocols.clone();
        let connector = tokio_rustls::TlsConnector::from(std::sync::Arc::new(config));
        let name = "localhost".try_into().unwrap();
        let mut stream = connector
            .connect(name, connect().await)
            .await
            .unwrap_or_else(|e| panic!("{protocols:?}: {e}"));
        let inside = told(&mut stream).await;
        assert!(
            inside.starts_with("HTTP/1.1 ") && inside.contains("--admin-listen"),
            "{protocols:?}: {inside}"
        );
    }
    assert!(
        serving(files.channel(&daemon, None)).await,
        "HTTP/2 is preferred"
    );
}

/// rustls serves an expired certificate, and every client refuses it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_has_expired_or_soon_will_is_told_at_the_start_on_reload_and_as_a_metric()
 {
    let files = Files::new();
    let issue = |from: i64, until: i64| {
        let at = |days: i64| time::OffsetDateTime::now_utc() + time::Duration::days(days);
        let (certificate, key) = files.authority.issue_with("localhost", |params| {
            params.not_before = at(from);
            params.not_after = at(until);
        });
        fs::write(files.path("key.pem"), key).unwrap();
        fs::write(files.path("cert.pem"), certificate).unwrap();
    };
    issue(-90, -1);
    let path = |name: &str| files.path(name).display().to_string();
    let mut command = crate::harness::process::schemad(&[
        "serve",
        "--tls-cert",
        &path("cert.pem"),
        "--tls-key",
        &path("key.pem"),
    ]);
    command.env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/none");
    let mut process = crate::harness::Process::start(command).await;
    let told = process.event("tls.certificate_expired").await;
    assert_eq!(told["level"], "ERROR");
    let message = told["message"].as_str().unwrap();
    assert!(
        message.contains("--tls-cert")
            && message.contains("cert.pem")
            && message.contains("expired at"),
        "{message}"
    );
    let admin = process.admin.clone();
    let expires = async || {
        let metrics = get(&admin, "/metrics").await.1;
        let name = "schemad_tls_certificate_expires_timestamp_seconds{setting=\"--tls-cert\"} ";
        let line = metrics
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .unwrap_or_else(|| panic!("{metrics}"));
        line.parse::<i64>().unwrap()
    };
    let now = time::OffsetDateTime::now_utc().unix_timestamp();
    assert!((now - 2 * 86_400..now).contains(&expires().await));
    issue(-90, 3);
    let told = process.event("tls.certificate_expires").await;
    assert_eq!(told["level"], "WARN");
    assert!(expires().await > now);
    issue(-1, 90);
    process.event("tls.reloaded").await;
    issue(5, 90);
    process.event("tls.certificate_not_yet_valid").await;
}
