//! Logs and metrics.

pub(crate) mod log_queue;
pub(crate) mod logging;
pub(crate) mod metrics;
pub(crate) mod rate_limit;
