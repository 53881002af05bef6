//! What a file's own settings do to the time that its statements may take, and what its own rights
//! do to the ledger.

use std::time::{Duration, Instant};

use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use super::journal::{index_state, journal, set};
use crate::harness::{PATIENCE, Set, TestDaemon, TestDatabase, daemon::settings};

/// As pg_dump begins its files.
const WITHOUT_END: &str = "SET statement_timeout = 0;\nSET lock_timeout = 0;\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lock_wait_holds_whatever_lock_timeout_the_file_sets() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE busy (id int)").await;
    let user = database.connect().await;
    user.batch_execute("BEGIN; LOCK TABLE busy IN ACCESS SHARE MODE")
        .await
        .unwrap();
    for (statement, transactional) in [
        ("ALTER TABLE busy ADD j int;", true),
        ("ALTER TABLE busy ADD j int;\nSELECT 1;", false),
        ("VACUUM FULL busy;", false),
    ] {
        let set = Set::of(&[]);
        if transactional {
            set.add("1_locked", &format!("{WITHOUT_END}{statement}"), "")
        } else {
            set.add_non_transactional("1_locked", &format!("{WITHOUT_END}{statement}"), "")
        }
        let daemon = TestDaemon::start(&database, &set).await;
        for (lock_wait, lock_timeout) in [(1, None), (0, Some(1))] {
            let seconds = |seconds| prost_types::Duration { seconds, nanos: 0 };
            let request = pb::ApplyRequest {
                lock_wait: Some(seconds(lock_wait)),
                lock_timeout: lock_timeout.map(seconds),
                ..Default::default()
            };
            let asked = Instant::now();
            let outcome = tokio::time::timeout(PATIENCE, daemon.apply(request))
                .await
                .expect("it waits");
            let failed = outcome.failure();
            failed.assert(Code::FailedPrecondition, "LOCK_TIMEOUT");
            assert!(
                failed.metadata["blocked_by"].contains("AccessShareLock on public.busy"),
                "{failed:?}"
            );
            assert!(
                asked.elapsed() < Duration::from_secs(5),
                "{statement}: {:?}",
                asked.elapsed()
            );
        }
        daemon.stop().await;
    }
    user.batch_execute("COMMIT").await.unwrap();
    let daemon = TestDaemon::start(
        &database,
        &Set::of(&[("1_a", "ALTER TABLE busy ADD j int;", "")]),
    )
    .await;
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
}

/// A timeout would leave an invalid index, and the removal of one unfinished.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn concurrently_runs_without_the_files_own_timeouts() {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE FUNCTION seen(n int) RETURNS int IMMUTABLE LANGUAGE plpgsql AS $$ BEGIN IF \
             current_setting('statement_timeout') <> '0' OR current_setting('lock_timeout') <> '0' \
             THEN RAISE 'it has a timeout'; END IF; RETURN n; END $$",
        )
        .await;
    let up = "SET statement_timeout = '300ms';\nSET lock_timeout = '300ms';\nCREATE TABLE seen_by \
        AS SELECT current_setting('lock_timeout') AS timeout;\nCREATE INDEX CONCURRENTLY i ON t \
        (seen(n));";
    let daemon = TestDaemon::start(&database, &set(up, "")).await;
    daemon.apply_all().await.finished();
    assert_eq!(index_state(&database, "i").await, "t");
    assert_eq!(database.text("SELECT timeout FROM seen_by").await, "300ms");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_file_sets_in_a_query_or_a_block_holds_to_its_end_or_is_told() {
    let database = TestDatabase::new().await;
    database.execute("CREATE SCHEMA app").await;
    let set = Set::of(&[]);
    set.add_non_transactional(
        "1_query",
        "SELECT set_config('search_path', 'app, public', false) AS x;\nCREATE TABLE a (n int);",
        "",
    );
    set.add(
        "2_block",
        "BEGIN;\nSET search_path = app;\nCREATE TABLE b (n int);\nCOMMIT;\nCREATE TABLE c (n \
         int);",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    let is_told = |e: &Event| {
        matches!(e, Event::Notice(n) if n.severity == "WARNING" && n.message.contains("SET \
        statements only"))
    };
    assert!(!outcome.has(is_told));
    let tables = "SELECT relname::text FROM pg_class WHERE relkind = 'r' AND relnamespace = \
        'app'::regnamespace ORDER BY 1";
    assert_eq!(database.texts(tables).await, ["a", "b", "c"]);
    daemon.stop().await;
    set.add_non_transactional(
        "3_lost",
        "DO $$ BEGIN PERFORM set_config('search_path', 'app', false); END $$;\nCREATE TABLE d (n \
         int);",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    assert!(outcome.has(is_told), "{:?}", outcome.events);
}

/// A daemon that is no superuser and takes its own rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_right_on_the_ledger_that_the_file_takes_is_named() {
    let database = TestDatabase::new().await;
    let login = format!("login_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {login} LOGIN PASSWORD 'pw'; ALTER DATABASE {} OWNER TO {login}; ALTER \
             SCHEMA public OWNER TO {login}",
            database.name
        ))
        .await;
    let index = "CREATE INDEX CONCURRENTLY i ON t (n);";
    for (revoke, then, grant) in [
        (
            "INSERT ON __diesel_schema_migrations",
            index,
            "ON TABLE public.__diesel_schema_migrations TO",
        ),
        (
            "UPDATE ON schemad.statements",
            index,
            "ON TABLE schemad.statements TO",
        ),
        ("UPDATE ON schemad.steps", "", "ON TABLE schemad.steps TO"),
    ] {
        let up = format!("REVOKE {revoke} FROM {login};\n{then}");
        let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
        match then {
            "" => set.add("2_revokes", &up, ""),
            _ => set.add_non_transactional("2_revokes", &up, ""),
        }
        let daemon = TestDaemon::launch(settings(&database.url_as(&login)), &set).await;
        daemon.until_ready().await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert!(
            failed.metadata["meaning"].contains(grant),
            "{revoke}: {failed:?}"
        );
        assert!(
            !failed.message.contains("the ledger refused"),
            "{}",
            failed.message
        );
        daemon.stop().await;
        database
            .execute(&format!(
                "GRANT {revoke} TO {login}; DELETE FROM schemad.statements; DROP INDEX IF EXISTS \
                 i"
            ))
            .await;
    }
    drop(journal(&database).await);
    database
        .execute(&format!(
            "REASSIGN OWNED BY {login} TO CURRENT_USER; DROP OWNED BY {login} CASCADE"
        ))
        .await;
    database.execute(&format!("DROP ROLE {login}")).await;
}

/// What fails in the guards is no matter of the place behind the file's last statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_drops_the_ledger_is_blamed_at_the_statement() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &set("SELECT 1;\n  DROP SCHEMA schemad CASCADE; SELECT 1", ""),
    )
    .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let told = ["line", "column", "statement"].map(|key| failed.metadata[key].as_str());
    assert_eq!(told, ["2", "3", "2"], "{failed:?}");
}
