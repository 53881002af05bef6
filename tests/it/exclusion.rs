use std::time::Duration;

use schemad::{
    internals::{ledger, postgres},
    pb::{self, operation_event::Event},
};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

/// A migration that waits at a gate.
fn gated() -> Set {
    let up = "SELECT pg_advisory_lock(77), pg_advisory_unlock(77); CREATE TABLE a (id int);";
    Set::of(&[("1_gated", up, "DROP TABLE a;")])
}

/// The gate, closed until it is dropped.
async fn gate(database: &TestDatabase) -> tokio_postgres::Client {
    let gate = database.connect().await;
    gate.batch_execute("SELECT pg_advisory_lock(77)")
        .await
        .unwrap();
    gate
}

/// Starts an apply on `daemon` and returns when it runs.
async fn running(daemon: &TestDaemon) -> (String, tonic::Streaming<pb::ApplyResponse>) {
    let mut stream = daemon
        .client()
        .apply(pb::ApplyRequest::default())
        .await
        .unwrap()
        .into_inner();
    loop {
        let event = stream.message().await.unwrap().unwrap().event.unwrap();
        if let Some(Event::StepStarted(_)) = event.event {
            return (event.operation, stream);
        }
    }
}

async fn drain(mut stream: tonic::Streaming<pb::ApplyResponse>) {
    while stream.message().await.unwrap().is_some() {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_applies_one_runs_and_the_other_is_told_which() {
    let (database, set) = (TestDatabase::new().await, gated());
    let gate = gate(&database).await;
    let one = TestDaemon::start(&database, &set).await;
    let two = TestDaemon::start(&database, &set).await;
    let (operation, stream) = running(&one).await;
    for daemon in [&one, &two] {
        let outcome = daemon.apply_all().await;
        let failed = outcome.failure();
        failed.assert(Code::Aborted, "BUSY");
        assert_eq!(failed.metadata["running_operation"], operation);
        assert!(
            !failed.metadata.contains_key("operation"),
            "a refusal is no operation's result"
        );
        assert!(outcome.events.is_empty());
    }
    let shown = two.status().await.running_operation.unwrap();
    assert_eq!(
        (shown.id.as_str(), shown.kind()),
        (operation.as_str(), pb::OperationKind::Apply)
    );
    drop(gate);
    drain(stream).await;
    assert!(two.status().await.running_operation.is_none());
    assert!(two.apply_all().await.finished().nothing_to_do);
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "2",
        "refusals leave nothing behind"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_a_queue_timeout_the_second_waits_its_turn() {
    let (database, set) = (TestDatabase::new().await, gated());
    let gate = gate(&database).await;
    let one = TestDaemon::start(&database, &set).await;
    let two = TestDaemon::start(&database, &set).await;
    let (operation, stream) = running(&one).await;
    let patient = || pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..Default::default()
    };
    let both_wait = async {
        crate::harness::eventually("both wait", async || {
            let waiting = "SELECT count(*) FROM schemad.operations WHERE state = 'pending'";
            (database.text(waiting).await == "2").then_some(())
        })
        .await;
        drop(gate);
    };
    let (elsewhere, here, ()) = tokio::join!(two.apply(patient()), one.apply(patient()), both_wait);
    for outcome in [elsewhere, here] {
        assert!(outcome.finished().nothing_to_do);
        let Some(Event::Accepted(_)) = &outcome.events[0].event else {
            panic!("accepted first: {:?}", outcome.events)
        };
        assert!(outcome.has(|e| matches!(e, Event::Queued(q) if q.running.as_ref().is_none_or(|r| r.id == operation))));
    }
    drain(stream).await;
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waited_in_vain_is_aborted_and_that_is_recorded() {
    let (database, set) = (TestDatabase::new().await, gated());
    let gate = gate(&database).await;
    let daemon = TestDaemon::start(&database, &set).await;
    let (_, stream) = running(&daemon).await;
    let brief = pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 0,
            nanos: 100_000_000,
        }),
        ..Default::default()
    };
    let outcome = daemon.apply(brief).await;
    let failed = outcome.failure();
    failed.assert(Code::Aborted, "BUSY");
    assert_eq!(failed.metadata["operation"], outcome.operation());
    let state = format!(
        "SELECT state FROM schemad.operations WHERE id = '{}'",
        outcome.operation()
    );
    assert_eq!(database.text(&state).await, "failed");
    drop(gate);
    drain(stream).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_simultaneous_applies_over_two_daemons_apply_once() {
    let (database, set) = (TestDatabase::new().await, Set::tables(5));
    let daemons = [
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &set).await,
    ];
    let request = || pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..Default::default()
    };
    let all =
        futures_util::future::join_all((0..10).map(|i| daemons[i % 2].apply(request()))).await;
    let did: Vec<i32> = all
        .iter()
        .map(|o| o.finished().steps_done)
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(did, [5]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn daemons_that_start_together_on_an_empty_database_make_one_ledger() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let start = || TestDaemon::launch(crate::harness::daemon::settings(&database.url), &set);
    let daemons = [start().await, start().await, start().await];
    for daemon in &daemons {
        daemon.until_ready().await;
    }
    assert_eq!(
        database.text("SELECT count(*) FROM schemad.ledger").await,
        "1"
    );
    daemons[2].apply_all().await.finished();
}

/// Holds the lock as another daemon would.
async fn hold(database: &TestDatabase) -> tokio_postgres::Client {
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    holder
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_another_daemon_closed_while_it_waited_does_not_begin() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let holder = hold(&database).await;
    let patient = pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..Default::default()
    };
    let closing = async {
        crate::harness::eventually("it waits", async || {
            (database
                .text("SELECT count(*) FROM schemad.operations WHERE state = 'pending'")
                .await
                == "1")
                .then_some(())
        })
        .await;
        database
            .execute("UPDATE schemad.operations SET state = 'interrupted', finished_at = now()")
            .await;
        drop(holder);
    };
    let (outcome, ()) = tokio::join!(daemon.apply(patient), closing);
    outcome.failure().assert(Code::Aborted, "INTERRUPTED");
    assert_eq!(database.diesel_versions().await, [""; 0]);
    assert_eq!(
        database.text("SELECT state FROM schemad.operations").await,
        "interrupted"
    );
    daemon.apply_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_so_many_operations_wait_in_one_daemon() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let holder = hold(&database).await;
    let patient = || pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        ..Default::default()
    };
    let waiting = futures_util::future::join_all((0..16).map(|_| daemon.apply(patient())));
    let refused = async {
        crate::harness::eventually("all wait", async || {
            (database
                .text("SELECT count(*) FROM schemad.operations WHERE state = 'pending'")
                .await
                == "16")
                .then_some(())
        })
        .await;
        let outcome = daemon.apply(patient()).await;
        outcome
            .failure()
            .assert(Code::ResourceExhausted, "TOO_MANY_QUEUED");
        drop(holder);
    };
    let (outcomes, ()) = tokio::join!(waiting, refused);
    let worked = outcomes
        .iter()
        .filter(|outcome| !outcome.finished().nothing_to_do)
        .count();
    assert_eq!((outcomes.len(), worked), (16, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_holds_the_lock_without_an_operation_is_named() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let holder = database.connect().await;
    holder
        .batch_execute(
            "SET application_name = 'by hand'; SELECT pg_advisory_lock(32478922351141220)",
        )
        .await
        .unwrap();
    let pid: i32 = holder
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::Aborted, "BUSY");
    assert!(
        failed.message.starts_with(&format!("pid {pid} (")),
        "{}",
        failed.message
    );
    assert!(
        failed.metadata["holder"].contains("by hand, idle for"),
        "{:?}",
        failed.metadata
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_is_told_which_session_it_waits_for() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let holder = hold(&database).await;
    holder
        .batch_execute("SET application_name = 'by hand'")
        .await
        .unwrap();
    let pid: i32 = holder
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let patient = pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 30,
            nanos: 0,
        }),
        ..Default::default()
    };
    let mut stream = daemon.client().apply(patient).await.unwrap().into_inner();
    let queued = loop {
        if let Some(Event::Queued(queued)) = stream
            .message()
            .await
            .unwrap()
            .unwrap()
            .event
            .unwrap()
            .event
        {
            break queued;
        }
    };
    let named = queued.holder.unwrap();
    assert_eq!(
        (
            named.pid,
            named.application_name.as_str(),
            named.state.as_str()
        ),
        (pid, "by hand", "idle")
    );
    assert!(queued.running.is_none());
    drop(holder);
    drain(stream).await;
}

/// A daemon that was stopped between winning the lock and its first step.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_that_holds_the_lock_and_stands_still_is_named_and_counts_as_silent() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let (stopped, by_hand) = (hold(&database).await, database.connect().await);
    stopped
        .batch_execute("SET application_name = 'schemad'")
        .await
        .unwrap();
    stopped
        .batch_execute(
            "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, \
                 daemon, backend_pid, backend_start, queue_until) SELECT gen_random_uuid(), \
                 'apply', 'p', gen_random_uuid(), 'h', 'pending', 'elsewhere:7', pid, \
                 backend_start, now() + interval '1 hour' FROM pg_stat_activity WHERE pid = \
                 pg_backend_pid()",
        )
        .await
        .unwrap();
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::Aborted, "BUSY");
    assert_eq!(failed.metadata["running_daemon"], "elsewhere:7");
    assert!(
        failed
            .message
            .contains("of elsewhere:7 holds the operation lock"),
        "{}",
        failed.message
    );

    let silent = async |so_long: Duration| ledger::silent(&by_hand, so_long).await.unwrap();
    assert!(silent(ledger::DEAD_AFTER).await.is_empty());
    let found = silent(Duration::ZERO).await;
    assert_eq!((found.len(), found[0].daemon.as_str()), (1, "elsewhere:7"));
    assert!(found[0].operation.is_some());
    // Whoever is busy is not silent, and neither is a person.
    stopped
        .batch_execute("SET application_name = 'psql'")
        .await
        .unwrap();
    assert!(silent(Duration::ZERO).await.is_empty());
    stopped
        .batch_execute("SET application_name = 'schemad'")
        .await
        .unwrap();
    assert!(
        postgres::terminate(&by_hand, found[0].backend)
            .await
            .unwrap()
    );
    daemon.apply_all().await.finished();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_set_than_expected_is_refused_also_while_an_operation_runs() {
    let (database, set) = (TestDatabase::new().await, gated());
    let gate = gate(&database).await;
    let (daemon, older) = (
        TestDaemon::start(&database, &set).await,
        TestDaemon::start(&database, &Set::of(&[])).await,
    );
    let digest = daemon.status().await.embedded_set_digest;
    let (operation, stream) = running(&daemon).await;
    let request = pb::ApplyRequest {
        expected_set_digest: digest,
        ..Default::default()
    };
    older
        .apply(request.clone())
        .await
        .failure()
        .assert(Code::FailedPrecondition, "SET_MISMATCH");
    daemon
        .apply(request.clone())
        .await
        .failure()
        .assert(Code::Aborted, "BUSY");
    drop(gate);
    drain(stream).await;
    // What the newer release accepted, the older one tells all the same.
    let again = pb::ApplyRequest {
        request_id: uuid::Uuid::new_v4().to_string(),
        ..request
    };
    let first = daemon.apply(again.clone()).await;
    let told = older.apply(again).await;
    assert_eq!(
        (told.finished(), told.operation()),
        (first.finished(), first.operation())
    );
    assert_ne!(first.operation(), operation);
    let open = "SELECT count(*) FROM schemad.operations";
    assert_eq!(
        database.text(open).await,
        "2",
        "refusals leave nothing behind"
    );
}
