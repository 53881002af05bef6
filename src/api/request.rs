//! Requests into domain types; everything that can be wrong with a message is found here, before
//! anything is asked of the database.

use std::{num::NonZeroUsize, time::Duration};

use uuid::Uuid;

mod operations;
mod page;
mod schema;

pub use operations::{operation_id, operations, operations_page_token, watch};
pub use page::{page, page_token};
pub use schema::schema;
pub(crate) use schema::{ObjectFilter, PageCursor};

use super::convert;
use crate::pb;
use crate::{
    failure::{Failure, Reason},
    migration::Version,
    operation::{LOCK_TIMEOUT, OperationAction, OperationRequest},
    planner::{
        ApplyRequest, ApplyTarget, DownSource, ResolveOutcome, ResolveRequest, RollbackRequest,
        RollbackTarget, SignRequest, SignTarget,
    },
    rehearse::RehearsalSelection,
};

/// More migrations than any project has.
const MAX_STEPS: i32 = 10_000;
/// A few sentences.
const MAX_REASON: usize = 1_000;
/// A request that waits longer than a day is forgotten by whoever sent it.
const MAX_WAIT: Duration = Duration::from_secs(24 * 60 * 60);
/// As long as people wait for a lock before they look why.
const DEFAULT_LOCK_WAIT: Duration = Duration::from_secs(120);

/// Checks an ApplyRequest.
///
/// # Errors
/// The first malformed field.
pub fn apply(principal: &str, request: pb::ApplyRequest) -> Result<OperationRequest, Failure> {
    let target = match &request.target {
        None => ApplyTarget::All,
        Some(pb::apply_request::Target::To(to)) => ApplyTarget::To(version("to", to)?),
        Some(pb::apply_request::Target::Steps(n)) => ApplyTarget::Steps(steps(*n)?),
    };
    let expected_set = match request.expected_set_digest.as_str() {
        "" => None,
        digest => Some(digest.parse().map_err(|e| {
            Failure::invalid(
                Reason::InvalidDigest,
                "expected_set_digest",
                format!("expected_set_digest: {e}"),
            )
        })?),
    };
    let action = OperationAction::Apply(ApplyRequest {
        target,
        allow_out_of_order: request.allow_out_of_order,
        expected_set,
    });
    operation(
        principal,
        action,
        &request.request_id,
        request.queue_timeout,
        request.lock_wait,
        request.lock_timeout,
    )
}

/// Checks a RollbackRequest.
///
/// # Errors
/// The first malformed field.
pub fn rollback(
    principal: &str,
    request: pb::RollbackRequest,
) -> Result<OperationRequest, Failure> {
    let target = match &request.target {
        Some(pb::rollback_request::Target::To(to)) => RollbackTarget::To(version("to", to)?),
        Some(pb::rollback_request::Target::Steps(n)) => RollbackTarget::Steps(steps(*n)?),
        Some(pb::rollback_request::Target::All(true)) => RollbackTarget::All,
        Some(pb::rollback_request::Target::All(false)) | None => {
            return Err(Failure::invalid(
                Reason::TargetMissing,
                "target",
                "say how far to roll back: steps, to a version (which stays applied), or all",
            ));
        }
    };
    let down_from = match pb::ScriptSource::try_from(request.down_from) {
        Ok(pb::ScriptSource::Unspecified) => None,
        Ok(pb::ScriptSource::Ledger) => Some(DownSource::Ledger),
        Ok(pb::ScriptSource::Binary) => Some(DownSource::Binary),
        Err(_) => {
            return Err(Failure::invalid(
                Reason::InvalidSource,
                "down_from",
                "down_from is LEDGER or BINARY",
            ));
        }
    };
    let action = OperationAction::Rollback(RollbackRequest {
        target,
        down_from,
        force: request.force,
    });
    operation(
        principal,
        action,
        &request.request_id,
        request.queue_timeout,
        request.lock_wait,
        request.lock_timeout,
    )
}

/// Checks a RehearseRequest.
///
/// # Errors
/// INVALID_SELECTION.
pub fn rehearse(request: &pb::RehearseRequest) -> Result<RehearsalSelection, Failure> {
    use pb::rehearse_request::Selection as Asked;
    let refused = |message: &str| Failure::invalid(Reason::InvalidSelection, "selection", message);
    match request.selection {
        None => Ok(RehearsalSelection::Pending),
        Some(Asked::All(true)) => Ok(RehearsalSelection::All),
        Some(Asked::All(false)) => Err(refused(
            "say what to rehearse: last, all, or nothing for what is pending",
        )),
        Some(Asked::Last(n)) => match steps(n) {
            Ok(n) => Ok(RehearsalSelection::Last(n)),
            Err(_) => Err(refused(&format!(
                "last is {n}; it must be 1 to {MAX_STEPS}"
            ))),
        },
    }
}

/// What a LeaseRequest asks for.
#[derive(Clone, Copy, Debug)]
pub struct LeaseParameters {
    /// How long it may last.
    pub ttl: Option<Duration>,
    /// How long to wait for room.
    pub queue_timeout: Option<Duration>,
}

/// Checks a LeaseRequest.
///
/// # Errors
/// The first malformed field.
pub fn lease(request: &pb::LeaseRequest) -> Result<LeaseParameters, Failure> {
    Ok(LeaseParameters {
        ttl: wait("ttl", request.ttl)?,
        queue_timeout: wait("queue_timeout", request.queue_timeout)?,
    })
}

/// Checks a ResolveRequest.
///
/// # Errors
/// The first malformed field.
pub fn resolve(principal: &str, request: &pb::ResolveRequest) -> Result<OperationRequest, Failure> {
    let outcome =
        pb::ResolveOutcome::try_from(request.outcome).ok().and_then(convert::outcome_of).ok_or_else(|| {
            let message =
                "outcome is APPLIED, NOT_APPLIED, RETRY, START_OVER, ACCEPT, RESTORE_DIESEL_TABLE \
                 or NOTHING_APPLIED";
            Failure::invalid(Reason::InvalidOutcome, "outcome", message)
        })?;
    let reason = reason(&request.reason)?;
    let version = match outcome {
        ResolveOutcome::RestoreTable | ResolveOutcome::NothingApplied
            if request.version.is_empty() =>
        {
            None
        }
        ResolveOutcome::RestoreTable | ResolveOutcome::NothingApplied => {
            let message =
                "this outcome is of Diesel's table, and of no migration: leave the version empty";
            return Err(Failure::invalid(Reason::InvalidVersion, "version", message));
        }
        _ => Some(version("version", &request.version)?),
    };
    let action = OperationAction::Resolve(ResolveRequest {
        version,
        outcome,
        reason,
    });
    operation(
        principal,
        action,
        &request.request_id,
        request.queue_timeout,
        None,
        None,
    )
}

/// Checks a SignLedgerRequest.
///
/// # Errors
/// The first malformed field.
pub fn sign_ledger(
    principal: &str,
    request: &pb::SignLedgerRequest,
) -> Result<OperationRequest, Failure> {
    let target = match (request.all, request.versions.as_slice()) {
        (true, []) => SignTarget::All,
        (false, named @ [_, ..]) if i32::try_from(named.len()).is_ok_and(|n| n <= MAX_STEPS) => {
            let versions = named
                .iter()
                .map(|text| version("versions", text))
                .collect::<Result<_, _>>()?;
            SignTarget::Versions(versions)
        }
        _ => {
            let message = format!("say whose downs to sign: versions, at most {MAX_STEPS}, or all");
            return Err(Failure::invalid(Reason::TargetMissing, "versions", message));
        }
    };
    let action = OperationAction::Sign(SignRequest {
        target,
        reason: reason(&request.reason)?,
    });
    operation(
        principal,
        action,
        &request.request_id,
        request.queue_timeout,
        None,
        None,
    )
}

fn reason(text: &str) -> Result<String, Failure> {
    let reason = text.trim();
    if reason.is_empty() || reason.chars().count() > MAX_REASON || reason.contains('\0') {
        let message = format!("reason says why, in at most {MAX_REASON} characters");
        return Err(Failure::invalid(Reason::InvalidReason, "reason", message));
    }
    Ok(reason.into())
}

fn operation(
    principal: &str,
    action: OperationAction,
    request_id: &str,
    queue_timeout: Option<prost_types::Duration>,
    lock_wait: Option<prost_types::Duration>,
    lock_timeout: Option<prost_types::Duration>,
) -> Result<OperationRequest, Failure> {
    let request_id = match request_id {
        "" => Uuid::new_v4(),
        id => Uuid::try_parse(id).map_err(|_| {
            Failure::invalid(
                Reason::InvalidRequestId,
                "request_id",
                "request_id is not a UUID",
            )
        })?,
    };
    Ok(OperationRequest {
        action,
        principal: principal.into(),
        request_id,
        queue_timeout: wait("queue_timeout", queue_timeout)?.unwrap_or_default(),
        lock_wait: wait("lock_wait", lock_wait)?.unwrap_or(DEFAULT_LOCK_WAIT),
        lock_timeout: wait("lock_timeout", lock_timeout)?.unwrap_or(LOCK_TIMEOUT),
    })
}

/// Checks a version that a request names.
///
/// # Errors
/// INVALID_VERSION naming the field.
pub fn version(field: &str, text: &str) -> Result<Version, Failure> {
    text.parse()
        .map_err(|e| Failure::invalid(Reason::InvalidVersion, field, format!("{field}: {e}")))
}

fn steps(n: i32) -> Result<NonZeroUsize, Failure> {
    let in_range = (1..=MAX_STEPS)
        .contains(&n)
        .then(|| usize::try_from(n).ok().and_then(NonZeroUsize::new))
        .flatten();
    in_range.ok_or_else(|| {
        Failure::invalid(
            Reason::InvalidSteps,
            "steps",
            format!("steps is {n}; it must be 1 to {MAX_STEPS}"),
        )
    })
}

fn wait(field: &str, duration: Option<prost_types::Duration>) -> Result<Option<Duration>, Failure> {
    let Some(duration) = duration else {
        return Ok(None);
    };
    // As protobuf has it; prost would make the nanoseconds fit.
    let is_one = (0..1_000_000_000).contains(&duration.nanos);
    match Duration::try_from(duration) {
        Ok(duration) if is_one && duration <= MAX_WAIT => Ok(Some(duration)),
        _ => Err(Failure::invalid(
            Reason::InvalidDuration,
            field,
            format!("{field} is between 0 and 24 hours"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(result: Result<OperationRequest, Failure>) -> (Reason, String) {
        let failure = result.unwrap_err();
        (failure.reason, failure.field.unwrap_or_default())
    }

    #[test]
    fn malformed_applies_are_named() {
        use pb::apply_request::Target;
        let base = pb::ApplyRequest::default;
        for n in [0, -1, i32::MIN, i32::MAX, MAX_STEPS + 1] {
            let request = pb::ApplyRequest {
                target: Some(Target::Steps(n)),
                ..base()
            };
            assert_eq!(
                reason(apply("p", request)),
                (Reason::InvalidSteps, "steps".into())
            );
        }
        let request = pb::ApplyRequest {
            target: Some(Target::To(String::new())),
            ..base()
        };
        assert_eq!(
            reason(apply("p", request)),
            (Reason::InvalidVersion, "to".into())
        );
        let request = pb::ApplyRequest {
            request_id: "42".into(),
            ..base()
        };
        assert_eq!(
            reason(apply("p", request)),
            (Reason::InvalidRequestId, "request_id".into())
        );
        let request = pb::ApplyRequest {
            expected_set_digest: "sha256:12".into(),
            ..base()
        };
        assert_eq!(
            reason(apply("p", request)),
            (Reason::InvalidDigest, "expected_set_digest".into())
        );
        for (seconds, nanos) in [
            (-1, 0),
            (24 * 3600, 1),
            (i64::MAX, 0),
            (0, 2_000_000_000),
            (1, -5),
        ] {
            let request = pb::ApplyRequest {
                queue_timeout: Some(prost_types::Duration { seconds, nanos }),
                ..base()
            };
            assert_eq!(
                reason(apply("p", request)),
                (Reason::InvalidDuration, "queue_timeout".into())
            );
        }
    }

    #[test]
    fn a_rollback_says_how_far() {
        use pb::rollback_request::Target;
        for target in [None, Some(Target::All(false))] {
            let request = pb::RollbackRequest {
                target,
                ..Default::default()
            };
            assert_eq!(
                reason(rollback("p", request)),
                (Reason::TargetMissing, "target".into())
            );
        }
        let request = pb::RollbackRequest {
            target: Some(Target::All(true)),
            down_from: 9,
            ..Default::default()
        };
        assert_eq!(
            reason(rollback("p", request)),
            (Reason::InvalidSource, "down_from".into())
        );
    }

    #[test]
    fn a_rehearsal_says_what_of() {
        use pb::rehearse_request::Selection as Asked;
        let of = |selection| {
            rehearse(&pb::RehearseRequest {
                selection,
                ..Default::default()
            })
        };
        assert_eq!(of(None), Ok(RehearsalSelection::Pending));
        assert_eq!(of(Some(Asked::All(true))), Ok(RehearsalSelection::All));
        for bad in [
            Asked::All(false),
            Asked::Last(0),
            Asked::Last(-1),
            Asked::Last(MAX_STEPS + 1),
        ] {
            let failure = of(Some(bad)).unwrap_err();
            assert_eq!(
                (failure.reason, failure.field.as_deref()),
                (Reason::InvalidSelection, Some("selection"))
            );
        }
    }

    #[test]
    fn a_signing_says_whose_downs_and_why() {
        let base = pb::SignLedgerRequest {
            reason: "r".into(),
            ..Default::default()
        };
        for (all, versions) in [
            (false, vec![]),
            (true, vec!["1".to_owned()]),
            (false, vec!["1".to_owned(); 10_001]),
        ] {
            let request = pb::SignLedgerRequest {
                all,
                versions,
                ..base.clone()
            };
            assert_eq!(
                reason(sign_ledger("p", &request)),
                (Reason::TargetMissing, "versions".into())
            );
        }
        let request = pb::SignLedgerRequest {
            versions: vec!["1\n".into()],
            ..base.clone()
        };
        assert_eq!(
            reason(sign_ledger("p", &request)),
            (Reason::InvalidVersion, "versions".into())
        );
        let request = pb::SignLedgerRequest {
            all: true,
            reason: " ".into(),
            ..base
        };
        assert_eq!(
            reason(sign_ledger("p", &request)),
            (Reason::InvalidReason, "reason".into())
        );
    }

    #[test]
    fn requests_that_ask_for_the_same_have_one_hash_and_others_do_not() {
        use pb::apply_request::Target;
        let hash = |request: pb::ApplyRequest| apply("p", request).unwrap().hash();
        let base = pb::ApplyRequest::default();
        let with_id = pb::ApplyRequest {
            request_id: Uuid::new_v4().to_string(),
            ..base.clone()
        };
        assert_eq!(hash(base.clone()), hash(with_id));
        let others = [
            pb::ApplyRequest {
                target: Some(Target::Steps(1)),
                ..base.clone()
            },
            pb::ApplyRequest {
                target: Some(Target::To("1".into())),
                ..base.clone()
            },
            pb::ApplyRequest {
                allow_out_of_order: true,
                ..base.clone()
            },
            pb::ApplyRequest {
                lock_wait: Some(prost_types::Duration {
                    seconds: 1,
                    nanos: 0,
                }),
                ..base.clone()
            },
        ];
        for other in others {
            assert_ne!(hash(base.clone()), hash(other));
        }
    }
}
