//! HTTP/2 frames by hand (RFC 9113, sections 4 and 6), and as much of HPACK as is needed to ask for
//! a method.

use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

pub const DATA: u8 = 0;
pub const HEADERS: u8 = 1;
pub const PRIORITY: u8 = 2;
pub const RST_STREAM: u8 = 3;
pub const SETTINGS: u8 = 4;
pub const PING: u8 = 6;
pub const WINDOW_UPDATE: u8 = 8;
pub const CONTINUATION: u8 = 9;

pub const END_STREAM: u8 = 1;
pub const END_HEADERS: u8 = 4;

/// A frame's bytes.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, flags];
    frame.extend(stream.to_be_bytes());
    frame.extend(payload);
    frame
}

/// SETTINGS with these values.
pub fn settings(values: &[(u16, u32)]) -> Vec<u8> {
    let payload: Vec<u8> = values
        .iter()
        .flat_map(|(name, value)| name.to_be_bytes().into_iter().chain(value.to_be_bytes()))
        .collect();
    frame(SETTINGS, 0, 0, &payload)
}

/// A header that is in no table and goes into none (RFC 7541, 6.2.2), without Huffman.
pub fn header(name: &str, value: &str) -> Vec<u8> {
    let mut block = vec![0];
    for text in [name, value] {
        block.extend(integer(text.len()));
        block.extend(text.as_bytes());
    }
    block
}

/// An integer with a prefix of seven bits (RFC 7541, 5.1).
fn integer(n: usize) -> Vec<u8> {
    if n < 127 {
        return vec![u8::try_from(n).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], n - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}

/// The header block of a gRPC call.
pub fn call(path: &str) -> Vec<u8> {
    [
        header(":method", "POST"),
        header(":scheme", "http"),
        header(":path", path),
        header(":authority", "localhost"),
        header("content-type", "application/grpc"),
        header("te", "trailers"),
    ]
    .concat()
}

pub const LIST: &str = "/schemad.v1.MigrationService/ListMigrations";
pub const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

/// A gRPC message.
pub fn message(bytes: &[u8]) -> Vec<u8> {
    let mut message = vec![0];
    message.extend(u32::try_from(bytes.len()).unwrap().to_be_bytes());
    message.extend(bytes);
    message
}

/// A connection that has said hello, with a task that reads and throws away what comes, unless it
/// is asked not to.
pub async fn connect(address: &str, hello: &[(u16, u32)], reads: bool) -> Option<Attacker> {
    let socket = timeout(Duration::from_secs(5), TcpStream::connect(address))
        .await
        .ok()?
        .ok()?;
    let (mut read, mut write) = socket.into_split();
    write
        .write_all(&[PREFACE, &settings(hello), &frame(SETTINGS, 1, 0, &[])].concat())
        .await
        .ok()?;
    let reader = reads.then(|| {
        tokio::spawn(async move {
            let mut buffer = vec![0; 16 * 1024];
            while read.read(&mut buffer).await.is_ok_and(|n| n > 0) {}
        })
    });
    Some(Attacker { write, reader })
}

/// The writing half.
pub struct Attacker {
    write: tokio::net::tcp::OwnedWriteHalf,
    reader: Option<tokio::task::JoinHandle<()>>,
}

impl Attacker {
    /// False when the daemon has had enough, or takes nothing any more.
    pub async fn send(&mut self, bytes: &[u8]) -> bool {
        if self
            .reader
            .as_ref()
            .is_some_and(tokio::task::JoinHandle::is_finished)
        {
            return false;
        }
        matches!(
            timeout(Duration::from_secs(1), self.write.write_all(bytes)).await,
            Ok(Ok(()))
        )
    }
}

impl Drop for Attacker {
    fn drop(&mut self) {
        if let Some(reader) = &self.reader {
            reader.abort();
        }
    }
}

/// As many open files as this process may have, for itself and for the daemons it starts.
pub fn raise_open_files() -> u64 {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    let wanted = hard.min(65_536);
    setrlimit(Resource::RLIMIT_NOFILE, wanted, hard).unwrap();
    wanted
}
