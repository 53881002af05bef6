//! Work whose time grows with the size of a script or of a schema, kept off the threads that answer
//! health checks.
//!
//! The runtime has two worker threads. Looking through a script of several megabytes, hashing it or
//! comparing two schemas of fifty thousand tables takes a good part of a second; on a worker
//! thread, two such tasks would keep every other call waiting.
//!
//! The functions that take long call this themselves (`sql`, `Checksum`, `DownSigner`, `schema`),
//! so that no caller can forget it.

use tokio::runtime::{Handle, RuntimeFlavor};

/// Inputs below so many bytes are worked on where the task is: handing the worker's other tasks
/// over costs more. About a millisecond's work.
const SMALL: usize = 64 << 10;

/// Runs `work`, which looks at `bytes` bytes or so. For large inputs the worker thread's other
/// tasks are handed to another thread first, so that only the calling task waits. The input may be
/// borrowed.
///
/// Where the runtime has only one thread, as in some tests, there is nobody to hand them to, and
/// the work is done in place.
pub(crate) fn in_place<T>(bytes: usize, work: impl FnOnce() -> T) -> T {
    let has_other_threads = Handle::try_current()
        .is_ok_and(|handle| handle.runtime_flavor() == RuntimeFlavor::MultiThread);
    if bytes < SMALL || !has_other_threads {
        return work();
    }
    #[cfg(test)]
    HANDED_OVER.with(|count| count.set(count.get() + 1));
    tokio::task::block_in_place(work)
}

#[cfg(test)]
thread_local! {
    /// The number of times that this thread has handed its tasks over.
    static HANDED_OVER: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// The number of times that this thread has handed its tasks over.
#[cfg(test)]
pub(crate) fn handed_over() -> usize {
    HANDED_OVER.with(std::cell::Cell::get)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn other_tasks_go_on_while_large_inputs_are_worked_on() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let (sender, receiver) = std::sync::mpsc::channel();
            // The only worker thread waits for what another task sends.
            let waits = tokio::spawn(async move {
                in_place(SMALL, || {
                    receiver.recv_timeout(Duration::from_secs(20)).is_ok()
                })
            });
            let begun = Instant::now();
            tokio::spawn(async move { sender.send(()) });
            assert!(
                waits.await.unwrap(),
                "the other task did not run for {:?}",
                begun.elapsed()
            );
        });
    }

    #[test]
    fn it_works_wherever_it_is_called() {
        assert_eq!(in_place(SMALL, || 1), 1);
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        assert_eq!(runtime.block_on(async { in_place(SMALL, || 2) }), 2);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        assert_eq!(runtime.block_on(async { in_place(SMALL, || 3) }), 3);
        let aside =
            runtime.block_on(async { tokio::task::spawn_blocking(|| in_place(SMALL, || 4)).await });
        assert_eq!(aside.unwrap(), 4);
    }
}
