//! The socket of a connection as the server reads and writes it.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::{ByteStream, ClientConnection, ConnectionSlot, VerifiedCertificate};

/// A connection that is served. It reads the end of its stream when it has to go.
pub(crate) struct ServedSocket {
    io: Box<dyn ByteStream>,
    seat: ConnectionSlot,
    certificate: Option<Arc<VerifiedCertificate>>,
    /// Read already, and not yet handed on.
    first: Vec<u8>,
}

impl ServedSocket {
    /// Serves `first` and then `io`, whose client has shown this certificate.
    pub(crate) fn new(
        io: Box<dyn ByteStream>,
        seat: ConnectionSlot,
        certificate: Option<Arc<VerifiedCertificate>>,
        first: Vec<u8>,
    ) -> Self {
        Self {
            io,
            seat,
            certificate,
            first,
        }
    }
}

/// What a request knows of its connection.
#[derive(Clone, Debug)]
pub(crate) struct PeerInfo {
    /// The connection.
    pub connection: Arc<ClientConnection>,
    /// The client's certificate, which the handshake verified.
    pub certificate: Option<Arc<VerifiedCertificate>>,
}

impl Connected for ServedSocket {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        PeerInfo {
            connection: self.seat.connection.clone(),
            certificate: self.certificate.clone(),
        }
    }
}

impl AsyncRead for ServedSocket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.seat.connection.poll_closed(cx).is_ready() {
            return Poll::Ready(Ok(()));
        }
        if !self.first.is_empty() {
            let length = self.first.len().min(buf.remaining());
            buf.put_slice(&self.first[..length]);
            self.first.drain(..length);
            self.seat.connection.said(length);
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.io).poll_read(cx, buf);
        let read = buf.filled().len() - before;
        self.seat.connection.said(read);
        polled
    }
}

impl AsyncWrite for ServedSocket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.seat.connection.is_closed() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
