//! (d) The primary dies in the middle of an apply and its standby is promoted; the daemon's URL
//! names both. With synchronous replication no acknowledged step is lost. Without it the last ones
//! may be, but what is there agrees.

use super::{
    Length,
    asking::{Request, Wish, ask},
    field::{Field, after},
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::{Proxy, Server, eventually, server::TRUST};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replication {
    Synchronous,
    /// The standby hears nothing for a while before the primary dies.
    Late,
}

pub async fn run(length: Length, random: Random) -> Tally {
    let mut tally = Tally::new("d  a standby promoted in the middle of an apply");
    let mut gone = 0;
    for n in 0..length.of(1, 5) {
        for replication in [Replication::Synchronous, Replication::Late] {
            let random = random.fork(&format!("{replication:?} {n}"));
            let (next, lost) = promote(replication, tally, random).await;
            tally = next;
            gone += lost;
        }
    }
    tally.notes.push(format!(
        "{gone} acknowledged steps are gone, all of them from asynchronous replication"
    ));
    if gone == 0 {
        tally.notes.push(
            "(so this run did not show that their loss leaves everything in agreement)".into(),
        );
    }
    tally
}

/// Returns how many acknowledged steps the promotion took back.
async fn promote(replication: Replication, tally: Tally, random: Random) -> (Tally, usize) {
    let mut primary = Server::start(&[], &[], TRUST).await;
    let way = Proxy::before(&primary.local_url()).await;
    let mut field = Field::new(&primary.local_url(), tally, random).await;
    let standby = primary.standby_through("127.0.0.1", way.port).await;
    if replication == Replication::Synchronous {
        primary
            .execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            .await;
        primary.execute("SELECT pg_reload_conf()").await;
    }
    let expected = if replication == Replication::Synchronous {
        "sync"
    } else {
        "async"
    };
    let client = field.client().await;
    eventually("the standby follows", async || {
        let state = "SELECT sync_state FROM pg_stat_replication WHERE state = 'streaming'";
        let rows = client.query(state, &[]).await.unwrap();
        rows.iter()
            .any(|row| row.get::<_, &str>(0) == expected)
            .then_some(())
    })
    .await;
    drop(client);
    let url = format!(
        "postgres://postgres@127.0.0.1:{},127.0.0.1:{}/postgres?target_session_attrs=read-write",
        primary.port, standby.port
    );
    let daemon = field.daemon(&url).await;
    field.finish(&[&daemon.address], Wish::ApplySteps(3)).await;
    field.look().await;

    let (progress, mut events) = tokio::sync::mpsc::unbounded_channel();
    let (address, request) = (daemon.address.clone(), Request::new(Wish::Apply));
    let asked = tokio::spawn(async move { ask(&address, &request, Some(progress)).await });
    field.tally.tries += 1;
    after(field.random.up_to(60), &mut events).await;
    if replication == Replication::Late {
        way.stall();
        after(field.random.up_to(30), &mut events).await;
    }
    tokio::time::sleep(field.random.millis(5)).await;
    primary.stop_immediately();
    field.tally.faults += 1;
    way.cut();
    standby.promote().await;
    field.direct = standby.local_url();
    field.remember(asked.await.unwrap());
    let gone = if replication == Replication::Late {
        field.forgive().await
    } else {
        0
    };
    let seen = field.look().await;
    if seen.applied == MIGRATIONS {
        field
            .tally
            .notes
            .push("a promotion came after the last step".into());
    }
    (field.end(&[&daemon.address]).await, gone)
}
