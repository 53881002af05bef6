//! A TCP proxy in front of PostgreSQL that can cut, stall and count.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixStream},
    sync::watch,
};
use tokio_postgres::config::Host;

use super::TestDatabase;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    Open,
    Stalled,
    Cut,
}

/// The mode, and how often it was cut or half closed: a connection sees a cut even when it is
/// opened again at once.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    cuts: usize,
    halves: [usize; 2],
    /// Errors arrive as the last word of a server that then ends the session.
    fatal: bool,
}

/// Who reads the end of a connection that is closed in one direction only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Half {
    Server,
    Client,
}

pub struct Proxy {
    pub url: String,
    pub port: u16,
    state: watch::Sender<State>,
    /// Changes of direction from client to server: what a round trip begins with.
    turns: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn to(database: &TestDatabase) -> Self {
        Self::before(&database.url).await
    }

    /// In front of the server of this address.
    pub async fn before(address: &str) -> Self {
        let config: tokio_postgres::Config = address.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let user = config.get_user().unwrap().to_owned();
        let password = config
            .get_password()
            .map(|p| format!(":{}", String::from_utf8_lossy(p)))
            .unwrap_or_default();
        let url = format!(
            "postgres://{user}{password}@127.0.0.1:{port}/{}",
            config.get_dbname().unwrap()
        );
        let (state, states) = watch::channel(State {
            mode: Mode::Open,
            cuts: 0,
            halves: [0; 2],
            fatal: false,
        });
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (config, states, counter) = (config.clone(), states.clone(), counter.clone());
                tokio::spawn(async move {
                    let port = config.get_ports().first().copied().unwrap_or(5432);
                    match &config.get_hosts()[0] {
                        Host::Unix(dir) => {
                            // A server that is down refuses, and so does this.
                            let Ok(server) =
                                UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await
                            else {
                                return;
                            };
                            carry(client, server, states, counter).await;
                        }
                        Host::Tcp(host) => {
                            let Ok(server) = TcpStream::connect((host.as_str(), port)).await else {
                                return;
                            };
                            carry(client, server, states, counter).await;
                        }
                    }
                });
            }
        });
        Self {
            url,
            port,
            state,
            turns,
        }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalled);
    }

    /// Every connection is closed, and every new one at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            *state = State {
                mode: Mode::Cut,
                cuts: state.cuts + 1,
                ..*state
            }
        });
    }

    /// Whoever reads in this direction reads the end of it; the other direction goes on.
    pub fn half_close(&self, reader: Half) {
        self.state
            .send_modify(|state| state.halves[reader as usize] += 1);
    }

    /// From now on an error ends its session, as a FATAL of the server does: with CREATE EXTENSION
    /// of a library that has to be preloaded, for example. No other SQL makes one on every version.
    pub fn make_errors_fatal(&self, fatal: bool) {
        self.state.send_modify(|state| state.fatal = fatal);
    }

    pub fn open(&self) {
        self.state.send_modify(|state| state.mode = Mode::Open);
    }

    pub fn round_trips(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }
}

async fn carry<S>(
    client: TcpStream,
    server: S,
    mut states: watch::Receiver<State>,
    turns: Arc<AtomicUsize>,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let born = states.borrow().cuts;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = tokio::io::split(server);
    // 0: the server spoke last, 1: the client did.
    let last = Arc::new(AtomicUsize::new(0));
    let up = pump(client_reads, server_writes, states.clone(), Half::Server, {
        let last = last.clone();
        move || {
            if last.swap(1, Ordering::SeqCst) == 0 {
                turns.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let down = pump(
        server_reads,
        client_writes,
        states.clone(),
        Half::Client,
        move || last.store(0, Ordering::SeqCst),
    );
    let both = async {
        let (mut up, mut down) = (std::pin::pin!(up), std::pin::pin!(down));
        tokio::select! {
            pumped = &mut up => if pumped == Pumped::Halved { down.await; },
            pumped = &mut down => if pumped == Pumped::Halved { up.await; },
        }
    };
    tokio::select! {
        () = both => {}
        _ = states.wait_for(|state| state.mode == Mode::Cut || state.cuts != born) => {}
    }
}

/// Why a direction ended.
#[derive(PartialEq, Eq)]
enum Pumped {
    Ended,
    Halved,
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut states: watch::Receiver<State>,
    reader: Half,
    passed: impl Fn(),
) -> Pumped {
    let State {
        cuts: born, halves, ..
    } = *states.borrow();
    let mut halved = states.clone();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let read = tokio::select! {
            read = from.read(&mut buffer) => read,
            () = async { drop(halved.wait_for(|state| state.halves[reader as usize] != halves[reader as usize]).await) } => {
                let _ = to.shutdown().await;
                return Pumped::Halved;
            }
        };
        let Ok(read @ 1..) = read else {
            return Pumped::Ended;
        };
        // What was held back when the connection is cut is lost.
        match states
            .wait_for(|state| state.mode != Mode::Stalled || state.cuts != born)
            .await
        {
            Ok(state) if state.mode == Mode::Open && state.cuts == born => {}
            _ => return Pumped::Ended,
        }
        passed();
        if reader == Half::Client
            && states.borrow().fatal
            && let Some(end) = last_word(&mut buffer[..read])
        {
            let _ = to.write_all(&buffer[..end]).await;
            let _ = to.shutdown().await;
            return Pumped::Ended;
        }
        if to.write_all(&buffer[..read]).await.is_err() {
            return Pumped::Ended;
        }
    }
}

/// Makes the first ErrorResponse in these bytes a FATAL one. Returns where it ends.
fn last_word(bytes: &mut [u8]) -> Option<usize> {
    const ERROR: &[u8] = b"SERROR\0VERROR\0";
    let at = bytes
        .windows(ERROR.len())
        .position(|window| window == ERROR)?;
    bytes[at..at + ERROR.len()].copy_from_slice(b"SFATAL\0VFATAL\0");
    let length = u32::from_be_bytes(bytes[at.checked_sub(4)?..at].try_into().ok()?);
    Some((at - 4 + usize::try_from(length).ok()?).min(bytes.len()))
}
