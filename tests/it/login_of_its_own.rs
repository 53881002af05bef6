//! A login of its own for migrations, as docs/least-privilege.md gives it: everything works, and no script can write the ledger.

use schemad::{
    Settings,
    catalog::Catalog,
    doctor::{self, Plan, Status},
    grpc::pb,
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

    async fn doctor(&self, set: &Set) -> doctor::Report {
        let plan = Plan {
            database: self.0.url("schemad_daemon", "app").parse().unwrap(),
            migration_database: Some(self.0.url("schemad_migrator", "app").parse().unwrap()),
            role: Some("app_owner".into()),
            signing: None,
            leases: None,
        };
        doctor::examine(&plan, &Catalog::load(&set.source()).unwrap()).await
    }

    async fn text(&self, query: &str) -> String {
        self.0.texts(query).await.join(" ")
    }

    async fn applied(&self) -> String {
        let ledger = self.text("SELECT version::text FROM schemad.migrations ORDER BY 1").await;
        let diesel = self.text("SELECT version::text FROM __diesel_schema_migrations ORDER BY 1").await;
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
        "CREATE TABLE t4 (id int);\nBEGIN;\nINSERT INTO t4 VALUES (1);\nCOMMIT;\nREINDEX TABLE CONCURRENTLY t4;",
        "DROP TABLE t4;",
    );
    let before = barred.doctor(&set).await;
    assert!(before.checks.iter().all(|check| check.status != Status::Fail), "{before:#?}");
    let daemon = barred.start(&set).await;
    daemon.apply_all().await.finished();
    assert_eq!(barred.applied().await, "0001 0002 0003 0004");
    let owners = "SELECT DISTINCT relowner::regrole::text FROM pg_class WHERE relname IN ('t1', 't2', 't4', 'i')";
    assert_eq!(barred.text(owners).await, "app_owner");
    let after = barred.doctor(&set).await;
    let login = after.checks.iter().find(|check| check.check == "migrating login").unwrap();
    let found =
        "schemad_daemon keeps the ledger, and migrations run in sessions of schemad_migrator, which cannot write it";
    assert_eq!((login.status, login.found.as_str()), (Status::Ok, found));
    assert!(after.checks.iter().all(|check| check.status != Status::Fail), "{after:#?}");

    assert_eq!(daemon.rollback_all().await.done(), ["0004", "0003", "0002", "0001"]);
    assert_eq!(barred.applied().await, "");
    daemon.apply_all().await.finished();
    // Diesel's table is restored by the ledger's login, with its rights.
    barred.0.run("app", "DELETE FROM __diesel_schema_migrations").await;
    daemon.apply_all().await.failure().assert(Code::FailedPrecondition, "DIESEL_TABLE_LOST");
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
        ("UPDATE schemad.operations SET principal = 'somebody else'", "permission denied for table operations"),
        ("INSERT INTO schemad.scripts VALUES ('a', 'b')", "permission denied for table scripts"),
        ("DELETE FROM schemad.migrations", "permission denied for table migrations"),
        ("PERFORM sql FROM schemad.scripts", "permission denied for table scripts"),
        ("DELETE FROM public.__diesel_schema_migrations", "permission denied for schema public"),
        ("EXECUTE 'SET RO' || 'LE schemad_daemon'", "permission denied to set role"),
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
            ("2_escapes", &format!("DO $$ BEGIN {TAKE_BACK} {attempt}; END $$;"), "SELECT 1;"),
        ]);
        let barred = Barred::guide().await;
        let daemon = barred.start(&set).await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        let said = failed.metadata.get("database_message").cloned().unwrap_or_default();
        // PostgreSQL before 16 says "permission denied to set role" as "must be member of role".
        let said_before = said.replace("must be member of role", "permission denied to set role");
        assert!(said_before.contains(refused), "{attempt}: {failed:?}");
        assert_eq!(barred.applied().await, "1");
        daemon.stop().await;
    }
}

/// It may call the guards, which take nothing but the step whose turn it is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_calls_the_guards_itself_gains_nothing() {
    let every_id = |call: &str| {
        format!(
            "DO $$ BEGIN {TAKE_BACK} FOR step IN 1..20 LOOP BEGIN PERFORM {call}; EXCEPTION WHEN OTHERS THEN NULL; END; END LOOP; END $$;"
        )
    };
    for (calls, reason) in [
        // Its own step: the daemon's call finds it done, and all is undone.
        (every_id("schemad.finish_step_v4(step)"), Some("MIGRATION_FAILED")),
        (every_id("schemad.begin_step_v3(step)"), None),
        (every_id("schemad.begin_step_v3(step), schemad.finish_step_v4(step)"), Some("MIGRATION_FAILED")),
        (every_id("schemad.note_statement_v3(step, 1, 'done')"), Some("MIGRATION_FAILED")),
        // Of a step that cannot be finished it says so, and lets go of the lock as finish_step_v4 does.
        (every_id("schemad.can_be_finished_v1(step)"), Some("MIGRATION_FAILED")),
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
            None => assert_eq!(barred.applied().await, "1 2 3", "{calls}: {:?}", outcome.status),
        }
        let three = barred.text("SELECT coalesce(to_regclass('public.three')::text, 'none')").await;
        assert_eq!(three == "three", reason.is_none(), "what is listed has run: {calls}");
        daemon.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_session_of_either_login_is_found_out() {
    let barred = Barred::guide().await;
    let set = Set::of(&[
        ("1_gate", "CREATE TABLE one (n int); SELECT pg_advisory_lock(77), pg_advisory_unlock(77);", "DROP TABLE one;"),
        ("2_two", "CREATE TABLE two (n int);", "DROP TABLE two;"),
    ]);
    for (user, reason) in [("schemad_migrator", Some("INTERRUPTED")), ("schemad_daemon", None)] {
        let daemon = barred.start(&set).await;
        let gate = connect(&barred.0.url("postgres", "app")).await;
        gate.batch_execute("SELECT pg_advisory_lock(77)").await.unwrap();
        let mut client = daemon.client();
        let applying = tokio::spawn(async move {
            collect(client.apply(pb::ApplyRequest::default()).await, |r: pb::ApplyResponse| r.event).await
        });
        eventually("the script waits", async || {
            let waits = "SELECT 'x' FROM pg_locks WHERE locktype = 'advisory' AND NOT granted AND objid = 77";
            (!barred.0.texts(waits).await.is_empty()).then_some(())
        })
        .await;
        let kill = format!(
            "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE usename = '{user}' AND application_name = 'schemad'"
        );
        assert!(!barred.0.texts(&kill).await.is_empty());
        gate.batch_execute("SELECT pg_advisory_unlock(77)").await.unwrap();
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
        let states = "SELECT DISTINCT state FROM schemad.operations WHERE state IN ('pending', 'running')";
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
        collect(client.apply(pb::ApplyRequest::default()).await, |r: pb::ApplyResponse| r.event).await
    });
    let id = eventually("it is seen", async || two.status().await.running_operation.map(|running| running.id)).await;
    let busy = two.apply_all().await.failure();
    busy.assert(Code::Aborted, "BUSY");
    assert_eq!(busy.metadata["running_operation"], id);
    two.operations().cancel_operation(pb::CancelOperationRequest { id }).await.unwrap();
    applying.await.unwrap().failure().assert(Code::Cancelled, "CANCELLED");
    one.stop().await;
    two.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_login_lacks_is_asked_for_and_too_much_is_told() {
    let (barred, set) = (Barred::guide().await, set());
    barred.start(&set).await.stop().await;
    for (take, give) in [
        ("REVOKE USAGE ON SCHEMA schemad FROM schemad_migrator", "GRANT USAGE ON SCHEMA schemad TO schemad_migrator"),
        (
            "REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad FROM schemad_migrator",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad TO schemad_migrator",
        ),
        ("REVOKE app_owner FROM schemad_migrator", "GRANT app_owner TO schemad_migrator"),
        ("REVOKE CONNECT ON DATABASE app FROM schemad_migrator", "GRANT CONNECT ON DATABASE app TO schemad_migrator"),
        (
            "REVOKE SELECT, INSERT, DELETE ON public.__diesel_schema_migrations FROM schemad_daemon",
            "GRANT SELECT, INSERT, DELETE ON public.__diesel_schema_migrations TO schemad_daemon",
        ),
    ] {
        barred.0.run("app", take).await;
        let report = barred.doctor(&set).await;
        let todo: Vec<&String> =
            report.checks.iter().filter(|c| c.status == Status::Fail).flat_map(|c| &c.todo).collect();
        assert!(todo.iter().any(|todo| *todo == give), "{give}: {report:#?}");
        let daemon = barred.launch(&set).await;
        eventually(give, async || {
            let failed = daemon.apply_all().await.failure();
            (failed.reason == "MISSING_RIGHT").then(|| assert_eq!(failed.metadata["grant"], give, "{failed:?}"))
        })
        .await;
        daemon.stop().await;
        barred.0.run("app", give).await;
    }
    for (give, take) in [
        ("GRANT UPDATE ON schemad.scripts TO app_owner", "REVOKE UPDATE ON schemad.scripts FROM app_owner"),
        ("GRANT INSERT ON schemad.events TO schemad_migrator", "REVOKE INSERT ON schemad.events FROM schemad_migrator"),
    ] {
        barred.0.run("app", give).await;
        let report = barred.doctor(&set).await;
        let login = report.checks.iter().find(|check| check.check == "migrating login").unwrap();
        assert_eq!((login.status, &login.todo), (Status::Warn, &vec![take.to_owned()]));
        barred.0.run("app", take).await;
    }
    let daemon = barred.start(&set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
}

/// LOCK TABLE is the migrating login's own statement.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_of_one_snapshot_asks_for_the_right_to_lock_diesels_table() {
    let barred = Barred::guide().await;
    let set = Set::of(&[(
        "1_snapshot",
        "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; CREATE TABLE one ();",
        "DROP TABLE one;",
    )]);
    let daemon = barred.start(&set).await;
    for grant in [
        "GRANT USAGE ON SCHEMA public TO schemad_migrator",
        "GRANT DELETE ON TABLE __diesel_schema_migrations TO schemad_migrator",
    ] {
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        assert!(failed.message.contains(grant), "{failed:?}");
        barred.0.run("app", grant).await;
    }
    daemon.apply_all().await.finished();
    assert_eq!(barred.applied().await, "1");
    daemon.stop().await;
}
