use schemad::pb;
use tonic::Code;
use tonic_health::pb::health_check_response::ServingStatus;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    daemon::{Failed, Outcome, settings},
};

/// A role that owns nothing.
async fn role(database: &TestDatabase) -> String {
    let role = format!("role_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw'; REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        ))
        .await;
    role
}

async fn drop_role(database: &TestDatabase, role: &str) {
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}

/// Gives the role what each refusal of `operation` names, until there is none; returns the grants,
/// refusal by refusal.
async fn grant_what_is_missing(
    database: &TestDatabase,
    role: &str,
    operation: impl AsyncFn() -> Result<(), Failed>,
) -> Vec<Vec<String>> {
    let mut grants: Vec<Vec<String>> = Vec::new();
    while let Err(failed) = operation().await {
        failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        let keys = ["grant", "grant_2", "grant_3", "grant_4"];
        let named: Vec<&String> = keys
            .iter()
            .filter_map(|key| failed.metadata.get(*key))
            .collect();
        let mut rights = Vec::new();
        for grant in named {
            assert!(
                failed.message.contains(&format!("{grant};")),
                "{}",
                failed.message
            );
            database.execute(grant).await;
            rights.push(
                grant
                    .strip_suffix(&format!(" TO {role}"))
                    .unwrap()
                    .to_owned(),
            );
        }
        assert!(!grants.contains(&rights), "{rights:?} did not help");
        grants.push(rights);
    }
    grants
}

/// Waits until the database was asked, and said no.
async fn until_refused(daemon: &TestDaemon) {
    crate::harness::eventually("the database was asked", async || {
        let refused = daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .err()?;
        (!refused.message().contains("not answered yet")).then_some(())
    })
    .await;
}

fn result(outcome: &Outcome) -> Result<(), Failed> {
    outcome.status.as_ref().copied().map_err(Failed::of)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_missing_rights_are_named_by_their_grants_and_the_grants_are_enough() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let role = role(&database).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon
        .until("schemad.database", ServingStatus::Serving)
        .await;
    let grants =
        grant_what_is_missing(&database, &role, async || result(&daemon.apply_all().await)).await;
    let create = format!("GRANT CREATE ON DATABASE {}", database.name);
    assert_eq!(
        grants,
        [[create, "GRANT USAGE, CREATE ON SCHEMA public".into()]]
    );
    database.assert_consistent().await;
    daemon.rollback_all().await.finished();
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// The ledger belongs to another role, and Diesel's table lies in a schema of its own.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_rights_missing_on_a_ledger_that_exists_are_named_at_once() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    database
        .execute(&format!(
            "CREATE SCHEMA \"Own\"; ALTER DATABASE {} SET search_path = \"Own\"",
            database.name
        ))
        .await;
    let owners = TestDaemon::start(&database, &set).await;
    owners.apply_all().await.finished();
    owners.stop().await;
    let role = role(&database).await;
    let give = format!(
        "GRANT USAGE ON SCHEMA \"Own\" TO {role}; ALTER TABLE t1 OWNER TO {role}; ALTER TABLE t2 \
         OWNER TO {role}"
    );
    database.execute(&give).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    until_refused(&daemon).await;
    let grants = grant_what_is_missing(&database, &role, async || {
        result(&daemon.rollback_all().await)
    })
    .await;
    assert_eq!(
        grants,
        [[
            "GRANT USAGE ON SCHEMA schemad",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA schemad",
            "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA schemad",
            "GRANT SELECT, INSERT, DELETE ON \"Own\".__diesel_schema_migrations",
        ]]
    );
    daemon.status().await;
    database.assert_consistent().await;
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// Who only reads needs less; each right is named.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_missing_for_reading_are_named_too() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let owners = TestDaemon::start(&database, &set).await;
    owners.apply_all().await.finished();
    owners.stop().await;
    let role = role(&database).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    until_refused(&daemon).await;
    let read = async || {
        daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .map(drop)
            .map_err(|s| Failed::of(&s))
    };
    let grants = grant_what_is_missing(&database, &role, read).await;
    assert_eq!(
        grants.concat(),
        [
            "GRANT USAGE ON SCHEMA schemad",
            "GRANT SELECT ON ALL TABLES IN SCHEMA schemad",
            "GRANT SELECT ON public.__diesel_schema_migrations"
        ]
    );
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// current_schema() passes over what the role may not use, as if it were not there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_may_not_be_used_is_named_with_its_grant() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    let create = format!("GRANT CREATE ON DATABASE {} TO {role}", database.name);
    database
        .execute(&format!(
            "REVOKE ALL ON SCHEMA public FROM PUBLIC; {create}"
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon
        .until(
            "schemad.database",
            tonic_health::pb::health_check_response::ServingStatus::Serving,
        )
        .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
    assert_eq!(
        failed.metadata["grant"],
        format!("GRANT USAGE, CREATE ON SCHEMA public TO {role}")
    );
    database.execute(&failed.metadata["grant"]).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_may_not_connect_is_told_the_grant() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    database
        .execute(&format!(
            "REVOKE CONNECT ON DATABASE {} FROM PUBLIC",
            database.name
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    until_refused(&daemon).await;
    let grant = format!("GRANT CONNECT ON DATABASE {} TO {role}", database.name);
    let status = daemon
        .client()
        .get_status(pb::GetStatusRequest {
            ..Default::default()
        })
        .await
        .unwrap_err();
    for failed in [Failed::of(&status), daemon.apply_all().await.failure()] {
        failed.assert(Code::FailedPrecondition, "MISSING_RIGHT");
        assert_eq!(failed.metadata["grant"], grant);
    }
    database.execute(&grant).await;
    crate::harness::eventually("it connects", async || {
        daemon
            .client()
            .get_status(pb::GetStatusRequest {
                ..Default::default()
            })
            .await
            .ok()
            .map(drop)
    })
    .await;
    daemon.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_that_a_dba_made_is_used() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    database
        .execute(&format!(
            "CREATE SCHEMA schemad AUTHORIZATION {role}; GRANT CREATE ON SCHEMA public TO {role}"
        ))
        .await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_that_name_that_is_not_ours_is_left_alone() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    database
        .execute("CREATE SCHEMA schemad; CREATE TABLE schemad.customers (id int)")
        .await;
    let daemon = TestDaemon::launch(settings(&database.url), &set).await;
    daemon
        .until("schemad.database", ServingStatus::Serving)
        .await;
    let failed = daemon.apply_all().await.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_FOREIGN");
    assert!(failed.message.contains("customers"), "{}", failed.message);
    assert_eq!(
        daemon.check("schemad.v1.MigrationService").await,
        Ok(ServingStatus::NotServing)
    );
    assert_eq!(daemon.status().await.state(), pb::SchemaState::Empty);
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relnamespace = 'schemad'::regnamespace")
            .await,
        "1"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ledger_that_needs_a_newer_daemon_is_refused_and_still_reported() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    database
        .execute("UPDATE schemad.ledger SET version = 99, compatible_with = 98")
        .await;
    let failed = daemon.rollback_all().await.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_TOO_NEW");
    assert_eq!(failed.metadata["compatible_with"], "98");
    let status = crate::harness::eventually("the problem is told", async || {
        let status = daemon.status().await;
        (status.problems.first()?.reason == "LEDGER_TOO_NEW").then_some(status)
    })
    .await;
    assert_eq!(status.ledger.unwrap().version, 99);
    assert_eq!(database.diesel_versions().await, ["0001"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reading_writes_nothing_and_needs_no_ledger() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let role = role(&database).await;
    let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
    daemon
        .until("schemad.database", ServingStatus::Serving)
        .await;
    let status = daemon.status().await;
    assert_eq!(
        (status.state(), status.ledger.unwrap().installed),
        (pb::SchemaState::Empty, false)
    );
    let list = daemon
        .client()
        .list_migrations(pb::ListMigrationsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(list.migrations.len(), 1);
    let mine = "SELECT count(*) FROM pg_class WHERE relname LIKE '%diesel%' OR relnamespace = \
        to_regnamespace('schemad')";
    assert_eq!(database.text(mine).await, "0");
    daemon.stop().await;
    drop_role(&database, &role).await;
}

/// A refusal by the first guard itself, which is none by the script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guard_that_is_missing_fails_the_operation_before_its_script() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let daemon = TestDaemon::start(&database, &set).await;
    database
        .execute("ALTER FUNCTION schemad.begin_step_v3 RENAME TO elsewhere")
        .await;
    let outcome = daemon.apply_all().await;
    let failed = outcome.failure();
    failed.assert(Code::FailedPrecondition, "LEDGER_DAMAGED");
    assert!(
        failed.message.contains("begin_step_v3"),
        "{}",
        failed.message
    );
    assert!(
        !failed.metadata.contains_key("line"),
        "{:?}",
        failed.metadata
    );
    assert_eq!(database.diesel_versions().await, [""; 0]);
    database
        .execute("ALTER FUNCTION schemad.elsewhere RENAME TO begin_step_v3")
        .await;
    daemon.apply_all().await.finished();
    database.assert_consistent().await;
}

/// What a migration itself may not do: the failure says in the server's case which right it takes,
/// and that is enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_migration_without_a_right_is_told_what_helps() {
    let database = TestDatabase::new().await;
    let role = role(&database).await;
    let other = format!("other_{}", database.name);
    database
        .execute(&format!(
            "CREATE SCHEMA s; CREATE TABLE public.t (id int PRIMARY KEY); CREATE SEQUENCE \
             public.q; CREATE ROLE {other}; CREATE SCHEMA schemad AUTHORIZATION {role}; CREATE \
             SCHEMA own AUTHORIZATION {role}; ALTER ROLE {role} IN DATABASE {} SET search_path = \
             own, public",
            database.name
        ))
        .await;
    let scripts = [
        (
            "CREATE TABLE s.a (id int);".to_owned(),
            format!("GRANT USAGE, CREATE ON SCHEMA s TO {role}"),
        ),
        (
            "INSERT INTO t VALUES (1);".into(),
            "GRANT SELECT, INSERT, UPDATE, DELETE ON TABLE t TO".into(),
        ),
        (
            "SELECT nextval('q');".into(),
            "GRANT USAGE, SELECT, UPDATE ON SEQUENCE q TO".into(),
        ),
        (
            "ALTER TABLE t ADD COLUMN n int;".into(),
            format!("ALTER TABLE t OWNER TO {role}"),
        ),
        (
            "CREATE SCHEMA mine;".into(),
            format!("GRANT CREATE ON DATABASE {} TO", database.name),
        ),
        (
            "CREATE ROLE nobody_at_all;".into(),
            format!("ALTER ROLE {role} CREATEROLE"),
        ),
        ("CREATE EXTENSION file_fdw;".into(), "A superuser".into()),
        (format!("SET ROLE {other};"), format!("GRANT {other} TO")),
    ];
    let has_file_fdw = "SELECT count(*) FROM pg_available_extensions WHERE name = 'file_fdw'";
    for (script, expected) in scripts {
        if script.contains("file_fdw") && database.text(has_file_fdw).await == "0" {
            continue; // a server without the additional modules
        }
        let set = Set::of(&[("1_a", &script, "")]);
        let daemon = TestDaemon::launch(settings(&database.url_as(&role)), &set).await;
        daemon.until_ready().await;
        let failed = daemon.apply_all().await.failure();
        failed.assert(Code::FailedPrecondition, "MIGRATION_FAILED");
        assert_eq!(failed.metadata["sqlstate"], "42501", "{script}: {failed:?}");
        let meaning = &failed.metadata["meaning"];
        assert!(
            meaning.contains(&expected),
            "{script}: {meaning}: {}",
            failed.message
        );
        assert!(failed.message.contains(&expected), "{}", failed.message);
        daemon.stop().await;
    }
    database.execute(&format!("DROP ROLE {other}")).await;
    drop_role(&database, &role).await;
}
