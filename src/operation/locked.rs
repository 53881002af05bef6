//! What an operation says that could not go on because another session has locked a table of the
//! ledger. Statements of schemad's own wait for a lock only so long (`db/session.rs`), so that
//! nobody waits without end, and no operation keeps the operation lock meanwhile; then the sessions
//! in the way are looked for, on a session of its own.

use std::time::Duration;

use crate::operation::registry::OperationsInner;
use crate::{
    failure::{Failure, Reason},
    ledger::locked,
    postgres::{
        DatabaseError,
        activity::{Blocker, blocked_by},
        session::OWN_LOCK_TIMEOUT,
    },
};

/// How long the look for who is in the way may take; without it the answer names nobody.
const LOOK_WITHIN: Duration = Duration::from_secs(3);

impl OperationsInner {
    /// A lock_timeout of a statement of schemad's own becomes LEDGER_LOCKED, which names who is in
    /// the way. Any other failure stays as it is.
    pub(super) async fn name_who_locks(&self, failure: Failure) -> Failure {
        if !failure.is_lock_timeout() {
            return failure;
        }
        let blockers = self.who_locks_the_ledger().await;
        let who = match blocked_by(&blockers).as_str() {
            "" => "Find who in pg_locks and pg_stat_activity, end that".to_owned(),
            who => format!("In the way: {who}. End that"),
        };
        let message = format!(
            "another session has locked a table of the ledger (or Diesel's), and schemad waits at \
             most {} for it. {who}, or ask again later",
            humantime::format_duration(OWN_LOCK_TIMEOUT)
        );
        let named = Failure::new(Reason::LedgerLocked, message);
        let named = Failure {
            metadata: failure.metadata,
            ..named
        };
        if blockers.is_empty() {
            named
        } else {
            named.with("blocked_by", blocked_by(&blockers))
        }
    }

    /// As far as it can be seen; empty where it cannot.
    pub(super) async fn who_locks_the_ledger(&self) -> Vec<Blocker> {
        let look = async {
            let session = self.logins.open_ledger().await?;
            locked::by(session.client()).await
        };
        match tokio::time::timeout(LOOK_WITHIN, look)
            .await
            .unwrap_or(Err(DatabaseError::Timeout(LOOK_WITHIN)))
        {
            Ok(blockers) => blockers,
            Err(error) => {
                tracing::debug!(cause = %error, "cannot look who has locked the ledger");
                Vec::new()
            }
        }
    }
}
