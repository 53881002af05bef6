//! A child that does not outlive its parent, however that ends. The one unsafe module: only a call
//! between fork and exec can ask the kernel for a signal at the parent's death.

use std::{
    fs::File,
    io,
    os::unix::process::CommandExt as _,
    process::{Child, Command},
    sync::mpsc,
};

use nix::{
    fcntl::{FcntlArg, FdFlag, fcntl},
    unistd::{getpid, getppid},
};

/// The child gets SIGINT (PostgreSQL's fast shutdown) when the thread that forked it ends, and
/// keeps the lock open.
pub(super) fn die_with_parent(command: &mut Command, lock: &File) -> io::Result<()> {
    // A descriptor of the command's own, so that it is open whenever the closure runs.
    let (lock, parent) = (lock.try_clone()?, getpid());
    let before_exec = move || {
        // std changes the user before this runs, which is as well: a change of user clears the
        // death signal.
        #[cfg(target_os = "linux")]
        nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGINT)?;
        if getppid() != parent {
            return Err(nix::errno::Errno::ESRCH.into());
        }
        fcntl(&lock, FcntlArg::F_SETFD(FdFlag::empty()))?;
        Ok(())
    };
    // SAFETY: between fork and exec it only makes async-signal-safe system calls and allocates
    // nothing.
    unsafe {
        command.pre_exec(before_exec);
    }
    Ok(())
}

/// Forks from a thread that lives as long as the returned sender.
pub(super) fn spawn(mut command: Command) -> io::Result<(Child, mpsc::Sender<()>)> {
    let (alive, until_dropped) = mpsc::channel::<()>();
    let (result, spawned) = mpsc::channel();
    std::thread::Builder::new()
        .name("postgres-parent".into())
        .spawn(move || {
            let child = command.spawn();
            drop(command); // and with it its descriptor of the lock
            let _ = result.send(child);
            let _ = until_dropped.recv(); // ends when the sender is dropped
        })?;
    let child = spawned.recv().map_err(io::Error::other)??;
    Ok((child, alive))
}
