//! Scripts that are not one transaction: what commits with what, where a failed or killed one goes
//! on, and what nobody can know.

use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase, eventually};

pub fn set(up: &str, down: &str) -> Set {
    let set = Set::of(&[(
        "1_t",
        "CREATE TABLE t (n int); INSERT INTO t VALUES (1), (2);",
        "DROP TABLE t;",
    )]);
    set.add_non_transactional("2_wide", up, down);
    set
}

pub async fn index_state(database: &TestDatabase, name: &str) -> String {
    database
        .text(&format!(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')"
        ))
        .await
}

pub async fn journal(database: &TestDatabase) -> Vec<String> {
    database
        .texts("SELECT ordinal || ' ' || state FROM schemad.statements ORDER BY step, ordinal")
        .await
}

/// Waits until a statement that looks like this is active.
pub async fn until_active(database: &TestDatabase, like: &str) {
    let query = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '{like}' AND state = 'active' AND \
         pid <> pg_backend_pid() AND datname = current_database()"
    );
    eventually(like, async || {
        (database.text(&query).await == "1").then_some(())
    })
    .await;
}

pub async fn problems(daemon: &TestDaemon) -> Vec<String> {
    daemon
        .status()
        .await
        .problems
        .into_iter()
        .map(|problem| problem.reason)
        .collect()
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
        "DROP FUNCTION f;\nDROP INDEX CONCURRENTLY t_n_idx;\nDROP INDEX CONCURRENTLY IF EXISTS \
         i;\nDELETE FROM t WHERE n > 2;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    for _ in 0..2 {
        let outcome = daemon.apply_all().await;
        outcome.finished();
        let statements: Vec<_> = outcome
            .events
            .iter()
            .filter_map(|e| match &e.event {
                Some(Event::StatementDone(done)) if done.version == "2" => {
                    Some((done.statement, done.statements))
                }
                _ => None,
            })
            .collect();
        assert_eq!(
            statements,
            [
                (2, 12),
                (3, 12),
                (4, 12),
                (5, 12),
                (9, 12),
                (11, 12),
                (12, 12)
            ]
        );
        assert_eq!(database.diesel_versions().await, ["1", "2"]);
        assert_eq!(index_state(&database, "i").await, "t");
        assert_eq!(index_state(&database, "t_n_idx").await, "t");
        assert_eq!(
            database
                .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
                .await,
            "12345"
        );
        assert_eq!(
            journal(&database).await,
            [""; 0],
            "the journal ends with its step"
        );
        database.assert_consistent().await;
        daemon.rollback_steps(1).await.finished();
        assert_eq!(index_state(&database, "i").await, "");
        assert_eq!(
            database
                .text("SELECT string_agg(n::text, '' ORDER BY n) FROM t")
                .await,
            "12"
        );
        database.assert_consistent().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_failure_a_mended_file_goes_on_at_the_right_statement() {
    let database = TestDatabase::new().await;
    let first = set(
        "INSERT INTO t VALUES (10);\nVACUUM t;\nSET search_path = nowhere;\nINSERT INTO public.t\n  \
         SELECT 1/0;\nSELECT 2;",
        "",
    );
    let daemon = TestDaemon::start(&database, &first).await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let told = ["sqlstate", "statement", "statements", "line", "column"]
        .map(|key| failed.metadata[key].as_str());
    assert_eq!(told, ["22012", "4", "5", "4", "1"]);
    assert!(
        failed.message.contains("the next Apply goes on"),
        "{}",
        failed.message
    );
    assert_eq!(
        journal(&database).await,
        ["1 done", "2 done", "3 pending", "4 pending"]
    );
    assert_eq!(database.diesel_versions().await, ["1"]);
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), problems(&daemon).await),
        (pb::SchemaState::Behind, vec!["HALF_APPLIED".to_owned()])
    );
    let list = daemon
        .client()
        .list_migrations(pb::ListMigrationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.migrations[1].state(), pb::MigrationState::HalfDone);
    daemon
        .rollback_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "HALF_APPLIED");
    daemon.stop().await;

    let changed = set("INSERT INTO t VALUES (11);\nVACUUM t;\nSELECT 1;", "");
    let daemon = TestDaemon::start(&database, &changed).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "JOURNAL_DIFFERS");
    assert_eq!(failed.metadata["part"], "1");
    daemon.stop().await;

    let mended = set(
        "INSERT INTO t VALUES (10);\nVACUUM t;\nSET search_path = nowhere;\nINSERT INTO public.t \
         VALUES (12);",
        "",
    );
    let daemon = TestDaemon::start(&database, &mended).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t")
            .await,
        "1 2 10 12"
    );
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
            .apply(pb::ApplyRequest {
                target: Some(pb::apply_request::Target::Steps(1)),
                ..Default::default()
            })
            .await
            .finished();
        database.execute("INSERT INTO t VALUES (1)").await;
        let failed = daemon.apply_all().await.failure();
        assert_eq!(
            (
                failed.metadata["sqlstate"].as_str(),
                failed.metadata["line"].as_str()
            ),
            ("23505", "1"),
            "{sql}"
        );
        let invalid = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";
        assert_eq!(
            database.text(invalid).await,
            "0",
            "the failed one is removed at once: {sql}"
        );
        if sql.contains(" i ON") {
            // As a daemon leaves it that is killed.
            let index = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (n)";
            assert!(database.connect().await.batch_execute(index).await.is_err());
            assert_eq!(database.text(invalid).await, "1");
        }
        database
            .execute("DELETE FROM t WHERE ctid = (SELECT max(ctid) FROM t)")
            .await;
        let outcome = daemon.apply_all().await;
        outcome.finished();
        let told = |e: &Event| {
            matches!(e, Event::Notice(notice) if notice.message.contains("dropping \
            the invalid index"))
        };
        assert_eq!(outcome.has(told), sql.contains(" i ON"), "{sql}");
        assert_eq!(database.text(invalid).await, "0", "{sql}");
        assert_eq!(
            database
                .text("SELECT count(*) FROM pg_index WHERE indrelid = 't'::regclass")
                .await,
            "1",
            "{sql}"
        );
        database.assert_consistent().await;
    }
}

/// A file that ends too early, in one transaction and part by part.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_ends_too_early_fails_at_its_end() {
    let database = TestDatabase::new().await;
    for (up, column) in [
        ("SELECT 1;\nSELECT 2;\nALTER TABLE t ADD COLUMN", "25"),
        ("SELECT 1;\nSELECT 2;\nCREATE TABLE b (i int -- last", "22"),
        ("SELECT 1;\nSELECT 2;\nREINDEX INDEX CONCURRENTLY", "27"),
    ] {
        for transactional in [true, false] {
            let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
            match transactional {
                true if up.contains("CONCURRENTLY") => continue,
                true => set.add("2_short", up, ""),
                false => set.add_non_transactional("2_short", up, ""),
            }
            let daemon = TestDaemon::start(&database, &set).await;
            let failed = daemon.apply_all().await.failure();
            let told = ["statement", "line", "column", "database_message"]
                .map(|key| failed.metadata[key].as_str());
            assert_eq!(
                told,
                ["3", "3", column, "syntax error at end of input"],
                "{up} {transactional}"
            );
            daemon.stop().await;
            database.execute("DELETE FROM schemad.statements").await;
        }
    }
    let set = Set::of(&[("1_t", "CREATE TABLE t (n int);", "")]);
    set.add_non_transactional(
        "3_middle",
        "SELECT 1;\nSELECT 2 + /* why */ ;\nSELECT 3;",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    let told = ["statement", "line", "column", "database_message"]
        .map(|key| failed.metadata[key].as_str());
    assert_eq!(told, ["2", "2", "22", "syntax error at or near \";\""]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_the_session_and_what_takes_its_lock_is_told_apart() {
    let database = TestDatabase::new().await;
    let set = set(
        "SET search_path = nowhere;\nDISCARD ALL;\nINSERT INTO t VALUES (3);\nVACUUM t;",
        "",
    );
    set.add_non_transactional(
        "3_unlocks",
        "SELECT 1;\nSELECT pg_advisory_unlock_all();\nSELECT 2;",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    assert_eq!(outcome.done(), ["1", "2"]);
    let failed = outcome.failure();
    let told = ["sqlstate", "line", "statement"].map(|key| failed.metadata[key].as_str());
    assert_eq!(told, ["SCH04", "2", "2"], "{failed:?}");
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Behind);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_a_flood_of_notices_the_rest_is_counted() {
    let database = TestDatabase::new().await;
    let flood =
        |n| format!("DO $$ BEGIN FOR i IN 1..{n} LOOP RAISE NOTICE 'n %', i; END LOOP; END $$;");
    let set = Set::of(&[
        ("1_loud", &flood(3_000), ""),
        ("2_quiet", &flood(100), ""),
        ("3_loud", &flood(101), ""),
    ]);
    set.add_non_transactional("4_loud", &format!("{}\nVACUUM;", flood(150)), "");
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    let notices = |version: &str| -> Vec<String> {
        let of = |e: &pb::OperationEvent| match &e.event {
            Some(Event::Notice(notice)) if notice.version == version => {
                Some(notice.message.clone())
            }
            _ => None,
        };
        outcome.events.iter().filter_map(of).collect()
    };
    for (version, count, last) in [
        ("1", 101, "2900 more"),
        ("2", 100, "n 100"),
        ("3", 101, "1 more"),
        ("4", 101, "50 more"),
    ] {
        let said = notices(version);
        assert_eq!(said.len(), count, "{version}");
        assert!(said.last().unwrap().starts_with(last), "{said:?}");
    }
}

/// After a crash, an index that was there before is not the one that should have been built.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_there_before_is_not_taken_for_the_migrations() {
    let database = TestDatabase::new().await;
    let daemon = TestDaemon::start(
        &database,
        &set("CREATE UNIQUE INDEX CONCURRENTLY i ON t (n);", ""),
    )
    .await;
    let one = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(one).await.finished();
    database.execute("CREATE INDEX i ON t (n)").await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    database
        .execute("UPDATE schemad.statements SET state = 'running'")
        .await;
    let failed = daemon.apply_all().await.failure();
    assert_eq!(failed.metadata["sqlstate"], "42P07");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_with_its_own_transactions_runs_as_it_is_written() {
    let database = TestDatabase::new().await;
    let whole = "-- by hand\nBEGIN;\nCREATE TABLE a (n int);\nINSERT INTO a VALUES \
        (1);\nCOMMIT;\n";
    let broken = "BEGIN;\nCREATE TABLE b (n int);\nCOMMIT;\nBEGIN;\nCREATE TABLE c (n \
        int);\nSELECT 1/0;\nCOMMIT;";
    let set = Set::of(&[
        ("1_whole", whole, "BEGIN; DROP TABLE a; END;"),
        ("2_broken", broken, ""),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    assert_eq!(outcome.done(), ["1"]);
    let failed = outcome.failure();
    assert_eq!(
        ["line", "statement"].map(|key| failed.metadata[key].as_str()),
        ["6", "6"]
    );
    assert!(
        failed
            .message
            .contains("The transaction that begins at statement 4 was undone."),
        "{}",
        failed.message
    );
    assert_eq!(
        database
            .text("SELECT to_regclass('b') IS NOT NULL AND to_regclass('c') IS NULL")
            .await,
        "t"
    );
    assert_eq!(journal(&database).await, ["1 done", "2 pending"]);
    database.assert_consistent().await;
    // Undone by hand, as the refusal says, the way back is free.
    daemon
        .rollback_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "HALF_APPLIED");
    database
        .execute("DROP TABLE b; DELETE FROM schemad.statements")
        .await;
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_in_the_leading_comments_hold_for_their_step_only() {
    let database = TestDatabase::new().await;
    let seen = "INSERT INTO seen VALUES (current_setting('lock_timeout'), \
        current_setting('statement_timeout'));";
    let set = Set::of(&[
        (
            "1_seen",
            "CREATE TABLE seen (lock text, statement text);",
            "",
        ),
        (
            "2_own",
            &format!("-- schemad: lock_timeout=2s statement_timeout=10min\n{seen}"),
            "",
        ),
        ("3_default", seen, ""),
    ]);
    set.add_non_transactional(
        "4_own",
        &format!("-- schemad: lock_timeout=3s\n{seen}\nVACUUM seen;"),
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .texts("SELECT lock || ' ' || statement FROM seen ORDER BY ctid")
            .await,
        ["2s 10min", "5s 0", "3s 0"]
    );
}

/// A SET of the file holds for what follows it, and a role of the file needs no right on the
/// ledger.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_files_own_settings_hold_to_its_end_and_no_further() {
    let database = TestDatabase::new().await;
    let role = format!("owner_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role}; CREATE SCHEMA app AUTHORIZATION {role}; GRANT CREATE ON SCHEMA \
             app TO {role}"
        ))
        .await;
    let up = format!(
        "SET ROLE {role};\nSET search_path = app;\nCREATE TABLE owned (n int);\nCREATE INDEX \
         CONCURRENTLY i ON owned (n);\nRESET ROLE;\nCOMMENT ON TABLE app.owned IS 'x';"
    );
    let set = Set::of(&[]);
    set.add_non_transactional("1_owned", &up, "DROP TABLE app.owned;");
    set.add(
        "2_plain",
        "CREATE TABLE plain AS SELECT current_user::text AS who, current_setting('search_path') AS \
         path;",
        "DROP TABLE plain;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text("SELECT tableowner FROM pg_tables WHERE tablename = 'owned'")
            .await,
        role
    );
    assert_eq!(index_state(&database, "app.i").await, "t");
    assert_eq!(
        database.text("SELECT path FROM plain").await,
        "\"$user\", public"
    );
    daemon.rollback_all().await.finished();
    daemon.stop().await;
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocks_and_files_begin_as_they_say() {
    let database = TestDatabase::new().await;
    let level = "INSERT INTO levels VALUES (current_setting('transaction_isolation'));";
    let set = Set::of(&[
        ("1_levels", "CREATE TABLE levels (level text);", ""),
        (
            "2_file",
            &format!("-- first\nSET TRANSACTION ISOLATION LEVEL SERIALIZABLE;\n{level}"),
            "",
        ),
        (
            "3_block",
            &format!(
                "BEGIN;\nSET TRANSACTION ISOLATION LEVEL REPEATABLE READ;\n{level}\nCOMMIT;\nBEGIN \
                 READ ONLY;\nSELECT * FROM levels;\nCOMMIT;"
            ),
            "",
        ),
        (
            "4_only_settings",
            "BEGIN; COMMIT; SET lock_timeout = 7;",
            "",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database.texts("SELECT level FROM levels").await,
        ["serializable", "repeatable read"]
    );
    database.assert_consistent().await;

    let set = Set::of(&[(
        "4_only_settings",
        "BEGIN; COMMIT; SET lock_timeout = 7;",
        "",
    )]);
    set.add_non_transactional("5_wrong", "SET nonsense_timeout = 7;", "");
    set.add_non_transactional(
        "6_read_only",
        "SELECT 1;\nBEGIN READ ONLY;\nSELECT 1;\nCREATE TABLE x ();\nCOMMIT;",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    assert_eq!(
        (
            failed.metadata["sqlstate"].as_str(),
            failed.metadata["version"].as_str()
        ),
        ("42704", "5")
    );
    daemon.stop().await;
    set.add_non_transactional("5_wrong", "SET lock_timeout = 7;", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    assert_eq!(
        (
            failed.metadata["sqlstate"].as_str(),
            failed.metadata["version"].as_str()
        ),
        ("25006", "6")
    );
    assert_eq!(failed.metadata["line"], "2", "a block is sent whole");
    database.assert_consistent().await;
}
