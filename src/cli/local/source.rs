//! Which migrations a daemon carries: those that were compiled in, or those of a folder, read once
//! when it starts.

use std::path::{Component, Path, PathBuf};

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};
use diesel_migrations::FileBasedMigrations;

use crate::cli::{env_file, exit::CommandExit};
use crate::migration::{
    Checksum,
    folder::{self, Finding},
    set::MigrationSet,
};

/// The digest of the migrations in schemad's own repository. Whoever installs schemad as it is has
/// them compiled in.
const EXAMPLE: &str = "sha256:5e8175f5d869b50fedab832cf7dc37483b6dc259a50228a2eeb885662a605dc7";

#[derive(Debug, Args)]
pub(crate) struct FolderArgs {
    /// A folder of migrations (NAME/up.sql and NAME/down.sql), instead of those that are compiled
    /// into this program. It is checked as the build checks its folder, and read once: what changes
    /// in it later changes nothing before the next start.
    #[arg(long, env = "SCHEMAD_DIR", value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Use schemad's example migrations, which are compiled into a schemad that was built as it is.
    /// Without this they are not applied to a database that DATABASE_URL names.
    #[arg(long, env = "SCHEMAD_EXAMPLE")]
    example: bool,
}

/// Where the migrations go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum MigrationDestination {
    /// A private database, or nowhere.
    Private,
    /// A database that somebody has named.
    Named,
}

impl FolderArgs {
    /// The migrations to carry: of the folder, if one is given, else `embedded`. What may be meant
    /// otherwise in a folder is logged.
    pub(crate) fn catalog(
        &self,
        embedded: &dyn MigrationSource<Pg>,
        destination: MigrationDestination,
    ) -> Result<MigrationSet, CommandExit> {
        let Some(dir) = named(self.dir.as_deref())? else {
            let catalog = MigrationSet::load(embedded).map_err(CommandExit::usage)?;
            return match destination {
                MigrationDestination::Named if !self.example => refuse_example(catalog),
                _ => Ok(catalog),
            };
        };
        let wrong = |what: &dyn std::fmt::Display| {
            CommandExit::usage(format!("--dir {}: {what}", dir.display()))
        };
        let findings = folder::check(dir);
        if !findings.is_empty() {
            let all: Vec<String> = findings
                .iter()
                .map(|finding| format!("\n  {finding}"))
                .collect();
            return Err(wrong(&format!(
                "these migrations cannot be used:{}",
                all.concat()
            )));
        }
        let found = FileBasedMigrations::from_path(dir).map_err(|error| wrong(&error))?;
        tracing::info!(event = "daemon.folder", dir = %dir.display(), "the migrations are those of \
            {}", dir.display());
        for remark in folder::remarks(dir) {
            tracing::warn!(event = "daemon.folder_remark", path = %remark.path.display(), "{remark}");
        }
        Ok(MigrationSet::load(&found)
            .map_err(|error| wrong(&error))?
            .read_from(dir))
    }

    /// Where `dev` keeps the database of these migrations: each folder has its own, for those of
    /// another project are in the way.
    pub(crate) fn project(&self) -> String {
        let Some(dir) = &self.dir else {
            return "dev".into();
        };
        let path = dir.canonicalize().unwrap_or_else(|_| dir.clone());
        let digest = Checksum::of_script(&path.to_string_lossy()).to_string();
        format!(
            "dev-{}",
            digest
                .trim_start_matches("sha256:")
                .chars()
                .take(12)
                .collect::<String>()
        )
    }

    /// What may be meant otherwise in the folder, for those who print instead of logging.
    pub(crate) fn remarks(&self) -> Vec<Finding> {
        self.dir.as_deref().map(folder::remarks).unwrap_or_default()
    }

    /// Where the migrations come from, in words.
    pub(crate) fn place(&self) -> String {
        match &self.dir {
            Some(dir) => format!("in the folder {}", dir.display()),
            None => "compiled in".into(),
        }
    }
}

/// The folder, unless a file `.env` names one that it may not.
pub(crate) fn named(dir: Option<&Path>) -> Result<Option<&Path>, CommandExit> {
    let Some(dir) = dir else { return Ok(None) };
    let is_beside = dir
        .components()
        .all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if env_file::sets("SCHEMAD_DIR") && !is_beside {
        return Err(CommandExit::usage(format!(
            "SCHEMAD_DIR in .env names {}: a file .env, which may have come with a checkout, names \
             only folders beside it. Give --dir, or set the variable in the environment",
            dir.display()
        )));
    }
    Ok(Some(dir))
}

/// These are schemad's own example, and nobody has asked for it.
pub(crate) fn is_example(catalog: &MigrationSet) -> bool {
    catalog.digest().to_string() == EXAMPLE
}

/// Refuses the example, which is in a schemad that was built as it is.
pub(crate) fn refuse_example(catalog: MigrationSet) -> Result<MigrationSet, CommandExit> {
    if !is_example(&catalog) {
        Ok(catalog)
    } else {
        Err(CommandExit::usage(
            "no migrations: this schemad was built as it is and carries its own example only. Give \
         the folder of yours with --dir or SCHEMAD_DIR; or, to try it out with the example, \
         --example",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_folder_has_a_database_of_its_own() {
        let place = tempfile::tempdir().unwrap();
        let project = |dir: Option<&str>| {
            let dir = dir.map(|name| place.path().join(name));
            dir.iter()
                .for_each(|dir| std::fs::create_dir_all(dir).unwrap());
            FolderArgs {
                dir,
                example: false,
            }
            .project()
        };
        assert_eq!(project(None), "dev");
        assert_eq!(project(Some("a")), project(Some("a/../a")));
        assert_ne!(project(Some("a")), project(Some("b")));
        assert!(project(Some("a")).starts_with("dev-") && project(Some("a")).len() == 16);
    }

    #[test]
    fn the_example_is_the_folder_of_this_repository() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("migrations");
        let catalog = MigrationSet::load(&FileBasedMigrations::from_path(folder).unwrap()).unwrap();
        assert!(is_example(&catalog), "{}", catalog.digest());
        assert_eq!(refuse_example(catalog).unwrap_err().code(), 2);
    }
}
