//! `schemad doctor`: what it finds, what it says to do, how it ends, and that it leaves nothing
//! behind.

use serde_json::Value;

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    process::{from_folder, output, stderr, stdout},
};

/// Its exit code and its answer.
async fn examine(url: &str, set: &Set, args: &[&str]) -> (i32, Value) {
    let mut command = from_folder(set, &[&["doctor", "--output", "json"], args].concat());
    command.env("DATABASE_URL", url);
    let answer = output(command).await;
    let json =
        serde_json::from_str(&stdout(&answer)).unwrap_or_else(|_| panic!("{}", stderr(&answer)));
    (answer.status.code().unwrap(), json)
}

#[track_caller]
fn check<'a>(answer: &'a Value, name: &str) -> (&'a str, &'a str, Vec<&'a str>) {
    let checks = answer["checks"].as_array().unwrap();
    let check = checks
        .iter()
        .find(|check| check["check"] == name)
        .unwrap_or_else(|| panic!("no {name}: {answer}"));
    let todo = check["todo"]
        .as_array()
        .unwrap()
        .iter()
        .map(|todo| todo.as_str().unwrap())
        .collect();
    (
        check["status"].as_str().unwrap(),
        check["found"].as_str().unwrap(),
        todo,
    )
}

async fn role(database: &TestDatabase, attributes: &str) -> String {
    let role = format!("doctor_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {role} LOGIN PASSWORD 'pw' {attributes}; REVOKE CREATE ON SCHEMA public \
             FROM PUBLIC"
        ))
        .await;
    role
}

async fn drop_role(database: &TestDatabase, role: &str) {
    database
        .execute(&format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_will_do_is_told_with_what_could_be_better_and_nothing_is_written() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let (code, fresh) = examine(&database.url, &set, &[]).await;
    assert_eq!(
        (code, fresh["status"].as_str()),
        (0, Some("WARN")),
        "{fresh}"
    );
    assert!(check(&fresh, "role").1.contains("SUPERUSER"));
    assert_eq!(
        check(&fresh, "ledger"),
        ("OK", "none yet; the daemon makes it when it starts", vec![])
    );
    let ours = "SELECT count(*) FROM pg_class WHERE relname LIKE '%diesel%' OR relnamespace = \
        to_regnamespace('schemad')";
    assert_eq!(database.text(ours).await, "0");

    let daemon = TestDaemon::start(&database, &set).await;
    daemon.apply_all().await.finished();
    daemon.stop().await;
    let state = "SELECT md5(string_agg(x::text, '' ORDER BY x::text)) FROM (SELECT to_jsonb(o) \
        FROM schemad.operations o UNION ALL SELECT to_jsonb(m) FROM schemad.migrations m UNION ALL \
        SELECT to_jsonb(l) FROM schemad.ledger l) x";
    let before = database.text(state).await;
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), "k".repeat(32)).unwrap();
    let (code, used) = examine(
        &database.url,
        &set,
        &["--signing-key-file", key.path().to_str().unwrap()],
    )
    .await;
    assert_eq!(code, 0);
    assert!(
        check(&used, "reading")
            .1
            .starts_with("2 applied migrations"),
        "{used}"
    );
    assert_eq!(check(&used, "pooler").0, "OK");
    assert_eq!(
        (check(&used, "signing").0, check(&used, "public").0),
        ("OK", "OK")
    );
    assert_eq!(database.text(state).await, before);
    // Another release, which does not carry what is unsigned.
    let (code, other) = examine(
        &database.url,
        &Set::tables(1),
        &["--signing-key-file", key.path().to_str().unwrap()],
    )
    .await;
    assert_eq!((code, check(&other, "signing").0), (0, "WARN"));
    assert!(check(&other, "signing").1.contains("1 down(s)"), "{other}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn missing_rights_are_told_by_the_grants_that_are_enough() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let login = role(&database, "").await;
    let (code, answer) = examine(&database.url_as(&login), &set, &[]).await;
    let (status, found, todo) = check(&answer, "rights");
    assert_eq!((code, status), (3, "FAIL"));
    assert!(found.starts_with("MISSING_RIGHT: "), "{found}");
    let (create, alternative) = (
        format!("GRANT CREATE ON DATABASE {} TO {login}", database.name),
        format!("or CREATE SCHEMA schemad AUTHORIZATION {login}"),
    );
    assert_eq!(
        todo,
        [
            create.as_str(),
            &format!("GRANT USAGE, CREATE ON SCHEMA public TO {login}"),
            &alternative
        ]
    );
    for grant in &todo[..2] {
        database.execute(grant).await;
    }
    let (code, answer) = examine(&database.url_as(&login), &set, &[]).await;
    assert_eq!(
        (code, check(&answer, "rights").0, check(&answer, "role").0),
        (0, "OK", "OK"),
        "{answer}"
    );
    assert_eq!(
        check(&answer, "visibility").2,
        [format!("GRANT pg_read_all_stats TO {login}")]
    );
    drop_role(&database, &login).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_cannot_be_taken_or_may_too_much_is_told() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let login = role(&database, "CREATEDB").await;
    let (owner, url) = (format!("owner_{}", database.name), database.url_as(&login));
    database
        .execute(&format!(
            "CREATE ROLE {owner}; CREATE SCHEMA schemad AUTHORIZATION {login}"
        ))
        .await;
    database
        .execute(&format!("GRANT CREATE ON SCHEMA public TO {login}"))
        .await;
    let (code, answer) = examine(&url, &set, &["--role", &owner]).await;
    assert_eq!((code, check(&answer, "migrating role").0), (3, "FAIL"));
    assert_eq!(
        check(&answer, "migrating role").2,
        [format!("GRANT {owner} TO {login}")]
    );
    assert_eq!(check(&answer, "role").0, "WARN");
    assert!(
        check(&answer, "role").1.contains("is CREATEDB,"),
        "{answer}"
    );
    database.execute(&format!("GRANT {owner} TO {login}")).await;
    let (code, answer) = examine(&url, &set, &["--role", &owner]).await;
    assert_eq!(
        (code, check(&answer, "migrating role").0),
        (0, "WARN"),
        "{answer}"
    );
    let grant = format!("GRANT USAGE, CREATE ON SCHEMA public TO {owner}");
    assert_eq!(check(&answer, "migrating role").2, [grant.as_str()]);
    database.execute(&grant).await;
    let (code, answer) = examine(&url, &set, &["--role", &owner]).await;
    assert_eq!(
        (code, check(&answer, "migrating role").0),
        (0, "OK"),
        "{answer}"
    );
    drop_role(&database, &login).await;
    drop_role(&database, &owner).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_everybody_may_do_with_the_ledger_is_told_with_what_takes_it_away() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    TestDaemon::start(&database, &set).await.stop().await;
    let give = "GRANT USAGE ON SCHEMA schemad TO PUBLIC; GRANT SELECT (sql) ON schemad.scripts TO \
        PUBLIC; GRANT USAGE ON SEQUENCE schemad.steps_id_seq TO PUBLIC; GRANT EXECUTE ON FUNCTION \
        schemad.finish_step_v2(bigint) TO PUBLIC";
    database.execute(give).await;
    let (code, answer) = examine(&database.url, &set, &[]).await;
    let (status, _, todo) = check(&answer, "public");
    assert_eq!((code, status, todo.len()), (0, "WARN", 4), "{answer}");
    for revoke in todo {
        database.execute(revoke).await;
    }
    assert_eq!(
        check(&examine(&database.url, &set, &[]).await.1, "public").0,
        "OK"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_may_put_code_into_the_ledger_is_told_with_what_takes_it_away() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    TestDaemon::start(&database, &set).await.stop().await;
    let role = role(&database, "").await;
    let give = format!(
        "GRANT USAGE ON SCHEMA schemad TO {role}; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL \
         TABLES IN SCHEMA schemad TO {role}"
    );
    database.execute(&give).await;
    assert_eq!(
        check(&examine(&database.url, &set, &[]).await.1, "public").0,
        "OK"
    );
    database
        .execute(&format!(
            "GRANT ALL ON SCHEMA schemad TO {role}; GRANT ALL ON ALL TABLES IN \
            SCHEMA schemad TO {role}"
        ))
        .await;
    let (code, answer) = examine(&database.url, &set, &[]).await;
    let (status, found, todo) = check(&answer, "public");
    assert_eq!((code, status, todo.len()), (0, "WARN", 2), "{answer}");
    assert!(found.contains(&role), "{answer}");
    for revoke in todo {
        database.execute(revoke).await;
    }
    assert_eq!(
        check(&examine(&database.url, &set, &[]).await.1, "public").0,
        "OK"
    );
    drop_role(&database, &role).await;
}

/// What stops operations is what doctor says first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_could_run_in_the_ledger_or_on_diesels_table_is_told() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    TestDaemon::start(&database, &set).await.stop().await;
    let role = role(&database, "").await;
    let trap = "CREATE FUNCTION public.trap() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN \
        NEW; END $$";
    database.execute(trap).await;
    let trigger =
        "CREATE TRIGGER trap BEFORE DELETE ON {} FOR EACH ROW EXECUTE FUNCTION public.trap()";
    for (change, back, reason) in [
        (
            trigger.replace("{}", "schemad.events"),
            "DROP TRIGGER trap ON schemad.events",
            "LEDGER_DAMAGED",
        ),
        (
            trigger.replace("{}", "public.__diesel_schema_migrations"),
            "DROP TRIGGER trap ON public.__diesel_schema_migrations",
            "DIESEL_TABLE_UNSAFE",
        ),
        (
            format!("ALTER SCHEMA schemad OWNER TO {role}"),
            "ALTER SCHEMA schemad OWNER TO CURRENT_USER",
            "LEDGER_FOREIGN",
        ),
    ] {
        database.execute(&change).await;
        let (code, answer) = examine(&database.url, &set, &[]).await;
        let (status, found, _) = check(&answer, "rights");
        assert!(
            code == 3 && status == "FAIL" && found.starts_with(reason),
            "{answer}"
        );
        database.execute(back).await;
    }
    let (code, answer) = examine(&database.url, &set, &[]).await;
    assert_eq!((code, check(&answer, "rights").0), (0, "OK"), "{answer}");
    drop_role(&database, &role).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_that_the_server_has_not_stops_a_pending_migration() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE EXTENSION IF NOT EXISTS plpgsql;", ""),
        ("2_b", "CREATE EXTENSION nowhere_to_be_found;", ""),
    ]);
    let (code, answer) = examine(&database.url, &set, &[]).await;
    let (status, found, todo) = check(&answer, "extensions");
    assert_eq!((code, status), (3, "FAIL"));
    assert!(found.contains("plpgsql"), "{found}");
    assert_eq!(
        todo,
        ["migration 2: nowhere_to_be_found is not available: install its package on the server"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_reach_the_daemon_and_a_read_only_database_are_told() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let alter = async |setting: &str| {
        database
            .execute(&format!("ALTER DATABASE {} SET {setting}", database.name))
            .await
    };
    alter("lock_timeout = '7s'").await;
    let (code, answer) = examine(&database.url, &set, &[]).await;
    assert_eq!((code, check(&answer, "settings").0), (0, "OK"));
    assert!(
        check(&answer, "settings")
            .1
            .starts_with("lock_timeout=7000;"),
        "{answer}"
    );
    if database.server_major().await >= 14 {
        alter("idle_session_timeout = '1min'").await;
        assert_eq!(
            check(&examine(&database.url, &set, &[]).await.1, "settings").0,
            "WARN"
        );
    }
    alter("search_path = schemad, public").await;
    database.execute("CREATE SCHEMA schemad").await;
    let (_, answer) = examine(&database.url, &set, &[]).await;
    assert!(
        check(&answer, "settings")
            .2
            .iter()
            .any(|todo| todo.starts_with("search_path: ")),
        "{answer}"
    );
    alter("default_transaction_read_only = on").await;
    let (code, answer) = examine(&database.url, &set, &[]).await;
    assert_eq!((code, check(&answer, "server").0), (3, "FAIL"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_not_there_is_another_end_and_its_password_is_not_told() {
    let set = Set::tables(1);
    let (code, answer) = examine("postgres://u:s3cret@127.0.0.1:1/d", &set, &[]).await;
    assert_eq!((code, check(&answer, "connection").0), (5, "FAIL"));
    assert!(!answer.to_string().contains("s3cret"), "{answer}");
    let mut command = from_folder(&set, &["doctor"]);
    command.env("DATABASE_URL", "postgres://u:s3cret@127.0.0.1:1/d");
    let answer = output(command).await;
    let told = stdout(&answer) + &stderr(&answer);
    assert!(
        told.contains("FAIL  connection") && !told.contains("s3cret"),
        "{told}"
    );
    assert_eq!(
        output(from_folder(&set, &["doctor"])).await.status.code(),
        Some(2)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_of_the_leases_is_looked_at_as_the_leases_would_use_it() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[("1_a", "CREATE EXTENSION nowhere_to_be_found;", "")]);
    let (maker, clients) = (
        role(&database, "").await,
        format!("clients_{}", database.name),
    );
    database
        .execute(&format!("CREATE ROLE {clients} LOGIN PASSWORD 'pw'"))
        .await;
    let (url, client) = (database.url_as(&maker), database.url_as(&clients));
    let args = ["--lease-database-url", &url, "--lease-client-url", &client];
    let (code, answer) = examine(&database.url, &set, &args).await;
    let (status, found, todo) = check(&answer, "lease role");
    assert_eq!(
        (code, status, todo),
        (
            3,
            "FAIL",
            vec![format!("ALTER ROLE {maker} CREATEDB").as_str()]
        ),
        "{found}"
    );
    assert_eq!(
        (
            check(&answer, "lease connection").0,
            check(&answer, "lease pooler").0
        ),
        ("OK", "OK"),
        "{answer}"
    );
    assert_eq!(
        (
            check(&answer, "lease server").0,
            check(&answer, "lease extensions").0
        ),
        ("WARN", "FAIL"),
        "{answer}"
    );
    database
        .execute(&format!("ALTER ROLE {maker} CREATEDB"))
        .await;
    let (_, answer) = examine(&database.url, &set, &args).await;
    let (status, _, todo) = check(&answer, "lease role");
    assert_eq!(
        (status, todo),
        ("FAIL", vec![format!("GRANT {clients} TO {maker}").as_str()]),
        "{answer}"
    );
    database
        .execute(&format!("GRANT {clients} TO {maker}"))
        .await;
    let (_, answer) = examine(&database.url, &set, &args).await;
    assert_eq!(check(&answer, "lease role").0, "OK", "{answer}");
    // Without leases the daemon works all the same: this is no database that cannot be reached.
    let nowhere = ["--lease-database-url", "postgres://u@127.0.0.1:1/d"];
    let (code, answer) = examine(&database.url, &Set::tables(1), &nowhere).await;
    assert_eq!(
        (code, check(&answer, "lease connection").0),
        (3, "FAIL"),
        "{answer}"
    );
    drop_role(&database, &maker).await;
    database.execute(&format!("DROP ROLE {clients}")).await;
}

/// A function of somebody else's in the search_path can be what a migration calls.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_of_the_search_path_in_which_others_may_create_is_warned_of() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let other = role(&database, "").await;
    let (_, answer) = examine(&database.url, &set, &[]).await;
    assert_eq!(
        check(&answer, "search_path"),
        ("OK", "public: nobody else may create objects there", vec![])
    );
    database
        .execute(&format!(
            "CREATE SCHEMA \"My app\"; GRANT CREATE ON SCHEMA \"My app\" TO {other}; GRANT CREATE \
             ON SCHEMA public TO PUBLIC; ALTER DATABASE {} SET search_path = \"My app\", public",
            database.name
        ))
        .await;
    let (_, answer) = examine(&database.url, &set, &[]).await;
    let (status, found, todo) = check(&answer, "search_path");
    assert_eq!(
        (
            status,
            found.contains(&format!("{other} in \"My app\", PUBLIC in public"))
        ),
        ("WARN", true),
        "{found}"
    );
    assert_eq!(
        todo,
        [
            format!("REVOKE CREATE ON SCHEMA \"My app\" FROM {other}").as_str(),
            "REVOKE CREATE ON SCHEMA public FROM PUBLIC"
        ]
    );
    drop_role(&database, &other).await;
}
