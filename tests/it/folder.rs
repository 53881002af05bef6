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
        assert!(answer.status.success(), "{arguments:?}: {}", stderr(&answer));
        stdout(&answer) + &stderr(&answer)
    };
    let mut daemon = serve(&database, &set).await;
    eventually("ready", async || (crate::harness::daemon::get(&daemon.admin, "/readyz").await.0 == 200).then_some(()))
        .await;
    assert!(ask(&daemon, &["apply"]).await.contains("Done: 2 of 2 steps done"));
    // What comes into the folder, or changes or leaves there, is for the next start.
    set.add("0003_t3", "CREATE TABLE t3 (id int);", "DROP TABLE t3;");
    fs::write(set.path().join("0001_t1/up.sql"), "SELECT 'another';").unwrap();
    fs::remove_dir_all(set.path().join("0002_t2")).unwrap();
    assert!(ask(&daemon, &["apply"]).await.contains("Nothing to do"));
    let status = ask(&daemon, &["status"]).await;
    assert!(status.contains("CURRENT") && status.contains("2 migrations"), "{status}");
    daemon.kill().await;

    fs::write(set.path().join("0001_t1/up.sql"), "CREATE TABLE t1 (id int);").unwrap();
    set.add("0002_t2", "CREATE TABLE t2 (id int);", "DROP TABLE t2;");
    let mut daemon = serve(&database, &set).await;
    eventually("ready", async || (crate::harness::daemon::get(&daemon.admin, "/readyz").await.0 == 200).then_some(()))
        .await;
    assert!(ask(&daemon, &["apply"]).await.contains("Done: 1 of 1 steps done"));
    assert_eq!(database.diesel_versions().await, ["0001", "0002", "0003"]);
    daemon.kill().await;

    let mut doctor = schemad(&["doctor", "--dir", set.path().to_str().unwrap()]);
    doctor.env("DATABASE_URL", &database.url);
    let doctor = output(doctor).await;
    assert!(doctor.status.success(), "{}", stdout(&doctor));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_that_the_build_would_refuse_ends_the_start() {
    let database = TestDatabase::new().await;
    for (file, text, named) in [
        ("0001_a/up.sql", "", "0001_a/up.sql"),
        ("0001_b/up.sql", "SELECT 1;", "0001"),
        ("0002_c/metadata.toml", "run_in_transactions = false", "metadata.toml"),
    ] {
        let set = Set::of(&[("0001_a", "SELECT 1;", "SELECT 1;"), ("0002_c", "SELECT 1;", "SELECT 1;")]);
        fs::create_dir_all(set.path().join(file).parent().unwrap()).unwrap();
        fs::write(set.path().join(file), text).unwrap();
        let dir = set.path().to_str().unwrap();
        for command in ["serve", "dev", "doctor"] {
            let mut started = schemad(&[command, "--dir", dir]);
            started.env("DATABASE_URL", &database.url);
            let ended = output(started).await;
            let told = stderr(&ended);
            assert_eq!(ended.status.code(), Some(2), "{command} {file}: {told}");
            assert!(told.contains(named) && told.contains("--dir"), "{command} {file}: {told}");
        }
    }
    let mut nowhere = schemad(&["serve", "--dir", "/nowhere/at/all"]);
    nowhere.env("DATABASE_URL", &database.url);
    let ended = output(nowhere).await;
    assert!(ended.status.code() == Some(2) && stderr(&ended).contains("/nowhere/at/all"), "{}", stderr(&ended));
}

/// A file .env may have come with a checkout.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_env_names_only_a_folder_beside_it() {
    let (database, set) = (TestDatabase::new().await, Set::tables(1));
    let checkout = tempfile::tempdir().unwrap();
    fs::write(checkout.path().join(".env"), format!("SCHEMAD_DIR={}", set.path().display())).unwrap();
    let mut doctor = schemad(&["doctor"]);
    doctor.env("DATABASE_URL", &database.url).current_dir(checkout.path());
    let ended = output(doctor).await;
    assert!(
        ended.status.code() == Some(2) && stderr(&ended).contains("names only folders beside it"),
        "{}",
        stderr(&ended)
    );
}
