use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

fn request(id: &str) -> pb::ApplyRequest {
    pb::ApplyRequest {
        request_id: id.into(),
        ..Default::default()
    }
}

fn id() -> String {
    uuid::Uuid::new_v4().to_string()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_request_is_the_same_operation_while_it_runs_and_afterwards() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_slow",
        "SELECT pg_sleep(0.3); CREATE TABLE a (id int);",
        "",
    )]);
    let one = TestDaemon::start(&database, &set).await;
    let two = TestDaemon::start(&database, &set).await;
    let id = id();
    let (first, here, elsewhere) = tokio::join!(
        one.apply(request(&id)),
        one.apply(request(&id)),
        two.apply(request(&id))
    );
    for outcome in [&first, &here, &elsewhere] {
        assert_eq!(
            (outcome.finished().steps_done, outcome.operation()),
            (1, first.operation())
        );
    }
    let after = two.apply(request(&id)).await;
    assert_eq!(
        (after.finished().steps_done, after.operation()),
        (1, first.operation())
    );
    assert!(after.has(|e| matches!(e, Event::Accepted(a) if a.repeated)));
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_recorded_failure_is_told_again_by_another_daemon() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_bad", "SELECT 1/0;", "")]);
    let one = TestDaemon::start(&database, &set).await;
    let id = id();
    let first = one.apply(request(&id)).await.failure();
    one.stop().await;
    let two = TestDaemon::start(&database, &set).await;
    let again = two.apply(request(&id)).await.failure();
    again.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(
        (again.metadata, again.message),
        (first.metadata, first.message)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_was_used_for_something_else_is_refused() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let id = id();
    daemon.apply(request(&id)).await.finished();
    let other = pb::ApplyRequest {
        allow_out_of_order: true,
        ..request(&id)
    };
    daemon
        .apply(other)
        .await
        .failure()
        .assert(Code::InvalidArgument, "REQUEST_ID_REUSED");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_binds_no_id() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let id = id();
    let unknown = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::To("9".into())),
        ..request(&id)
    };
    daemon
        .apply(unknown)
        .await
        .failure()
        .assert(Code::NotFound, "UNKNOWN_VERSION");
    daemon.apply(request(&id)).await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refusal_beside_another_daemon_leaves_nothing_behind() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let (one, two) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let refused = async {
        for _ in 0..15 {
            let target = Some(pb::apply_request::Target::To("9".into()));
            one.apply(pb::ApplyRequest {
                target,
                ..Default::default()
            })
            .await
            .failure();
        }
    };
    let accepted = async {
        for _ in 0..15 {
            let queue_timeout = Some(prost_types::Duration {
                seconds: 20,
                nanos: 0,
            });
            two.apply(pb::ApplyRequest {
                queue_timeout,
                ..Default::default()
            })
            .await
            .finished();
        }
    };
    tokio::join!(refused, accepted);
    let others = "SELECT count(*) FROM schemad.operations WHERE state <> 'succeeded'";
    assert_eq!(database.text(others).await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_of_a_queued_operation_is_told_so_by_every_daemon() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let (one, two) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    );
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let id = id();
    let queue_timeout = Some(prost_types::Duration {
        seconds: 60,
        nanos: 0,
    });
    let queued = pb::ApplyRequest {
        queue_timeout,
        ..request(&id)
    };
    let mut first = one
        .client()
        .apply(queued.clone())
        .await
        .unwrap()
        .into_inner();
    let accepted = first.message().await.unwrap().unwrap().event.unwrap();
    // Both end while the operation still waits.
    for daemon in [&one, &two] {
        let detached = pb::ApplyRequest {
            detach: true,
            ..queued.clone()
        };
        let repeat = tokio::time::timeout(crate::harness::PATIENCE, daemon.apply(detached))
            .await
            .expect("it is silent");
        assert!(repeat.status.is_ok());
        assert_eq!(repeat.operation(), accepted.operation);
    }
    drop(holder);
    while first.message().await.unwrap().is_some() {}
    database.assert_consistent().await;
}
