//! Every method, with every kind of credential: exactly who may do what.

use std::{fs, time::SystemTime};

use rcgen::SanType;
use schemad::{
    internals::{
        access::{Role, SecretToken},
        methods::METHODS,
    },
    pb::{self, migration_service_client::MigrationServiceClient, operation_event::Event},
};
use serde_json::json;
use tonic::Code;

use crate::harness::{
    Authority, Guarded, Process, Set, TestDatabase,
    daemon::{Failed, collect, get},
    eventually,
    guarded::{Issuer, Shown, said},
    process::{from_folder, output, stderr},
};

async fn expect(
    guarded: &Guarded,
    kind: &str,
    shown: Shown<'_>,
    expected: impl Fn(Option<Role>, Code) -> Code,
) {
    for method in METHODS {
        let right = passed(method.path);
        let code = match guarded.answer(shown, method.path).await {
            // One runs at a time, and the one before ends with its call, but not at once. Who hears
            // that has passed.
            Code::Aborted if method.path.ends_with("/Rehearse") => Code::Ok,
            code => code,
        };
        assert_eq!(code, expected(method.role, right), "{kind} {}", method.path);
    }
}

pub fn spiffe(authority: &Authority, path: &str) -> (String, String) {
    valid(authority, path, 1975, 4096)
}

/// One that is valid from one year to another.
fn valid(authority: &Authority, path: &str, from: i32, to: i32) -> (String, String) {
    let uri = format!("spiffe://example.org/{path}");
    authority.issue_with("x", |params| {
        params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
        (params.not_before, params.not_after) = (
            rcgen::date_time_ymd(from, 1, 1),
            rcgen::date_time_ymd(to, 1, 1),
        );
    })
}

/// How each method answers an empty message of somebody who may call it.
fn passed(path: &str) -> Code {
    match path.rsplit('/').next().unwrap() {
        "GetStatus"
        | "DescribeSchema"
        | "ListMigrations"
        | "ListOperations"
        | "Apply"
        | "Rehearse"
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
    move |least, right| {
        if least.is_none_or(|least| own >= least) {
            right
        } else {
            Code::PermissionDenied
        }
    }
}

fn refused(least: Option<Role>, right: Code) -> Code {
    if least.is_none() {
        right
    } else {
        Code::Unauthenticated
    }
}

fn bearer(token: &str) -> Shown<'_> {
    Shown {
        bearer: Some(token),
        certificate: None,
    }
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
    let other = SecretToken::generate().unwrap();
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
    expect(
        &guarded,
        "identity token",
        bearer(&right),
        with_role(Role::Deployer),
    )
    .await;
    for (kind, changes) in [
        ("expired", json!({ "exp": now - 600 })),
        ("not yet valid", json!({ "nbf": now + 600 })),
        ("another audience", json!({ "aud": "another" })),
        (
            "another issuer",
            json!({ "iss": "https://another.example.org" }),
        ),
        ("another repository", json!({ "repository": "acme/other" })),
    ] {
        expect(
            &guarded,
            kind,
            bearer(&guarded.issuer.token(changes)),
            refused,
        )
        .await;
    }
    expect(
        &guarded,
        "another key",
        bearer(&Issuer::new("one").token(json!({}))),
        refused,
    )
    .await;

    for (path, role) in [("ops", Role::Admin), ("deploy/web", Role::Deployer)] {
        let certificate = spiffe(&guarded.authority, path);
        let shown = Shown {
            bearer: None,
            certificate: Some(&certificate),
        };
        expect(&guarded, path, shown, with_role(role)).await;
        // A bad token is not made good by a certificate.
        let shown = Shown {
            bearer: Some("garbage"),
            ..shown
        };
        expect(&guarded, "garbage with a certificate", shown, refused).await;
    }
    let nobody = spiffe(&guarded.authority, "nobody");
    expect(
        &guarded,
        "an unknown certificate",
        Shown {
            bearer: None,
            certificate: Some(&nobody),
        },
        refused,
    )
    .await;
    // These get no connection, so not even Health, whatever else they show.
    let admin = guarded.tokens["admin"].reveal();
    for (kind, certificate) in [
        (
            "another authority's certificate",
            spiffe(&Authority::new(), "ops"),
        ),
        (
            "an expired certificate",
            valid(&guarded.authority, "ops", 2020, 2021),
        ),
        (
            "a certificate before its time",
            valid(&guarded.authority, "ops", 2120, 2121),
        ),
    ] {
        for bearer in [None, Some(admin)] {
            expect(
                &guarded,
                kind,
                Shown {
                    bearer,
                    certificate: Some(&certificate),
                },
                |_, _| Code::Unavailable,
            )
            .await;
        }
    }
    // The same by its years, but in its time.
    let brief = valid(&guarded.authority, "ops", 2020, 2120);
    expect(
        &guarded,
        "a certificate in its time",
        Shown {
            bearer: None,
            certificate: Some(&brief),
        },
        with_role(Role::Admin),
    )
    .await;

    // Revoked.
    let revoked = guarded.tokens["revoked"].reveal();
    expect(
        &guarded,
        "before it is revoked",
        bearer(revoked),
        with_role(Role::Admin),
    )
    .await;
    let path = guarded.folder.path().join("access.toml");
    let text = fs::read_to_string(&path).unwrap();
    let entry = text
        .split("[[token]]")
        .find(|entry| entry.contains("\"revoked\""))
        .unwrap();
    let entry = entry.split("[[certificate]]").next().unwrap();
    fs::write(&path, text.replace(&format!("[[token]]{entry}"), "")).unwrap();
    eventually("it is revoked", async || {
        let code = guarded
            .answer(bearer(revoked), "/schemad.v1.MigrationService/GetStatus")
            .await;
        (code == Code::Unauthenticated).then_some(())
    })
    .await;
    expect(&guarded, "revoked", bearer(revoked), refused).await;

    // The issuer's next key.
    let next = Issuer::new("two");
    fs::write(guarded.folder.path().join("jwks.json"), next.jwks()).unwrap();
    eventually("the next key", async || {
        let code = guarded
            .answer(
                bearer(&next.token(json!({}))),
                "/schemad.v1.MigrationService/GetStatus",
            )
            .await;
        (code == Code::Ok).then_some(())
    })
    .await;
    expect(
        &guarded,
        "the next key",
        bearer(&next.token(json!({}))),
        with_role(Role::Deployer),
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operations_carry_their_principal_and_a_deployer_cancels_only_its_own() {
    let guarded = Guarded::start().await;
    let gate = guarded.database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let [admin, deployer] = ["admin", "deployer"].map(|name| guarded.tokens[name].reveal());
    let mut migrations = MigrationServiceClient::new(guarded.channel(None));
    let mut operations =
        pb::operation_service_client::OperationServiceClient::new(guarded.channel(None));

    let mut stream = migrations
        .apply(said(admin, pb::ApplyRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let accepted = stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(accepted.event, Some(Event::Accepted(_))));
    let id = accepted.operation;
    let cancel = || pb::CancelOperationRequest {
        id: id.clone(),
        ..Default::default()
    };
    let denied = Failed::of(
        &operations
            .cancel_operation(said(deployer, cancel()))
            .await
            .unwrap_err(),
    );
    denied.assert(Code::PermissionDenied, "PERMISSION_DENIED");
    assert!(
        denied.message.contains("token:admin") && denied.message.contains("token:deployer"),
        "{}",
        denied.message
    );
    let get = pb::GetOperationRequest {
        id: id.clone(),
        ..Default::default()
    };
    let operation = operations
        .get_operation(said(deployer, get))
        .await
        .unwrap()
        .into_inner()
        .operation
        .unwrap();
    assert_eq!(
        (operation.principal.as_str(), operation.state()),
        ("token:admin", pb::OperationState::Running)
    );
    let ended = operations
        .cancel_operation(said(admin, cancel()))
        .await
        .unwrap()
        .into_inner()
        .operation
        .unwrap();
    assert_eq!(ended.state(), pb::OperationState::Cancelled);

    let own = migrations
        .apply(said(deployer, pb::ApplyRequest::default()))
        .await
        .unwrap()
        .into_inner();
    let mut own = Box::pin(own);
    let id = own
        .message()
        .await
        .unwrap()
        .unwrap()
        .event
        .unwrap()
        .operation;
    let cancel = said(
        deployer,
        pb::CancelOperationRequest {
            id,
            ..Default::default()
        },
    );
    let ended = operations
        .cancel_operation(cancel)
        .await
        .unwrap()
        .into_inner()
        .operation
        .unwrap();
    assert_eq!(
        (ended.principal.as_str(), ended.state()),
        ("token:deployer", pb::OperationState::Cancelled)
    );

    // What a known caller may not do is in the ledger, what a stranger tried is not.
    let rollback = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::All(true)),
        ..Default::default()
    };
    let outcome = collect(
        migrations.rollback(said(deployer, rollback.clone())).await,
        |r: pb::RollbackResponse| r.event,
    )
    .await;
    outcome
        .failure()
        .assert(Code::PermissionDenied, "PERMISSION_DENIED");
    let outcome = collect(
        migrations.rollback(said("stranger", rollback)).await,
        |r: pb::RollbackResponse| r.event,
    )
    .await;
    outcome
        .failure()
        .assert(Code::Unauthenticated, "CREDENTIAL_INVALID");
    // The ledger records a refusal in the background, so the rows may come late and in either
    // order.
    let recorded =
        "SELECT principal || ' ' || kind || ' ' || reason FROM schemad.refusals ORDER BY kind";
    let expected = [
        "token:deployer cancel PERMISSION_DENIED",
        "token:deployer rollback PERMISSION_DENIED",
    ];
    eventually("both refusals are recorded", async || {
        let found = guarded.database.texts(recorded).await;
        assert!(found.len() <= expected.len(), "{found:?}");
        (found == expected).then_some(())
    })
    .await;
}

/// A connection outlives what is believed of its certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_not_trusted_any_more_is_refused_on_an_open_connection() {
    let guarded = Guarded::start().await;
    let certificate = spiffe(&guarded.authority, "ops");
    let mut client = MigrationServiceClient::new(guarded.channel(Some(&certificate)));
    client
        .get_status(pb::GetStatusRequest {
            ..Default::default()
        })
        .await
        .unwrap();
    fs::write(guarded.folder.path().join("ca.pem"), Authority::new().pem()).unwrap();
    let refused = eventually("a refusal", async || {
        client
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .err()
    })
    .await;
    Failed::of(&refused).assert(Code::Unauthenticated, "CREDENTIAL_INVALID");
}

/// Nobody is asked for a certificate, so a rule for one lets nobody in.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn certificate_rules_that_can_never_match_end_the_start_and_are_told_when_they_come_later() {
    let (folder, database, authority) = (
        tempfile::tempdir().unwrap(),
        TestDatabase::new().await,
        Authority::new(),
    );
    let path = |name: &str| folder.path().join(name).display().to_string();
    let (certificate, key) = authority.issue("localhost");
    for (name, text) in [
        ("cert.pem", certificate),
        ("key.pem", key),
        ("ca.pem", authority.pem()),
    ] {
        fs::write(path(name), text).unwrap();
    }
    let token = |name: &str| {
        let digest = SecretToken::generate().unwrap().digest();
        format!("[[token]]\nname = \"{name}\"\nrole = \"viewer\"\nsha256 = \"{digest}\"\n")
    };
    let rule = "[[certificate]]\ncn = \"x\"\nrole = \"viewer\"\n";
    fs::write(path("access.toml"), token("one") + rule).unwrap();
    let set = Set::tables(1);
    let serve = |more: &[&str]| {
        let mut command = from_folder(&set, &["serve", "--access", &path("access.toml")]);
        command.args(more).env("DATABASE_URL", &database.url);
        command
    };
    let (cert, key, ca) = (path("cert.pem"), path("key.pem"), path("ca.pem"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key];
    let off = [
        &tls[..],
        &["--tls-client-ca", &ca, "--tls-client-certificates", "off"],
    ]
    .concat();
    for without in [&[][..], &tls, &off] {
        let refused = output(serve(without)).await;
        assert_eq!(refused.status.code(), Some(2), "{without:?}");
        let told = stderr(&refused);
        assert!(
            told.contains("[[certificate]]") && told.contains("--tls-client-ca"),
            "{told}"
        );
    }
    let mut asking = Process::start(serve(&[&tls[..], &["--tls-client-ca", &ca]].concat())).await;
    asking.kill().await;

    fs::write(path("access.toml"), token("one")).unwrap();
    let mut process = Process::start(serve(&tls)).await;
    fs::write(path("access.toml"), token("two") + rule).unwrap();
    process.event("access.reloaded").await;
    process.event("access.useless_certificates").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_is_kept_as_what_was_asked_for_however_many_another_caller_has() {
    let guarded = Guarded::start().await;
    let [viewer, deployer] = ["viewer", "deployer"].map(|name| guarded.tokens[name].reveal());
    let channel = guarded.channel(None);
    let mut migrations = MigrationServiceClient::new(channel.clone());
    let mut operations = pb::operation_service_client::OperationServiceClient::new(channel);
    eventually("it is ready", async || {
        (get(&guarded.daemon.admin, "/readyz").await.0 == 200).then_some(())
    })
    .await;

    let crowd: Vec<_> = (0..90)
        .map(|_| {
            let (mut client, request) = (
                migrations.clone(),
                said(deployer, pb::RollbackRequest::default()),
            );
            tokio::spawn(async move { client.rollback(request).await.unwrap_err() })
        })
        .collect();
    for refused in crowd {
        assert_eq!(refused.await.unwrap().code(), Code::PermissionDenied);
    }
    let request_id = "6f2a1d0e-0000-4000-8000-000000000001".to_owned();
    let apply = pb::ApplyRequest {
        request_id: request_id.clone(),
        ..Default::default()
    };
    migrations.apply(said(viewer, apply)).await.unwrap_err();
    let sign = pb::SignLedgerRequest {
        request_id: "no id".into(),
        ..Default::default()
    };
    migrations
        .sign_ledger(said(viewer, sign))
        .await
        .unwrap_err();
    operations
        .cancel_operation(said(viewer, pb::CancelOperationRequest::default()))
        .await
        .unwrap_err();
    let kept = "SELECT kind || ' ' || request_id FROM schemad.refusals WHERE principal = \
        'token:viewer' ORDER BY id";
    let nil = uuid::Uuid::nil();
    let expected = [
        format!("apply {request_id}"),
        format!("sign {nil}"),
        format!("cancel {nil}"),
    ];
    // The ledger records a refusal in the background, so the rows may come late and in any order.
    eventually("the three refusals are recorded", async || {
        let mut found = guarded.database.texts(kept).await;
        found.sort_by_key(|kept| expected.iter().position(|expected| expected == kept));
        (found == expected).then_some(())
    })
    .await;
    let kept = "SELECT count(*) FROM schemad.refusals WHERE principal = 'token:deployer'";
    eventually("each of the 90 is recorded or counted", async || {
        let kept: i64 = guarded.database.text(kept).await.parse().unwrap();
        let metrics = get(&guarded.daemon.admin, "/metrics").await.1;
        let dropped = format!(
            "schemad_refusals_not_kept_total{{cause=\"rate\"}} {}",
            90 - kept
        );
        (kept >= 5 && metrics.contains(&dropped)).then_some(())
    })
    .await;
}
