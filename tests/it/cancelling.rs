//! CancelOperation: from any daemon, in any state, without leaving anything behind and without
//! delay.

use schemad::pb;
use tonic::Code;
use uuid::Uuid;

use super::operations::{accepted, gate, gated, watch};
use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Failed, collect},
    eventually,
};

pub async fn cancel(daemon: &TestDaemon, id: &str) -> Result<pb::Operation, Failed> {
    let request = pb::CancelOperationRequest {
        id: id.into(),
        ..Default::default()
    };
    let answer = daemon.operations().cancel_operation(request).await;
    answer
        .map(|r| r.into_inner().operation.unwrap())
        .map_err(|status| Failed::of(&status))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_operation_is_cancelled_from_any_daemon() {
    let (database, set) = (TestDatabase::new().await, gated(2));
    let (runs, other) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let _gate = gate(&database).await;
    for from in [&runs, &other] {
        let (id, stream) = accepted(&runs, pb::ApplyRequest::default()).await;
        database.until_waiting(77).await;
        let cancelled = cancel(from, &id).await.unwrap();
        assert_eq!(
            (
                cancelled.state(),
                cancelled.steps_total - cancelled.steps_done
            ),
            (pb::OperationState::Cancelled, 1)
        );
        assert!(cancelled.cancel_requested);
        let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
            r.event
        })
        .await;
        let failed = outcome.failure();
        failed.assert(Code::Cancelled, "CANCELLED");
        assert_eq!(
            failed.metadata["steps_done"],
            cancelled.steps_done.to_string()
        );
        assert_eq!(database.diesel_versions().await, ["0001", "0002"]);
        cancel(from, &id)
            .await
            .unwrap_err()
            .assert(Code::FailedPrecondition, "OPERATION_ENDED");
        database.assert_consistent().await;
    }
    let unknown = cancel(&runs, &Uuid::new_v4().to_string())
        .await
        .unwrap_err();
    unknown.assert(Code::NotFound, "UNKNOWN_OPERATION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_waits_for_another_is_cancelled_too() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let (runs, other) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let gate = gate(&database).await;
    let (first, stream) = accepted(&runs, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    let patient = pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    // Whoever looks for what dead daemons left looks twice a second, and must not take an ending
    // one for that.
    for _ in 0..10 {
        let (queued, _events) = accepted(&other, patient.clone()).await;
        let cancelled = cancel(&runs, &queued).await.unwrap();
        assert_eq!(
            (cancelled.state(), cancelled.steps_total),
            (pb::OperationState::Cancelled, 0)
        );
    }
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    watch(&runs, &first, 0).await.finished();
    drop(stream);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_index_build_leaves_no_invalid_index_behind() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
    set.add_non_transactional("2_index", "CREATE INDEX CONCURRENTLY i ON t (n);", "");
    let daemon = TestDaemon::start(&database, &set).await;
    daemon
        .apply(pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        })
        .await
        .finished();
    let writer = database.connect().await;
    writer
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let (id, _stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query \
                 LIKE 'CREATE INDEX%' AND datname = current_database()";
    eventually("a build that waits", async || {
        (database.text(waits).await == "1").then_some(())
    })
    .await;
    let cancelled = cancel(&daemon, &id).await.unwrap();
    assert_eq!(cancelled.state(), pb::OperationState::Cancelled);
    writer.batch_execute("COMMIT").await.unwrap();
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text(
                "SELECT string_agg(indisvalid::text, ' ') FROM pg_index WHERE indrelid = \
            't'::regclass"
            )
            .await,
        "true"
    );
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_behind_a_long_reader_is_cancelled_within_a_second() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_t",
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1);",
        "",
    )]);
    set.add_non_transactional("2_index", "CREATE INDEX CONCURRENTLY i ON t (n);", "");
    let (runs, other) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    runs.apply(first).await.finished();
    let reader = database.connect().await;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t")
        .await
        .unwrap();
    for from in [&runs, &other] {
        let (id, _stream) = accepted(&runs, pb::ApplyRequest::default()).await;
        let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND \
                     query LIKE '% INDEX CONCURRENTLY %' AND datname = current_database()";
        eventually(
            "a build, or the removal of the one before, that waits",
            async || (database.text(waits).await == "1").then_some(()),
        )
        .await;
        let asked = std::time::Instant::now();
        assert_eq!(
            cancel(from, &id).await.unwrap().state(),
            pb::OperationState::Cancelled
        );
        // The promise is half a second and a second; before, the clean-up alone took two.
        assert!(
            asked.elapsed() < std::time::Duration::from_millis(1_800),
            "{:?}",
            asked.elapsed()
        );
    }
    reader.batch_execute("COMMIT").await.unwrap();
    runs.apply_all().await.finished();
    database.assert_consistent().await;
}
