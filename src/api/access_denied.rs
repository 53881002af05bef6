//! A call of somebody who is known and may not make it. It is kept as what it asked for: the kind
//! of operation and the caller's id, as the operation itself would have said them.

use axum::body::Bytes;
use prost::Message;
use uuid::Uuid;

use crate::{api::request_body::FRAME, pb};

/// The kind of operation that a method asks for. `None`: it only reads, so no role is too small for
/// it.
pub(crate) fn kind(path: &str) -> Option<&'static str> {
    Some(match name(path) {
        "Apply" => "apply",
        "Rollback" => "rollback",
        "Resolve" => "resolve",
        "SignLedger" => "sign",
        "CancelOperation" => "cancel",
        "Rehearse" => "rehearse",
        "Lease" => "lease",
        _ => return None,
    })
}

/// The method's own name.
pub(crate) fn name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or_default()
}

/// The caller's id in a message as it came. Nil: it has none, or none that is one.
pub(crate) fn request_id(path: &str, body: &Bytes) -> Uuid {
    // The first byte says whether it is compressed.
    let id = match (body.first(), body.get(FRAME..)) {
        (Some(0), Some(message)) => match name(path) {
            "Apply" => of(message, |request: pb::ApplyRequest| request.request_id),
            "Rollback" => of(message, |request: pb::RollbackRequest| request.request_id),
            "Resolve" => of(message, |request: pb::ResolveRequest| request.request_id),
            "SignLedger" => of(message, |request: pb::SignLedgerRequest| request.request_id),
            _ => None,
        },
        _ => None,
    };
    id.unwrap_or_default()
}

fn of<M: Message + Default>(message: &[u8], id: impl Fn(M) -> String) -> Option<Uuid> {
    id(M::decode(message).ok()?).parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{access::Role, api::methods::METHODS};

    #[test]
    fn whatever_a_role_can_be_too_small_for_has_a_kind() {
        for method in METHODS {
            assert_eq!(
                kind(method.path).is_some(),
                method.role > Some(Role::Viewer),
                "{}",
                method.path
            );
        }
    }

    #[test]
    fn an_id_is_read_from_what_is_a_message_and_from_nothing_else() {
        let id = Uuid::from_u128(7);
        let message = pb::RollbackRequest {
            request_id: id.to_string(),
            ..Default::default()
        }
        .encode_to_vec();
        let frame =
            |compressed: u8| Bytes::from([&[compressed, 0, 0, 0, 0][..], &message].concat());
        assert_eq!(request_id("/s/Rollback", &frame(0)), id);
        for (path, body) in [
            ("/s/Rollback", frame(1)),
            ("/s/CancelOperation", frame(0)),
            ("/s/Apply", Bytes::new()),
        ] {
            assert_eq!(request_id(path, &body), Uuid::nil(), "{path}");
        }
    }
}
