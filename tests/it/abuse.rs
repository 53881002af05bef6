//! The program of abuse: everything that a client can do to an HTTP/2 server short of
//! authenticating, against a daemon in a process of its own, while a well-behaved client asks for
//! its health and another applies and rolls back. `./dev abuse` starts it; docs/security.md says
//! how to read what it prints.
//!
//! - `frames`: HTTP/2 by hand, because a library would not send what is wrong
//! - `attacks`: what is done
//! - `bystander`: what everybody else notices of it

mod attacks;
mod bystander;
mod frames;

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::{Process, Set, TestDatabase, process::from_folder};
use attacks::{ATTACKS, Attack};
use bystander::{Bystander, Noticed};

/// What nobody may notice more of.
const HEALTH_P99: Duration = Duration::from_millis(50);
const MEMORY_KB: u64 = 300 * 1024;

const HEADER: &str = "attack                 tried     done  p50 ms  p99 ms  max ms   checks   RSS \
    MB  applies  verdict";

/// How long, and how many idle connections.
struct Size {
    each: Duration,
    connections: usize,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_abuse_harms_nobody() {
    // What other tests of this run do to the machine is no fault of the daemon's: the numbers are
    // those of the program below.
    let some = "rapid_reset,continuation_flood,half_open,header_bomb,garbage,idle_connections";
    let rows = run(
        some,
        Size {
            each: Duration::from_millis(300),
            connections: 200,
        },
    )
    .await;
    assert!(
        rows.iter()
            .all(|row| row["applies_failed"] == 0 && row["checks_failed"] == 0),
        "{rows:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes; ./dev abuse"]
async fn program() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse().ok());
    let each = Duration::from_secs(number("SCHEMAD_ABUSE_SECONDS").unwrap_or(10));
    let connections =
        usize::try_from(number("SCHEMAD_ABUSE_CONNECTIONS").unwrap_or(10_000)).unwrap();
    let only = std::env::var("SCHEMAD_ABUSE_ATTACKS").unwrap_or_default();
    let rows = run(&only, Size { each, connections }).await;
    assert!(!rows.is_empty(), "no attack is called {only:?}");
    let harmed = rows.iter().any(|row| row["verdict"] != "ok");
    let json =
        json!({ "health_p99_ms_allowed": 50, "rss_mb_allowed": 300, "harmed": harmed, "attacks": rows }).to_string();
    match std::env::var_os("SCHEMAD_ABUSE_RESULT") {
        // ./dev prints it last.
        Some(file) => std::fs::write(file, json + "\n").unwrap(),
        None => println!("\n{json}"),
    }
    assert!(!harmed, "see the table");
}

/// Every attack, or those whose names are in `only`, with commas between.
async fn run(only: &str, size: Size) -> Vec<Value> {
    let open_files = frames::raise_open_files();
    let database = TestDatabase::new().await;
    let set = Set::tables(3);
    println!("\n{HEADER}");
    let mut rows = Vec::new();
    for attack in ATTACKS
        .iter()
        .filter(|attack| only.is_empty() || only.split(',').any(|name| name == attack.name))
    {
        // A daemon for each, so that one attack's memory is not counted as the next one's.
        let mut command = from_folder(&set, &["serve"]);
        command.env("DATABASE_URL", &database.url);
        let process = Process::start(command).await;
        rows.push(one(attack, &size, &process, open_files).await);
    }
    rows
}

async fn one(attack: &Attack, size: &Size, process: &Process, open_files: u64) -> Value {
    // Both ends of a connection are this machine's, and this process holds one of them.
    let connections = size.connections.min(
        usize::try_from(open_files)
            .unwrap_or(usize::MAX)
            .saturating_sub(200),
    );
    let bystander = Bystander::start(&process.address, process.child.id().unwrap()).await;
    let done = attack.run(&process.address, size.each, connections).await;
    let noticed = bystander.stop().await;
    row(attack, done, &noticed)
}

fn row(attack: &Attack, done: attacks::Done, noticed: &Noticed) -> Value {
    let [p50, p99, max] = [0.5, 0.99, 1.0].map(|part| noticed.latency(part));
    let mut wrong = Vec::new();
    if p99 > HEALTH_P99 {
        wrong.push("health");
    }
    if noticed.memory_kb > MEMORY_KB {
        wrong.push("memory");
    }
    if noticed.checks_failed > 0 {
        wrong.push("checks failed");
    }
    if noticed.applies_failed > 0 || noticed.applies == 0 {
        wrong.push("apply");
    }
    let verdict = if wrong.is_empty() {
        "ok".to_owned()
    } else {
        wrong.join(", ")
    };
    let millis = |latency: Duration| (latency.as_secs_f64() * 10_000.0).round() / 10.0;
    let megabytes = noticed.memory_kb / 1024;
    println!(
        "{:<20} {:>7} {:>8} {:>7.1} {:>7.1} {:>7.1} {:>8} {:>8} {:>8}  {verdict}",
        attack.name,
        done.tried,
        done.done,
        millis(p50),
        millis(p99),
        millis(max),
        noticed.latencies.len(),
        megabytes,
        noticed.applies
    );
    for reason in &noticed.reasons {
        println!("    {reason}");
    }
    json!({
        "attack": attack.name, "tried": done.tried, "done": done.done,
        "health_p50_ms": millis(p50), "health_p99_ms": millis(p99), "health_max_ms": millis(max),
        "checks": noticed.latencies.len(), "checks_failed": noticed.checks_failed, "rss_mb": megabytes,
        "applies": noticed.applies, "applies_failed": noticed.applies_failed, "verdict": verdict,
    })
}
