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

pub struct Proxy {
    pub url: String,
    mode: watch::Sender<Mode>,
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
        let (mode, modes) = watch::channel(Mode::Open);
        let turns = Arc::new(AtomicUsize::new(0));
        let counter = turns.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (config, modes, counter) = (config.clone(), modes.clone(), counter.clone());
                tokio::spawn(async move {
                    let port = config.get_ports().first().copied().unwrap_or(5432);
                    match &config.get_hosts()[0] {
                        Host::Unix(dir) => {
                            let server = UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await.unwrap();
                            carry(client, server, modes, counter).await;
                        }
                        Host::Tcp(host) => {
                            let server = TcpStream::connect((host.as_str(), port)).await.unwrap();
                            carry(client, server, modes, counter).await;
                        }
                    }
                });
            }
        });
        Self { url, mode, turns }
    }

    /// Nothing passes any more, and nobody is told.
    pub fn stall(&self) {
        self.mode.send_replace(Mode::Stalled);
    }

    /// Every connection is closed, and every new one at once.
    pub fn cut(&self) {
        self.mode.send_replace(Mode::Cut);
    }

    pub fn open(&self) {
        self.mode.send_replace(Mode::Open);
    }

    pub fn round_trips(&self) -> usize {
        self.turns.load(Ordering::SeqCst)
    }
}

async fn carry<S>(client: TcpStream, server: S, mut modes: watch::Receiver<Mode>, turns: Arc<AtomicUsize>)
where
    S: AsyncRead + AsyncWrite + Send + 'static,
{
    let (client_reads, client_writes) = client.into_split();
    let (server_reads, server_writes) = tokio::io::split(server);
    // 0: the server spoke last, 1: the client did.
    let last = Arc::new(AtomicUsize::new(0));
    let up = pump(client_reads, server_writes, modes.clone(), {
        let last = last.clone();
        move || {
            if last.swap(1, Ordering::SeqCst) == 0 {
                turns.fetch_add(1, Ordering::SeqCst);
            }
        }
    });
    let down = pump(server_reads, client_writes, modes.clone(), move || last.store(0, Ordering::SeqCst));
    tokio::select! {
        () = up => {}
        () = down => {}
        _ = modes.wait_for(|mode| *mode == Mode::Cut) => {}
    }
}

async fn pump(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut modes: watch::Receiver<Mode>,
    passed: impl Fn(),
) {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        // What was held back when the connection is cut is lost.
        if !matches!(modes.wait_for(|mode| *mode != Mode::Stalled).await.as_deref(), Ok(Mode::Open)) {
            return;
        }
        passed();
        if to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
