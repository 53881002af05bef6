//! The folder that a set was read from. It is read once, so a change there is for the next start,
//! and has to be told: whoever adds a migration to the folder of a daemon that runs is answered
//! "nothing to do".

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use diesel_migrations::FileBasedMigrations;

use crate::migration::set::MigrationSet;
use crate::migration::{Checksum, Version};

/// A sentence names at most this many migrations of each kind; the others are counted.
const NAMED: usize = 3;

/// The modification time and the length of each file. `None`: the folder cannot be read.
type FileStamps = Option<BTreeMap<PathBuf, (SystemTime, u64)>>;

/// The folder of a set, and the set as it was read from there.
#[derive(Debug)]
pub(crate) struct SourceFolder {
    dir: PathBuf,
    read: BTreeMap<Version, FolderEntry>,
    /// The last comparison: the stamps that it was made for, and its result. `None` before the
    /// first, because files may change between the reading of the set and the first look at their
    /// stamps.
    last: Mutex<Option<(FileStamps, Option<String>)>>,
}

/// One migration of a set: its folder's name, and the digest of its scripts and their mode.
#[derive(Debug, PartialEq, Eq)]
struct FolderEntry {
    name: String,
    scripts: Checksum,
}

impl SourceFolder {
    /// Remembers `catalog`, which was just read from `dir`.
    pub(crate) fn new(dir: &Path, catalog: &MigrationSet) -> Self {
        Self {
            dir: dir.to_path_buf(),
            read: contents(catalog),
            last: Mutex::new(None),
        }
    }

    /// Compares the folder with the set. Returns a sentence with the migrations that are new,
    /// changed or gone and what to do, `None` where nothing is different. Files are read only when
    /// their stamps have changed, on a thread that may block.
    pub(crate) async fn change(self: &Arc<Self>) -> Option<String> {
        let origin = self.clone();
        tokio::task::spawn_blocking(move || origin.look())
            .await
            .ok()
            .flatten()
    }

    fn look(&self) -> Option<String> {
        let now = stamps(&self.dir);
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, change)) = last.as_ref().filter(|(stamps, _)| *stamps == now) {
            return change.clone();
        }
        let change = self.difference();
        *last = Some((now, change.clone()));
        change
    }

    fn difference(&self) -> Option<String> {
        let found = FileBasedMigrations::from_path(&self.dir).map_err(|error| error.to_string());
        let loaded =
            found.and_then(|found| MigrationSet::load(&found).map_err(|error| error.to_string()));
        let what = match loaded {
            Err(error) => format!("which cannot be used as they are ({error})"),
            Ok(catalog) => {
                let now = contents(&catalog);
                let without =
                    |these: &BTreeMap<Version, FolderEntry>,
                     those: &BTreeMap<Version, FolderEntry>| {
                        these
                            .iter()
                            .filter(|(version, _)| !those.contains_key(*version))
                            .map(|(_, m)| m.name.clone())
                            .collect()
                    };
                let changed = now.iter().filter(|(version, entry)| {
                    self.read
                        .get(*version)
                        .is_some_and(|read| read.scripts != entry.scripts)
                });
                let kinds: [(&str, Vec<String>); 3] = [
                    ("new", without(&now, &self.read)),
                    (
                        "changed",
                        changed.map(|(_, entry)| entry.name.clone()).collect(),
                    ),
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
            "the migrations in {} are others than when this daemon read them, {what}. It goes on \
             with those that it read; start it again to have it use the folder as it is now",
            self.dir.display()
        ))
    }
}

fn named(kind: &str, names: &[String]) -> String {
    let more = names.len().saturating_sub(NAMED);
    let more = if more > 0 {
        format!(" and {more} more")
    } else {
        String::new()
    };
    format!(
        "{kind}: {}{more}",
        names
            .iter()
            .take(NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ")
    )
}

fn contents(catalog: &MigrationSet) -> BTreeMap<Version, FolderEntry> {
    let of = |m: &crate::migration::Migration| FolderEntry {
        name: m.name.clone(),
        scripts: crate::migration::set::digest([m]),
    };
    catalog.iter().map(|m| (m.version.clone(), of(m))).collect()
}

/// Reads the stamps of the files one folder below `dir`, where the scripts of migrations are.
fn stamps(dir: &Path) -> FileStamps {
    let mut found = BTreeMap::new();
    for entry in fs::read_dir(dir).ok()?.flatten() {
        for file in fs::read_dir(entry.path()).into_iter().flatten().flatten() {
            // Through symbolic links: a ConfigMap's files are such.
            if let Ok(metadata) = fs::metadata(file.path()) {
                found.insert(
                    file.path(),
                    (
                        metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH),
                        metadata.len(),
                    ),
                );
            }
        }
    }
    Some(found)
}
