//! Keeps an [`Access`] as its files and issuers are. Files are compared by content and not watched: a mounted secret changes
//! by a swapped link somewhere above it, which a watch on the file never sees.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::time::{MissedTickBehavior, interval};

use super::{Access, error::Error, state::State};

/// How long a token that was taken out of the file is accepted; reading a small file costs next to nothing.
const EVERY: Duration = Duration::from_secs(1);

/// What an operator was told and still holds.
#[derive(Debug, Default)]
pub(super) struct Told(Option<String>);

impl Access {
    /// Follows the file, the key files and the issuers' keys; never returns.
    ///
    /// Dropping the future leaves the rules as they are; a fetch that is under way ends by itself within 20 s.
    pub async fn keep_current(self) {
        let mut told = Told::default();
        let mut ticks = interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.look(&mut told).await;
        }
    }

    /// Once.
    pub(super) async fn look(&self, told: &mut Told) {
        let access = self.clone();
        // On a thread of its own: the file may lie on a network that hangs.
        match tokio::task::spawn_blocking(move || access.read_again()).await {
            Ok(Ok(Some(state))) => self.replace(state, told),
            Ok(Ok(None)) => told.0 = None,
            Ok(Err(error)) => told.complain(&error),
            Err(panic) => tracing::error!(event = "access.panicked", cause = %panic, "a mistake in schemad"),
        }
        for issuer in &self.state().issuers {
            issuer.keys.tend();
        }
    }

    /// The new state, if the file has changed.
    fn read_again(&self) -> Result<Option<State>, Error> {
        let (path, now) = (&self.0.path, self.state());
        let text = std::fs::read(path).map_err(|source| Error::Unreadable { path: path.clone(), source })?;
        if text == now.text.as_bytes() {
            return Ok(None);
        }
        State::open(path, Some(&now)).map(Some)
    }

    fn replace(&self, state: State, told: &mut Told) {
        tracing::info!(
            event = "access.reloaded",
            tokens = state.tokens.len(),
            certificates = state.certificates.len(),
            issuers = state.issuers.len(),
            "the access file was reloaded"
        );
        *self.0.state.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(state);
        told.0 = None;
        // Taken all the same: the same change may have taken somebody out.
        if let Some(useless) = self.useless_certificates() {
            tracing::error!(event = "access.useless_certificates", "{useless}");
        }
    }
}

impl Told {
    /// Once for each problem, not every second.
    fn complain(&mut self, error: &Error) {
        let problem = error.to_string();
        if self.0.as_ref() != Some(&problem) {
            tracing::error!(event = "access.not_reloaded", "the rules from before stay: {problem}");
            self.0 = Some(problem);
        }
    }
}
