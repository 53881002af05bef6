//! The clean state, made again when a rehearsal has spoilt it: a copy of a database that was put
//! aside, and the ups since then. Nothing is put aside before it is needed, so a set in which a
//! rollback undoes what spoils is rehearsed in one database.

use std::collections::HashSet;

use tokio_postgres::types::Type;

use crate::rehearse::scratch_session::{AfterScript, ScratchSession, ScriptStop, concluded};
use crate::{
    failure::{Failure, Reason},
    ledger::install,
    migration::{Direction, Migration},
    postgres::{
        DatabaseError,
        scratch::{ScratchMaker, ScratchName, ScratchTemplate},
    },
    runner::RunControl,
    runtime::blocking,
    sql::ident,
};

/// So many ups are run again; after more, and after the first time, the result is put aside. An up
/// takes some milliseconds, a copy some tens.
const CADENCE: usize = 4;

/// The SQLSTATE of a DROP ROLE whose role owns something, or has rights on it.
const DEPENDENT_OBJECTS: &str = "2BP01";

/// Makes working databases in the clean state.
pub(super) struct Baseline<'a> {
    scratch: &'a mut ScratchMaker,
    role: Option<&'a str>,
    /// The database that was put aside; none: an empty one.
    aside: Option<ScratchName>,
    /// What was applied, in order.
    applied: Vec<&'a Migration>,
    /// So many of them are in what was put aside.
    kept: usize,
    /// What was put aside was dropped, because it was in the way.
    is_lost: bool,
    /// The server's roles at the beginning.
    roles: Vec<String>,
    /// Given up, and to be dropped when their sessions are gone.
    given_up: Vec<ScratchName>,
}

impl<'a> Baseline<'a> {
    /// Begins with an empty database.
    pub(super) async fn begin(
        scratch: &'a mut ScratchMaker,
        role: Option<&'a str>,
    ) -> Result<Self, Failure> {
        let roles = roles(scratch).await?;
        let (aside, applied, kept, is_lost, given_up) = (None, Vec::new(), 0, false, Vec::new());
        Ok(Self {
            scratch,
            role,
            aside,
            applied,
            kept,
            is_lost,
            roles,
            given_up,
        })
    }

    /// A migration was applied to the clean state.
    pub(super) fn passed(&mut self, migration: &'a Migration) {
        self.applied.push(migration);
    }

    /// Drops a database, by and by.
    pub(super) fn give_up(&mut self, stage: ScratchSession) {
        self.given_up.push(stage.name);
    }

    /// Puts the clean state aside, which `stage` is in.
    pub(super) async fn keep(&mut self, stage: &ScratchSession) -> Result<(), Failure> {
        let copy = self
            .scratch
            .put_aside(&stage.name, stage.session().client())
            .await?;
        self.given_up.extend(self.aside.replace(copy));
        (self.kept, self.is_lost) = (self.applied.len(), false);
        Ok(())
    }

    /// Drops every copy where one of them was in the script's way: a role that has rights in a copy
    /// cannot be dropped. True when the script can be run again.
    pub(super) async fn makes_way(
        &mut self,
        stage: &ScratchSession,
        failure: &Failure,
    ) -> Result<bool, Failure> {
        let text = |key: &str| failure.metadata.get(key).map_or("", |text| text);
        let mut names = self
            .scratch
            .databases()
            .iter()
            .filter(|name| **name != stage.name)
            .map(ScratchName::to_string);
        let is_in_the_way = text("sqlstate") == DEPENDENT_OBJECTS
            && names.any(|name| text("detail").contains(&name));
        if is_in_the_way {
            self.drop_copies(stage).await?;
        }
        Ok(is_in_the_way)
    }

    /// Drops every database but that one. Until the clean state is kept again it can be made only
    /// from nothing.
    pub(super) async fn drop_copies(&mut self, stage: &ScratchSession) -> Result<(), Failure> {
        let copies: Vec<ScratchName> = self
            .scratch
            .databases()
            .iter()
            .filter(|name| **name != stage.name)
            .copied()
            .collect();
        for name in &copies {
            self.scratch.remove(name).await?;
        }
        self.given_up.clear();
        if self.aside.take().is_some() {
            (self.kept, self.is_lost) = (0, true);
        }
        Ok(())
    }

    /// Keeps the clean state, which `stage` is in, when what was kept had to go.
    pub(super) async fn settle(&mut self, stage: &ScratchSession) -> Result<(), Failure> {
        if self.is_lost {
            self.keep(stage).await
        } else {
            Ok(())
        }
    }

    /// A database in the clean state in place of that one. Where it can be made only from nothing,
    /// the roles that migrations made go first, with everything that depends on them.
    pub(super) async fn instead_of(
        &mut self,
        stage: &ScratchSession,
        orders: &RunControl,
    ) -> Result<ScratchSession, Failure> {
        self.scratch.revive().await?;
        if self.is_lost {
            self.scratch.remove(&stage.name).await?;
            let now = roles(self.scratch).await?;
            let bytes = self
                .applied
                .iter()
                .map(|migration| migration.up.sql.len())
                .sum();
            let made = blocking::in_place(bytes, || self.made(now));
            if !made.is_empty() {
                let drop = format!("DROP ROLE {}", made.join(", "));
                if let Err(error) = self.scratch.client().batch_execute(&drop).await {
                    // What comes says whether it matters.
                    tracing::debug!(cause = %error, "roles of a rehearsal cannot be dropped");
                }
            }
        }
        self.stage(orders).await
    }

    /// The roles that are not from the beginning and that the files name, as SQL writes them.
    fn made(&self, now: Vec<String>) -> Vec<String> {
        let before: HashSet<&String> = self.roles.iter().collect();
        let named = |role: &String| {
            self.applied
                .iter()
                .any(|migration| migration.up.sql.contains(role))
        };
        now.iter()
            .filter(|role| !before.contains(role) && named(role))
            .map(|role| ident(role))
            .collect()
    }

    /// A database in the clean state.
    pub(super) async fn stage(&mut self, orders: &RunControl) -> Result<ScratchSession, Failure> {
        for name in std::mem::take(&mut self.given_up) {
            // One that cannot be dropped, because a subscription is in it, is in nobody's way.
            match self.scratch.remove(&name).await {
                Err(error) if self.scratch.is_alive() => {
                    tracing::debug!(cause = %error, "a scratch database is left for later")
                }
                removed => removed?,
            }
        }
        let mut stage = match self.aside {
            Some(aside) => {
                let name = self
                    .scratch
                    .create(ScratchTemplate::Copy(&aside.to_string()))
                    .await?;
                ScratchSession::open(self.scratch, name, self.role).await?
            }
            None => self.empty().await?,
        };
        for migration in &self.applied[self.kept..] {
            let ran = stage
                .run(
                    migration,
                    Direction::Up,
                    &migration.up,
                    AfterScript::Commit,
                    orders,
                )
                .await;
            ran.map_err(|stop| cannot_be_made_again(stop, migration))?;
        }
        let since = self.applied.len() - self.kept;
        if since > CADENCE || self.aside.is_none() && since > 0 {
            self.keep(&stage).await?;
        }
        Ok(stage)
    }

    /// An empty database with a ledger, in which scripts find what they find in the real one: their
    /// role's rights, and the schema that the search_path names first.
    async fn empty(&mut self) -> Result<ScratchSession, Failure> {
        let name = self.scratch.create(ScratchTemplate::Empty).await?;
        let stage = ScratchSession::open(self.scratch, name, self.role).await?;
        let client = stage.session().client();
        let path = "SELECT pg_catalog.current_schema(), pg_catalog.current_setting('search_path')";
        let path = stage.session().in_configured_path(path).await?;
        let missing = "SELECT format('CREATE SCHEMA IF NOT EXISTS %I', btrim(p, ' \"')) FROM \
            unnest(string_to_array($2, ',')) p WHERE $1 IS NULL AND btrim(p, ' \"') <> '$user' \
            LIMIT 1";
        let (schema, path) = (path.get(0), path.get(1));
        let rows = client
            .query_typed(missing, &[(&schema, Type::TEXT), (&path, Type::TEXT)])
            .await
            .map_err(DatabaseError::from)?;
        for row in &rows {
            client
                .batch_execute(row.get(0))
                .await
                .map_err(DatabaseError::from)?;
        }
        if let Some(role) = self.role.map(ident) {
            let grant = format!(
                "GRANT ALL ON DATABASE {name} TO {role}; GRANT ALL ON SCHEMA public TO {role}"
            );
            client
                .batch_execute(&grant)
                .await
                .map_err(DatabaseError::from)?;
        }
        install::ensure(stage.session()).await?;
        Ok(stage)
    }
}

async fn roles(scratch: &ScratchMaker) -> Result<Vec<String>, Failure> {
    let rows = scratch
        .client()
        .query_typed("SELECT rolname::text FROM pg_catalog.pg_roles", &[])
        .await;
    Ok(rows
        .map_err(DatabaseError::from)?
        .iter()
        .map(|row| row.get(0))
        .collect())
}

/// What ran once on an empty server does not run a second time beside it.
fn cannot_be_made_again(stop: ScriptStop, migration: &Migration) -> Failure {
    match stop {
        ScriptStop::Ended(failure) => *failure,
        ScriptStop::Failed(failure) | ScriptStop::Lost(failure) => {
            let failure = concluded(*failure, "The rehearsal ends");
            let message = format!(
                "{} ran once and does not run a second time in another database of the same \
                 server, so the state before the next migration cannot be made again: {}. Does it \
                 reach outside its database?",
                Direction::Up.file(&migration.name),
                failure.message
            );
            Failure {
                reason: Reason::RehearsalStuck,
                message,
                ..failure
            }
        }
    }
}
