//! A folder of migrations.

use std::{fs, path::Path};

use diesel_migrations::FileBasedMigrations;

pub struct Set(tempfile::TempDir);

impl Set {
    /// Of (folder name, up, down); an empty down means no down.sql.
    pub fn of(migrations: &[(&str, &str, &str)]) -> Self {
        let set = Self(tempfile::tempdir().unwrap());
        for (name, up, down) in migrations {
            set.add(name, up, down);
        }
        // The daemon's process may run as somebody else.
        set
    }

    /// `n` tables t1, t2, …, each with its down.
    pub fn tables(n: usize) -> Self {
        let set = Self(tempfile::tempdir().unwrap());
        for i in 1..=n {
            set.add(
                &format!("{i:04}_t{i}"),
                &format!("CREATE TABLE t{i} (id int);"),
                &format!("DROP TABLE t{i};"),
            );
        }
        set
    }

    pub fn add(&self, name: &str, up: &str, down: &str) {
        let dir = self.0.path().join(name);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("up.sql"), up).unwrap();
        if !down.is_empty() {
            fs::write(dir.join("down.sql"), down).unwrap();
        }
    }

    /// A migration that is not one transaction.
    pub fn add_non_transactional(&self, name: &str, up: &str, down: &str) {
        self.add(name, up, down);
        fs::write(
            self.0.path().join(name).join("metadata.toml"),
            "run_in_transaction = false",
        )
        .unwrap();
    }

    pub fn path(&self) -> &Path {
        self.0.path()
    }

    pub fn source(&self) -> FileBasedMigrations {
        FileBasedMigrations::from_path(self.path()).unwrap()
    }
}
