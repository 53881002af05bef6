//! (f) Other sessions are in the way: for a while, for ever, and with an old snapshot while indexes
//! are built.

use std::time::Duration;

use super::{
    Length,
    asking::{Request, Wish, ask},
    field::Field,
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::{TestDatabase, eventually};

/// Longer than one attempt's lock_timeout (5 s), so that the step is undone and tried again.
const TWO_ATTEMPTS: Duration = Duration::from_secs(6);

pub async fn run(length: Length, random: Random) -> Tally {
    let database = TestDatabase::new().await;
    let tally = Tally::new("f  tables locked, an old snapshot");
    let mut field = Field::new(&database.url, tally, random).await;
    let daemon = field.daemon(&database.url).await;
    let address = daemon.address.as_str();
    for _ in 0..length.of(1, 6) {
        old_snapshot(length, &mut field, address).await;
        // The two kinds that are one transaction, and one that is not: its DROP INDEX CONCURRENTLY
        // waits.
        let last = MIGRATIONS - 12 * field.random.below(3);
        let (plain, concurrent) = (last, last - 4);
        let hold = if length == Length::Short {
            Duration::from_secs(1)
        } else {
            TWO_ATTEMPTS
        };
        for_a_while(&mut field, address, plain, hold).await;
        for_ever(&mut field, address, concurrent).await;
        let other = plain - 12 * field.random.up_to(2);
        for_ever(&mut field, address, other).await;
        field.finish(&[address], Wish::RollbackAll).await;
        field.look().await;
    }
    field.end(&[address]).await
}

/// Indexes wait for a reader's snapshot, and are built once.
async fn old_snapshot(length: Length, field: &mut Field, address: &str) {
    field.tally.tries += 1;
    field.tally.faults += 1;
    let reader = field.client().await;
    reader
        .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM counter")
        .await
        .unwrap();
    let asked = tokio::spawn({
        let (address, request) = (address.to_owned(), Request::new(Wish::Apply));
        // The wait for locks in a CONCURRENTLY statement is the wait for snapshots, too.
        let request = Request {
            lock_wait: Duration::from_secs(120),
            ..request
        };
        async move { ask(&address, &request, None).await }
    });
    let client = field.client().await;
    let building = "SELECT indexrelid FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid WHERE \
        NOT indisvalid AND c.relname ~ '^t[0-9]+$'";
    let index: u32 = eventually("an index that waits", async || {
        client
            .query(building, &[])
            .await
            .unwrap()
            .first()
            .map(|row| row.get(0))
    })
    .await;
    tokio::time::sleep(Duration::from_secs(if length == Length::Short {
        3
    } else {
        30
    }))
    .await;
    field.look().await;
    reader.batch_execute("COMMIT").await.unwrap();
    let told = asked.await.unwrap();
    if !told.succeeded() {
        field.tally.disagreement(
            "snapshot",
            format!("behind an old snapshot: {}", told.message()),
        );
    }
    field.remember(told);
    let valid = "SELECT count(*) FROM pg_index WHERE indexrelid = $1 AND indisvalid";
    if client
        .query_one(valid, &[&index])
        .await
        .unwrap()
        .get::<_, i64>(0)
        != 1
    {
        field.tally.disagreement(
            "built",
            "an index that waited for a snapshot was built a second time",
        );
    }
    field.look().await;
}

/// A session that reads table `i` in a transaction.
async fn hold(field: &Field, i: usize) -> tokio_postgres::Client {
    let holder = field.client().await;
    holder
        .batch_execute(&format!("BEGIN; SELECT * FROM t{i}"))
        .await
        .unwrap();
    holder
}

async fn for_a_while(field: &mut Field, address: &str, i: usize, time: Duration) {
    field.tally.tries += 1;
    field.tally.faults += 1;
    let holder = hold(field, i).await;
    let asked = tokio::spawn({
        let (address, steps) = (address.to_owned(), (MIGRATIONS - i + 1) as i32);
        async move { ask(&address, &Request::new(Wish::Rollback(steps)), None).await }
    });
    tokio::time::sleep(time).await;
    field.look().await;
    holder.batch_execute("COMMIT").await.unwrap();
    let told = asked.await.unwrap();
    if !told.succeeded() {
        field.tally.disagreement(
            "while",
            format!("a table that was locked for {time:?}: {}", told.message()),
        );
    }
    field.remember(told);
    field.look().await;
    field.finish(&[address], Wish::Apply).await;
}

/// LOCK_TIMEOUT after lock_wait; the steps before stay, the one that waited is whole.
async fn for_ever(field: &mut Field, address: &str, i: usize) {
    field.tally.tries += 1;
    field.tally.faults += 1;
    let holder = hold(field, i).await;
    let request = Request {
        lock_wait: Duration::from_secs(1),
        ..Request::new(Wish::RollbackAll)
    };
    let told = ask(address, &request, None).await;
    let steps = told
        .finished
        .as_ref()
        .map_or(-1, |finished| finished.steps_done);
    if told.reason() != "LOCK_TIMEOUT" || steps != (MIGRATIONS - i) as i32 {
        let text = format!(
            "behind t{i}, locked for ever, {steps} steps were done: {:?} {}",
            told.reason(),
            told.message()
        );
        field.tally.disagreement(format!("for ever {i}"), text);
    }
    field.remember(told);
    // A DROP INDEX CONCURRENTLY that is given up has made its index invalid, and the ledger calls
    // the migration half reverted.
    let seen = field.look().await;
    if seen.running {
        field.tally.disagreement(
            "announced",
            "a statement that was given up is still announced",
        );
    }
    holder.batch_execute("COMMIT").await.unwrap();
    // Half reverted or whole: it can be rolled back further.
    field.finish(&[address], Wish::RollbackAll).await;
    field.look().await;
    field.finish(&[address], Wish::Apply).await;
}
