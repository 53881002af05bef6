//! What others put on the ledger's tables or in its place does not run as the daemon: it is
//! refused, named, and said beforehand.

use schemad::pb;
use tonic::Code;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Outcome, get, settings},
    eventually,
};

/// A role that is told apart by the database's name, and a trap of its own: functions that write
/// down as whom they ran.
const INTRUDER: &str = "CREATE ROLE {role}; CREATE SCHEMA own AUTHORIZATION {role}; GRANT CREATE \
    ON DATABASE {database} TO {role}; CREATE TABLE own.ran (who text); GRANT ALL ON own.ran TO \
    PUBLIC; GRANT USAGE ON SCHEMA own TO PUBLIC; SET ROLE {role}; CREATE FUNCTION own.trap() \
    RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO own.ran VALUES (current_user); RETURN \
    coalesce(NEW, OLD); END $$; CREATE FUNCTION own.one() RETURNS integer LANGUAGE plpgsql AS $$ \
    BEGIN INSERT INTO own.ran VALUES (current_user); RETURN 1; END $$; CREATE FUNCTION \
    own.same(text) RETURNS text IMMUTABLE LANGUAGE sql AS 'SELECT $1'; RESET ROLE";

async fn intruder(database: &TestDatabase) -> String {
    let role = format!("intruder_{}", database.name);
    database
        .execute(
            &INTRUDER
                .replace("{role}", &role)
                .replace("{database}", &database.name),
        )
        .await;
    role
}

async fn drop_role(database: &TestDatabase, role: &str) {
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}

/// Health says it, and then every operation and what only validates; returns the words.
async fn is_refused(daemon: &TestDaemon, reason: &str, named: &str) -> String {
    eventually(named, async || {
        let (status, body) = get(&daemon.admin, "/readyz").await;
        (status == 503 && body.contains(reason)).then_some(())
    })
    .await;
    let validated = daemon
        .apply(pb::ApplyRequest {
            validate_only: true,
            ..Default::default()
        })
        .await;
    let [applied, rolled_back] = [daemon.apply_all().await, daemon.rollback_all().await];
    let messages = [validated, applied, rolled_back].map(|outcome: Outcome| {
        let failed = outcome.failure();
        failed.assert(Code::FailedPrecondition, reason);
        assert!(
            failed.message.contains(named),
            "{named}: {}",
            failed.message
        );
        failed.message
    });
    messages[1].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_put_on_the_ledgers_tables_is_refused_and_named_with_its_cure() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let one = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(one).await.finished();
    let role = intruder(&database).await;
    let given = format!(
        "GRANT USAGE ON SCHEMA schemad TO {role}; GRANT ALL ON ALL TABLES IN SCHEMA schemad TO \
         {role}"
    );
    database.execute(&given).await;
    let as_intruder = |sql: &str| format!("SET ROLE {role}; {sql}");
    for (change, named, cure) in [
        (
            as_intruder(
                "CREATE TRIGGER \"Trap\" BEFORE UPDATE ON schemad.steps FOR EACH ROW EXECUTE \
                 FUNCTION own.trap()",
            ),
            "schemad.steps has the trigger \"Trap\"",
            "DROP TRIGGER \"Trap\" ON schemad.steps",
        ),
        (
            as_intruder(
                "CREATE TABLE own.t (op uuid REFERENCES schemad.operations ON DELETE CASCADE)",
            ),
            "own.t refers to schemad.operations",
            "ALTER TABLE own.t DROP CONSTRAINT t_op_fkey",
        ),
        (
            "CREATE RULE r AS ON UPDATE TO schemad.steps DO ALSO SELECT own.one()".into(),
            "schemad.steps has the rule r",
            "DROP RULE r ON schemad.steps",
        ),
        (
            "CREATE TABLE own.child () INHERITS (schemad.watchers)".into(),
            "own.child inherits from schemad.watchers",
            "ALTER TABLE own.child NO INHERIT schemad.watchers",
        ),
        (
            "CREATE STATISTICS own.st ON kind, state FROM schemad.operations".into(),
            "schemad.operations has the statistics own.st",
            "DROP STATISTICS own.st",
        ),
        (
            "CREATE INDEX i ON schemad.migrations (own.same(name))".into(),
            "the index schemad.i of schemad.migrations",
            "DROP INDEX schemad.i",
        ),
        (
            "CREATE INDEX i ON schemad.operations (id) WHERE own.same(kind) = 'x'".into(),
            "the index schemad.i of schemad.operations",
            "DROP INDEX schemad.i",
        ),
        (
            "ALTER TABLE schemad.events ADD CONSTRAINT c CHECK (own.same(kind) <> 'x')".into(),
            "schemad.events has the constraint c",
            "ALTER TABLE schemad.events DROP CONSTRAINT c",
        ),
        (
            "ALTER TABLE schemad.statements ADD x integer, ALTER x SET DEFAULT own.one()".into(),
            "schemad.statements has a default or a type at its column x",
            "ALTER TABLE schemad.statements ALTER COLUMN x DROP DEFAULT",
        ),
    ] {
        database.execute(&change).await;
        let message = is_refused(&daemon, "LEDGER_DAMAGED", named).await;
        assert!(message.contains(cure), "{cure}: {message}");
        // What it says to do works.
        database.execute(cure).await;
        daemon.until_ready().await;
    }
    assert_eq!(
        database.texts("SELECT DISTINCT who FROM own.ran").await,
        [""; 0]
    );
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// Gives the schema schemad and what is in it to a role, or one thing of it.
fn give(role: &str, what: &str) -> String {
    match what {
        "all" => format!(
            "ALTER SCHEMA schemad OWNER TO {role}; DO $$ DECLARE found record; BEGIN FOR found IN \
             SELECT format('ALTER TABLE schemad.%I OWNER TO {role}', relname) AS sql FROM pg_class \
             WHERE relnamespace = 'schemad'::regnamespace AND relkind = 'r' LOOP EXECUTE \
             found.sql; END LOOP; FOR found IN SELECT format('ALTER FUNCTION %s OWNER TO {role}', \
             oid::regprocedure) AS sql FROM pg_proc WHERE pronamespace = 'schemad'::regnamespace \
             LOOP EXECUTE found.sql; END LOOP; END $$"
        ),
        what => format!("ALTER {what} OWNER TO {role}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_somebody_else_is_not_used() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    let one = pb::ApplyRequest {
        target: Some(pb::apply_request::Target::Steps(1)),
        ..Default::default()
    };
    daemon.apply(one).await.finished();
    let role = intruder(&database).await;
    let guard = "FUNCTION schemad.begin_step_v2(bigint)";
    for (what, named) in [
        ("SCHEMA schemad", "the schema schemad"),
        ("TABLE schemad.refusals", "the table schemad.refusals"),
        (guard, "the function schemad.begin_step_v2(bigint)"),
    ] {
        database.execute(&give(&role, what)).await;
        if what == guard {
            let body = "CREATE OR REPLACE FUNCTION schemad.begin_step_v2(step_id bigint) RETURNS \
                void LANGUAGE plpgsql AS $$ BEGIN INSERT INTO own.ran VALUES (current_user); END \
                $$";
            let text = "SELECT pg_get_functiondef('schemad.begin_step_v2(bigint)'::regprocedure)";
            let before = database.text(text).await;
            let mine = format!(
                "GRANT ALL ON SCHEMA schemad TO {role}; SET ROLE {role}; {body}; RESET ROLE"
            );
            database.execute(&mine).await;
            is_refused(&daemon, "LEDGER_FOREIGN", named).await;
            database
                .execute(&format!(
                    "{before}; REVOKE ALL ON SCHEMA schemad FROM {role}"
                ))
                .await;
        }
        let message = is_refused(&daemon, "LEDGER_FOREIGN", named).await;
        assert!(message.contains(&role), "{message}");
        let cure = format!("ALTER {what} OWNER TO ");
        let start = message
            .find(&cure)
            .unwrap_or_else(|| panic!("{cure}: {message}"));
        database
            .execute(message[start..].split([';', ',']).next().unwrap())
            .await;
        daemon.until_ready().await;
    }
    // A guard of the same name for a type that might fit better.
    let overload = format!(
        "GRANT ALL ON SCHEMA schemad TO {role}; SET ROLE {role}; CREATE FUNCTION \
         schemad.begin_step_v2(step_id integer) RETURNS void LANGUAGE plpgsql AS $$ BEGIN INSERT \
         INTO own.ran VALUES (current_user); END $$; RESET ROLE"
    );
    database.execute(&overload).await;
    is_refused(
        &daemon,
        "LEDGER_FOREIGN",
        "the function schemad.begin_step_v2(integer)",
    )
    .await;
    daemon.stop().await;
    // All of it, and before the first start.
    database
        .execute("DROP FUNCTION schemad.begin_step_v2(integer)")
        .await;
    database.execute(&give(&role, "all")).await;
    let daemon = TestDaemon::launch(settings(&database.url), &set).await;
    is_refused(&daemon, "LEDGER_FOREIGN", "the schema schemad").await;
    assert_eq!(database.text("SELECT count(*) FROM own.ran").await, "0");
    daemon.stop().await;
    database.execute("DROP SCHEMA schemad CASCADE").await;
    drop_role(&database, &role).await;
}

/// One schema that somebody made for the daemon to step into.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_somebody_else_or_with_anything_in_it_gets_no_ledger() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = intruder(&database).await;
    for (made, named, cure) in [
        (
            format!("CREATE SCHEMA schemad AUTHORIZATION {role}"),
            "the schema schemad",
            "DROP SCHEMA \
            schemad",
        ),
        (
            "CREATE SCHEMA schemad; CREATE FUNCTION schemad.begin_step_v2(integer) RETURNS void \
             LANGUAGE sql AS ''"
                .into(),
            "begin_step_v2",
            "DROP SCHEMA schemad CASCADE",
        ),
        (
            "CREATE SCHEMA schemad; CREATE DOMAIN schemad.d AS text".into(),
            "type schemad.d",
            "DROP SCHEMA schemad CASCADE",
        ),
        (
            "CREATE SCHEMA schemad; CREATE OPERATOR schemad.=== (FUNCTION = texteq, LEFTARG = \
             text, RIGHTARG = text)"
                .into(),
            "===",
            "DROP SCHEMA schemad CASCADE",
        ),
    ] {
        database.execute(&made).await;
        let daemon = TestDaemon::launch(settings(&database.url), &set).await;
        is_refused(&daemon, "LEDGER_FOREIGN", named).await;
        database.execute(cure).await;
        daemon.until_ready().await;
        daemon.stop().await;
        database.execute("DROP SCHEMA schemad CASCADE").await;
    }
    // What a DBA prepares is nothing that anybody could run.
    let prepared = "CREATE SCHEMA schemad; ALTER DEFAULT PRIVILEGES IN SCHEMA schemad GRANT SELECT \
        ON TABLES TO pg_monitor";
    database.execute(prepared).await;
    TestDaemon::start(&database, &set).await.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_may_become_the_ledgers_owner_trusts_him_unless_migrations_run_as_him() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let [owner, other] = ["owner", "other"].map(|name| format!("{name}_{}", database.name));
    database
        .execute(&format!(
            "CREATE ROLE {owner} LOGIN PASSWORD 'pw'; CREATE ROLE {other} LOGIN NOINHERIT PASSWORD \
             'pw'; CREATE SCHEMA schemad AUTHORIZATION {owner}; GRANT ALL ON SCHEMA public TO \
             {owner}, {other}"
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&owner)), &set).await;
    daemon.until_ready().await;
    daemon.stop().await;
    database
        .execute(&format!(
            "GRANT USAGE ON SCHEMA schemad TO {other}; GRANT ALL ON ALL TABLES IN SCHEMA schemad, \
             public TO {other}; GRANT ALL ON ALL FUNCTIONS IN SCHEMA schemad TO {other}; GRANT ALL \
             ON ALL SEQUENCES IN SCHEMA schemad TO {other}"
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&other)), &set).await;
    let message = is_refused(&daemon, "LEDGER_FOREIGN", &owner).await;
    let cure = format!("GRANT {owner} TO {other}");
    assert!(message.contains(&cure), "{message}");
    database.execute(&cure).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    // The guards write Diesel's table with the owner's rights.
    let table = "public.__diesel_schema_migrations";
    database
        .execute(&format!(
            "ALTER TABLE {table} OWNER TO CURRENT_USER; GRANT ALL ON {table} TO {other}"
        ))
        .await;
    let grant = format!("GRANT SELECT, INSERT, DELETE ON {table} TO {owner}");
    is_refused(&daemon, "MISSING_RIGHT", &grant).await;
    database.execute(&grant).await;
    daemon.until_ready().await;
    daemon.rollback_all().await.finished();
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let as_owner = schemad::Settings {
        role: Some(owner.clone()),
        ..settings(&database.url_as(&other))
    };
    let daemon = TestDaemon::launch(as_owner, &set).await;
    let message = is_refused(&daemon, "LEDGER_FOREIGN", &owner).await;
    assert!(
        !message.contains(&cure) && message.contains("migrations run as"),
        "{message}"
    );
    daemon.stop().await;
    drop_role(&database, &other).await;
    drop_role(&database, &owner).await;
}

/// The guards would refuse each step; so it is said before anybody tries.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_diesel_table_that_the_guards_would_refuse_is_told_beforehand() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    let role = intruder(&database).await;
    database
        .execute(
            "CREATE TRIGGER trap BEFORE INSERT OR DELETE ON __diesel_schema_migrations FOR EACH \
             ROW EXECUTE FUNCTION own.trap()",
        )
        .await;
    is_refused(&daemon, "DIESEL_TABLE_UNSAFE", "it has the trigger trap").await;
    database
        .execute("DROP TRIGGER trap ON __diesel_schema_migrations")
        .await;
    daemon.until_ready().await;
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// Its owner's code can run while a table is only read, and a probe reads before anybody has asked
/// for an operation.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_of_somebody_else_is_not_even_read() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let role = intruder(&database).await;
    database
        .execute(&format!(
            "CREATE FUNCTION own.trap(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'it \
             ran'; END $$; ALTER TABLE schemad.migrations RENAME TO before; CREATE VIEW \
             schemad.migrations AS SELECT own.trap(version) AS version, name, position, up_script, \
             down_script, up_mode, down_mode, applied_at, step, adopted, mac FROM schemad.before; \
             ALTER VIEW schemad.migrations OWNER TO {role}; GRANT SELECT ON schemad.before TO \
             {role}"
        ))
        .await;
    let settings = settings(&database.url);
    // Also where what is read goes another way, as the same role.
    let two_ways = schemad::Settings {
        migration_database: Some(settings.database.clone()),
        ..settings.clone()
    };
    for settings in [settings, two_ways] {
        let daemon = TestDaemon::launch(settings, &set).await;
        eventually("status says whose it is", async || {
            let status = daemon
                .client()
                .get_status(pb::GetStatusRequest {
                    ..Default::default()
                })
                .await
                .unwrap_err();
            assert!(!status.message().contains("it ran"), "{status:?}");
            status
                .message()
                .contains(&format!("schemad.migrations belongs to {role}"))
                .then_some(())
        })
        .await;
        let history = daemon
            .operations()
            .list_operations(pb::ListOperationsRequest::default())
            .await
            .unwrap_err();
        assert!(
            history.message().contains("schemad.migrations belongs to"),
            "{history:?}"
        );
        is_refused(&daemon, "LEDGER_FOREIGN", "schemad.migrations").await;
        daemon.stop().await;
    }
    // His own no more, a view is none of the ledger's tables all the same.
    database
        .execute("ALTER VIEW schemad.migrations OWNER TO CURRENT_USER")
        .await;
    let daemon = TestDaemon::launch(crate::harness::daemon::settings(&database.url), &set).await;
    is_refused(
        &daemon,
        "LEDGER_DAMAGED",
        "schemad.migrations is not an ordinary table",
    )
    .await;
    let status = daemon
        .client()
        .get_status(pb::GetStatusRequest {
            ..Default::default()
        })
        .await
        .unwrap_err();
    assert!(
        status.message().contains("is not an ordinary table"),
        "{status:?}"
    );
    daemon.stop().await;
    drop_role(&database, &role).await;
}
