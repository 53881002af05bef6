//! (a) kill -9 of the daemon at random moments while it applies and rolls back.

use std::time::Duration;

use super::{
    Length,
    asking::{Request, Wish, ask},
    field::{Field, after},
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::TestDatabase;

pub async fn run(length: Length, random: Random) -> Tally {
    let kills = length.of(25, 300);
    let database = TestDatabase::new().await;
    let mut field = Field::new(
        &database.url,
        Tally::new("a  kill -9 of the daemon"),
        random,
    )
    .await;
    let (mut interrupted, mut half, mut outside) = (0, 0, 0);
    let mut daemon = field.daemon(&database.url).await;
    field.finish(&[&daemon.address], Wish::ApplySteps(5)).await;
    let (mut invalid, reader) = (0, database.connect().await);
    for n in 0..kills {
        // Whatever the kill before left: a new request gets to the end.
        let seen = field.look().await;
        let wish = field.wish(&seen, 3);
        field.finish(&[&daemon.address], wish).await;
        let seen = field.look().await;
        let request = Request::new(field.wish(&seen, MIGRATIONS));
        // An index that waits for a snapshot when its daemon dies stays invalid.
        let waits = n % 5 == 4 && request.wish == Wish::Apply;
        if waits {
            reader
                .batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT 1")
                .await
                .unwrap();
        }
        let early = !waits && field.random.one_in(5);
        let (progress, mut events) = tokio::sync::mpsc::unbounded_channel();
        let address = daemon.address.clone();
        let asked = tokio::spawn(async move { ask(&address, &request, Some(progress)).await });
        field.tally.tries += 1;
        if waits {
            invalid += usize::from(invalid_index(&database).await);
        } else if early {
            // Before it is accepted, while it plans, or in the first steps.
            tokio::time::sleep(field.random.millis(60)).await;
        } else {
            after(field.random.up_to(90), &mut events).await;
            tokio::time::sleep(field.random.millis(6)).await;
        }
        daemon.kill().await;
        field.tally.faults += 1;
        let told = asked.await.unwrap();
        if waits {
            database.until_free().await;
            reader.batch_execute("COMMIT").await.unwrap();
        }
        interrupted += usize::from(told.finished.is_none());
        field.remember(told);
        // At once, and again when the backend of the dead daemon may be through.
        let seen = field.look().await;
        half += usize::from(seen.half.is_some());
        outside += usize::from(seen.running);
        daemon = field.daemon(&database.url).await;
        field.look().await;
        field.tally.progress(kills);
    }
    field.tally.notes.push(format!(
        "{interrupted} of {kills} kills hit a request before its end, {half} left a migration half \
         done, {outside} of them in a statement outside a transaction, {invalid} an invalid index"
    ));
    let mut tally = field.end(&[&daemon.address]).await;
    if interrupted * 2 < kills {
        tally.disagreement(
            "kills",
            "fewer than half of the kills hit anything: this run proves little",
        );
    }
    tally
}

/// Waits a while for an index that is being built.
async fn invalid_index(database: &TestDatabase) -> bool {
    let building = "SELECT count(*) > 0 FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid \
        WHERE NOT i.indisvalid AND c.relname ~ '^t[0-9]+$'";
    for _ in 0..250 {
        if database.text(building).await == "t" {
            return true;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    false
}
