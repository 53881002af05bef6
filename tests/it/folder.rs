//! `--dir`: a daemon of a team without a Rust toolchain, whose migrations are a folder of SQL.

use std::fs;

use crate::harness::{
    Process, Set, TestDatabase, eventually,
    process::{output, schemad, stderr, stdout},
};

async fn serve(database: &TestDatabase, set: &Set) -> Process {
    let mut command = schemad(&["serve", "--dir", set.path().to_str().unwrap()]);
    command.env("DATABASE_URL", &database.url);
    Process::start(command).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_is_read_once_at_the_start() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let ask = async |daemon: &Process, arguments: &[&str]| {
        let address = format!("http://{}", daemon.address);
        let answer = output(schemad(&[arguments, &["--address", &address]].concat())).await;
        assert!(
            answer.status.success(),
            "{arguments:?}: {}",
            stderr(&answer)
        );
        stdout(&answer) + &stderr(&answer)
    };
    let mut daemon = serve(&database, &set).await;
    eventually("ready", async || {
        (crate::harness::daemon::get(&daemon.admin, "/readyz")
            .await
            .0
            == 200)
            .then_some(())
    })
    .await;
    assert!(
        ask(&daemon, &["apply"])
            .await
            .contains("Done: 2 of 2 steps done")
    );
    // What comes into the folder, or changes or leaves there, is for the next start.
    set.add("0003_t3", "CREATE TABLE t3 (id int);", "DROP TABLE t3;");
    fs::write(set.path().join("0001_t1/up.sql"), "SELECT 'another';").unwrap();
    fs::remove_dir_all(set.path().join("0002_t2")).unwrap();
    let applied = ask(&daemon, &["apply"]).await;
    assert!(applied.contains("Nothing to do"));
    let status = ask(&daemon, &["status"]).await;
    assert!(
        status.contains("CURRENT") && status.contains("2 migrations"),
        "{status}"
    );
    // And nobody has to wonder why.
    for (whose, told) in [("apply", &applied), ("status", &status)] {
        let told = told.split_whitespace().collect::<Vec<_>>().join(" ");
        for part in [
            "new: 0003_t3; changed: 0001_t1; gone: 0002_t2",
            "start it again",
        ] {
            assert!(told.contains(part), "{whose}: {told}");
        }
    }
    assert!(status.contains("FOLDER_CHANGED"), "{status}");
    // Also where what is there cannot be read.
    fs::write(set.path().join("0001_t1/up.sql"), [0xff, 0xfe]).unwrap();
    assert!(ask(&daemon, &["status"]).await.contains("cannot be used"));
    daemon.kill().await;

    fs::write(
        set.path().join("0001_t1/up.sql"),
        "CREATE TABLE t1 (id int);",
    )
    .unwrap();
    set.add("0002_t2", "CREATE TABLE t2 (id int);", "DROP TABLE t2;");
    let mut daemon = serve(&database, &set).await;
    eventually("ready", async || {
        (crate::harness::daemon::get(&daemon.admin, "/readyz")
            .await
            .0
            == 200)
            .then_some(())
    })
    .await;
    assert!(
        ask(&daemon, &["apply"])
            .await
            .contains("Done: 1 of 1 steps done")
    );
    assert_eq!(database.diesel_versions().await, ["0001", "0002", "0003"]);
    daemon.kill().await;

    let mut doctor = schemad(&["doctor", "--dir", set.path().to_str().unwrap()]);
    doctor.env("DATABASE_URL", &database.url);
    let doctor = output(doctor).await;
    assert!(doctor.status.success(), "{}", stdout(&doctor));
    assert!(
        stdout(&doctor).contains(&format!(
            "3 migration(s) in the folder {}, sha256:",
            set.path().display()
        )),
        "{}",
        stdout(&doctor)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_is_as_it_was_is_not_remarked() {
    let (database, set) = (TestDatabase::new().await, Set::tables(2));
    let mut daemon = serve(&database, &set).await;
    eventually("ready", async || {
        (crate::harness::daemon::get(&daemon.admin, "/readyz")
            .await
            .0
            == 200)
            .then_some(())
    })
    .await;
    // Written again with the same text, as a checkout does, and a file that is nobody's.
    fs::write(
        set.path().join("0001_t1/up.sql"),
        "CREATE TABLE t1 (id int);",
    )
    .unwrap();
    fs::write(set.path().join("0001_t1/README.md"), "x").unwrap();
    let address = format!("http://{}", daemon.address);
    let status = output(schemad(&["status", "--address", &address])).await;
    assert!(
        !stdout(&status).contains("FOLDER_CHANGED"),
        "{}",
        stdout(&status)
    );
    daemon.kill().await;
}

/// What scripts do not qualify would be created among the ledger's tables, and go with them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn migrations_do_not_write_into_the_ledgers_schema_by_accident() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let separator = if database.url.contains('?') { '&' } else { '?' };
    let mut command = schemad(&["serve", "--dir", set.path().to_str().unwrap()]);
    // As for a role that is called schemad, with the default path.
    command.env(
        "DATABASE_URL",
        format!(
            "{}{separator}options=-csearch_path%3Dschemad,public",
            database.url
        ),
    );
    let mut daemon = Process::start(command).await;
    let address = format!("http://{}", daemon.address);
    for _ in 0..2 {
        let refused = output(schemad(&["apply", "--address", &address])).await;
        assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
        assert!(
            stderr(&refused).contains("SEARCH_PATH_UNSAFE"),
            "{}",
            stderr(&refused)
        );
    }
    eventually("it is told", async || {
        let status = stdout(&output(schemad(&["status", "--address", &address])).await);
        status.contains("SEARCH_PATH_UNSAFE").then_some(())
    })
    .await;
    assert_eq!(
        database
            .text("SELECT count(*) FROM pg_class WHERE relname = 't1'")
            .await,
        "0"
    );
    let mut doctor = schemad(&["doctor", "--dir", set.path().to_str().unwrap()]);
    doctor.env(
        "DATABASE_URL",
        format!(
            "{}{separator}options=-csearch_path%3Dschemad,public",
            database.url
        ),
    );
    assert_eq!(output(doctor).await.status.code(), Some(3));
    daemon.kill().await;
}

/// A schemad that was built as it is holds seventeen migrations of nobody who runs it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_example_is_applied_to_no_database_that_was_named() {
    let database = TestDatabase::new().await;
    for arguments in [
        &["serve"][..],
        &["serve", "--apply-on-start"],
        &["dev"],
        &["rehearse"],
    ] {
        let mut command = schemad(arguments);
        command
            .env_remove("SCHEMAD_EXAMPLE")
            .env("DATABASE_URL", &database.url)
            .env("HOME", "/tmp");
        let ended = output(command).await;
        let told = stderr(&ended);
        assert_eq!(ended.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(
            told.contains("--dir") && told.contains("--example"),
            "{arguments:?}: {told}"
        );
    }
    let mut doctor = schemad(&["doctor"]);
    doctor
        .env_remove("SCHEMAD_EXAMPLE")
        .env("DATABASE_URL", &database.url);
    let doctor = output(doctor).await;
    assert!(
        doctor.status.success() && stdout(&doctor).contains("schemad's own example"),
        "{}",
        stdout(&doctor)
    );
    // The variable of the build has a name that is easily taken for the daemon's.
    let mut doctor = schemad(&["doctor"]);
    doctor
        .env("SCHEMAD_MIGRATIONS", "/somewhere")
        .env("DATABASE_URL", &database.url);
    let doctor = output(doctor).await;
    assert!(
        stderr(&doctor).contains("SCHEMAD_MIGRATIONS is a setting of the build")
            && stderr(&doctor).contains("SCHEMAD_DIR")
    );
    let mut command = schemad(&["serve", "--example"]);
    command
        .env_remove("SCHEMAD_EXAMPLE")
        .env("DATABASE_URL", &database.url);
    Process::start(command).await.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_uses_the_folder_that_the_daemon_would() {
    let set = Set::of(&[("0001_only", "CREATE TABLE t (id int);", "SELECT 1;")]);
    fs::write(set.path().join("V2__stray.sql"), "SELECT 1;").unwrap();
    let server = TestDatabase::new().await;
    let mut rehearse = schemad(&["rehearse"]);
    rehearse
        .env("SCHEMAD_DIR", set.path())
        .env("SCRATCH_DATABASE_URL", &server.url);
    let ended = output(rehearse).await;
    let told = stdout(&ended) + &stderr(&ended);
    assert!(
        told.contains("0001_only") && !ended.status.success(),
        "{told}"
    );
    assert!(told.contains("V2__stray.sql: is passed over"), "{told}");
    // Whoever asks a daemon is not kept from that by a variable.
    let mut asks = schemad(&["rehearse", "--address", "127.0.0.1:1"]);
    asks.env("SCHEMAD_DIR", set.path());
    assert_eq!(output(asks).await.status.code(), Some(5));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_be_meant_otherwise_in_a_folder_is_told() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    fs::write(set.path().join("V2__stray.sql"), "SELECT 1;").unwrap();
    let mut doctor = schemad(&["doctor", "--dir", set.path().to_str().unwrap()]);
    doctor.env("DATABASE_URL", &database.url);
    let doctor = output(doctor).await;
    assert!(
        doctor.status.success() && stdout(&doctor).contains("V2__stray.sql: is passed over"),
        "{}",
        stdout(&doctor)
    );
    let mut command = schemad(&["serve", "--dir", set.path().to_str().unwrap()]);
    command.env("DATABASE_URL", &database.url);
    command.args([
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
        "--log-format",
        "json",
    ]);
    let mut child = command
        .stderr(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines =
        tokio::io::AsyncBufReadExt::lines(tokio::io::BufReader::new(child.stderr.take().unwrap()));
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            if line.contains("daemon.folder_remark") {
                return line;
            }
        }
        panic!("the daemon ended");
    };
    let told = tokio::time::timeout(crate::harness::PATIENCE, told)
        .await
        .unwrap();
    assert!(
        told.contains("V2__stray.sql") && told.contains("WARN"),
        "{told}"
    );
    child.kill().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_the_build_would_refuse_ends_the_start() {
    let database = TestDatabase::new().await;
    for (file, text, named) in [
        ("0001_a/up.sql", "", "0001_a/up.sql"),
        ("0001_b/up.sql", "SELECT 1;", "0001"),
        (
            "0002_c/metadata.toml",
            "run_in_transactions = false",
            "metadata.toml",
        ),
    ] {
        let set = Set::of(&[
            ("0001_a", "SELECT 1;", "SELECT 1;"),
            ("0002_c", "SELECT 1;", "SELECT 1;"),
        ]);
        fs::create_dir_all(set.path().join(file).parent().unwrap()).unwrap();
        fs::write(set.path().join(file), text).unwrap();
        let dir = set.path().to_str().unwrap();
        for command in ["serve", "dev", "doctor"] {
            let mut started = schemad(&[command, "--dir", dir]);
            started.env("DATABASE_URL", &database.url);
            let ended = output(started).await;
            let told = stderr(&ended);
            assert_eq!(ended.status.code(), Some(2), "{command} {file}: {told}");
            assert!(
                told.contains(named) && told.contains("--dir"),
                "{command} {file}: {told}"
            );
        }
    }
    let mut nowhere = schemad(&["serve", "--dir", "/nowhere/at/all"]);
    nowhere.env("DATABASE_URL", &database.url);
    let ended = output(nowhere).await;
    assert!(
        ended.status.code() == Some(2) && stderr(&ended).contains("/nowhere/at/all"),
        "{}",
        stderr(&ended)
    );
}

/// A file .env may have come with a checkout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_env_names_only_a_folder_beside_it() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let checkout = tempfile::tempdir().unwrap();
    fs::write(
        checkout.path().join(".env"),
        format!("SCHEMAD_DIR={}", set.path().display()),
    )
    .unwrap();
    let mut doctor = schemad(&["doctor"]);
    doctor
        .env("DATABASE_URL", &database.url)
        .current_dir(checkout.path());
    let ended = output(doctor).await;
    assert!(
        ended.status.code() == Some(2) && stderr(&ended).contains("names only folders beside it"),
        "{}",
        stderr(&ended)
    );
}
