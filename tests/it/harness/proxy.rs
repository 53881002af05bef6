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

/// The mode, and how often it was cut: a connection sees a cut even when it is opened again at once.
#[derive(Clone, Copy, Debug)]
struct State {
    mode: Mode,
    cuts: usize,
}

pub struct Proxy {
    pub url: String,
    state: watch::Sender<State>,
    /// Changes of direction from client to server: what a round trip begins with.
    turns: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn to(database: &TestDatabase) -> Self {
        let config: tokio_postgres::Config = database.url.parse().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let user = config.get_user().unwrap().to_owned();
        let password = config.get_password().map(|p| format!(":{}", String::from_utf8_lossy(p))).unwrap_or_default();
        let url = format!("postgres://{user}{password}@127.0.0.1:{port}/{}", database.name);
        let (state, states) = watch::channel(State { mode: Mode::Open, cuts: 0 });
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (config, states, counter) = (config.clone(), states.clone(), counter.clone());
                tokio::spawn(async move {
                    let port = config.get_ports().first().copied().unwrap_or(5432);
                    match &config.get_hosts()[0] {
                        Host::Unix(dir) => {
                            let server = UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await.unwrap();
                            carry(client, server, states, counter).await;
                        }
                        Host::Tcp(host) => {
                            let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                            carry(client, server, states, counter).await;
                        }
                    }
                });
            }
        });
        Self { url, state, turns }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn stall(&self) {
        self.state.send_modify(|state| state.mode = Mode::Stalled);
    }

    /// Every connection is closed, and every new one at once.
    pub fn cut(&self) {
        self.state.send_modify(|state| *state = State { mode: Mode::Cut, cuts: state.cuts + 1 });
    }

    pub fn open(&self) {
        self.state.send_modify(|state| state.mode = Mode::Open);
    }

    pub fn round_trips(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }
}

async fn carry<S>(client: TcpStream, server: S, mut states: watch::Receiver<State>, turns: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let born = states.borrow().cuts;
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = tokio::io::split(server);
    // 0: the server spoke last, 1: the client did.
    let last = Arc::new(AtomicUsize::new(0));
    let up = pump(client_reads, server_writes, states.clone(), {
        let last = last.clone();
        move || {
            if last.swap(1, Ordering::SeqCst) == 0 {
                turns.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let down = pump(server_reads, client_writes, states.clone(), move || last.store(0, Ordering::SeqCst));
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = states.wait_for(|state| state.mode == Mode::Cut || state.cuts != born) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut states: watch::Receiver<State>,
    passed: impl Fn(),
) {
    let born = states.borrow().cuts;
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        // What was held back when the connection is cut is lost.
        match states.wait_for(|state| state.mode != Mode::Stalled || state.cuts != born).await {
            Ok(state) if state.mode == Mode::Open && state.cuts == born => {}
            _ => return,
        }
        passed();
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
