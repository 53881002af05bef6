//! Scripts that are not one transaction and were changed, or met by others, between two tries:
//! nothing is left behind, and nothing is taken for done.

use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use super::{
    journal::{index_state, journal, problems, set},
    resolve::resolve,
};
use crate::harness::{Set, TestDaemon, TestDatabase};

const TABLE: (&str, &str, &str) = (
    "1_t",
    "CREATE TABLE t (n int); INSERT INTO t VALUES (1); CREATE INDEX ai ON t (n);",
    "",
);

/// Gives up on `up` behind a writer, and applies `mended` then; in between an operation fails
/// before it comes to that.
async fn mended(
    database: &TestDatabase,
    up: &str,
    mended: &str,
    transactional: bool,
) -> Vec<String> {
    let set = Set::of(&[TABLE]);
    set.add_non_transactional("3_index", up, "");
    let daemon = TestDaemon::start(database, &set).await;
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
    let soon = Some(prost_types::Duration {
        seconds: 1,
        nanos: 0,
    });
    let failed = daemon
        .apply(pb::ApplyRequest {
            lock_wait: soon,
            ..Default::default()
        })
        .await
        .failure();
    failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
    let stays = if up.contains(';') {
        "its statements before this one stay"
    } else {
        "nothing of it stays"
    };
    assert!(failed.message.contains(stays), "{}", failed.message);
    writer.batch_execute("ROLLBACK").await.unwrap();
    daemon.stop().await;

    let set = Set::of(&[TABLE, ("2_fails", "SELECT 1/0;", "")]);
    if transactional {
        set.add("3_index", mended, "")
    } else {
        set.add_non_transactional("3_index", mended, "")
    }
    let daemon = TestDaemon::start(database, &set).await;
    assert_eq!(daemon.apply_all().await.failure().metadata["version"], "2");
    daemon.stop().await;
    set.add("2_fails", "SELECT 1;", "");
    let daemon = TestDaemon::start(database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    assert_eq!(journal(database).await, [""; 0], "{up}");
    assert_eq!(problems(&daemon).await, [""; 0], "{up}");
    database.assert_consistent().await;
    let told = |e: &pb::OperationEvent| match &e.event {
        Some(Event::Notice(notice)) => Some(notice.message.clone()),
        _ => None,
    };
    outcome.events.iter().filter_map(told).collect()
}

async fn invalid(database: &TestDatabase) -> Vec<String> {
    database
        .texts("SELECT indexrelid::regclass::text FROM pg_index WHERE NOT indisvalid")
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_index_goes_before_the_file_in_one_transaction_runs() {
    let database = TestDatabase::new().await;
    let told = mended(
        &database,
        "CREATE INDEX CONCURRENTLY bi ON t (n)",
        "CREATE INDEX IF NOT EXISTS bi ON t (n);",
        true,
    )
    .await;
    assert!(
        told.iter()
            .any(|told| told.contains("removed the invalid index public.bi")),
        "{told:?}"
    );
    assert_eq!(index_state(&database, "bi").await, "t");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_index_goes_when_nothing_is_left_to_run() {
    let database = TestDatabase::new().await;
    let up = "SET search_path = public, app; SELECT 1; CREATE INDEX CONCURRENTLY bi ON t (n);";
    let told = mended(&database, up, "SELECT 1;", false).await;
    assert!(
        told.iter()
            .any(|told| told.contains("removed the invalid index public.bi")),
        "{told:?}"
    );
    assert_eq!(invalid(&database).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_copies_of_a_reindex_go_when_the_file_has_something_else_there() {
    let database = TestDatabase::new().await;
    let told = mended(
        &database,
        "SELECT 1; REINDEX INDEX CONCURRENTLY ai;",
        "SELECT 1; SELECT 2;",
        false,
    )
    .await;
    assert!(
        told.iter()
            .any(|told| told.contains("removed the invalid index public.ai_ccnew")),
        "{told:?}"
    );
    assert_eq!(invalid(&database).await, [""; 0]);
    assert_eq!(index_state(&database, "ai").await, "t");
}

/// Whether the index is needed only a person knows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_dropped_by_half_is_told() {
    let database = TestDatabase::new().await;
    let told = mended(
        &database,
        "SELECT 1; DROP INDEX CONCURRENTLY ai;",
        "SELECT 1;",
        false,
    )
    .await;
    assert!(
        told.iter()
            .any(|told| told.contains("the index public.ai is invalid")),
        "{told:?}"
    );
    assert_eq!(invalid(&database).await, ["ai"]);
}

/// In one transaction it fails as well, and nothing stays of either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_writes_its_own_row_is_refused_at_once() {
    let database = TestDatabase::new().await;
    for (up, sqlstate, word) in [
        (
            "INSERT INTO __diesel_schema_migrations (version) VALUES ('2');\nCREATE TABLE i (i \
             int);",
            "23505",
            "inserts into",
        ),
        (
            "DROP SCHEMA public CASCADE;\nCREATE SCHEMA public;\nCREATE TABLE q (n int);\nCREATE \
             INDEX CONCURRENTLY ON q (n);",
            "3F000",
            "drops or moves Diesel's table",
        ),
    ] {
        let daemon = TestDaemon::start(&database, &set(up, "")).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        let told = ["sqlstate", "line"].map(|key| failed.metadata[key].as_str());
        assert_eq!(told, [sqlstate, "1"], "{failed:?}");
        assert!(failed.metadata["meaning"].contains(word), "{failed:?}");
        assert_eq!(database.diesel_versions().await, ["1"]);
        assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
        daemon.stop().await;
    }
    let daemon = TestDaemon::start(
        &database,
        &set(
            "CREATE TABLE i (i int);",
            "DELETE FROM __diesel_schema_migrations WHERE version = '2';\nDROP TABLE i;",
        ),
    )
    .await;
    daemon.apply_all().await.finished();
    assert_eq!(
        daemon.rollback_steps(1).await.failure().metadata["sqlstate"],
        "SCH06"
    );
    assert_eq!(
        (database.diesel_versions().await, problems(&daemon).await),
        (vec!["1".into(), "2".into()], vec![])
    );
    database.assert_consistent().await;
}

/// What Diesel's table says of a half done script may be wrong, and nothing goes on until somebody
/// has looked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_done_script_that_diesel_lists_as_done_waits_for_a_person() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &set(
            "SELECT 1;\nCREATE TABLE i AS SELECT * FROM missing;",
            "SELECT 1;\nDROP TABLE i;",
        ),
    )
    .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let insert = "INSERT INTO __diesel_schema_migrations (version) VALUES ('2')";
    let delete = "DELETE FROM __diesel_schema_migrations WHERE version = '2'";
    database.execute(insert).await;
    assert_eq!(problems(&daemon).await, ["HALF_APPLIED"]);
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Diverged);
    for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "HALF_APPLIED");
        assert!(failed.message.contains("(Resolve)"), "{}", failed.message);
    }
    assert_eq!(
        resolve(&daemon, "2", pb::ResolveOutcome::StartOver)
            .await
            .unwrap_err()
            .reason,
        "NOTHING_TO_RESOLVE"
    );
    // Mended one way,
    database
        .execute(&format!("CREATE TABLE missing (n int); {delete}"))
        .await;
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
    assert_eq!(
        database.text("SELECT to_regclass('i') IS NOT NULL").await,
        "t"
    );
    // and a down,
    database.execute("DROP TABLE i").await;
    daemon
        .rollback_steps(1)
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    database.execute(delete).await;
    assert_eq!(problems(&daemon).await, ["HALF_REVERTED"]);
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "HALF_REVERTED");
    database
        .execute(&format!("{insert}; CREATE TABLE i (n int)"))
        .await;
    daemon.rollback_steps(1).await.finished();
    database.assert_consistent().await;
    // and the other way.
    database
        .execute("ALTER TABLE missing RENAME TO found")
        .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    database
        .execute(&format!("CREATE TABLE i (n int); {insert}"))
        .await;
    resolve(&daemon, "2", pb::ResolveOutcome::Applied)
        .await
        .unwrap();
    assert_eq!(
        (daemon.status().await.state(), journal(&database).await),
        (pb::SchemaState::Current, vec![])
    );
    daemon.rollback_steps(1).await.finished();
    assert_eq!(database.diesel_versions().await, ["1"]);
}
