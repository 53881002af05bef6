//! A login of its own for migrations, as docs/least-privilege.md gives it: everything works, and no
//! script can write the ledger.

use schemad::{
    Settings,
    internals::{
        doctor::{self, CheckStatus, DoctorSettings},
        migration::MigrationSet,
    },
    pb,
};
use tonic::Code;

use crate::{
    harness::{
        Set, TestDaemon,
        daemon::{collect, settings},
        database::connect,
        eventually,
    },
    least_privilege::{Followed, login_of_its_own, set},
};

struct Barred(Followed);

impl Barred {
    async fn guide() -> Self {
        let followed = Followed::guide().await;
        for (database, statement) in login_of_its_own() {
            followed.run(&database, &statement).await;
        }
        Self(followed)
    }

    async fn launch(&self, set: &Set) -> TestDaemon {
        let settings = Settings {
            migration_database: Some(self.0.url("schemad_migrator", "app").parse().unwrap()),
            role: Some("app_owner".into()),
            ..settings(&self.0.url("schemad_daemon", "app"))
        };
        TestDaemon::launch(settings, set).await
    }

    async fn start(&self, set: &Set) -> TestDaemon {
        let daemon = self.launch(set).await;
        daemon.until_ready().await;
        daemon
    }

    async fn doctor(&self, set: &Set) -> doctor::DoctorReport {
        let plan = DoctorSettings {
            database: self.0.url("schemad_daemon", "app").parse().unwrap(),
            migration_database: Some(self.0.url("schemad_migrator", "app").parse().unwrap()),
            role: Some("app_owner".into()),
            signing: None,
            leases: None,
        };
        doctor::examine(&plan, &MigrationSet::load(&set.source()).unwrap()).await
    }

    async fn text(&self, query: &str) -> String {
        self.0.texts(query).await.join(" ")
    }

    async fn applied(&self) -> String {
        let ledger = self
            .text("SELECT version::text FROM schemad.migrations ORDER BY 1")
            .await;
        let diesel = self
            .text("SELECT version::text FROM __diesel_schema_migrations ORDER BY 1")
            .await;
        assert_eq!(ledger, diesel);
        ledger
    }
}

/// A script takes its role back where that cannot be seen.
const TAKE_BACK: &str = "EXECUTE 'RESET ' || 'ROLE';";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_operation_works_with_a_login_of_its_own_for_migrations() {
    let (barred, set) = (Barred::guide().await, set());
    set.add_non_transactional(
        "0004_block",
        "CREATE TABLE t4 (id int);\nBEGIN;\nINSERT INTO t4 VALUES (1);\nCOMMIT;\nREINDEX TABLE \
         CONCURRENTLY t4;",
        "DROP TABLE t4;",
    );
    let before = barred.doctor(&set).await;
    assert!(
        before
            .checks
            .iter()
            .all(|check| check.status != CheckStatus::Fail),
        "{before:#?}"
    );
    let daemon = barred.start(&set).await;
    daemon.apply_all().await.finished();
    assert_eq!(barred.applied().await, "0001 0002 0003 0004");
    let owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('t1', \
        't2', 't4', 'i')";
    assert_eq!(barred.text(owners).await, "app_owner");
    let after = barred.doctor(&set).await;
    let login = after
        .checks
        .iter()
        .find(|check| check.check == "migrating login")
        .unwrap();
    let found = "schemad_daemon keeps the ledger, and migrations run in sessions of \
        schemad_migrator, which cannot write it";
    assert_eq!(
        (login.status, login.found.as_str()),
        (CheckStatus::Ok, found)
    );
    assert!(
        after
            .checks
            .iter()
            .all(|check| check.status != CheckStatus::Fail),
        "{after:#?}"
    );

    assert_eq!(
        daemon.rollback_all().await.done(),
        ["0004", "0003", "0002", "0001"]
    );
    assert_eq!(barred.applied().await, "");
    daemon.apply_all().await.finished();
    // Diesel's table is restored by the ledger's login, with its rights.
    barred
        .0
        .run("app", "DELETE FROM __diesel_schema_migrations")
        .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DIESEL_TABLE_LOST");
    let restore = pb::ResolveRequest {
        outcome: pb::ResolveOutcome::RestoreDieselTable.into(),
        reason: "it was emptied".into(),
        ..Default::default()
    };
    daemon.client().resolve(restore).await.unwrap();
    assert_eq!(barred.applied().await, "0001 0002 0003 0004");
    assert!(daemon.apply_all().await.finished().nothing_to_do);
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_takes_its_role_back_cannot_write_the_ledger() {
    for (attempt, refused) in [
        (
            "UPDATE schemad.operations SET principal = 'somebody else'",
            "permission denied for table operations",
        ),
        (
            "INSERT INTO schemad.scripts VALUES ('a', 'b')",
            "permission denied for table scripts",
        ),
        (
            "DELETE FROM schemad.migrations",
            "permission denied for table migrations",
        ),
        (
            "PERFORM sql FROM schemad.scripts",
            "permission denied for table scripts",
        ),
        (
            "DELETE FROM public.__diesel_schema_migrations",
            "permission denied for schema public",
        ),
        (
            "EXECUTE 'SET RO' || 'LE schemad_daemon'",
            "permission denied to set role",
        ),
        (
            "CREATE FUNCTION schemad.trap() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            "permission denied for schema schemad",
        ),
        (
            "ALTER FUNCTION schemad.begin_step_v3(bigint) OWNER TO schemad_migrator",
            "must be owner of function begin_step_v3",
        ),
    ] {
        let set = Set::of(&[
            ("1_plain", "CREATE TABLE plain ();", "DROP TABLE plain;"),
            (
                "2_escapes",
                &format!("DO $$ BEGIN {TAKE_BACK} {attempt}; END $$;"),
                "SELECT 1;",
            ),
        ]);
        let barred = Barred::guide().await;
        let daemon = barred.start(&set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        let said = failed
            .metadata
            .get("database_message")
            .cloned()
            .unwrap_or_default();
        // PostgreSQL before 16 says "permission denied to set role" as "must be member of role".
        let said_before = said.replace("must be member of role", "permission denied to set role");
        assert!(said_before.contains(refused), "{attempt}: {failed:?}");
        assert!(
            !failed.message.contains("GRANT SELECT, INSERT"),
            "no advice to open the ledger: {}",
            failed.message
        );
        assert_eq!(barred.applied().await, "1");
        daemon.stop().await;
    }
}

/// It may call the guards, which take nothing but the step whose turn it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_calls_the_guards_itself_gains_nothing() {
    let every_id = |call: &str| {
        format!(
            "DO $$ BEGIN {TAKE_BACK} FOR step IN 1..20 LOOP BEGIN PERFORM {call}; EXCEPTION WHEN \
             OTHERS THEN NULL; END; END LOOP; END $$;"
        )
    };
    for (calls, reason) in [
        // Its own step: the daemon's call finds it done, and all is undone.
        (
            every_id("schemad.finish_step_v4(step)"),
            Some("MIGRATION_FAILED"),
        ),
        (every_id("schemad.begin_step_v3(step)"), None),
        (
            every_id("schemad.begin_step_v3(step), schemad.finish_step_v4(step)"),
            Some("MIGRATION_FAILED"),
        ),
        (
            every_id("schemad.note_statement_v3(step, 1, 'done')"),
            Some("MIGRATION_FAILED"),
        ),
        // It only looks.
        (every_id("schemad.can_be_finished_v1(step)"), None),
    ] {
        let set = Set::of(&[
            ("1_plain", "CREATE TABLE one ();", "DROP TABLE one;"),
            ("2_calls", &calls, "SELECT 1;"),
            ("3_never", "CREATE TABLE three ();", "DROP TABLE three;"),
        ]);
        let barred = Barred::guide().await;
        let daemon = barred.start(&set).await;
        let outcome = daemon.apply_all().await;
        match reason {
            Some(reason) => {
                outcome.failure().assert(Code::FailedPrecondition, reason);
                assert_eq!(barred.applied().await, "1", "{calls}");
            }
            None => assert_eq!(
                barred.applied().await,
                "1 2 3",
                "{calls}: {:?}",
                outcome.status
            ),
        }
        let three = barred
            .text("SELECT coalesce(to_regclass('public.three')::text, 'none')")
            .await;
        assert_eq!(
            three == "three",
            reason.is_none(),
            "what is listed has run: {calls}"
        );
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_of_either_login_is_found_out() {
    let barred = Barred::guide().await;
    let set = Set::of(&[
        (
            "1_gate",
            "CREATE TABLE one (n int); SELECT pg_advisory_lock(77), pg_advisory_unlock(77);",
            "DROP TABLE one;",
        ),
        ("2_two", "CREATE TABLE two (n int);", "DROP TABLE two;"),
    ]);
    for (user, reason) in [
        ("schemad_migrator", Some("INTERRUPTED")),
        ("schemad_daemon", None),
    ] {
        let daemon = barred.start(&set).await;
        let gate = connect(&barred.0.url("postgres", "app")).await;
        gate.batch_execute("SELECT pg_advisory_lock(77)")
            .await
            .unwrap();
        let mut client = daemon.client();
        let applying = tokio::spawn(async move {
            collect(
                client.apply(pb::ApplyRequest::default()).await,
                |r: pb::ApplyResponse| r.event,
            )
            .await
        });
        eventually("the script waits", async || {
            let waits = "SELECT 'x' FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND \
                objid = 77";
            (!barred.0.texts(waits).await.is_empty()).then_some(())
        })
        .await;
        let kill = format!(
            "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = '{user}' \
             AND application_name = 'schemad'"
        );
        assert!(!barred.0.texts(&kill).await.is_empty());
        gate.batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
        let outcome = applying.await.unwrap();
        match reason {
            Some(reason) => {
                outcome.failure().assert(Code::Aborted, reason);
                assert_eq!(barred.applied().await, "");
                daemon.until_ready().await;
                daemon.apply_all().await.finished();
                assert_eq!(barred.applied().await, "1 2");
                daemon.rollback_all().await.finished();
            }
            // What ran is committed, and its end is recorded on another session.
            None => {
                outcome.finished();
                assert_eq!(barred.applied().await, "1 2");
            }
        }
        let states =
            "SELECT DISTINCT state FROM schemad.operations WHERE state IN ('pending', 'running')";
        assert_eq!(barred.text(states).await, "");
        daemon.stop().await;
    }
}

/// Another daemon cancels, and takes over what a daemon left that is gone.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_daemon_sees_and_cancels_what_runs() {
    let barred = Barred::guide().await;
    let set = Set::of(&[("1_sleep", "SELECT pg_sleep(600);", "SELECT 1;")]);
    let (one, two) = (barred.start(&set).await, barred.start(&set).await);
    let mut client = one.client();
    let applying = tokio::spawn(async move {
        collect(
            client.apply(pb::ApplyRequest::default()).await,
            |r: pb::ApplyResponse| r.event,
        )
        .await
    });
    let id = eventually("it is seen", async || {
        two.status()
            .await
            .running_operation
            .map(|running| running.id)
    })
    .await;
    let busy = two.apply_all().await.failure();
    busy.assert(Code::Aborted, "BUSY");
    assert_eq!(busy.metadata["running_operation"], id);
    two.operations()
        .cancel_operation(pb::CancelOperationRequest {
            id,
            ..Default::default()
        })
        .await
        .unwrap();
    applying
        .await
        .unwrap()
        .failure()
        .assert(Code::Cancelled, "CANCELLED");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_login_lacks_is_asked_for_and_too_much_is_told() {
    let (barred, set) = (Barred::guide().await, set());
    barred.start(&set).await.stop().await;
    for (take, give) in [
        (
            "REVOKE USAGE ON SCHEMA schemad FROM schemad_migrator",
            "GRANT USAGE ON SCHEMA schemad TO schemad_migrator",
        ),
        (
            "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad FROM schemad_migrator",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad TO schemad_migrator",
        ),
        (
            "REVOKE app_owner FROM schemad_migrator",
            "GRANT app_owner TO schemad_migrator",
        ),
        (
            "REVOKE CONNECT ON DATABASE app FROM schemad_migrator",
            "GRANT CONNECT ON DATABASE app TO schemad_migrator",
        ),
        (
            "REVOKE SELECT, INSERT, DELETE ON public.__diesel_schema_migrations FROM \
             schemad_daemon",
            "GRANT SELECT, INSERT, DELETE ON public.__diesel_schema_migrations TO schemad_daemon",
        ),
    ] {
        barred.0.run("app", take).await;
        let report = barred.doctor(&set).await;
        let todo: Vec<&String> = report
            .checks
            .iter()
            .filter(|c| c.status == CheckStatus::Fail)
            .flat_map(|c| &c.todo)
            .collect();
        assert!(todo.iter().any(|todo| *todo == give), "{give}: {report:#?}");
        let daemon = barred.launch(&set).await;
        eventually(give, async || {
            let failed = daemon.apply_all().await.failure();
            (failed.reason == "MISSING_RIGHT")
                .then(|| assert_eq!(failed.metadata["grant"], give, "{failed:?}"))
        })
        .await;
        daemon.stop().await;
        barred.0.run("app", give).await;
    }
    for (give, take) in [
        (
            "GRANT UPDATE ON schemad.scripts TO app_owner",
            "REVOKE ALL ON schemad.scripts FROM app_owner",
        ),
        (
            "GRANT INSERT ON schemad.events TO schemad_migrator",
            "REVOKE ALL ON schemad.events FROM schemad_migrator",
        ),
        (
            "GRANT UPDATE (principal) ON schemad.operations TO app_owner",
            "REVOKE ALL ON schemad.operations FROM app_owner",
        ),
    ] {
        barred.0.run("app", give).await;
        let report = barred.doctor(&set).await;
        let login = report
            .checks
            .iter()
            .find(|check| check.check == "migrating login")
            .unwrap();
        assert_eq!(
            (login.status, &login.todo),
            (CheckStatus::Warn, &vec![take.to_owned()])
        );
        barred.0.run("app", take).await;
    }
    // To read the ledger is no reason to write it over this login.
    barred
        .0
        .run(
            "app",
            "GRANT SELECT ON ALL TABLES IN SCHEMA schemad TO schemad_migrator",
        )
        .await;
    let report = barred.doctor(&set).await;
    assert!(
        report
            .checks
            .iter()
            .any(|check| check.found.contains("which cannot write it")),
        "{report:#?}"
    );
    barred
        .0
        .run(
            "app",
            "GRANT INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA schemad TO schemad_migrator",
        )
        .await;
    let report = barred.doctor(&set).await;
    let login = report
        .checks
        .iter()
        .find(|check| check.check == "migrating login")
        .unwrap();
    let revoke = "REVOKE ALL ON ALL TABLES IN SCHEMA schemad FROM schemad_migrator";
    assert_eq!(
        (login.status, &login.todo),
        (CheckStatus::Warn, &vec![revoke.to_owned()])
    );
    barred.0.run("app", revoke).await;
    let daemon = barred.start(&set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
}

/// What Diesel's table looks like in a transaction of one snapshot nobody can tell for sure, so
/// there is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_one_snapshot_is_refused() {
    let barred = Barred::guide().await;
    let up = "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; CREATE TABLE one ();";
    let set = Set::of(&[("1_snapshot", up, "DROP TABLE one;")]);
    let daemon = barred.start(&set).await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "DIESEL_TABLE_UNSAFE");
    assert!(
        failed.message.contains("every file runs in READ COMMITTED"),
        "{failed:?}"
    );
    assert_eq!(barred.applied().await, "");
    daemon.stop().await;
}

/// Says as whom it runs.
const TRAP: &str = "CREATE TABLE IF NOT EXISTS public.ran (who text); GRANT INSERT ON public.ran \
    TO PUBLIC; CREATE OR REPLACE FUNCTION public.trap() RETURNS varchar LANGUAGE plpgsql IMMUTABLE \
    AS $$ BEGIN INSERT INTO public.ran VALUES (current_user || '/' || session_user); RETURN '1'; \
    EXCEPTION WHEN OTHERS THEN PERFORM pg_advisory_lock(78, 1); RETURN '1'; END $$; GRANT EXECUTE \
    ON FUNCTION public.trap() TO PUBLIC";

/// The owner of the schema may drop Diesel's table and put a view in its place, before a guard
/// looks or while it waits for the lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_schemas_owner_puts_in_the_place_of_diesels_table_does_not_run() {
    for call in ["PERFORM schemad.can_be_finished_v1(2);", ""] {
        let gate = "PERFORM pg_advisory_lock(77), pg_advisory_unlock(77);";
        let set = Set::of(&[
            ("1_plain", "CREATE TABLE one ();", "DROP TABLE one;"),
            (
                "2_gate",
                &format!("DO $$ BEGIN {TAKE_BACK} {gate} {call} END $$;"),
                "SELECT 1;",
            ),
        ]);
        let barred = Barred::guide().await;
        barred
            .0
            .run("app", &format!("SET ROLE app_owner; {TRAP}"))
            .await;
        let daemon = barred.start(&set).await;
        let closed = connect(&barred.0.url("postgres", "app")).await;
        closed
            .batch_execute("SELECT pg_advisory_lock(77)")
            .await
            .unwrap();
        let mut client = daemon.client();
        let applying = tokio::spawn(async move {
            collect(
                client.apply(pb::ApplyRequest::default()).await,
                |r: pb::ApplyResponse| r.event,
            )
            .await
        });
        let waits = async |what: &str| {
            eventually(what, async || {
                (!barred.0.texts(what).await.is_empty()).then_some(())
            })
            .await;
        };
        waits(
            "SELECT 'x' FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 77",
        )
        .await;
        let owner = connect(&barred.0.url("postgres", "app")).await;
        owner
            .batch_execute(
                "SET ROLE app_owner; BEGIN; DROP TABLE public.__diesel_schema_migrations; CREATE \
                 VIEW public.__diesel_schema_migrations AS SELECT public.trap()::varchar(50) AS \
                 version, now()::timestamp AS run_on, 1 AS xmin, 2 AS ctid; GRANT ALL ON \
                 public.__diesel_schema_migrations TO PUBLIC",
            )
            .await
            .unwrap();
        closed
            .batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
        waits(
            "SELECT 'x' FROM pg_locks WHERE locktype = 'relation' AND NOT granted AND mode = \
            'RowExclusiveLock'",
        )
        .await;
        owner.batch_execute("COMMIT").await.unwrap();
        assert!(applying.await.unwrap().status.is_err());
        // Nor while the daemon only looks.
        eventually("it is noticed", async || {
            let refused = daemon
                .client()
                .get_status(pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
                .err()?;
            refused
                .message()
                .contains("DIESEL_TABLE")
                .then_some(())
                .or(refused.message().contains("Diesel").then_some(()))
        })
        .await;
        tokio::time::sleep(std::time::Duration::from_secs(3)).await;
        assert_eq!(
            barred.text("SELECT who FROM public.ran").await,
            "",
            "{call}"
        );
        let tried = "SELECT 'x' FROM pg_locks WHERE locktype = 'advisory' AND classid = 78";
        assert_eq!(
            barred.text(tried).await,
            "",
            "{call}: it ran where it could not write"
        );
        daemon.stop().await;
    }
}

/// A block that commits has the session to itself for a while, with the operation lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_block_that_commits_speaks_for_no_step() {
    let mark = "PERFORM pg_advisory_lock(1935894628, (txid_current() & 2147483647)::integer);";
    let table =
        "PERFORM set_config('schemad.diesel_table', 'public.__diesel_schema_migrations', false);";
    let each = |call: &str| {
        format!(
            "DO $$ BEGIN COMMIT; {TAKE_BACK} FOR step IN 1..12 LOOP {mark} {table} BEGIN PERFORM \
                {call}; EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; END $$;"
        )
    };
    for call in [
        "schemad.finish_step_v4(step)",
        "schemad.note_statement_v3(step, 1, 'done')",
        "schemad.begin_step_v3(step), schemad.finish_step_v4(step)",
        "schemad.can_be_finished_v1(step)",
    ] {
        let set = Set::of(&[("1_plain", "CREATE TABLE one (n int);", "DROP TABLE one;")]);
        set.add_non_transactional("2_commits", &each(call), "SELECT 1;");
        set.add("3_three", "CREATE TABLE three ();", "DROP TABLE three;");
        set.add_non_transactional(
            "4_four",
            "CREATE TABLE four ();\nREINDEX TABLE one;",
            "DROP TABLE four;",
        );
        let barred = Barred::guide().await;
        let daemon = barred.start(&set).await;
        // However it ends: what is listed has run.
        drop(daemon.apply_all().await);
        for (version, table) in [("3", "three"), ("4", "four")] {
            let there = barred
                .text(&format!(
                    "SELECT coalesce(to_regclass('public.{table}')::text, '')"
                ))
                .await;
            let listed = barred.applied().await.contains(version);
            assert_eq!(there == table, listed, "{call}: {version}");
        }
        let journal = "SELECT count(*)::text FROM schemad.statements t JOIN schemad.steps s ON \
            s.id = t.step WHERE s.version = '4' AND t.state = 'done' AND \
            to_regclass('public.four') IS NULL";
        assert_eq!(barred.text(journal).await, "0", "{call}");
        daemon.stop().await;
    }
}

/// The mark of the transaction is an advisory lock, which anybody can take again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_says_nothing_of_the_journal_of_another_step() {
    let mark = "PERFORM pg_advisory_lock(1935894628, (txid_current() & 2147483647)::integer);";
    let call = format!(
        "DO $$ BEGIN {TAKE_BACK} FOR step IN 1..12 LOOP BEGIN PERFORM \
            schemad.note_statement_v3(step, 1, 'done'); {mark} EXCEPTION WHEN OTHERS THEN NULL; \
            END; END LOOP; END $$;"
    );
    let set = Set::of(&[
        ("1_plain", "CREATE TABLE one (n int);", "DROP TABLE one;"),
        ("2_calls", &call, "SELECT 1;"),
    ]);
    set.add_non_transactional(
        "3_rows",
        "INSERT INTO one VALUES (1);\nVACUUM one;",
        "DELETE FROM one;",
    );
    let barred = Barred::guide().await;
    let daemon = barred.start(&set).await;
    for _ in 0..2 {
        drop(daemon.apply_all().await);
    }
    let rows = barred.text("SELECT count(*)::text FROM public.one").await;
    assert_eq!(
        rows == "1",
        barred.applied().await.contains('3'),
        "what is listed has run"
    );
    daemon.stop().await;
}

/// Whoever logs in can change the settings of that login, also a script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_the_login_stop_nothing() {
    let (barred, set) = (Barred::guide().await, set());
    let daemon = barred.start(&set).await;
    for setting in [
        "quote_all_identifiers = on",
        "default_transaction_isolation = serializable",
        "role = app_owner",
    ] {
        barred
            .0
            .run("app", &format!("ALTER ROLE schemad_migrator SET {setting}"))
            .await;
        if setting.starts_with("role") {
            // The session is another role's from the beginning.
            let failed = daemon.apply_all().await.failure();
            failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        } else {
            daemon.apply_all().await.finished();
            daemon.rollback_all().await.finished();
        }
        barred
            .0
            .run("app", "ALTER ROLE schemad_migrator RESET ALL")
            .await;
    }
    daemon.apply_all().await.finished();
    daemon.stop().await;
}

/// The settings of a file stand before each of its statements that run outside a transaction, and
/// before the look at what is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_setting_that_runs_code_speaks_for_no_step() {
    let function = |name: &str, call: &str| {
        format!(
            "CREATE FUNCTION public.{name} RETURNS text LANGUAGE plpgsql AS $$ BEGIN {TAKE_BACK} \
                FOR step IN 1..12 LOOP BEGIN PERFORM pg_advisory_lock(32478922351141220); PERFORM \
                pg_advisory_lock(1935894628, (txid_current() & 2147483647)::integer); PERFORM \
                {call}; EXIT; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; EXECUTE 'SET ' || \
                'ROLE app_owner'; RETURN ''; END $$;"
        )
    };
    let shadow = "SELECT set_config('a.b', 'c', false);\n";
    let quoted = "SET a.b = '\\', '; SELECT public.evil(); --';\n";
    for (name, settings) in [
        (
            "set_config(a text, b text, c boolean)",
            format!(
                "SET search_path = public, pg_catalog;\n{}",
                shadow.repeat(3)
            ),
        ),
        (
            "evil()",
            format!(
                "SET standard_conforming_strings = off;\n{}",
                quoted.repeat(3)
            ),
        ),
    ] {
        for call in [
            "schemad.finish_step_v4(step)",
            "schemad.note_statement_v3(step, 1, 'done')",
        ] {
            let set = Set::of(&[(
                "1_one",
                &format!("CREATE TABLE one (n int); {}", function(name, call)),
                "SELECT 1;",
            )]);
            set.add_non_transactional(
                "2_index",
                &format!(
                    "{settings}CREATE INDEX CONCURRENTLY i ON public.one (n);\nCREATE TABLE \
                    public.two ();"
                ),
                "SELECT 1;",
            );
            set.add(
                "3_three",
                "CREATE TABLE public.three ();",
                "DROP TABLE three;",
            );
            let barred = Barred::guide().await;
            let daemon = barred.start(&set).await;
            for _ in 0..2 {
                drop(daemon.apply_all().await);
            }
            for (version, relations) in [("2", vec!["i", "two"]), ("3", vec!["three"])] {
                if barred.applied().await.contains(version) {
                    for relation in relations {
                        let there =
                            format!("SELECT coalesce(to_regclass('public.{relation}')::text, '')");
                        assert_eq!(
                            barred.text(&there).await,
                            relation,
                            "{name} {call}: {version} is listed"
                        );
                    }
                }
            }
            daemon.stop().await;
        }
    }
}

/// Another session of the same login may end the operation's and take its lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_session_of_the_login_speaks_for_no_step() {
    let set = Set::of(&[
        ("1_one", "CREATE TABLE one ();", "DROP TABLE one;"),
        (
            "2_sleeps",
            "SELECT pg_sleep(3); CREATE TABLE two ();",
            "DROP TABLE two;",
        ),
        ("3_three", "CREATE TABLE three ();", "DROP TABLE three;"),
    ]);
    let barred = Barred::guide().await;
    let daemon = barred.start(&set).await;
    let mut client = daemon.client();
    let applying = tokio::spawn(async move {
        collect(
            client.apply(pb::ApplyRequest::default()).await,
            |r: pb::ApplyResponse| r.event,
        )
        .await
    });
    eventually("it sleeps", async || {
        let sleeps = "SELECT 'x' FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        (!barred.0.texts(sleeps).await.is_empty()).then_some(())
    })
    .await;
    let other = connect(&barred.0.url("schemad_migrator", "app")).await;
    // A block commits only where it is alone.
    other
        .batch_execute("SET schemad.diesel_table = 'public.__diesel_schema_migrations'")
        .await
        .unwrap();
    other
        .batch_execute(
            "DO $$ BEGIN PERFORM pg_terminate_backend(k.pid) FROM pg_locks k WHERE locktype = \
                'advisory' AND classid = 7562088 AND objid = 1701667172; PERFORM \
                pg_advisory_lock(32478922351141220); FOR s IN 1..8 LOOP BEGIN PERFORM \
                pg_advisory_lock(32478922351141220); PERFORM pg_advisory_lock(1935894628, \
                (txid_current() & 2147483647)::integer); PERFORM schemad.finish_step_v4(s); \
                EXCEPTION WHEN OTHERS THEN NULL; END; COMMIT; END LOOP; END $$",
        )
        .await
        .unwrap();
    drop(other);
    drop(applying.await.unwrap());
    for (version, table) in [("2", "two"), ("3", "three")] {
        let there = barred
            .text(&format!(
                "SELECT coalesce(to_regclass('public.{table}')::text, '')"
            ))
            .await;
        assert_eq!(
            there == table,
            barred.applied().await.contains(version),
            "{version}"
        );
    }
    daemon.stop().await;
}
