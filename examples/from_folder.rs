//! schemad around a folder that is read when the daemon starts, instead of compiled in: any Diesel
//! `MigrationSource` will do.
//!
//! ```sh
//! MIGRATIONS_DIR=migrations cargo run --example from_folder -- dev
//! ```

use std::process::ExitCode;

use diesel_migrations::FileBasedMigrations;

fn main() -> ExitCode {
    let dir = std::env::var_os("MIGRATIONS_DIR").unwrap_or_else(|| "migrations".into());
    match FileBasedMigrations::from_path(&dir) {
        Ok(migrations) => schemad::Daemon::builder().migrations(migrations).main(),
        Err(error) => {
            eprintln!("{}: {error}", dir.display());
            ExitCode::from(2)
        }
    }
}
