//! What can be asked for, and what it comes to.

use std::time::Duration;

use uuid::Uuid;

use crate::{
    migration::Checksum,
    planner::{
        ApplyRequest, ApplyTarget, DownSource, ResolveRequest, RollbackRequest, RollbackTarget,
        SignRequest, SignTarget,
    },
};

/// lock_timeout where nobody asks for another: what users wait behind a migration that waits. Short
/// of the 15 s after which proxies give up.
pub(crate) const LOCK_TIMEOUT: Duration = Duration::from_secs(5);

/// A checked request.
#[derive(Clone, Debug)]
pub struct OperationRequest {
    /// What to do.
    pub action: OperationAction,
    /// Who asks.
    pub principal: String,
    /// The caller's id for the request; a new one when the caller gave none.
    pub request_id: Uuid,
    /// How long to wait for another operation.
    pub queue_timeout: Duration,
    /// How long a step may go on retrying for its locks, where its file does not say.
    pub lock_wait: Duration,
    /// How long one attempt of a step may wait for a lock, where its file does not say; 0 is
    /// without end.
    pub lock_timeout: Duration,
}

/// What to do.
#[derive(Clone, Debug)]
pub enum OperationAction {
    /// Run pending migrations.
    Apply(ApplyRequest),
    /// Revert applied ones.
    Rollback(RollbackRequest),
    /// Settle what nobody but a person can know.
    Resolve(ResolveRequest),
    /// Vouch for downs that the ledger keeps.
    Sign(SignRequest),
}

impl OperationAction {
    /// The ledger's word for it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Apply(_) => "apply",
            Self::Rollback(_) => "rollback",
            Self::Resolve(_) => "resolve",
            Self::Sign(_) => "sign",
        }
    }
}

impl OperationAction {
    /// What the ledger keeps of what was said with it.
    pub fn reason(&self) -> Option<String> {
        match self {
            Self::Resolve(resolve) => {
                let subject = resolve
                    .version
                    .as_ref()
                    .map_or("Diesel's table", |version| version.as_str());
                Some(format!(
                    "{subject} {}: {}",
                    resolve.outcome.as_str(),
                    resolve.reason
                ))
            }
            Self::Sign(sign) => Some(format!("{}: {}", sign.target.summary(), sign.reason)),
            Self::Apply(_) | Self::Rollback(_) => None,
        }
    }
}

impl OperationRequest {
    /// The same for two requests exactly when they ask for the same. Kept in the ledger, so its
    /// form never changes: a new field is added only where it is set.
    pub fn hash(&self) -> Checksum {
        let mut parts = vec![self.action.kind().to_owned()];
        match &self.action {
            OperationAction::Resolve(resolve) => {
                let version = resolve
                    .version
                    .as_ref()
                    .map(ToString::to_string)
                    .unwrap_or_default();
                parts.extend([
                    version,
                    resolve.outcome.as_str().into(),
                    resolve.reason.clone(),
                ]);
            }
            OperationAction::Sign(SignRequest { target, reason }) => {
                parts.push(reason.clone());
                match target {
                    SignTarget::All => parts.push("all".into()),
                    SignTarget::Versions(versions) => {
                        parts.extend(versions.iter().map(|v| format!("version {v}")))
                    }
                }
            }
            OperationAction::Apply(apply) => {
                parts.push(match &apply.target {
                    ApplyTarget::All => "all".into(),
                    ApplyTarget::To(version) => format!("to {version}"),
                    ApplyTarget::Steps(steps) => format!("steps {steps}"),
                });
                parts.push(format!("out of order {}", apply.allow_out_of_order));
                parts.extend(apply.expected_set.map(|digest| digest.to_string()));
            }
            OperationAction::Rollback(rollback) => {
                parts.push(match &rollback.target {
                    RollbackTarget::All => "all".into(),
                    RollbackTarget::To(version) => format!("to {version}"),
                    RollbackTarget::Steps(steps) => format!("steps {steps}"),
                });
                parts.extend(rollback.down_from.map(|source| match source {
                    DownSource::Ledger => "from ledger".into(),
                    DownSource::Binary => "from binary".into(),
                }));
                if rollback.force {
                    parts.push("force".into());
                }
            }
        }
        parts.push(format!("queue {}", self.queue_timeout.as_nanos()));
        parts.push(format!("locks {}", self.lock_wait.as_nanos()));
        if self.lock_timeout != LOCK_TIMEOUT {
            parts.push(format!("lock {}", self.lock_timeout.as_nanos()));
        }
        Checksum::of_parts("schemad.request.1", parts.iter().map(String::as_str))
    }
}
