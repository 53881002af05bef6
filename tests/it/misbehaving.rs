//! Migrations that try to leave something behind or to break out of their transaction, each with
//! what happens. After each, the next migration finds a clean session and the ledger agrees with
//! the database.

use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase};

/// What becomes of a misbehaving file.
enum Fate {
    /// It is applied, and nothing of it reaches the next one.
    Applied,
    /// It fails with this SQLSTATE; nothing of it stays.
    Fails(&'static str),
    /// It is not run at all.
    Refused(&'static str),
}
use Fate::{Applied, Fails, Refused};

/// The second migration: fails when anything of the first reached it.
const PROBE: &str = "DO $$
DECLARE leak text;
BEGIN
    IF current_user <> session_user THEN RAISE 'role leaked: %', current_user; END IF;
    SELECT string_agg(name || '=' || setting, ' ') INTO leak FROM pg_settings
     WHERE source = 'session' AND name NOT IN ('application_name', 'TimeZone', 'statement_timeout', 'lock_timeout',
           'idle_in_transaction_session_timeout', 'idle_session_timeout', 'transaction_timeout',
           'client_connection_check_interval', 'tcp_keepalives_idle', 'tcp_keepalives_interval', 'tcp_keepalives_count',
           'transaction_isolation', 'client_encoding', 'standard_conforming_strings', 'quote_all_identifiers', 'default_transaction_isolation');
    IF leak IS NOT NULL THEN RAISE 'settings leaked: %', leak; END IF;
    SELECT string_agg(name || '=' || setting, ' ') INTO leak FROM pg_settings
     WHERE (name = 'application_name' AND setting <> 'schemad') OR (name = 'TimeZone' AND setting <> 'UTC')
        OR (name = 'lock_timeout' AND setting <> '5000') OR (name = 'statement_timeout' AND setting <> '0')
        OR (name = 'idle_session_timeout' AND setting <> '0')
        OR (name = 'standard_conforming_strings' AND setting <> 'on') OR (name = 'quote_all_identifiers' AND setting <> 'off')
        OR (name = 'client_connection_check_interval' AND setting <> '2000');
    IF leak IS NOT NULL THEN RAISE 'the daemon''s settings changed: %', leak; END IF;
    IF EXISTS (SELECT FROM pg_listening_channels()) THEN RAISE 'LISTEN leaked'; END IF;
    IF EXISTS (SELECT FROM pg_prepared_statements) THEN RAISE 'PREPARE leaked'; END IF;
    IF EXISTS (SELECT FROM pg_cursors WHERE is_holdable) THEN RAISE 'a cursor leaked'; END IF;
    IF to_regclass('pg_temp.leaked') IS NOT NULL THEN RAISE 'a temporary table leaked'; END IF;
    IF (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
        AND (classid, objid) <> (7562088, 1701667172) -- and the mark of this very step
        AND (classid, objid) <> (1935894628, (txid_current() & 2147483647)::oid)) > 0 THEN RAISE 'an advisory lock leaked'; END IF;
    IF NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()
        AND (classid, objid) = (7562088, 1701667172)) THEN RAISE 'the operation lock is gone'; END IF;
END $$;";

async fn walk(up: &str, fate: Fate) {
    let database = TestDatabase::new().await;
    database
        .execute(
            "CREATE TABLE witness (n int); CREATE TYPE labels AS ENUM ('a'); DO $$ BEGIN \
        CREATE ROLE schemad_test_role; EXCEPTION WHEN duplicate_object OR unique_violation THEN \
        END $$;",
        )
        .await;
    let up = format!("INSERT INTO witness VALUES (1);\n{up}");
    let set = Set::of(&[
        ("1_misbehaves", &up, "DELETE FROM witness;"),
        ("2_probe", PROBE, "SELECT 1;"),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let outcome = daemon.apply_all().await;
    let (witnesses, applied) = match fate {
        Applied => {
            outcome.finished();
            ("1", vec!["1", "2"])
        }
        Fails(sqlstate) => {
            let failed = outcome.failure();
            failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
            assert_eq!(failed.metadata["sqlstate"], sqlstate, "{up}: {failed:?}");
            ("0", vec![])
        }
        Refused(reason) => {
            let failed = outcome.failure();
            failed.assert(Code::FailedPrecondition, reason);
            assert_eq!(failed.metadata["line"], "2", "{failed:?}");
            assert!(outcome.events.is_empty(), "refused before it was accepted");
            ("0", vec![])
        }
    };
    assert_eq!(
        database.text("SELECT count(*) FROM witness").await,
        witnesses,
        "{up}"
    );
    assert_eq!(database.diesel_versions().await, applied, "{up}");
    database.assert_consistent().await;
    // Whatever happened, the next operation can begin: no lock stayed behind.
    let rolled_back = daemon.rollback_all().await;
    rolled_back.finished();
    assert_eq!(database.text("SELECT count(*) FROM witness").await, "0");
}

macro_rules! walks {
    ($($name:ident: $sql:expr => $fate:expr;)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            walk($sql, $fate).await;
        })+
    };
}

walks! {
    a_begin_without_its_commit_is_refused: "BEGIN;" => Refused("ENDS_TRANSACTION");
    a_commit_is_refused: "COMMIT;" => Refused("ENDS_TRANSACTION");
    a_rollback_is_refused: "ROLLBACK;" => Refused("ENDS_TRANSACTION");
    an_abort_is_refused: "ABORT;" => Refused("ENDS_TRANSACTION");
    commit_and_chain_is_refused: "COMMIT AND CHAIN;" => Refused("ENDS_TRANSACTION");
    prepare_transaction_is_refused: "PREPARE TRANSACTION 'x';" => Refused("ENDS_TRANSACTION");
    a_commit_inside_a_do_block_fails: "DO $$ BEGIN COMMIT; END $$;" => Fails("2D000");
    savepoints_work: "SAVEPOINT a; INSERT INTO witness VALUES (2); ROLLBACK TO a; RELEASE a;" => Applied;
    discard_all_is_refused: "DISCARD ALL;" => Refused("NON_TRANSACTIONAL");
    dropping_the_ledger_fails: "DROP SCHEMA schemad CASCADE;" => Fails("3F000");
    vacuum_is_refused: "VACUUM witness;" => Refused("NON_TRANSACTIONAL");
    concurrently_is_refused: "CREATE INDEX CONCURRENTLY i ON witness (n);" => Refused("NON_TRANSACTIONAL");
    a_command_of_psqls_is_refused: "\\connect other" => Refused("NEEDS_CLIENT");
    a_command_of_psqls_behind_a_statement_is_refused: "SELECT 1 \\gexec" => Refused("NEEDS_CLIENT");
    a_string_that_goes_on_keeps_its_escapes: "SELECT E'a' -- b\n 'b\\'; COMMIT; c';" => Applied;
    unlocking_everything_fails: "SELECT pg_advisory_unlock_all();" => Fails("SCH04");
    unlocking_the_lock_fails: "SELECT pg_advisory_unlock(32478922351141220);" => Fails("SCH04");
    another_advisory_lock_does_not_leak: "SELECT pg_advisory_lock(1);" => Applied;
    set_search_path_does_not_leak: "SET search_path = pg_catalog, public;" => Applied;
    settings_of_the_daemon_come_back:
        "SET application_name = 'other'; SET TimeZone = 'Asia/Tokyo'; SET lock_timeout = 7; SET \
         work_mem = '1MB';" => Applied;
    set_role_does_not_leak: "SET ROLE schemad_test_role;" => Applied;
    set_session_authorization_does_not_leak: "SET SESSION AUTHORIZATION schemad_test_role;" => Applied;
    listen_does_not_leak: "LISTEN channel;" => Applied;
    prepare_does_not_leak: "PREPARE p AS SELECT 1;" => Applied;
    a_temporary_table_does_not_leak: "CREATE TEMP TABLE leaked (n int);" => Applied;
    a_held_cursor_does_not_leak: "DECLARE c CURSOR WITH HOLD FOR SELECT 1;" => Applied;
    copy_from_stdin_is_refused: "COPY witness FROM STDIN;" => Refused("NEEDS_CLIENT");
    copy_to_stdout_is_refused: "COPY witness TO STDOUT;" => Refused("NEEDS_CLIENT");
    a_deferred_constraint_fails_at_the_end:
        "CREATE TABLE p (id int PRIMARY KEY); CREATE TABLE c (p int REFERENCES p DEFERRABLE \
         INITIALLY DEFERRED); INSERT INTO c VALUES (1);" => Fails("23503");
    a_deferred_trigger_sees_the_settings_of_its_file:
        "CREATE SCHEMA app; CREATE TABLE app.seen (n int); SET search_path = app, public; CREATE \
         FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN INSERT INTO seen VALUES \
         (1); RETURN NULL; END'; CREATE CONSTRAINT TRIGGER note AFTER INSERT ON witness DEFERRABLE \
         INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION app.note(); INSERT INTO witness VALUES \
         (2); DELETE FROM witness WHERE n = 2;" => Applied;
    dropping_the_diesel_table_fails: "DROP TABLE __diesel_schema_migrations;" => Fails("42P01");
    writing_into_the_diesel_table_fails: "INSERT INTO __diesel_schema_migrations (version) VALUES \
        ('1');" => Fails("23505");
    a_trailing_comment_swallows_nothing: "SELECT 1 -- the end" => Applied;
    an_open_quote_fails: "SELECT 'oops" => Fails("42601");
    an_open_block_comment_fails: "SELECT 1 /* oops" => Fails("42601");
    many_rows_are_dropped_as_they_come: "SELECT * FROM generate_series(1, 200000);" => Applied;
    nothing_but_semicolons_after_it: ";;;" => Applied;
    an_enum_label_used_at_once_fails:
        "ALTER TYPE labels ADD VALUE 'b'; CREATE TABLE uses (e labels DEFAULT 'b');" => Fails("55P04");
    standard_conforming_strings_off_stays_inside: "SET standard_conforming_strings = off;" => Applied;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_setting_that_comes_back_with_reset_is_no_change_of_user() {
    let database = TestDatabase::new().await;
    let (login, owner) = (
        format!("login_{}", database.name),
        format!("owner_{}", database.name),
    );
    database
        .execute(&format!(
            "CREATE ROLE {owner} SUPERUSER; CREATE ROLE {login} LOGIN PASSWORD 'pw' SUPERUSER IN \
             ROLE {owner}; ALTER ROLE {login} SET role = '{owner}'"
        ))
        .await;
    let url = database.url_as(&login);
    let daemon = TestDaemon::launch(
        crate::harness::daemon::settings(&url),
        &Set::of(&[("1_a", "CREATE TABLE a (id int);", "DROP TABLE a;")]),
    )
    .await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    assert_eq!(
        database
            .text("SELECT tableowner FROM pg_tables WHERE tablename = 'a'")
            .await,
        owner
    );
    daemon.rollback_all().await.finished();
    daemon.stop().await;
    database
        .execute(&format!(
            "DROP OWNED BY {owner} CASCADE; DROP ROLE {login}; DROP ROLE {owner}"
        ))
        .await;
}

/// The static look refuses a COMMIT before it runs; the guard is what holds when the look is wrong.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_second_guard_sees_that_transaction_user_and_lock_are_the_same() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let other = format!("super_{}", database.name);
    database
        .execute(&format!("CREATE ROLE {other} SUPERUSER"))
        .await;
    let set_role = format!("SET ROLE {other}");
    let set_session = format!("SET SESSION AUTHORIZATION {other}");
    for (script, expected) in [
        ("COMMIT", "SCH03"),
        ("COMMIT; BEGIN", "SCH03"),
        ("ROLLBACK; BEGIN", "SCH03"),
        ("SELECT pg_advisory_unlock_all()", "SCH04"),
        (set_role.as_str(), "SCH05"),
        (set_session.as_str(), "SCH05"),
    ] {
        let session = database.connect().await;
        session
            .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
            .await
            .unwrap();
        session
            .batch_execute(
                "DELETE FROM schemad.operations WHERE principal = 'guard'; INSERT INTO \
                 schemad.operations (id, kind, principal, request_id, request_hash, state, daemon, \
                 backend_pid, queue_until) VALUES (gen_random_uuid(), 'apply', 'guard', \
                 gen_random_uuid(), '', 'running', '', 0, now()); INSERT INTO schemad.steps \
                 (operation, ordinal, version, name, direction, script, mode, lock_timeout_ms, \
                 statement_timeout_ms) SELECT o.id, 1, '9', '9', 'up', s.checksum, \
                 'transactional', 0, 0 FROM schemad.operations o, schemad.scripts s WHERE \
                 o.principal = 'guard' LIMIT 1",
            )
            .await
            .unwrap();
        let step = database.text("SELECT max(id) FROM schemad.steps").await;
        let error = session
            .batch_execute(&format!(
                "BEGIN;SELECT schemad.begin_step_v1({step});{script};SELECT \
                 schemad.finish_step_v1({step});COMMIT"
            ))
            .await
            .unwrap_err();
        assert_eq!(error.code().unwrap().code(), expected, "{script}");
        assert_eq!(database.diesel_versions().await, ["0001"]);
    }
    database.execute(&format!("DROP ROLE {other}")).await;
}

/// What a step in flight meets after the one before it failed, or without the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_guard_refuses_without_the_lock_and_out_of_turn() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let code = async |prepare: &str, step: i64| {
        let session = database.connect().await;
        session.batch_execute(prepare).await.unwrap();
        let error = session
            .batch_execute(&format!("BEGIN;SELECT schemad.begin_step_v3({step})"))
            .await
            .unwrap_err();
        error.code().unwrap().code().to_owned()
    };
    let step: i64 = database
        .text("SELECT max(id) FROM schemad.steps")
        .await
        .parse()
        .unwrap();
    assert_eq!(code("SELECT 1", step).await, "SCH02");
    assert_eq!(
        code("SELECT pg_advisory_lock(32478922351141220)", step).await,
        "SCH01"
    );
    assert_eq!(
        code("SELECT pg_advisory_lock(32478922351141220)", 0).await,
        "SCH01"
    );
    // Pending, of a running operation, and the step before it is not applied.
    let skipped = "SELECT pg_advisory_lock(32478922351141220); UPDATE schemad.operations SET state \
        = 'running'; INSERT INTO schemad.steps (operation, ordinal, version, name, direction, \
        script, mode, lock_timeout_ms, statement_timeout_ms) SELECT operation, 3, '3', '3', 'up', \
        script, mode, 0, 0 FROM schemad.steps LIMIT 1";
    assert_eq!(code(skipped, step + 1).await, "SCH01");
}
