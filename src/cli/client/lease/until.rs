//! When a lease without a command is over: on Ctrl-C, SIGTERM, or the end of stdin.

use std::{io::Read as _, os::fd::AsFd as _};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::cli::exit::CommandExit;

/// Returns when it is over.
pub(crate) async fn told() -> Result<CommandExit, CommandExit> {
    let heard = |error| CommandExit::unknown(format!("cannot wait for signals: {error}"));
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt()).map_err(heard)?,
        signal(SignalKind::terminate()).map_err(heard)?,
    );
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
        () = stdin_ends() => {}
    }
    Ok(CommandExit::DONE)
}

/// A pipe's end is the end of whoever holds the other one, also when that is killed. Of a terminal
/// nothing is read, and a script's background jobs have /dev/null, which ends at once and means
/// nothing.
async fn stdin_ends() {
    let is_pipe = nix::sys::stat::fstat(std::io::stdin().as_fd()).is_ok_and(|stat| {
        use nix::sys::stat::SFlag;
        let kind = SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT;
        kind == SFlag::S_IFIFO || kind == SFlag::S_IFSOCK
    });
    let (sender, ended) = oneshot::channel::<()>();
    if is_pipe {
        // A thread, because a read cannot be given up; it ends with the process.
        std::thread::spawn(move || {
            let mut stdin = std::io::stdin().lock();
            while stdin.read(&mut [0; 1024]).is_ok_and(|bytes| bytes > 0) {}
            drop(sender);
        });
        let _ = ended.await;
    } else {
        std::future::pending::<()>().await;
    }
}
