//! The folder that a set was read from. It is read once, so a change there is for the next start, and has to be told: whoever adds a
//! migration to the folder of a daemon that runs is answered "nothing to do".

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use diesel_migrations::FileBasedMigrations;

use super::Catalog;
use crate::migration::{Checksum, Version};

/// How many migrations a sentence names.
const NAMED: usize = 3;

/// When each file was written last, and its length; `None` for a folder that cannot be read.
type Looks = Option<BTreeMap<PathBuf, (SystemTime, u64)>>;

/// Where a set comes from, and what it was like when it was read.
#[derive(Debug)]
pub struct Origin {
    dir: PathBuf,
    read: BTreeMap<Version, Migrated>,
    /// What was found last, for the same looks of the folder.
    last: Mutex<(Looks, Option<String>)>,
}

/// What a digest knows of a migration, and its name.
#[derive(Debug, PartialEq, Eq)]
struct Migrated {
    name: String,
    scripts: Checksum,
}

impl Origin {
    /// Of the set that was just read from `dir`.
    pub fn new(dir: &Path, catalog: &Catalog) -> Self {
        Self { dir: dir.to_path_buf(), read: contents(catalog), last: Mutex::new((looks(dir), None)) }
    }

    /// What is different in the folder now, as a sentence, and what to do. Reads files only when one of them looks changed, on a thread that
    /// may block.
    pub async fn change(self: &Arc<Self>) -> Option<String> {
        let origin = self.clone();
        tokio::task::spawn_blocking(move || origin.look()).await.ok().flatten()
    }

    fn look(&self) -> Option<String> {
        let now = looks(&self.dir);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if last.0 != now {
            *last = (now, self.difference());
        }
        last.1.clone()
    }

    fn difference(&self) -> Option<String> {
        let found = FileBasedMigrations::from_path(&self.dir).map_err(|error| error.to_string());
        let loaded = found.and_then(|found| Catalog::load(&found).map_err(|error| error.to_string()));
        let what = match loaded {
            Err(error) => format!("which cannot be used as they are ({error})"),
            Ok(catalog) => {
                let now = contents(&catalog);
                let without = |these: &BTreeMap<Version, Migrated>, those: &BTreeMap<Version, Migrated>| {
                    these
                        .iter()
                        .filter(|(version, _)| !those.contains_key(*version))
                        .map(|(_, m)| m.name.clone())
                        .collect()
                };
                let changed = now.iter().filter(|(version, migrated)| {
                    self.read.get(*version).is_some_and(|read| read.scripts != migrated.scripts)
                });
                let kinds: [(&str, Vec<String>); 3] = [
                    ("new", without(&now, &self.read)),
                    ("changed", changed.map(|(_, migrated)| migrated.name.clone()).collect()),
                    ("gone", without(&self.read, &now)),
                ];
                let told: Vec<String> = kinds
                    .iter()
                    .filter(|(_, names)| !names.is_empty())
                    .map(|(kind, names)| named(kind, names))
                    .collect();
                if told.is_empty() {
                    return None;
                }
                told.join("; ")
            }
        };
        Some(format!(
            "the migrations in {} are others than when this daemon read them, {what}. It goes on with those that it read; start it again to \
             have it use the folder as it is now",
            self.dir.display()
        ))
    }
}

fn named(kind: &str, names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    format!("{kind}: {}{more}", names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", "))
}

fn contents(catalog: &Catalog) -> BTreeMap<Version, Migrated> {
    let of = |m: &crate::migration::Migration| Migrated { name: m.name.clone(), scripts: super::digest([m]) };
    catalog.iter().map(|m| (m.version.clone(), of(m))).collect()
}

/// Of the files in the folders of `dir`, where migrations are.
fn looks(dir: &Path) -> Looks {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        for file in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            // Through symbolic links: a ConfigMap's files are such.
            if let Ok(metadata) = fs::metadata(file.path()) {
                found.insert(file.path(), (metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len()));
            }
        }
    }
    Some(found)
}
