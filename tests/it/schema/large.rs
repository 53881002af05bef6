//! A schema of 10,000 tables: read, hashed and compared, beside pg_dump. `cargo test --release
//! --test it -- --ignored schema::large`.

use std::time::Instant;

use schemad::internals::schema::{self, Except};

use crate::harness::{TestDatabase, server::tool};

/// In pieces, because one transaction would need more locks than a server has.
const TABLES: &str = "DO $$ BEGIN FOR n IN %from..%to LOOP
    EXECUTE format('CREATE TABLE t%s (id int PRIMARY KEY, a text NOT NULL, b varchar(20) DEFAULT ''x'', c timestamptz, d int)', n);
    END LOOP; END $$";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes a minute"]
async fn ten_thousand_tables_are_read_faster_than_pg_dump_reads_them() {
    let database = TestDatabase::new().await;
    let session = database.connect().await;
    for piece in 0..100 {
        let (from, to) = (
            (piece * 100 + 1).to_string(),
            (piece * 100 + 100).to_string(),
        );
        session
            .batch_execute(&TABLES.replace("%from", &from).replace("%to", &to))
            .await
            .unwrap();
    }
    let before = schema::read(&session, &Except::default()).await.unwrap();
    session
        .batch_execute("ALTER TABLE t5000 ADD x int")
        .await
        .unwrap();
    let (mut dumps, mut reads) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        let begun = Instant::now();
        let dump = tokio::process::Command::new(tool("pg_dump"))
            .args(["--schema-only", "-d", &database.url])
            .output()
            .await;
        assert!(dump.unwrap().status.success());
        dumps.push(begun.elapsed());
        let begun = Instant::now();
        let after = schema::read(&session, &Except::default()).await.unwrap();
        reads.push(begun.elapsed());
        assert_eq!(after.tables.len(), 10_000);
    }
    let after = schema::read(&session, &Except::default()).await.unwrap();
    let begun = Instant::now();
    let differences = schema::diff(&before, &after);
    let diff = begun.elapsed();
    let begun = Instant::now();
    let fingerprint = after.fingerprint();
    let hash = begun.elapsed();
    assert_eq!(differences.len(), 1);
    let peak = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = peak
        .lines()
        .find(|line| line.starts_with("VmHWM"))
        .unwrap_or_default();
    println!(
        "pg_dump {dumps:?}, snapshot {reads:?}, diff {diff:?}, fingerprint {hash:?}, {peak}, \
         {fingerprint}"
    );
    assert!(
        reads.iter().min() < dumps.iter().min(),
        "{reads:?} {dumps:?}"
    );
}
