//! Every method, with every kind of credential: exactly who may do what.

use std::{fs, time::SystemTime};

use rcgen::SanType;
use schemad::{
    access::{Role, Secret},
    grpc::{
        methods::METHODS,
        pb::{self, migration_service_client::MigrationServiceClient, operation_event::Event},
    },
};
use serde_json::json;
use tonic::{
    Code, Request,
    metadata::{Ascii, MetadataValue},
};

use crate::harness::{
    Authority, Guarded,
    daemon::{Failed, collect},
    eventually,
    guarded::{Issuer, Shown},
};

async fn expect(guarded: &Guarded, kind: &str, shown: Shown<'_>, expected: impl Fn(Option<Role>, Code) -> Code) {
    for method in METHODS {
        let right = passed(method.path);
        let code = guarded.answer(shown, method.path).await;
        assert_eq!(code, expected(method.role, right), "{kind} {}", method.path);
    }
}

fn spiffe(authority: &Authority, path: &str) -> (String, String) {
    let uri = format!("spiffe://example.org/{path}");
    authority.issue_with("x", |params| params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())])
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
        // It has no server for them.
        "Lease" => Code::FailedPrecondition,
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

fn bearer(token: &str) -> Shown<'_> {
    Shown { bearer: Some(token), certificate: None }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_asks_every_credential_for_its_role() {
    let guarded = Guarded::start().await;
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();

    expect(&guarded, "none", Shown::default(), refused).await;
    for role in [Role::Viewer, Role::Deployer, Role::Admin] {
        let token = guarded.tokens[role.as_str()].reveal();
        expect(&guarded, role.as_str(), bearer(token), with_role(role)).await;
    }
    let other = Secret::generate().unwrap();
    let strangers = [
        ("garbage", "garbage"),
        ("another token", other.reveal()),
        ("expired token", guarded.tokens["expired"].reveal()),
        ("token before its time", guarded.tokens["early"].reveal()),
    ];
    for (kind, token) in strangers {
        expect(&guarded, kind, bearer(token), refused).await;
    }

    let right = guarded.issuer.token(json!({}));
    expect(&guarded, "identity token", bearer(&right), with_role(Role::Deployer)).await;
    for (kind, changes) in [
        ("expired", json!({ "exp": now - 600 })),
        ("not yet valid", json!({ "nbf": now + 600 })),
        ("another audience", json!({ "aud": "another" })),
        ("another issuer", json!({ "iss": "https://another.example.org" })),
        ("another repository", json!({ "repository": "acme/other" })),
    ] {
        expect(&guarded, kind, bearer(&guarded.issuer.token(changes)), refused).await;
    }
    expect(&guarded, "another key", bearer(&Issuer::new("one").token(json!({}))), refused).await;

    for (path, role) in [("ops", Role::Admin), ("deploy/web", Role::Deployer)] {
        let certificate = spiffe(&guarded.authority, path);
        let shown = Shown { bearer: None, certificate: Some(&certificate) };
        expect(&guarded, path, shown, with_role(role)).await;
        // A bad token is not made good by a certificate.
        let shown = Shown { bearer: Some("garbage"), ..shown };
        expect(&guarded, "garbage with a certificate", shown, refused).await;
    }
    let nobody = spiffe(&guarded.authority, "nobody");
    expect(&guarded, "an unknown certificate", Shown { bearer: None, certificate: Some(&nobody) }, refused).await;
    let foreign = spiffe(&Authority::new(), "ops");
    let shown = Shown { bearer: None, certificate: Some(&foreign) };
    expect(&guarded, "another authority's certificate", shown, |_, _| Code::Unavailable).await;

    // Revoked.
    let revoked = guarded.tokens["revoked"].reveal();
    expect(&guarded, "before it is revoked", bearer(revoked), with_role(Role::Admin)).await;
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
    expect(&guarded, "revoked", bearer(revoked), refused).await;

    // The issuer's next key.
    let next = Issuer::new("two");
    fs::write(guarded.folder.path().join("jwks.json"), next.jwks()).unwrap();
    eventually("the next key", async || {
        let code = guarded.answer(bearer(&next.token(json!({}))), "/schemad.v1.MigrationService/GetStatus").await;
        (code == Code::Ok).then_some(())
    })
    .await;
    expect(&guarded, "the next key", bearer(&next.token(json!({}))), with_role(Role::Deployer)).await;
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
    let gate = guarded.database.connect().await;
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
        guarded.database.text(kept).await,
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
