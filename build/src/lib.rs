//! For the `build.rs` of a binary that carries migrations: what Diesel would pass over in silence
//! fails the build, and a migration that is new or was changed is in the next binary.
//!
//! ```no_run
//! // build.rs
//! fn main() -> std::process::ExitCode {
//!     schemad_build::check("migrations")
//! }
//! ```

#![expect(clippy::print_stdout, reason = "so a build script talks to cargo")]

use std::{env, fmt::Write as _, path::Path, process::ExitCode};

pub mod folder;

/// Checks the folder `dir` of Diesel migrations (relative to the package, or absolute), and tells
/// cargo to build anew whenever anything in it changes: `embed_migrations!` does not, so without
/// this a binary lacks what was added since its last build.
///
/// Prints what is wrong, each with its file, and returns what `main` has to return: a failure where
/// anything is.
pub fn check(dir: impl AsRef<Path>) -> ExitCode {
    match embeddable(dir.as_ref()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(report) => {
            eprintln!("{report}");
            ExitCode::FAILURE
        }
    }
}

/// The same for a build script that does more.
///
/// # Errors
/// A report for people: everything that is wrong with the folder.
pub fn embeddable(dir: &Path) -> Result<(), String> {
    let root = env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo did not set CARGO_MANIFEST_DIR")?;
    let dir = Path::new(&root).join(dir);
    println!("cargo:rerun-if-changed={}", dir.display());
    let findings = folder::check(&dir);
    if findings.is_empty() {
        folder::remarks(&dir)
            .iter()
            .for_each(|remark| println!("cargo:warning={remark}"));
        return Ok(());
    }
    let mut report = format!("the migrations in {} cannot be embedded:\n", dir.display());
    for finding in findings {
        let _ = writeln!(report, "  {finding}"); // writing to a String cannot fail
    }
    Err(report)
}
