//! The README is typed as it stands: every block of it is run here, or is the text of a file that
//! another test builds, and what it shows is what is printed.

use std::{fs, path::Path};

use prost_reflect::{DescriptorPool, DynamicMessage};
use tokio::process::Command;

use crate::harness::{
    Process, Set, TestDatabase, eventually,
    process::{output, schemad, stderr, stdout},
};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The fenced blocks with their languages, and the heading that each stands below.
fn blocks() -> Vec<(String, String, String)> {
    let text = fs::read_to_string(root().join("README.md")).unwrap();
    let (mut heading, mut found, mut open) = (String::new(), Vec::new(), None);
    for line in text.lines() {
        match (&mut open, line.strip_prefix("```")) {
            (None, Some(language)) => open = Some((language.to_owned(), String::new())),
            (None, None) => {
                if let Some(title) = line.strip_prefix("## ") {
                    title.clone_into(&mut heading);
                }
            }
            (Some(_), Some(_)) => {
                let (language, block) = open.take().unwrap();
                found.push((heading.clone(), language, block));
            }
            (Some((_, block)), None) => *block += &format!("{line}\n"),
        }
    }
    found
}

fn block(heading: &str, n: usize) -> String {
    blocks()
        .into_iter()
        .filter(|(title, ..)| title == heading)
        .nth(n)
        .unwrap()
        .2
}

/// Without what is another each time: ids, times, durations, versions.
fn masked(text: &str) -> Vec<String> {
    let words = |line: &str| {
        let words: Vec<&str> = line.split_whitespace().collect();
        let is_unit = |word: &str| ["µs", "ms", "s"].contains(&word.trim_end_matches(':'));
        let is_id = |word: &str| {
            word.trim_matches(['(', ')', ',']).matches('-').count() == 4 && word.len() >= 36
        };
        let kept = words.iter().enumerate().filter(|(n, word)| {
            !is_unit(word) && !words.get(n + 1).is_some_and(|next| is_unit(next)) && !is_id(word)
        });
        kept.map(|(_, word)| *word).collect::<Vec<_>>().join(" ")
    };
    text.lines()
        .map(words)
        .filter(|line| !line.is_empty())
        .collect()
}

/// Every one of `expected`, in this order; … stands for any lines.
#[track_caller]
fn assert_shown(expected: &str, printed: &str) {
    let (expected, printed) = (masked(expected), masked(printed));
    let mut rest = printed.iter();
    for line in expected.iter().filter(|line| *line != "…") {
        assert!(
            rest.any(|printed| printed == line),
            "{line:?} is not in its place in:\n{}",
            printed.join("\n")
        );
    }
}

#[test]
fn every_block_is_one_that_a_test_here_knows() {
    let known = [
        ("Install", "sh"),                  // scripts: ./dev and deploy/check.sh
        ("Try it", "sh"),                   // the_first_steps_work_as_typed
        ("Try it", "sh"),                   // scripts
        ("A session", ""),                  // the_session_is_what_is_printed
        ("A session", ""),                  // the same
        ("A session", ""),                  // what_fails_is_shown_so
        ("A session", ""),                  // the_rehearsal_is_what_is_printed
        ("A session", "sh"),                // what_grpcurl_is_told_to_ask_there_is
        ("Run it", "sh"),                   // folder
        ("Your migrations", "rust,no_run"), // own_crate, below
        ("Your migrations", "rust,ignore"), // own_crate, below
        ("Your migrations", "sh"),          // the image's check, whose build sets it
    ];
    let found: Vec<_> = blocks()
        .into_iter()
        .map(|(heading, language, _)| (heading, language))
        .collect();
    let known = known.map(|(heading, language)| (heading.to_owned(), language.to_owned()));
    assert_eq!(found, known);
    let without_comments = |path: &str| {
        let text = fs::read_to_string(root().join(path)).unwrap();
        text.lines()
            .filter(|line| !line.starts_with("//"))
            .map(|line| format!("{line}\n"))
            .collect::<String>()
    };
    assert_eq!(
        without_comments("examples/own-crate/src/main.rs").trim(),
        block("Your migrations", 0).trim()
    );
    assert_eq!(
        without_comments("examples/own-crate/build.rs").trim(),
        block("Your migrations", 1).trim()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_steps_work_as_typed() {
    let place = tempfile::tempdir().unwrap();
    let database = TestDatabase::new().await;
    let path = format!(
        "{}:{}",
        Path::new(env!("CARGO_BIN_EXE_schemad"))
            .parent()
            .unwrap()
            .display(),
        std::env::var("PATH").unwrap()
    );
    let shell = |text: &str| {
        let mut command = Command::new("sh");
        command
            .args(["-euc", text])
            .current_dir(place.path())
            .env_clear()
            .env("PATH", &path)
            .kill_on_drop(true);
        command.env("HOME", place.path());
        command
    };
    let typed = block("Try it", 0);
    let (made, dev) = typed.split_at(typed.find("schemad dev").unwrap());
    let rehearsed = output(shell(made)).await;
    assert!(
        rehearsed.status.success(),
        "{}{}",
        stdout(&rehearsed),
        stderr(&rehearsed)
    );
    assert!(
        stdout(&rehearsed).contains("1 RESTORES"),
        "{}",
        stdout(&rehearsed)
    );
    // On a database of this test, because one on the machine's own place would be in the way of
    // others.
    let dev = dev.split('#').next().unwrap().trim();
    let mut command = shell(&format!("exec {dev} \"$@\""));
    command.arg("dev").env("DATABASE_URL", &database.url);
    let mut daemon = Process::start(command).await;
    let waited = output(schemad(&[
        "wait",
        "applied",
        "20260301090000",
        "--address",
        &daemon.address,
    ]))
    .await;
    assert!(waited.status.success(), "{}", stderr(&waited));
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_session_is_what_is_printed() {
    let database = TestDatabase::new().await;
    let mut command = schemad(&["serve", "--apply-on-start"]);
    command.env("DATABASE_URL", &database.url);
    let mut daemon = Process::start(command).await;
    let waited = output(schemad(&["wait", "current", "--address", &daemon.address])).await;
    assert!(waited.status.success(), "{}", stderr(&waited));
    let status = stdout(&output(schemad(&["status", "--address", &daemon.address])).await);
    let told = block("A session", 0);
    for line in told.lines().filter(|line| {
        ["Schema", "Current", "Set"]
            .iter()
            .any(|label| line.starts_with(label))
    }) {
        assert!(status.contains(line), "{line:?} is not in:\n{status}");
    }
    let labels = |text: &str| {
        text.lines()
            .map(|line| line.chars().take(10).collect())
            .collect::<Vec<String>>()
    };
    assert_eq!(labels(&told), labels(status.trim_end()));
    for part in block("A session", 1).split("$ schemad ").skip(1) {
        let (typed, shown) = part.split_once('\n').unwrap();
        let arguments: Vec<&str> = typed
            .split(';')
            .next()
            .unwrap()
            .split_whitespace()
            .collect();
        let ended = output(schemad(
            &[&arguments[..], &["--address", &daemon.address]].concat(),
        ))
        .await;
        let printed = format!(
            "{}{}\n{}\n",
            stderr(&ended),
            stdout(&ended),
            ended.status.code().unwrap()
        );
        assert_shown(shown, &printed);
    }
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_fails_is_shown_so() {
    let up = "CREATE TABLE topics (id bigint PRIMARY KEY);\nCREATE TABLE notes (\n    id bigint \
        PRIMARY KEY,\n    name txt NOT NULL\n);\n";
    let (database, set) = (
        TestDatabase::new().await,
        Set::of(&[("2026-03-01-090000_add_notes", up, "")]),
    );
    let mut command = schemad(&["serve", "--dir", set.path().to_str().unwrap()]);
    command.env("DATABASE_URL", &database.url);
    let mut daemon = Process::start(command).await;
    eventually("ready", async || {
        (crate::harness::daemon::get(&daemon.admin, "/readyz")
            .await
            .0
            == 200)
            .then_some(())
    })
    .await;
    let failed = output(schemad(&["apply", "--address", &daemon.address])).await;
    assert!(
        stderr(&failed).contains(block("A session", 2).trim_end()),
        "{}",
        stderr(&failed)
    );
    daemon.kill().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rehearsal_is_what_is_printed() {
    let database = TestDatabase::new().await;
    let told = block("A session", 3);
    let (typed, shown) = told
        .strip_prefix("$ schemad ")
        .unwrap()
        .split_once('\n')
        .unwrap();
    let arguments: Vec<&str> = typed.split_whitespace().collect();
    let mut command = schemad(&arguments);
    command
        .current_dir(root())
        .env("SCRATCH_DATABASE_URL", &database.url);
    let ended = output(command).await;
    let printed = format!(
        "{}{}\n{}\n",
        stderr(&ended),
        stdout(&ended),
        ended.status.code().unwrap()
    );
    assert_shown(shown, &printed);
    // And the whole of it, in the guide.
    let guide = fs::read_to_string(root().join("docs/rehearse.md")).unwrap();
    let shown = guide
        .split("```\n$ schemad rehearse")
        .nth(1)
        .unwrap()
        .split("```")
        .next()
        .unwrap()
        .split_once('\n')
        .unwrap()
        .1;
    assert_shown(&shown.replace("$ echo $?", ""), &printed);
}

/// Methods and fields; grpcurl itself is in no distribution.
#[test]
fn what_grpcurl_is_told_to_ask_there_is() {
    let pool = DescriptorPool::decode(schemad::pb::DESCRIPTORS).unwrap();
    let typed = block("A session", 4);
    for line in typed
        .lines()
        .filter(|line| !line.contains("grpc.health.v1"))
    {
        let words: Vec<&str> = line.split_whitespace().collect();
        let (service, method) = words.last().unwrap().split_once('/').unwrap();
        let service = pool.get_service_by_name(service).unwrap();
        let method = service
            .methods()
            .find(|found| found.name() == method)
            .unwrap();
        let json = line.split('\'').nth(1).unwrap_or("{}");
        let mut json = serde_json::Deserializer::from_str(json);
        DynamicMessage::deserialize(method.input(), &mut json).unwrap();
    }
    assert_eq!(typed.lines().count(), 3);
}
