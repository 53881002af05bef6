use schemad::pb::{
    self, migration_service_client::MigrationServiceClient,
    operation_service_client::OperationServiceClient,
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Process, Set, TestDaemon, TestDatabase, daemon::Failed, eventually, process::from_folder,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edited_up_refuses_apply_and_line_endings_do_not() {
    let database = TestDatabase::new().await;
    let up = "CREATE TABLE a (id int);\nCREATE TABLE b (id int);\n";
    let daemon = TestDaemon::start(&database, &Set::of(&[("1_a", up, "")])).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;

    let windows = up.replace('\n', "\r\n");
    let daemon = TestDaemon::start(&database, &Set::of(&[("1_a", &windows, "")])).await;
    assert!(daemon.apply_all().await.finished().nothing_to_do);
    daemon.stop().await;

    let edited = Set::of(&[
        ("1_a", "CREATE TABLE a (id bigint);", ""),
        ("2_b", "SELECT 1;", ""),
    ]);
    let daemon = TestDaemon::start(&database, &edited).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "EDITED");
    assert_eq!(failed.metadata["version"], "1");
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.problems[0].reason.as_str()),
        (pb::SchemaState::Diverged, "EDITED")
    );
    let request = pb::GetMigrationRequest {
        version: "1".into(),
        ..Default::default()
    };
    assert!(
        daemon
            .client()
            .get_migration(request)
            .await
            .unwrap()
            .into_inner()
            .migration
            .unwrap()
            .edited
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pending_below_an_unknown_newer_one_is_refused() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[("1_a", "SELECT 1;", ""), ("3_c", "SELECT 1;", "")]),
    )
    .await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let older = TestDaemon::start(
        &database,
        &Set::of(&[("1_a", "SELECT 1;", ""), ("2_b", "SELECT 1;", "")]),
    )
    .await;
    older
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "UNKNOWN_NEWER");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_set_than_expected_is_refused() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let expecting = |digest: String| pb::ApplyRequest {
        expected_set_digest: digest,
        ..Default::default()
    };
    let other = format!("sha256:{}", "0".repeat(64));
    daemon
        .apply(expecting(other))
        .await
        .failure()
        .assert(Code::FailedPrecondition, "SET_MISMATCH");
    let own = daemon.status().await.embedded_set_digest;
    daemon.apply(expecting(own)).await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn malformed_requests_name_the_field() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    for n in [0, -1, i32::MAX] {
        let steps = pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(n)),
            ..Default::default()
        };
        daemon
            .apply(steps)
            .await
            .failure()
            .assert(Code::InvalidArgument, "INVALID_STEPS");
        daemon
            .rollback_steps(n)
            .await
            .failure()
            .assert(Code::InvalidArgument, "INVALID_STEPS");
    }
    let nothing = daemon
        .rollback(pb::RollbackRequest::default())
        .await
        .failure();
    nothing.assert(Code::InvalidArgument, "TARGET_MISSING");
    let bad_id = pb::ApplyRequest {
        request_id: "42".into(),
        ..Default::default()
    };
    daemon
        .apply(bad_id)
        .await
        .failure()
        .assert(Code::InvalidArgument, "INVALID_REQUEST_ID");
    let token = pb::ListMigrationsRequest {
        page_token: "bm9uZQ".into(),
        page_size: 0,
        ..Default::default()
    };
    let status = daemon.client().list_migrations(token).await.unwrap_err();
    Failed::of(&status).assert(Code::InvalidArgument, "INVALID_PAGE_TOKEN");
    assert_eq!(daemon.status().await.applied_count, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_only_server_reports_and_refuses_work() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    database
        .execute(&format!(
            "ALTER DATABASE {} SET default_transaction_read_only = on",
            database.name
        ))
        .await;
    let daemon = TestDaemon::launch(
        crate::harness::daemon::settings(&database.url),
        &Set::tables(2),
    )
    .await;
    daemon
        .until("schemad.database", ServingStatus::Serving)
        .await;
    let status = daemon.status().await;
    assert!(status.database.unwrap().read_only);
    assert_eq!(status.applied_count, 1);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "READ_ONLY_SERVER");
    let ready = daemon.check("schemad.v1.MigrationService").await.unwrap();
    assert_eq!(ready, ServingStatus::NotServing);
}

/// What an open quote swallows is schemad's own, and no business of the reader's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_open_quote_is_placed_where_it_opens() {
    for (script, line, column) in [
        (
            "CREATE TABLE a (id int);\nSELECT 'it''s\nSELECT 2;",
            "2",
            "8",
        ),
        ("SELECT 1;\n/* x", "2", "1"),
        ("DO $x$ BEGIN", "1", "4"),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::of(&[("1_a", script, "")]));
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert_eq!(
            (
                failed.metadata["line"].as_str(),
                failed.metadata["column"].as_str()
            ),
            (line, column),
            "{failed:?}"
        );
        assert!(
            failed.message.contains("unterminated") && !failed.message.contains("RESET"),
            "{}",
            failed.message
        );
    }
}

/// The server reads a whole message before it runs the first statement, so only the position tells
/// which one it means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_syntax_error_names_the_statement_it_is_in() {
    let script = "SET search_path = public;\nSELECT 'é';\nSELCT 3;\nSELECT 4;";
    for one_transaction in [true, false] {
        let (database, set) = (TestDatabase::new().await, Set::of(&[]));
        if one_transaction {
            set.add("1_a", script, "")
        } else {
            set.add_non_transactional("1_a", script, "")
        }
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        let told =
            ["line", "column", "statement", "statements"].map(|key| failed.metadata[key].as_str());
        assert_eq!(told, ["3", "1", "3", "4"], "{failed:?}");
    }
}

/// The answer to a message as it is, frame and all.
async fn answer(daemon: &TestDaemon, path: &str, encoding: Option<&str>, frame: Vec<u8>) -> Failed {
    use tonic::codegen::{Service as _, http::Request};
    let mut request = Request::post(format!("http://{}/{path}", daemon.address))
        .header("content-type", "application/grpc");
    if let Some(encoding) = encoding {
        request = request.header("grpc-encoding", encoding);
    }
    let request = request
        .body(tonic::body::Body::new(axum::body::Body::from(frame)))
        .unwrap();
    let mut channel = daemon.channel();
    std::future::poll_fn(|cx| channel.poll_ready(cx))
        .await
        .unwrap();
    let response = channel.call(request).await.unwrap();
    Failed::of(
        &tonic::Status::from_header_map(response.headers()).expect("a status in the headers"),
    )
}

/// The length-prefixed message of gRPC over HTTP/2.
fn frame(flag: u8, message: &[u8]) -> Vec<u8> {
    [
        &[flag][..],
        &u32::try_from(message.len()).unwrap().to_be_bytes(),
        message,
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_never_reaches_a_handler_is_refused_in_our_words_too() {
    const METHOD: &str = "schemad.v1.MigrationService/GetMigration";
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;

    let request = pb::GetMigrationRequest {
        version: "1".repeat(5 << 20),
        ..Default::default()
    };
    let failed = Failed::of(&daemon.client().get_migration(request).await.unwrap_err());
    failed.assert(Code::ResourceExhausted, "MESSAGE_TOO_LARGE");
    assert!(
        failed.message.contains("1048576 bytes"),
        "{}",
        failed.message
    );

    // A version that is a number; a version that ends too early; a flag that there is not; a
    // message that is none.
    for broken in [
        frame(0, &[8, 1]),
        frame(0, &[10, 9, b'1']),
        frame(7, &[]),
        vec![],
    ] {
        let failed = answer(&daemon, METHOD, None, broken).await;
        failed.assert(Code::InvalidArgument, "MALFORMED_MESSAGE");
        assert!(failed.message.contains("schemad.v1"), "{}", failed.message);
    }
    for unknown in [
        "schemad.v1.MigrationService/Nope",
        "nope.v1.Nope/Nope",
        "nope",
    ] {
        let failed = answer(&daemon, unknown, None, frame(0, &[])).await;
        failed.assert(Code::Unimplemented, "UNKNOWN_METHOD");
        assert!(failed.message.contains(unknown), "{}", failed.message);
    }
    let failed = answer(&daemon, METHOD, Some("gzip"), frame(1, &[])).await;
    failed.assert(Code::Unimplemented, "UNSUPPORTED_COMPRESSION");
    // What is not ours stays as it is.
    let request = tonic_health::pb::HealthCheckRequest {
        service: "nope".into(),
    };
    let status = daemon.health().check(request).await.unwrap_err();
    assert_eq!((status.code(), status.details()), (Code::NotFound, &[][..]));
    daemon.apply_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_is_in_the_log_and_the_malformed_are_too() {
    let (database, set) = (
        TestDatabase::new().await,
        Set::of(&[("1_a", "CREATE TABLE a ();", "")]),
    );
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let mut daemon = Process::start(command).await;
    database.until_ledger().await;
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let address = format!("http://{}", daemon.address);
    let mut client = MigrationServiceClient::connect(address.clone())
        .await
        .unwrap();
    let queue_timeout = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let queued = || pb::ApplyRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        queue_timeout,
        detach: true,
        ..Default::default()
    };
    let first = queued();
    client
        .apply(first.clone())
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap();
    let other = pb::ApplyRequest {
        allow_out_of_order: true,
        ..first
    };
    client
        .apply(other)
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap_err();
    assert_eq!(
        daemon.event("operation.refused").await["reason"],
        "REQUEST_ID_REUSED"
    );
    for _ in 1..16 {
        client
            .apply(queued())
            .await
            .unwrap()
            .into_inner()
            .message()
            .await
            .unwrap();
    }
    client
        .apply(queued())
        .await
        .unwrap()
        .into_inner()
        .message()
        .await
        .unwrap_err();
    assert_eq!(
        daemon.event("operation.refused").await["reason"],
        "TOO_MANY_QUEUED"
    );
    let kept = "SELECT reason FROM schemad.refusals ORDER BY id";
    eventually("both are kept", async || {
        (database.texts(kept).await == ["REQUEST_ID_REUSED", "TOO_MANY_QUEUED"]).then_some(())
    })
    .await;
    let mut operations = OperationServiceClient::connect(address).await.unwrap();
    operations
        .cancel_operation(pb::CancelOperationRequest {
            id: "x".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        daemon.event("request.malformed").await["reason"],
        "INVALID_OPERATION"
    );
    operations
        .get_operation(pb::GetOperationRequest {
            id: "x".into(),
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        daemon.event("request.malformed").await["reason"],
        "INVALID_OPERATION"
    );
    let page = pb::ListOperationsRequest {
        page_token: "x".into(),
        ..Default::default()
    };
    operations.list_operations(page).await.unwrap_err();
    assert_eq!(
        daemon.event("request.malformed").await["reason"],
        "INVALID_PAGE_TOKEN"
    );
    operations
        .watch_operation(pb::WatchOperationRequest {
            id: "x".into(),
            after_sequence: 0,
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(
        daemon.event("request.malformed").await["reason"],
        "INVALID_OPERATION"
    );
    // However much is said, the log says little.
    let to = Some(pb::apply_request::Target::To("x".repeat(900_000)));
    client
        .apply(pb::ApplyRequest {
            target: to,
            ..Default::default()
        })
        .await
        .unwrap_err();
    let told = daemon.event("request.malformed").await;
    assert!(
        told["reason"] == "INVALID_VERSION" && told.to_string().len() < 2_000,
        "{}",
        told.to_string().len()
    );
}
