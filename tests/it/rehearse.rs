//! Rehearsals: verdicts, the clean state between migrations, what is left behind, and what a daemon
//! makes of it.

mod beside;
mod clean;
mod ended;

use schemad::internals::{
    migration::MigrationSet,
    rehearse::{self, OutsideEffects, RehearsalEvent, RehearsalSettings, Verdict},
    runner::{LockWait, RunControl},
    scratch::ScratchMaker,
};
use serde_json::Value;
use tokio::sync::watch;

use crate::harness::{
    Set, TestDatabase,
    process::{from_folder, output, stderr, stdout},
};

/// What `rehearse --output json` says: its objects, what stood on stderr, and the exit code.
struct Said {
    objects: Vec<Value>,
    stderr: String,
    code: Option<i32>,
}

impl Said {
    /// Version and verdict of each.
    fn verdicts(&self) -> Vec<(&str, &str)> {
        let text =
            |object: &'_ Value, key: &str| object[key].as_str().unwrap().to_owned().leak() as &str;
        self.migrations()
            .map(|object| (text(object, "version"), text(object, "verdict")))
            .collect()
    }

    fn migrations(&self) -> impl Iterator<Item = &Value> {
        self.objects
            .iter()
            .filter(|object| object.get("verdict").is_some())
    }

    fn of(&self, version: &str) -> &Value {
        self.migrations()
            .find(|object| object["version"] == version)
            .unwrap()
    }

    fn summary(&self) -> &Value {
        self.objects.last().unwrap()
    }
}

async fn run(set: &Set, url: Option<&str>, args: &[&str]) -> Said {
    let mut command = from_folder(set, &["rehearse", "--output", "json"]);
    command.args(args);
    if let Some(url) = url {
        command.env("SCRATCH_DATABASE_URL", url);
    }
    let output = output(command).await;
    let objects = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    Said {
        objects,
        stderr: stderr(&output),
        code: output.status.code(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_verdict_is_reached_and_none_spoils_the_next() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "01_table",
            "CREATE TABLE t (a int, b int, c int);",
            "DROP TABLE t;",
        ),
        (
            "02_order",
            "ALTER TABLE t DROP COLUMN b;",
            "ALTER TABLE t ADD COLUMN b int;",
        ),
        (
            "03_rest",
            "CREATE TABLE u (id int); CREATE INDEX i ON t (a);",
            "DROP TABLE u;",
        ),
        (
            "04_wrong",
            "CREATE VIEW v AS SELECT a FROM t;",
            "DROP VIEW nowhere;",
        ),
        (
            "05_type",
            "CREATE TYPE mood AS ENUM ('sad'); CREATE TABLE m (mood mood);",
            "DROP TABLE m;",
        ),
        (
            "06_differs",
            "DO $$ BEGIN IF EXISTS (SELECT FROM pg_ts_config WHERE cfgname = 'x') THEN CREATE \
             TABLE twice (); ELSE CREATE TABLE once (); END IF; END $$;",
            "DROP TABLE once;",
        ),
        ("07_no_way_back", "CREATE TABLE w (id int);", ""),
        (
            "08_fails",
            "CREATE TABLE x (id int);\nCREATE TABLE y (\n  id nothing\n);",
            "DROP TABLE x;",
        ),
        // What was there before all of these trials is there now, once.
        (
            "09_after",
            "CREATE TABLE x (mood mood); DROP INDEX i; ALTER TABLE u ADD COLUMN a int; SELECT a \
             FROM v; SELECT * FROM w, once;",
            "DROP TABLE x; CREATE INDEX i ON t (a); ALTER TABLE u DROP COLUMN a;",
        ),
    ]);
    let said = run(&set, Some(&database.url), &["--all"]).await;
    let expected = [
        ("01", "RESTORES"),
        ("02", "ORDER_ONLY"),
        ("03", "UP_FAILS_AFTER_DOWN"),
        ("04", "DOWN_FAILS"),
        ("05", "UP_FAILS_AFTER_DOWN"),
        ("06", "RESTORES"),
        ("07", "IRREVERSIBLE"),
        ("08", "UP_FAILS"),
        ("09", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    assert_eq!(said.code, Some(3), "{}", said.stderr);
    assert_eq!(
        said.summary()["bad"],
        serde_json::json!(["03", "04", "05", "07", "08"])
    );
    assert!(
        said.summary()["caveat"]
            .as_str()
            .unwrap()
            .contains("not data")
    );
    // Where, and what.
    let failure = &said.of("08")["failure"];
    let at = ["file", "line", "column", "statement"]
        .map(|key| failure["metadata"][key].as_str().unwrap());
    assert_eq!(at, ["08_fails/up.sql", "3", "6", "2"]);
    assert_eq!(
        failure["metadata"]["consequence"],
        "What it did is undone, and the rehearsal goes on"
    );
    assert!(
        failure["message"]
            .as_str()
            .unwrap()
            .ends_with("the rehearsal goes on"),
        "{failure}"
    );
    assert_eq!(
        said.of("03")["differences"][0]["summary"],
        "index public.i added"
    );
    assert_eq!(said.of("05")["differences"][0]["kind"], "enum");
    assert_eq!(said.of("02")["differences"][0]["change"], "reordered");
    assert!(
        said.of("04")["failure"]["message"]
            .as_str()
            .unwrap()
            .contains("nowhere")
    );
    // Only the end of it: what is before is applied all the same.
    let last = run(&set, Some(&database.url), &["--last", "1"]).await;
    assert_eq!(
        (last.verdicts(), last.code),
        (vec![("09", "RESTORES")], Some(0)),
        "{}",
        last.stderr
    );
    assert!(
        last.stderr.contains("08 could not be applied"),
        "{}",
        last.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_down_that_leaves_something_and_an_up_that_makes_something_else_are_told_apart() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        (
            "2_leaves",
            "CREATE INDEX IF NOT EXISTS i ON t (id);",
            "SELECT 1;",
        ),
        // Its first up leaves a mark where no snapshot looks.
        (
            "3_differs",
            "DO $$ BEGIN IF (SELECT count(*) FROM pg_largeobject_metadata) > 0 THEN CREATE TABLE b \
             (); ELSE CREATE TABLE a (); END IF; END $$; SELECT lo_create(0);",
            "DROP TABLE IF EXISTS a, b;",
        ),
        // And is here as often as one up would leave it.
        (
            "4_once",
            "DO $$ BEGIN ASSERT (SELECT count(*) FROM pg_largeobject_metadata) = 1; END $$; CREATE \
             TABLE c ();",
            "DROP TABLE c;",
        ),
    ]);
    let said = run(&set, Some(&database.url), &[]).await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "DOES_NOT_RESTORE"),
        ("3", "UP_DIFFERS_AFTER_DOWN"),
        ("4", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    assert_eq!(
        said.of("3")["upDifferences"][0]["summary"],
        "table public.a removed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_that_a_down_leaves_do_not_reach_the_next_migration() {
    let database = TestDatabase::new().await;
    let once = |name: &str| {
        format!(
            "DO $$ BEGIN ASSERT (SELECT count(*) FROM {name}) = 1; END $$; CREATE TABLE \
             after_{name} ();"
        )
    };
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        ("2_row", "INSERT INTO t VALUES (1);", "SELECT 1;"),
        ("3_once", &once("t"), "DROP TABLE after_t;"),
        (
            "4_seq",
            "CREATE SEQUENCE s; CREATE TABLE n AS SELECT nextval('s') n;",
            "DROP TABLE n; DROP SEQUENCE s;",
        ),
        ("5_once", &once("n"), "DROP TABLE after_n;"),
        (
            "6_column",
            "ALTER TABLE t ADD COLUMN x int DEFAULT 1;",
            "ALTER TABLE t DROP COLUMN x; UPDATE t SET id = 2;",
        ),
        (
            "7_same",
            "DO $$ BEGIN ASSERT (SELECT id FROM t) = 1; END $$; CREATE TABLE last ();",
            "DROP TABLE last;",
        ),
    ]);
    let said = run(&set, Some(&database.url), &[]).await;
    assert_eq!(
        said.verdicts()
            .iter()
            .map(|(_, verdict)| *verdict)
            .collect::<Vec<_>>(),
        ["RESTORES"; 7],
        "{}",
        said.stderr
    );
    assert_eq!(said.code, Some(0));
}

/// What a set's downs undo wholly is not made again, and what bad ones do is undone without.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_database_is_enough_for_good_downs_and_for_bad_ones() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        (
            "1_t",
            "CREATE TABLE t (id serial, at timestamptz);",
            "DROP TABLE t;",
        ),
        (
            "2_rows",
            "INSERT INTO t (at) VALUES ('2026-01-01'), (NULL); CREATE MATERIALIZED VIEW m AS \
             SELECT * FROM t;",
            "DROP MATERIALIZED VIEW m; TRUNCATE t RESTART IDENTITY;",
        ),
        (
            "3_column",
            "ALTER TABLE t ADD COLUMN a int;",
            "ALTER TABLE t DROP COLUMN a;",
        ),
        (
            "4_x",
            "CREATE TABLE x (id int, b int, c int);",
            "DROP TABLE x;",
        ),
        (
            "5_leaves",
            "CREATE INDEX IF NOT EXISTS i ON x (id);",
            "SELECT 1;",
        ),
        ("6_fails_again", "CREATE TABLE y (id int);", "SELECT 1;"),
        ("7_fails", "CREATE TABLE z (id int);", "DROP TABLE nowhere;"),
        (
            "8_order",
            "ALTER TABLE x DROP COLUMN b;",
            "ALTER TABLE x ADD COLUMN b int;",
        ),
    ]);
    let catalog = MigrationSet::load(&set.source()).unwrap();
    let selected = catalog
        .iter()
        .map(|migration| migration.version.clone())
        .collect();
    let mut scratch = ScratchMaker::open(&database.url.parse().unwrap())
        .await
        .unwrap();
    let (halt, wait) = (
        watch::Sender::new(None),
        watch::Sender::new(LockWait::default()),
    );
    let orders = RunControl {
        halt: halt.subscribe(),
        wait: wait.subscribe(),
    };
    let settings = RehearsalSettings {
        outside: OutsideEffects::Refused,
        role: None,
    };
    let mut verdicts = Vec::new();
    let mut tell = |event| {
        if let RehearsalEvent::Ended(rehearsed) = event {
            verdicts.push(rehearsed.verdict);
        }
    };
    rehearse::rehearse(
        &mut scratch,
        &catalog,
        &selected,
        &settings,
        &orders,
        &mut tell,
    )
    .await
    .unwrap();
    let bad = [
        Verdict::DoesNotRestore,
        Verdict::UpFailsAfterDown,
        Verdict::DownFails,
        Verdict::OrderOnly,
    ];
    assert_eq!(verdicts, [&[Verdict::Restores; 4][..], &bad].concat());
    assert_eq!(scratch.databases().len(), 1);
    scratch.close().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn files_run_as_they_would() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t (id int);", "DROP TABLE t;"),
        (
            "3_own",
            "BEGIN; CREATE TABLE a (); COMMIT; BEGIN; CREATE TABLE b (); COMMIT;",
            "DROP TABLE a, b;",
        ),
        (
            "4_half",
            "BEGIN; CREATE TABLE c (); COMMIT; BEGIN; CREATE TABLE c (); COMMIT;",
            "DROP TABLE c;",
        ),
        ("5_after", "CREATE TABLE c (id int);", "DROP TABLE c;"),
        (
            "6_settings",
            "-- schemad: statement_timeout=20ms\nSELECT pg_sleep(30);",
            "SELECT 1;",
        ),
        ("7_ends", "CREATE TABLE d (); COMMIT;", "DROP TABLE d;"),
        (
            "8_kills",
            "CREATE TABLE e (); SELECT pg_terminate_backend(pg_backend_pid());",
            "SELECT 1;",
        ),
        ("9_last", "CREATE TABLE e (id int);", "DROP TABLE e;"),
    ]);
    set.add_non_transactional(
        "2_index",
        "CREATE INDEX CONCURRENTLY i ON t (id);",
        "DROP INDEX CONCURRENTLY i;",
    );
    set.add_non_transactional(
        "91_parts",
        "CREATE TABLE f ();",
        "DROP TABLE f; DROP TABLE nowhere;",
    );
    set.add_non_transactional(
        "92_kept",
        "ALTER TABLE f ADD COLUMN a int;",
        "ALTER TABLE f DROP COLUMN a;",
    );
    let said = run(&set, Some(&database.url), &["--throwaway-server"]).await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "RESTORES"),
        ("3", "RESTORES"),
        ("4", "UP_FAILS"),
        ("5", "RESTORES"),
        ("6", "UP_FAILS"),
        ("7", "UP_FAILS"),
        ("8", "UP_FAILS"),
        ("9", "RESTORES"),
        ("91", "DOWN_FAILS"),
        ("92", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    let stays = &said.of("91")["failure"]["metadata"]["consequence"];
    assert_eq!(
        stays,
        "The rehearsal goes on in another database, without what it did"
    );
    assert_eq!(said.of("6")["failure"]["metadata"]["sqlstate"], "57014");
    assert_eq!(said.of("7")["failure"]["reason"], "ENDS_TRANSACTION");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_reaches_outside_runs_only_where_that_is_harmless() {
    let database = TestDatabase::new().await;
    let role = format!("rehearsed_{}", std::process::id());
    let set = Set::of(&[
        (
            "1_role",
            &format!("CREATE TABLE t ();\nCREATE ROLE {role};"),
            &format!("DROP TABLE t;\nDROP ROLE {role};"),
        ),
        (
            "2_grant",
            &format!("GRANT SELECT ON t TO {role};"),
            "SELECT 1;",
        ),
        (
            "3_dynamic",
            "DO $$ BEGIN EXECUTE 'CREATE TABLE d ()'; END $$;",
            "DROP TABLE d;",
        ),
        // The clean state before this one has to be made again after the one before, and the role
        // is there already.
        ("4_after", "CREATE TABLE e ();", "DROP TABLE e;"),
    ]);
    let refused = run(&set, Some(&database.url), &[]).await;
    let expected = [
        ("1", "UP_FAILS"),
        ("2", "UP_FAILS"),
        ("3", "RESTORES"),
        ("4", "RESTORES"),
    ];
    assert_eq!(refused.verdicts(), expected, "{}", refused.stderr);
    let failure = &refused.of("1")["failure"];
    assert_eq!(
        (&failure["reason"], &failure["metadata"]["line"]),
        (&"REACHES_OUTSIDE".into(), &"2".into())
    );
    assert!(
        refused.of("3")["notes"][0]
            .as_str()
            .unwrap()
            .contains("EXECUTE")
    );
    assert_eq!(
        database
            .text(&format!(
                "SELECT count(*) FROM pg_roles WHERE rolname = '{role}'"
            ))
            .await,
        "0"
    );

    // On a server of its own, where nothing is left of it: neither for the next nor on the disk.
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(
        dir.path(),
        std::os::unix::fs::PermissionsExt::from_mode(0o755),
    )
    .unwrap();
    for _ in 0..2 {
        let said = run(&set, None, &["--server-dir", dir.path().to_str().unwrap()]).await;
        let expected = [
            ("1", "RESTORES"),
            ("2", "DOES_NOT_RESTORE"),
            ("3", "RESTORES"),
            ("4", "RESTORES"),
        ];
        assert_eq!(said.verdicts(), expected, "{}", said.stderr);
        assert_eq!(said.of("2")["differences"][0]["property"], "acl");
        assert!(!dir.path().join("server-0/data").exists());
    }
}

/// A disk that fails: cp complains of every file, and has written some.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_of_ones_own_that_cannot_be_made_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let open = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .unwrap();
    };
    let program = dir.path().join("cp");
    let complains = "#!/bin/sh\nmkdir data; echo >data/x; for n in $(seq 100); do echo \"cp: $n: \
        Input/output error\" >&2; done; exit 1";
    std::fs::write(&program, complains).unwrap();
    open(dir.path());
    open(&program);
    let (set, servers) = (Set::tables(1), dir.path().join("servers"));
    let mut command = from_folder(
        &set,
        &["rehearse", "--server-dir", servers.to_str().unwrap()],
    );
    let path = std::env::var("PATH").unwrap();
    command.env("PATH", format!("{}:{path}", dir.path().display()));
    let output = output(command).await;
    let said = stderr(&output);
    assert_eq!(output.status.code(), Some(5), "{said}");
    assert!(
        said.contains("cp failed: cp: 1: Input/output error")
            && said.contains("… and 95 lines more"),
        "{said}"
    );
    assert!(!servers.join("server-0/data").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_files_that_could_never_be_served_is_rehearsed_all_the_same() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_t", "CREATE TABLE t ();", "DROP TABLE t;"),
        ("2_blank", "-- later", "SELECT 1;"),
        (
            "3_setting",
            "-- schemad: lock_timeout=long\nSELECT 1;",
            "SELECT 1;",
        ),
        ("4_u", "CREATE TABLE u ();", "DROP TABLE u;"),
    ]);
    std::fs::write(
        set.path().join("4_u/metadata.toml"),
        "run_in_transaction = \"no\"",
    )
    .unwrap();
    let other = Set::tables(1);
    let said = run(
        &other,
        Some(&database.url),
        &["--dir", set.path().to_str().unwrap()],
    )
    .await;
    let expected = [
        ("1", "RESTORES"),
        ("2", "UP_FAILS"),
        ("3", "UP_FAILS"),
        ("4", "RESTORES"),
    ];
    assert_eq!(said.verdicts(), expected, "{}", said.stderr);
    assert_eq!(said.of("2")["failure"]["reason"], "INVALID_MIGRATION");
    assert!(
        said.stderr
            .contains("4_u/metadata.toml: run_in_transaction is not true or false"),
        "{}",
        said.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_extension_that_the_server_lacks_is_the_ups_failure() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[(
        "1_x",
        "CREATE EXTENSION no_such_extension;",
        "DROP EXTENSION no_such_extension;",
    )]);
    let said = run(&set, Some(&database.url), &[]).await;
    assert_eq!(
        (said.verdicts(), said.code),
        (vec![("1", "UP_FAILS")], Some(3))
    );
    assert!(
        said.of("1")["failure"]["message"]
            .as_str()
            .unwrap()
            .contains("no_such_extension"),
        "{}",
        said.of("1")
    );
}

/// What an extension wants to be loaded with the server is loaded with the private one on demand.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_private_server_loads_what_it_is_told_to() {
    let up = "DO $$ BEGIN ASSERT current_setting('auto_explain.log_min_duration', true) IS NOT \
        NULL; END $$;";
    let set = Set::of(&[("1_x", up, "SELECT 1;")]);
    let without = run(&set, None, &[]).await;
    assert_eq!(
        without.verdicts(),
        [("1", "UP_FAILS")],
        "{}",
        without.stderr
    );
    let with = run(&set, None, &["--preload", "auto_explain"]).await;
    assert_eq!(
        with.verdicts(),
        [("1", "RESTORES")],
        "{} {}",
        with.stderr,
        with.of("1")
    );
    let missing = run(&set, None, &["--preload", "no_such_library"]).await;
    assert!(
        missing.code == Some(5) && missing.stderr.contains("no_such_library"),
        "{}",
        missing.stderr
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_flags_and_sets_are_usage_errors() {
    let set = Set::tables(1);
    for args in [
        &["--address", "127.0.0.1:1", "--dir", "x"][..],
        &["--last", "0"],
        &[
            "--preload",
            "auto_explain",
            "--scratch-database-url",
            "postgres://h/d",
        ],
        &["--all", "--pending"],
        &["--dir", "/nowhere"],
    ] {
        let said = run(&set, None, args).await;
        assert_eq!(said.code, Some(2), "{args:?} {}", said.stderr);
    }
    // Folders in which there is nothing, or the same twice.
    let (empty, twice) = (
        tempfile::tempdir().unwrap(),
        Set::of(&[("1_a", "SELECT 1;", ""), ("1_b", "SELECT 1;", "")]),
    );
    let strange = Set::tables(1);
    std::fs::create_dir(strange.path().join("notes")).unwrap();
    for (dir, problem) in [
        (empty.path(), "there is no migration in it"),
        (twice.path(), "1_b"),
        (strange.path(), "notes: has no up.sql"),
    ] {
        let said = run(&set, None, &["--dir", dir.to_str().unwrap()]).await;
        assert_eq!(said.code, Some(2), "{}", said.stderr);
        assert!(
            said.stderr.contains(problem) && !said.stderr.contains("embedded"),
            "{}",
            said.stderr
        );
    }
    let said = run(&set, Some("postgres://nobody@127.0.0.1:1/x"), &[]).await;
    assert_eq!(said.code, Some(5), "{}", said.stderr);
}
