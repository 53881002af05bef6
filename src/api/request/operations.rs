//! Requests of OperationService.

use std::time::{SystemTime, UNIX_EPOCH};

use uuid::Uuid;

use super::page::{foreign, seal, size, token};
use crate::{
    failure::{Failure, Reason},
    ledger::{OperationState, history::OperationFilter},
    migration::Checksum,
    pb,
};

/// An operation's id.
///
/// # Errors
/// INVALID_OPERATION.
pub fn operation_id(text: &str) -> Result<Uuid, Failure> {
    Uuid::try_parse(text)
        .map_err(|_| Failure::invalid(Reason::InvalidOperation, "id", "id is not a UUID"))
}

/// Checks a WatchOperationRequest: the id, and the last sequence that the caller has.
///
/// # Errors
/// INVALID_OPERATION or INVALID_SEQUENCE.
pub fn watch(request: &pb::WatchOperationRequest) -> Result<(Uuid, u64), Failure> {
    let after = u64::try_from(request.after_sequence).map_err(|_| {
        Failure::invalid(
            Reason::InvalidSequence,
            "after_sequence",
            "after_sequence is 0 or what an event said",
        )
    })?;
    Ok((operation_id(&request.id)?, after))
}

/// Checks a ListOperationsRequest: which, and how many a page.
///
/// # Errors
/// The first malformed field.
pub fn operations(request: pb::ListOperationsRequest) -> Result<(OperationFilter, usize), Failure> {
    let no_such = |field: &str| {
        Failure::invalid(
            Reason::InvalidFilter,
            field,
            format!("there is no such {field}"),
        )
    };
    let kind = match pb::OperationKind::try_from(request.kind).map_err(|_| no_such("kind"))? {
        pb::OperationKind::Unspecified => None,
        pb::OperationKind::Apply => Some("apply"),
        pb::OperationKind::Rollback => Some("rollback"),
        pb::OperationKind::Resolve => Some("resolve"),
        pb::OperationKind::Sign => Some("sign"),
    };
    let state = match pb::OperationState::try_from(request.state).map_err(|_| no_such("state"))? {
        pb::OperationState::Unspecified => None,
        pb::OperationState::Pending => Some(OperationState::Pending),
        pb::OperationState::Running => Some(OperationState::Running),
        pb::OperationState::Succeeded => Some(OperationState::Succeeded),
        pb::OperationState::Failed => Some(OperationState::Failed),
        pb::OperationState::Interrupted => Some(OperationState::Interrupted),
        pb::OperationState::Cancelled => Some(OperationState::Cancelled),
    };
    let text = |text: &str, field: &str| {
        if text.contains('\0') {
            Err(no_such(field))
        } else {
            Ok(Some(text.to_owned()).filter(|text| !text.is_empty()))
        }
    };
    let filter = OperationFilter {
        kind,
        state,
        principal: text(&request.principal, "principal")?,
        version: text(&request.version, "version")?,
        from: micros(request.create_time_from, "create_time_from")?,
        before: micros(request.create_time_before, "create_time_before")?,
        after: None,
    };
    let list = list(&filter);
    let after = match token(&list, &request.page_token)? {
        None => None,
        Some(place) => Some(read(&place).ok_or_else(foreign)?),
    };
    Ok((
        OperationFilter { after, ..filter },
        size(request.page_size)?,
    ))
}

/// The token for the page after the operation with this time and id.
pub fn operations_page_token(filter: &OperationFilter, micros: u128, id: Uuid) -> String {
    seal(&format!(
        "{}{micros}:{id}",
        list(&OperationFilter {
            after: None,
            ..filter.clone()
        })
    ))
}

/// A list is another one with another filter.
fn list(filter: &OperationFilter) -> String {
    let text = format!("{filter:?}");
    format!(
        "operations:{}:",
        Checksum::of_parts("schemad.page.1", [text.as_str()].into_iter())
    )
}

fn read(place: &str) -> Option<(i64, Uuid)> {
    let (micros, id) = place.split_once(':')?;
    Some((micros.parse().ok()?, id.parse().ok()?))
}

fn micros(time: Option<prost_types::Timestamp>, field: &str) -> Result<Option<i64>, Failure> {
    let Some(time) = time else { return Ok(None) };
    let wrong = || {
        Failure::invalid(
            Reason::InvalidFilter,
            field,
            format!("{field} is not a time"),
        )
    };
    let time = SystemTime::try_from(time).map_err(|_| wrong())?;
    let distance = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_micros()),
        Err(before) => i64::try_from(before.duration().as_micros()).map(|micros| -micros),
    };
    // PostgreSQL's own range, with room for its arithmetic: the years 1 to 9999.
    distance
        .ok()
        .filter(|micros| (-62_135_596_800_000_000..253_402_300_800_000_000).contains(micros))
        .map(Some)
        .ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn malformed_requests_are_named() {
        let field = |request| operations(request).unwrap_err().field.unwrap();
        let base = pb::ListOperationsRequest::default;
        assert_eq!(
            field(pb::ListOperationsRequest { kind: 77, ..base() }),
            "kind"
        );
        assert_eq!(
            field(pb::ListOperationsRequest {
                state: -1,
                ..base()
            }),
            "state"
        );
        assert_eq!(
            field(pb::ListOperationsRequest {
                principal: "a\0".into(),
                ..base()
            }),
            "principal"
        );
        let time = prost_types::Timestamp {
            seconds: i64::MAX,
            nanos: 0,
        };
        assert_eq!(
            field(pb::ListOperationsRequest {
                create_time_from: Some(time),
                ..base()
            }),
            "create_time_from"
        );
        assert_eq!(
            field(pb::ListOperationsRequest {
                page_size: 1001,
                ..base()
            }),
            "page_size"
        );
        let watched = |id: &str, after_sequence| {
            watch(&pb::WatchOperationRequest {
                id: id.into(),
                after_sequence,
                ..Default::default()
            })
        };
        assert_eq!(
            watched("x", 0).unwrap_err().reason,
            Reason::InvalidOperation
        );
        assert_eq!(
            watched(&Uuid::nil().to_string(), -1).unwrap_err().reason,
            Reason::InvalidSequence
        );
    }

    #[test]
    fn a_page_token_belongs_to_its_list() {
        let (filter, _) = operations(pb::ListOperationsRequest {
            kind: 1,
            ..Default::default()
        })
        .unwrap();
        let page_token = operations_page_token(&filter, 17, Uuid::nil());
        let again = pb::ListOperationsRequest {
            kind: 1,
            page_token: page_token.clone(),
            ..Default::default()
        };
        assert_eq!(operations(again).unwrap().0.after, Some((17, Uuid::nil())));
        let other = pb::ListOperationsRequest {
            kind: 2,
            page_token,
            ..Default::default()
        };
        assert_eq!(
            operations(other).unwrap_err().reason,
            Reason::InvalidPageToken
        );
    }
}
