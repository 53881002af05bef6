//! `schemad dev`: the private PostgreSQL belongs to the daemon, however that ends.

use nix::sys::signal::Signal;
use tokio::process::Command;

use crate::harness::{
    Process, TestDatabase, eventually,
    process::{output, schemad, stderr, stdout},
};

fn dev(dir: &std::path::Path) -> Command {
    let mut command = schemad(&["dev"]);
    command
        .env("HOME", "/nonexistent")
        .env("SCHEMAD_DATA_DIR", dir);
    command
}

/// A folder that the server's user can reach.
fn data_dir() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    dir
}

/// The postmaster of a data folder, if it is alive.
fn server(dir: &std::path::Path) -> Option<i32> {
    let pid = std::fs::read_to_string(dir.join("data/postmaster.pid"))
        .ok()?
        .lines()
        .next()?
        .parse()
        .ok()?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), None)
        .is_ok()
        .then_some(pid)
}

async fn status(process: &Process) -> String {
    let arguments = ["wait", "current", "--address", process.address.as_str()];
    assert_eq!(output(schemad(&arguments)).await.status.code(), Some(0));
    stdout(&output(schemad(&["status", "--address", &process.address])).await)
}

/// A developer whose file is still being written is told how to go on, and not how production does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_applied_comes_with_a_developers_ways() {
    use tokio::io::{AsyncBufReadExt as _, BufReader};
    let (root, set) = (data_dir(), crate::harness::Set::tables(1));
    set.add("2_oops", "CREATE TABEL x ();", "DROP TABLE x;");
    let mut command = dev(&root.path().join("data"));
    command.args([
        "--dir",
        set.path().to_str().unwrap(),
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    let mut child = command
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut said = String::new();
    let told = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            said += &format!("{line}\n");
            if line.contains("everything in this one is lost") {
                break;
            }
        }
    };
    tokio::time::timeout(crate::harness::PATIENCE, told)
        .await
        .expect("nothing is said");
    assert!(
        said.contains("Not everything is applied") && said.contains(" dev --reset"),
        "{said}"
    );
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(child.id().unwrap() as i32),
        Signal::SIGTERM,
    )
    .unwrap();
    child.wait().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_comes_up_migrated_survives_kill_9_and_takes_its_server_with_it() {
    let root = data_dir();
    let dir = root.path().join("data dir");
    let mut process = Process::start(dev(&dir)).await;
    assert!(status(&process).await.contains("CURRENT"));
    let pid = server(&dir).expect("no server");
    // Its server is a private one, so there are leases.
    let lease = schemad(&[
        "lease",
        "--address",
        &process.address,
        "--",
        "sh",
        "-c",
        "echo $DATABASE_URL",
    ]);
    assert!(stdout(&output(lease).await).contains("/schemad_scratch_"));

    let second = output(dev(&dir)).await;
    assert_eq!(second.status.code(), Some(2), "the ports are taken");

    process.kill().await;
    eventually("the server goes down with its parent", async || {
        (server(&dir) != Some(pid)).then_some(())
    })
    .await;
    let mut process = Process::start(dev(&dir)).await;
    assert!(
        status(&process).await.contains("CURRENT"),
        "the data are still there"
    );
    process.signal(Signal::SIGINT);
    process.event("daemon.stop").await;
    assert_eq!(process.exit_code().await, Some(0));
    assert_eq!(server(&dir), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_path_too_long_for_a_socket_works_and_a_folder_in_use_is_named() {
    let root = data_dir();
    let dir = root.path().join("d".repeat(120));
    let process = Process::start(dev(&dir)).await;
    assert!(status(&process).await.contains("CURRENT"));
    let mut second = dev(&dir);
    second.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let second = output(second).await;
    assert_eq!(second.status.code(), Some(2));
    assert!(
        stderr(&second).contains("is in use by another process"),
        "{}",
        stderr(&second)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folder_with_somebody_elses_files_is_left_alone() {
    let root = data_dir();
    std::fs::create_dir(root.path().join("data")).unwrap();
    std::fs::write(root.path().join("data/precious"), "x").unwrap();
    let mut command = dev(root.path());
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0"]);
    let output = output(command).await;
    assert_eq!(output.status.code(), Some(2));
    assert!(
        stderr(&output).contains("holds files that schemad did not make"),
        "{}",
        stderr(&output)
    );
    assert!(root.path().join("data/precious").exists());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_of_an_env_file_is_left_alone() {
    let (root, project, database) = (
        data_dir(),
        tempfile::tempdir().unwrap(),
        TestDatabase::new().await,
    );
    std::fs::write(
        project.path().join(".env"),
        format!(
            "DATABASE_URL={url}\nMIGRATION_DATABASE_URL={url}\nSCHEMAD_LEASE_DATABASE_URL={url}\n\
             SCHEMAD_LEASE_CLIENT_URL={url}\n",
            url = database.url
        ),
    )
    .unwrap();
    let mut command = dev(root.path());
    command.current_dir(project.path());
    let mut process = Process::start(command).await;
    assert!(status(&process).await.contains("/dev") || server(root.path()).is_some());
    let lease = schemad(&[
        "lease",
        "--address",
        &process.address,
        "--",
        "sh",
        "-c",
        "echo $DATABASE_URL",
    ]);
    let lease = output(lease).await;
    assert_eq!(lease.status.code(), Some(0), "{}", stderr(&lease));
    let there = "SELECT count(*) FROM pg_namespace WHERE nspname = 'schemad'";
    assert_eq!(
        database.text(there).await,
        "0",
        "dev has migrated the database of .env"
    );
    process.signal(Signal::SIGINT);
    process.exit_code().await;
    // What the environment names is what it takes.
    let mut command = dev(root.path());
    command
        .current_dir(project.path())
        .env("DATABASE_URL", &database.url);
    let process = Process::start(command).await;
    assert!(status(&process).await.contains("CURRENT"));
    assert_eq!(database.text(there).await, "1");
}

/// Drivers disagree about how a unix socket stands in a URL, and agree about an address and a
/// password.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leases_url_is_one_that_every_driver_takes() {
    let root = data_dir();
    let mut process = Process::start(dev(root.path())).await;
    status(&process).await;
    let script = "echo $DATABASE_URL; read -r _";
    let mut command = schemad(&[
        "lease",
        "--address",
        &process.address,
        "--",
        "sh",
        "-c",
        script,
    ]);
    command
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped());
    let mut lease = command.spawn().unwrap();
    let mut url = String::new();
    let mut lines = tokio::io::BufReader::new(lease.stdout.take().unwrap());
    tokio::io::AsyncBufReadExt::read_line(&mut lines, &mut url)
        .await
        .unwrap();
    let url = url.trim();
    let rest = url
        .strip_prefix("postgresql://")
        .unwrap_or_else(|| panic!("{url}"));
    let (user_info, place) = rest.split_once('@').unwrap_or_else(|| panic!("{url}"));
    let (user, password) = user_info.split_once(':').unwrap_or_else(|| panic!("{url}"));
    assert!(
        place.starts_with("127.0.0.1:") && !url.contains('%') && password.len() >= 20,
        "{url}"
    );
    let client = crate::harness::database::connect(url).await;
    client
        .batch_execute("CREATE TABLE mine (n int); INSERT INTO mine VALUES (1); DROP TABLE mine")
        .await
        .unwrap();
    client
        .batch_execute("INSERT INTO __diesel_schema_migrations VALUES ('x')")
        .await
        .unwrap();
    // Whoever may lease is not the server's superuser: that one runs programs as the user of the
    // server.
    let row = client
        .query_one(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user",
            &[],
        )
        .await
        .unwrap();
    assert!(!row.get::<_, bool>(0), "{user} is a superuser");
    // Nobody gets in over TCP without the password, whatever user and database they name.
    for name in [user, "postgres"] {
        for (database, password) in [
            ("dev", ""),
            ("postgres", ":wrong"),
            ("template1", ":postgres"),
        ] {
            let address = place.split('/').next().unwrap();
            let wrong = format!("postgresql://{name}{password}@{address}/{database}");
            assert!(
                tokio_postgres::connect(&wrong, tokio_postgres::NoTls)
                    .await
                    .is_err(),
                "{wrong}"
            );
        }
    }
    drop(client);
    drop(lease.stdin.take());
    lease.wait().await.unwrap();
    process.signal(Signal::SIGINT);
    process.exit_code().await;
}

/// A developer edits a migration after it was applied, again and again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reset_begins_with_an_empty_database() {
    let (root, set) = (data_dir(), crate::harness::Set::tables(2));
    let dir = root.path().join("data");
    let of_the_set = |more: &[&str]| {
        let mut command = dev(&dir);
        command
            .args(["--dir", set.path().to_str().unwrap()])
            .args(more);
        command
    };
    let mut process = Process::start(of_the_set(&[])).await;
    assert!(
        status(&process)
            .await
            .contains("all 2 migrations are applied")
    );
    process.kill().await;
    eventually("the server goes down with its parent", async || {
        server(&dir).is_none().then_some(())
    })
    .await;
    std::fs::write(
        set.path().join("0001_t1/up.sql"),
        "CREATE TABLE t1 (id bigint);",
    )
    .unwrap();

    let mut process = Process::start(of_the_set(&[])).await;
    process.event("daemon.apply_on_start_failed").await;
    process.kill().await;
    eventually("the server goes down with its parent", async || {
        server(&dir).is_none().then_some(())
    })
    .await;
    let mut process = Process::start(of_the_set(&["--reset"])).await;
    assert!(
        status(&process)
            .await
            .contains("all 2 migrations are applied")
    );
    process.kill().await;
    eventually("the server goes down with its parent", async || {
        server(&dir).is_none().then_some(())
    })
    .await;

    let database = TestDatabase::new().await;
    let mut command = schemad(&[
        "dev",
        "--reset",
        "--listen",
        "127.0.0.1:0",
        "--admin-listen",
        "127.0.0.1:0",
    ]);
    command.env("DATABASE_URL", &database.url);
    let refused = output(command).await;
    assert!(
        refused.status.code() == Some(2) && stderr(&refused).contains("nobody's to drop"),
        "{}",
        stderr(&refused)
    );
}
