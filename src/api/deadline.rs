//! A caller's deadline (`grpc-timeout`). It ends the call and everything that the call occupies,
//! streams included, with DEADLINE_EXCEEDED. It does not end an operation, which belongs to the
//! daemon and not to the call.
//!
//! tonic has a deadline of its own, which ends only what has not begun to answer and says
//! CANCELLED. This one stands directly inside it and its time begins earlier, so it always comes
//! first.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    BoxError, Error,
    body::{Body, Bytes, HttpBody},
    http::{HeaderMap, Request, Response},
};
use futures_util::task::AtomicWaker;
use http_body::{Frame, SizeHint};
use tokio::{
    sync::oneshot,
    time::{Instant, timeout_at},
};
use tonic::{Status, codegen::Service};
use tower_layer::Layer;

use crate::failure::status::status_from_failure;
use crate::failure::{Failure, Reason};

const HEADER: &str = "grpc-timeout";

/// Gives every call its deadline. To be put where tonic's server takes layers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct DeadlineLayer;

impl<S> Layer<S> for DeadlineLayer {
    type Service = DeadlineService<S>;

    fn layer(&self, inner: S) -> DeadlineService<S> {
        DeadlineService { inner }
    }
}

/// A service whose calls end in time.
#[derive(Clone, Debug)]
pub(crate) struct DeadlineService<S> {
    inner: S,
}

impl<S, B, R> Service<Request<B>> for DeadlineService<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Future: Send + 'static,
    R: HttpBody<Data = Bytes> + Send + 'static,
    R::Error: Into<BoxError>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        // Here and not in the future: tonic's own clock starts when this function has returned.
        let limit = time_limit(request.headers());
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (Some(limit), Some(deadline)) = (limit, deadline) else {
                return answer.await.map(|it| it.map(Body::new));
            };
            if Instant::now() >= deadline {
                return Ok(expired(limit).into_http()); // nothing has begun
            }
            match timeout_at(deadline, answer).await {
                Ok(Ok(response)) => {
                    Ok(response.map(|body| until(deadline, limit, Body::new(body))))
                }
                Ok(Err(error)) => Err(error),
                Err(_) => Ok(expired(limit).into_http()),
            }
        })
    }
}

/// What the caller set, read as tonic reads it: at most eight digits and a unit. What is malformed
/// is no deadline.
fn time_limit(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get(HEADER)?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.len() > 8 || !digits.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

fn expired(limit: Duration) -> Status {
    let message = format!(
        "the {limit:?} that the caller gave this call are over (grpc-timeout); an operation that \
         it began goes on, and WatchOperation follows it"
    );
    status_from_failure(&Failure::new(Reason::DeadlineExceeded, message))
}

/// `body` until its deadline, and then the status that says so.
fn until(deadline: Instant, limit: Duration, body: Body) -> Body {
    if body.is_end_stream() {
        return body; // the answer is in the headers
    }
    let shared = Arc::new(DeadlineShared {
        body: Mutex::new(Some(body)),
        waker: AtomicWaker::new(),
    });
    let (over, ended) = oneshot::channel();
    let watched = shared.clone();
    // A task of its own, because HTTP/2 does not ask for the next frame while its client has no
    // room for it.
    tokio::spawn(async move {
        if timeout_at(deadline, ended).await.is_err() {
            let body = watched.lock().take();
            drop(body); // not while it is locked: it gives back what the call occupies
            watched.waker.wake();
        }
    });
    Body::new(DeadlineBody {
        shared,
        limit,
        has_ended: false,
        _over: over,
    })
}

struct DeadlineShared {
    /// `None` once the deadline has passed.
    body: Mutex<Option<Body>>,
    waker: AtomicWaker,
}

impl DeadlineShared {
    fn lock(&self) -> MutexGuard<'_, Option<Body>> {
        self.body.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct DeadlineBody {
    shared: Arc<DeadlineShared>,
    limit: Duration,
    has_ended: bool,
    /// Dropped with the answer, which ends the task that watches the deadline.
    _over: oneshot::Sender<()>,
}

impl HttpBody for DeadlineBody {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        if self.has_ended {
            return Poll::Ready(None);
        }
        self.shared.waker.register(cx.waker());
        let polled = self
            .shared
            .lock()
            .as_mut()
            .map(|body| Pin::new(body).poll_frame(cx));
        if let Some(polled) = polled {
            let frame = ready!(polled);
            self.has_ended = frame
                .as_ref()
                .is_none_or(|frame| frame.as_ref().is_ok_and(Frame::is_trailers));
            return Poll::Ready(frame);
        }
        self.has_ended = true;
        let mut trailers = HeaderMap::new();
        Poll::Ready(match expired(self.limit).add_header(&mut trailers) {
            Ok(()) => Some(Ok(Frame::trailers(trailers))),
            Err(_) => None, // never: every header of a status of ours is printable
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.shared
            .lock()
            .as_ref()
            .map_or_else(SizeHint::default, HttpBody::size_hint)
    }

    fn is_end_stream(&self) -> bool {
        self.has_ended
            || self
                .shared
                .lock()
                .as_ref()
                .is_some_and(HttpBody::is_end_stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_limit_is_read_as_the_protocol_writes_it() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(HEADER, text.parse().unwrap());
            time_limit(&headers)
        };
        for (text, limit) in [
            ("1H", Duration::from_secs(3600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("4m", Duration::from_millis(4)),
            ("5u", Duration::from_micros(5)),
            ("6n", Duration::from_nanos(6)),
            ("99999999H", Duration::from_secs(99_999_999 * 3600)),
        ] {
            assert_eq!(read(text), Some(limit), "{text}");
        }
        for malformed in [
            "",
            "1",
            "S",
            "123456789S",
            "-1S",
            "+1S",
            "1.5S",
            "1s",
            "1 S",
        ] {
            assert_eq!(read(malformed), None, "{malformed:?}");
        }
        assert_eq!(time_limit(&HeaderMap::new()), None);
    }
}
