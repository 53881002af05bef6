//! The whole program of schemad, with these migrations.

use diesel_migrations::{EmbeddedMigrations, embed_migrations};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!("migrations");

fn main() -> std::process::ExitCode {
    schemad::Daemon::builder().migrations(MIGRATIONS).main()
}
