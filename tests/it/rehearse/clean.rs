//! The clean state before each migration, whatever the one before it did.

use schemad::internals::{postgres::MigrationSession, scratch::sweep};

use super::{Said, run};
use crate::{
    harness::{Set, TestDatabase, database::with_database, eventually},
    schema::{BASE, STATEMENTS},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_with_rights_can_be_dropped_whatever_was_put_aside() {
    let database = TestDatabase::new().await;
    let pid = std::process::id();
    let (a, b, c) = (
        format!("clean_a_{pid}"),
        format!("clean_b_{pid}"),
        format!("clean_c_{pid}"),
    );
    let grants = |role: &str| format!("CREATE ROLE {role}; GRANT SELECT ON t TO {role};");
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t ();", "DROP TABLE t;"),
        (
            "2_role",
            &grants(&a),
            &format!("REVOKE SELECT ON t FROM {a}; DROP ROLE {a};"),
        ),
        ("3_left", &grants(&b), &format!("DROP ROLE {b};")),
        // Its copy is in the way of a down that spoils the database.
        (
            "4_spoils",
            &grants(&c),
            &format!("CREATE TABLE x (); DROP OWNED BY {c}; DROP ROLE {c};"),
        ),
        (
            "6_retired",
            &format!("DROP OWNED BY {b}; DROP ROLE {b};"),
            &grants(&b),
        ),
        (
            "7_after",
            &format!("CREATE TABLE x (); GRANT SELECT ON x TO {a}, {c};"),
            "DROP TABLE x;",
        ),
    ]);
    set.add_non_transactional(
        "5_index",
        "CREATE TABLE u ();",
        &format!("DROP TABLE u; DROP OWNED BY {c}; DROP ROLE {c};"),
    );
    let said = run(&set, Some(&database.url), &["--throwaway-server"]).await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "RESTORES"),
        ("3", "DOWN_FAILS"),
        ("4", "DOES_NOT_RESTORE"),
        ("5", "DOES_NOT_RESTORE"),
        ("6", "RESTORES"),
        ("7", "RESTORES"),
    ];
    assert_eq!(
        said.verdicts(),
        expected,
        "{} {}",
        said.stderr,
        said.of("2")
    );
    database
        .execute(&format!("DROP ROLE IF EXISTS {a}, {b}, {c}"))
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn contents_that_a_cycle_changes_do_not_reach_the_next_migration() {
    let database = TestDatabase::new().await;
    let asks = |question: &str| format!("DO $$ BEGIN ASSERT ({question}); END $$;");
    let set = Set::of(&[
        // A column that is called as anything else might be.
        (
            "01_t",
            "CREATE TABLE t (t int, rows int, h int); INSERT INTO t VALUES (1, 1, 1); CREATE \
             SEQUENCE s; SELECT lo_create(4711);",
            "SELECT lo_unlink(4711); DROP SEQUENCE s; DROP TABLE t;",
        ),
        ("02_column", "SELECT 1;", "UPDATE t SET rows = 2;"),
        ("03_same", &asks("SELECT rows = 1 FROM t"), "SELECT 1;"),
        ("04_set", "SELECT 1;", "SELECT setval('s', 5, false);"),
        (
            "05_same",
            &asks("SELECT last_value = 1 AND NOT is_called FROM s"),
            "SELECT 1;",
        ),
        ("06_large", "SELECT 1;", "SELECT lo_put(4711, 0, 'x');"),
        ("07_same", &asks("SELECT lo_get(4711) = ''"), "SELECT 1;"),
        (
            "08_up_fails",
            "SELECT nextval('s'), setval('s', 9); SELECT 1 / 0;",
            "SELECT 1;",
        ),
        (
            "09_same",
            &asks("SELECT last_value = 1 AND NOT is_called FROM s"),
            "SELECT 1;",
        ),
        (
            "10_down_fails",
            "SELECT 1;",
            "SELECT nextval('s'); SELECT 1 / 0;",
        ),
        (
            "11_same",
            &asks("SELECT last_value = 1 AND NOT is_called FROM s"),
            "SELECT 1;",
        ),
    ]);
    for args in [&[][..], &["--last", "3"]] {
        let said = run(&set, Some(&database.url), args).await;
        let good = said
            .verdicts()
            .into_iter()
            .filter(|(version, _)| !["08", "10"].contains(version));
        assert!(
            good.clone().all(|(_, verdict)| verdict == "RESTORES"),
            "{:?} {}",
            said.verdicts(),
            said.stderr
        );
        assert_eq!(said.of("10")["verdict"], "DOWN_FAILS");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_script_could_not_do_in_the_transaction_of_another_is_no_failure() {
    let database = TestDatabase::new().await;
    let asks = |question: &str| format!("DO $$ BEGIN ASSERT ({question}); END $$;");
    let set = Set::of(&[
        (
            "01_types",
            "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE t (id serial);",
            "DROP TABLE t; DROP TYPE mood;",
        ),
        // PostgreSQL refuses to use an enum's new value in the transaction that adds it.
        (
            "02_value",
            "DO $$ BEGIN IF enum_last(NULL::mood) = 'sad' THEN CREATE TABLE a (); ELSE CREATE \
             TABLE b (m mood DEFAULT 'ok'); END IF; END $$;",
            "DROP TABLE a; ALTER TYPE mood ADD VALUE 'ok';",
        ),
        (
            "03_same",
            &asks("enum_last(NULL::mood) = 'sad'"),
            "SELECT 1;",
        ),
        // The session's statements are a script's own, and gone after it.
        (
            "04_prepares",
            "PREPARE p AS SELECT 1; CREATE INDEX i ON t (id);",
            "PREPARE p AS SELECT 1; DEALLOCATE ALL;",
        ),
        (
            "05_gone",
            "PREPARE p AS SELECT 1; CREATE INDEX j ON t (id); DEALLOCATE ALL;",
            "PREPARE p AS SELECT 1; DROP INDEX j;",
        ),
        (
            "051_names",
            "PREPARE s1 AS SELECT 1; PREPARE s2 AS SELECT 2; CREATE TABLE pn ();",
            "DEALLOCATE ALL; DROP TABLE pn;",
        ),
        // Between the same guards as an operation's.
        (
            "06_tables",
            "CREATE TABLE x ();",
            "DROP TABLE x; DROP TABLE __diesel_schema_migrations;",
        ),
        (
            "07_lock",
            "CREATE TABLE y ();",
            "DROP TABLE y; SELECT pg_advisory_unlock_all();",
        ),
        (
            "071_setting",
            "SET my.own = 'x'; CREATE TABLE o ();",
            "DROP TABLE o;",
        ),
        (
            "072_asks",
            "CREATE TABLE p (); SELECT current_setting('my.own');",
            "DROP TABLE p;",
        ),
        (
            "073_read_only",
            "CREATE TABLE r ();",
            "SET TRANSACTION READ ONLY;",
        ),
        // Fails at what is checked last.
        (
            "08_deferred",
            "CREATE TABLE k (id int PRIMARY KEY); CREATE TABLE l (id int REFERENCES k DEFERRABLE \
             INITIALLY DEFERRED);",
            "INSERT INTO l VALUES (1);",
        ),
        (
            "09_rows",
            "INSERT INTO t DEFAULT VALUES;",
            "CREATE TABLE z ();",
        ),
        // Deferred, and at another time.
        (
            "091_deferred",
            "CREATE TABLE d (id int PRIMARY KEY); CREATE TABLE e (d int REFERENCES d DEFERRABLE \
             INITIALLY DEFERRED); INSERT INTO e VALUES (1); INSERT INTO d VALUES (1);",
            "DROP TABLE e, d; CREATE TABLE left_1 ();",
        ),
        (
            "092_times",
            "CREATE TABLE IF NOT EXISTS audit (at timestamptz PRIMARY KEY); INSERT INTO audit \
             VALUES (now());",
            "INSERT INTO audit VALUES (now());",
        ),
        (
            "10_same",
            &asks("(SELECT max(id) FROM t) = 1 AND (SELECT last_value FROM t_id_seq) = 1"),
            "SELECT 1;",
        ),
    ]);
    let said = run(&set, Some(&database.url), &[]).await;
    let expected = [
        ("01", "RESTORES"),
        ("02", "DOES_NOT_RESTORE"),
        ("03", "RESTORES"),
        ("04", "UP_FAILS_AFTER_DOWN"),
        ("05", "RESTORES"),
        ("051", "RESTORES"),
        ("06", "DOWN_FAILS"),
        ("07", "DOWN_FAILS"),
        ("071", "RESTORES"),
        ("072", "UP_FAILS"),
        ("073", "DOWN_FAILS"),
        ("08", "DOWN_FAILS"),
        ("09", "DOES_NOT_RESTORE"),
        ("091", "DOES_NOT_RESTORE"),
        ("092", "DOES_NOT_RESTORE"),
        ("10", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    let told = said.of("02")["upDifferences"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["summary"].as_str().unwrap());
    assert!(
        told.clone().any(|one| one == "table public.b added"),
        "{:?}",
        told.collect::<Vec<_>>()
    );
}

/// What may be done on a server that is thrown away does not end the rehearsal.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_subscription_and_the_end_of_other_sessions_are_survived() {
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        (
            "2_ends",
            "CREATE TABLE k (); SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE pid <> pg_backend_pid() AND backend_type = 'client backend';",
            "DROP TABLE k;",
        ),
        (
            "4_leaves",
            "INSERT INTO t VALUES (1);",
            "CREATE TABLE left_1 ();",
        ),
        (
            "5_leaves",
            "INSERT INTO t VALUES (2);",
            "CREATE TABLE left_2 ();",
        ),
        ("6_last", "CREATE TABLE u ();", "DROP TABLE u;"),
    ]);
    set.add_non_transactional(
        "3_subscribes",
        "CREATE SUBSCRIPTION s CONNECTION 'host=/nowhere' PUBLICATION p WITH (connect = false); \
         CREATE TABLE x ();",
        "DROP TABLE x; ALTER SUBSCRIPTION s DISABLE; ALTER SUBSCRIPTION s SET (slot_name = NONE); \
         DROP SUBSCRIPTION s;",
    );
    let said = run(&set, None, &[]).await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "RESTORES"),
        ("3", "RESTORES"),
        ("4", "DOES_NOT_RESTORE"),
        ("5", "DOES_NOT_RESTORE"),
        ("6", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    assert!(!said.stderr.contains("is left"), "{}", said.stderr);
}

/// Both sets have the same verdicts for the same reasons; what the first says.
async fn compared(database: &TestDatabase, one: &Set, two: &Set) -> Said {
    let (one, two) = (
        run(one, Some(&database.url), &[]).await,
        run(two, Some(&database.url), &[]).await,
    );
    assert_eq!(one.verdicts(), two.verdicts());
    for (version, _) in one.verdicts() {
        for told in ["differences", "upDifferences"] {
            assert_eq!(one.of(version)[told], two.of(version)[told], "{version}");
        }
        let reason = |said: &Said| said.of(version)["failure"]["metadata"]["sqlstate"].clone();
        assert_eq!(reason(&one), reason(&two), "{version}");
    }
    one
}

/// A script that only defines is tried in the transaction of the down before it; with one more
/// statement it is not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_finds_what_two_find() {
    let database = TestDatabase::new().await;
    let major = database.server_major().await;
    let changes = STATEMENTS
        .iter()
        .filter(|(since, ..)| *since <= major)
        .step_by(3)
        .enumerate();
    // Each down undoes another change, or leaves something.
    let pairs: Vec<_> = changes.clone().zip(changes.skip(1)).collect();
    let in_one = Set::of(&[("00_base", BASE, "DROP SCHEMA app CASCADE;")]);
    let in_two = Set::of(&[("00_base", BASE, "DROP SCHEMA app CASCADE;")]);
    for ((n, (_, change, undo)), (_, (_, other, _))) in pairs {
        let down = if n % 2 == 0 {
            "CREATE TABLE IF NOT EXISTS app.left_behind ()"
        } else {
            other
        };
        let down = if n % 5 == 0 {
            format!("{undo}; {down}")
        } else {
            down.to_string()
        };
        in_one.add(
            &format!("{n:03}_x"),
            &format!("{change};"),
            &format!("{down};"),
        );
        in_two.add(
            &format!("{n:03}_x"),
            &format!("{change}; SELECT now();"),
            &format!("{down}; SELECT now();"),
        );
    }
    let one = compared(&database, &in_one, &in_two).await;
    let kinds: std::collections::BTreeSet<_> = one
        .verdicts()
        .into_iter()
        .map(|(_, verdict)| verdict)
        .collect();
    assert!(kinds.len() >= 4, "{kinds:?}");
}

/// The same of what writes rows, whose second up may meet those of the down, or what it took away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_transaction_finds_what_two_find_with_rows() {
    let database = TestDatabase::new().await;
    let base = "CREATE TABLE t (id serial PRIMARY KEY, name text UNIQUE, at timestamptz DEFAULT \
        now()); CREATE TABLE audit (at timestamptz PRIMARY KEY DEFAULT now(), what text); CREATE \
        TABLE c (t int REFERENCES t, valid tstzrange, CHECK (upper(valid) IS NULL OR NOT \
        isempty(valid))); CREATE TABLE older (at timestamptz CHECK (at >= \
        transaction_timestamp()));";
    let ups = [
        "INSERT INTO t (name) VALUES ('a')",
        "INSERT INTO t (name) VALUES ('b') ON CONFLICT DO NOTHING; ALTER TABLE t ADD COLUMN IF NOT \
         EXISTS x int",
        "INSERT INTO audit (what) VALUES ('up'); CREATE TABLE IF NOT EXISTS u ()",
        "UPDATE t SET name = name || '!'; CREATE INDEX IF NOT EXISTS i ON t (name)",
        "DELETE FROM c; DELETE FROM t; ALTER TABLE t ADD COLUMN IF NOT EXISTS y int NOT NULL",
        "INSERT INTO older VALUES (now()); CREATE VIEW v AS SELECT * FROM t",
        "INSERT INTO c SELECT id, tstzrange(at, now()) FROM t; ALTER TABLE c ADD COLUMN IF NOT \
         EXISTS z int",
    ];
    let downs = [
        "DELETE FROM t WHERE name LIKE 'a%'; CREATE TABLE IF NOT EXISTS left_1 ()",
        "INSERT INTO audit (what) VALUES ('down'); DROP TABLE IF EXISTS u",
        "TRUNCATE c, t RESTART IDENTITY; ALTER TABLE t DROP COLUMN IF EXISTS x",
        "INSERT INTO t (name) VALUES ('a') ON CONFLICT DO NOTHING; DROP INDEX IF EXISTS i",
        "DROP VIEW IF EXISTS v; INSERT INTO older VALUES (now())",
    ];
    let sets = [
        Set::of(&[("00_base", base, "DROP TABLE c, t, audit, older;")]),
        Set::of(&[("00_base", base, "DROP TABLE c, t, audit, older;")]),
    ];
    for (n, (up, down)) in ups
        .iter()
        .flat_map(|up| downs.iter().map(move |down| (up, down)))
        .enumerate()
    {
        let name = format!("{:03}_x", n + 1);
        sets[0].add(&name, &format!("{up};"), &format!("{down};"));
        sets[1].add(
            &name,
            &format!("{up}; SELECT now();"),
            &format!("{down}; SELECT now();"),
        );
    }
    let said = compared(&database, &sets[0], &sets[1]).await;
    let kinds: std::collections::BTreeSet<_> = said
        .verdicts()
        .into_iter()
        .map(|(_, verdict)| verdict)
        .collect();
    assert!(kinds.len() >= 4, "{kinds:?}");
}

/// A server whose own workers come into every database that takes connections (TimescaleDB's
/// schedulers do), played by a superuser's sessions.
struct Workers(tokio::task::JoinHandle<()>);

impl Workers {
    /// In databases of `owner`.
    async fn of(database: &TestDatabase, owner: &str) -> Self {
        let (look, url) = (database.connect().await, database.url.clone());
        let names = format!(
            "SELECT datname::text FROM pg_database WHERE datallowconn AND datdba = \
             '{owner}'::regrole AND starts_with(datname::text, 'schemad_scratch_')"
        );
        Self(tokio::spawn(async move {
            let mut there: Vec<(String, tokio_postgres::Client)> = Vec::new();
            loop {
                there.retain(|(_, client)| !client.is_closed());
                for row in look.query(&names, &[]).await.unwrap_or_default() {
                    let name: String = row.get(0);
                    if there.iter().any(|(seen, _)| *seen == name) {
                        continue;
                    }
                    let url = with_database(&url, &name);
                    let Ok((client, connection)) =
                        tokio_postgres::connect(&url, tokio_postgres::NoTls).await
                    else {
                        continue;
                    };
                    tokio::spawn(connection);
                    let _ = client
                        .batch_execute("SET application_name = 'a worker'")
                        .await;
                    there.push((name, client));
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            }
        }))
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_that_come_into_every_database_are_not_in_the_way() {
    let database = TestDatabase::new().await;
    let names: Vec<String> = (1..=30).map(|n| format!("{n:02}_t")).collect();
    let set = Set::tables(0);
    for (n, name) in names.iter().enumerate() {
        // Each third spoils the database, which then is made again from a copy.
        let down = if n % 3 == 0 {
            "VACUUM; CREATE TABLE left_over (n int);"
        } else {
            "SELECT 1;"
        };
        set.add_non_transactional(
            name,
            &format!("CREATE TABLE t{n} (n int);"),
            &format!("DROP TABLE t{n}; {down}"),
        );
    }
    let superuser = format!("rehearser_{}", database.name);
    database
        .execute(&format!(
            "CREATE ROLE {superuser} SUPERUSER LOGIN PASSWORD 'pw'"
        ))
        .await;
    let workers = Workers::of(&database, &superuser).await;
    let said = run(
        &set,
        Some(&database.url_as(&superuser)),
        &["--throwaway-server"],
    )
    .await;
    assert_eq!(said.verdicts().len(), 30, "{}", said.stderr);
    let spoilt = said
        .verdicts()
        .iter()
        .filter(|(_, verdict)| *verdict == "DOES_NOT_RESTORE")
        .count();
    assert_eq!(spoilt, 10, "{:?}", said.verdicts());
    drop(workers);

    // Whoever may not end them is told who they are.
    let plain = format!("plain_{}", database.name);
    database
        .execute(&format!("CREATE ROLE {plain} CREATEDB LOGIN PASSWORD 'pw'"))
        .await;
    let workers = Workers::of(&database, &plain).await;
    let said = run(&set, Some(&database.url_as(&plain)), &[]).await;
    assert!(
        said.code != Some(0) && said.stderr.contains("SCRATCH_IN_USE"),
        "{}",
        said.stderr
    );
    assert!(
        said.stderr.contains("(postgres, a worker)") && said.stderr.contains("superuser"),
        "{}",
        said.stderr
    );
    drop(workers);
    database.execute(&format!("DROP ROLE {superuser}")).await;
    eventually("what is left is swept", async || {
        let session = MigrationSession::open(&database.url_as(&plain).parse().unwrap())
            .await
            .unwrap();
        drop(sweep(session.client()).await);
        let left = format!("SELECT count(*) FROM pg_database WHERE datdba = '{plain}'::regrole");
        (database.text(&left).await == "0").then_some(())
    })
    .await;
    database.execute(&format!("DROP ROLE {plain}")).await;
}
