use schemad::grpc::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

/// A step's lock_timeout is 5 s; a migration may set its own to keep the test short.
const IMPATIENT: &str = "SET LOCAL lock_timeout = '100ms'; ALTER TABLE busy ADD COLUMN more int;";

fn wait(seconds: i64, nanos: i32) -> pb::ApplyRequest {
    pb::ApplyRequest { lock_wait: Some(prost_types::Duration { seconds, nanos }), ..Default::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_cannot_get_its_locks_is_undone_and_tried_again_until_it_can() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[
        ("1_before", "CREATE TABLE before (id int);", ""),
        ("2_locked", &format!("CREATE TABLE first (id int); {IMPATIENT}"), ""),
        ("3_after", "CREATE TABLE after (id int);", ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE").await.unwrap();
    let mut stream = daemon.client().apply(wait(30, 0)).await.unwrap().into_inner();
    let mut retries = 0;
    let mut done = Vec::new();
    while let Some(response) = stream.message().await.unwrap() {
        match response.event.unwrap().event.unwrap() {
            Event::Retrying(retry) => {
                assert_eq!((retry.version.as_str(), retry.sqlstate.as_str()), ("2", "55P03"));
                assert_eq!(database.diesel_versions().await, ["1"], "the step before it stays");
                retries += 1;
                if retries == 2 {
                    user.batch_execute("COMMIT").await.unwrap();
                }
            }
            Event::StepDone(step) => done.push(step.version),
            _ => {}
        }
    }
    assert!(retries >= 2);
    assert_eq!(done, ["1", "2", "3"]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_lock_wait_is_over_the_step_is_undone_and_the_caller_told() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let set = Set::of(&[("1_before", "CREATE TABLE before (id int);", ""), ("2_locked", IMPATIENT, "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE").await.unwrap();
    let outcome = daemon.apply(wait(0, 500_000_000)).await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    assert_eq!((failed.metadata["version"].as_str(), failed.metadata["sqlstate"].as_str()), ("2", "55P03"));
    assert_eq!(database.diesel_versions().await, ["1"]);
    user.batch_execute("COMMIT").await.unwrap();
    assert_eq!(daemon.apply_all().await.done(), ["2"]);
    database.assert_consistent().await;
}
