//! Support for the async runtime: long work off the worker threads, and the phases of a shutdown.

pub(crate) mod blocking;
pub(crate) mod shutdown;
