//! A statement that holds a password and fails: neither it nor what the server quotes of it is
//! printed or kept anywhere but in schemad.scripts, where every migration's text lies.

use crate::harness::{
    Process, Set, TestDatabase,
    process::{from_folder, output, schemad, stderr, stdout},
};

/// Nothing else that is printed has these letters.
const MARK: &str = "Zq7markZq7";

/// Scripts that hold the mark as a password, and fail in every way that comes to mind.
fn failing() -> Vec<(&'static str, String, bool)> {
    let sql = |text: &str| text.replace("MARK", MARK);
    let mut all = Vec::new();
    for (what, text) in [
        (
            "an unknown option",
            "CREATE ROLE {role} PASSWORD 'MARK' NOSUCHOPTION;",
        ),
        ("a misspelt word", "CREATE ROLE {role} PASSWRD 'MARK';"),
        (
            "a quote in the password",
            "CREATE ROLE {role} PASSWORD 'x'MARK';",
        ),
        ("no quotes", "CREATE ROLE {role} PASSWORD MARK;"),
        ("double quotes", "CREATE ROLE {role} PASSWORD \"MARK\";"),
        (
            "a role that is not there",
            "ALTER USER {role}_nobody WITH ENCRYPTED PASSWORD $$MARK$$;",
        ),
        (
            "another statement on its line",
            "CREATE ROLE {role} PASSWORD 'MARK'; SELECT 1/0;",
        ),
        (
            "a line of its own",
            "SELECT 1;\nALTER GROUP {role}_nobody\n  PASSWORD\n  'MARK';",
        ),
        (
            "a user mapping",
            "CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere OPTIONS (user 'u', password \
             'MARK');",
        ),
        (
            "a user mapping's misspelt option",
            "CREATE USER MAPPING FOR CURRENT_USER SERVER nowhere OPTIONS (pasword 'MARK' x);",
        ),
        (
            "a server",
            "CREATE SERVER s FOREIGN DATA WRAPPER nowhere OPTIONS (passwd 'MARK');",
        ),
        (
            "a subscription",
            "CREATE SUBSCRIPTION s CONNECTION 'host=127.0.0.1 port=1 password=MARK dbname=x' \
             PUBLICATION p;",
        ),
        (
            "a subscription's broken connection",
            "CREATE SUBSCRIPTION s CONNECTION 'host=h password=a MARK' PUBLICATION p WITH (connect \
             = false);",
        ),
        (
            "a subscription's URL",
            "ALTER SUBSCRIPTION nowhere CONNECTION 'postgres://u:MARK@h/d';",
        ),
        (
            "dblink",
            "SELECT dblink_connect('host=127.0.0.1 user=u password=MARK');",
        ),
        (
            "dblink with a URL",
            "SELECT * FROM dblink('postgresql://u:MARK@127.0.0.1:1/d', 'SELECT 1') AS t(n int);",
        ),
        (
            "a block",
            "DO $$ BEGIN EXECUTE 'CREATE ROLE {role} PASSWORD ''MARK'' NOSUCHOPTION'; END $$;",
        ),
        (
            "a block that fails otherwise",
            "DO $$ BEGIN EXECUTE format('CREATE ROLE {role} PASSWRD %L', 'MARK'); END $$;",
        ),
        (
            "a function's statement",
            "CREATE FUNCTION make(secret text) RETURNS void LANGUAGE plpgsql AS $$ BEGIN EXECUTE \
             format('ALTER ROLE {role}_nobody PASSWORD %L', secret); END $$;\nSELECT \
             make('MARK');",
        ),
        (
            "a setting",
            "SET nowhere.secret = 'MARK' 'x'; ALTER ROLE {role} PASSWORD 'MARK';",
        ),
        (
            "a comment about it",
            "CREATE ROLE {role} NOSUCHOPTION; -- password MARK",
        ),
    ] {
        all.push((what, sql(text), true));
        // What is sent in one message and what is sent alone has two ways to the failure; a few of
        // each are enough.
        let alone = [
            "an unknown option",
            "no quotes",
            "dblink",
            "a subscription",
            "a block",
        ];
        if alone.contains(&what) {
            all.push((what, sql(text), false));
        }
    }
    all
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_with_a_password_that_fails_is_shown_nowhere() {
    let mut leaks = Vec::new();
    for (what, text, transactional) in failing() {
        let (database, set) = (TestDatabase::new().await, Set::of(&[]));
        let text = text.replace("{role}", &database.name);
        if transactional {
            set.add("1_secret", &text, "")
        } else {
            set.add_non_transactional("1_secret", &text, "")
        }
        let mut command = from_folder(&set, &["serve", "--log-level", "trace"]);
        command.env("DATABASE_URL", &database.url);
        let mut process = Process::start(command).await;
        let ready = output(schemad(&["wait", "ready", "--address", &process.address])).await;
        assert!(ready.status.success(), "{}", stderr(&ready));
        let mut told = String::new();
        for arguments in [
            &["apply"][..],
            &["apply", "--output", "json"],
            &["history"],
            &["history", "--output", "json"],
            &["status"],
            &["status", "--output", "json"],
        ] {
            let mut command = schemad(arguments);
            command.args(["--address", &process.address]);
            let output = output(command).await;
            if arguments == ["apply"] {
                assert_eq!(output.status.code(), Some(1), "{what}: {}", stderr(&output));
                assert!(
                    stderr(&output).contains("SQLSTATE"),
                    "{what}: {}",
                    stderr(&output)
                );
            }
            told += &(stdout(&output) + &stderr(&output));
        }
        let operation = database
            .text("SELECT id FROM schemad.operations LIMIT 1")
            .await;
        let watch = output(schemad(&[
            "watch",
            &operation,
            "--address",
            &process.address,
            "--output",
            "json",
        ]))
        .await;
        told += &(stdout(&watch) + &stderr(&watch));
        process.signal(nix::sys::signal::Signal::SIGTERM);
        while let Some(event) = process.log.recv().await {
            told += &event.to_string();
        }
        for table in database
            .texts(
                "SELECT tablename FROM pg_tables WHERE schemaname = 'schemad' AND tablename <> \
                'scripts'",
            )
            .await
        {
            told += &database
                .texts(&format!("SELECT t::text FROM schemad.{table} t"))
                .await
                .join("\n");
        }
        if let Some(line) = told.lines().find(|line| line.contains(MARK)) {
            let at = line.find(MARK).unwrap_or_default();
            let around: String = line
                .chars()
                .skip(at.saturating_sub(120))
                .take(200)
                .collect();
            leaks.push(format!("{what} (transactional: {transactional}): {around}"));
        }
    }
    assert!(leaks.is_empty(), "{}", leaks.join("\n"));
}

/// What hides a password must not hide what a person needs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_with_a_password_that_fails_is_still_placed() {
    let (database, set) = (TestDatabase::new().await, Set::of(&[]));
    set.add(
        "1_secret",
        &format!(
            "SELECT 1;\nALTER ROLE {}_nobody\n PASSWORD '{MARK}';",
            database.name
        ),
        "",
    );
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let process = Process::start(command).await;
    output(schemad(&["wait", "ready", "--address", &process.address])).await;
    let apply = output(schemad(&["apply", "--address", &process.address])).await;
    let told = stderr(&apply);
    for word in [
        "1_secret/up.sql",
        "does not exist",
        "42704",
        ":2:",
        "statement 2 of 2",
        "password",
    ] {
        assert!(told.contains(word), "{word}: {told}");
    }
    // A neighbour of such a statement is shown as ever.
    let (database, set) = (TestDatabase::new().await, Set::of(&[]));
    set.add(
        "1_next",
        &format!(
            "CREATE ROLE {} PASSWORD '{MARK}';\nSELECT nope;",
            database.name
        ),
        "",
    );
    let mut command = from_folder(&set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let process = Process::start(command).await;
    output(schemad(&["wait", "ready", "--address", &process.address])).await;
    let told = stderr(&output(schemad(&["apply", "--address", &process.address])).await);
    assert!(
        told.contains("SELECT nope") && told.contains("column \"nope\" does not exist"),
        "{told}"
    );
}
