//! How much a client may have, and all of them together.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::transport::quota::Quota;

/// Files that are not connections of the main listener: the admin listener's, the database's, the
/// log.
const OTHER_FILES: usize = 768;

/// The limits of a listener. Whoever is over one is refused with RESOURCE_EXHAUSTED, or cut off
/// where there is no request to answer; everybody else goes on.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections. A new one beyond it takes the place of one that is idle, or of a stranger's.
    pub connections: usize,
    /// Connections of one address, likewise.
    pub connections_per_address: usize,
    /// Requests at once on one connection.
    pub streams_per_connection: usize,
    /// Requests at once of one principal, health and watches not counted.
    pub requests_per_principal: usize,
    /// Bytes of a request message.
    pub message_bytes: usize,
    /// Bytes of a request's headers, as HTTP/2 counts them (names, values, 32 for each).
    pub header_bytes: usize,
    /// Open health Watches and WatchOperations.
    pub watchers: usize,
    /// The same of one principal; of one address where there is none.
    pub watchers_per_client: usize,
    /// Different versions in open health Watches of `schemad.schema.applied.<version>`.
    pub watched_names: usize,
    /// The same of one principal, or of one address that says no name.
    pub watched_names_per_client: usize,
    /// A connection without a request is closed after this long.
    pub idle: Duration,
    /// An answer has to be read within this, or its connection is closed; not those that last as
    /// long as an operation or a watch.
    pub read_within: Duration,
    /// A TLS handshake, HTTP/2's first bytes and a request's message have to arrive within this.
    pub arrive_within: Duration,
}

impl Default for Limits {
    /// - A connection at rest takes some 10 KiB (30 with TLS), so that the most of them stay below
    /// -   half a GiB, and one address cannot take all.
    /// - 100 streams are what RFC 9113 recommends at least; a pipeline uses one, an app a few.
    /// - The largest answers have 2 MiB, so 128 that one principal does not read take 256 MiB, for
    /// -   a minute.
    /// - The largest request that means something names 10,000 versions, half a MiB.
    /// - 16 KiB of headers hold the largest identity token that is taken (8 KiB) and a proxy's
    /// -   additions.
    /// - An app watches the one version that it needs, and many of them may come from one address.
    /// - Idle clients of gRPC's own close after 30 minutes, so an hour never surprises one.
    fn default() -> Self {
        Self {
            connections: 16_384,
            connections_per_address: 12_288,
            streams_per_connection: 100,
            requests_per_principal: 128,
            message_bytes: 1 << 20,
            header_bytes: 16 << 10,
            watchers: 10_000,
            watchers_per_client: 5_000,
            watched_names: 1_000,
            watched_names_per_client: 200,
            idle: Duration::from_secs(60 * 60),
            read_within: Duration::from_secs(60),
            arrive_within: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// As many connections as the process may have files, which is raised as far as it goes: a
    /// client must not take the files that the database's connections need.
    #[must_use]
    pub fn within_files(self) -> Self {
        let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else {
            return self;
        };
        let wanted = self.connections.saturating_add(OTHER_FILES);
        let files = u64::try_from(wanted)
            .unwrap_or(u64::MAX)
            .clamp(soft, hard.max(soft));
        if files > soft && setrlimit(Resource::RLIMIT_NOFILE, files, hard).is_err() {
            return self;
        }
        let files = usize::try_from(files).unwrap_or(usize::MAX);
        if files >= wanted {
            return self;
        }
        let connections = files.saturating_sub(OTHER_FILES).max(files / 2).max(1);
        tracing::warn!(
            event = "daemon.few_files",
            files,
            connections,
            "this process may open {files} files, so {connections} connections are served at once; \
             raise the limit (ulimit -n, LimitNOFILE) or lower --max-connections"
        );
        Self {
            connections,
            connections_per_address: self.connections_per_address.min(connections),
            ..self
        }
    }

    /// How many different versions may be watched.
    pub fn names(&self) -> Quota {
        Quota {
            each: self.watched_names_per_client,
            all: self.watched_names,
        }
    }

    /// The same for the admin listener, which only probes and scrapers use.
    #[must_use]
    pub fn of_admin(&self) -> Self {
        let connections = self.connections.min(512);
        Self {
            connections,
            connections_per_address: connections,
            idle: Duration::from_secs(5 * 60),
            ..self.clone()
        }
    }
}
