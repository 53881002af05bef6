//! The gRPC surface: thin handlers that check a request into domain types, call, and convert the
//! answer. The only place besides `health`, `transport` and the command line that names tonic.

pub(crate) mod access_denied;
pub(crate) mod admin;
pub(crate) mod convert;
pub(crate) mod deadline;
pub(crate) mod describe;
pub(crate) mod error_details;
pub(crate) mod gate;
pub(crate) mod health;
pub(crate) mod leases;
pub(crate) mod methods;
pub(crate) mod migrations;
pub(crate) mod operations;
pub(crate) mod rehearsals;
pub(crate) mod request;
pub(crate) mod request_body;
pub(crate) mod response_guard;
pub(crate) mod schemas;
mod stream;
