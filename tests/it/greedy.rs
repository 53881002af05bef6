//! Known callers that want everything: what one of them takes is not what the others, or an admin,
//! need; and what was taken back from one does not work any more, however slowly they ask.

use std::fs;

use axum::body::{Body, Bytes};
use schemad::{
    ClientCertificates, TlsFiles,
    pb::{
        self, operation_service_client::OperationServiceClient,
        schema_service_client::SchemaServiceClient,
    },
};
use tonic::{
    Code, Status,
    codegen::{Service as _, http},
};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use uuid::Uuid;

use super::access::spiffe;
use crate::harness::{
    Guarded, TestDaemon, TestDatabase,
    daemon::{Failed, settings},
    database::{connect, with_database},
    eventually,
    guarded::said,
};

const OPERATION_LOCK: &str = "SELECT pg_advisory_lock(32478922351141220)";

fn queued() -> pb::ApplyRequest {
    pb::ApplyRequest {
        request_id: Uuid::new_v4().to_string(),
        queue_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        detach: true,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deployers_queue_leaves_room_for_others_and_for_what_only_an_admin_may() {
    let guarded = Guarded::start().await;
    let (deployer, admin) = (
        guarded.tokens["deployer"].reveal(),
        guarded.tokens["admin"].reveal(),
    );
    let job = guarded.issuer.token(serde_json::json!({}));
    guarded.database.until_ledger().await;
    let holder = guarded.database.connect().await;
    holder.batch_execute(OPERATION_LOCK).await.unwrap();
    let (client, _) = guarded.client("token");
    let apply = async |bearer: &str| -> Result<(), Status> {
        let mut events = client
            .clone()
            .apply(said(bearer, queued()))
            .await?
            .into_inner();
        events.message().await.map(drop)
    };
    let too_many = |who: &str, result: Result<(), Status>| {
        Failed::of(&result.expect_err(who)).assert(Code::ResourceExhausted, "TOO_MANY_QUEUED");
    };
    for bearer in [deployer, &job] {
        for _ in 0..8 {
            apply(bearer).await.unwrap();
        }
        too_many(bearer, apply(bearer).await);
    }
    too_many("admin", apply(admin).await);
    let all = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::All(true)),
        request_id: Uuid::new_v4().to_string(),
        queue_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        detach: true,
        ..Default::default()
    };
    let mut events = client
        .clone()
        .rollback(said(admin, all))
        .await
        .unwrap()
        .into_inner();
    assert!(events.message().await.unwrap().is_some());
    drop(holder);
}

/// A database that lets nobody else in shows whether a session is opened.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_not_cancel_opens_no_session() {
    let guarded = Guarded::start().await;
    let deployer = guarded.tokens["deployer"].reveal();
    guarded.database.until_ledger().await;
    let holder = guarded.database.connect().await;
    holder.batch_execute(OPERATION_LOCK).await.unwrap();
    let (client, _) = guarded.client("token");
    let admin = guarded.tokens["admin"].reveal();
    let mut events = client
        .clone()
        .apply(said(admin, queued()))
        .await
        .unwrap()
        .into_inner();
    let id = events
        .message()
        .await
        .unwrap()
        .unwrap()
        .event
        .unwrap()
        .operation;
    let elsewhere = connect(&with_database(&guarded.database.url, "postgres")).await;
    let allow = |yes: bool| {
        format!(
            "ALTER DATABASE {} ALLOW_CONNECTIONS {yes}",
            guarded.database.name
        )
    };
    elsewhere.batch_execute(&allow(false)).await.unwrap();
    let operations = OperationServiceClient::new(guarded.channel(None));
    for (id, code, reason) in [
        (
            Uuid::new_v4().to_string(),
            Code::NotFound,
            "UNKNOWN_OPERATION",
        ),
        (id, Code::PermissionDenied, "PERMISSION_DENIED"),
    ] {
        let request = said(
            deployer,
            pb::CancelOperationRequest {
                id,
                ..Default::default()
            },
        );
        let refused = operations
            .clone()
            .cancel_operation(request)
            .await
            .unwrap_err();
        Failed::of(&refused).assert(code, reason);
    }
    elsewhere.batch_execute(&allow(true)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_caller_reads_only_so_many_schemas_at_once() {
    let guarded = Guarded::start().await;
    guarded
        .database
        .execute("CREATE TABLE locked (id int); CREATE INDEX ON locked (id)")
        .await;
    let mut holder = guarded.database.connect().await;
    // Each reading waits for this lock, and then says so.
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    let schemas = SchemaServiceClient::new(guarded.channel(None));
    let describe = async |bearer: &str| {
        let request = said(bearer, pb::DescribeSchemaRequest::default());
        Failed::of(&schemas.clone().describe_schema(request).await.unwrap_err()).reason
    };
    let viewer = guarded.tokens["viewer"].reveal();
    let many = futures_util::future::join_all((0..6).map(|_| describe(viewer)));
    let (reasons, of_another) = tokio::join!(many, describe(guarded.tokens["deployer"].reveal()));
    assert_eq!(
        reasons
            .iter()
            .filter(|reason| *reason == "TOO_MANY_REQUESTS")
            .count(),
        2,
        "{reasons:?}"
    );
    assert_eq!(of_another, "DATABASE_UNAVAILABLE");
}

/// The credential is looked at again when the message has arrived.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_taken_out_while_its_request_arrives_does_nothing() {
    let guarded = Guarded::start().await;
    let revoked = guarded.tokens["revoked"].reveal();
    let (sender, body) =
        tokio::sync::mpsc::unbounded_channel::<Result<Bytes, std::convert::Infallible>>();
    let body =
        futures_util::stream::unfold(body, async |mut body| Some((body.recv().await?, body)));
    let request = http::Request::post("https://localhost/schemad.v1.MigrationService/Apply")
        .header("content-type", "application/grpc")
        .header("authorization", format!("Bearer {revoked}"))
        .body(tonic::body::Body::new(Body::from_stream(body)))
        .unwrap();
    let mut channel = guarded.channel(None);
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    sender.send(Ok(Bytes::from_static(&[0, 0]))).unwrap();
    let answer = tokio::spawn(channel.call(request));
    let file = guarded.folder.path().join("access.toml");
    let text = fs::read_to_string(&file).unwrap();
    let entry = text
        .split_inclusive("[[token]]")
        .find(|entry| entry.contains("\"revoked\""))
        .unwrap();
    fs::write(
        &file,
        text.replace(
            entry.trim_end_matches("[[token]]"),
            "\nname = \"x\"\nrole = \
        \"viewer\"\nsha256 = \
        \"ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100\"\n",
        ),
    )
    .unwrap();
    let shown = crate::harness::guarded::Shown {
        bearer: Some(revoked),
        ..Default::default()
    };
    eventually("it is taken out", async || {
        (guarded
            .answer(shown, "/schemad.v1.MigrationService/GetStatus")
            .await
            == Code::Unauthenticated)
            .then_some(())
    })
    .await;
    sender.send(Ok(Bytes::from_static(&[0, 0, 0]))).unwrap();
    drop(sender);
    let answer = answer.await.unwrap().unwrap();
    let status = Status::from_header_map(answer.headers()).expect("a refusal");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert_eq!(
        guarded
            .database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "0"
    );
}

/// "No connection without one" holds for a connection that is open, too, whatever else is shown on
/// it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_certificates_are_required_a_token_does_not_replace_a_revoked_one() {
    let guarded = Guarded::start().await;
    let path = |name: &str| guarded.folder.path().join(name);
    fs::write(path("crl.pem"), guarded.authority.revoke(&[])).unwrap();
    let database = TestDatabase::new().await;
    let mut settings = settings(&database.url);
    settings.access = Some(path("access.toml"));
    settings.tls = Some(TlsFiles {
        certificate: path("cert.pem"),
        key: path("key.pem"),
        client_ca: Some(path("ca.pem")),
        client_crl: Some(path("crl.pem")),
        clients: ClientCertificates::Required,
    });
    let daemon = TestDaemon::launch(settings, &crate::harness::Set::tables(1)).await;
    let identity = guarded
        .authority
        .issue_with("client", |params| params.serial_number = Some(7.into()));
    let tls = tonic::transport::ClientTlsConfig::new()
        .domain_name("localhost")
        .ca_certificate(tonic::transport::Certificate::from_pem(
            guarded.authority.pem(),
        ))
        .identity(tonic::transport::Identity::from_pem(
            &identity.0,
            &identity.1,
        ));
    let endpoint =
        tonic::transport::Channel::from_shared(format!("https://{}", daemon.address)).unwrap();
    let channel = endpoint.tls_config(tls).unwrap().connect().await.unwrap();
    let client = pb::migration_service_client::MigrationServiceClient::new(channel);
    let viewer = guarded.tokens["viewer"].reveal();
    let ask = async || {
        client
            .clone()
            .get_status(said(
                viewer,
                pb::GetStatusRequest {
                    ..Default::default()
                },
            ))
            .await
            .map(drop)
    };
    eventually("it answers", async || ask().await.ok()).await;
    fs::write(path("crl.pem"), guarded.authority.revoke(&[7])).unwrap();
    eventually("a refusal", async || {
        ask()
            .await
            .is_err_and(|e| e.code() == Code::Unauthenticated)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_keeps_a_rollback_from_running_is_told_to_be_a_stranger() {
    let guarded = Guarded::start().await;
    let admin = guarded.tokens["admin"].reveal();
    let (client, _) = guarded.client("token");
    let up = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    let mut events = client
        .clone()
        .apply(said(admin, up))
        .await
        .unwrap()
        .into_inner();
    while events.message().await.unwrap().is_some() {}
    let applied = || HealthCheckRequest {
        service: "schemad.schema.applied.1".into(),
    };
    let certificate = spiffe(&guarded.authority, "ops");
    let mut known = HealthClient::new(guarded.channel(Some(&certificate)));
    let mut watches = vec![known.watch(applied()).await.unwrap().into_inner()];
    let refused = async || {
        let down = pb::RollbackRequest {
            target: Some(pb::rollback_request::Target::Steps(1)),
            validate_only: true,
            ..Default::default()
        };
        let mut events = client
            .clone()
            .rollback(said(admin, down))
            .await
            .map(tonic::Response::into_inner);
        let failed = match &mut events {
            Ok(events) => events.message().await.unwrap_err(),
            Err(status) => status.clone(),
        };
        let failed = Failed::of(&failed);
        failed.assert(Code::FailedPrecondition, "IN_USE");
        (
            failed.metadata["clients"].clone(),
            failed.metadata["strangers"].clone(),
            failed.message,
        )
    };
    let (clients, strangers, message) = refused().await;
    assert_eq!((clients.as_str(), strangers.as_str()), ("1", "0"));
    assert!(!message.contains("without a credential"), "{message}");
    watches.push(
        HealthClient::new(guarded.channel(None))
            .watch(applied())
            .await
            .unwrap()
            .into_inner(),
    );
    let (clients, strangers, message) = refused().await;
    assert_eq!((clients.as_str(), strangers.as_str()), ("2", "1"));
    assert!(
        message.contains("(1 here without a credential)"),
        "{message}"
    );
}
