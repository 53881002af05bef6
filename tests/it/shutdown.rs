use std::time::{Duration, Instant};

use schemad::{
    Settings,
    pb::{self, operation_event::Event},
};
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Failed, settings},
};

async fn started(daemon: &TestDaemon) -> tonic::Streaming<pb::ApplyResponse> {
    let mut stream = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap()
        .into_inner();
    loop {
        let event = stream.message().await.unwrap().unwrap().event.unwrap();
        if let Some(Event::StepStarted(_)) = event.event {
            return stream;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_operation_is_finished_and_new_ones_are_refused() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_slow",
        "SELECT pg_sleep(0.7); CREATE TABLE a (id int);",
        "",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let mut stream = started(&daemon).await;
    daemon.terminate();
    daemon.until("", ServingStatus::NotServing).await;
    assert_eq!(
        daemon.check("schemad.v1.MigrationService").await,
        Ok(ServingStatus::NotServing)
    );
    assert_eq!(
        daemon.check("schemad.database").await,
        Ok(ServingStatus::Serving)
    );
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::Unavailable, "SHUTTING_DOWN");
    let mut last = None;
    while let Some(response) = stream.message().await.unwrap() {
        last = response.event.unwrap().event;
    }
    let Some(Event::Finished(finished)) = last else {
        panic!("{last:?}")
    };
    assert_eq!(finished.state(), pb::OperationState::Succeeded);
    daemon.stop().await;
    assert_eq!(database.diesel_versions().await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_grace_the_running_step_is_undone_and_the_operation_interrupted() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (id int);", ""),
        (
            "2_slow",
            "CREATE TABLE b (id int); SELECT pg_sleep(60);",
            "",
        ),
    ]);
    let brief = Settings {
        shutdown_grace: Duration::from_millis(200),
        ..settings(&database.url)
    };
    let daemon = TestDaemon::launch(brief, &set).await;
    daemon.until_ready().await;
    let mut stream = started(&daemon).await;
    let told = Instant::now();
    daemon.terminate();
    let status = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("it succeeded"),
            Err(status) => break status,
        }
    };
    let failed = Failed::of(&status);
    failed.assert(Code::Aborted, "INTERRUPTED");
    assert!(failed.metadata.contains_key("operation"));
    daemon.stop().await;
    assert!(
        told.elapsed() < Duration::from_secs(10),
        "{:?}",
        told.elapsed()
    );
    assert_eq!(database.diesel_versions().await, ["1"]);
    assert_eq!(database.text("SELECT to_regclass('b')").await, "NULL");
    assert_eq!(
        database.text("SELECT state FROM schemad.operations").await,
        "interrupted"
    );
    let next = TestDaemon::start(
        &database,
        &Set::of(&[("1_a", "CREATE TABLE a (id int);", "")]),
    )
    .await;
    assert!(next.apply_all().await.finished().nothing_to_do);
}
