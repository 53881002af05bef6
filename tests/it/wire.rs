//! What a daemon owes to any gRPC client, browser and tool: deadlines, HTTP/2's own limits, the
//! right content type, and words for those who speak another protocol.

use prost::{Message as _, bytes::Bytes};
use schemad::{Limits, internals::methods::METHODS, pb};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_reflection::pb::v1 as reflection;

use crate::harness::{
    PATIENCE, Set, TestDaemon, TestDatabase, Wire,
    daemon::{Failed, get, settings},
    eventually,
    wire::{EMPTY, framed, grpc},
};

const WATCH: &str = "/grpc.health.v1.Health/Watch";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

fn watched(service: &str) -> Option<Bytes> {
    Some(framed(&HealthCheckRequest {
        service: service.into(),
    }))
}

fn empty() -> Option<Bytes> {
    Some(Bytes::from_static(EMPTY))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_whose_deadline_has_passed_does_nothing_and_says_why() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let (main, admin) = (
        Wire::connect(&daemon.address).await,
        Wire::connect(&daemon.admin).await,
    );
    for method in METHODS {
        let answer = main.call(grpc(method.path, Some("1n")), empty()).await;
        Failed::of(&answer.status()).assert(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    for path in [CHECK, WATCH] {
        let answer = admin.call(grpc(path, Some("1n")), empty()).await;
        Failed::of(&answer.status()).assert(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    }
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "0"
    );
    assert_eq!(daemon.status().await.pending.len(), 1);
}

/// True while somebody watches the last migration, so that it is not rolled back.
async fn is_in_use(daemon: &TestDaemon) -> bool {
    let down = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::Steps(1)),
        validate_only: true,
        ..Default::default()
    };
    let outcome = daemon.rollback(down).await;
    outcome.status.is_err() && outcome.failure().reason == "IN_USE"
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_a_watch_which_then_no_longer_counts() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    // The second client has no room for an answer's bytes, so HTTP/2 never asks for the stream's
    // end.
    let mut deaf = h2::client::Builder::new();
    deaf.initial_window_size(0);
    for address in [&daemon.address, &daemon.admin] {
        let reads = Wire::connect(address).await;
        let deadline = || grpc(WATCH, Some("2S"));
        let answer = tokio::join!(
            reads.call(deadline(), watched("schemad.schema.applied.0001")),
            async {
                eventually("it counts", async || is_in_use(&daemon).await.then_some(())).await;
            }
        )
        .0;
        Failed::of(&answer.status()).assert(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
        assert!(
            !answer.body.is_empty(),
            "the first status came before: {answer:?}"
        );
        assert!(!is_in_use(&daemon).await);

        let never_reads = Wire::connect_with(address, &deaf).await;
        let response = never_reads
            .begin(deadline(), watched("schemad.schema.applied.0001"))
            .await;
        eventually("it counts", async || is_in_use(&daemon).await.then_some(())).await;
        eventually("it counts no longer", async || {
            (!is_in_use(&daemon).await).then_some(())
        })
        .await;
        drop(response);
    }
}

/// An operation belongs to the daemon.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deadline_ends_the_call_and_not_its_operation() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_gate",
        "SELECT pg_advisory_xact_lock(77); CREATE TABLE a ();",
        "DROP TABLE a;",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    let wire = Wire::connect(&daemon.address).await;
    let expired = async |path: &str, deadline: &str, body| {
        let answer = wire.call(grpc(path, Some(deadline)), body).await;
        Failed::of(&answer.status()).assert(Code::DeadlineExceeded, "DEADLINE_EXCEEDED");
    };
    expired("/schemad.v1.MigrationService/Apply", "700m", empty()).await;
    let id = database
        .text("SELECT id FROM schemad.operations WHERE state = 'running'")
        .await;
    let watch = pb::WatchOperationRequest {
        id: id.clone(),
        ..Default::default()
    };
    expired(
        "/schemad.v1.OperationService/WatchOperation",
        "700m",
        Some(framed(&watch)),
    )
    .await;
    // A request that never ends, and a stream of questions.
    expired("/schemad.v1.MigrationService/GetStatus", "700m", None).await;
    expired(REFLECTION, "700m", None).await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    eventually("the operation goes on", async || {
        let state = database
            .text(&format!(
                "SELECT state FROM schemad.operations WHERE id = '{id}'"
            ))
            .await;
        (state == "succeeded").then_some(())
    })
    .await;
    // What waits for the database.
    database
        .execute("CREATE TABLE locked (id int); CREATE INDEX ON locked (id)")
        .await;
    let mut holder = database.connect().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE locked IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap();
    expired("/schemad.v1.SchemaService/DescribeSchema", "150m", empty()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn as_many_streams_are_advertised_as_are_allowed() {
    let database = TestDatabase::new().await;
    let mut settings = settings(&database.url);
    settings.limits = Limits {
        streams_per_connection: 7,
        ..Limits::default()
    };
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    for address in [&daemon.address, &daemon.admin] {
        let wire = Wire::connect(address).await;
        eventually("the settings", async || (wire.streams() == 7).then_some(())).await;
        // Streams that end make room at once, however fast a client is.
        let mut watches = std::collections::VecDeque::new();
        for round in 0..200 {
            if watches.len() == 7 {
                watches.pop_front();
            }
            let mut response = wire
                .begin(grpc(WATCH, None), watched(""))
                .await
                .await
                .unwrap();
            assert!(
                response.body_mut().data().await.is_some(),
                "round {round}: {response:?}"
            );
            watches.push_back(response);
        }
        watches.pop_front();
        for round in 0..200 {
            let answer = wire.call(grpc(CHECK, None), empty()).await;
            assert_eq!(
                answer.status().code(),
                Code::Ok,
                "round {round}: {answer:?}"
            );
        }
    }
}

/// A page in a browser may send a POST with one of three content types anywhere, with the person's
/// client certificate.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_a_post_of_grpc_reaches_a_method() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let (main, admin) = (
        Wire::connect(&daemon.address).await,
        Wire::connect(&daemon.admin).await,
    );
    let with = |path: &str, method: &str, kinds: &[&str]| {
        let mut request = grpc(path, None);
        *request.method_mut() = method.parse().unwrap();
        request.headers_mut().remove("content-type");
        for kind in kinds {
            request
                .headers_mut()
                .append("content-type", kind.parse().unwrap());
        }
        request
    };
    const WRONG: [&[&str]; 12] = [
        &["text/plain"],
        &["application/x-www-form-urlencoded"],
        &["multipart/form-data; boundary=x"],
        &[],
        &[""],
        &["application/json"],
        &["application/grpc-web"],
        &["application/grpc-web+proto"],
        &["application/grpcx"],
        &["application/grpc+json"],
        &["text/plain; application/grpc"],
        &["text/plain", "application/grpc"],
    ];
    const RIGHT: [&str; 5] = [
        "application/grpc",
        "application/grpc+proto",
        "Application/GRPC",
        "application/grpc; charset=utf-8",
        "application/grpc+proto;x=y",
    ];
    let paths = METHODS
        .iter()
        .map(|method| (&main, method.path))
        .chain([(&admin, CHECK), (&admin, WATCH)]);
    for (wire, path) in paths {
        for wrong in WRONG {
            let answer = wire.call(with(path, "POST", wrong), empty()).await;
            assert_eq!(answer.http, 415, "{path} {wrong:?}: {answer:?}");
            assert!(answer.headers.get("access-control-allow-origin").is_none());
        }
        for method in ["GET", "HEAD", "PUT", "OPTIONS", "PATCH", "DELETE"] {
            let answer = wire
                .call(with(path, method, &["application/grpc"]), empty())
                .await;
            assert_eq!(answer.http, 405, "{path} {method}: {answer:?}");
            assert_eq!(answer.headers["allow"], "POST");
        }
    }
    for (wire, right) in [&main, &admin]
        .into_iter()
        .flat_map(|wire| RIGHT.map(|right| (wire, right)))
    {
        let answer = wire.call(with(CHECK, "POST", &[right]), empty()).await;
        assert_eq!(
            (answer.http, answer.status().code()),
            (200, Code::Ok),
            "{right}: {answer:?}"
        );
    }
    // An unknown method is one for gRPC clients only, too.
    let answer = main
        .call(
            with("/schemad.v1.MigrationService/Drop", "POST", &["text/plain"]),
            empty(),
        )
        .await;
    assert_eq!(answer.http, 415, "{answer:?}");
    // The admin listener's HTTP only reads.
    for path in ["/livez", "/readyz", "/health/db", "/metrics"] {
        for method in ["POST", "PUT", "OPTIONS", "DELETE"] {
            let answer = admin
                .call(with(path, method, &["text/plain"]), empty())
                .await;
            assert_eq!(answer.http, 405, "{path} {method}: {answer:?}");
            assert!(answer.headers.get("access-control-allow-origin").is_none());
        }
    }
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "0"
    );
}

/// A probe or a person with curl learns what the port is and where health is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_1_on_the_grpc_port_is_told_where_the_admin_port_is() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    let port = daemon.admin.rsplit(':').next().unwrap();
    for request in [
        "GET /livez HTTP/1.1\r\nHost: x\r\n\r\n",
        "POST /schemad.v1.MigrationService/Apply HTTP/1.1\r\nHost: x\r\nContent-Length: \
         5\r\n\r\n12345",
        "PUT / HTTP/1.0\r\n\r\n",
        "OPTIONS * HTTP/1.1\r\n\r\n",
        "P", // the rest comes later: PRI or POST
    ] {
        let mut socket = TcpStream::connect(&daemon.address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        if request == "P" {
            tokio::task::yield_now().await;
            socket.write_all(b"OST / HTTP/1.1\r\n\r\n").await.unwrap();
        }
        let mut answer = Vec::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_to_end(&mut answer))
            .await
            .expect("it is not closed");
        let answer = String::from_utf8_lossy(&answer).into_owned();
        assert!(
            read.is_ok() && answer.starts_with("HTTP/1.1 "),
            "{request:?}: {read:?} {answer:?}"
        );
        assert!(
            answer.contains(port) && answer.contains("--admin-listen"),
            "{answer}"
        );
    }
    // HTTP/2 whose first bytes come one by one is served.
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut socket = TcpStream::connect(&daemon.address).await.unwrap();
    socket.set_nodelay(true).unwrap();
    for byte in preface {
        socket.write_all(&[*byte]).await.unwrap();
        tokio::task::yield_now().await;
    }
    let mut frame = [0; 9];
    tokio::time::timeout(PATIENCE, socket.read_exact(&mut frame))
        .await
        .expect("an answer")
        .unwrap();
    assert_eq!(frame[3], 4, "SETTINGS: {frame:?}");
    // The admin port speaks both.
    assert_eq!(get(&daemon.admin, "/livez").await.0, 200);
}

/// grpcurl and buf print an error's details only when the server can say what they are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_knows_the_messages_of_error_details() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let wire = Wire::connect(&daemon.address).await;
    let asks = |message_request| reflection::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(message_request),
    };
    use reflection::{
        server_reflection_request::MessageRequest::{FileByFilename, FileContainingSymbol},
        server_reflection_response::MessageResponse::FileDescriptorResponse,
    };
    let questions = [
        "ErrorInfo",
        "BadRequest",
        "PreconditionFailure",
        "RetryInfo",
    ]
    .map(|message| FileContainingSymbol(format!("google.rpc.{message}")))
    .into_iter()
    .chain([FileByFilename("google/rpc/error_details.proto".into())]);
    for version in ["v1", "v1alpha"] {
        for question in questions.clone() {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            let answer = wire
                .call(grpc(&path, None), Some(framed(&asks(question.clone()))))
                .await;
            let message = reflection::ServerReflectionResponse::decode(
                answer.body.get(5..).unwrap_or_default(),
            )
            .unwrap();
            let Some(FileDescriptorResponse(files)) = message.message_response else {
                panic!("{version} {question:?}: {message:?}")
            };
            let files = files.file_descriptor_proto.iter();
            let mut files =
                files.map(|file| prost_types::FileDescriptorProto::decode(&**file).unwrap());
            assert!(
                files.any(|file| file.name() == "google/rpc/error_details.proto"),
                "{version} {question:?}"
            );
        }
    }
}
