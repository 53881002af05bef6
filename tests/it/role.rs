//! `--role`: the schema's owner runs the migrations, and needs no rights on the ledger.

use schemad::{Settings, pb};
use tonic::Code;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_as_the_owner_and_nothing_of_one_reaches_the_next() {
    let database = TestDatabase::new().await;
    let owner = format!("owner_{}", std::process::id());
    database
        .execute(&format!(
            "CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}"
        ))
        .await;
    let state = "INSERT INTO seen SELECT current_user || ' ' || current_setting('search_path') || \
                 ' ' || current_setting('lock_timeout') || ' ' || \
                 current_setting('application_name');";
    // In two words: a RESET ROLE that can be seen is refused before anything runs.
    let mess = "DO $$ BEGIN EXECUTE 'SET R' || 'OLE NONE'; END $$; SET search_path = nowhere; SET \
                lock_timeout = 1; SET application_name = 'x'; CREATE TEMP TABLE left_over (); \
                PREPARE p AS SELECT 1; DECLARE c CURSOR WITH HOLD FOR SELECT 1;";
    let set = Set::of(&[
        (
            "1_seen",
            &format!("CREATE TABLE seen (state text); {state}"),
            "DROP TABLE seen;",
        ),
        ("2_mess", &format!("{state} {mess}"), "SELECT 1;"),
        ("3_after", state, "SELECT 1;"),
    ]);
    set.add_non_transactional(
        "4_index",
        &format!("CREATE INDEX CONCURRENTLY i ON seen (state);\n{state}"),
        "DROP INDEX i;",
    );
    let settings = Settings {
        role: Some(owner.clone()),
        ..settings(&database.url)
    };
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    let expected = format!("{owner} \"$user\", public 5s schemad");
    assert_eq!(
        database.texts("SELECT state FROM seen").await,
        vec![expected; 4]
    );
    let owners = "SELECT string_agg(DISTINCT pg_get_userbyid(relowner)::text, ' ') FROM pg_class \
        WHERE relname IN ('seen', 'i')";
    assert_eq!(database.text(owners).await, owner);
    let rights = format!("SELECT has_schema_privilege('{owner}', 'schemad', 'USAGE')");
    assert_eq!(database.text(&rights).await, "f");
    database.assert_consistent().await;
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
    daemon.stop().await;
    database
        .execute(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_cannot_be_taken_is_named_before_anything_runs() {
    let database = TestDatabase::new().await;
    let settings = Settings {
        role: Some("nobody_here".into()),
        ..settings(&database.url)
    };
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    let failed = crate::harness::eventually("a refusal", async || {
        let failed = daemon.apply_all().await;
        failed
            .status
            .is_err()
            .then(|| failed.failure())
            .filter(|failed| failed.reason == "MISSING_RIGHT")
    })
    .await;
    assert!(failed.message.contains("nobody_here"), "{}", failed.message);
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname = 't1'")
            .await,
        "0"
    );
}

/// The session that runs a script is the daemon's own, so with RESET ROLE the script would have the
/// daemon's rights.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_script_that_changes_its_role_is_refused_before_anything_runs() {
    let database = TestDatabase::new().await;
    let owner = format!("owner_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}"
        ))
        .await;
    let takes_over = "UPDATE schemad.operations SET principal = 'somebody else'";
    for (n, escape) in [
        format!("RESET ROLE; {takes_over};"),
        format!("SET LOCAL ROLE NONE; {takes_over};"),
        "SET SESSION AUTHORIZATION DEFAULT;".to_owned(),
        "SELECT set_config('role', 'none', true);".to_owned(),
        format!("DO $$ BEGIN EXECUTE 'RESET ROLE'; {takes_over}; END $$;"),
    ]
    .iter()
    .enumerate()
    {
        let set = Set::of(&[
            ("1_plain", "CREATE TABLE plain ();", "DROP TABLE plain;"),
            (
                "2_escapes",
                &format!("CREATE TABLE other ();\n  {escape}"),
                "DROP TABLE other;",
            ),
        ]);
        set.add_non_transactional("3_index", &format!("SELECT 1;\n{escape}"), "SELECT 1;");
        let settings = Settings {
            role: Some(owner.clone()),
            ..settings(&database.url)
        };
        let daemon = TestDaemon::launch(settings, &set).await;
        daemon.until_ready().await;
        for validate_only in [true, false] {
            let refused = daemon
                .apply(pb::ApplyRequest {
                    validate_only,
                    ..Default::default()
                })
                .await
                .failure();
            refused.assert(Code::FailedPrecondition, "CHANGES_ROLE");
            let told = ["version", "file", "line", "column", "statement"]
                .map(|key| refused.metadata[key].as_str());
            assert_eq!(
                told,
                ["2", "2_escapes/up.sql", "2", "3", "2"],
                "{refused:?}"
            );
            assert!(
                refused.message.contains("SCHEMAD_ROLE"),
                "{}",
                refused.message
            );
        }
        assert_eq!(
            database
                .text("SELECT count(*) FROM pg_class WHERE relname IN ('plain', 'other')")
                .await,
            "0"
        );
        daemon.stop().await;
        if n == 0 {
            // What the refusal is for: without a role of its own, the same script may do so.
            let daemon = TestDaemon::start(
                &database,
                &Set::of(&[("1_free", "RESET ROLE;", "SELECT 1;")]),
            )
            .await;
            daemon.apply_all().await.finished();
            daemon.rollback_all().await.finished();
            daemon.stop().await;
        }
    }
    database
        .execute(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}"))
        .await;
}

/// docs/security.md says so, and the refusal relies on it: RESET ALL needs none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_all_keeps_the_role_and_discard_all_takes_it_back() {
    let database = TestDatabase::new().await;
    let owner = format!("owner_{}", database.name);
    let client = database.connect().await;
    client
        .batch_execute(&format!("CREATE ROLE {owner}; SET ROLE {owner}"))
        .await
        .unwrap();
    let role = async || {
        client
            .query_one("SELECT current_user::text", &[])
            .await
            .unwrap()
            .get::<_, String>(0)
    };
    client.batch_execute("RESET ALL").await.unwrap();
    assert_eq!(role().await, owner);
    client.batch_execute("DISCARD ALL").await.unwrap();
    assert_ne!(role().await, owner);
    database.execute(&format!("DROP ROLE {owner}")).await;
}
