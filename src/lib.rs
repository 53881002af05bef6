//! schemad owns the schema of a PostgreSQL database; everybody else asks it over gRPC.
//!
//! To embed your own migrations, see [`Daemon`].
//!
//! # Layout
//! From the outside in; a module uses only what stands below it.
//! - [`cli`]: the command line, one file a subcommand; the only reader of the environment
//! - [`app`]: wires a daemon together, the one place that sees everything
//! - [`grpc`], [`health`], [`admin`]: what others talk to
//! - [`doctor`]: looks at a database before the daemon does
//! - [`transport`], [`access`]: TLS and the limits of connections; who may do what
//! - [`monitor`], [`preflight`], [`retention`]: how the database is, kept in memory; what is done
//! -   beside operations
//! - [`lease`]: migrated databases of one's own, for tests
//! - [`operation`]: one Apply or Rollback, from request to result
//! - [`rehearse`]: each migration up, down and up in a scratch database, compared
//! - [`runner`]: runs steps, each as one message
//! - [`ledger`]: what schemad remembers in the database
//! - [`planner`]: decides, and touches nothing
//! - [`schema`]: the schema of a database as values, and what makes two of them differ
//! - [`scratch`]: databases that are made for a while, and swept when their maker is gone
//! - [`db`]: connections, the lock, the way PostgreSQL says no
//! - [`signature`]: which downs of the ledger are trusted
//! - [`catalog`], [`sql`], [`migration`]: the embedded set, its SQL, its types
//! - `blocking`: keeps long work off the threads that answer
//! - [`failure`], [`metrics`], [`shutdown`], [`refresh`], [`watchers`], [`client`], [`tally`],
//! -   [`pace`], [`pem`], [`follow`], [`systemd`]: shared by all of them
//! - [`private_postgres`]: a server of one's own, for `schemad dev` and tests

pub mod access;
pub mod admin;
pub mod app;
mod ascii;
mod blocking;
pub mod catalog;
pub mod cli;
pub mod client;
pub mod db;
pub mod doctor;
pub mod failure;
pub mod follow;
#[cfg(test)]
mod growth;
pub mod grpc;
pub mod health;
pub mod lease;
pub mod ledger;
pub mod metrics;
pub mod migration;
pub mod monitor;
pub mod operation;
pub mod pace;
pub mod pem;
pub mod planner;
pub mod preflight;
pub mod private_postgres;
pub mod refresh;
pub mod rehearse;
pub mod retention;
pub mod runner;
pub mod schema;
pub mod scratch;
pub mod shutdown;
pub mod signature;
pub mod sql;
pub mod systemd;
pub mod tally;
pub mod transport;
pub mod watchers;

pub use app::{Builder, Daemon, Settings};
