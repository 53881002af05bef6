//! The clean state, made again when a rehearsal has spoilt it: a copy of a database that was put aside, and the ups since then.
//! Nothing is put aside before it is needed, so a set whose downs all restore is rehearsed in one database.

use super::stage::{Stage, Stop};
use crate::{
    db::Error,
    failure::{Failure, Reason},
    ledger::install,
    migration::{Direction, Migration},
    runner::Orders,
    scratch::{Name, Scratch, Template},
    sql::ident,
};

/// So many ups are run again; after more, and after the first time, the result is put aside. An up takes some milliseconds, a copy
/// some tens.
const CADENCE: usize = 4;

/// Makes working databases in the clean state.
pub(super) struct Clean<'a> {
    scratch: &'a mut Scratch,
    role: Option<&'a str>,
    /// The database that was put aside; none: an empty one.
    aside: Option<Name>,
    /// What was applied since.
    since: Vec<&'a Migration>,
    /// Given up, and to be dropped when their sessions are gone.
    given_up: Vec<Name>,
}

impl<'a> Clean<'a> {
    /// Begins with an empty database.
    pub fn new(scratch: &'a mut Scratch, role: Option<&'a str>) -> Self {
        Self { scratch, role, aside: None, since: Vec::new(), given_up: Vec::new() }
    }

    /// A migration was applied to the clean state.
    pub fn passed(&mut self, migration: &'a Migration) {
        self.since.push(migration);
    }

    /// Drops a database, by and by.
    pub fn give_up(&mut self, stage: Stage) {
        self.given_up.push(stage.name);
    }

    /// Puts the clean state aside, which `stage` is in.
    pub async fn keep(&mut self, stage: &mut Stage) -> Result<(), Failure> {
        stage.look_away();
        let copy = self.scratch.create_on(stage.session().client(), Template::Copy(&stage.name.to_string())).await?;
        self.given_up.extend(self.aside.replace(copy));
        self.since.clear();
        Ok(())
    }

    /// A database in the clean state.
    pub async fn stage(&mut self, orders: &Orders) -> Result<Stage, Failure> {
        for name in std::mem::take(&mut self.given_up) {
            self.scratch.remove(&name).await?;
        }
        let mut stage = match self.aside {
            Some(aside) => {
                let name = self.scratch.create(Template::Copy(&aside.to_string())).await?;
                Stage::open(self.scratch, name, self.role).await?
            }
            None => self.empty().await?,
        };
        for migration in &self.since {
            let ran = stage.run(migration, Direction::Up, &migration.up, orders).await;
            ran.map_err(|stop| cannot_be_made_again(stop, migration))?;
        }
        if self.since.len() > CADENCE || self.aside.is_none() && !self.since.is_empty() {
            self.keep(&mut stage).await?;
        }
        Ok(stage)
    }

    /// An empty database with a ledger, in which scripts find what they find in the real one: their role's rights, and the schema that
    /// the search_path names first.
    async fn empty(&mut self) -> Result<Stage, Failure> {
        let name = self.scratch.create(Template::Empty).await?;
        let stage = Stage::open(self.scratch, name, self.role).await?;
        let client = stage.session().client();
        let missing = "SELECT format('CREATE SCHEMA IF NOT EXISTS %I', btrim(p, ' \"')) \
            FROM unnest(string_to_array(current_setting('search_path'), ',')) p \
            WHERE current_schema() IS NULL AND btrim(p, ' \"') <> '$user' LIMIT 1";
        let rows = client.query_typed(missing, &[]).await.map_err(Error::from)?;
        for row in &rows {
            client.batch_execute(row.get(0)).await.map_err(Error::from)?;
        }
        if let Some(role) = self.role.map(ident) {
            let grant = format!("GRANT ALL ON DATABASE {name} TO {role}; GRANT ALL ON SCHEMA public TO {role}");
            client.batch_execute(&grant).await.map_err(Error::from)?;
        }
        install::ensure(stage.session()).await?;
        Ok(stage)
    }
}

/// What ran once on an empty server does not run a second time beside it.
fn cannot_be_made_again(stop: Stop, migration: &Migration) -> Failure {
    match stop {
        Stop::Ended(failure) => *failure,
        Stop::Failed(failure) | Stop::Lost(failure) => {
            let message = format!(
                "{} ran once and does not run a second time in another database of the same server, so the state before the next \
                 migration cannot be made again: {}. Does it reach outside its database?",
                Direction::Up.file(&migration.name),
                failure.message
            );
            Failure { reason: Reason::RehearsalStuck, message, ..*failure }
        }
    }
}
