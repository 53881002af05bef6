//! gRPC as HTTP/2 carries it. This client keeps no deadline of its own, sends any method and
//! content type, and shows the daemon's HTTP/2 settings; tonic's client does none of that.

use prost::bytes::Bytes;
use tokio::net::TcpStream;
use tonic::{
    Status,
    codegen::http::{HeaderMap, Request},
};

use super::PATIENCE;

/// An empty gRPC message.
pub const EMPTY: &[u8] = &[0; 5];

/// One connection.
pub struct Wire {
    sender: h2::client::SendRequest<Bytes>,
}

/// An answer that was read to its end.
#[derive(Debug)]
pub struct Answer {
    pub http: u16,
    pub headers: HeaderMap,
    pub body: Vec<u8>,
    pub trailers: HeaderMap,
}

/// A gRPC request without a message.
pub fn grpc(path: &str, deadline: Option<&str>) -> Request<()> {
    let request =
        Request::post(format!("http://localhost{path}")).header("content-type", "application/grpc");
    let request = match deadline {
        Some(deadline) => request.header("grpc-timeout", deadline),
        None => request,
    };
    request.header("te", "trailers").body(()).unwrap()
}

/// The bytes of a gRPC message.
pub fn framed(message: &impl prost::Message) -> Bytes {
    let message = message.encode_to_vec();
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    [&[0], &length[..], &message].concat().into()
}

impl Wire {
    pub async fn connect(address: &str) -> Self {
        Self::connect_with(address, &h2::client::Builder::new()).await
    }

    pub async fn connect_with(address: &str, settings: &h2::client::Builder) -> Self {
        let socket = TcpStream::connect(address).await.unwrap();
        let (sender, connection) = settings.handshake(socket).await.unwrap();
        tokio::spawn(connection);
        Self { sender }
    }

    /// How many streams the daemon says that this client may open.
    pub fn streams(&self) -> usize {
        self.sender.current_max_send_streams()
    }

    /// Sends the request. Without a body the client never finishes it.
    pub async fn begin(
        &self,
        request: Request<()>,
        body: Option<Bytes>,
    ) -> h2::client::ResponseFuture {
        let mut sender = self.sender.clone().ready().await.unwrap();
        let (response, mut stream) = sender.send_request(request, false).unwrap();
        match body {
            // An answer may come before the message, and then nobody wants it.
            Some(body) => drop(stream.send_data(body, true)),
            None => std::mem::forget(stream), // dropped, it would reset the stream
        }
        response
    }

    /// Sends the request and reads its answer to the end.
    pub async fn call(&self, request: Request<()>, body: Option<Bytes>) -> Answer {
        let response = self.begin(request, body).await;
        tokio::time::timeout(PATIENCE, async { read(response.await.unwrap()).await })
            .await
            .expect("the answer does not end")
    }
}

async fn read(response: tonic::codegen::http::Response<h2::RecvStream>) -> Answer {
    let (parts, mut stream) = response.into_parts();
    let mut body = Vec::new();
    while let Some(data) = stream.data().await {
        let data = data.unwrap();
        stream.flow_control().release_capacity(data.len()).unwrap();
        body.extend_from_slice(&data);
    }
    let trailers = stream.trailers().await.unwrap().unwrap_or_default();
    Answer {
        http: parts.status.as_u16(),
        headers: parts.headers,
        body,
        trailers,
    }
}

impl Answer {
    /// The gRPC status, wherever it stands.
    #[track_caller]
    pub fn status(&self) -> Status {
        let of = |headers| Status::from_header_map(headers);
        of(&self.trailers)
            .or_else(|| of(&self.headers))
            .unwrap_or_else(|| panic!("no status: {self:?}"))
    }
}
