//! What tests are made of: a server, a database each, a folder of migrations, a daemon in this
//! process or in one of its own, a client, a proxy that can cut and stall.

pub mod authority;
pub mod daemon;
pub mod database;
pub mod guarded;
pub mod packages;
pub mod process;
pub mod proxy;
pub mod server;
pub mod set;
pub mod wire;

pub use authority::Authority;
pub use daemon::TestDaemon;
pub use database::TestDatabase;
pub use guarded::Guarded;
pub use process::Process;
pub use proxy::Proxy;
pub use server::Server;
pub use set::Set;
pub use wire::Wire;

use std::time::{Duration, Instant};

/// As long as anything may take on a busy machine before a test gives up on it.
pub const PATIENCE: Duration = Duration::from_secs(90);

/// Waits until `check` returns something, looking often; panics with `what` when it does not in
/// time.
pub async fn eventually<T>(what: &str, mut check: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(value) = check().await {
            return value;
        }
        assert!(Instant::now() < deadline, "never: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A port of the loopback address that nobody listens on just now, for what cannot say which one it
/// took.
pub fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}
