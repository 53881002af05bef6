//! What systemd wants to hear from a service of Type=notify; silence anywhere else.

use sd_notify::NotifyState;

/// It listens. What it can do then is said by its health names.
pub fn ready() {
    tell(NotifyState::Ready);
}

/// It is on its way out.
pub fn stopping() {
    tell(NotifyState::Stopping);
}

/// Goes on telling that the runtime turns, twice in each WatchdogSec; for ever pending without one.
pub async fn watchdog() {
    let Some(every) = sd_notify::watchdog_enabled() else { return std::future::pending().await };
    loop {
        tell(NotifyState::Watchdog);
        tokio::time::sleep(every / 2).await;
    }
}

fn tell(state: NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(cause = %error, "systemd could not be told");
    }
}
