//! The program of faults: real servers, real daemons, real kills, and afterwards everything has to
//! agree. `./dev faults` starts it; docs/faults.md says how to read what it prints.
//!
//! - `random`, `tally`: numbers from a seed, and the table
//! - `migrations`: the set, and what must be there at any moment of it
//! - `asking`, `audit`, `field`: a client, the comparison, and both together
//! - the rest: a scenario each

mod asking;
mod audit;
mod crowd;
pub mod disk;
mod field;
mod kills;
mod locks;
mod migrations;
mod promotion;
mod random;
mod sessions;
mod silence;
mod tally;

use std::{fs, panic::AssertUnwindSafe, pin::Pin, time::SystemTime};

use futures_util::FutureExt as _;
use random::Random;
use serde_json::Value;
use tally::Tally;

/// How much of everything: for every test run, or for people with time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Length {
    Short,
    Long,
}

impl Length {
    /// A count of this length; `SCHEMAD_FAULTS_COUNT` replaces it.
    pub fn of(self, short: usize, long: usize) -> usize {
        let given = std::env::var("SCHEMAD_FAULTS_COUNT")
            .ok()
            .and_then(|count| count.parse().ok());
        given.unwrap_or(if self == Self::Short { short } else { long })
    }
}

type Scenario = fn(Length, Random) -> Pin<Box<dyn Future<Output = Tally>>>;

/// What a letter stands for.
fn scenarios() -> Vec<(char, Scenario)> {
    vec![
        ('a', |length, random| Box::pin(kills::run(length, random))),
        ('b', |length, random| {
            Box::pin(sessions::run(length, random))
        }),
        ('c', |length, random| Box::pin(crowd::run(length, random))),
        ('d', |length, random| {
            Box::pin(promotion::run(length, random))
        }),
        ('e', |length, random| Box::pin(silence::run(length, random))),
        ('f', |length, random| Box::pin(locks::run(length, random))),
        ('g', |length, random| Box::pin(disk::run(length, random))),
        ('h', |length, random| {
            Box::pin(sessions::run_with_two_logins(length, random))
        }),
    ]
}

/// A number from the environment.
fn seed() -> u64 {
    let now = || SystemTime::UNIX_EPOCH.elapsed().unwrap().as_secs();
    std::env::var("SCHEMAD_FAULTS_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok())
        .unwrap_or_else(now)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "minutes; ./dev faults"]
async fn program() {
    let length = if std::env::var("SCHEMAD_FAULTS").as_deref() == Ok("long") {
        Length::Long
    } else {
        Length::Short
    };
    let letters = std::env::var("SCHEMAD_FAULTS_SCENARIOS").unwrap_or_default();
    let random = Random::new(seed());
    println!("\nseed {} ({length:?})\n\n{}", seed(), tally::HEADER);
    let (mut rows, mut failed) = (Vec::<Value>::new(), false);
    for (letter, run) in scenarios() {
        if !letters.is_empty() && !letters.contains(letter) {
            continue;
        }
        // What a scenario cannot go on from is a request that does not get to its end.
        let work = AssertUnwindSafe(run(length, random.fork(&letter.to_string()))).catch_unwind();
        let tally = work.await.unwrap_or_else(|_| {
            let mut tally = Tally::new(&format!("{letter}  broken off"));
            tally.disagreement("panic", "the scenario could not go on: see the panic above");
            tally
        });
        tally.print();
        failed |= tally.failed();
        rows.push(tally.json());
    }
    let json = tally::json_of_all(&rows).to_string();
    match std::env::var_os("SCHEMAD_FAULTS_RESULT") {
        // ./dev prints it last.
        Some(file) => fs::write(file, json + "\n").unwrap(),
        None => println!("\n{json}"),
    }
    assert!(!rows.is_empty(), "no scenario is called {letters:?}");
    assert!(!failed, "see the table");
}
