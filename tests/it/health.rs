use std::time::{Duration, Instant};

use schemad::pb;
use tonic::Code;
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse, health_check_response::ServingStatus,
};

use crate::harness::{
    PATIENCE, Proxy, Set, TestDaemon, TestDatabase,
    daemon::{get, settings},
};
use ServingStatus::{NotServing, ServiceUnknown, Serving};

const READY: &str = "schemad.v1.MigrationService";
const DATABASE: &str = "schemad.database";
const CURRENT: &str = "schemad.schema.current";

/// The promise is 2 s; a busy machine gets a little more before a test calls it broken.
const FLIP: Duration = Duration::from_millis(3500);

async fn watch(daemon: &TestDaemon, service: &str) -> tonic::Streaming<HealthCheckResponse> {
    let request = HealthCheckRequest {
        service: service.into(),
    };
    daemon.health().watch(request).await.unwrap().into_inner()
}

async fn next(stream: &mut tonic::Streaming<HealthCheckResponse>) -> ServingStatus {
    let message = tokio::time::timeout(PATIENCE, stream.message())
        .await
        .expect("no change")
        .unwrap();
    message.expect("the stream ended").status()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_names_say_what_they_promise() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let expect = async |names: [ServingStatus; 5]| {
        for (name, status) in ["", READY, DATABASE, CURRENT, "schemad.schema.applied.0001"]
            .into_iter()
            .zip(names)
        {
            daemon.until(name, status).await;
        }
    };
    expect([Serving, Serving, Serving, NotServing, NotServing]).await;
    daemon
        .apply(pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        })
        .await
        .finished();
    expect([Serving, Serving, Serving, NotServing, Serving]).await;
    daemon.apply_all().await.finished();
    expect([Serving, Serving, Serving, Serving, Serving]).await;
    daemon.rollback_all().await.finished();
    expect([Serving, Serving, Serving, NotServing, NotServing]).await;
    for unknown in ["nope", "schemad.schema.applied."] {
        assert_eq!(daemon.check(unknown).await, Err(Code::NotFound));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_knows_a_result_never_meets_an_older_answer() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    for _ in 0..20 {
        daemon.apply_all().await.finished();
        assert_eq!(daemon.check(CURRENT).await, Ok(Serving));
        daemon.rollback_all().await.finished();
        assert_eq!(daemon.check(CURRENT).await, Ok(NotServing));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watch_follows_and_stays_open_for_unknown_names() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let mut unknown = watch(&daemon, "nope").await;
    assert_eq!(next(&mut unknown).await, ServiceUnknown);
    let mut applied = watch(&daemon, "schemad.schema.applied.0001").await;
    assert_eq!(next(&mut applied).await, NotServing);
    daemon.apply_all().await.finished();
    assert_eq!(next(&mut applied).await, Serving);
    // By diesel_cli, elsewhere.
    let reverted = Instant::now();
    database
        .execute("DROP TABLE t1; DELETE FROM __diesel_schema_migrations")
        .await;
    assert_eq!(next(&mut applied).await, NotServing);
    assert!(reverted.elapsed() < FLIP, "{:?}", reverted.elapsed());
    // The stream of an unknown name is still open, and ends with the daemon.
    let none = tokio::time::timeout(Duration::from_millis(100), unknown.message()).await;
    assert!(none.is_err(), "{none:?}");
    daemon.terminate();
    let end = tokio::time::timeout(PATIENCE, unknown.message())
        .await
        .expect("the stream does not end");
    assert!(!matches!(end, Ok(Some(_))), "{end:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stalls_or_goes_away_shows_and_so_does_its_return() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let proxy = Proxy::to(&database).await;
    let daemon = TestDaemon::launch(settings(&proxy.url), &set).await;
    daemon.until_ready().await;
    for stall in [true, false] {
        let mut ready = watch(&daemon, READY).await;
        assert_eq!(next(&mut ready).await, Serving);
        let gone = Instant::now();
        if stall {
            proxy.stall()
        } else {
            proxy.cut()
        }
        assert_eq!(next(&mut ready).await, NotServing);
        assert!(gone.elapsed() < FLIP, "{:?}", gone.elapsed());
        daemon.until(DATABASE, NotServing).await;
        assert_eq!(
            daemon.check("").await,
            Ok(Serving),
            "liveness knows no database"
        );
        let refused = daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .unwrap_err();
        crate::harness::daemon::Failed::of(&refused)
            .assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
        let back = Instant::now();
        proxy.open();
        assert_eq!(next(&mut ready).await, Serving);
        assert!(back.elapsed() < FLIP, "{:?}", back.elapsed());
    }
    daemon.apply_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_serves_before_its_database_is_there() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let proxy = Proxy::to(&database).await;
    proxy.cut();
    let daemon = TestDaemon::launch(settings(&proxy.url), &set).await;
    daemon.until("", Serving).await;
    assert_eq!(daemon.check(READY).await, Ok(NotServing));
    let outcome = daemon.apply_all().await;
    outcome
        .failure()
        .assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    proxy.open();
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_admin_listener_speaks_http_and_grpc_health_and_nothing_else() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let proxy = Proxy::to(&database).await;
    let daemon = TestDaemon::launch(settings(&proxy.url), &set).await;
    daemon.until_ready().await;
    for path in ["/livez", "/readyz", "/health/db"] {
        let (status, body) = get(&daemon.admin, path).await;
        assert_eq!(
            (status, body.contains(r#""status":"SERVING""#)),
            (200, true),
            "{path}: {body}"
        );
    }
    for path in ["/healthz", "/readyz/", "/", "/grpc.health.v1.Health/../x"] {
        assert_eq!(
            get(&daemon.admin, path).await.0,
            404,
            "{path}: a mistyped probe must not pass"
        );
    }
    daemon.apply_all().await.finished();
    let (status, metrics) = get(&daemon.admin, "/metrics").await;
    assert_eq!(status, 200);
    assert!(
        metrics.contains(r#"schemad_operations_total{kind="apply",result="succeeded"} 1"#),
        "{metrics}"
    );
    assert!(metrics.contains("schemad_database_up 1") && metrics.contains("schemad_ready 1"));

    let channel = tonic::transport::Channel::from_shared(format!("http://{}", daemon.admin))
        .unwrap()
        .connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = HealthCheckRequest {
        service: READY.into(),
    };
    assert_eq!(
        health.check(request).await.unwrap().into_inner().status(),
        Serving
    );
    let mut service = pb::migration_service_client::MigrationServiceClient::new(channel);
    let refused = service
        .get_status(pb::GetStatusRequest {
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::Unimplemented);

    proxy.cut();
    daemon.until(READY, NotServing).await;
    daemon.until(DATABASE, NotServing).await;
    for (path, expected) in [("/livez", 200), ("/readyz", 503), ("/health/db", 503)] {
        let (status, body) = get(&daemon.admin, path).await;
        assert_eq!(status, expected, "{path}: {body}");
        assert!(
            status == 200 || body.contains(r#""reason":"DATABASE_UNAVAILABLE""#),
            "{body}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reflection_lists_the_services_and_can_be_switched_off() {
    use tonic_reflection::pb::v1::{
        ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
        server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
    };
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let list = async |daemon: &TestDaemon| {
        let request = ServerReflectionRequest {
            host: String::new(),
            message_request: Some(MessageRequest::ListServices(String::new())),
        };
        let mut client = ServerReflectionClient::new(daemon.channel());
        let mut answers = client
            .server_reflection_info(tokio_stream::once(request))
            .await?
            .into_inner();
        let answer = answers.message().await?.unwrap().message_response.unwrap();
        let MessageResponse::ListServicesResponse(list) = answer else {
            panic!("{answer:?}")
        };
        Ok::<_, tonic::Status>(list.service.into_iter().map(|s| s.name).collect::<Vec<_>>())
    };
    let daemon = TestDaemon::start(&database, &set).await;
    let services = list(&daemon).await.unwrap();
    for service in [READY, "grpc.health.v1.Health"] {
        assert!(services.contains(&service.to_owned()), "{services:?}");
    }
    let without = TestDaemon::launch(
        schemad::Settings {
            reflection: false,
            ..settings(&database.url)
        },
        &set,
    )
    .await;
    without.until_ready().await;
    assert_eq!(
        list(&without).await.unwrap_err().code(),
        Code::Unimplemented
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_the_ledger_and_the_migration_address() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let proxy = Proxy::to(&database).await;
    let mut apart = settings(&database.url);
    apart.migration_database = Some(proxy.url.parse().unwrap());
    let daemon = TestDaemon::launch(apart, &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    proxy.cut();
    daemon.until(READY, NotServing).await;
    assert_eq!(
        daemon.check(DATABASE).await,
        Ok(Serving),
        "reads go another way"
    );
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::Unavailable, "DATABASE_UNAVAILABLE");
    proxy.open();
    daemon.until_ready().await;
    database
        .execute("UPDATE schemad.ledger SET compatible_with = 99")
        .await;
    daemon.until(READY, NotServing).await;
    database
        .execute("UPDATE schemad.ledger SET compatible_with = 1")
        .await;
    daemon.until_ready().await;
    daemon.rollback_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_is_told_that_an_idle_daemon_ends() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    let mut watch = daemon
        .health()
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), Serving);
    daemon.terminate();
    assert_eq!(
        watch
            .message()
            .await
            .unwrap()
            .expect("a last word")
            .status(),
        NotServing
    );
}
