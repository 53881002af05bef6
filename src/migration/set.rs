//! The set of migrations that a daemon carries: every migration of a Diesel `MigrationSource`, with
//! its SQL, checked before anything is served.

use std::{collections::BTreeMap, fmt, path::Path, sync::Arc};

use diesel::{
    migration::{Migration as DieselMigration, MigrationSource},
    pg::Pg,
};

use crate::{
    failure::{Failure, Reason},
    migration::{
        Checksum, Direction, Migration, Script, ScriptMode, Version, folder, origin, recorder,
        run_mode,
    },
    sql,
};

/// The migrations that a daemon carries, by version.
#[derive(Clone, Debug)]
pub struct MigrationSet {
    migrations: BTreeMap<Version, Migration>,
    unfit: BTreeMap<Version, Failure>,
    digest: Checksum,
    origin: Option<Arc<origin::SourceFolder>>,
}

/// Why a set is not served: everything that is wrong with it, not just the first thing.
#[derive(Debug, thiserror::Error)]
pub struct InvalidSet(Vec<String>);

impl InvalidSet {
    /// What is wrong, each on its own.
    pub fn problems(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for InvalidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the migrations cannot be served:")?;
        self.0
            .iter()
            .try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

impl MigrationSet {
    /// Reads any Diesel source: embedded, file-based or hand-made.
    ///
    /// # Errors
    /// [`InvalidSet`] names every migration that has an impossible or doubled version, an up
    /// without a statement, or that does more than send SQL.
    pub fn load(source: &dyn MigrationSource<Pg>) -> Result<Self, InvalidSet> {
        Self::load_with(source, |_, _| None)
    }

    /// The same, for a rehearsal: a migration whose scripts could never be served is one that
    /// fails, and the others are loaded.
    ///
    /// # Errors
    /// [`InvalidSet`] where versions are impossible or doubled.
    pub fn load_to_rehearse(source: &dyn MigrationSource<Pg>) -> Result<Self, InvalidSet> {
        Self::load_with(source, |migration, problem| {
            let version: Version = migration.name().version().to_string().parse().ok()?;
            let name = migration.name().to_string();
            let failure = Failure::new(Reason::InvalidMigration, format!("{name}: {problem}"));
            let up = Script::new(
                recorder::up(migration).unwrap_or_default().as_str(),
                ScriptMode::Transactional,
            );
            let failure = failure
                .with("version", &version)
                .with("file", Direction::Up.file(&name));
            Some((
                Migration {
                    version,
                    name,
                    up,
                    down: None,
                },
                failure,
            ))
        })
    }

    /// `rescue` says what becomes of a migration with a problem.
    fn load_with(
        source: &dyn MigrationSource<Pg>,
        rescue: impl Fn(&dyn DieselMigration<Pg>, &str) -> Option<(Migration, Failure)>,
    ) -> Result<Self, InvalidSet> {
        let loaded = source
            .migrations()
            .map_err(|e| InvalidSet(vec![format!("the source cannot be read: {e}")]))?;
        let mut problems = Vec::new();
        let mut migrations: BTreeMap<Version, Migration> = BTreeMap::new();
        let mut rescued: BTreeMap<Version, Failure> = BTreeMap::new();
        let mut named: BTreeMap<Version, Vec<String>> = BTreeMap::new();
        for migration in &loaded {
            let found = read(migration.as_ref()).or_else(|problem| {
                let (rescue, failure) = rescue(migration.as_ref(), &problem).ok_or(problem)?;
                rescued.insert(rescue.version.clone(), failure);
                Ok::<_, String>(rescue)
            });
            match found {
                Err(problem) => problems.push(format!("{}: {problem}", migration.name())),
                Ok(migration) => {
                    named
                        .entry(migration.version.clone())
                        .or_default()
                        .push(migration.name.clone());
                    migrations.insert(migration.version.clone(), migration);
                }
            }
        }
        problems.extend(named.iter().filter_map(|(version, names)| {
            let last = names.last().filter(|_| names.len() > 1)?;
            let mut sorted: Vec<&str> = names.iter().map(String::as_str).collect();
            sorted.sort_unstable();
            Some(folder::same_version(version.as_str(), &sorted, last))
        }));
        if problems.is_empty() {
            let unfit = |m: &Migration| {
                let fit = run_mode::parts(&m.name, &m.version, Direction::Up, &m.up)
                    .and_then(|_| run_mode::means_what_it_says(&m.name, &m.version, &m.up));
                Some((m.version.clone(), fit.err()?))
            };
            let unfit = migrations
                .values()
                .filter_map(unfit)
                .chain(rescued)
                .collect();
            Ok(Self {
                digest: digest(migrations.values()),
                migrations,
                unfit,
                origin: None,
            })
        } else {
            Err(InvalidSet(problems))
        }
    }

    /// Records that the set was read from the folder `dir`, so that [`Self::change`] can compare
    /// them.
    pub fn read_from(self, dir: &Path) -> Self {
        Self {
            origin: Some(Arc::new(origin::SourceFolder::new(dir, &self))),
            ..self
        }
    }

    /// Compares the set with the folder that it was read from. Returns a sentence for people,
    /// `None` where nothing is different or the set is from no folder.
    pub async fn change(&self) -> Option<String> {
        self.origin.as_ref()?.change().await
    }

    /// The migrations in version order.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = &Migration> {
        self.migrations.values()
    }

    /// The migration with this version.
    pub fn get(&self, version: &Version) -> Option<&Migration> {
        self.migrations.get(version)
    }

    /// Why this migration's up cannot run, if it cannot.
    pub fn unfit(&self, version: &Version) -> Option<&Failure> {
        self.unfit.get(version)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.migrations.len()
    }

    /// True for a set without migrations.
    pub fn is_empty(&self) -> bool {
        self.migrations.is_empty()
    }

    /// Changes when any version, script or mode of the set does.
    pub fn digest(&self) -> Checksum {
        self.digest
    }
}

pub(super) fn digest<'a>(migrations: impl IntoIterator<Item = &'a Migration>) -> Checksum {
    let parts: Vec<String> = migrations
        .into_iter()
        .flat_map(|m| {
            let script = |s: &Script| format!("{} {}", s.checksum, s.mode.as_str());
            [
                m.version.to_string(),
                script(&m.up),
                m.down.as_ref().map_or_else(|| "none".into(), script),
            ]
        })
        .collect();
    Checksum::of_parts("schemad.set.1", parts.iter().map(String::as_str))
}

/// A source tells no more of a file than this.
fn unreadable(direction: &str, cause: &str) -> String {
    if cause.contains("empty migration") {
        return format!("its {direction} has no statement");
    }
    let cure = if cause.contains("UTF-8") {
        ": save it as UTF-8, for example with iconv -f latin1 -t utf-8; `iconv -f utf-8 \
         up.sql` stops where it is none"
    } else {
        ""
    };
    format!(
        "its {direction} cannot be read: {cause}{}",
        cure.replace("up.sql", &format!("{direction}.sql"))
    )
}

fn read(migration: &dyn DieselMigration<Pg>) -> Result<Migration, String> {
    let version = migration.name().version().to_string();
    if let Some(problem) = folder::name_problem(&version) {
        return Err(problem);
    }
    let version: Version = version
        .parse()
        .map_err(|e: crate::migration::InvalidVersion| e.to_string())?;
    let one = migration.metadata().run_in_transaction();
    let mode = |sql: &str| {
        if one && !sql::has_own_transactions(sql) {
            ScriptMode::Transactional
        } else {
            ScriptMode::NonTransactional
        }
    };
    let up = recorder::up(migration).map_err(|e| unreadable("up", &e.to_string()))?;
    if folder::is_blank(&up) {
        return Err("its up holds no statement".into());
    }
    // The template that diesel_cli writes is a comment. Running it would call the migration
    // reverted with nothing undone.
    let down = recorder::down(migration)
        .map_err(|e| unreadable("down", &e.to_string()))?
        .filter(|sql| !folder::is_blank(sql));
    for (direction, sql) in [("up", Some(&up)), ("down", down.as_ref())] {
        if let Some(problem) = sql.and_then(|s| folder::script_problem(s)) {
            return Err(format!("its {direction} {problem}"));
        }
        if let Some(problem) = sql.and_then(|s| sql::settings(s).err()) {
            return Err(format!("{direction}.sql: {problem}"));
        }
    }
    Ok(Migration {
        version,
        name: migration.name().to_string(),
        up: Script::new(up.as_str(), mode(&up)),
        down: down.map(|sql| Script::new(sql.as_str(), mode(&sql))),
    })
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use diesel::connection::BoxableConnection;
    use diesel::migration::{MigrationMetadata, MigrationName, MigrationVersion};

    /// A migration written in Rust: version, ups (each sent on its own), down.
    #[derive(Clone)]
    pub(crate) struct Hand(
        pub &'static str,
        pub Vec<&'static str>,
        pub Option<&'static str>,
    );
    struct Name(&'static str);
    struct InTransaction;

    impl fmt::Display for Name {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str(self.0)
        }
    }
    impl MigrationName for Name {
        fn version(&self) -> MigrationVersion<'_> {
            folder::version_of(self.0).into()
        }
    }
    impl MigrationMetadata for InTransaction {}
    struct Leaked(Hand, Name);
    impl DieselMigration<Pg> for Leaked {
        fn run(&self, conn: &mut dyn BoxableConnection<Pg>) -> diesel::migration::Result<()> {
            self.0
                .1
                .iter()
                .try_for_each(|sql| conn.batch_execute(sql))
                .map_err(Into::into)
        }
        fn revert(&self, conn: &mut dyn BoxableConnection<Pg>) -> diesel::migration::Result<()> {
            match self.0.2 {
                Some(sql) => Ok(conn.batch_execute(sql)?),
                None => Err(diesel_migrations::MigrationError::NoMigrationRevertFile.into()),
            }
        }
        fn metadata(&self) -> &dyn MigrationMetadata {
            &InTransaction
        }
        fn name(&self) -> &dyn MigrationName {
            &self.1
        }
    }
    pub(crate) struct Source(pub Vec<Hand>);
    impl MigrationSource<Pg> for Source {
        fn migrations(&self) -> diesel::migration::Result<Vec<Box<dyn DieselMigration<Pg>>>> {
            Ok(self
                .0
                .iter()
                .map(|h| Box::new(Leaked(h.clone(), Name(h.0))) as Box<dyn DieselMigration<Pg>>)
                .collect())
        }
    }

    #[test]
    fn the_sql_of_any_source_is_read_and_statements_stay_apart() {
        let catalog = MigrationSet::load(&Source(vec![
            Hand("2_b", vec!["SELECT 2 -- two", "SELECT 3"], None),
            Hand("1_a", vec!["SELECT 1"], Some("SELECT -1")),
        ]))
        .unwrap();
        let all: Vec<_> = catalog
            .iter()
            .map(|m| (m.version.as_str(), &*m.up.sql, m.down.is_some()))
            .collect();
        assert_eq!(
            all,
            [
                ("1", "SELECT 1", true),
                ("2", "SELECT 2 -- two\n;\nSELECT 3", false)
            ]
        );
    }

    #[test]
    fn a_down_without_a_statement_is_no_down() {
        let catalog = MigrationSet::load(&Source(vec![Hand(
            "1_a",
            vec!["SELECT 1"],
            Some("-- This file should undo anything in `up.sql`"),
        )]))
        .unwrap();
        assert!(catalog.iter().next().unwrap().down.is_none());
    }

    #[test]
    fn a_bad_set_is_refused_with_every_reason() {
        let error = MigrationSet::load(&Source(vec![
            Hand("1_a", vec!["SELECT 1"], None),
            Hand("1_b", vec!["SELECT 1"], None),
            Hand("_none", vec!["SELECT 1"], None),
            Hand("2_blank", vec!["-- nothing"], None),
            Hand("3_nul", vec!["SELECT '\0'"], None),
            Hand("4_bom", vec!["SELECT 1"], Some("\u{feff}SELECT 1")),
        ]))
        .unwrap_err();
        insta::assert_snapshot!(error);
    }

    #[test]
    fn the_digest_sees_every_part_of_a_set() {
        let set = |h: Vec<Hand>| MigrationSet::load(&Source(h)).unwrap().digest();
        let base = set(vec![Hand("1_a", vec!["SELECT 1"], Some("SELECT 2"))]);
        assert_eq!(
            base,
            set(vec![Hand(
                "1_other_name",
                vec!["SELECT 1"],
                Some("SELECT 2")
            )])
        );
        assert_ne!(
            base,
            set(vec![Hand("2_a", vec!["SELECT 1"], Some("SELECT 2"))])
        );
        assert_ne!(
            base,
            set(vec![Hand("1_a", vec!["SELECT 9"], Some("SELECT 2"))])
        );
        assert_ne!(
            base,
            set(vec![Hand("1_a", vec!["SELECT 1"], Some("SELECT 9"))])
        );
        assert_ne!(base, set(vec![Hand("1_a", vec!["SELECT 1"], None)]));
        assert_ne!(base, set(vec![]));
    }
}
