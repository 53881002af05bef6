//! What systemd wants to hear from a service of Type=notify; silence anywhere else. A manager that
//! does not read must not hold up the daemon, so a thread of its own sends what there is to say.

use std::{
    sync::{
        OnceLock,
        mpsc::{Receiver, Sender, SyncSender, channel, sync_channel},
    },
    thread,
    time::Duration,
};

use sd_notify::NotifyState;

/// Messages that wait for the manager. More of them say nothing new.
const WAITING: usize = 16;

/// How long the daemon's end waits until the manager has heard of it.
const HEARD_WITHIN: Duration = Duration::from_millis(100);

/// It listens. What it can do then is said by its health names.
pub(crate) fn ready() {
    tell(NotifyState::Ready);
}

/// It is on its way out.
pub(crate) fn stopping() {
    if let Some(heard) = tell(NotifyState::Stopping) {
        // The process may end before the thread has had its turn.
        let _ = heard.recv_timeout(HEARD_WITHIN);
    }
}

/// Goes on telling that the runtime turns, twice in each WatchdogSec; for ever pending without one.
pub(crate) async fn watchdog() {
    let Some(every) = sd_notify::watchdog_enabled() else {
        return std::future::pending().await;
    };
    loop {
        tell(NotifyState::Watchdog);
        tokio::time::sleep(every / 2).await;
    }
}

/// A message, and who is to know that it was sent.
type SystemdMessage = (NotifyState<'static>, Sender<()>);

/// Hands a message over. Returns what says that it was sent; `None`: nobody is to be told, or the
/// manager reads nothing.
fn tell(state: NotifyState<'static>) -> Option<Receiver<()>> {
    static MANAGER: OnceLock<Option<SyncSender<SystemdMessage>>> = OnceLock::new();
    std::env::var_os("NOTIFY_SOCKET")?;
    let manager = MANAGER.get_or_init(|| {
        let (sender, messages) = sync_channel(WAITING);
        let started = thread::Builder::new()
            .name("systemd".into())
            .spawn(move || send(&messages));
        started.ok().map(|_| sender)
    });
    let (sent, heard) = channel();
    manager.as_ref()?.try_send((state, sent)).ok()?;
    Some(heard)
}

fn send(messages: &Receiver<SystemdMessage>) {
    for (state, sent) in messages {
        if let Err(error) = sd_notify::notify(&[state]) {
            tracing::warn!(event = "systemd.not_told", cause = %error, "systemd could not be told");
        }
        let _ = sent.send(()); // nobody waits for most of them
    }
}
