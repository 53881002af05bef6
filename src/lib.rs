//! schemad is a daemon that owns the schema of a PostgreSQL database. Deploy pipelines ask it over
//! gRPC to apply, roll back and report migrations.
//!
//! A program embeds it with its own migrations through [`Daemon`].
//!
//! # Layout
//! From the top down. A module uses only modules that are listed below it.
//!
//! - `cli`: the command line. `cli::client` asks a daemon, `cli::local` runs one or works without
//! -   one. The only reader of the environment.
//! - `daemon`: one process. It wires everything together, owns the listeners and ends in order.
//! - `api`: the gRPC services, the health service and the admin listener.
//! - `doctor`: checks a database the way the daemon will use it.
//! - `lease`: migrated databases that tests borrow.
//! - `database`: the state of the managed database, kept current in the background.
//! - `operation`: one Apply, Rollback, Resolve or SignLedger, from the request to its result.
//! - `rehearse`: each migration up, down and up again in a scratch database, compared.
//! - `runner`: runs scripts, each as one message or part by part with a journal.
//! - `telemetry`: logs and metrics.
//! - `ledger`: the tables in which schemad records what it does.
//! - `planner`: decides which steps run. Pure: it reads no database.
//! - `schema`: a database's schema as values, and the comparison of two.
//! - `migration`: the set of migrations, its scripts and their signatures.
//! - `access`: who may do what.
//! - `failure`: the error type that every refusal and failure is converted to.
//! - `postgres`: connections, the operation lock, server errors, scratch databases, a private
//! -   server.
//! - `sql`: SQL text, split and classified without a server.
//! - `transport`: TLS, connections, quotas, and files that are read again when they change.
//! - `text`, `runtime`, `pb`: escaping, long work and shutdown, generated code.

mod access;
mod api;
mod cli;
mod daemon;
mod database;
mod doctor;
mod failure;
#[cfg(test)]
mod growth;
mod lease;
mod ledger;
mod migration;
mod operation;
#[doc(hidden)]
pub mod pb;
mod planner;
mod postgres;
mod rehearse;
mod runner;
mod runtime;
mod schema;
mod sql;
mod telemetry;
mod text;
mod transport;

pub use daemon::{BuildError, Builder, Daemon, Settings};
pub use lease::LeaseSettings;
pub use ledger::upkeep::Retention;
pub use migration::{set::InvalidSet, signature::SigningKeys};
pub use postgres::{DatabaseUrl, pool::PoolSettings};
pub use transport::{ClientCertificates, Limits, TlsError, TlsFiles};

/// What this repository's own tests and fuzz targets reach. No part of the public API.
#[doc(hidden)]
pub mod internals;
