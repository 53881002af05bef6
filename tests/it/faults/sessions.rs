//! (b) The daemon lives, and loses its sessions: ended by the server, with the server, or on the
//! way there.

use std::time::Duration;

use super::{
    Length,
    asking::{Request, Wish, ask},
    field::{Field, after},
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::{Process, Proxy, Server, proxy::Half, server::TRUST};

/// A request that lost its session ends: 30 s to find out, and what the server needs.
const ENDS_WITHIN: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
enum Fault {
    TerminateOne,
    TerminateAll,
    /// The one that runs the migrations.
    TerminateMigrating,
    Stop,
    Cut,
    Stall,
    StallAndCut,
    HalfClose(Half),
}

const FAULTS: [Fault; 9] = [
    Fault::TerminateMigrating,
    Fault::Stop,
    Fault::Cut,
    Fault::HalfClose(Half::Client),
    Fault::TerminateOne,
    Fault::StallAndCut,
    Fault::Stall,
    Fault::HalfClose(Half::Server),
    Fault::TerminateAll,
];

pub async fn run(length: Length, random: Random) -> Tally {
    let server = Server::start(&[], &[], TRUST).await;
    let tally = Tally::new("b  sessions ended, server stopped, proxy in between");
    let field = Field::new(&server.local_url(), tally, random).await;
    let proxy = Proxy::before(&field.direct).await;
    let daemon = field.daemon(&proxy.url).await;
    meet(length.of(18, 180), length, server, field, proxy, daemon).await
}

/// The logins of docs/least-privilege.md, without a role that migrations are run as.
const LOGINS: &str = "CREATE ROLE keeper LOGIN; CREATE ROLE migrator LOGIN NOINHERIT; GRANT \
    migrator TO keeper; CREATE SCHEMA schemad AUTHORIZATION keeper; GRANT USAGE ON SCHEMA schemad \
    TO migrator; ALTER DEFAULT PRIVILEGES FOR ROLE keeper IN SCHEMA schemad GRANT EXECUTE ON \
    FUNCTIONS TO migrator; ALTER SCHEMA public OWNER TO migrator; ALTER TABLE counter OWNER TO \
    migrator; ALTER TABLE trail OWNER TO migrator; CREATE TABLE __diesel_schema_migrations \
    (version varchar(50) PRIMARY KEY NOT NULL, run_on timestamp NOT NULL DEFAULT \
    CURRENT_TIMESTAMP); GRANT USAGE ON SCHEMA public TO keeper; GRANT SELECT, INSERT, DELETE ON \
    __diesel_schema_migrations TO keeper";

/// (h) The same, where the ledger is kept by another login than the one that runs migrations:
/// either may lose its session.
pub async fn run_with_two_logins(length: Length, random: Random) -> Tally {
    let server = Server::start(&[], &[], TRUST).await;
    let tally = Tally::new("h  as b, with a login of its own for migrations");
    let field = Field::new(&server.local_url(), tally, random).await;
    field.client().await.batch_execute(LOGINS).await.unwrap();
    let proxy = Proxy::before(&field.direct).await;
    let of = |login: &str| {
        proxy
            .url
            .replacen("postgres://postgres@", &format!("postgres://{login}@"), 1)
    };
    let daemon = field
        .daemon_with_two_logins(&of("keeper"), &of("migrator"))
        .await;
    meet(length.of(6, 120), length, server, field, proxy, daemon).await
}

async fn meet(
    faults: usize,
    length: Length,
    mut server: Server,
    mut field: Field,
    proxy: Proxy,
    daemon: Process,
) -> Tally {
    field.finish(&[&daemon.address], Wish::ApplySteps(5)).await;
    let (mut lost, mut succeeded) = (0, 0);
    for n in 0..faults {
        let seen = field.look().await;
        let request = Request::new(field.wish(&seen, MIGRATIONS));
        let (progress, mut events) = tokio::sync::mpsc::unbounded_channel();
        let address = daemon.address.clone();
        let asked = tokio::spawn(async move { ask(&address, &request, Some(progress)).await });
        field.tally.tries += 1;
        after(field.random.up_to(80), &mut events).await;
        tokio::time::sleep(field.random.millis(5)).await;
        let fault = FAULTS[n % FAULTS.len()];
        field.tally.faults += 1;
        inject(fault, &mut field, &mut server, &proxy, length).await;
        let Ok(told) = tokio::time::timeout(ENDS_WITHIN, asked).await else {
            field.tally.disagreement(
                format!("hangs {n}"),
                format!("a request hangs after {fault:?}"),
            );
            continue;
        };
        let told = told.unwrap();
        match told.reason().as_str() {
            _ if told.succeeded() => succeeded += 1,
            "INTERRUPTED" => lost += 1,
            // It met the fault before it was accepted.
            "DATABASE_UNAVAILABLE" | "BUSY" if told.finished.is_none() => lost += 1,
            other => {
                let text = format!(
                    "after {fault:?} a request ended with {other:?}: {}",
                    told.message()
                );
                field.tally.disagreement(format!("ended {n}"), text);
            }
        }
        field.remember(told);
        let seen = field.look().await;
        let wish = field.wish(&seen, 3);
        field.finish(&[&daemon.address], wish).await;
        field.look().await;
        field.tally.progress(faults);
    }
    field.tally.notes.push(format!(
        "of {faults} requests {lost} were told that they were interrupted, {succeeded} succeeded"
    ));
    let mut tally = field.end(&[&daemon.address]).await;
    if lost * 4 < faults {
        tally.disagreement(
            "faults",
            "fewer than a quarter of the faults hit anything: this run proves little",
        );
    }
    tally
}

async fn inject(
    fault: Fault,
    field: &mut Field,
    server: &mut Server,
    proxy: &Proxy,
    length: Length,
) {
    match fault {
        Fault::TerminateOne => {
            let sessions = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE \
                'schemad%' ORDER BY pid";
            let rows = field.client().await.query(sessions, &[]).await.unwrap();
            let pids: Vec<i32> = rows.iter().map(|row| row.get(0)).collect();
            let pid = pids
                .get(field.random.below(pids.len()))
                .copied()
                .unwrap_or_default();
            terminate(field, &format!("pid = {pid}")).await;
        }
        Fault::TerminateAll => terminate(field, "true").await,
        Fault::TerminateMigrating => {
            let holds = "pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND \
                granted)";
            terminate(field, holds).await;
        }
        Fault::Stop => {
            server.stop_immediately();
            tokio::time::sleep(field.random.millis(400)).await;
            server.start_again().await;
        }
        Fault::Cut => {
            proxy.cut();
            if field.random.one_in(2) {
                tokio::time::sleep(field.random.millis(300)).await;
            }
            proxy.open();
        }
        Fault::Stall | Fault::StallAndCut => {
            proxy.stall();
            tokio::time::sleep(field.random.millis(if length == Length::Short {
                600
            } else {
                4000
            }))
            .await;
            if matches!(fault, Fault::StallAndCut) {
                proxy.cut();
            }
            proxy.open();
        }
        Fault::HalfClose(reader) => proxy.half_close(reader),
    }
}

async fn terminate(field: &Field, which: &str) {
    let terminate = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE \
         'schemad%' AND {which}"
    );
    field
        .client()
        .await
        .batch_execute(&terminate)
        .await
        .unwrap();
}
