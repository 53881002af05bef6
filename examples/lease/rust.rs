//! Tests in Rust, each with a migrated database of its own: `cargo test -- --ignored` beside a
//! daemon that gives leases (`schemad dev` does), with `schemad` on PATH. Of this file a project
//! needs [`Database`], and tokio-postgres or whatever it asks with.

use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
};

/// A database that is there as long as this value.
struct Database {
    url: String,
    lease: Child,
}

impl Database {
    fn lease() -> Self {
        let mut command = Command::new("schemad");
        // The lease ends when stdin does, also when this test is killed.
        let mut lease = command
            .arg("lease")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("schemad on PATH");
        let mut url = String::new();
        BufReader::new(lease.stdout.take().unwrap())
            .read_line(&mut url)
            .unwrap();
        assert!(!url.is_empty(), "no lease; schemad says why");
        Self {
            url: url.trim().into(),
            lease,
        }
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        drop(self.lease.stdin.take());
        let _ = self.lease.wait();
    }
}

#[tokio::test]
#[ignore = "needs a daemon that gives leases"]
async fn an_address_belongs_to_one_user() {
    let database = Database::lease();
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    let insert = "INSERT INTO users (email, full_name, password_hash) VALUES ('ada@example.org', \
        'Ada', 'x')";
    client.batch_execute(insert).await.unwrap();
    assert!(client.batch_execute(insert).await.is_err());
}

#[tokio::test]
#[ignore = "needs a daemon that gives leases"]
async fn nobody_is_there_at_first() {
    let database = Database::lease();
    let (client, connection) = tokio_postgres::connect(&database.url, tokio_postgres::NoTls)
        .await
        .unwrap();
    tokio::spawn(connection);
    assert!(
        client
            .query("SELECT FROM users", &[])
            .await
            .unwrap()
            .is_empty()
    );
}
