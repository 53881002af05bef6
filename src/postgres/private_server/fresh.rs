//! A server that nobody has used before, in a fifth of a second: initdb's work is kept and copied.
//! What one rehearsal leaves in a cluster (roles, settings, tablespaces) must not meet the next.

use std::{
    fs,
    path::{Path, PathBuf},
};

use nix::unistd::User;

use super::{
    Durability, PrivatePostgres, PrivateServerError, command, failed, init, io_error, owned_dir,
    run_as,
};

/// Servers at a time.
const SLOTS: u32 = 64;

impl PrivatePostgres {
    /// Starts a server with a new cluster below `root`, where the cluster to copy and the folders
    /// in use lie. Its data are gone when the server is, or, after a kill, when the folder is used
    /// next. It loads the libraries of `preload` at its start. Blocks until it takes connections.
    ///
    /// # Errors
    /// [`PrivateServerError`]; [`PrivateServerError::InUse`] when there are too many at a time.
    pub fn start_fresh(
        programs: &Path,
        root: &Path,
        preload: &[String],
    ) -> Result<Self, PrivateServerError> {
        let user = run_as()?;
        fs::create_dir_all(root).map_err(|error| io_error(root, error))?;
        let pristine = pristine(programs, root, user.as_ref())?;
        for slot in 0..SLOTS {
            let dir = owned_dir(&root.join(format!("server-{slot}")), user.as_ref())?;
            let path = dir.join("lock");
            let lock = fs::File::create(&path).map_err(|error| io_error(&path, error))?;
            if lock.try_lock().is_err() {
                continue;
            }
            let data = dir.join("data");
            remove(&data)?;
            // Until the folder is as it was.
            let held = lock.try_clone().map_err(|error| io_error(&path, error))?;
            let started = copy(&pristine, &dir, user.as_ref()).and_then(|()| {
                Self::start_locked(
                    programs,
                    &dir,
                    lock,
                    Durability::Throwaway,
                    None,
                    preload,
                    user.as_ref(),
                )
            });
            match started {
                Ok(mut server) => {
                    server.discard = Some(data);
                    return Ok(server);
                }
                Err(error) => {
                    // A disk may be full; else whoever uses the folder next does it.
                    let _ = remove(&data);
                    drop(held);
                    return Err(error);
                }
            }
        }
        Err(PrivateServerError::InUse(root.into()))
    }
}

/// A cluster of these programs that no server has run on.
fn pristine(
    programs: &Path,
    root: &Path,
    user: Option<&User>,
) -> Result<PathBuf, PrivateServerError> {
    let digest = crate::migration::Checksum::of_script(&programs.to_string_lossy()).to_string();
    let dir = owned_dir(&root.join(format!("pristine-{}", &digest[7..23])), user)?;
    let _lock = super::lock(&dir)?;
    let data = dir.join("data");
    init(programs, &dir, &data, user)?;
    Ok(data)
}

fn copy(pristine: &Path, dir: &Path, user: Option<&User>) -> Result<(), PrivateServerError> {
    let mut cp = command(Path::new(""), "cp", dir, user);
    let output = cp
        .arg("-a")
        .arg(pristine)
        .arg("data")
        .output()
        .map_err(|error| io_error(pristine, error))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(failed("cp", dir, &output.stderr))
    }
}

/// Removes a folder that may not be there.
pub(super) fn remove(data: &Path) -> Result<(), PrivateServerError> {
    match fs::remove_dir_all(data) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(io_error(data, error)),
        _ => Ok(()),
    }
}
