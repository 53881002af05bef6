//! The subcommands that ask a daemon over gRPC, and what they share: the connection, the credential
//! and the advice printed below a refusal.

pub(crate) mod connection;
pub(crate) mod credential;
pub(crate) mod health;
pub(crate) mod history;
pub(crate) mod lease;
pub(crate) mod ledger;
pub(crate) mod list;
pub(crate) mod operate;
pub(crate) mod remedies;
pub(crate) mod resolve;
pub(crate) mod schema;
pub(crate) mod show;
pub(crate) mod status;
pub(crate) mod wait;
