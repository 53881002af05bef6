//! What lies between a socket and a request: TLS with files that are read again when they change,
//! and limits that keep one client from taking what the others need.

mod connection;
mod http1;
mod limits;
pub(crate) mod pem;
pub(crate) mod quota;
pub(crate) mod quota_counter;
pub(crate) mod reload;
mod revocations;
mod socket;
mod tls;
mod validity;

use std::{io, net::IpAddr, sync::Arc, time::Duration};

use futures_util::{Stream, stream};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

pub(crate) use connection::{
    ClientConnection, ConnectionSlot, Connections, InFlightRequest, TimedRequest,
};
pub(crate) use http1::Http1Policy;
pub use limits::Limits;
pub(crate) use socket::{PeerInfo, ServedSocket};
pub(crate) use tls::VerifiedCertificate;
pub use tls::{ClientCertificates, ServerTls, TlsError, TlsFiles};

/// A plain or an encrypted socket.
pub trait ByteStream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> ByteStream for T {}

/// Handshakes that wait to be served. Each holds a seat, so there are no more of them than
/// connections.
const READY: usize = 64;

/// After an error that is the machine's (no file descriptors left) and passes by itself.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The connections of a listener, as soon as each is ready to be served: those beyond the limits
/// are closed, and a handshake that takes too long ends without holding up another.
pub(crate) fn incoming(
    listener: TcpListener,
    tls: Option<ServerTls>,
    connections: Connections,
    http1: Http1Policy,
) -> impl Stream<Item = io::Result<ServedSocket>> {
    let (ready, sockets) = mpsc::channel(READY);
    tokio::spawn(async move {
        loop {
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = ready.closed() => return,
            };
            match accepted {
                Ok((stream, address)) => {
                    let Some(seat) = connections.seat(address.ip()) else {
                        continue;
                    };
                    let (tls, ready) = (tls.clone(), ready.clone());
                    tokio::spawn(async move {
                        begin(stream, address.ip(), tls, seat, http1, ready).await
                    });
                }
                Err(error) => {
                    tracing::warn!(event = "connection.not_accepted", cause = %error, "a \
                        connection could not be accepted");
                    tokio::time::sleep(ACCEPT_AGAIN).await;
                }
            }
        }
    });
    stream::unfold(sockets, async |mut sockets| {
        sockets.recv().await.map(|socket| (Ok(socket), sockets))
    })
}

/// From an accepted socket to one that is served.
async fn begin(
    stream: TcpStream,
    address: IpAddr,
    tls: Option<ServerTls>,
    seat: ConnectionSlot,
    http1: Http1Policy,
    ready: mpsc::Sender<ServedSocket>,
) {
    let _ = stream.set_nodelay(true); // a refusal costs latency only
    let socket = tokio::select! {
        begun = tokio::time::timeout(seat.within(), handshake(stream, tls, http1)) => match begun {
            Ok(Ok(Some((io, certificate, first)))) => ServedSocket::new(io, seat, certificate, first),
            Ok(Ok(None)) => return, // refused in words
            Ok(Err(error)) => return tracing::debug!(%address, cause = %error, "a TLS handshake \
                failed"),
            Err(_) => return tracing::debug!(%address, "a TLS handshake or HTTP/2's first bytes \
                took too long"),
        },
        () = seat.closed() => return,
    };
    let _ = ready.send(socket).await; // the server ended first
}

/// What a connection is served from: its bytes, the client's certificate, and the bytes that were
/// read already.
type AcceptedConnection = (
    Box<dyn ByteStream>,
    Option<Arc<VerifiedCertificate>>,
    Vec<u8>,
);

/// The beginning of a connection. `None`: it speaks another protocol, and was told so.
async fn handshake(
    mut stream: TcpStream,
    tls: Option<ServerTls>,
    http1: Http1Policy,
) -> io::Result<Option<AcceptedConnection>> {
    let Some(tls) = tls else {
        return http1.pass(Box::new(stream), None).await;
    };
    if http1.refuses_plaintext(&mut stream).await? {
        return Ok(None);
    }
    let (stream, verified) = tls.accept(stream).await?;
    http1.pass(Box::new(stream), verified.map(Arc::new)).await
}
