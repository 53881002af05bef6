//! The flags of `transport::Limits`; their defaults are its own.

use std::time::Duration;

use clap::Args;

use super::positive_duration;
use crate::transport;

/// Said at each option: a heading for the next ones would hold for those of the commands, too,
/// which come after these.
const HEADING: &str = "Limits";

#[derive(Clone, Debug, Args)]
pub(crate) struct LimitArgs {
    /// Connections at once; a new one beyond it takes the place of one that is idle, or of a
    /// stranger's.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_CONNECTIONS", default_value_t = defaults().connections, value_name = "N", value_parser = count)]
    max_connections: usize,
    /// The same from one address.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_CONNECTIONS_PER_ADDRESS", default_value_t = defaults().connections_per_address, value_name = "N", value_parser = count)]
    max_connections_per_address: usize,
    /// Requests at once on one connection.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_STREAMS", default_value_t = defaults().streams_per_connection, value_name = "N", value_parser = count)]
    max_streams: usize,
    /// Requests at once of one principal, health and watches not counted.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_REQUESTS", default_value_t = defaults().requests_per_principal, value_name = "N", value_parser = count)]
    max_requests: usize,
    /// Bytes of a request's message.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_MESSAGE_SIZE", default_value_t = defaults().message_bytes, value_name = "BYTES", value_parser = count)]
    max_message_size: usize,
    /// Bytes of a request's headers, as HTTP/2 counts them.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_HEADER_SIZE", default_value_t = defaults().header_bytes, value_name = "BYTES", value_parser = count)]
    max_header_size: usize,
    /// Open watches, of health and of operations.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_WATCHERS", default_value_t = defaults().watchers, value_name = "N", value_parser = count)]
    max_watchers: usize,
    /// The same of one principal, or of one address that says no name.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_WATCHERS_PER_CLIENT", default_value_t = defaults().watchers_per_client, value_name = "N", value_parser = count)]
    max_watchers_per_client: usize,
    /// Different versions that are watched (schemad.schema.applied.VERSION).
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_WATCHED_NAMES", default_value_t = defaults().watched_names, value_name = "N", value_parser = count)]
    max_watched_names: usize,
    /// The same of one principal, or of one address that says no name.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_MAX_WATCHED_NAMES_PER_CLIENT", default_value_t = defaults().watched_names_per_client, value_name = "N", value_parser = count)]
    max_watched_names_per_client: usize,
    /// A connection without a request is closed after this long.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_IDLE_TIMEOUT", default_value = "1h", value_parser = positive_duration, value_name = "DURATION")]
    idle_timeout: Duration,
    /// What an answer may take to be read before its connection is closed; operations and watches
    /// may last.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_READ_TIMEOUT", default_value = "60s", value_parser = positive_duration, value_name = "DURATION")]
    read_timeout: Duration,
    /// What a TLS handshake, HTTP/2's first bytes and a request's message may take to arrive.
    #[arg(help_heading = HEADING, long, env = "SCHEMAD_ARRIVAL_TIMEOUT", default_value = "10s", value_parser = positive_duration, value_name = "DURATION")]
    arrival_timeout: Duration,
}

fn defaults() -> transport::Limits {
    transport::Limits::default()
}

pub(crate) fn count(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is a whole number from 1".into()),
        Ok(n) => Ok(n),
    }
}

impl LimitArgs {
    pub(crate) fn read(&self) -> transport::Limits {
        transport::Limits {
            connections: self.max_connections,
            connections_per_address: self.max_connections_per_address,
            streams_per_connection: self.max_streams,
            requests_per_principal: self.max_requests,
            message_bytes: self.max_message_size,
            header_bytes: self.max_header_size,
            watchers: self.max_watchers,
            watchers_per_client: self.max_watchers_per_client,
            watched_names: self.max_watched_names,
            watched_names_per_client: self.max_watched_names_per_client,
            idle: self.idle_timeout,
            read_within: self.read_timeout,
            arrive_within: self.arrival_timeout,
        }
    }
}
