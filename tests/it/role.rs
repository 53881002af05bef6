//! `--role`: the schema's owner runs the migrations, and needs no rights on the ledger.

use schemad::Settings;

use crate::harness::{Set, TestDaemon, TestDatabase, daemon::settings};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_run_as_the_owner_and_nothing_of_one_reaches_the_next() {
    let database = TestDatabase::new().await;
    let owner = format!("owner_{}", std::process::id());
    database.execute(&format!("CREATE ROLE {owner}; GRANT CREATE, USAGE ON SCHEMA public TO {owner}")).await;
    let state = "INSERT INTO seen SELECT current_user || ' ' || current_setting('search_path') || ' ' || \
                 current_setting('lock_timeout') || ' ' || current_setting('application_name');";
    let mess = "SET ROLE NONE; SET search_path = nowhere; SET lock_timeout = 1; SET application_name = 'x'; \
                CREATE TEMP TABLE left_over (); PREPARE p AS SELECT 1; DECLARE c CURSOR WITH HOLD FOR SELECT 1;";
    let set = Set::of(&[
        ("1_seen", &format!("CREATE TABLE seen (state text); {state}"), "DROP TABLE seen;"),
        ("2_mess", &format!("{state} {mess}"), "SELECT 1;"),
        ("3_after", state, "SELECT 1;"),
    ]);
    set.add_non_transactional(
        "4_index",
        &format!("CREATE INDEX CONCURRENTLY i ON seen (state);\n{state}"),
        "DROP INDEX i;",
    );
    let settings = Settings { role: Some(owner.clone()), ..settings(&database.url) };
    let daemon = TestDaemon::launch(settings, &set).await;
    daemon.until_ready().await;
    daemon.apply_all().await.finished();
    let expected = format!("{owner} \"$user\", public 5s schemad");
    assert_eq!(database.texts("SELECT state FROM seen").await, vec![expected; 4]);
    let owners =
        "SELECT string_agg(DISTINCT pg_get_userbyid(relowner)::text, ' ') FROM pg_class WHERE relname IN ('seen', 'i')";
    assert_eq!(database.text(owners).await, owner);
    let rights = format!("SELECT has_schema_privilege('{owner}', 'schemad', 'USAGE')");
    assert_eq!(database.text(&rights).await, "f");
    database.assert_consistent().await;
    daemon.rollback_all().await.finished();
    database.assert_consistent().await;
    daemon.stop().await;
    database.execute(&format!("DROP OWNED BY {owner}; DROP ROLE {owner}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_cannot_be_taken_is_named_before_anything_runs() {
    let database = TestDatabase::new().await;
    let settings = Settings { role: Some("nobody_here".into()), ..settings(&database.url) };
    let daemon = TestDaemon::launch(settings, &Set::tables(1)).await;
    let failed = crate::harness::eventually("a refusal", async || {
        let failed = daemon.apply_all().await;
        failed.status.is_err().then(|| failed.failure()).filter(|failed| failed.reason == "MISSING_RIGHT")
    })
    .await;
    assert!(failed.message.contains("nobody_here"), "{}", failed.message);
    assert_eq!(database.text("SELECT count(*) FROM pg_class WHERE relname = 't1'").await, "0");
}
