//! The queue between a daemon and its stderr. Whoever logs puts a line into the queue, and a thread
//! of its own writes it. A reader that has stopped reading (a full pipe, a terminal stopped with
//! Ctrl-S, a stuck journal) holds up that thread and nothing else. Lines that find no room are
//! dropped and counted; the log says how many as soon as there is room again.
//!
//! tracing-appender's non-blocking writer does most of this, but it bounds lines and not bytes, and
//! its loss can be read by the program only.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, Write},
    os::fd::AsFd as _,
    sync::{Condvar, Mutex, MutexGuard, OnceLock, PoisonError, atomic::Ordering::Relaxed},
    thread,
    time::Duration,
};

use crate::telemetry::metrics::LOG_LINES_DROPPED;

/// Bytes that wait to be written: some 15,000 lines, which is more than a daemon logs while a slow
/// terminal catches up.
const ROOM: usize = 4 << 20;

/// How long the process waits at its end for the reader of its last lines.
const FLUSH_WITHIN: Duration = Duration::from_secs(1);

/// A stderr that does not block says that it is full; it is tried again after this pause.
const TRY_AGAIN: Duration = Duration::from_millis(10);

static QUEUE: OnceLock<LogQueue> = OnceLock::new();

/// Starts the queue of this process. From now on its stderr is written by a thread of its own,
/// panics included.
pub(crate) fn start() {
    // A stderr that was closed has nobody who could be told.
    let Ok(stderr) = io::stderr().as_fd().try_clone_to_owned() else {
        return;
    };
    if QUEUE.set(LogQueue::default()).is_err() {
        return;
    }
    let Some(queue) = QUEUE.get() else { return };
    let writer = thread::Builder::new()
        .name("log".into())
        .spawn(move || queue.write_to(File::from(stderr)));
    if writer.is_err() {
        queue.lock().has_ended = true;
        return;
    }
    std::panic::set_hook(Box::new(|panic| {
        let trace = std::backtrace::Backtrace::capture();
        let trace = match trace.status() {
            std::backtrace::BacktraceStatus::Captured => format!("\n{trace}"),
            _ => String::new(),
        };
        if tracing::dispatcher::has_been_set() {
            tracing::error!(
                event = "daemon.panicked",
                "a mistake in schemad: {panic}{trace}"
            );
        } else {
            queue.push(format!("a mistake in schemad: {panic}{trace}\n").into_bytes());
        }
    }));
}

/// The queue, where this process has one. The commands that are no daemon write to stderr
/// themselves.
pub(crate) fn of_this_process() -> Option<&'static LogQueue> {
    QUEUE.get().filter(|queue| !queue.lock().has_ended)
}

/// Waits until everything is written, but not for a reader that reads nothing.
pub(crate) fn flush() {
    if let Some(queue) = of_this_process() {
        queue.flush(FLUSH_WITHIN);
    }
}

/// Lines that wait to be written.
#[derive(Debug, Default)]
pub(crate) struct LogQueue {
    waiting: Mutex<QueuedLines>,
    came: Condvar,
    written: Condvar,
}

#[derive(Debug, Default)]
struct QueuedLines {
    lines: VecDeque<Vec<u8>>,
    /// Of all lines, and of the one that is being written.
    bytes: usize,
    /// Lines that found no room, and have not been reported yet.
    dropped: u64,
    /// Nobody writes any more.
    has_ended: bool,
}

impl LogQueue {
    /// Puts a line into the queue, with the line's end. Never waits for the reader.
    pub(crate) fn push(&self, line: Vec<u8>) {
        let mut waiting = self.lock();
        if waiting.bytes + line.len() > ROOM {
            waiting.dropped += 1;
            LOG_LINES_DROPPED.fetch_add(1, Relaxed);
            return;
        }
        waiting.bytes += line.len();
        waiting.lines.push_back(line);
        drop(waiting);
        self.came.notify_one();
    }

    /// Returns when everything is written, or after `within`.
    fn flush(&self, within: Duration) {
        let is_busy = |waiting: &mut QueuedLines| waiting.bytes > 0;
        drop(
            self.written
                .wait_timeout_while(self.lock(), within, is_busy),
        );
    }

    /// Writes the lines as they come; never returns.
    fn write_to(&self, mut to: impl Write) -> ! {
        loop {
            let line = self.next();
            write_patiently(&mut to, &line);
            let dropped = self.wrote(line.len());
            if dropped > 0 {
                // An error, so that it is said at every level.
                tracing::error!(
                    event = "log.lines_dropped",
                    count = dropped,
                    "{dropped} lines of the log were dropped before this one: nobody read them in \
                     time"
                );
            }
        }
    }

    fn next(&self) -> Vec<u8> {
        let mut waiting = self.lock();
        loop {
            match waiting.lines.pop_front() {
                Some(line) => return line,
                None => {
                    waiting = self
                        .came
                        .wait(waiting)
                        .unwrap_or_else(PoisonError::into_inner)
                }
            }
        }
    }

    /// A line of this length is written. Returns how many were dropped, once there is room to say
    /// so.
    fn wrote(&self, length: usize) -> u64 {
        let mut waiting = self.lock();
        waiting.bytes = waiting.bytes.saturating_sub(length);
        let has_room = waiting.bytes < ROOM / 2;
        let dropped = if has_room {
            std::mem::take(&mut waiting.dropped)
        } else {
            0
        };
        drop(waiting);
        self.written.notify_all();
        dropped
    }

    fn lock(&self) -> MutexGuard<'_, QueuedLines> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The formatter hands over whole lines.
impl Write for &LogQueue {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.push(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes all of it, waiting for the reader if need be. What cannot be written, because the reader
/// is gone, is lost.
fn write_patiently(to: &mut impl Write, mut line: &[u8]) {
    while !line.is_empty() {
        match to.write(line) {
            Ok(0) => return,
            Ok(written) => line = &line[written..],
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => thread::sleep(TRY_AGAIN),
            Err(_) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, mpsc};

    use super::*;

    /// Hands every write to a test, which decides when it is done.
    struct Slow(mpsc::SyncSender<Vec<u8>>);

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_does_not_read_costs_a_bounded_number_of_bytes_and_no_time() {
        let queue: &'static LogQueue = Box::leak(Box::default());
        let (sender, lines) = mpsc::sync_channel(0);
        thread::spawn(move || queue.write_to(Slow(sender)));
        let line = vec![b'x'; 100_000];
        for _ in 0..100 {
            queue.push(line.clone()); // would never return
        }
        assert!(queue.lock().bytes <= ROOM);
        assert_eq!(queue.lock().dropped, 100 - 41, "41 lines have room");
        queue.flush(Duration::from_millis(10)); // returns all the same
        let read: usize = lines.iter().take(41).map(|line| line.len()).sum();
        assert_eq!(read, 4_100_000);
        queue.flush(Duration::from_secs(30));
        assert_eq!(queue.lock().bytes, 0);
        assert_eq!(queue.lock().dropped, 0, "the loss was handed on");
    }

    #[test]
    fn a_writer_that_does_not_block_gets_the_whole_line() {
        struct Full(Arc<Mutex<Vec<u8>>>, bool);
        impl Write for Full {
            fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
                self.1 = !self.1;
                if self.1 {
                    return Err(io::ErrorKind::WouldBlock.into());
                }
                self.0.lock().unwrap().extend_from_slice(&bytes[..1]);
                Ok(1)
            }

            fn flush(&mut self) -> io::Result<()> {
                Ok(())
            }
        }
        let written = Arc::default();
        write_patiently(&mut Full(Arc::clone(&written), false), b"abc\n");
        assert_eq!(*written.lock().unwrap(), b"abc\n");
    }
}
