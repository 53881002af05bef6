//! Logs on stderr, as text or as one JSON object a line. Every line that a program might look for
//! has a stable field `event`.

use std::io::{self, IsTerminal as _};

use clap::ValueEnum;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, fmt, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use super::log_queue;
use crate::text::escape::{EventWriter, LogSink};

/// The least important events to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

/// How to log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// For programs.
    Json,
}

/// Begins to log. What other crates say is logged from warnings up, and wholly at `trace`.
pub(crate) fn init(level: LogLevel, format: LogFormat) {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    let filter = Targets::new()
        .with_target("schemad", own)
        .with_default(others);
    let layer = match format {
        LogFormat::Json => {
            let stderr = || EventWriter {
                log: LogSink::Json,
                to: writer(),
            };
            fmt::layer()
                .json()
                .flatten_event(true)
                .with_writer(stderr)
                .boxed()
        }
        LogFormat::Text => {
            let colours = io::stderr().is_terminal()
                && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
            let log = if colours {
                LogSink::Coloured
            } else {
                LogSink::Text
            };
            let stderr = move || EventWriter { log, to: writer() };
            fmt::layer()
                .with_ansi(colours)
                .with_target(false)
                .with_writer(stderr)
                .boxed()
        }
    };
    // Fails only when a library user has set a subscriber already, and then theirs is the one to
    // use.
    let _ = tracing_subscriber::registry()
        .with(layer.with_filter(filter))
        .try_init();
}

/// A daemon's log goes through its queue.
fn writer() -> Box<dyn io::Write> {
    match log_queue::of_this_process() {
        Some(queue) => Box::new(queue),
        None => Box::new(io::stderr()),
    }
}
