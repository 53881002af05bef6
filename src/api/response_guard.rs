//! An answer in small pieces. HTTP/2 takes a piece from it only when the client has room for some
//! of it, so an answer lasts as long as it is not read, and what it occupies is given back only
//! then. A whole message would be taken at once and kept in memory, read or not.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use axum::{
    Error,
    body::{Body, Bytes, HttpBody},
    response::Response,
};
use http_body::{Frame, SizeHint};

/// What a client that never reads makes the daemon keep; larger pieces gain nothing that is worth
/// it (most answers are smaller).
const PIECE: usize = 4 << 10;

/// Keeps `held` as long as the answer lasts.
pub(crate) fn hold<T: Send + Unpin + 'static>(response: Response, held: T) -> Response {
    response.map(|body| {
        Body::new(GuardedResponse {
            body,
            rest: Bytes::new(),
            _held: held,
        })
    })
}

struct GuardedResponse<T> {
    body: Body,
    /// What is left of the frame that is being handed on.
    rest: Bytes,
    _held: T,
}

impl<T: Unpin> HttpBody for GuardedResponse<T> {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.rest.is_empty() {
            let frame = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                Some(Ok(frame)) => frame,
                end => return Poll::Ready(end),
            };
            match frame.into_data() {
                Ok(data) => self.rest = data,
                Err(trailers) => return Poll::Ready(Some(Ok(trailers))),
            }
        }
        let piece = self.rest.len().min(PIECE);
        Poll::Ready(Some(Ok(Frame::data(self.rest.split_to(piece)))))
    }

    /// HTTP/1 says beforehand how long an answer is, where that is known.
    fn size_hint(&self) -> SizeHint {
        let (rest, mut hint) = (self.rest.len() as u64, self.body.size_hint());
        if let Some(upper) = hint.upper() {
            hint.set_upper(upper + rest);
        }
        hint.set_lower(hint.lower() + rest);
        hint
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.body.is_end_stream()
    }
}
