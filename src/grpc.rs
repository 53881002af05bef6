//! The gRPC surface: thin handlers that check a request into domain types, call, and convert the
//! answer. The only place besides `health`, `transport` and the command line that names tonic.

mod answer;
mod arrival;
pub mod convert;
pub mod deadline;
mod denied;
pub(crate) mod describe;
pub mod gate;
pub mod leases;
pub mod methods;
pub mod migrations;
pub mod operations;
pub mod own_words;
pub mod reads;
pub mod rehearsal;
pub mod request;
pub mod schemas;
pub mod status;
mod stream;

/// Generated from proto/schemad/v1.
#[expect(
    missing_docs,
    clippy::all,
    reason = "generated code; the proto holds the documentation"
)]
pub mod pb {
    tonic::include_proto!("schemad.v1");

    /// The descriptors of every message and service, for reflection and JSON.
    pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schemad.v1.bin"));
}
