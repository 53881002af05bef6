//! Scripts that are not one transaction: what commits with what, where a failed or killed one goes on, and what nobody can
//! know.

use schemad::grpc::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Process, Set, TestDaemon, TestDatabase, eventually, process::from_folder};

fn set(up: &str, down: &str) -> Set {
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2);", "DROP TABLE t;")]);
    set.add_non_transactional("2_wide", up, down);
    set
}

async fn index_state(database: &TestDatabase, name: &str) -> String {
    database.text(&format!("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')")).await
}

async fn journal(database: &TestDatabase) -> Vec<String> {
    database.texts("SELECT ordinal || ' ' || state FROM schemad.statements ORDER BY step, ordinal").await
}

/// Waits until a statement that looks like this is active.
async fn until_active(database: &TestDatabase, like: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{like}' AND state = 'active' AND pid <> pg_backend_pid() \
         AND datname = current_database()"
    );
    eventually(like, async || (database.text(&query).await == "1").then_some(())).await;
}

async fn problems(daemon: &TestDaemon) -> Vec<String> {
    daemon.status().await.problems.into_iter().map(|problem| problem.reason).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_statement_goes_up_and_down() {
    let database = TestDatabase::new().await;
    // SQL bodies came with 14.
    let body = match database.server_major().await {
        13 => "LANGUAGE sql AS 'SELECT 1; SELECT 2;'",
        _ => "BEGIN ATOMIC SELECT 1; SELECT 2; END",
    };
    let up = format!(
        "SET search_path = pg_catalog, public;\nCREATE INDEX CONCURRENTLY i ON t (n);\n\
         CREATE INDEX CONCURRENTLY ON public.t (n DESC);\nINSERT INTO t VALUES (3);\nVACUUM t;\n\
         BEGIN;\nINSERT INTO t VALUES (4);\nSAVEPOINT a;\nINSERT INTO t VALUES (5);\nCOMMIT;\n\
         CREATE FUNCTION public.f() RETURNS int {body};\nREINDEX INDEX CONCURRENTLY i;",
    );
    let set = set(
        &up,
        "DROP FUNCTION f;\nDROP INDEX CONCURRENTLY t_n_idx;\nDROP INDEX CONCURRENTLY IF EXISTS i;\nDELETE FROM t WHERE n > 2;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    for _ in 0..2 {
        let outcome = daemon.apply_all().await;
        outcome.finished();
        let statements: Vec<_> = outcome
            .events
            .iter()
            .filter_map(|e| match &e.event {
                Some(Event::StatementDone(done)) if done.version == "2" => Some((done.statement, done.statements)),
                _ => None,
            })
            .collect();
        assert_eq!(statements, [(2, 12), (3, 12), (4, 12), (5, 12), (9, 12), (11, 12), (12, 12)]);
        assert_eq!(database.diesel_versions().await, ["1", "2"]);
        assert_eq!(index_state(&database, "i").await, "t");
        assert_eq!(index_state(&database, "t_n_idx").await, "t");
        assert_eq!(database.text("SELECT string_agg(n::text, '' ORDER BY n) FROM t").await, "12345");
        assert_eq!(journal(&database).await, [""; 0], "the journal ends with its step");
        database.assert_consistent().await;
        daemon.rollback_steps(1).await.finished();
        assert_eq!(index_state(&database, "i").await, "");
        assert_eq!(database.text("SELECT string_agg(n::text, '' ORDER BY n) FROM t").await, "12");
        database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_a_mended_file_goes_on_at_the_right_statement() {
    let database = TestDatabase::new().await;
    let first = set(
        "INSERT INTO t VALUES (10);\nVACUUM t;\nSET search_path = nowhere;\nINSERT INTO public.t\n  SELECT 1/0;\nSELECT 2;",
        "",
    );
    let daemon = TestDaemon::start(&database, &first).await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let told = ["sqlstate", "statement", "statements", "line", "column"].map(|key| failed.metadata[key].as_str());
    assert_eq!(told, ["22012", "4", "5", "4", "1"]);
    assert!(failed.message.contains("the next Apply goes on"), "{}", failed.message);
    assert_eq!(journal(&database).await, ["1 done", "2 done", "3 pending", "4 pending"]);
    assert_eq!(database.diesel_versions().await, ["1"]);
    let status = daemon.status().await;
    assert_eq!((status.state(), problems(&daemon).await), (pb::SchemaState::Behind, vec!["HALF_APPLIED".to_owned()]));
    let list = daemon.client().list_migrations(pb::ListMigrationsRequest::default()).await.unwrap().into_inner();
    assert_eq!(list.migrations[1].state(), pb::MigrationState::HalfDone);
    daemon.rollback_all().await.failure().assert(Code::FailedPrecondition, "HALF_APPLIED");
    daemon.stop().await;

    let changed = set("INSERT INTO t VALUES (11);\nVACUUM t;\nSELECT 1;", "");
    let daemon = TestDaemon::start(&database, &changed).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "JOURNAL_DIFFERS");
    assert_eq!(failed.metadata["part"], "1");
    daemon.stop().await;

    let mended =
        set("INSERT INTO t VALUES (10);\nVACUUM t;\nSET search_path = nowhere;\nINSERT INTO public.t VALUES (12);", "");
    let daemon = TestDaemon::start(&database, &mended).await;
    daemon.apply_all().await.finished();
    assert_eq!(database.text("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t").await, "1 2 10 12");
    assert_eq!(journal(&database).await, [""; 0]);
    assert_eq!(problems(&daemon).await, [""; 0]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invalid_index_of_an_earlier_try_is_found_and_built_again() {
    for sql in [
        "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n);",
        "CREATE UNIQUE INDEX CONCURRENTLY IF NOT EXISTS i ON t (n);",
        "CREATE UNIQUE INDEX CONCURRENTLY ON t (n);",
    ] {
        let database = TestDatabase::new().await;
        let set = set(sql, "SELECT 1;");
        let daemon = TestDaemon::start(&database, &set).await;
        daemon
            .apply(pb::ApplyRequest { target: Some(pb::apply_request::Target::Steps(1)), ..Default::default() })
            .await
            .finished();
        database.execute("INSERT INTO t VALUES (1)").await;
        let failed = daemon.apply_all().await.failure();
        assert_eq!((failed.metadata["sqlstate"].as_str(), failed.metadata["line"].as_str()), ("23505", "1"), "{sql}");
        let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
        assert_eq!(database.text(invalid).await, "0", "the failed one is removed at once: {sql}");
        if sql.contains(" i ON") {
            // As a daemon leaves it that is killed.
            let index = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)";
            assert!(database.connect().await.batch_execute(index).await.is_err());
            assert_eq!(database.text(invalid).await, "1");
        }
        database.execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)").await;
        let outcome = daemon.apply_all().await;
        outcome.finished();
        let told =
            |e: &Event| matches!(e, Event::Notice(notice) if notice.message.contains("dropping the invalid index"));
        assert_eq!(outcome.has(told), sql.contains(" i ON"), "{sql}");
        assert_eq!(database.text(invalid).await, "0", "{sql}");
        assert_eq!(database.text("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass").await, "1", "{sql}");
        database.assert_consistent().await;
    }
}

/// The kill comes while the index waits for an old snapshot, and again right after it was built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_daemon_killed_while_it_builds_an_index_is_continued_by_the_next() {
    for released in [false, true] {
        let database = TestDatabase::new().await;
        let set = set(
            "INSERT INTO t VALUES (3);\nCREATE INDEX CONCURRENTLY i ON t (n);\nINSERT INTO t VALUES (4);",
            "SELECT 1;",
        );
        let daemon = TestDaemon::start(&database, &set).await;
        daemon
            .apply(pb::ApplyRequest { target: Some(pb::apply_request::Target::Steps(1)), ..Default::default() })
            .await
            .finished();
        daemon.stop().await;
        let reader = database.connect().await;
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t").await.unwrap();
        let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
        command.env("DATABASE_URL", &database.url);
        let mut process = Process::start(command).await;
        until_active(&database, "CREATE INDEX CONCURRENTLY%").await;
        if released {
            // A stopped daemon does not see that its statement is through; then it is killed.
            process.signal(nix::sys::signal::Signal::SIGSTOP);
            reader.batch_execute("COMMIT").await.unwrap();
            eventually("the index is valid", async || (index_state(&database, "i").await == "t").then_some(())).await;
        }
        process.kill().await;
        database.until_free().await;
        assert_eq!(journal(&database).await, ["1 done", "2 running", "3 pending"]);
        drop(reader);
        let built = database.text("SELECT to_regclass('i')::oid").await;
        let daemon = TestDaemon::start(&database, &set).await;
        assert_eq!(problems(&daemon).await, ["HALF_APPLIED"]);
        daemon.apply_all().await.finished();
        assert_eq!(index_state(&database, "i").await, "t");
        assert_eq!(
            database.text("SELECT to_regclass('i')::oid").await == built,
            released,
            "built again only when it must be"
        );
        assert_eq!(database.text("SELECT string_agg(n::text, '' ORDER BY n) FROM t").await, "1234");
        database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nobody_can_know_waits_for_a_person() {
    let database = TestDatabase::new().await;
    let set = set("CALL work();\nINSERT INTO t VALUES (4);", "SELECT 1;");
    database
        .execute("CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); COMMIT; PERFORM pg_sleep(60); END $$")
        .await;
    let mut command = from_folder(&set, &["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut process = Process::start(command).await;
    until_active(&database, "CALL work()%").await;
    process.kill().await;
    database.until_free().await;
    let daemon = TestDaemon::start(&database, &set).await;
    let status = daemon.status().await;
    assert_eq!(status.state(), pb::SchemaState::InDoubt);
    assert_eq!(
        daemon.check("schemad.schema.current").await,
        Ok(tonic_health::pb::health_check_response::ServingStatus::NotServing)
    );
    for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, "IN_DOUBT");
        assert!(failed.message.contains("statement 1 of the up of migration 2"), "{}", failed.message);
    }
    database.execute("UPDATE schemad.statements SET state = 'done' WHERE state = 'running'").await;
    daemon.apply_all().await.finished();
    assert_eq!(database.text("SELECT string_agg(n::text, '' ORDER BY n) FROM t").await, "1234");
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Current);
}

/// What the server refused is not in doubt, and neither is what was never sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_statement_leaves_no_doubt() {
    let database = TestDatabase::new().await;
    let existing = "CREATE DATABASE postgres;";
    for up in [existing, &format!("SET work_mem = 'lots';\n{existing}"), "SET work_mem = 'lots';\nVACUUM t;"] {
        let daemon = TestDaemon::start(&database, &set(up, "")).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert_eq!(["line", "statement"].map(|key| failed.metadata[key].as_str()), ["1", "1"], "{up}");
        assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
        daemon.stop().await;
    }
}

/// A procedure that committed and then failed has done something, and nobody knows what: it does not run again by itself.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_procedure_that_failed_after_a_commit_is_in_doubt() {
    let database = TestDatabase::new().await;
    database
        .execute("CREATE PROCEDURE work() LANGUAGE plpgsql AS $$ BEGIN INSERT INTO t VALUES (3); COMMIT; PERFORM 1/0; END $$")
        .await;
    let daemon = TestDaemon::start(&database, &set("CALL work();", "")).await;
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "IN_DOUBT");
    assert_eq!(database.text("SELECT count(*) FROM t").await, "3");
}

/// What the journal remembers is not run again because the file became a transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_done_file_that_becomes_a_transaction_is_refused() {
    let database = TestDatabase::new().await;
    let base = ("1_t", "CREATE TABLE t (n int);", "DROP TABLE t;");
    let first = Set::of(&[base, ("2_a", "BEGIN; INSERT INTO t VALUES (1); COMMIT; SELECT 1/0;", "")]);
    let daemon = TestDaemon::start(&database, &first).await;
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    daemon.stop().await;
    let daemon = TestDaemon::start(&database, &Set::of(&[base, ("2_a", "INSERT INTO t VALUES (1);", "")])).await;
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "JOURNAL_DIFFERS");
    assert_eq!(database.text("SELECT count(*) FROM t").await, "1");
}

/// After a crash, an index that was there before is not the one that should have been built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_there_before_is_not_taken_for_the_migrations() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(&database, &set("CREATE UNIQUE INDEX CONCURRENTLY i ON t (n);", "")).await;
    let one = pb::ApplyRequest { target: Some(pb::apply_request::Target::Steps(1)), ..Default::default() };
    daemon.apply(one).await.finished();
    database.execute("CREATE INDEX i ON t (n)").await;
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    database.execute("UPDATE schemad.statements SET state = 'running'").await;
    let failed = daemon.apply_all().await.failure();
    assert_eq!(failed.metadata["sqlstate"], "42P07");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_half_reverted_migration_is_only_rolled_back_further() {
    let database = TestDatabase::new().await;
    let set = set("CREATE INDEX CONCURRENTLY i ON t (n);", "DROP INDEX CONCURRENTLY i;\nSELECT 1 FROM missing;");
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.rollback_steps(1).await.failure().assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Diverged);
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "HALF_REVERTED");
    database.execute("CREATE TABLE missing ()").await;
    daemon.rollback_all().await.finished();
    assert_eq!(database.diesel_versions().await, [""; 0]);
    assert_eq!(journal(&database).await, [""; 0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_its_own_transactions_runs_as_it_is_written() {
    let database = TestDatabase::new().await;
    let whole = "-- by hand\nBEGIN;\nCREATE TABLE a (n int);\nINSERT INTO a VALUES (1);\nCOMMIT;\n";
    let broken = "BEGIN;\nCREATE TABLE b (n int);\nCOMMIT;\nBEGIN;\nCREATE TABLE c (n int);\nSELECT 1/0;\nCOMMIT;";
    let set = Set::of(&[("1_whole", whole, "BEGIN; DROP TABLE a; END;"), ("2_broken", broken, "")]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    assert_eq!(outcome.done(), ["1"]);
    let failed = outcome.failure();
    assert_eq!(["line", "statement"].map(|key| failed.metadata[key].as_str()), ["6", "6"]);
    assert_eq!(database.text("SELECT to_regclass('b') IS NOT NULL AND to_regclass('c') IS NULL").await, "t");
    assert_eq!(journal(&database).await, ["1 done", "2 pending"]);
    database.assert_consistent().await;
    // Undone by hand, as the refusal says, the way back is free.
    daemon.rollback_all().await.failure().assert(Code::FailedPrecondition, "HALF_APPLIED");
    database.execute("DROP TABLE b; DELETE FROM schemad.statements").await;
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_in_the_leading_comments_hold_for_their_step_only() {
    let database = TestDatabase::new().await;
    let seen = "INSERT INTO seen VALUES (current_setting('lock_timeout'), current_setting('statement_timeout'));";
    let set = Set::of(&[
        ("1_seen", "CREATE TABLE seen (lock text, statement text);", ""),
        ("2_own", &format!("-- schemad: lock_timeout=2s statement_timeout=10min\n{seen}"), ""),
        ("3_default", seen, ""),
    ]);
    set.add_non_transactional("4_own", &format!("-- schemad: lock_timeout=3s\n{seen}\nVACUUM seen;"), "");
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database.texts("SELECT lock || ' ' || statement FROM seen ORDER BY ctid").await,
        ["2s 10min", "5s 0", "3s 0"]
    );
}

/// A SET of the file holds for what follows it, and a role of the file needs no right on the ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_files_own_settings_hold_to_its_end_and_no_further() {
    let database = TestDatabase::new().await;
    let role = format!("owner_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role}; CREATE SCHEMA app AUTHORIZATION {role}; GRANT CREATE ON SCHEMA app TO {role}"
        ))
        .await;
    let up = format!(
        "SET ROLE {role};\nSET search_path = app;\nCREATE TABLE owned (n int);\nCREATE INDEX CONCURRENTLY i ON owned (n);\nRESET ROLE;\n\
         COMMENT ON TABLE app.owned IS 'x';"
    );
    let set = Set::of(&[]);
    set.add_non_transactional("1_owned", &up, "DROP TABLE app.owned;");
    set.add(
        "2_plain",
        "CREATE TABLE plain AS SELECT current_user::text AS who, current_setting('search_path') AS path;",
        "DROP TABLE plain;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(database.text("SELECT tableowner FROM pg_tables WHERE tablename = 'owned'").await, role);
    assert_eq!(index_state(&database, "app.i").await, "t");
    assert_eq!(database.text("SELECT path FROM plain").await, "\"$user\", public");
    daemon.rollback_all().await.finished();
    daemon.stop().await;
    database.execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}")).await;
}
