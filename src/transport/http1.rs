//! HTTP/1.1 where only gRPC is served. A probe, a browser or a person with curl that has taken the
//! wrong port gets an answer that it can read and that names the right one, instead of the binary
//! frame with which HTTP/2 ends such a connection.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{AcceptedConnection, ByteStream, VerifiedCertificate};

/// The beginning of HTTP/2's first bytes (RFC 9113, section 3.4). No method of HTTP/1.1 has this
/// name.
const PREFACE: &[u8] = b"PRI ";

/// What is left of the request is read for so long, and no more of it: a socket that is closed with
/// bytes unread takes the answer with it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES: u64 = 64 << 10;

/// What a listener does with HTTP/1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Http1Policy {
    /// It serves that as well.
    IsServed,
    /// It names the port that serves it.
    IsServedOn(u16),
}

impl Http1Policy {
    /// Looks at the first bytes of a connection. `None`: they were HTTP/1.1, and are answered.
    pub(super) async fn pass(
        self,
        mut io: Box<dyn ByteStream>,
        certificate: Option<Arc<VerifiedCertificate>>,
    ) -> io::Result<Option<AcceptedConnection>> {
        let Self::IsServedOn(port) = self else {
            return Ok(Some((io, certificate, Vec::new())));
        };
        let mut first = Vec::with_capacity(PREFACE.len());
        while first.len() < PREFACE.len() && PREFACE.starts_with(&first) {
            let mut more = [0; PREFACE.len()];
            let room = PREFACE.len() - first.len();
            match io.read(&mut more[..room]).await? {
                0 => break,
                read => first.extend_from_slice(&more[..read]),
            }
        }
        // Anything else that is no HTTP/2 is HTTP/2's to refuse.
        if PREFACE.starts_with(&first) || !first.first().is_some_and(u8::is_ascii_uppercase) {
            return Ok(Some((io, certificate, first)));
        }
        let text = format!(
            "This port serves gRPC, which needs HTTP/2. Health (/livez, /readyz) and metrics \
             (/metrics) are served over HTTP/1.1 on the admin port, {port} (--admin-listen).\n"
        );
        answer(&mut io, "505 HTTP Version Not Supported", &text).await;
        Ok(None)
    }

    /// Answers HTTP that is sent without TLS where TLS is spoken. False: these bytes are no HTTP.
    pub(super) async fn refuses_plaintext(self, stream: &mut TcpStream) -> io::Result<bool> {
        let mut first = [0];
        // No record of TLS begins with a letter (RFC 8446, section 5.1).
        if stream.peek(&mut first).await? == 0 || !first[0].is_ascii_uppercase() {
            return Ok(false);
        }
        let admin = match self {
            Self::IsServedOn(port) => format!(
                " Health (/livez, /readyz) and metrics (/metrics) are served in plaintext over \
                 HTTP/1.1 on the admin port, {port} (--admin-listen)."
            ),
            Self::IsServed => String::new(),
        };
        let text =
            format!("This port speaks TLS, and the request came in plaintext: use https.{admin}\n");
        answer(stream, "400 Bad Request", &text).await;
        Ok(true)
    }
}

/// Answers and closes. That the client is gone by then is no mistake.
async fn answer(io: &mut (impl AsyncRead + AsyncWrite + Unpin), status: &str, text: &str) {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: \
         {}\r\nConnection: close\r\n\r\n",
        text.len()
    );
    let answering = async {
        io.write_all((head + text).as_bytes()).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(LINGER_BYTES), &mut tokio::io::sink()).await
    };
    let _ = tokio::time::timeout(LINGER, answering).await;
}
