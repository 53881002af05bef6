//! A request's message, which has to arrive in time, be no larger than allowed, and take no more
//! memory than it is worth: what a request says has some hundred bytes, and only so many may say
//! more at once.

use std::{sync::Arc, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::Request,
};
use http_body_util::BodyExt as _;
use prost::bytes::BytesMut;
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::{
    failure::{Failure, Reason},
    transport::PeerInfo,
};

/// The five bytes before a gRPC message.
pub(crate) const FRAME: usize = 5;

/// What any request may say while it arrives, however many there are.
const SMALL: usize = 4 << 10;

/// What is on its way already when a request is refused for its size: HTTP/2's window, twice.
const WINDOW: usize = 128 << 10;

/// Larger ones at once.
const LARGE_ONES: usize = 32;

/// Where a request comes from.
#[derive(Clone, Copy)]
pub(crate) struct RequestOrigin<'a> {
    pub peer: Option<&'a PeerInfo>,
    /// Strangers have nothing large to say, and must not take the room of those who have.
    pub is_known: bool,
}

/// The requests that are arriving.
#[derive(Debug)]
pub(crate) struct IncomingBodies {
    most: usize,
    within: Duration,
    large: Arc<Semaphore>,
}

impl IncomingBodies {
    pub(crate) fn new(most: usize, within: Duration) -> Self {
        Self {
            most,
            within,
            large: Arc::new(Semaphore::new(LARGE_ONES)),
        }
    }

    /// The request with its whole message.
    ///
    /// # Errors
    /// As [`IncomingBodies::message`].
    pub(crate) async fn arrived(
        &self,
        from: RequestOrigin<'_>,
        request: Request,
    ) -> Result<Request, Failure> {
        let (parts, body) = request.into_parts();
        Ok(Request::from_parts(
            parts,
            Body::from(self.message(from, body).await?),
        ))
    }

    /// The whole message, behind the bytes that say its length.
    ///
    /// # Errors
    /// MESSAGE_TOO_LARGE, REQUEST_TOO_SLOW, MALFORMED_MESSAGE when it breaks off, TOO_MANY_REQUESTS
    /// when too many large ones arrive.
    pub(crate) async fn message(
        &self,
        from: RequestOrigin<'_>,
        body: Body,
    ) -> Result<Bytes, Failure> {
        tokio::time::timeout(self.within, self.whole(from, body))
            .await
            .unwrap_or_else(|_| {
                let message = format!(
                    "the request's message did not arrive within {:?}",
                    self.within
                );
                Err(Failure::new(Reason::RequestTooSlow, message))
            })
    }

    async fn whole(&self, from: RequestOrigin<'_>, mut body: Body) -> Result<Bytes, Failure> {
        let most = if from.is_known {
            self.most
        } else {
            SMALL.min(self.most)
        };
        let (mut message, mut large) = (BytesMut::new(), None::<SemaphorePermit<'_>>);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| {
                Failure::new(
                    Reason::MalformedMessage,
                    format!("the request broke off: {error}"),
                )
            })?;
            let Ok(data) = frame.into_data() else {
                continue;
            };
            let length = message.len() + data.len();
            if length > most + FRAME {
                let text = format!("the request is larger than {most} bytes; no valid one is");
                return Err(Failure::new(Reason::MessageTooLarge, text));
            }
            if length > SMALL + FRAME && large.is_none() {
                if let Some(peer) = from.peer {
                    peer.connection.expect(most + WINDOW);
                }
                large = Some(self.large.try_acquire().map_err(|_| {
                    let text = format!(
                        "{LARGE_ONES} requests of more than {SMALL} bytes are arriving; \
                            ask again later"
                    );
                    Failure::new(Reason::TooManyRequests, text)
                })?);
            }
            message.extend_from_slice(&data);
        }
        Ok(message.freeze())
    }
}
