//! What a running step waits for is told by every daemon, and by status, not only to those who
//! follow it where it runs.

use schemad::pb::{self, operation_event::Event};

use super::{cancelling::cancel, operations::accepted};
use crate::harness::{
    PATIENCE, Process, Set, TestDaemon, TestDatabase, eventually,
    process::{from_folder, output, schemad, stdout},
};

/// A table that somebody reads in a transaction, and a migration that has to wait for that.
struct Busy {
    database: TestDatabase,
    set: Set,
    reader: tokio_postgres::Client,
    pid: i32,
}

impl Busy {
    async fn new(comment: &str) -> Self {
        let database = TestDatabase::new().await;
        database.execute("CREATE TABLE busy (id int)").await;
        let locked = format!("-- schemad: {comment}\nALTER TABLE busy ADD COLUMN more int;");
        let set = Set::of(&[
            (
                "1_first",
                "CREATE TABLE first (id int);",
                "DROP TABLE first;",
            ),
            ("2_locked", &locked, "ALTER TABLE busy DROP COLUMN more;"),
        ]);
        let reader = database.connect().await;
        reader
            .batch_execute("SET application_name = 'a report'; BEGIN; SELECT FROM busy")
            .await
            .unwrap();
        let pid = reader
            .query_one("SELECT pg_backend_pid()", &[])
            .await
            .unwrap()
            .get(0);
        Self {
            database,
            set,
            reader,
            pid,
        }
    }

    #[track_caller]
    fn assert_is_told(&self, waiting: &pb::Waiting) {
        assert_eq!(
            (waiting.version.as_str(), waiting.mode.as_str()),
            ("2", "AccessExclusiveLock"),
            "{waiting:?}"
        );
        assert_eq!(
            (waiting.relation.as_str(), waiting.blockers.len()),
            ("public.busy", 1),
            "{waiting:?}"
        );
        let blocker = &waiting.blockers[0];
        assert_eq!(
            (blocker.pid, blocker.application_name.as_str()),
            (self.pid, "a report")
        );
        assert_eq!(
            (blocker.user.as_str(), blocker.state.as_str()),
            ("postgres", "idle in transaction")
        );
        assert_eq!(
            (blocker.mode.as_str(), blocker.relation.as_str()),
            ("AccessShareLock", "public.busy")
        );
        assert!(
            blocker.age.is_some() && waiting.waited.is_some(),
            "{waiting:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_daemon_tells_within_two_seconds_who_is_in_the_way() {
    let busy = Busy::new("lock_timeout=0").await;
    let runs = TestDaemon::start(&busy.database, &busy.set).await;
    let other = TestDaemon::start(&busy.database, &busy.set).await;
    let (id, _stream) = accepted(&runs, pb::ApplyRequest::default()).await;
    // Once it waits, and not before: the time counts from there.
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'busy'::regclass";
    eventually("it waits", async || {
        (busy.database.text(waits).await == "1").then_some(())
    })
    .await;
    let request = pb::WatchOperationRequest {
        id: id.clone(),
        after_sequence: 0,
        ..Default::default()
    };
    let told = async {
        let mut watch = other
            .operations()
            .watch_operation(request)
            .await
            .unwrap()
            .into_inner();
        loop {
            if let Event::Waiting(waiting) = watch
                .message()
                .await
                .unwrap()
                .unwrap()
                .event
                .unwrap()
                .event
                .unwrap()
            {
                break waiting;
            }
        }
    };
    let limit = std::time::Duration::from_secs(4); // two, and a busy machine
    busy.assert_is_told(
        &tokio::time::timeout(limit, told)
            .await
            .expect("the watch says nothing"),
    );

    let asked = tokio::time::timeout(limit, async {
        eventually("status says it", async || other.status().await.waiting).await
    });
    busy.assert_is_told(&asked.await.expect("status does not say it in time"));
    cancel(&other, &id).await.unwrap();
    let status = other.status().await;
    assert_eq!((status.waiting, status.running_operation), (None, None));
    let last = status.last_operation.expect("the last operation");
    assert_eq!(
        (last.id.as_str(), last.state()),
        (id.as_str(), pb::OperationState::Cancelled)
    );
    assert_eq!(
        (last.reason.as_str(), last.steps_done, last.steps_total),
        ("CANCELLED", 1, 2)
    );
    runs.stop().await;
    other.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn status_says_how_the_last_operation_ended_and_the_command_line_shows_both() {
    let busy = Busy::new("lock_timeout=0 lock_wait=1h").await;
    let daemon = TestDaemon::start(&busy.database, &busy.set).await;
    assert_eq!(daemon.status().await.last_operation, None, "there was none");
    let (id, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    eventually("status says it", async || daemon.status().await.waiting).await;
    let shown = stdout(&output(schemad(&["status", "--address", &daemon.address])).await);
    for line in [
        format!("Running   apply {id}, 1 of 2 steps done"),
        " for AccessExclusiveLock on public.busy, migration 2".into(),
        format!(
            "behind pid {} (postgres, a report, idle in transaction for ",
            busy.pid
        ),
    ] {
        assert!(shown.contains(&line), "{line} in {shown}");
    }
    busy.reader.batch_execute("COMMIT").await.unwrap();
    drop(stream);
    let last = eventually("it ends", async || daemon.status().await.last_operation).await;
    assert_eq!((last.id, last.steps_done), (id.clone(), 2));
    let shown = stdout(&output(schemad(&["status", "--address", &daemon.address])).await);
    assert!(
        shown.contains(&format!("Last      apply {id}, succeeded ")) && !shown.contains("Waiting"),
        "{shown}"
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_names_who_is_waited_for_and_who_was_when_a_step_is_tried_again() {
    let busy = Busy::new("lock_timeout=1s").await;
    let mut command = from_folder(&busy.set, &["serve"]);
    command.env("DATABASE_URL", &busy.database.url);
    let mut daemon = Process::start(command).await;
    let apply = tokio::spawn(output(schemad(&[
        "apply",
        "--address",
        &daemon.address,
        "--lock-wait",
        "20s",
    ])));
    let blocker = format!(
        "pid {} (postgres, a report, idle in transaction for ",
        busy.pid
    );
    let waiting = daemon.event("operation.waiting").await;
    assert!(
        waiting["blocked_by"]
            .as_str()
            .unwrap()
            .starts_with(&blocker),
        "{waiting}"
    );
    assert_eq!(
        (&waiting["version"], &waiting["mode"]),
        (&"2".into(), &"AccessExclusiveLock".into()),
        "{waiting}"
    );
    let retrying = daemon.event("operation.retrying").await;
    assert!(
        retrying["blocked_by"]
            .as_str()
            .unwrap()
            .starts_with(&blocker),
        "{retrying}"
    );
    busy.reader.batch_execute("COMMIT").await.unwrap();
    let applied = tokio::time::timeout(PATIENCE, apply)
        .await
        .unwrap()
        .unwrap();
    assert!(applied.status.success(), "{applied:?}");
}

/// The number of a session and when it began stand in the ledger; another database's session with
/// that number is not looked at.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_names_a_session_of_another_database_is_not_believed() {
    let (elsewhere, database) = (Busy::new("lock_timeout=0").await, TestDatabase::new().await);
    let daemon = TestDaemon::start(&elsewhere.database, &elsewhere.set).await;
    let copy = TestDaemon::start(&database, &elsewhere.set).await;
    let (id, stream) = accepted(&daemon, pb::ApplyRequest::default()).await;
    eventually("it waits", async || daemon.status().await.waiting).await;
    let pid = elsewhere
        .database
        .text("SELECT backend_pid FROM schemad.operations")
        .await;
    // A ledger that was restored from there, with a holder of the lock that is not the one.
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    database
        .execute(&format!(
            "INSERT INTO schemad.operations (id, kind, principal, request_id, request_hash, state, \
                 daemon, backend_pid, backend_start, queue_until, started_at, heartbeat_at) SELECT \
                 gen_random_uuid(), 'apply', 'p', gen_random_uuid(), 'h', 'running', 'elsewhere', \
                 pid, backend_start, now(), now(), now() + interval '1 hour' FROM pg_stat_activity \
                 WHERE pid = {pid}"
        ))
        .await;
    let status = copy.status().await;
    assert_eq!(
        status.running_operation.expect("it is said to run").daemon,
        "elsewhere"
    );
    assert_eq!(status.waiting, None);
    cancel(&daemon, &id).await.unwrap();
    drop((stream, holder));
    daemon.stop().await;
    copy.stop().await;
}
