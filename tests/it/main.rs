//! Everything that needs a server: whole daemons on real PostgreSQL, each test on a database of its own.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout, missing_docs, reason = "tests")]

mod harness;

mod abuse;
mod access;
mod adopting;
mod apply;
mod cancelling;
mod cli;
mod cli_operations;
mod crash;
mod dependencies;
mod dev;
mod doctor;
mod doubt;
mod exclusion;
mod faults;
mod fuzz;
mod health;
mod injection;
mod journal;
mod least_privilege;
mod ledger;
mod listening;
mod locks;
mod misbehaving;
mod numbers;
mod operations;
mod outages;
mod pool;
mod pooler;
mod reference_set;
mod refusals;
mod repeats;
mod resolve;
mod role;
mod rollback;
mod rolling;
mod schema;
mod secrets;
mod serve;
mod shutdown;
mod signing;
mod silent;
mod tls;
mod upkeep;
