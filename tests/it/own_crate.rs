//! `examples/own-crate`, built twice: a migration that was added in between is in the second
//! binary.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::process::Command;

use crate::harness::{
    TestDatabase,
    process::{output, stderr, stdout},
};

/// A build compiles schemad once more, perhaps beside other tests.
const BUILT_WITHIN: Duration = Duration::from_secs(900);

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let to = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true if path.ends_with("target") => {}
            true => copy(&path, &to),
            false => drop(fs::copy(&path, &to).unwrap()),
        }
    }
}

fn add(folder: &Path, name: &str, up: &str) {
    let folder = folder.join("migrations").join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("up.sql"), up).unwrap();
    fs::write(folder.join("down.sql"), "SELECT 1;").unwrap();
}

/// Builds in the target folder of these tests, with their settings, so that the dependencies are
/// there already.
async fn build(folder: &Path) -> Result<PathBuf, String> {
    let target = Path::new(env!("CARGO_BIN_EXE_schemad"))
        .ancestors()
        .nth(2)
        .unwrap();
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args([
        "build",
        "--offline",
        "--config",
        r#"profile.dev.debug="line-tables-only""#,
    ]);
    command
        .current_dir(folder)
        .env("CARGO_TARGET_DIR", target)
        .kill_on_drop(true);
    let output = tokio::time::timeout(BUILT_WITHIN, command.output())
        .await
        .expect("the build hangs")
        .unwrap();
    if output.status.success() {
        Ok(target.join("debug/own-crate"))
    } else {
        Err(stderr(&output))
    }
}

async fn rehearsed(program: &Path, url: &str) -> Vec<String> {
    let mut command = Command::new(program);
    command.args([
        "rehearse",
        "--output",
        "json",
        "--scratch-database-url",
        url,
    ]);
    let output = output(command).await;
    let objects = stdout(&output)
        .lines()
        .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap())
        .collect::<Vec<_>>();
    objects
        .iter()
        .filter_map(|object| {
            Some(format!(
                "{} {}",
                object["version"].as_str()?,
                object["verdict"].as_str()?
            ))
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_migration_is_in_the_next_build_and_a_bad_one_fails_it() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let place = tempfile::tempdir().unwrap();
    let folder = place.path().join("own-crate");
    copy(&root.join("examples/own-crate"), &folder);
    fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).unwrap();
    let here = |path: &str| format!("path = {:?}", root.join(path));
    let manifest = manifest
        .replace(r#"path = "../../build""#, &here("build"))
        .replace(r#"path = "../..""#, &here(""));
    fs::write(folder.join("Cargo.toml"), manifest).unwrap();

    let database = TestDatabase::new().await;
    let first = build(&folder).await.unwrap();
    assert_eq!(
        rehearsed(&first, &database.url).await,
        ["20261101090000 RESTORES"]
    );
    add(&folder, "2026-11-02-090000_second", "SELECT 1;");
    let second = build(&folder).await.unwrap();
    assert_eq!(
        rehearsed(&second, &database.url).await,
        ["20261101090000 RESTORES", "20261102090000 RESTORES"]
    );
    add(&folder, "2026-11-03-090000_empty", "-- nothing yet\n");
    let refused = build(&folder).await.unwrap_err();
    assert!(
        refused.contains("2026-11-03-090000_empty") && refused.contains("cannot be embedded"),
        "{refused}"
    );
}
