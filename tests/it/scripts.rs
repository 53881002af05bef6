//! The scripts around the daemon start: a bench or a comparison that nobody has run for a while
//! must not turn out to be broken when it is needed.

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
};

use tokio::process::Command;

use crate::harness::{
    Set, TestDatabase,
    process::{example, output, stderr, stdout},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn script(name: &str, args: &[&str]) -> Command {
    let mut command = Command::new(root().join(name));
    command
        .args(args)
        .env_remove("DATABASE_URL")
        .kill_on_drop(true);
    command
}

/// It ends well; what it says.
#[track_caller]
fn well(output: &std::process::Output) -> String {
    assert!(
        output.status.success(),
        "{:?}\n{}\n{}",
        output.status,
        stdout(output),
        stderr(output)
    );
    stdout(output)
}

/// Every file that the shell or Python runs, but for what a package manager or a build has put
/// there.
fn scripts(folder: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if entry.file_type()?.is_dir() {
            if !["target", ".git", "node_modules", "fuzz"].contains(&name.as_str()) {
                scripts(&path, found)?;
            }
        } else if fs::read(&path)?.starts_with(b"#!") {
            found.insert(path.strip_prefix(root()).unwrap().to_owned());
        }
    }
    Ok(())
}

#[test]
fn every_script_has_a_test_that_starts_it() {
    const STARTED: [&str; 9] = [
        ".ci/run",                 // lint, and the tests again
        "benches/apply.py",        // below
        "benches/rehearse.py",     // below
        "deploy/check.sh",         // below
        "deploy/rootfs.sh",        // by check.sh
        "dev",                     // below
        "examples/lease/shell.sh", // lease::examples
        "tests/real.py",           // below
        "tests/real_rehearse.py",  // below
    ];
    let mut found = BTreeSet::new();
    scripts(root(), &mut found).unwrap();
    let found: Vec<_> = found.iter().map(|path| path.to_str().unwrap()).collect();
    assert_eq!(found, STARTED);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_benches_start() {
    let from_folder = example("from_folder");
    let args = [
        "--migrations",
        "3",
        "--pairs",
        "1",
        "--schemad",
        from_folder.to_str().unwrap(),
    ];
    let said = well(&output(script("benches/apply.py", &args)).await);
    assert!(said.contains("median ratio"), "{said}");
    let schemad = env!("CARGO_BIN_EXE_schemad");
    let args = ["--migrations", "3", "--starts", "--schemad", schemad];
    let said = well(&output(script("benches/rehearse.py", &args)).await);
    assert!(said.contains("starts"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_comparisons_with_diesel_cli_start() {
    let set = Set::tables(2);
    let database = TestDatabase::new().await;
    let folder = set.path().to_str().unwrap();
    let from_folder = example("from_folder");
    let mut command = script(
        "tests/real.py",
        &[
            folder,
            "--starts",
            "--schemad",
            from_folder.to_str().unwrap(),
        ],
    );
    command.env("TEST_DATABASE_URL", &database.url);
    let said = well(&output(command).await);
    assert!(said.contains(": starts"), "{said}");
    let args = [
        folder,
        "--starts",
        "--schemad",
        env!("CARGO_BIN_EXE_schemad"),
    ];
    let said = well(&output(script("tests/real_rehearse.py", &args)).await);
    assert!(said.contains("starts, with 2 verdicts"), "{said}");
}

/// A debug build is larger than what the image may hold.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_check_of_the_image_and_the_developers_commands_start() {
    let port = free_ports();
    let mut command = script("deploy/check.sh", &[env!("CARGO_BIN_EXE_schemad")]);
    command
        .env("CHECK_LIMIT", "1000000000")
        .env("CHECK_PORT", port.to_string());
    let said = well(&output(command).await);
    assert!(said.contains("all is well"), "{said}");
    let said = well(&output(script("dev", &["help"])).await);
    assert!(said.contains("usage: ./dev"), "{said}");
    let folder = tempfile::tempdir().unwrap();
    let mut command = script("dev", &["new", "Create things"]);
    command.env("SCHEMAD_MIGRATIONS", folder.path());
    let made = well(&output(command).await);
    assert!(
        made.trim_end().ends_with("_create_things")
            && Path::new(made.trim_end()).join("up.sql").exists(),
        "{made}"
    );
    let mut command = Command::new("bash");
    command.arg("-n").arg(root().join(".ci/run"));
    well(&output(command).await);
}

/// The first of two ports that are free, below those that the system gives away.
fn free_ports() -> u16 {
    let free = |port| std::net::TcpListener::bind(("127.0.0.1", port)).is_ok();
    let first = 20_000 + u16::try_from(std::process::id() % 5_000).unwrap() * 2;
    (first..32_000)
        .step_by(2)
        .find(|port| free(*port) && free(port + 1))
        .unwrap()
}
