//! What others write into the ledger, or do to Diesel's table, decides neither what runs nor as
//! whom.

use schemad::pb;
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::get, eventually};

/// A table of one's own in the place of Diesel's, with a trigger that would run as the daemon.
const TRAP: &str = "CREATE ROLE {role}; CREATE SCHEMA rw AUTHORIZATION {role}; GRANT USAGE ON \
    SCHEMA schemad TO {role}; GRANT SELECT, UPDATE ON schemad.ledger TO {role}; SET ROLE {role}; \
    CREATE TABLE rw.d (version varchar(50) PRIMARY KEY, run_on timestamp NOT NULL DEFAULT \
    CURRENT_TIMESTAMP); CREATE TABLE rw.ran (who text); GRANT ALL ON ALL TABLES IN SCHEMA rw TO \
    PUBLIC; GRANT USAGE ON SCHEMA rw TO PUBLIC; INSERT INTO rw.d (version) VALUES ('0001'), \
    ('0002'); CREATE FUNCTION rw.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO \
    rw.ran VALUES (current_user); RETURN coalesce(NEW, OLD); END $$; CREATE TRIGGER trap BEFORE \
    INSERT OR DELETE ON rw.d FOR EACH ROW EXECUTE FUNCTION rw.trap(); UPDATE schemad.ledger SET \
    diesel_schema = 'rw', diesel_table = 'd'; RESET ROLE";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_place_of_diesels_table_that_somebody_wrote_into_the_ledger_is_refused() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let role = format!("intruder_{}", database.name);
    database.execute(&TRAP.replace("{role}", &role)).await;

    let failed = daemon.rollback_all().await.failure();
    failed.assert(Code::FailedPrecondition, "DIESEL_TABLE_UNSAFE");
    assert!(
        failed.message.contains("rw.d") && failed.message.contains(&role),
        "{}",
        failed.message
    );
    assert_eq!(database.text("SELECT count(*) FROM rw.ran").await, "0");
    eventually("health and status say it", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("DIESEL_TABLE_UNSAFE")).then_some(())
    })
    .await;
    // Put right, it goes on.
    database
        .execute(
            "UPDATE schemad.ledger SET diesel_schema = 'public', diesel_table = \
            '__diesel_schema_migrations'",
        )
        .await;
    daemon.until_ready().await;
    assert_eq!(daemon.rollback_all().await.done(), ["0002", "0001"]);
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diesel_table_that_would_run_code_of_others_is_not_written() {
    let table = "public.__diesel_schema_migrations";
    let function = "CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
        RETURN NULL; END $$";
    let ran = "CREATE FUNCTION public.ran() RETURNS timestamp LANGUAGE plpgsql AS $$ BEGIN RAISE \
        'it ran'; END $$";
    for (change, back, named) in [
        (
            format!(
                "{function}; CREATE TRIGGER trap BEFORE INSERT OR DELETE ON {table} FOR EACH ROW \
                 EXECUTE FUNCTION public.trap()"
            ),
            format!("DROP TRIGGER trap ON {table}"),
            "the trigger trap",
        ),
        (
            format!("CREATE RULE r AS ON INSERT TO {table} DO INSTEAD NOTHING"),
            format!("DROP RULE r ON {table}"),
            "the rule r",
        ),
        (
            format!("CREATE TABLE child () INHERITS ({table})"),
            "DROP TABLE child".into(),
            "inherits from it",
        ),
        (
            format!(
                "{ran}; ALTER TABLE {table} ADD more timestamp, ALTER more SET DEFAULT \
                 public.ran()"
            ),
            format!("ALTER TABLE {table} DROP more"),
            "its column more",
        ),
        (
            format!("ALTER TABLE {table} ADD CONSTRAINT c CHECK (version <> 'x')"),
            format!("ALTER TABLE {table} DROP CONSTRAINT c"),
            "the constraint c",
        ),
        (
            format!("CREATE STATISTICS st ON version, run_on FROM {table}"),
            "DROP STATISTICS st".into(),
            "the statistics st",
        ),
        (
            format!("CREATE INDEX i ON {table} (lower(version))"),
            "DROP INDEX public.i".into(),
            "has an expression",
        ),
    ] {
        let (database, set) = (TestDatabase::new().await, Set::tables(2));
        let daemon = TestDaemon::start(&database, &set).await;
        let one = pb::ApplyRequest {
            target: Some(pb::apply_request::Target::Steps(1)),
            ..Default::default()
        };
        daemon.apply(one).await.finished();
        // What run_on has for a default is not run; only schemad's own value is written.
        database
            .execute(&format!(
                "ALTER TABLE {table} ALTER run_on SET DEFAULT 'epoch'"
            ))
            .await;
        database.execute(&change).await;
        for outcome in [daemon.apply_all().await, daemon.rollback_all().await] {
            let failed = outcome.failure();
            failed.assert(Code::FailedPrecondition, "DIESEL_TABLE_UNSAFE");
            assert!(failed.message.contains(named), "{}", failed.message);
        }
        assert_eq!(database.diesel_versions().await, ["0001"]);
        assert_eq!(
            database.text("SELECT to_regclass('public.t2')").await,
            "NULL",
            "the step was undone"
        );
        database.execute(&back).await;
        daemon.apply_all().await.finished();
        let epoch = format!("SELECT count(*) FROM {table} WHERE run_on = 'epoch'");
        assert_eq!(database.text(&epoch).await, "0");
        database.assert_consistent().await;
    }
}

/// Its owner's code can run while the table is only read: the planner computes what its statistics
/// and indexes say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diesel_table_of_somebody_else_is_neither_read_nor_written() {
    let (new, used, set) = (
        TestDatabase::new().await,
        TestDatabase::new().await,
        Set::tables(1),
    );
    TestDaemon::start(&used, &set).await.stop().await;
    let role = format!("owner_{}", new.name);
    new.execute(&format!(
        "CREATE ROLE {role}; CREATE TABLE __diesel_schema_migrations (version varchar(50) PRIMARY \
         KEY, run_on timestamp NOT NULL)"
    ))
    .await;
    for database in [&new, &used] {
        database
            .execute(&format!(
                "ALTER TABLE __diesel_schema_migrations OWNER TO {role}"
            ))
            .await;
        let daemon =
            TestDaemon::launch(crate::harness::daemon::settings(&database.url), &set).await;
        eventually("it is not ready for this", async || {
            let (status, body) = get(&daemon.admin, "/readyz").await;
            (status == 503 && body.contains("DIESEL_TABLE_UNSAFE")).then_some(())
        })
        .await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "DIESEL_TABLE_UNSAFE");
        assert!(
            failed.message.contains("OWNER TO the daemon's role"),
            "{}",
            failed.message
        );
        database
            .execute("ALTER TABLE __diesel_schema_migrations OWNER TO CURRENT_USER")
            .await;
        daemon.until_ready().await;
        daemon.apply_all().await.finished();
        daemon.stop().await;
    }
    new.execute(&format!("DROP ROLE {role}")).await;
}

/// The text of a statement that failed stands in the ledger, and nothing of it runs when another
/// stands in the file.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_that_somebody_put_into_the_journal_does_not_run() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let one = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(one).await.finished();
    database
        .execute(
            "CREATE TABLE ran (who text); CREATE FUNCTION public.set_config(text, text, boolean) \
                RETURNS text LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES \
                (current_user); RETURN $1; END $$; INSERT INTO schemad.steps (operation, ordinal, \
                version, name, direction, script, mode, lock_timeout_ms, statement_timeout_ms, \
                state) SELECT operation, 9, '0002', '0002_t2', 'up', 'x', 'non_transactional', 0, \
                0, 'pending' FROM schemad.steps; INSERT INTO schemad.scripts VALUES ('forged', \
                'RESET ROLE; SET search_path = public, pg_catalog; SELECT set_config(''a.b'', \
                ''c'', false); CREATE INDEX CONCURRENTLY i ON ran (who)'); INSERT INTO \
                schemad.statements (step, ordinal, checksum, settles_by, state, indexes_before) \
                SELECT id, 1, 'forged', 'create_index', 'pending', '{}' FROM schemad.steps WHERE \
                version = '0002'",
        )
        .await;
    daemon.apply_all().await.finished();
    assert_eq!(database.text("SELECT count(*) FROM ran").await, "0");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_in_the_place_of_diesels_table_is_not_read() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute(
            "CREATE TABLE ran (n int); CREATE FUNCTION trap(v varchar) RETURNS varchar LANGUAGE \
             plpgsql AS $$ BEGIN RAISE 'it ran'; END $$; ALTER TABLE __diesel_schema_migrations \
             RENAME TO before; CREATE VIEW __diesel_schema_migrations AS SELECT trap(version) AS \
             version, run_on FROM before",
        )
        .await;
    daemon
        .apply_all()
        .await
        .failure()
        .assert(Code::FailedPrecondition, "DIESEL_TABLE_UNSAFE");
    eventually("status says it", async || {
        let status = daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .unwrap_err();
        status
            .message()
            .contains("is not an ordinary table")
            .then_some(())
    })
    .await;
}

/// As whom a step runs, and which table it writes, is for the daemon's session to say.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_step_whose_role_or_table_was_changed_in_the_ledger_is_refused_by_the_guards() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let session = database.connect().await;
    session
        .batch_execute(
            "SELECT pg_advisory_lock(32478922351141220); UPDATE schemad.operations SET state = \
             'running'; UPDATE schemad.steps SET state = 'pending', role = 'pg_monitor'",
        )
        .await
        .unwrap();
    let step: i64 = database
        .text("SELECT max(id) FROM schemad.steps")
        .await
        .parse()
        .unwrap();
    let code = async |before: &str, ending: &str| {
        let sql =
            format!("{before}; BEGIN; SELECT schemad.begin_step_v3({step}); RESET ROLE; {ending}");
        let error = session.batch_execute(&sql).await.unwrap_err();
        session.batch_execute("ROLLBACK").await.unwrap();
        error.code().unwrap().code().to_owned()
    };
    let finish = format!("SELECT schemad.finish_step_v4({step})");
    assert_eq!(code("SET schemad.role = ''", "").await, "SCH07");
    assert_eq!(
        code("SET schemad.role = 'pg_signal_backend'", "").await,
        "SCH07"
    );
    assert_eq!(
        code("SET schemad.role = 'pg_monitor'", &finish).await,
        "SCH07"
    );
    let elsewhere = "SET schemad.diesel_table = 'public.other'";
    assert_eq!(
        code(
            &format!("SET schemad.role = 'pg_monitor'; {elsewhere}"),
            &finish
        )
        .await,
        "SCH07"
    );

    // The right place, and somebody else's by now.
    let right = "SET schemad.role = 'pg_monitor'; SET schemad.diesel_table = \
        'public.__diesel_schema_migrations'";
    let role = format!("taker_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role}; ALTER TABLE __diesel_schema_migrations OWNER TO {role}"
        ))
        .await;
    assert_eq!(code(right, &finish).await, "SCH08");
    database
        .execute(&format!(
            "ALTER TABLE __diesel_schema_migrations OWNER TO CURRENT_USER; DROP ROLE {role}"
        ))
        .await;
    // A snapshot from before the look.
    let serializable = format!(
        "{right}; BEGIN ISOLATION LEVEL SERIALIZABLE; SELECT schemad.begin_step_v3({step}); RESET \
         ROLE; {finish}"
    );
    let error = session.batch_execute(&serializable).await.unwrap_err();
    assert!(
        error
            .as_db_error()
            .unwrap()
            .message()
            .contains("took its snapshot"),
        "{error:?}"
    );
}

/// A transaction of one snapshot sees the catalog as it was when it began, so Diesel's table is
/// locked before that.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_puts_a_trigger_on_diesels_table_while_a_step_with_one_snapshot_runs() {
    let gate = "SELECT pg_advisory_lock(77), pg_advisory_unlock(77);";
    for level in ["SERIALIZABLE", "REPEATABLE READ"] {
        let (database, set) = (TestDatabase::new().await, Set::tables(1));
        set.add(
            "0002_gate",
            &format!("SET TRANSACTION ISOLATION LEVEL {level};\nCREATE TABLE t2 (id int); {gate}"),
            "DROP TABLE t2;",
        );
        set.add_non_transactional(
            "0003_block",
            &format!("BEGIN ISOLATION LEVEL {level};\nCREATE TABLE t3 (id int); {gate}\nCOMMIT;"),
            "DROP TABLE t3;",
        );
        let daemon = TestDaemon::start(&database, &set).await;
        database
            .execute(
                "CREATE TABLE ran (who text); CREATE FUNCTION trap() RETURNS trigger LANGUAGE \
                    plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES (current_user); RETURN NEW; \
                    END $$",
            )
            .await;
        let closed = database.connect().await;
        closed
            .batch_execute("SELECT pg_advisory_lock(77)")
            .await
            .unwrap();
        let mut client = daemon.client();
        let applying = tokio::spawn(async move {
            crate::harness::daemon::collect(client.apply(pb::ApplyRequest::default()).await, |r| {
                r.event
            })
            .await
        });
        let trigger = "CREATE TRIGGER trap BEFORE INSERT ON __diesel_schema_migrations FOR EACH \
            ROW EXECUTE FUNCTION trap()";
        let attacker = database.connect().await;
        attacker
            .batch_execute("SET lock_timeout = '300ms'")
            .await
            .unwrap();
        for version in ["0002", "0003"] {
            database.until_waiting(77).await;
            let refused = attacker.batch_execute(trigger).await.unwrap_err();
            assert_eq!(refused.code().unwrap().code(), "55P03", "{version}");
            // Lets one step through, and stands in line behind it: in one message, so that the next
            // step cannot be faster.
            closed
                .batch_execute("SELECT pg_advisory_unlock(77); SELECT pg_advisory_lock(77)")
                .await
                .unwrap();
        }
        closed
            .batch_execute("SELECT pg_advisory_unlock(77)")
            .await
            .unwrap();
        applying.await.unwrap().finished();
        assert_eq!(database.text("SELECT count(*) FROM ran").await, "0");
        database.assert_consistent().await;
        daemon.stop().await;
    }
}

/// The owner of the schema may drop Diesel's table and put a view in its place, which the daemon
/// must not read either.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_view_that_the_schemas_owner_puts_in_the_place_of_diesels_table_does_not_run() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = format!("schema_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role}; ALTER SCHEMA public OWNER TO {role}; CREATE \
        TABLE ran (who text); GRANT ALL ON ran TO PUBLIC"
        ))
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute(&format!(
            "SET ROLE {role}; CREATE FUNCTION trap() RETURNS varchar LANGUAGE plpgsql AS $$ BEGIN \
                PERFORM set_config('default_transaction_read_only', 'off', false); BEGIN INSERT \
                INTO public.ran VALUES (current_user); EXCEPTION WHEN OTHERS THEN NULL; END; \
                RETURN '0001'; END $$; DROP TABLE __diesel_schema_migrations; CREATE VIEW \
                __diesel_schema_migrations AS SELECT trap()::varchar(50) AS version, \
                now()::timestamp AS run_on, 1 AS xmin, 2 AS ctid"
        ))
        .await;
    eventually("it is noticed", async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains("DIESEL_TABLE_UNSAFE")).then_some(())
    })
    .await;
    tokio::time::sleep(std::time::Duration::from_secs(3)).await;
    assert_eq!(database.text("SELECT count(*) FROM ran").await, "0");
    daemon.stop().await;
    database
        .execute(&format!(
            "DROP VIEW __diesel_schema_migrations; ALTER SCHEMA public OWNER TO \
        CURRENT_USER; DROP OWNED BY {role}; DROP ROLE {role}"
        ))
        .await;
}

/// Nor does a default of the database make the daemon's own look see what was there before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_that_comes_while_diesels_table_is_restored_does_not_run() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute(&format!(
            "ALTER DATABASE {} SET default_transaction_isolation = 'repeatable read'",
            database.name
        ))
        .await;
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute(
            "DELETE FROM __diesel_schema_migrations; CREATE TABLE ran (who text); CREATE FUNCTION \
                trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO public.ran VALUES \
                (current_user); RETURN NEW; END $$",
        )
        .await;
    let other = database.connect().await;
    other
        .batch_execute(
            "BEGIN; CREATE TRIGGER trap BEFORE INSERT ON __diesel_schema_migrations FOR EACH ROW \
             EXECUTE FUNCTION trap()",
        )
        .await
        .unwrap();
    let mut client = daemon.client();
    let resolving = tokio::spawn(async move {
        let restore = pb::ResolveRequest {
            outcome: pb::ResolveOutcome::RestoreDieselTable.into(),
            reason: "a test".into(),
            ..Default::default()
        };
        client.resolve(restore).await
    });
    eventually("it waits for the table", async || {
        let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND mode = \
            'RowExclusiveLock'";
        (database.text(waits).await == "1").then_some(())
    })
    .await;
    other.batch_execute("COMMIT").await.unwrap();
    assert!(resolving.await.unwrap().is_err());
    assert_eq!(database.text("SELECT count(*) FROM ran").await, "0");
    daemon.stop().await;
}
