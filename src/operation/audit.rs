//! Which refusals of known callers the ledger keeps: a few a second of each, so that nobody hides
//! what another tried behind what they try, and not so many of all that the ledger fills.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use uuid::Uuid;

use super::Operations;
use crate::operation::registry::OperationsInner;
use crate::{
    failure::Failure,
    ledger::upkeep::{self, RefusedRequest},
    postgres::DatabaseError,
};

/// Of one principal within a second.
const EACH: u32 = 5;

/// Of all within a second, and so the most names that are remembered.
const ALL: u32 = 50;

/// A database that takes longer keeps nobody from shutting down.
const KEPT_WITHIN: Duration = Duration::from_secs(2);

const SECOND: Duration = Duration::from_secs(1);

/// What is not kept is said so often; the metric counts.
const TELL: Duration = Duration::from_secs(60);

/// What was kept within this second.
#[derive(Debug, Default)]
pub(super) struct RefusalAudit(Mutex<AuditWindow>);

#[derive(Debug, Default)]
struct AuditWindow {
    since: Option<Instant>,
    all: u32,
    of: HashMap<String, u32>,
    told: Option<Instant>,
}

impl RefusalAudit {
    /// Whether one more of this principal's is kept.
    fn keeps(&self, principal: &str, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state
            .since
            .is_none_or(|since| now.duration_since(since) >= SECOND)
        {
            *state = AuditWindow {
                since: Some(now),
                told: state.told,
                ..AuditWindow::default()
            };
        }
        let own = state.of.get(principal).copied().unwrap_or_default();
        let keeps = own < EACH && state.all < ALL;
        if keeps {
            state.all += 1;
            state.of.insert(principal.into(), own + 1);
        }
        keeps
    }

    /// Whether it is time to say that something was not kept.
    fn tells(&self, now: Instant) -> bool {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let tells = state
            .told
            .is_none_or(|told| now.duration_since(told) >= TELL);
        if tells {
            state.told = Some(now);
        }
        tells
    }
}

impl Operations {
    /// Keeps the refusal of a known caller in the ledger, as well as can be. Who is refused does
    /// not wait for that.
    pub(crate) fn note_refusal(
        &self,
        principal: &str,
        kind: &'static str,
        request_id: Uuid,
        failure: &Failure,
    ) {
        let (inner, principal, failure) = (self.0.clone(), principal.to_owned(), failure.clone());
        tokio::spawn(async move {
            inner
                .keep_refusal(&principal, kind, request_id, &failure)
                .await
        });
    }
}

impl OperationsInner {
    /// Keeps a refusal in the ledger, as well as can be and no more than a few a second.
    pub(super) async fn keep_refusal(
        &self,
        principal: &str,
        kind: &str,
        request_id: Uuid,
        failure: &Failure,
    ) {
        if !self.audit.keeps(principal, Instant::now()) {
            self.metrics.refusal_not_kept("rate");
            if self.audit.tells(Instant::now()) {
                tracing::warn!(
                    event = "refusals.not_kept",
                    principal,
                    "more was refused than is kept in the ledger, {EACH} of one caller and {ALL} \
                     of all within a second; schemad_refusals_not_kept counts the others"
                );
            }
            return;
        }
        let Some(session) = self.side.borrow().clone() else {
            return self.metrics.refusal_not_kept("database");
        };
        let refused = RefusedRequest {
            daemon: &self.daemon,
            principal,
            kind,
            request_id,
            failure,
        };
        let kept =
            tokio::time::timeout(KEPT_WITHIN, upkeep::refused(session.ledger(), &refused)).await;
        if let Err(error) = kept.unwrap_or(Err(DatabaseError::Timeout(KEPT_WITHIN))) {
            self.metrics.refusal_not_kept("database");
            tracing::debug!(cause = %error, "a refusal could not be kept");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_has_a_few_and_all_have_an_end() {
        let (audit, now) = (RefusalAudit::default(), Instant::now());
        let kept = |principal: &str, now| (0..20).filter(|_| audit.keeps(principal, now)).count();
        assert_eq!([kept("a", now), kept("a", now), kept("b", now)], [5, 0, 5]);
        let crowd: usize = (0..100).map(|n| kept(&n.to_string(), now)).sum();
        assert_eq!((crowd, audit.0.lock().unwrap().of.len()), (40, 10));
        assert_eq!(
            [kept("b", now + SECOND / 2), kept("b", now + SECOND)],
            [0, 5]
        );
    }

    #[test]
    fn what_is_not_kept_is_said_now_and_then() {
        let (audit, now) = (RefusalAudit::default(), Instant::now());
        let told = [now, now, now + TELL, now + TELL].map(|now| audit.tells(now));
        assert_eq!(told, [true, false, true, false]);
    }
}
