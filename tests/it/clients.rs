//! The clients in `examples/clients`: each applies, and does with each kind of end what
//! docs/clients.md says.

use std::{path::Path, process::Output};

use tokio::process::Command;

use crate::harness::{
    Set, TestDaemon, TestDatabase, packages,
    process::{output, stderr, stdout},
};

fn example(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("examples/clients")
        .join(name)
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

/// `client` makes the command for a daemon's address.
async fn applies_and_says_why_not(client: impl Fn(&str) -> Command) {
    let database = TestDatabase::new().await;
    let set = Set::of(&[
        ("1_a", "CREATE TABLE a (n int);", "DROP TABLE a;"),
        ("2_b", "CREATE TABLE b (n int);", "DROP TABLE b;"),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    // Another operation is under way: nothing was begun, and the same request comes again.
    let holder = database.connect().await;
    holder
        .batch_execute("SELECT pg_advisory_lock(32478922351141220)")
        .await
        .unwrap();
    let running = tokio::spawn(output(client(&daemon.address)));
    let refused = "SELECT count(*) FROM schemad.refusals WHERE reason = 'BUSY'";
    crate::harness::eventually("it is refused", async || {
        (database.text(refused).await != "0").then_some(())
    })
    .await;
    holder
        .batch_execute("SELECT pg_advisory_unlock(32478922351141220)")
        .await
        .unwrap();
    let applied = running.await.unwrap();
    assert_eq!(code(&applied), Some(0), "{}", stderr(&applied));
    assert_eq!(stdout(&applied), "applied 1_a\napplied 2_b\nversion 2\n");
    assert_eq!(
        database
            .text("SELECT count(*) FROM schemad.operations")
            .await,
        "1"
    );
    daemon.stop().await;

    set.add("3_bad", "CREATE TABEL x ();", "");
    let daemon = TestDaemon::start(&database, &set).await;
    let failed = output(client(&daemon.address)).await;
    assert_eq!(code(&failed), Some(1));
    assert!(
        stderr(&failed).starts_with("MIGRATION_FAILED: 3_bad/up.sql, line 1, column 8"),
        "{}",
        stderr(&failed)
    );
    daemon.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_python_client_applies() {
    let wanted = [
        "grpcio==1.*",
        "grpcio-reflection==1.*",
        "googleapis-common-protos==1.*",
    ];
    let Some(python) =
        packages::python(&wanted, "grpc, grpc_reflection, google.rpc.status_pb2").await
    else {
        return;
    };
    applies_and_says_why_not(|address| {
        let mut command = Command::new(&python);
        command
            .arg(example("apply.py"))
            .arg(address)
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .kill_on_drop(true);
        command
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_node_client_applies() {
    let Some(folder) = packages::node(&["@grpc/grpc-js@1", "@grpc/proto-loader@0"]).await else {
        return;
    };
    // Node looks for packages beside the file.
    let copy = folder.join("apply.mjs");
    std::fs::copy(example("apply.mjs"), &copy).unwrap();
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    applies_and_says_why_not(|address| {
        let mut command = Command::new("node");
        command
            .arg(&copy)
            .arg(address)
            .arg(&protos)
            .kill_on_drop(true);
        command
    })
    .await;
}

/// The commands of "In two minutes" in docs/security.md, as they stand there but for names and
/// ports.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn security_in_two_minutes_works_as_typed() {
    let database = TestDatabase::new().await;
    let guide =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/security.md"))
            .unwrap();
    let section = guide
        .split("## In two minutes")
        .nth(1)
        .unwrap()
        .split("\n## ")
        .next()
        .unwrap();
    let blocks: Vec<&str> = section
        .split("```sh\n")
        .skip(1)
        .map(|block| block.split("```").next().unwrap())
        .collect();
    let place = tempfile::tempdir().unwrap();
    let migration = place.path().join("migrations/0001_t");
    std::fs::create_dir_all(&migration).unwrap();
    std::fs::write(migration.join("up.sql"), "CREATE TABLE t (id int);").unwrap();
    let programs = Path::new(env!("CARGO_BIN_EXE_schemad")).parent().unwrap();
    let path = format!("{}:{}", programs.display(), std::env::var("PATH").unwrap());
    let shell = |text: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-euc", text])
            .current_dir(place.path())
            .env("PATH", &path)
            .kill_on_drop(true);
        command
    };
    let made = output(shell(blocks[0])).await;
    assert!(made.status.success(), "{}", stderr(&made));
    let lines: Vec<&str> = blocks[1].lines().collect();
    let token = output(shell(lines[0])).await;
    assert!(token.status.success(), "{}", stderr(&token));
    let (port, admin) = (crate::harness::free_port(), crate::harness::free_port());
    let serve = lines[1].replace("50051", &port.to_string());
    let mut daemon = shell(&format!("exec {serve} --admin-listen 127.0.0.1:{admin}"));
    let mut daemon = daemon
        .env("DATABASE_URL", &database.url)
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let apply = lines[2].replace("schemad.internal:50051", &format!("localhost:{port}"));
    let applied = output(shell(&apply)).await;
    assert!(
        stdout(&applied).starts_with("Done: "),
        "{} {}",
        stdout(&applied),
        stderr(&applied)
    );
    let stranger = output(shell(&apply.replace("$(cat ci.token)", "schemad_wrong"))).await;
    assert!(
        !stranger.status.success() && stderr(&stranger).contains("CREDENTIAL_INVALID"),
        "{}",
        stderr(&stranger)
    );
    daemon.kill().await.unwrap();
}
