//! Scripts that are not one transaction, written in ways that are rarer than their effects.

use tonic::Code;

use super::journal::{index_state, journal, set};
use crate::harness::{Process, Set, TestDaemon, TestDatabase, eventually, process::from_folder};

/// A detach that is killed behind a reader is finished by the next try, however the file writes the
/// table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_detach_is_never_taken_for_done() {
    for table in ["p", "ONLY p", "IF EXISTS ONLY (public.p)", "p *"] {
        let database = TestDatabase::new().await;
        if database.server_major().await < 14 {
            return; // DETACH … CONCURRENTLY came with 14
        }
        database
            .execute(
                "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p \
                FOR VALUES IN (1)",
            )
            .await;
        let set = Set::of(&[]);
        set.add_non_transactional(
            "1_detach",
            &format!("ALTER TABLE {table} DETACH PARTITION p1 CONCURRENTLY;"),
            "",
        );
        let reader = database.connect().await;
        reader
            .batch_execute("BEGIN; SELECT * FROM p")
            .await
            .unwrap();
        let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
        command.env("DATABASE_URL", &database.url);
        let mut killed = Process::start(command).await;
        let pending = "SELECT inhdetachpending FROM pg_inherits WHERE inhrelid = 'p1'::regclass";
        eventually("half detached", async || {
            (database.text(pending).await == "t").then_some(())
        })
        .await;
        killed.kill().await;
        database.until_free().await;
        reader.batch_execute("COMMIT").await.unwrap();
        let daemon = TestDaemon::start(&database, &set).await;
        daemon.apply_all().await.finished();
        assert_eq!(
            database.text("SELECT count(*) FROM pg_inherits").await,
            "0",
            "{table}"
        );
        database.assert_consistent().await;
    }
}

/// What was announced and cannot be found by its name proves nothing: it is sent, and the server
/// says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_found_is_no_evidence() {
    let database = TestDatabase::new().await;
    for (up, since) in [
        ("ALTER TABLE gone DETACH PARTITION t CONCURRENTLY;", 14),
        ("DROP INDEX CONCURRENTLY gone;", 13),
    ] {
        if database.server_major().await < since {
            continue;
        }
        let daemon = TestDaemon::start(&database, &set(up, "")).await;
        let refused = daemon.apply_all().await.failure();
        assert!(
            ["42P01", "42704"].contains(&refused.metadata["sqlstate"].as_str()),
            "{refused:?}"
        );
        // As a daemon leaves it that is killed right after it announced the statement.
        let announced = "INSERT INTO schemad.statements (step, ordinal, checksum, settles_by, \
            state, indexes_before) SELECT max(s.id), 1, $1, 'drop_index', 'running', '{}' FROM \
            schemad.steps s ON CONFLICT (step, ordinal) DO UPDATE SET state = 'running'";
        let checksum = schemad::internals::migration::Checksum::of_script(up.trim_end_matches(';'))
            .to_string();
        database
            .execute(&announced.replace("$1", &format!("'{checksum}'")))
            .await;
        daemon
            .apply_all()
            .await
            .failure()
            .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_index_is_found_however_the_file_writes_the_table() {
    for table in ["ON ONLY (t)", "ON ONLY public.t", "ON t *"] {
        let database = TestDatabase::new().await;
        database
            .execute("CREATE TABLE t (n int); INSERT INTO t VALUES (1), (1)")
            .await;
        let set = Set::of(&[]);
        set.add_non_transactional(
            "1_i",
            &format!("CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i {table} (n);"),
            "",
        );
        let daemon = TestDaemon::start(&database, &set).await;
        assert_eq!(
            daemon.apply_all().await.failure().metadata["sqlstate"],
            "23505"
        );
        assert_eq!(
            index_state(&database, "i").await,
            "",
            "removed at once: {table}"
        );
        // As a daemon leaves it that is killed.
        let index = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)";
        assert!(database.connect().await.batch_execute(index).await.is_err());
        database
            .execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)")
            .await;
        daemon.apply_all().await.finished();
        assert_eq!(index_state(&database, "i").await, "t", "{table}");
        database.assert_consistent().await;
    }
}

/// IF NOT EXISTS looks at the name only.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_is_kept_has_to_be_valid() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE TABLE other (n int); INSERT INTO other VALUES (1), (1)")
        .await;
    let index = "CREATE UNIQUE INDEX CONCURRENTLY i ON other (n)";
    assert!(database.connect().await.batch_execute(index).await.is_err());
    let daemon = TestDaemon::start(
        &database,
        &set(
            "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n);",
            "",
        ),
    )
    .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert!(
        failed
            .message
            .contains("the index public.i is there and invalid"),
        "{}",
        failed.message
    );
    assert_eq!(
        index_state(&database, "i").await,
        "f",
        "it is another table's"
    );
    database.execute("DROP INDEX i").await;
    daemon.apply_all().await.finished();
    assert_eq!(index_state(&database, "i").await, "t");
}

/// The server gives a context with it, and no function is in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_partitioned_is_reindexed() {
    let database = TestDatabase::new().await;
    if database.server_major().await < 14 {
        return;
    }
    database
        .execute(
            "CREATE TABLE p (n int) PARTITION BY LIST (n); CREATE TABLE p1 PARTITION OF p FOR \
             VALUES IN (1); CREATE INDEX pi ON p (n)",
        )
        .await;
    let set = Set::of(&[]);
    set.add_non_transactional("1_reindex", "REINDEX INDEX pi;\nREINDEX TABLE p;", "");
    set.add("2_in_one", "REINDEX INDEX pi;", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    assert_eq!(outcome.done(), ["1"]);
    let failed = outcome.failure();
    assert_eq!(failed.metadata["sqlstate"], "25001");
    assert!(
        failed.metadata["meaning"].contains("This statement cannot run in a transaction"),
        "{failed:?}"
    );
}

/// Names that the server can only read in a statement are no reason to refuse it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_may_have_a_name_with_escapes() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &set(
            "CREATE INDEX CONCURRENTLY U&\"\\0061x\" ON t (n);",
            "DROP INDEX CONCURRENTLY U&\"\\0061x\";",
        ),
    )
    .await;
    daemon.apply_all().await.finished();
    assert_eq!(index_state(&database, "ax").await, "t");
    daemon.rollback_steps(1).await.finished();
    assert_eq!(
        (index_state(&database, "ax").await, journal(&database).await),
        (String::new(), vec![])
    );
}
