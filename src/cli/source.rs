//! Which migrations a daemon carries: those that were compiled in, or those of a folder, read once when it starts.

use std::path::{Component, PathBuf};

use clap::Args;
use diesel::{
    migration::{Migration, MigrationSource, Result},
    pg::Pg,
};
use diesel_migrations::FileBasedMigrations;

use super::{env_file, exit::Exit};
use crate::catalog::folder;

#[derive(Debug, Args)]
pub(super) struct Folder {
    /// A folder of migrations (NAME/up.sql and NAME/down.sql), instead of those that are compiled into this program. It is checked as
    /// the build checks its folder, and read once: what changes in it later changes nothing before the next start.
    #[arg(long, env = "SCHEMAD_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Folder {
    /// The migrations to carry: of the folder, if one is given, else `embedded`.
    pub(super) fn source<'a>(&self, embedded: &'a dyn MigrationSource<Pg>) -> std::result::Result<Source<'a>, Exit> {
        let Some(dir) = &self.dir else { return Ok(Source::Embedded(embedded)) };
        let wrong = |what: &dyn std::fmt::Display| Exit::usage(format!("--dir {}: {what}", dir.display()));
        let is_beside = dir.components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
        if env_file::sets("SCHEMAD_DIR") && !is_beside {
            return Err(Exit::usage(format!(
                "SCHEMAD_DIR in .env names {}: a file .env, which may have come with a checkout, names only folders beside it. Give --dir, or \
                 set the variable in the environment",
                dir.display()
            )));
        }
        let findings = folder::check(dir);
        if !findings.is_empty() {
            let all: Vec<String> = findings.iter().map(|finding| format!("\n  {finding}")).collect();
            return Err(wrong(&format!("these migrations cannot be used:{}", all.concat())));
        }
        let found = FileBasedMigrations::from_path(dir).map_err(|error| wrong(&error))?;
        tracing::info!(event = "daemon.folder", dir = %dir.display(), "the migrations are those of {}", dir.display());
        Ok(Source::Folder(found))
    }
}

/// Where migrations come from.
pub(super) enum Source<'a> {
    /// They are compiled in.
    Embedded(&'a dyn MigrationSource<Pg>),
    /// They lie in a folder.
    Folder(FileBasedMigrations),
}

impl MigrationSource<Pg> for Source<'_> {
    fn migrations(&self) -> Result<Vec<Box<dyn Migration<Pg>>>> {
        match self {
            Self::Embedded(embedded) => embedded.migrations(),
            Self::Folder(folder) => folder.migrations(),
        }
    }
}
