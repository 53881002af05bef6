//! What tonic refuses before a handler is reached (a message too large or broken, a method that
//! there is not) carries no ErrorInfo. This gives it one, so that every refusal of ours has a
//! reason.

use axum::{extract::Request, middleware::Next, response::Response};
use tonic::{Code, Status};

use crate::failure::status::status_from_failure;
use crate::failure::{Failure, Reason};

/// A layer for the main listener. It changes statuses that are in the headers and have no details;
/// a status in the trailers comes from a handler. Health and reflection keep their own codes
/// (NOT_FOUND above all): no reason here stands for them.
pub(crate) async fn own_words(request: Request, next: Next) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    let mut response = next.run(request).await;
    let named = match Status::from_header_map(response.headers()) {
        Some(status) if status.details().is_empty() => failure(&status, &path),
        _ => None,
    };
    if let Some(failure) = named {
        // Every header of a status of ours is printable; were one not, the answer stays what it
        // was.
        let _ = status_from_failure(&failure).add_header(response.headers_mut());
    }
    response
}

/// Malformed messages become INVALID_ARGUMENT: tonic says INTERNAL, but the mistake is the
/// caller's, and stays one. A message that only says that it is too large is one for the limit,
/// which `gate` knows.
fn failure(status: &Status, path: &str) -> Option<Failure> {
    let said = status.message();
    let (reason, message) = match status.code() {
        Code::OutOfRange | Code::ResourceExhausted => (
            Reason::MessageTooLarge,
            format!(
                "the request says that it is larger than a message may be; no valid one is \
                 ({said})"
            ),
        ),
        Code::Internal => (
            Reason::MalformedMessage,
            format!(
                "the request is no message of {path}; make the client from that service's proto \
                 ({said})"
            ),
        ),
        // Only an encoding has a text.
        Code::Unimplemented if !said.is_empty() => (
            Reason::UnsupportedCompression,
            format!("send the message without compression ({said})"),
        ),
        Code::Unimplemented => return Some(unknown_method(path)),
        _ => return None,
    };
    Some(Failure::new(reason, message))
}

/// There is no such method.
pub(crate) fn unknown_method(path: &str) -> Failure {
    let message = format!(
        "this daemon has no method {path}: the client is of another release, or the service is \
         switched off"
    );
    Failure::new(Reason::UnknownMethod, message)
}
