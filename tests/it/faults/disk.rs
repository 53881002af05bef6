//! (g) The server's disk is full: tables cannot grow, or the WAL cannot, and then the server goes
//! down. On a small tmpfs where one may be mounted, else with a table whose file is /dev/full.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use super::{
    Length,
    asking::{Request, Wish, ask},
    field::{Field, after},
    migrations::MIGRATIONS,
    random::Random,
    tally::Tally,
};
use crate::harness::{Server, server::TRUST};

/// A new cluster has 40 MB, and its WAL comes in pieces of 16.
const SIZE: &str = "size=192m";

/// A small disk; unmounted when dropped.
pub struct Disk(tempfile::TempDir);

impl Disk {
    /// `None`: not permitted here.
    pub fn mount() -> Option<Self> {
        let disk = Self(tempfile::tempdir().unwrap());
        let mut mount = Command::new("mount");
        mount
            .args(["-t", "tmpfs", "-o", SIZE, "schemad-faults"])
            .arg(disk.0.path())
            .stderr(Stdio::null());
        mount
            .status()
            .is_ok_and(|status| status.success())
            .then_some(disk)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    fn filler(&self) -> PathBuf {
        self.0.path().join("filler")
    }

    /// Leaves nothing.
    pub fn fill(&self) {
        let mut file = fs::File::create(self.filler()).unwrap();
        let zeroes = vec![0; 64 * 1024];
        while file.write_all(&zeroes).is_ok() {}
    }

    pub fn free(&self) {
        fs::remove_file(self.filler()).unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

pub async fn run(length: Length, random: Random) -> Tally {
    match Disk::mount() {
        Some(disk) => small_disk(length, random, &disk).await,
        None => full_file(random).await,
    }
}

async fn small_disk(length: Length, random: Random, disk: &Disk) -> Tally {
    let settings = ["min_wal_size=32MB", "max_wal_size=32MB"];
    let mut server = Server::start_in(disk.0.path(), &[], &settings, TRUST).await;
    let tally = Tally::new("g  the server's disk is full");
    let mut field = Field::new(&server.local_url(), tally, random).await;
    let daemon = field.daemon(&server.local_url()).await;
    field.finish(&[&daemon.address], Wish::ApplySteps(3)).await;
    let (mut refused, mut lost, mut crashes) = (0, 0, 0);
    for n in 0..length.of(4, 30) {
        let seen = field.look().await;
        let request = Request::new(field.wish(&seen, MIGRATIONS));
        let (progress, mut events) = tokio::sync::mpsc::unbounded_channel();
        let address = daemon.address.clone();
        let asked = tokio::spawn(async move { ask(&address, &request, Some(progress)).await });
        field.tally.tries += 1;
        after(field.random.up_to(50), &mut events).await;
        field.tally.faults += 1;
        disk.fill();
        if n % 2 == 1 {
            fill_wal(&field.direct).await;
            crashes += 1;
        }
        // A full disk may let small steps pass for ever; a lost session needs the space to be found
        // out about.
        tokio::time::sleep(Duration::from_millis(300)).await;
        disk.free();
        if !server.is_up() || n % 2 == 1 {
            server.stop_immediately();
            server.start_again().await;
        }
        let told = asked.await.unwrap();
        match told.reason().as_str() {
            _ if told.succeeded() => {}
            "MIGRATION_FAILED" if told.message().contains("53100") => refused += 1,
            "INTERRUPTED" | "DATABASE_UNAVAILABLE" => lost += 1,
            other => {
                let text = format!(
                    "with a full disk a request ended with {other:?}: {}",
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
    }
    field.tally.notes.push(format!(
        "on a tmpfs: {refused} migrations were refused for want of space, {lost} lost their \
         session, the WAL was full {crashes} times"
    ));
    field.end(&[&daemon.address]).await
}

/// Writes WAL until the server cannot any more, which it does not survive. Gives up after much more
/// than the disk holds.
async fn fill_wal(url: &str) {
    let Ok((client, connection)) = tokio_postgres::connect(url, tokio_postgres::NoTls).await else {
        return;
    };
    let driven = tokio::spawn(connection);
    for _ in 0..200 {
        let megabyte =
            "SELECT pg_logical_emit_message(true, 'schemad-faults', repeat('x', 1000000))";
        if client.batch_execute(megabyte).await.is_err() {
            break;
        }
    }
    driven.abort();
}

/// Every write to /dev/full fails as on a full disk.
async fn full_file(random: Random) -> Tally {
    let server = Server::start(&[], &[], TRUST).await;
    let tally = Tally::new("g  the server's disk is full (/dev/full)");
    let mut field = Field::new(&server.local_url(), tally, random).await;
    // The counter is empty, and so is its file; no session of the daemon's has opened it.
    let row = field
        .client()
        .await
        .query_one("SELECT pg_relation_filepath('counter')", &[])
        .await
        .unwrap();
    let file = server.data(row.get(0));
    let aside = aside(&file);
    let daemon = field.daemon(&server.local_url()).await;
    field.tally.tries += 1;
    field.tally.faults += 1;
    let told = ask(&daemon.address, &Request::new(Wish::Apply), None).await;
    if told.reason() != "MIGRATION_FAILED" {
        field.tally.disagreement(
            "full",
            format!("with a full disk: {:?} {}", told.reason(), told.message()),
        );
    }
    field.remember(told);
    fs::rename(&aside, &file).unwrap();
    field.look().await;
    field
        .tally
        .notes
        .push("no tmpfs may be mounted here, so the WAL was never full".into());
    field.end(&[&daemon.address]).await
}

fn aside(file: &Path) -> PathBuf {
    let aside = file.with_extension("aside");
    fs::rename(file, &aside).unwrap();
    std::os::unix::fs::symlink("/dev/full", file).unwrap();
    aside
}
