//! Where a scenario plays: a database, the set, what clients were told, and the tally.

use std::time::{Duration, Instant};

use tokio::sync::mpsc::UnboundedReceiver;
use tokio_postgres::{Client, NoTls};

use super::{
    asking::{Request, Told, Wish, ask},
    audit::{self, Seen},
    migrations::{self, Direction, MIGRATIONS},
    random::Random,
    tally::Tally,
};
use crate::harness::{Process, Set, process::from_folder};

/// A request that has not got to its end by then never will: find_out has 30 s, a silent daemon
/// another 30 s.
const END_WITHIN: Duration = Duration::from_secs(120);

pub struct Field {
    /// For looking, without a proxy between.
    pub direct: String,
    pub set: Set,
    pub tally: Tally,
    pub random: Random,
    /// Heard since the last look.
    told: Vec<Told>,
    /// Heard before.
    compared: Vec<Told>,
}

impl Field {
    /// On an empty database.
    pub async fn new(direct: &str, tally: Tally, random: Random) -> Self {
        let field = Self {
            direct: direct.into(),
            set: migrations::set(),
            tally,
            random,
            told: Vec::new(),
            compared: Vec::new(),
        };
        field
            .client()
            .await
            .batch_execute(migrations::COUNTERS)
            .await
            .unwrap();
        field
    }

    /// A session; waits for a server that starts.
    pub async fn client(&self) -> Client {
        crate::harness::eventually("the server answers", async || {
            let (client, connection) = tokio_postgres::connect(&self.direct, NoTls).await.ok()?;
            tokio::spawn(connection);
            Some(client)
        })
        .await
    }

    /// A daemon's process on this address of the database.
    pub async fn daemon(&self, url: &str) -> Process {
        let mut command = from_folder(&self.set, &["serve"]);
        command.env("DATABASE_URL", url);
        Process::start(command).await
    }

    /// The same with a login of its own for migrations.
    pub async fn daemon_with_two_logins(&self, url: &str, migrating: &str) -> Process {
        let mut command = from_folder(&self.set, &["serve"]);
        command
            .env("DATABASE_URL", url)
            .env("MIGRATION_DATABASE_URL", migrating);
        Process::start(command).await
    }

    pub fn remember(&mut self, told: Told) {
        self.told.push(told);
    }

    /// Compares everything, with what was heard since the last look.
    pub async fn look(&mut self) -> Seen {
        let told = std::mem::take(&mut self.told);
        let seen = self.compare(&told).await;
        self.compared.extend(told);
        seen
    }

    async fn compare(&mut self, told: &[Told]) -> Seen {
        let mut tries = 0;
        let mut seen = loop {
            let mut client = self.client().await;
            match audit::look(&mut client, told).await {
                Ok(seen) => break seen,
                // The server went down meanwhile, or the look's own session was chosen.
                Err(error)
                    if tries < 5
                        && error
                            .as_db_error()
                            .is_none_or(|e| e.code().code().starts_with("57P")) =>
                {
                    tries += 1;
                }
                Err(error) => {
                    self.tally
                        .disagreement("look", format!("cannot look: {error:?}"));
                    return Seen::default();
                }
            }
        };
        seen.findings
            .drain(..)
            .for_each(|finding| self.tally.found(finding));
        self.tally.in_doubt.append(&mut seen.in_doubt);
        seen
    }

    /// Forgets what was heard: a failover may have taken it back. Returns how many acknowledged
    /// steps are gone.
    pub async fn forgive(&mut self) -> usize {
        let told: Vec<Told> = std::mem::take(&mut self.told);
        let client = self.client().await;
        let mut gone = 0;
        for told in &told {
            let there = "SELECT count(*) FROM schemad.steps WHERE state = 'applied' AND \
                operation::text = $1";
            let there: i64 = client
                .query_one(there, &[&told.operation])
                .await
                .unwrap()
                .get(0);
            gone += told.done.len().saturating_sub(there as usize);
        }
        self.compared.clear();
        gone
    }

    /// Asks until the request has got to its end, as a client that is told to ask again does.
    pub async fn finish(&mut self, addresses: &[&str], wish: Wish) {
        self.tally.tries += 1;
        let (begun, mut wish, mut tries) = (Instant::now(), wish, 0);
        loop {
            let address = addresses[tries % addresses.len()];
            let request = Request::new(wish);
            let asking = ask(address, &request, None);
            let Ok(told) = tokio::time::timeout(END_WITHIN, asking).await else {
                return self.tally.disagreement(
                    format!("end {}", self.tally.faults),
                    format!("{wish:?} hangs"),
                );
            };
            tries += 1;
            let (succeeded, reason, message) =
                (told.succeeded(), told.reason(), told.message().to_owned());
            self.told.push(told);
            match reason.as_str() {
                _ if succeeded => return,
                // What is half done can only be gone on with.
                "HALF_APPLIED" => wish = Wish::Apply,
                "HALF_REVERTED" | "TOO_FEW_APPLIED" => wish = Wish::RollbackAll,
                "INTERRUPTED" | "DATABASE_UNAVAILABLE" | "BUSY" | "READ_ONLY_SERVER"
                    if begun.elapsed() < END_WITHIN =>
                {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                _ => {
                    let text = format!("{wish:?} does not get to its end: {reason}: {message}");
                    return self
                        .tally
                        .disagreement(format!("end {}", self.tally.faults), text);
                }
            }
        }
    }

    /// What to ask for next, so that there is always something to do.
    pub fn wish(&mut self, seen: &Seen, most: usize) -> Wish {
        let steps = self.random.up_to(most) as i32;
        let up = match seen.half {
            Some(direction) => direction == Direction::Up,
            None if seen.applied < MIGRATIONS / 3 => true,
            None if seen.applied > MIGRATIONS * 2 / 3 => false,
            None => self.random.one_in(2),
        };
        match up {
            true if most >= MIGRATIONS => Wish::Apply,
            true => Wish::ApplySteps(steps),
            false if most >= MIGRATIONS => Wish::RollbackAll,
            false => Wish::Rollback(steps.min(seen.applied.max(1) as i32)),
        }
    }

    /// Everything up, everything down, with a look after each; then all that was ever heard is
    /// compared once more.
    pub async fn end(mut self, addresses: &[&str]) -> Tally {
        let seen = self.look().await;
        if seen.half == Some(Direction::Down) {
            self.finish(addresses, Wish::RollbackAll).await;
        }
        for (wish, applied) in [
            (Wish::Apply, MIGRATIONS),
            (Wish::RollbackAll, 0),
            (Wish::Apply, MIGRATIONS),
        ] {
            self.finish(addresses, wish).await;
            let seen = self.look().await;
            if seen.applied != applied || seen.half.is_some() {
                let text = format!(
                    "{wish:?} ended, and {} are applied, half done: {:?}",
                    seen.applied, seen.half
                );
                self.tally.disagreement(format!("{wish:?}"), text);
            }
        }
        let compared = std::mem::take(&mut self.compared);
        let in_doubt = self.tally.in_doubt.len();
        self.compare(&compared).await;
        self.tally.in_doubt.truncate(in_doubt);
        let open = "SELECT count(*) FROM schemad.operations WHERE state IN ('pending', 'running')";
        let open: i64 = self
            .client()
            .await
            .query_one(open, &[])
            .await
            .unwrap()
            .get(0);
        if open > 0 {
            self.tally
                .disagreement("open", format!("{open} operations are open in the end"));
        }
        self.tally
    }
}

/// Waits for `events` of a request, or its end.
pub async fn after(events: usize, progress: &mut UnboundedReceiver<()>) {
    for _ in 0..events {
        match tokio::time::timeout(Duration::from_secs(20), progress.recv()).await {
            Ok(Some(())) => {}
            _ => return,
        }
    }
}
