//! How a daemon ends: first it accepts nothing new and lets what runs go on, then what runs is told
//! to stop at the next commit boundary, then the streams end.

use tokio::{signal::unix::Signal, sync::watch};

/// Where a daemon is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum ShutdownPhase {
    /// Accepts operations.
    Serving,
    /// Refuses new operations; a running one goes on.
    Draining,
    /// The running operation has to end.
    Stopping,
    /// Streams end.
    Ended,
}

/// Sets the phase; it only ever advances.
#[derive(Debug)]
pub(crate) struct Shutdown {
    phase: watch::Sender<ShutdownPhase>,
}

impl Shutdown {
    /// A daemon that serves.
    pub(crate) fn new() -> Self {
        Self {
            phase: watch::Sender::new(ShutdownPhase::Serving),
        }
    }

    /// Advances to `phase`.
    pub(crate) fn advance(&self, phase: ShutdownPhase) {
        self.phase.send_if_modified(|current| {
            let later = phase > *current;
            *current = phase.max(*current);
            later
        });
    }

    /// The phase, and every change of it.
    pub(crate) fn phases(&self) -> watch::Receiver<ShutdownPhase> {
        self.phase.subscribe()
    }
}

impl Default for Shutdown {
    fn default() -> Self {
        Self::new()
    }
}

/// What SIGHUP does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HangupAction {
    /// The terminal is gone, and what runs in it ends.
    Ends,
    /// Somebody asks a daemon to read its files again, which it does by itself.
    GoesOn,
}

/// The signals that come from now on, until the returned future is awaited and then. It ends with
/// SIGTERM or SIGINT, and perhaps SIGHUP; a second one ends the process at once with the status of
/// a signal.
///
/// # Errors
/// The operating system's; not in practice.
pub(crate) fn signalled(
    hangup: HangupAction,
) -> std::io::Result<impl Future<Output = &'static str>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (term, int) = (
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
    );
    Ok(heard(term, int, signal(SignalKind::hangup())?, hangup))
}

async fn heard(
    mut term: Signal,
    mut int: Signal,
    mut hup: Signal,
    hangup: HangupAction,
) -> &'static str {
    let name = loop {
        tokio::select! {
            _ = term.recv() => break "SIGTERM",
            _ = int.recv() => break "SIGINT",
            _ = hup.recv() => match hangup {
                HangupAction::Ends => break "SIGHUP",
                HangupAction::GoesOn => tracing::info!(
                    event = "daemon.hangup",
                    "SIGHUP: the files of TLS and the access file are looked at every second \
                     anyway; other settings need a new start"
                ),
            },
        }
    };
    tokio::spawn(async move {
        let code = tokio::select! {
            _ = term.recv() => 143,
            _ = int.recv() => 130,
        };
        std::process::exit(code);
    });
    name
}
