//! Rehearsal: each migration up, down, compared, up and compared in a scratch database, so that a
//! down that does not undo its up is known before anybody needs it. It proves structure, not data.
//!
//! The invariant: **before each migration the working database is in the clean state**, which is
//! what the ups before it make of an empty database, each run once. Up, down and up leave it so
//! when the schema after the down is what it was before, the schema after the second up is that
//! after the first, and the contents are, too (`contents`): no file of a table has a block, so no
//! data were ever written that could differ; or all that there is reads the same. Then the next
//! migration is rehearsed in the database as it is.
//!
//! Where both scripts only define things and write rows, a down that spoils it costs no more: its
//! transaction stays open until its schema was looked at, the up runs in it again, and all of it is
//! rolled back (`Rehearsal::again_undone`). Else the database is given up, and `clean` makes
//! another: a copy of an earlier clean state with the ups since run again. Scripts that do more may
//! do something else in the transaction of another (a DO block that asks for now(), a handler that
//! hides it), and are not tried there (`together`).

pub(crate) mod baseline;
mod daemon;
pub(crate) mod data_hash;
pub(crate) mod scratch_session;
mod selection;
pub(crate) mod single_transaction;
mod verdict;

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

pub(crate) use daemon::{Rehearsals, RunningRehearsal};
pub(crate) use selection::RehearsalSelection;
pub(crate) use verdict::RehearsedMigration;
pub use verdict::Verdict;

use baseline::Baseline;
use scratch_session::{AfterScript, ScratchSession, ScriptStop, WorkingState, concluded};
use single_transaction::ScriptTraits;

use crate::{
    failure::{Failure, Reason},
    migration::{Direction, Migration, Script, ScriptMode, Version, run_mode, set::MigrationSet},
    postgres::scratch::ScratchMaker,
    runner::RunControl,
    sql,
};

/// What scripts may do to what lies outside the scratch database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OutsideEffects {
    /// Anything: the server is thrown away, or might as well be.
    Allowed,
    /// Nothing: others use the server. A script that does is not run.
    Refused,
}

/// Why a script does not run at all.
const NOT_RUN: [Reason; 7] = [
    Reason::ReachesOutside,
    Reason::ChangesRole,
    Reason::InvalidMigration,
    Reason::LosesSession,
    Reason::EndsTransaction,
    Reason::NonTransactional,
    Reason::NeedsClient,
];

/// How to rehearse.
#[derive(Clone, Debug)]
pub struct RehearsalSettings {
    /// What scripts may do to what lies outside.
    pub outside: OutsideEffects,
    /// Runs the scripts, where it is not the role that logs in.
    pub role: Option<String>,
}

/// Told what happens, in order.
#[derive(Clone, Debug)]
pub enum RehearsalEvent {
    /// A migration begins.
    Began {
        /// From 1, among those that are rehearsed.
        ordinal: usize,
        /// How many those are.
        total: usize,
        /// Its version.
        version: Version,
        /// Its name.
        name: String,
    },
    /// One that is only in the way of the others could not be applied; they go on without it.
    LeftOut {
        /// Its version.
        version: Version,
        /// Why.
        failure: Failure,
    },
    /// A migration was rehearsed.
    Ended(Box<RehearsedMigration>),
}

/// Rehearses `selected` of the catalog, each on the state that all migrations before it make.
/// Databases that are still there are dropped with `scratch`, which is the caller's to close.
///
/// Dropped before it returns, it leaves databases, which go with `scratch` as well.
///
/// # Errors
/// CANCELLED, why no scratch database can be made, or the server's loss: then there are no more
/// verdicts.
pub async fn rehearse(
    scratch: &mut ScratchMaker,
    catalog: &MigrationSet,
    selected: &BTreeSet<Version>,
    settings: &RehearsalSettings,
    orders: &RunControl,
    tell: &mut (dyn FnMut(RehearsalEvent) + Send),
) -> Result<(), Failure> {
    if selected.is_empty() {
        return Ok(());
    }
    let mut clean = Baseline::begin(scratch, settings.role.as_deref()).await?;
    let stage = clean.stage(orders).await?;
    let mut rehearsal = Rehearsal {
        catalog,
        clean,
        stage,
        known: None,
        settings,
        orders,
    };
    let total = catalog
        .iter()
        .filter(|migration| selected.contains(&migration.version))
        .count();
    let mut ordinal = 0;
    for migration in catalog.iter() {
        if let Some(halt) = orders.halted() {
            return Err(scratch_session::halted(&halt));
        }
        if ordinal == total {
            break; // what comes after the last is nobody's question
        }
        let (version, name) = (migration.version.clone(), migration.name.clone());
        if !selected.contains(&version) {
            if let Err(failure) = rehearsal.pass(migration).await? {
                tell(RehearsalEvent::LeftOut { version, failure });
            }
            rehearsal.settle().await?;
            continue;
        }
        ordinal += 1;
        tell(RehearsalEvent::Began {
            ordinal,
            total,
            version,
            name,
        });
        let begun = Instant::now();
        let rehearsed = rehearsal.one(migration).await?;
        rehearsal.settle().await?;
        let notes = rehearsal.notes(migration);
        tell(RehearsalEvent::Ended(Box::new(RehearsedMigration {
            ordinal,
            total,
            notes,
            took: begun.elapsed(),
            ..rehearsed
        })));
    }
    Ok(())
}

struct Rehearsal<'a> {
    catalog: &'a MigrationSet,
    clean: Baseline<'a>,
    stage: ScratchSession,
    /// What the working database looks like, while that is known.
    known: Option<WorkingState>,
    settings: &'a RehearsalSettings,
    orders: &'a RunControl,
}

/// What follows when a script fails.
fn goes_on(script: &Script) -> &'static str {
    match script.mode {
        ScriptMode::Transactional => "What it did is undone, and the rehearsal goes on",
        ScriptMode::NonTransactional => IN_ANOTHER,
    }
}

const IN_ANOTHER: &str = "The rehearsal goes on in another database, without what it did";

/// A script's end: well, after so long; or not, and why.
type ScriptEnd = Result<Duration, Failure>;

impl<'a> Rehearsal<'a> {
    /// Applies a migration that is not rehearsed. The inner error is its own.
    async fn pass(&mut self, migration: &'a Migration) -> Result<Result<(), Failure>, Failure> {
        match self
            .run(migration, Direction::Up, &migration.up, AfterScript::Commit)
            .await?
        {
            Ok(_) => {
                self.known = None;
                self.applied(migration).await?;
                Ok(Ok(()))
            }
            Err(failure) => {
                self.after_failure(&migration.up, &failure).await?;
                Ok(Err(failure))
            }
        }
    }

    /// Up, down, up, on the clean state; afterwards the clean state with this migration, where it
    /// can be applied.
    async fn one(&mut self, migration: &'a Migration) -> Result<RehearsedMigration, Failure> {
        let before = match self.known.take() {
            Some(state) => state,
            None => self.stage.state().await?,
        };
        let mut found = RehearsedMigration::of(migration);
        match self
            .run(migration, Direction::Up, &migration.up, AfterScript::Commit)
            .await?
        {
            Ok(took) => found.up_took = Some(took),
            Err(failure) => {
                self.known = Some(before);
                self.after_failure(&migration.up, &failure).await?;
                return Ok(found.failed(Verdict::UpFails, failure));
            }
        }
        let after = self.stage.state().await?;
        self.applied(migration).await?;
        let Some(down) = &migration.down else {
            self.known = Some(after);
            return Ok(RehearsedMigration {
                verdict: Verdict::Irreversible,
                ..found
            });
        };
        let is_the_same = |does: &ScriptTraits| {
            [&before, &after]
                .iter()
                .all(|state| does.is_the_same_in(&state.snapshot))
        };
        let together = ScriptTraits::of(migration, down).filter(is_the_same);
        let then = if together.is_some() {
            AfterScript::StayOpen
        } else {
            AfterScript::Commit
        };
        match self.run(migration, Direction::Down, down, then).await? {
            Ok(took) => found.down_took = Some(took),
            Err(failure) => {
                self.known = Some(after);
                self.after_failure(down, &failure).await?;
                return Ok(found.failed(Verdict::DownFails, failure));
            }
        }
        let back = self.stage.state().await?;
        found.compared_down(&before.snapshot, &back.snapshot);
        if let Some(does) = together {
            if back.is(&before) {
                self.stage.commit().await?;
            } else if self
                .again_undone(migration, does, &after, &mut found)
                .await?
            {
                return Ok(found);
            } else if let Err(failure) = self
                .run(migration, Direction::Down, down, AfterScript::Commit)
                .await?
            {
                self.restore().await?;
                return Ok(found.failed(Verdict::DownFails, failure));
            }
        }
        if let Err(failure) = self
            .run(migration, Direction::Up, &migration.up, AfterScript::Commit)
            .await?
        {
            self.restore().await?;
            return Ok(found.failed(Verdict::UpFailsAfterDown, failure));
        }
        let again = self.stage.state().await?;
        found.compared_up(&after.snapshot, &again.snapshot);
        if back.is(&before) && again.is(&after) {
            self.known = Some(again)
        } else {
            self.restore().await?
        }
        Ok(found)
    }

    /// The up again in the transaction of a down that has spoilt the clean state, which is then
    /// undone: far faster than making the clean state again. False: it failed, perhaps because it
    /// ran in that transaction; then nothing has happened.
    async fn again_undone(
        &mut self,
        migration: &Migration,
        does: ScriptTraits,
        after: &WorkingState,
        found: &mut RehearsedMigration,
    ) -> Result<bool, Failure> {
        let mut is_told = true;
        match self
            .run(
                migration,
                Direction::Up,
                &migration.up,
                AfterScript::StayOpen,
            )
            .await?
        {
            Ok(_) => {
                let again = self.stage.state().await?;
                self.stage.roll_back().await?;
                found.compared_up(&after.snapshot, &again.snapshot);
            }
            Err(failure) if does.fails_anywhere(&failure) => {
                found.verdict = Verdict::UpFailsAfterDown;
                found.failure = Some(failure);
            }
            Err(_) => is_told = false,
        }
        if self.stage.contents().await?.is(&after.contents) {
            self.known = is_told.then(|| after.clone())
        } else {
            self.restore().await?
        }
        Ok(is_told)
    }

    /// What nobody looked into.
    fn notes(&self, migration: &Migration) -> Vec<String> {
        let scripts = [
            (Direction::Up, Some(&migration.up)),
            (Direction::Down, migration.down.as_ref()),
        ];
        let looks = |script: &&Script| {
            self.settings.outside == OutsideEffects::Refused && sql::is_dynamic(&script.sql)
        };
        let dynamic = scripts.iter().filter_map(|(direction, script)| {
            script.filter(looks)?;
            Some(format!(
                "{} puts SQL together at run time (EXECUTE): whether that reaches outside its \
                 database was not looked into",
                direction.file(&migration.name)
            ))
        });
        let not_compared = self
            .known
            .iter()
            .flat_map(|state| &state.snapshot.not_compared);
        dynamic
            .chain(not_compared.map(|what| format!("not compared: {what}")))
            .collect()
    }

    /// Runs a script as an operation would. The outer error ends the rehearsal.
    async fn run(
        &mut self,
        migration: &Migration,
        direction: Direction,
        script: &Script,
        then: AfterScript,
    ) -> Result<ScriptEnd, Failure> {
        if direction == Direction::Up
            && let Some(failure) = self.catalog.unfit(&migration.version)
        {
            return Ok(Err(failure.clone()));
        }
        if self.settings.outside == OutsideEffects::Refused
            && let Some(reach) = sql::first_reach(&script.sql)
        {
            return Ok(Err(reaches_outside(migration, direction, script, &reach)));
        }
        let is_one = script.mode == ScriptMode::Transactional;
        if !is_one
            && self.settings.outside == OutsideEffects::Allowed
            && sql::drops_roles(&script.sql)
        {
            // It cannot be run again when they were in its way.
            self.clean.drop_copies(&self.stage).await?;
        }
        let mut ran = self
            .stage
            .run(migration, direction, script, then, self.orders)
            .await;
        if let Err(ScriptStop::Failed(failure)) = &ran
            && is_one
            && then == AfterScript::Commit
            && self.clean.makes_way(&self.stage, failure).await?
        {
            ran = self
                .stage
                .run(migration, direction, script, then, self.orders)
                .await;
        }
        match ran {
            Ok(took) => Ok(Ok(took)),
            Err(ScriptStop::Failed(failure)) => Ok(Err(concluded(*failure, goes_on(script)))),
            Err(ScriptStop::Ended(failure)) => Err(*failure),
            // The script may have ended its own session. When the server is there, it goes on.
            Err(ScriptStop::Lost(failure)) => {
                self.restore().await?;
                Ok(Err(concluded(*failure, IN_ANOTHER)))
            }
        }
    }

    /// A transaction that failed has left nothing but how far sequences have counted. What was not
    /// one transaction may have.
    async fn after_failure(&mut self, script: &Script, failure: &Failure) -> Result<(), Failure> {
        let is_undone = match (script.mode, &self.known) {
            _ if NOT_RUN.contains(&failure.reason) => true,
            (ScriptMode::Transactional, Some(known)) => {
                self.stage.contents().await?.is(&known.contents)
            }
            _ => false,
        };
        if is_undone {
            Ok(())
        } else {
            self.restore().await
        }
    }

    /// The clean state is one migration further. Where that cannot be made again by running it
    /// again, it is kept.
    async fn applied(&mut self, migration: &'a Migration) -> Result<(), Failure> {
        self.clean.passed(migration);
        if sql::first_reach(&migration.up.sql).is_none() {
            Ok(())
        } else {
            self.clean.keep(&self.stage).await
        }
    }

    /// Keeps the clean state again, when what was kept was in a script's way.
    async fn settle(&mut self) -> Result<(), Failure> {
        self.clean.settle(&self.stage).await
    }

    /// Gives the working database up for another in the clean state.
    async fn restore(&mut self) -> Result<(), Failure> {
        let stage = self.clean.instead_of(&self.stage, self.orders).await?;
        let old = std::mem::replace(&mut self.stage, stage);
        self.clean.give_up(old);
        self.known = None;
        Ok(())
    }
}

fn reaches_outside(
    migration: &Migration,
    direction: Direction,
    script: &Script,
    reach: &sql::ExternalEffect,
) -> Failure {
    let problem = format!(
        "this statement reaches {}, and the server is not thrown away afterwards",
        reach.what
    );
    let cure =
        "Rehearse it without the daemon: `schemad rehearse --dir FOLDER` has a server of its own";
    let (file, place) = (direction.file(&migration.name), (&*script.sql, reach.place));
    run_mode::not_run(
        Reason::ReachesOutside,
        &file,
        &migration.version,
        place,
        &problem,
        cure,
    )
}
