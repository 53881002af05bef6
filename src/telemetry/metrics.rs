//! The numbers behind `/metrics`, in the OpenMetrics text format.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{
        counter::Counter,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
        info::Info,
    },
    registry::Registry,
};

use crate::{
    migration::Direction,
    planner::{Assessment, SchemaState},
};

/// Lines of this process's log that were dropped because nobody read them. A process has one log,
/// however many daemons it runs.
pub(crate) static LOG_LINES_DROPPED: AtomicU64 = AtomicU64::new(0);

/// Every metric of a daemon. They are read from memory: scraping asks the database nothing.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    operations: Family<OperationLabels, Counter>,
    steps: Family<StepLabels, Histogram>,
    database_up: Gauge,
    ready: Gauge,
    applied: Gauge,
    pending: Gauge,
    problems: Gauge,
    in_doubt: Gauge,
    pool: Family<PoolLabels, Gauge>,
    probe_seconds: Gauge<f64, AtomicU64>,
    connections: Gauge,
    connections_refused: Gauge,
    insecure: Gauge,
    refusals_not_kept: Family<CauseLabels, Counter>,
    leases: Family<LeaseLabels, Gauge>,
    log_lines_dropped: Counter,
    certificates: Family<CertificateLabels, Gauge>,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OperationLabels {
    kind: &'static str,
    result: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StepLabels {
    direction: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CauseLabels {
    cause: &'static str,
}

/// Counts a leased database that waits to be dropped.
#[derive(Debug)]
pub(crate) struct LeaseDropping(Gauge);

impl Drop for LeaseDropping {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct CertificateLabels {
    setting: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LeaseLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PoolLabels {
    state: &'static str,
}

impl Metrics {
    /// All at zero.
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("schemad");
        let metrics = Self {
            operations: Family::default(),
            // 1 ms to 70 min
            steps: Family::new_with_constructor(|| {
                Histogram::new(exponential_buckets(0.001, 4.0, 12))
            }),
            database_up: Gauge::default(),
            ready: Gauge::default(),
            applied: Gauge::default(),
            pending: Gauge::default(),
            problems: Gauge::default(),
            in_doubt: Gauge::default(),
            pool: Family::default(),
            probe_seconds: Gauge::default(),
            connections: Gauge::default(),
            connections_refused: Gauge::default(),
            insecure: Gauge::default(),
            refusals_not_kept: Family::default(),
            leases: Family::default(),
            log_lines_dropped: Counter::default(),
            certificates: Family::default(),
            registry: Registry::default(),
        };
        registry.register(
            "build",
            "The running version",
            Info::new(vec![("version", env!("CARGO_PKG_VERSION"))]),
        );
        registry.register(
            "operations",
            "Operations by kind and result",
            metrics.operations.clone(),
        );
        registry.register(
            "step_duration_seconds",
            "Time from a step's start to its commit",
            metrics.steps.clone(),
        );
        registry.register(
            "database_up",
            "1 when the last probe was answered",
            metrics.database_up.clone(),
        );
        registry.register(
            "ready",
            "1 when operations can be accepted",
            metrics.ready.clone(),
        );
        registry.register(
            "migrations_applied",
            "Migrations in the Diesel table",
            metrics.applied.clone(),
        );
        registry.register(
            "migrations_pending",
            "Embedded migrations that are not applied",
            metrics.pending.clone(),
        );
        registry.register(
            "problems",
            "Blocking problems of the schema",
            metrics.problems.clone(),
        );
        registry.register(
            "in_doubt",
            "1 while a statement's end is not known, and a person has to settle it",
            metrics.in_doubt.clone(),
        );
        registry.register(
            "pool_connections",
            "Connections of the reading pool",
            metrics.pool.clone(),
        );
        registry.register(
            "probe_seconds",
            "How long the last probe took",
            metrics.probe_seconds.clone(),
        );
        registry.register(
            "connections",
            "Connections of the main listener",
            metrics.connections.clone(),
        );
        registry.register(
            "connections_refused",
            "Connections of the main listener that were refused, or closed to make room",
            metrics.connections_refused.clone(),
        );
        registry.register(
            "insecure",
            "1 with --insecure, and without TLS or without an access file",
            metrics.insecure.clone(),
        );
        registry.register(
            "refusals_not_kept",
            "Refusals that are not in the ledger: too many within a second, or the database was \
             not there",
            metrics.refusals_not_kept.clone(),
        );
        let leases = "Databases that are leased, ready to be leased, or waiting to be dropped";
        registry.register("leases", leases, metrics.leases.clone());
        registry.register(
            "log_lines_dropped",
            "Lines of the log that were dropped because nobody read them in time",
            metrics.log_lines_dropped.clone(),
        );
        registry.register(
            "tls_certificate_expires_timestamp_seconds",
            "When the first certificate of this setting's file expires, in Unix time",
            metrics.certificates.clone(),
        );
        Self {
            registry,
            ..metrics
        }
    }

    /// An operation ended, or was refused.
    pub(crate) fn operation(&self, kind: &'static str, result: &'static str) {
        self.operations
            .get_or_create(&OperationLabels { kind, result })
            .inc();
    }

    /// A refusal is not in the ledger, for this cause.
    pub(crate) fn refusal_not_kept(&self, cause: &'static str) {
        self.refusals_not_kept
            .get_or_create(&CauseLabels { cause })
            .inc();
    }

    /// A step was committed.
    pub(crate) fn step(&self, direction: Direction, took: Duration) {
        self.steps
            .get_or_create(&StepLabels {
                direction: direction.as_str(),
            })
            .observe(took.as_secs_f64());
    }

    /// A lease has begun, or ended.
    pub(crate) fn lease(&self, begun: bool) {
        self.leases
            .get_or_create(&LeaseLabels { state: "leased" })
            .inc_by(if begun { 1 } else { -1 });
    }

    /// So many more databases are ready to be leased.
    pub(crate) fn leases_ready(&self, more: i64) {
        self.leases
            .get_or_create(&LeaseLabels { state: "ready" })
            .inc_by(more);
    }

    /// One more leased database waits to be dropped, until the value is dropped.
    pub(crate) fn lease_dropping(&self) -> LeaseDropping {
        let gauge = self
            .leases
            .get_or_create(&LeaseLabels { state: "dropping" })
            .clone();
        gauge.inc();
        LeaseDropping(gauge)
    }

    /// A probe was answered or not.
    pub(crate) fn probe(&self, answered: bool, took: Duration) {
        self.database_up.set(answered.into());
        self.probe_seconds.set(took.as_secs_f64());
    }

    /// What the last probe found.
    pub(crate) fn schema(&self, assessment: &Assessment) {
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.applied.set(count(assessment.applied));
        self.pending.set(count(assessment.pending.len()));
        self.problems.set(count(
            assessment.problems.iter().filter(|p| p.blocking).count(),
        ));
        self.in_doubt
            .set((assessment.state == SchemaState::InDoubt).into());
    }

    /// How the main listener is: connections open and refused, and whether it lets in anybody.
    pub(crate) fn listener(&self, (open, refused): (usize, u64), insecure: bool) {
        self.connections
            .set(i64::try_from(open).unwrap_or(i64::MAX));
        self.connections_refused
            .set(i64::try_from(refused).unwrap_or(i64::MAX));
        self.insecure.set(insecure.into());
    }

    /// When the first certificate of a setting's file expires.
    pub(crate) fn certificate(&self, setting: &'static str, ends: SystemTime) {
        let seconds = ends
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |it| i64::try_from(it.as_secs()).unwrap_or(i64::MAX));
        self.certificates
            .get_or_create(&CertificateLabels { setting })
            .set(seconds);
    }

    /// The text that a scraper gets.
    ///
    /// # Errors
    /// Never in practice: formatting into a string.
    pub(crate) fn text(
        &self,
        ready: bool,
        (open, idle): (u32, u32),
    ) -> Result<String, std::fmt::Error> {
        self.ready.set(ready.into());
        self.log_lines_dropped
            .inner()
            .store(LOG_LINES_DROPPED.load(Relaxed), Relaxed);
        self.pool
            .get_or_create(&PoolLabels { state: "open" })
            .set(open.into());
        self.pool
            .get_or_create(&PoolLabels { state: "idle" })
            .set(idle.into());
        let mut text = String::new();
        encode(&mut text, &self.registry)?;
        Ok(text)
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}
