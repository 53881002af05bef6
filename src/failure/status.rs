//! The one place where a failure becomes a gRPC status, after AIP-193.

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt as _};

use crate::failure::{Failure, FailureKind};

/// ErrorInfo.domain of every error.
pub(crate) const DOMAIN: &str = "schemad";

/// Clients allow 8 KiB of trailers by default, and the details travel in base64 beside the message.
const MESSAGE_MAX: usize = 1000;
const VALUE_MAX: usize = 300;
const METADATA_MAX: usize = 1500;

/// The gRPC code for a kind of failure.
pub(crate) fn code(kind: FailureKind) -> Code {
    match kind {
        FailureKind::Invalid => Code::InvalidArgument,
        FailureKind::NotFound => Code::NotFound,
        FailureKind::Refused | FailureKind::Failed => Code::FailedPrecondition,
        FailureKind::Busy | FailureKind::Interrupted => Code::Aborted,
        FailureKind::Cancelled => Code::Cancelled,
        FailureKind::Unavailable => Code::Unavailable,
        FailureKind::Exhausted => Code::ResourceExhausted,
        FailureKind::Expired => Code::DeadlineExceeded,
        FailureKind::Unauthenticated => Code::Unauthenticated,
        FailureKind::Denied => Code::PermissionDenied,
        FailureKind::Unsupported => Code::Unimplemented,
        FailureKind::Internal => Code::Internal,
    }
}

/// A failure as a status: its reason and data in ErrorInfo, a BadRequest for a field, a
/// PreconditionFailure for a refusal.
pub fn status_from_failure(failure: &Failure) -> Status {
    let message = cut(&failure.message, MESSAGE_MAX);
    let mut details = ErrorDetails::new();
    let mut room = METADATA_MAX;
    let mut metadata = std::collections::HashMap::new();
    // The operation first: without it a result is not known to be one.
    let own = |key: &str| usize::from(key != "operation");
    let mut pairs: Vec<_> = failure.metadata.iter().collect();
    pairs.sort_by_key(|(key, value)| (own(key), value.len()));
    for (key, value) in pairs {
        let value = cut(value, VALUE_MAX.min(room));
        room = room.saturating_sub(key.len() + value.len());
        if !value.is_empty() {
            metadata.insert(key.clone(), value);
        }
    }
    details.set_error_info(failure.reason.as_str(), DOMAIN, metadata);
    if let Some(field) = &failure.field {
        details.add_bad_request_violation(field, cut(&message, VALUE_MAX));
    }
    if matches!(
        failure.reason.kind(),
        FailureKind::Refused | FailureKind::Failed
    ) {
        let subject = cut(
            failure
                .metadata
                .get("version")
                .map(String::as_str)
                .unwrap_or_default(),
            60,
        );
        details.add_precondition_failure_violation(
            failure.reason.as_str(),
            subject,
            cut(&message, VALUE_MAX),
        );
    }
    Status::with_error_details(code(failure.reason.kind()), message, details)
}

/// At most `max` bytes, cut between characters and marked.
fn cut(text: &str, max: usize) -> String {
    if text.len() <= max {
        return text.into();
    }
    let end = (0..=max.saturating_sub(3))
        .rev()
        .find(|i| text.is_char_boundary(*i))
        .unwrap_or(0);
    format!("{}…", &text[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::failure::Reason;

    #[test]
    fn a_status_fits_into_the_trailers_of_any_client() {
        let long = "ü".repeat(100_000);
        let mut failure =
            Failure::new(Reason::MigrationFailed, long.clone()).with("operation", "0190-id");
        for key in [
            "detail",
            "hint",
            "context",
            "database_message",
            "version",
            "file",
        ] {
            failure = failure.with(key, &long);
        }
        let status = status_from_failure(&failure);
        let base64 = status.details().len().div_ceil(3) * 4;
        let percent_encoded: usize = status
            .message()
            .bytes()
            .map(|b| if b.is_ascii() { 1 } else { 3 })
            .sum();
        assert!(
            base64 + percent_encoded < 8 * 1024,
            "{base64} + {percent_encoded}"
        );
        assert_eq!(
            status.get_details_error_info().unwrap().metadata["operation"],
            "0190-id"
        );
    }

    #[test]
    fn every_reason_has_a_code_and_the_field_is_named() {
        for reason in Reason::ALL {
            assert_ne!(code(reason.kind()), Code::Ok);
        }
        let status = status_from_failure(&Failure::invalid(Reason::InvalidSteps, "steps", "no"));
        assert_eq!(
            status.get_details_bad_request().unwrap().field_violations[0].field,
            "steps"
        );
    }
}
