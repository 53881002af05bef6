//! Everything that needs a server: whole daemons on real PostgreSQL, each test on a database of its
//! own.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    missing_docs,
    unreachable_pub,
    reason = "tests"
)]

mod harness;

mod abuse;
mod access;
mod adopting;
mod apply;
mod cancelling;
mod cli;
mod cli_operations;
mod clients;
mod copies;
mod crash;
mod damaged;
mod databases;
mod dev;
mod doctor;
mod doubt;
mod environment;
mod events;
mod exclusion;
mod fatal;
mod faults;
mod folder;
mod full_disk;
mod fuzz;
mod greedy;
mod health;
mod hints;
mod injection;
mod journal;
mod journal_edges;
mod journal_mended;
mod journal_timeouts;
mod large_scripts;
mod lease;
mod least_privilege;
mod ledger;
mod ledger_locked;
mod ledger_of_others;
mod listening;
mod locale;
mod locks;
mod logging;
mod login_of_its_own;
mod lost_table;
mod misbehaving;
mod numbers;
mod open_files;
mod operations;
mod outages;
mod own_crate;
mod passwords;
mod planted;
mod pool;
mod pooler;
mod probe;
mod readme;
mod real_files;
mod reference_set;
mod refusals;
mod rehearse;
mod repeats;
mod resolve;
mod role;
mod rollback;
mod rolling;
mod schema;
mod scratch;
mod scripts;
mod secrets;
mod serve;
mod server_agrees;
mod shutdown;
mod signing;
mod silent;
mod strangers;
mod tls;
mod two_databases;
mod unsafe_code;
mod untrusted;
mod upkeep;
mod waiting;
mod wire;
