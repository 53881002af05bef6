//! Between a connection and the services: who calls, whether they may, and whether they have not
//! too much under way already.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    extract::{Request, State},
    http::{
        HeaderMap, Method, StatusCode,
        header::{ALLOW, AUTHORIZATION, CONTENT_TYPE},
    },
    middleware::Next,
    response::{IntoResponse as _, Response},
};

use super::methods::{self, MethodPolicy as Row, QuotaKind};
use crate::{
    access::{ANONYMOUS, Access, PresentedCredentials, Principal, Role},
    failure::{Failure, Reason},
    operation::Operations,
    telemetry::rate_limit::LogRateLimiter,
    transport::{
        InFlightRequest, Limits, PeerInfo, ServerTls, TimedRequest,
        quota::{Quota, QuotaKey},
        quota_counter::{QuotaCounter, QuotaGuard},
    },
};
use crate::{
    api::{
        access_denied,
        error_details::unknown_method,
        request_body::{IncomingBodies, RequestOrigin},
        response_guard::hold,
    },
    failure::status::status_from_failure,
};

/// Bytes of a body that are read before a request is refused which is no gRPC, and how long that
/// may take.
const REFUSED_BODY: usize = 64 << 10;
const REFUSED_WITHIN: Duration = Duration::from_millis(500);

/// Reflection at once, of one client and of all: a person's tool asks once, and what it is told has
/// 100 KiB.
const REFLECTIONS: Quota = Quota { each: 16, all: 64 };

/// Refused callers are logged so often within a second, strangers and known ones each.
const COMPLAINTS: u32 = 10;

/// Whose message takes longer shows the credential once more: it may have been taken back
/// meanwhile.
const AT_ONCE: Duration = Duration::from_millis(200);

/// Lets calls through, or not.
#[derive(Clone)]
pub(crate) struct RequestGate(Arc<RequestGateInner>);

struct RequestGateInner {
    /// `None`: nobody has to say who they are.
    access: Option<Access>,
    /// Whoever says no name is a stranger beside those who do.
    has_strangers: bool,
    /// Says whether a certificate is still good.
    tls: Option<ServerTls>,
    limits: Limits,
    /// Where refusals of known callers are kept.
    operations: Option<Operations>,
    requests: QuotaCounter,
    watchers: QuotaCounter,
    reflections: QuotaCounter,
    arrivals: IncomingBodies,
    unauthenticated: LogRateLimiter,
    denied: LogRateLimiter,
}

impl RequestGate {
    /// The main listener's.
    pub(crate) fn new(
        access: Option<Access>,
        tls: Option<ServerTls>,
        limits: Limits,
        operations: Operations,
    ) -> Self {
        let has_strangers = access.is_some();
        Self(Arc::new(RequestGateInner {
            access,
            tls,
            operations: Some(operations),
            ..RequestGateInner::new(limits, has_strangers)
        }))
    }

    /// The admin listener's: there are probes only, strangers where the main listener knows its
    /// callers.
    pub(crate) fn of_admin(limits: Limits, has_strangers: bool) -> Self {
        Self(Arc::new(RequestGateInner::new(limits, has_strangers)))
    }
}

/// The layer.
pub(crate) async fn pass(
    State(RequestGate(gate)): State<RequestGate>,
    request: Request,
    next: Next,
) -> Response {
    let peer = request.extensions().get::<PeerInfo>().cloned();
    let method = methods::of(request.uri().path());
    let serves_only_grpc = gate.operations.is_some();
    if (serves_only_grpc || method.is_some())
        && let Some(refused) = not_grpc(&request)
    {
        // Before it is answered: some clients take an answer to a body that they are still sending
        // for a broken stream.
        let body = axum::body::to_bytes(request.into_body(), REFUSED_BODY);
        // Too long, or too slow: it is refused all the same.
        let _ = tokio::time::timeout(REFUSED_WITHIN, body).await;
        return refused;
    }
    let Some(method) = method else {
        if serves_only_grpc {
            // Refused here and not by the router: what has no row must not be served by mistake.
            return status_from_failure(&unknown_method(
                request.uri().path().trim_start_matches('/'),
            ))
            .into_http();
        }
        // The admin listener's HTTP.
        let held = peer.as_ref().and_then(|peer| peer.connection.request());
        return hold(next.run(request).await, held);
    };
    match gate.admit(method, peer.as_ref(), request).await {
        Ok((request, held)) => hold(next.run(request).await, held),
        Err(failure) => status_from_failure(&failure).into_http(),
    }
}

/// Refuses what is no gRPC, in HTTP's words. A page in a browser can send a POST of any text
/// anywhere, with the certificate of the person who looks at it; this content type it can send only
/// where the server allows it, and this one never does.
fn not_grpc(request: &Request) -> Option<Response> {
    const TYPE: &str = "application/grpc";
    if request.method() != Method::POST {
        // The answer to HEAD has no body, and hyper takes none away.
        let text = if request.method() == Method::HEAD {
            ""
        } else {
            "gRPC calls are POST requests\n"
        };
        return Some((StatusCode::METHOD_NOT_ALLOWED, [(ALLOW, "POST")], text).into_response());
    }
    let mut values = request.headers().get_all(CONTENT_TYPE).iter();
    let only = match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().unwrap_or_default(),
        _ => "",
    };
    let essence = only.split(';').next().unwrap_or_default().trim();
    let matches = |text: &str| essence.eq_ignore_ascii_case(text);
    if matches(TYPE) || matches("application/grpc+proto") {
        return None;
    }
    let text = format!("this is a gRPC method: the content type has to be {TYPE}\n");
    Some((StatusCode::UNSUPPORTED_MEDIA_TYPE, text).into_response())
}

/// Who called, and what they said.
///
/// # Errors
/// Never behind the gate, which says who calls.
pub(crate) fn caller<T>(request: tonic::Request<T>) -> Result<(Principal, T), tonic::Status> {
    let (_, mut extensions, message) = request.into_parts();
    let unknown = || {
        status_from_failure(&Failure::new(
            Reason::CredentialMissing,
            "nobody said who calls",
        ))
    };
    Ok((
        extensions.remove::<Principal>().ok_or_else(unknown)?,
        message,
    ))
}

/// What a call occupies.
struct HeldResources {
    _stream: StreamSlot,
    _request: Option<QuotaGuard>,
    _open: Option<QuotaGuard>,
}

/// One of the connection's streams.
enum StreamSlot {
    None,
    Open { _request: InFlightRequest },
    Timed { _request: TimedRequest },
}

impl RequestGateInner {
    fn new(limits: Limits, has_strangers: bool) -> Self {
        let arrivals = IncomingBodies::new(limits.message_bytes, limits.arrive_within);
        Self {
            access: None,
            has_strangers,
            tls: None,
            limits,
            operations: None,
            requests: QuotaCounter::default(),
            watchers: QuotaCounter::default(),
            reflections: QuotaCounter::default(),
            arrivals,
            unauthenticated: LogRateLimiter::new(COMPLAINTS),
            denied: LogRateLimiter::new(COMPLAINTS),
        }
    }

    async fn admit(
        self: &Arc<Self>,
        method: &'static Row,
        peer: Option<&PeerInfo>,
        request: Request,
    ) -> Result<(Request, HeldResources), Failure> {
        let stream = self.stream(method, peer)?;
        let size = header_bytes(request.headers());
        if size > self.limits.header_bytes {
            let message = format!(
                "the headers have {size} bytes; {} are allowed",
                self.limits.header_bytes
            );
            return Err(Failure::new(Reason::HeadersTooLarge, message));
        }
        let principal = match method.role {
            Some(least) => {
                let principal = self.principal(method, peer, request.headers()).await?;
                if principal.role < least {
                    return Err(self.deny(method, least, &principal, peer, request).await);
                }
                Some(principal)
            }
            None => self.recognised(method, peer, request.headers()).await,
        };
        let client = self.client(principal.as_ref(), peer);
        let open = self.count_open(method, client.clone())?;
        // Reflection asks again and again on one stream; everybody else says one thing.
        let begun = Instant::now();
        let mut request = match method.counts {
            QuotaKind::Reflection => request,
            _ => {
                self.arrivals
                    .arrived(
                        RequestOrigin {
                            peer,
                            is_known: principal.is_some(),
                        },
                        request,
                    )
                    .await?
            }
        };
        if let (Some(before), Some(_)) = (&principal, method.role)
            && begun.elapsed() > AT_ONCE
            && self.principal(method, peer, request.headers()).await? != *before
        {
            let message = "what the credential allows changed while the request arrived; ask \
                again";
            return Err(Failure::new(Reason::CredentialInvalid, message));
        }
        // Only now: what is half said keeps nobody else of the same name out.
        let held = HeldResources {
            _stream: stream,
            _request: self.count_request(method, &principal)?,
            _open: open,
        };
        request.extensions_mut().insert(client);
        if let Some(principal) = principal {
            request.extensions_mut().insert(principal);
        }
        Ok((request, held))
    }

    /// Whom a call is counted against. The connection of a known caller keeps its seat.
    fn client(&self, principal: Option<&Principal>, peer: Option<&PeerInfo>) -> QuotaKey {
        let address = peer.map(|peer| peer.connection.client());
        match principal {
            Some(principal) => {
                if let Some(peer) = peer {
                    peer.connection.mark_known();
                }
                QuotaKey::Principal(principal.name.clone())
            }
            None if self.has_strangers => QuotaKey::Stranger(address),
            None => QuotaKey::Address(address),
        }
    }

    fn stream(&self, method: &Row, peer: Option<&PeerInfo>) -> Result<StreamSlot, Failure> {
        let Some(peer) = peer else {
            return Ok(StreamSlot::None);
        };
        let request = peer.connection.request().ok_or_else(|| {
            let limit = self.limits.streams_per_connection;
            too_many(
                Reason::TooManyRequests,
                format!("{limit} requests are open on this connection"),
            )
        })?;
        Ok(match method.counts {
            QuotaKind::Request | QuotaKind::Reflection | QuotaKind::Not => StreamSlot::Timed {
                _request: request.within(self.limits.read_within),
            },
            QuotaKind::Operation | QuotaKind::Watcher => StreamSlot::Open { _request: request },
        })
    }

    /// Who calls.
    async fn principal(
        &self,
        method: &'static Row,
        peer: Option<&PeerInfo>,
        headers: &HeaderMap,
    ) -> Result<Principal, Failure> {
        let Some(access) = &self.access else {
            return Ok(Principal {
                name: ANONYMOUS.into(),
                role: Role::Admin,
            });
        };
        self.authenticate(access, peer, headers).await.inspect_err(|failure| {
            if self.unauthenticated.allows() {
                tracing::warn!(event = "request.unauthenticated", method = method.path, address = address(peer),
                    reason = %failure.reason, "a caller was refused: {}", failure.message);
            }
        })
    }

    /// Refuses a known caller whose role is too small, and keeps what was asked for.
    async fn deny(
        &self,
        method: &'static Row,
        least: Role,
        principal: &Principal,
        peer: Option<&PeerInfo>,
        request: Request,
    ) -> Failure {
        let name = access_denied::name(method.path);
        let message = format!(
            "{} has the role {}; {name} needs {least}",
            principal.name, principal.role
        );
        let failure = Failure::new(Reason::PermissionDenied, message).with("role", least);
        if self.denied.allows() {
            tracing::warn!(
                event = "request.denied",
                method = method.path,
                address = address(peer),
                principal = principal.name,
                "a caller was refused: {}",
                failure.message
            );
        }
        if let (Some(operations), Some(kind)) = (&self.operations, access_denied::kind(method.path))
        {
            // What is large or does not arrive has no id; it is refused all the same.
            let message = self
                .arrivals
                .message(
                    RequestOrigin {
                        peer,
                        is_known: false,
                    },
                    request.into_body(),
                )
                .await;
            let message = message.unwrap_or_default();
            let request_id = access_denied::request_id(method.path, &message);
            operations.note_refusal(&principal.name, kind, request_id, &failure);
        }
        failure
    }

    /// Who calls what is open to anybody and lasts. Who shows nothing, or what is no credential, is
    /// a stranger and may do the same.
    async fn recognised(
        &self,
        method: &Row,
        peer: Option<&PeerInfo>,
        headers: &HeaderMap,
    ) -> Option<Principal> {
        let access = self
            .access
            .as_ref()
            .filter(|_| method.counts != QuotaKind::Not)?;
        self.authenticate(access, peer, headers).await.ok()
    }

    /// Whose credential it is that the call or its connection shows.
    async fn authenticate(
        &self,
        access: &Access,
        peer: Option<&PeerInfo>,
        headers: &HeaderMap,
    ) -> Result<Principal, Failure> {
        let certificate = peer.and_then(|peer| peer.certificate.as_deref());
        let presented = PresentedCredentials {
            authorization: authorization(headers)?,
            certificate: certificate.map(|certificate| certificate.der()),
        };
        let matters = |tls: &ServerTls| presented.authorization.is_none() || tls.requires_clients();
        let distrusted = |certificate| {
            self.tls
                .as_ref()
                .is_some_and(|tls| matters(tls) && !tls.still_trusts(certificate))
        };
        match certificate {
            // Its connection is older than its revocation.
            Some(certificate) if distrusted(certificate) => Err(Failure::new(
                Reason::CredentialInvalid,
                "the client certificate is not accepted any more",
            )),
            _ => access.authenticate(&presented).await,
        }
    }

    fn count_request(
        self: &Arc<Self>,
        method: &Row,
        principal: &Option<Principal>,
    ) -> Result<Option<QuotaGuard>, Failure> {
        let (QuotaKind::Request | QuotaKind::Operation, Some(principal)) =
            (method.counts, principal)
        else {
            return Ok(None);
        };
        let limit = self.limits.requests_per_principal;
        let room = Quota {
            each: limit,
            all: usize::MAX,
        };
        let counted = self
            .requests
            .enter(QuotaKey::Principal(principal.name.clone()), room);
        counted.map(Some).ok_or_else(|| {
            too_many(
                Reason::TooManyRequests,
                format!("{} has {limit} requests under way", principal.name),
            )
        })
    }

    fn count_open(
        self: &Arc<Self>,
        method: &Row,
        client: QuotaKey,
    ) -> Result<Option<QuotaGuard>, Failure> {
        let watches = Quota {
            each: self.limits.watchers_per_client,
            all: self.limits.watchers,
        };
        let (counter, room, reason, what) = match method.counts {
            QuotaKind::Watcher => (
                &self.watchers,
                watches,
                Reason::TooManyWatchers,
                "watches are open",
            ),
            QuotaKind::Reflection => (
                &self.reflections,
                REFLECTIONS,
                Reason::TooManyRequests,
                "ask for reflection",
            ),
            QuotaKind::Request | QuotaKind::Operation | QuotaKind::Not => return Ok(None),
        };
        let counted = counter.enter(client, room).map(Some);
        let told = || {
            format!(
                "{} of one client, or {} of all, {what}",
                room.each, room.all
            )
        };
        counted.ok_or_else(|| too_many(reason, told()))
    }
}

fn address(peer: Option<&PeerInfo>) -> String {
    peer.map(|peer| peer.connection.address().to_string())
        .unwrap_or_default()
}

/// The one `authorization`, as text. Two of them would let a proxy and the daemon take different
/// ones.
fn authorization(headers: &HeaderMap) -> Result<Option<&str>, Failure> {
    let invalid = |what| {
        Failure::new(
            Reason::CredentialInvalid,
            format!("the metadata authorization {what}"),
        )
    };
    let mut values = headers.get_all(AUTHORIZATION).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => value
            .to_str()
            .map(Some)
            .map_err(|_| invalid("holds bytes that are no text")),
        (Some(_), Some(_)) => Err(invalid("is there more than once")),
    }
}

/// As HTTP/2 counts them (RFC 9113, 6.5.2).
fn header_bytes(headers: &HeaderMap) -> usize {
    headers
        .iter()
        .map(|(name, value)| name.as_str().len() + value.len() + 32)
        .sum()
}

fn too_many(reason: Reason, what: String) -> Failure {
    Failure::new(reason, format!("{what}; end some, or ask again later"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_credentials_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(authorization(&headers).unwrap(), None);
        headers.append(AUTHORIZATION, "Bearer a".parse().unwrap());
        assert_eq!(authorization(&headers).unwrap(), Some("Bearer a"));
        headers.append(AUTHORIZATION, "Bearer b".parse().unwrap());
        assert_eq!(
            authorization(&headers).unwrap_err().reason,
            Reason::CredentialInvalid
        );
    }
}
