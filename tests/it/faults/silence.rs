//! (e) Somebody says nothing any more: a client that stops reading, a client's process that is
//! stopped, and a daemon's.

use std::time::{Duration, Instant};

use futures_util::StreamExt as _;
use nix::sys::signal::{Signal, kill};
use tonic::transport::Endpoint;

use super::{
    Length,
    asking::{Request, Told, Wish, ask, send_on},
    field::{Field, after},
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::{PATIENCE, TestDatabase, eventually, process::schemad};

/// 30 s of silence end a session, and looking comes every half second.
const TAKEN_OVER_WITHIN: Duration = Duration::from_secs(40);

/// What a client takes before it has read it: one event or two.
const WINDOW: u32 = 300;

pub async fn run(length: Length, random: Random) -> Tally {
    let database = TestDatabase::new().await;
    let tally = Tally::new("e  clients that do not read, a daemon that is stopped");
    let mut field = Field::new(&database.url, tally, random).await;
    let (first, second) = (
        field.daemon(&database.url).await,
        field.daemon(&database.url).await,
    );
    for _ in 0..length.of(1, 5) {
        unread(&mut field, &first.address).await;
        stopped_client(&mut field, &first.address).await;
        field.finish(&[&second.address], Wish::RollbackAll).await;
    }
    drop(first);
    let mut longest = Duration::ZERO;
    for _ in 0..length.of(3, 6) {
        longest =
            longest.max(stopped_daemon(length, &mut field, &database.url, &second.address).await);
    }
    if length == Length::Long {
        field.tally.notes.push(format!(
            "the longest takeover of a stopped daemon's operation took {longest:.1?}"
        ));
        if longest > TAKEN_OVER_WITHIN {
            field
                .tally
                .disagreement("takeover", format!("a takeover took {longest:.1?}"));
        }
    }
    field.end(&[&second.address]).await
}

/// The operation goes on to its end although nobody reads, and who reads on later misses no step.
async fn unread(field: &mut Field, address: &str) {
    field.tally.tries += 1;
    field.tally.faults += 1;
    let endpoint = Endpoint::from_shared(format!("http://{address}")).unwrap();
    let endpoint = endpoint
        .initial_stream_window_size(WINDOW)
        .initial_connection_window_size(1 << 16);
    let mut events = send_on(endpoint, &Request::new(Wish::Apply)).await.unwrap();
    let mut told = Told::default();
    told.hear(events.next().await.unwrap().unwrap());
    until_over(field, &told.operation).await;
    while let Some(Ok(event)) = events.next().await {
        told.hear(event);
    }
    if told.done.len() != MIGRATIONS || told.finished.is_none() {
        let text = format!(
            "who read late heard of {} steps, and the end: {}",
            told.done.len(),
            told.finished.is_some()
        );
        field.tally.disagreement("late", text);
    }
    field.remember(told);
    field.look().await;
    field.finish(&[address], Wish::RollbackAll).await;
}

/// `schemad apply` is stopped, and goes on when everything is over.
async fn stopped_client(field: &mut Field, address: &str) {
    field.tally.tries += 1;
    field.tally.faults += 1;
    let mut command = schemad(&["apply", "--address", address, "--output", "json"]);
    let mut client = command
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let begun = "SELECT id::text FROM schemad.operations WHERE state = 'running'";
    let operation = eventually("it runs", async || {
        field
            .client()
            .await
            .query(begun, &[])
            .await
            .unwrap()
            .first()
            .map(|row| row.get::<_, String>(0))
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(client.id().unwrap().cast_signed());
    kill(pid, Signal::SIGSTOP).unwrap();
    until_over(field, &operation).await;
    kill(pid, Signal::SIGCONT).unwrap();
    match tokio::time::timeout(PATIENCE, client.wait()).await {
        Ok(Ok(status)) if status.success() => {}
        other => field.tally.disagreement(
            "client",
            format!("a client that was stopped ended with {other:?}"),
        ),
    }
    field.look().await;
}

async fn until_over(field: &mut Field, operation: &str) {
    let state = "SELECT state FROM schemad.operations WHERE id::text = $1";
    let client = field.client().await;
    eventually("the operation is over", async || {
        let row = client.query_one(state, &[&operation]).await.unwrap();
        matches!(row.get::<_, &str>(0), "succeeded").then_some(())
    })
    .await;
}

/// The other daemon ends its session and goes on; when the stopped one wakes up it does no harm.
/// Returns how long that took.
async fn stopped_daemon(length: Length, field: &mut Field, url: &str, other: &str) -> Duration {
    let stopped = field.daemon(url).await;
    let seen = field.look().await;
    let request = Request::new(field.wish(&seen, MIGRATIONS));
    let (progress, mut events) = tokio::sync::mpsc::unbounded_channel();
    let address = stopped.address.clone();
    let asked = tokio::spawn(async move { ask(&address, &request, Some(progress)).await });
    field.tally.tries += 1;
    after(field.random.up_to(80), &mut events).await;
    tokio::time::sleep(field.random.millis(5)).await;
    stopped.freeze().await;
    let begun = Instant::now();
    field.tally.faults += 1;
    let client = field.client().await;
    if length == Length::Short {
        let silent = "UPDATE schemad.operations SET heartbeat_at = heartbeat_at - interval '31 s' \
            WHERE state = 'running'";
        client.batch_execute(silent).await.unwrap();
    }
    let running = "SELECT count(*) FROM schemad.operations WHERE state = 'running'";
    let mut took = None;
    while took.is_none() && begun.elapsed() < TAKEN_OVER_WITHIN * 2 {
        let running: i64 = client.query_one(running, &[]).await.unwrap().get(0);
        took = (running == 0).then(|| begun.elapsed());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    if took.is_none() {
        field
            .tally
            .disagreement("never", "a stopped daemon's operation is never closed");
    }
    let seen = field.look().await;
    let wish = field.wish(&seen, 5);
    field.finish(&[other], wish).await;
    field.look().await;
    stopped.signal(Signal::SIGCONT);
    match tokio::time::timeout(PATIENCE * 2, asked).await {
        Ok(told) => field.remember(told.unwrap()),
        Err(_) => field.tally.disagreement(
            "woken",
            "the call to a daemon that was stopped and woken never ends",
        ),
    }
    field.look().await;
    let seen = field.look().await;
    let wish = field.wish(&seen, 3);
    field.finish(&[&stopped.address], wish).await;
    field.look().await;
    took.unwrap_or(TAKEN_OVER_WITHIN * 2)
}
