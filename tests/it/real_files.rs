//! What real files hold: each was met in somebody's migrations, and stands for its kind.

use schemad::pb::{self, operation_event::Event};
use tonic::Code;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    process::{output, schemad, stderr, stdout},
};

/// The server reads strings as the splitter does, whatever the URL says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backslash_before_a_quote_ends_no_transaction() {
    let database = TestDatabase::new().await;
    database.execute("CREATE TABLE q (t text)").await;
    let up = r"INSERT INTO q VALUES ('a\'); SELECT 1; INSERT INTO q VALUES (' COMMIT; b');";
    let set = Set::of(&[("1_a", up, "DELETE FROM q;")]);
    let separator = if database.url.contains('?') { '&' } else { '?' };
    let url = format!(
        "{}{separator}options=-c%20standard_conforming_strings%3Doff",
        database.url
    );
    let daemon = TestDaemon::launch(crate::harness::daemon::settings(&url), &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database.texts("SELECT t FROM q ORDER BY t DESC").await,
        [r"a\", " COMMIT; b"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn labels_in_a_body_of_sql_are_no_end_of_it() {
    let database = TestDatabase::new().await;
    if database.server_major().await < 14 {
        return; // there are no such bodies
    }
    let up = "CREATE FUNCTION f() RETURNS TABLE (a int, b int) BEGIN ATOMIC SELECT 1 AS end, CASE \
        WHEN true THEN 2 END case; SELECT t.end, t.case FROM (SELECT 3 AS end, 4 AS case) t; END; \
        CREATE TABLE after (n int);";
    let set = Set::of(&[("1_f", up, "DROP TABLE after; DROP FUNCTION f();")]);
    set.add_non_transactional(
        "2_f",
        &up.replace("f()", "g()").replace("after", "last"),
        "DROP TABLE last; DROP FUNCTION g();",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(database.text("SELECT a + b FROM g()").await, "7");
    assert_eq!(daemon.rollback_all().await.done(), ["2", "1"]);
}

/// A statement outside a transaction that failed and left nothing has not half applied its file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_build_that_failed_and_left_nothing_is_not_half_applied() {
    for (table, up, left) in [
        (
            "CREATE TABLE t (n int) PARTITION BY RANGE (n)",
            "CREATE INDEX CONCURRENTLY i ON t (n);",
            "on partitioned table",
        ),
        (
            "CREATE TABLE t (n int)",
            "CREATE INDEX CONCURRENTLY i ON t (nowhere);",
            "does not exist",
        ),
        (
            "CREATE TABLE t (n int)",
            "DROP INDEX CONCURRENTLY nowhere;",
            "does not exist",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(0));
        database.execute(table).await;
        set.add("1_a", "CREATE TABLE a (n int);", "DROP TABLE a;");
        set.add_non_transactional("2_i", up, "SELECT 1;");
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert!(failed.message.contains(left), "{}", failed.message);
        let state = async || {
            let status = daemon.status().await;
            (status.state(), status.problems.len())
        };
        assert_eq!(state().await, (pb::SchemaState::Behind, 0), "{up}");
        assert_eq!(daemon.rollback_all().await.done(), ["1"]);
        assert_eq!(state().await, (pb::SchemaState::Empty, 0), "{up}");
        daemon.stop().await;
    }
}

/// The server's words for each, and what schemad says beside them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_server_refuses_in_real_files_comes_with_help() {
    let pending = "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p \
        DEFERRABLE INITIALLY DEFERRED); INSERT INTO p VALUES (1); INSERT INTO c VALUES (1); ALTER \
        TABLE c ADD n int;";
    for (up, help) in [
        (
            pending,
            "SET CONSTRAINTS ALL IMMEDIATE before this statement",
        ),
        (
            "CREATE TABLE public.__diesel_schema_migrations (version text);",
            "pg_dump -T '*.__diesel_schema_migrations' -N schemad",
        ),
        ("CREATE SCHEMA schemad;", "-N schemad"),
        ("CREATE SCHEMA public;", "CREATE SCHEMA IF NOT EXISTS"),
        ("SET transaction_timeouts = 0;", "delete the line"),
        (
            "CREATE TABLE t (n int); ALTER TABLE t OWNER TO nobody_here;",
            "pg_dump --no-owner",
        ),
        ("SELECT\u{a0}1;", "no-break space (U+00A0)"),
        ("SELECT 1;\u{200b}", "zero-width space (U+200B)"),
        ("SELECT 1;\n\u{feff}", "byte order mark (U+FEFF)"),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::of(&[("1_a", up, "")]));
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert!(failed.message.contains(help), "{}", failed.message);
        daemon.stop().await;
    }
}

/// A file that runs statement by statement has a clean session for each: what can be seen is
/// refused before anything runs, in status too, and the rest is told why it fails.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_statement_leaves_in_its_session_for_the_next_is_refused_or_told() {
    for (up, help) in [
        (
            "CREATE TEMP TABLE t (n int); INSERT INTO t VALUES (1);",
            "uses a temporary table",
        ),
        (
            "PREPARE p AS SELECT 1; EXECUTE p;",
            "uses a prepared statement",
        ),
        (
            "CREATE TABLE a (id serial); INSERT INTO a DEFAULT VALUES; SELECT \
             currval('a_id_seq');",
            "INSERT ... RETURNING",
        ),
        (
            "SET LOCAL search_path = app; CREATE TABLE t (n int);",
            "write SET without LOCAL",
        ),
        (
            "SELECT set_config('search_path', lower('APP'), false); CREATE TABLE t (n int);",
            "Write SET, or set_config() with texts",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(0));
        set.add_non_transactional("1_a", up, "");
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "LOSES_SESSION");
        assert!(
            failed.message.contains(help) && failed.message.contains("BEGIN"),
            "{}",
            failed.message
        );
        assert_eq!(daemon.status().await.problems[0].reason, "LOSES_SESSION");
        assert_eq!(
            database
                .text("SELECT count(*) FROM pg_class WHERE relname IN ('t', 'a')")
                .await,
            "0",
            "{up}"
        );
        daemon.stop().await;
    }
    for (up, help) in [
        (
            "DO $$ BEGIN CREATE TEMP TABLE t (n int); END $$; INSERT INTO t VALUES (1);",
            "a temporary table",
        ),
        (
            "DO $$ BEGIN EXECUTE 'PREPARE p AS SELECT 1'; END $$; EXECUTE p;",
            "a prepared statement",
        ),
        (
            "CREATE SEQUENCE s; DO $$ BEGIN PERFORM currval('s'); END $$;",
            "currval() of an earlier one is gone",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(0));
        set.add_non_transactional("1_a", up, "");
        let daemon = TestDaemon::start(&database, &set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert!(
            failed.message.contains(help) && failed.message.contains("one BEGIN and COMMIT"),
            "{}",
            failed.message
        );
        daemon.stop().await;
    }
    // What a block sets is not known beforehand, so it is told.
    let (database, set) = (TestDatabase::new().await, Set::tables(0));
    database.execute("CREATE SCHEMA app").await;
    set.add_non_transactional(
        "1_a",
        "DO $$ BEGIN SET search_path = app; END $$; CREATE TABLE t (n int);",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    let warned = |text: &str| text.contains("search_path") || text.contains("holds to the end of");
    assert!(
        outcome.has(
            |event| matches!(event, Event::Notice(notice) if notice.severity == "WARNING" && warned(&notice.message))
        ),
        "{:?}",
        outcome.events
    );
    daemon.stop().await;
}

/// A block outside a transaction that commits and then fails: what it is about is what it
/// committed, and not whether it has ended.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_commits_and_fails_is_said_to_have_failed() {
    let (database, set) = (TestDatabase::new().await, Set::tables(0));
    let up = "CREATE TABLE w (n int); DO $$ BEGIN INSERT INTO w VALUES (1); COMMIT; RAISE 'after \
        that'; END $$;";
    set.add_non_transactional("1_a", up, "");
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert!(
        failed
            .message
            .contains("may have committed a part of its work"),
        "{}",
        failed.message
    );
    let status = daemon.status().await;
    assert_eq!(status.state(), pb::SchemaState::InDoubt);
    let told = &status.problems[0].message;
    assert!(
        told.contains(
            "failed outside a transaction, and may have committed a part of its work before: DO"
        ),
        "{told}"
    );
    assert!(
        told.contains("Look what of it is there") && !told.contains("not known"),
        "{told}"
    );
    assert_eq!(database.text("SELECT count(*) FROM w").await, "1");
    daemon.stop().await;
}

/// What an up is refused for, a down is not: it may be needed as it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_down_runs_as_far_as_the_server_lets_it() {
    let (database, set) = (TestDatabase::new().await, Set::tables(0));
    set.add("1_a", "CREATE TABLE a (n int);", "BEGIN; DROP TABLE a;");
    set.add_non_transactional(
        "2_b",
        "CREATE TABLE b (n int);",
        "SET LOCAL work_mem = '8MB'; DROP TABLE b;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    assert_eq!(daemon.rollback_all().await.done(), ["2", "1"]);
    database.assert_consistent().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_ends_its_own_session_is_told_so() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    set.add(
        "9_end",
        "SELECT 1;\nSELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = \
         current_database();",
        "",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    assert!(
        failed.message.contains("AND pid <> pg_backend_pid()"),
        "{}",
        failed.message
    );
    assert_eq!(failed.metadata["file"], "9_end/up.sql");
    assert_eq!(database.diesel_versions().await, ["0001"]);
    database.assert_consistent().await;
}

/// How each script will run, and why so, is said before anything runs: a dump with its own BEGIN
/// and COMMIT runs in many parts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn how_a_script_will_run_is_said_beforehand() {
    use pb::{
        MigrationMode::{NonTransactional, Transactional},
        ModeReason::{Metadata, OwnTransactions, Unspecified},
    };
    let (database, set) = (TestDatabase::new().await, Set::tables(0));
    set.add(
        "1_one",
        "CREATE TABLE a (n int); CREATE TABLE b (n int);",
        "DROP TABLE b; DROP TABLE a;",
    );
    set.add(
        "2_own",
        "SELECT 1; BEGIN; SELECT 2; SELECT 3; COMMIT; SELECT 4;",
        "SELECT 1;",
    );
    set.add_non_transactional("3_metadata", "VACUUM; SELECT 1;", "SELECT 1;");
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon
        .apply(pb::ApplyRequest {
            validate_only: true,
            ..Default::default()
        })
        .await;
    let planned = outcome
        .events
        .iter()
        .find_map(|event| match event.event.as_ref()? {
            Event::Planned(plan) => Some(plan.steps.clone()),
            _ => None,
        });
    let how: Vec<_> = planned
        .unwrap()
        .iter()
        .map(|step| (step.mode(), step.mode_reason(), step.parts))
        .collect();
    let expected = [
        (Transactional, Unspecified, 0),
        (NonTransactional, OwnTransactions, 3),
        (NonTransactional, Metadata, 2),
    ];
    assert_eq!(how, expected);
    let list = daemon
        .client()
        .list_migrations(pb::ListMigrationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    let of_list: Vec<_> = list
        .migrations
        .iter()
        .map(|m| (m.up_mode(), m.up_mode_reason(), m.up_parts))
        .collect();
    assert_eq!(of_list, expected);
    let run = async |args: &[&str]| {
        let mut command = schemad(args);
        command.args(["--address", &format!("http://{}", daemon.address)]);
        stdout(&output(command).await)
    };
    for (args, told) in [
        (
            &["apply", "--validate-only"][..],
            [
                "in one transaction",
                "in 3 parts (its BEGIN and COMMIT)",
                "in 2 parts (metadata.toml)",
            ],
        ),
        (
            &["list"],
            [
                "in one transaction",
                "in 3 parts (its BEGIN and COMMIT)",
                "in 2 parts (metadata.toml)",
            ],
        ),
        (
            &["show", "2"],
            [
                "Up runs     in 3 parts (its BEGIN and COMMIT)",
                "Down runs   in one transaction",
                "2_own",
            ],
        ),
    ] {
        let shown = run(args).await;
        assert!(told.iter().all(|told| shown.contains(told)), "{shown}");
    }
    daemon.stop().await;
}

/// What a DROP … CASCADE takes with it stands in the notice's DETAIL.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_notice_comes_with_its_detail_and_hint() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_a",
        "CREATE TABLE t (n int); CREATE VIEW v1 AS SELECT n FROM t; CREATE VIEW v2 AS SELECT n \
            FROM t; DROP TABLE t CASCADE; DO $$ BEGIN RAISE WARNING 'careful' USING HINT = 'look \
            twice'; END $$;",
        "SELECT 1;",
    )]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    outcome.finished();
    let said = |detail: &str, hint: &str| {
        outcome.has(|event| matches!(event, Event::Notice(notice) if notice.detail == detail && notice.hint == hint))
    };
    assert!(
        said("drop cascades to view v1\ndrop cascades to view v2", ""),
        "{:?}",
        outcome.events
    );
    assert!(said("", "look twice"), "{:?}", outcome.events);
    daemon.rollback_all().await.finished();
    let apply = schemad(&["apply", "--address", &format!("http://{}", daemon.address)]);
    let told = stderr(&output(apply).await);
    assert!(
        told.contains("drop cascades to view v2") && told.contains("look twice"),
        "{told}"
    );
}

/// A database of another encoding has no place for some characters, in a comment or anywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_character_that_the_database_cannot_hold_is_named_with_its_place() {
    for (encoding, fine, wrong, named) in [
        (
            "LATIN1",
            "-- caf\u{e9}\nSELECT 1;",
            "SELECT 1;\n-- a \u{2192} b\nSELECT 2;",
            "'\u{2192}' (U+2192)",
        ),
        (
            "WIN1252",
            "-- \u{2026} \u{20ac}\nSELECT 1;",
            "SELECT '\u{2192}';",
            "'\u{2192}' (U+2192)",
        ),
        ("SQL_ASCII", "-- \u{2192}\nSELECT 1;", "", ""),
    ] {
        let database = TestDatabase::new().await;
        let other = TestDatabase::new().await;
        database.drop_forced().await;
        let make = format!(
            "CREATE DATABASE {} ENCODING '{encoding}' LOCALE 'C' TEMPLATE template0",
            database.name
        );
        other.execute(&make).await;
        let set = Set::of(&[("1_fine", fine, "SELECT 1;")]);
        let daemon = TestDaemon::start(&database, &set).await;
        daemon.apply_all().await.finished();
        assert_eq!(daemon.rollback_all().await.done(), ["1"]);
        daemon.stop().await;
        if wrong.is_empty() {
            continue;
        }
        for (up, down, file, line) in [
            (wrong, "SELECT 1;", "up.sql", wrong.lines().count().min(2)),
            ("SELECT 1;", wrong, "down.sql", 0),
        ] {
            set.add("2_wrong", up, down);
            let daemon = TestDaemon::start(&database, &set).await;
            let status = daemon.status().await;
            let problem = &status.problems[0];
            assert_eq!(
                (status.state(), problem.reason.as_str()),
                (pb::SchemaState::Diverged, "INVALID_MIGRATION")
            );
            assert!(
                problem.message.contains(file) && problem.blocking,
                "{problem:?}"
            );
            let validated = daemon
                .apply(pb::ApplyRequest {
                    validate_only: true,
                    ..Default::default()
                })
                .await;
            for failed in [validated.failure(), daemon.apply_all().await.failure()] {
                failed.assert(Code::FailedPrecondition, "INVALID_MIGRATION");
                assert!(
                    failed.message.contains(named) && failed.message.contains(file),
                    "{}",
                    failed.message
                );
                assert!(failed.message.contains(encoding), "{}", failed.message);
                assert!(
                    line == 0 || failed.metadata["line"] == line.to_string(),
                    "{failed:?}"
                );
            }
            assert_eq!(database.diesel_versions().await, [""; 0]);
            daemon.stop().await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_schemad_says_itself_is_kept_in_a_database_of_any_encoding() {
    let database = TestDatabase::new().await;
    let other = TestDatabase::new().await;
    database.drop_forced().await;
    let make = format!(
        "CREATE DATABASE {} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0",
        database.name
    );
    other.execute(&make).await;
    // What diesel_cli applied is adopted although the ledger cannot keep its down, nor its name as
    // it is.
    let set = Set::of(&[("1_a\u{2192}b", "SELECT 1;", "-- back \u{2192}\nSELECT 1;")]);
    database
        .execute(
            "CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY KEY, run_on \
             timestamp NOT NULL DEFAULT now()); INSERT INTO __diesel_schema_migrations (version) \
             VALUES ('1')",
        )
        .await;
    // A message that is cut has an ellipsis, which the encoding does not have.
    set.add(
        "2_long",
        "DO $$ BEGIN RAISE EXCEPTION '%', repeat('x', 3000); END $$;",
        "SELECT 1;",
    );
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
    let kept = "SELECT state || ' ' || right(result->'failure'->'metadata'->>'database_message', \
        5) FROM schemad.operations";
    assert_eq!(database.text(kept).await, "failed xx...");
    assert_eq!(
        database.texts("SELECT name FROM schemad.migrations").await,
        ["1_a->b"]
    );
    let request = pb::RollbackRequest {
        target: Some(pb::rollback_request::Target::Steps(1)),
        ..Default::default()
    };
    let refused = daemon.rollback(request).await.failure();
    refused.assert(Code::FailedPrecondition, "INVALID_MIGRATION");
    assert!(refused.message.contains("U+2192"), "{}", refused.message);
    daemon.stop().await;
}

/// The server's own code for the end of a session is a script's as well, or another server's
/// through a foreign table.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_with_the_code_of_an_ended_session_is_the_scripts() {
    for code in ["57P01", "57P03"] {
        let raise = format!(
            "DO $$ BEGIN RAISE EXCEPTION 'not now' USING ERRCODE = '{code}', HINT = 'wait for it'; \
             END $$;"
        );
        for transactional in [true, false] {
            let (database, set) = (TestDatabase::new().await, Set::tables(0));
            if transactional {
                set.add("1_a", &raise, "")
            } else {
                set.add_non_transactional("1_a", &raise, "")
            }
            let daemon = TestDaemon::start(&database, &set).await;
            let failed = daemon.apply_all().await.failure();
            failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
            assert_eq!(
                (
                    failed.metadata["sqlstate"].as_str(),
                    failed.metadata["hint"].as_str()
                ),
                (code, "wait for it")
            );
            assert_eq!(failed.metadata["file"], "1_a/up.sql");
            assert_eq!(
                database
                    .text("SELECT count(*) FROM schemad.operations")
                    .await,
                "1"
            );
            daemon.stop().await;
        }
    }
}
