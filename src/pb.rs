//! The messages, clients and servers that prost and tonic generate from `proto/schemad/v1`. The
//! .proto files hold their documentation.

#![expect(
    clippy::all,
    reason = "generated code; the .proto files hold the documentation"
)]

tonic::include_proto!("schemad.v1");

/// The descriptors of every message and service, for reflection and JSON.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/schemad.v1.bin"));
