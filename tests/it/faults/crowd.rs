//! (c) Sixteen clients of four daemons ask for the same and for opposite things. One operation runs
//! at a time, and a request_id is one operation, whichever daemons its repeats reach.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{StreamExt as _, future::join_all};
use uuid::Uuid;

use super::{
    Length,
    asking::{Request, Told, Wish, ask, send},
    field::Field,
    random::Random,
    tally::{Finding, Tally},
};
use crate::harness::TestDatabase;

const CLIENTS: usize = 16;
const DAEMONS: usize = 4;

/// Every so often somebody looks who holds the lock and which operations run.
const LOOK_EVERY: Duration = Duration::from_millis(15);

/// One of a round's clients.
struct Asking {
    request: Request,
    daemon: usize,
    /// Hangs up after so many events and asks another daemon with the same id.
    leaves_after: Option<usize>,
}

pub async fn run(length: Length, random: Random) -> Tally {
    let rounds = length.of(5, 60);
    let database = TestDatabase::new().await;
    let tally = Tally::new("c  16 clients of 4 daemons, repeats and opposites");
    let mut field = Field::new(&database.url, tally, random).await;
    let mut daemons = Vec::new();
    for _ in 0..DAEMONS {
        daemons.push(field.daemon(&database.url).await);
    }
    let addresses: Vec<String> = daemons
        .iter()
        .map(|daemon| daemon.address.clone())
        .collect();
    field.finish(&[&addresses[0]], Wish::ApplySteps(30)).await;
    let (mut repeats, mut refused) = (0, 0);
    for _ in 0..rounds {
        let asking = round(&mut field.random);
        field.tally.tries += asking.len();
        field.tally.faults += asking
            .iter()
            .filter(|asking| asking.leaves_after.is_some())
            .count();
        let over = Arc::new(AtomicBool::new(false));
        let watching = tokio::spawn(exclusive(database.url.clone(), over.clone()));
        let told = join_all(asking.iter().map(|asking| one(&addresses, asking))).await;
        over.store(true, Ordering::SeqCst);
        if let Some(at_once) = watching.await.unwrap() {
            field.tally.disagreement("exclusive", at_once);
        }
        compare_ids(&mut field, &asking, &told).await;
        for told in told.into_iter().flatten() {
            repeats += usize::from(told.repeated);
            match told.reason().as_str() {
                _ if told.succeeded() => {}
                "BUSY" | "TOO_FEW_APPLIED" => refused += 1,
                // Its own client hung up on it.
                "" if told.status.is_none() => {}
                other => {
                    let text = format!("a request ended with {other}: {}", told.message());
                    field.tally.disagreement(format!("reason {other}"), text);
                }
            }
            // A stream that began elsewhere hears the steps done before it came, too; all are
            // compared.
            field.remember(told);
        }
        field.look().await;
    }
    field.tally.notes.push(format!(
        "{repeats} streams joined an operation that was there, {refused} requests were refused"
    ));
    let addresses: Vec<&str> = addresses.iter().map(String::as_str).collect();
    field.end(&addresses).await
}

/// Half of the clients share ids, by fours; the others have none.
fn round(random: &mut Random) -> Vec<Asking> {
    let shared: Vec<Request> = (0..2)
        .map(|_| Request {
            id: id(random),
            ..request(random)
        })
        .collect();
    (0..CLIENTS)
        .map(|n| Asking {
            request: match n {
                0..8 => shared[n / 4].clone(),
                8..12 => Request {
                    id: id(random),
                    ..request(random)
                },
                _ => request(random),
            },
            daemon: n % DAEMONS,
            leaves_after: (n < 12 && random.one_in(3)).then(|| random.up_to(20)),
        })
        .collect()
}

fn request(random: &mut Random) -> Request {
    let wish = match random.below(4) {
        0 | 1 => Wish::Apply,
        2 => Wish::Rollback(random.up_to(20) as i32),
        _ => Wish::Rollback(random.up_to(3) as i32),
    };
    let queue = Duration::from_secs(if random.one_in(5) { 0 } else { 60 });
    Request {
        queue,
        ..Request::new(wish)
    }
}

fn id(random: &mut Random) -> String {
    let word = |random: &mut Random| random.below(usize::MAX) as u64;
    Uuid::from_u64_pair(word(random), word(random)).to_string()
}

/// What one client hears: from one daemon, or from two.
async fn one(addresses: &[String], asking: &Asking) -> Vec<Told> {
    let first = &addresses[asking.daemon];
    let Some(leaves_after) = asking.leaves_after else {
        return vec![ask(first, &asking.request, None).await];
    };
    let mut told = Told::default();
    match send(first, &asking.request).await {
        Ok(events) => {
            let mut events = events.take(leaves_after);
            while let Some(Ok(event)) = events.next().await {
                told.hear(event);
            }
        }
        Err(status) => told.status = Some(status),
    }
    let second = &addresses[(asking.daemon + 1) % addresses.len()];
    vec![told, ask(second, &asking.request, None).await]
}

/// Looks again and again until it is over. Returns what was seen at once that must not be.
async fn exclusive(url: String, over: Arc<AtomicBool>) -> Option<String> {
    let client = crate::harness::database::connect(&url).await;
    let query = "SELECT (SELECT count(*) FROM schemad.operations WHERE state = 'running'), (SELECT \
        count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid = 7562088 AND \
        objid = 1701667172 AND objsubid = 1 AND database = (SELECT oid FROM pg_database WHERE \
        datname = current_database()))";
    let mut wrong = None;
    while !over.load(Ordering::SeqCst) {
        let row = client.query_one(query, &[]).await.unwrap();
        let (running, holders): (i64, i64) = (row.get(0), row.get(1));
        if running > 1 || holders > 1 {
            wrong = Some(format!(
                "{running} operations ran at once, {holders} sessions held the lock"
            ));
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
    wrong
}

/// All who asked with one id heard of one operation, and the ledger has one for it.
async fn compare_ids(field: &mut Field, asking: &[Asking], told: &[Vec<Told>]) {
    let mut operations: HashMap<&str, Vec<&str>> = HashMap::new();
    for (asking, told) in asking
        .iter()
        .zip(told)
        .filter(|(asking, _)| !asking.request.id.is_empty())
    {
        let heard = told
            .iter()
            .map(|told| told.operation.as_str())
            .filter(|operation| !operation.is_empty());
        operations
            .entry(&asking.request.id)
            .or_default()
            .extend(heard);
    }
    let client = field.client().await;
    for (id, mut heard) in operations {
        heard.sort_unstable();
        heard.dedup();
        let count = "SELECT count(*) FROM schemad.operations WHERE request_id::text = $1";
        let recorded: i64 = client.query_one(count, &[&id]).await.unwrap().get(0);
        if heard.len() > 1 || recorded > 1 {
            let text =
                format!("request_id {id} was heard of as {heard:?} and recorded {recorded} times");
            field.tally.found(Finding::doubled(id, text));
        }
    }
}
