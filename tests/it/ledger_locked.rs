//! Another session has locked a table of the ledger: no operation waits without end, none keeps the
//! operation lock meanwhile, and whoever asks is told who is in the way.

use futures_util::future::join_all;
use schemad::pb::{self, operation_event::Event};
use tokio_postgres::Client;
use tonic::Code;

use super::{
    cancelling::cancel,
    operations::{accepted, gate, gated},
};
use crate::harness::{
    PATIENCE, Set, TestDaemon, TestDatabase,
    daemon::{Outcome, collect},
    eventually,
};

const TABLES: &str = "SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN \
    pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND (n.nspname = 'schemad' OR \
    c.relname = '__diesel_schema_migrations') ORDER BY 1";

/// Somebody who has locked a table, and their process id.
async fn locker(database: &TestDatabase, table: &str, mode: &str) -> (Client, i32) {
    let client = database.connect().await;
    // Before the transaction, which so holds no snapshot that an index build would wait for.
    let pid = client
        .query_one("SELECT pg_backend_pid()", &[])
        .await
        .unwrap()
        .get(0);
    let lock =
        format!("SET application_name = 'a locker'; BEGIN; LOCK TABLE {table} IN {mode} MODE");
    client.batch_execute(&lock).await.unwrap();
    (client, pid)
}

fn impatient() -> pb::ApplyRequest {
    pb::ApplyRequest {
        lock_wait: Some(prost_types::Duration {
            seconds: 1,
            nanos: 0,
        }),
        ..Default::default()
    }
}

fn impatient_rollback() -> pb::RollbackRequest {
    pb::RollbackRequest {
        lock_wait: impatient().lock_wait,
        target: Some(pb::rollback_request::Target::Steps(1)),
        ..Default::default()
    }
}

/// It went well without that table, or was refused by name.
#[track_caller]
fn assert_is_bounded(outcome: &Outcome, pid: i32, what: &str) {
    if outcome.status.is_ok() {
        return;
    }
    let failed = outcome.failure();
    // BUSY: the daemon itself looks after the ledger just now, with the operation lock, and is what
    // has to wait.
    let known = [
        (Code::Aborted, "LEDGER_LOCKED"),
        (Code::Aborted, "BUSY"),
        (Code::FailedPrecondition, "LOCK_TIMEOUT"),
    ];
    assert!(
        known.contains(&(failed.code, failed.reason.as_str())),
        "{what}: {failed:?}"
    );
    let blocked_by = failed
        .metadata
        .get("blocked_by")
        .unwrap_or_else(|| panic!("{what}: {failed:?}"));
    assert!(
        blocked_by.contains(&format!("pid {pid} (postgres, a locker, ")),
        "{what}: {failed:?}"
    );
}

/// Every table of the ledger and Diesel's, in each mode that schemad's reading and writing conflict
/// with.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_and_rollback_end_whichever_table_of_the_ledger_is_locked() {
    let database = TestDatabase::new().await;
    let set = Set::tables(2);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let tables = database.texts(TABLES).await;
    assert!(
        tables.len() > 9 && tables.iter().any(|table| table == "schemad.steps"),
        "{tables:?}"
    );
    daemon.stop().await;
    let each = tables.iter().map(async |table| {
        let database = TestDatabase::new().await;
        let daemon = TestDaemon::start(&database, &set).await;
        let first = pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        };
        daemon.apply(first).await.finished();
        let mut refused = 0;
        for (mode, directions) in [
            ("SHARE", &[false][..]),
            ("SHARE ROW EXCLUSIVE", &[true]),
            ("EXCLUSIVE", &[false]),
            ("ACCESS EXCLUSIVE", &[false, true]),
        ] {
            for &down in directions {
                // One is applied and one pending, or two to be rolled back from.
                match (down, database.diesel_versions().await.len()) {
                    (true, _) => drop(daemon.apply_all().await.finished()),
                    (false, 2) => drop(daemon.rollback_steps(1).await.finished()),
                    (false, _) => {}
                }
                let (locker, pid) = locker(&database, table, mode).await;
                let what = format!("{table} in {mode} mode, down: {down}");
                let asked = async {
                    if down {
                        daemon.rollback(impatient_rollback()).await
                    } else {
                        daemon.apply(impatient()).await
                    }
                };
                // Some times 5 s, and a busy machine.
                let limit = std::time::Duration::from_secs(60);
                let outcome = tokio::time::timeout(limit, asked)
                    .await
                    .unwrap_or_else(|_| {
                        panic!(
                            "{what}: \
                    no end"
                        )
                    });
                assert_is_bounded(&outcome, pid, &what);
                refused += usize::from(outcome.status.is_err());
                locker.batch_execute("ROLLBACK").await.unwrap();
                database.until_free().await;
            }
        }
        if table == "schemad.steps" {
            // What could be told is told by the history, too, and not taken for what a dead daemon
            // left.
            let states = "SELECT DISTINCT state || ' ' || coalesce(result->'failure'->>'reason', \
                '') FROM schemad.operations ORDER BY 1";
            let states = database.texts(states).await;
            assert!(
                states.iter().any(|state| state == "failed LEDGER_LOCKED"),
                "{states:?}"
            );
        }
        daemon.until_ready().await;
        eventually("nothing is left open", async || {
            let open = "SELECT count(*) FROM schemad.operations WHERE state IN ('pending', \
                'running')";
            (database.text(open).await == "0").then_some(())
        })
        .await;
        daemon.apply_all().await.finished();
        database.assert_consistent().await;
        daemon.stop().await;
        (table.clone(), refused)
    });
    let refused = join_all(each).await;
    // What no operation touches is in nobody's way; the rest is.
    let is_refused = |name: &str| {
        refused
            .iter()
            .any(|(table, refused)| table.ends_with(name) && *refused > 0)
    };
    for table in [
        "operations",
        "steps",
        "events",
        "migrations",
        "scripts",
        "statements",
        "schema_migrations",
        "ledger",
    ] {
        assert!(is_refused(table), "{table}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_holder_of_the_operation_lock_that_waits_is_named_with_whom_it_waits_for() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &Set::tables(1)).await;
    let (_locker, pid) = locker(&database, "schemad.refusals", "SHARE").await;
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let waits = tokio::spawn(async move {
        holder
            .batch_execute("BEGIN; LOCK TABLE schemad.refusals IN EXCLUSIVE MODE")
            .await
    });
    until_waits(&database, "schemad.refusals").await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::Aborted, "BUSY");
    assert!(
        failed.metadata["blocked_by"].contains(&format!("pid {pid} (postgres, a locker, ")),
        "{failed:?}"
    );
    assert!(
        failed.message.contains(", and waits for pid ") && failed.message.contains("; end that"),
        "{failed:?}"
    );
    waits.abort();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_that_cannot_be_finished_is_undone_and_says_who_has_locked_the_ledger() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let (_, stream) = accepted(&daemon, impatient_but_for_the_gate()).await;
    database.until_waiting(77).await;
    let (locker, pid) = locker(&database, "schemad.steps", "SHARE").await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
        r.event
    })
    .await;
    assert!(
        outcome.has(|e| matches!(e, Event::Retrying(retry) if retry.sqlstate == "55P03")),
        "{:?}",
        outcome.events
    );
    outcome
        .failure()
        .assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    assert_is_bounded(&outcome, pid, "schemad.steps");
    locker.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(database.diesel_versions().await, ["0001"]);
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
    daemon.stop().await;
}

fn impatient_but_for_the_gate() -> pb::ApplyRequest {
    pb::ApplyRequest {
        lock_wait: Some(prost_types::Duration {
            seconds: 12,
            nanos: 0,
        }),
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operation_that_waits_for_the_ledger_is_cancelled_at_once() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    set.add(
        "99999_after",
        "CREATE TABLE after (id int);",
        "DROP TABLE after;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let (id, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    // The step has read its row, so the lock is had behind it and before the next one. Then nobody
    // can read the operation either, because its steps are counted.
    let (locker, gate) = tokio::join!(
        locker(&database, "schemad.steps", "ACCESS EXCLUSIVE"),
        async {
            until_waits(&database, "schemad.steps").await;
            gate.batch_execute("SELECT pg_advisory_unlock(77)")
                .await
                .unwrap();
            gate
        }
    );
    let (locker, _) = locker;
    until_waits(&database, "schemad.steps").await;
    let begun = std::time::Instant::now();
    let cancelled = cancel(&daemon, &id).await.unwrap();
    assert!(
        begun.elapsed() < std::time::Duration::from_secs(4),
        "sooner than any timeout: {:?}",
        begun.elapsed()
    );
    drop(gate);
    assert_eq!(
        (cancelled.state(), cancelled.reason.as_str()),
        (pb::OperationState::Cancelled, "CANCELLED")
    );
    assert_eq!((cancelled.steps_done, cancelled.steps_total), (2, 3));
    let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
        r.event
    })
    .await;
    outcome.failure().assert(Code::Cancelled, "CANCELLED");
    locker.batch_execute("ROLLBACK").await.unwrap();
    let state = format!("SELECT state FROM schemad.operations WHERE id = '{id}'");
    assert_eq!(
        database.text(&state).await,
        "cancelled",
        "it is in the history"
    );
    database.assert_consistent().await;
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queued_operation_is_cancelled_although_the_ledger_is_locked() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let queued = pb::ApplyRequest {
        queue_timeout: Some(prost_types::Duration {
            seconds: 60,
            nanos: 0,
        }),
        request_id: uuid::Uuid::new_v4().to_string(),
        ..Default::default()
    };
    let mut stream = daemon.client().apply(queued).await.unwrap().into_inner();
    let id = stream
        .message()
        .await
        .unwrap()
        .unwrap()
        .event
        .unwrap()
        .operation;
    let next = stream
        .message()
        .await
        .unwrap()
        .unwrap()
        .event
        .unwrap()
        .event;
    assert!(matches!(next, Some(Event::Queued(_))), "{next:?}");
    let (locker, _) = locker(&database, "schemad.steps", "ACCESS EXCLUSIVE").await;
    let cancelled = cancel(&daemon, &id).await.unwrap();
    assert_eq!(
        cancelled.state(),
        pb::OperationState::Cancelled,
        "{cancelled:?}"
    );
    let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
        r.event
    })
    .await;
    outcome.failure().assert(Code::Cancelled, "CANCELLED");
    locker.batch_execute("ROLLBACK").await.unwrap();
    drop(holder);
    let state = format!("SELECT state FROM schemad.operations WHERE id = '{id}'");
    assert_eq!(
        database.text(&state).await,
        "cancelled",
        "it is in the history"
    );
    database.until_free().await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_is_recorded_as_soon_as_the_ledger_is_free_again() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let (id, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    // Steps are committed without it, and the end is not.
    let (locker, pid) = locker(&database, "schemad.events", "SHARE").await;
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    until_waits(&database, "schemad.events").await;
    let status = daemon.status().await;
    let waiting = status.waiting.unwrap();
    assert_eq!(
        (waiting.version.as_str(), waiting.relation.as_str()),
        ("", "schemad.events")
    );
    // After one try the followers are told who is in the way, and nothing of a result that is not
    // recorded.
    let mut stream = stream;
    let warned = async {
        loop {
            match stream
                .message()
                .await
                .unwrap()
                .unwrap()
                .event
                .unwrap()
                .event
                .unwrap()
            {
                Event::Notice(notice) => break notice,
                Event::Finished(finished) => {
                    panic!("a result is told when it is recorded: {finished:?}")
                }
                _ => {}
            }
        }
    };
    let warned = tokio::time::timeout(PATIENCE, warned).await.unwrap();
    assert_eq!(
        (warned.version.as_str(), warned.severity.as_str()),
        ("", "WARNING")
    );
    assert!(
        warned
            .message
            .contains(&format!("in the way: pid {pid} (postgres, a locker, ")),
        "{}",
        warned.message
    );
    let told = tokio::spawn(collect(
        Ok(tonic::Response::new(stream)),
        |r: pb::ApplyResponse| r.event,
    ));
    locker.batch_execute("ROLLBACK").await.unwrap();
    let outcome = told.await.unwrap();
    assert_eq!(outcome.finished().steps_done, 2);
    let state = format!("SELECT state FROM schemad.operations WHERE id = '{id}'");
    assert_eq!(database.text(&state).await, "succeeded");
    daemon.stop().await;
}

/// The end is told all the same when nobody lets it be recorded, with what the history will say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_result_that_cannot_be_recorded_says_so() {
    let (database, set) = (TestDatabase::new().await, gated(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let gate = gate(&database).await;
    let (id, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    database.until_waiting(77).await;
    let locker = database.connect().await;
    locker
        .batch_execute("BEGIN; SELECT 1 FROM schemad.operations FOR UPDATE")
        .await
        .unwrap();
    gate.batch_execute("SELECT pg_advisory_unlock(77)")
        .await
        .unwrap();
    let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
        r.event
    })
    .await;
    let finished = outcome.finished();
    assert_eq!(finished.steps_done, 2);
    assert!(
        finished.warnings[0].starts_with("this result could not be recorded"),
        "{:?}",
        finished.warnings
    );
    locker.batch_execute("ROLLBACK").await.unwrap();
    let state = format!("SELECT state FROM schemad.operations WHERE id = '{id}'");
    eventually("it is closed", async || {
        (database.text(&state).await == "succeeded").then_some(())
    })
    .await;
    daemon.stop().await;
}

/// Whoever reads is told what it is, and not that the database is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_is_locked_against_reading_is_not_called_unavailable() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    let (locker, _) = locker(&database, "schemad.migrations", "ACCESS EXCLUSIVE").await;
    daemon
        .try_status()
        .await
        .unwrap_err()
        .assert(Code::Aborted, "LEDGER_LOCKED");
    locker.batch_execute("ROLLBACK").await.unwrap();
    daemon.until_ready().await;
    daemon.stop().await;
}

/// Waits until somebody waits for a table.
async fn until_waits(database: &TestDatabase, table: &str) {
    let waits = format!(
        "SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = '{table}'::regclass"
    );
    eventually("somebody waits", async || {
        (database.text(&waits).await == "t").then_some(())
    })
    .await;
}

/// What ran outside a transaction is recorded later, and does not run again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_outside_a_transaction_runs_once_although_its_record_has_to_wait() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "DROP TABLE t;")]);
    set.add_non_transactional(
        "2_i",
        "CREATE INDEX CONCURRENTLY i ON t (n);",
        "DROP INDEX i;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let first = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(first).await.finished();
    let writer = database.connect().await;
    writer
        .batch_execute("BEGIN; INSERT INTO t VALUES (1)")
        .await
        .unwrap();
    let (_, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    let builds =
        "SELECT count(*) FROM pg_stat_progress_create_index WHERE datname = current_database()";
    eventually("it waits for the writer", async || {
        (database.text(builds).await == "1").then_some(())
    })
    .await;
    let (locker, _) = locker(&database, "schemad.statements", "SHARE").await;
    writer.batch_execute("COMMIT").await.unwrap();
    until_waits(&database, "schemad.statements").await;
    tokio::time::sleep(std::time::Duration::from_secs(6)).await;
    let index = database.text("SELECT 'i'::regclass::oid").await;
    locker.batch_execute("ROLLBACK").await.unwrap();
    let outcome = collect(Ok(tonic::Response::new(stream)), |r: pb::ApplyResponse| {
        r.event
    })
    .await;
    assert_eq!(outcome.finished().steps_done, 1);
    assert_eq!(
        database.text("SELECT 'i'::regclass::oid").await,
        index,
        "the index was built once"
    );
    database.assert_consistent().await;
    daemon.stop().await;
}
