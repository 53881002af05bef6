//! Scripts of several megabytes: health answers while they are looked at, and a signal ends what
//! looks at them.

use std::{
    process::Stdio,
    time::{Duration, Instant},
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use schemad::pb::{self, migration_service_client::MigrationServiceClient};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::harness::{
    PATIENCE, Process, Set, TestDatabase,
    daemon::get,
    eventually,
    process::{from_folder, stderr},
};

/// A liveness probe of Kubernetes waits for one second unless told otherwise. The machine that runs
/// the tests does other things, too.
const ANSWERS_WITHIN: Duration = Duration::from_secs(2);

/// What a quadratic look at these scripts is far from.
const DONE_WITHIN: Duration = Duration::from_secs(90);

/// A table, and one INSERT of so many rows of a kilobyte each.
fn seed(rows: usize) -> Set {
    let text = "it''s a long text, ".repeat(50);
    let rows: Vec<String> = (0..rows)
        .map(|n| format!("({n}, '{text}', NULL, now(), {n}.5)"))
        .collect();
    let insert = format!(
        "INSERT INTO seed (id, name, other, at, price) VALUES\n{};\nSELECT count(*) FROM seed;",
        rows.join(",\n")
    );
    Set::of(&[
        (
            "1_seed",
            "CREATE TABLE seed (id int, name text, other text, at timestamptz, price numeric);",
            "DROP TABLE seed;",
        ),
        ("2_rows", &insert, "TRUNCATE seed;"),
    ])
}

async fn serve(database: &TestDatabase, set: &Set) -> Process {
    let mut command = from_folder(set, &["serve"]);
    command.env("DATABASE_URL", &database.url);
    let process = Process::start(command).await;
    eventually("it is ready", async || {
        (get(&process.admin, "/readyz").await.0 == 200).then_some(())
    })
    .await;
    process
}

fn channel(process: &Process) -> Channel {
    Endpoint::from_shared(format!("http://{}", process.address))
        .unwrap()
        .connect_lazy()
}

/// Asks for health over both listeners, again and again, until `work` ends. Returns what that
/// returned, and how often it was asked.
async fn while_health_answers<T>(process: &Process, work: impl Future<Output = T>) -> (T, usize) {
    let mut work = std::pin::pin!(work);
    // A connection of its own, as a probe has.
    let mut health = HealthClient::new(channel(process));
    let mut asked = 0;
    let asking = async {
        loop {
            let begun = Instant::now();
            let check = health.check(HealthCheckRequest::default());
            let check = tokio::time::timeout(PATIENCE, check)
                .await
                .expect("Check does not answer")
                .unwrap();
            assert_eq!(check.into_inner().status, 1, "serving");
            let checked = begun.elapsed();
            let livez = tokio::time::timeout(PATIENCE, get(&process.admin, "/livez")).await;
            assert_eq!(livez.expect("/livez does not answer").0, 200);
            let lived = begun.elapsed() - checked;
            assert!(
                checked < ANSWERS_WITHIN && lived < ANSWERS_WITHIN,
                "Check took {checked:?}, /livez {lived:?}"
            );
            asked += 1;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let done = tokio::select! {
        done = &mut work => done,
        () = asking => unreachable!("it asks for ever"),
    };
    (done, asked)
}

async fn apply(process: &Process, validate_only: bool) -> Result<(), tonic::Status> {
    let request = pb::ApplyRequest {
        validate_only,
        ..Default::default()
    };
    let mut stream = MigrationServiceClient::new(channel(process))
        .apply(request)
        .await?
        .into_inner();
    while stream.message().await?.is_some() {}
    Ok(())
}

async fn rehearse(process: &Process) -> Result<Vec<String>, tonic::Status> {
    let request = pb::RehearseRequest {
        selection: None,
        ..Default::default()
    };
    let mut stream = MigrationServiceClient::new(channel(process))
        .rehearse(request)
        .await?
        .into_inner();
    let mut verdicts = Vec::new();
    while let Some(response) = stream.message().await? {
        if let Some(pb::rehearsal_event::Event::Rehearsed(one)) =
            response.event.and_then(|event| event.event)
        {
            verdicts.push(one.verdict);
        }
    }
    Ok(verdicts)
}

/// More calls at once than the daemon has threads, each of which looks at the large script.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_answers_while_large_scripts_are_rehearsed_planned_and_applied() {
    let (database, set) = (TestDatabase::new().await, seed(4_000));
    let process = serve(&database, &set).await;
    let plans = || {
        tokio::time::timeout(DONE_WITHIN, async {
            tokio::join!(apply(&process, true), apply(&process, true))
        })
    };
    let rehearsal = tokio::time::timeout(DONE_WITHIN, rehearse(&process));
    let (done, asked) = while_health_answers(&process, async {
        tokio::join!(rehearsal, plans(), plans())
    })
    .await;
    let (verdicts, planned, _) = done;
    assert_eq!(
        verdicts.expect("the rehearsal takes for ever").unwrap(),
        ["RESTORES"; 2]
    );
    planned.expect("the plan takes for ever").0.unwrap();
    assert!(asked > 1, "{asked}");
    let applied = tokio::time::timeout(DONE_WITHIN, apply(&process, false));
    let (done, asked) =
        while_health_answers(&process, async { tokio::join!(applied, plans(), plans()) }).await;
    done.0.expect("the apply takes for ever").unwrap();
    assert!(asked > 1, "{asked}");
    assert_eq!(database.text("SELECT count(*) FROM seed").await, "4000");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_daemon_that_looks_at_a_large_script() {
    let (database, set) = (TestDatabase::new().await, seed(4_000));
    let mut process = serve(&database, &set).await;
    let mut client = MigrationServiceClient::new(channel(&process));
    let mut stream = client
        .rehearse(pb::RehearseRequest {
            selection: None,
            ..Default::default()
        })
        .await
        .unwrap()
        .into_inner();
    loop {
        let response = stream
            .message()
            .await
            .unwrap()
            .expect("the rehearsal ends before it begins the second");
        match response.event.and_then(|event| event.event) {
            Some(pb::rehearsal_event::Event::Began(began)) if began.version == "2" => break,
            _ => {}
        }
    }
    process.signal(Signal::SIGTERM);
    assert_eq!(process.exit_code().await, Some(0));
}

/// Starts a rehearsal of a large script that is looked at before it runs, because the server is not
/// thrown away. The signal comes when the migration before it is through, so in the middle of that
/// look.
async fn interrupted(signal: Signal) {
    let (database, set) = (TestDatabase::new().await, seed(6_000));
    let mut command = from_folder(&set, &["rehearse", "--output", "json"]);
    command
        .env("SCRATCH_DATABASE_URL", &database.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let first = tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("no verdict")
        .unwrap()
        .unwrap();
    assert!(first.contains("RESTORES"), "{first}");
    let told = Instant::now();
    kill(pid, signal).unwrap();
    let ended = tokio::time::timeout(PATIENCE, child.wait_with_output())
        .await
        .expect("it does not end")
        .unwrap();
    assert_eq!(ended.status.code(), Some(130), "{}", stderr(&ended));
    assert!(
        told.elapsed() < Duration::from_secs(15),
        "{:?}: {}",
        told.elapsed(),
        stderr(&ended)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ctrl_c_ends_a_local_rehearsal_in_the_middle_of_a_large_script() {
    interrupted(Signal::SIGINT).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sigterm_ends_a_local_rehearsal_in_the_middle_of_a_large_script() {
    interrupted(Signal::SIGTERM).await;
}

/// Whatever keeps the work from hearing of the signal: here nobody reads what it prints.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_ends_a_local_rehearsal_that_cannot_print() {
    let database = TestDatabase::new().await;
    let set = Set::of(&[]);
    for n in 0..400 {
        let name = format!("{n:04}_{}", "a_long_name_".repeat(15));
        set.add(
            &name,
            &format!("CREATE TABLE t{n} (id int);"),
            &format!("DROP TABLE t{n};"),
        );
    }
    let mut command = from_folder(&set, &["rehearse", "--output", "json"]);
    command
        .env("SCRATCH_DATABASE_URL", &database.url)
        .stdout(Stdio::piped())
        .stderr(Stdio::null());
    let mut child = command.spawn().unwrap();
    let pid = Pid::from_raw(child.id().unwrap().cast_signed());
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    tokio::time::timeout(PATIENCE, lines.next_line())
        .await
        .expect("no verdict")
        .unwrap()
        .unwrap();
    // A pipe holds 64 KiB; once it is full, the session in the scratch database has nothing more to
    // do.
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname LIKE 'schemad_scratch_%' AND \
                state = 'idle' AND clock_timestamp() - state_change > interval '2 s'";
    eventually("it waits for who reads", async || {
        (database.text(idle).await != "0").then_some(())
    })
    .await;
    kill(pid, Signal::SIGTERM).unwrap();
    // The pipe is read by nobody, and stays open until the end.
    let status = tokio::time::timeout(PATIENCE, child.wait())
        .await
        .expect("it does not end")
        .unwrap();
    assert_eq!(status.code(), Some(130));
    drop(lines);
}
