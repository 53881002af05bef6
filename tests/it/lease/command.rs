//! `schemad lease`, and the examples.

use std::process::Stdio;

use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
};

use super::Place;
use crate::harness::{
    PATIENCE, Set, TestDaemon,
    database::connect,
    process::{output, schemad, stderr, stdout},
};

async fn place() -> (Place, TestDaemon) {
    let place = Place::new("CREATEDB").await;
    let daemon = place.daemon(place.leases(0), &Set::tables(2)).await;
    (place, daemon)
}

fn lease(daemon: &TestDaemon, arguments: &[&str]) -> Command {
    let mut command = schemad(&["lease", "--address", &daemon.address]);
    command.args(arguments);
    command
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_runs_with_a_database_and_its_exit_code_is_told() {
    let (place, daemon) = place().await;
    let one = output(lease(&daemon, &["--", "sh", "-c", "echo $DATABASE_URL; echo err >&2; exit 7"])).await;
    assert_eq!((one.status.code(), stderr(&one).as_str()), (Some(7), "err\n"));
    let name = stdout(&one).trim().rsplit('/').next().unwrap().to_owned();
    place.until_gone(&name).await;
    let killed = output(lease(&daemon, &["--", "sh", "-c", "kill -9 $$"])).await;
    assert_eq!(killed.status.code(), Some(137));
    let missing = output(lease(&daemon, &["--", "/no/such/command"])).await;
    assert_eq!(missing.status.code(), Some(127));
    assert!(stderr(&missing).contains("/no/such/command"), "{}", stderr(&missing));
    // Only the template is left.
    place.until_there_are(1).await;
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_that_outlives_its_lease_is_told_to_end() {
    let (place, daemon) = place().await;
    let late = output(lease(&daemon, &["--ttl", "1s", "--", "sleep", "600"])).await;
    assert_eq!(late.status.code(), Some(5), "{}", stderr(&late));
    assert!(stderr(&late).contains("ended before the command") && stderr(&late).contains("LEASE_EXPIRED"));
    daemon.stop().await;
    place.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_command_the_url_is_printed_and_holds_until_stdin_ends() {
    let (place, daemon) = place().await;
    for arguments in [&[][..], &["--output", "json"]] {
        let mut command = lease(&daemon, arguments);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.unwrap().unwrap().unwrap();
        let url = match arguments {
            [] => line,
            _ => {
                let json: serde_json::Value = serde_json::from_str(&line).unwrap();
                json["database"]["url"].as_str().unwrap().to_owned()
            }
        };
        connect(&url).await.batch_execute("INSERT INTO t2 VALUES (1)").await.unwrap();
        drop(child.stdin.take());
        assert_eq!(tokio::time::timeout(PATIENCE, child.wait()).await.unwrap().unwrap().code(), Some(0));
        place.until_gone(url.rsplit('/').next().unwrap()).await;
    }
    daemon.stop().await;
    place.end().await;
}
