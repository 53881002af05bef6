//! Planning under the lock: what a dead daemon left is closed, the plan is made from what the
//! database holds now, every script is looked at, and the operation's rows are written.
//! validate_only takes the same path without the lock.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use super::{
    OperationAction, OperationEvent, OperationRequest, Operations, PlannedStep, StepName,
    accept::ClaimedRequest, signed,
};
use crate::operation::{
    lock_holder::{LockHolder, busy},
    registry::OperationsInner,
    text_encoding,
};
use crate::{
    failure::{Failure, Reason},
    ledger::{
        self, LedgerSnapshot, claims, install, operations, search_path, settle::Settlement, upkeep,
    },
    migration::{
        Checksum, Direction, MigrationRow, Script, ScriptMode, Version, run_mode,
        set::MigrationSet, signature::DownSigner,
    },
    planner::{
        self, AbandonedIndex, PlanRefusal, ResumePoint, RollbackRequest, StepPlan, StepScript,
    },
    postgres::{
        lock::LockedSession,
        pool::{LedgerOwner, PooledReader},
    },
    runner::JournaledScript,
    runtime::blocking,
    sql,
};

/// What an operation will do, its rows written.
pub(super) struct PreparedOperation {
    pub steps: Vec<PreparedStep>,
    pub warnings: Vec<String>,
    /// The applied versions before the first step.
    pub applied: BTreeSet<Version>,
    /// There is no step, and nothing was settled.
    pub nothing_to_do: bool,
}

/// A step with its text.
pub(super) struct PreparedStep {
    /// The id of its row; 0 before it has one.
    pub id: i64,
    pub name: StepName,
    pub version: Version,
    pub script: Script,
    pub from_ledger: bool,
    /// For an up: the down that the ledger keeps.
    pub down: Option<Script>,
    /// The parts of a script that is not one transaction.
    pub parts: Vec<run_mode::JournalPart>,
    /// Where such a script goes on.
    pub resume: ResumePoint,
    /// A statement for an index that failed and was mended away.
    pub earlier: Option<AbandonedIndex>,
    /// How each statement of a script that is not one transaction begins; empty for more than
    /// anybody would follow.
    pub summaries: Vec<String>,
}

impl PreparedStep {
    /// The file the script was, for error messages.
    pub(super) fn file(&self) -> String {
        self.name.direction.file(&self.name.name)
    }

    /// How its script runs.
    fn how(&self) -> run_mode::RunMode {
        run_mode::RunMode::of(&self.script, self.parts.len())
    }

    /// How the runner goes about a script that is not one transaction.
    pub(super) fn journaled(&self) -> Option<JournaledScript<'_>> {
        if self.script.mode == ScriptMode::Transactional {
            return None;
        }
        let settings = self.settings();
        Some(JournaledScript {
            // `check` has refused what has none.
            units: sql::units(&self.script.sql).unwrap_or_default(),
            resume: self.resume,
            statement_timeout: settings.statement_timeout.unwrap_or_default(),
        })
    }

    /// How long it may go on retrying for its locks; 0 is one try.
    pub(super) fn lock_wait(&self, request: &OperationRequest) -> Duration {
        self.settings().lock_wait.unwrap_or(request.lock_wait)
    }

    /// How long one try may wait for a lock: never longer than all tries together.
    pub(super) fn lock_timeout(&self, request: &OperationRequest) -> Duration {
        let asked = self.settings().lock_timeout.unwrap_or(request.lock_timeout);
        match self.lock_wait(request) {
            Duration::ZERO => asked,
            wait if asked.is_zero() => wait,
            wait => asked.min(wait),
        }
    }

    /// What the file asks for. The catalog refuses a file with a mistake in it; an older release
    /// let none through.
    pub(super) fn settings(&self) -> sql::ScriptSettings {
        sql::settings(&self.script.sql).unwrap_or_default()
    }
}

impl PreparedOperation {
    /// The steps, as the followers see them.
    pub(super) fn event(&self) -> OperationEvent {
        planned(&self.steps, &self.warnings)
    }
}

impl OperationsInner {
    /// Plans under the lock and writes the rows.
    pub(super) async fn prepare(
        &self,
        locked: &mut LockedSession,
        candidate: &ClaimedRequest<'_>,
    ) -> Result<PreparedOperation, Failure> {
        install::ensure(locked).await?;
        claims::close_abandoned(locked, candidate.id).await?;
        // A second connection to the same place, because the migration session takes no prepared
        // statements.
        let ledger = locked
            .keeper()
            .map_or(self.logins.migrating(), |keeper| &keeper.url);
        let mut reader =
            PooledReader::connect(ledger, "schemad planner", LedgerOwner::default()).await?;
        let snapshot = ledger::read::snapshot(&mut reader).await?;
        let compared = compared_bytes(&self.catalog, &snapshot);
        let mut plan = blocking::in_place(compared, || {
            plan(&self.catalog, &snapshot, candidate.request)
        })?;
        self.spare_users(&plan, &mut reader, candidate.request)
            .await?;
        let (resolution, signing) = (plan.resolution.take(), plan.signing.take());
        let warnings = self.warnings(&plan, candidate.request).await;
        let mut steps = texts(plan, &mut reader).await?;
        if !steps.is_empty() {
            search_path::check(locked, self.role.as_deref()).await?;
        }
        let bytes = script_bytes(&steps);
        blocking::in_place(bytes, || {
            check(&mut steps, &snapshot.rows, self.role.as_deref())
        })?;
        text_encoding::check(&steps, &mut reader, &snapshot.server.encoding, bytes).await?;
        self.is_rehearsed(&steps, &mut reader, install::VERSION)
            .await?;
        let signer = self.signer(&snapshot);
        blocking::in_place(bytes, || signed::verify(signer, &steps, &snapshot.rows))?;
        let signatures = match signing {
            Some(signing) => Some(signed::sign(signer, &mut reader, signing).await?),
            None => None,
        };

        let settlement = blocking::in_place(compared, || {
            Settlement::of(&snapshot.rows, &self.catalog, resolution)
        });
        let not_held =
            text_encoding::not_held_of(&settlement.adopted, &mut reader, &snapshot.server.encoding)
                .await?;
        let settlement = Settlement {
            signatures,
            signer,
            not_held,
            ..settlement
        };
        let rows = blocking::in_place(bytes, || {
            rows(&steps, candidate.request, self.role.as_deref(), signer)
        });
        settlement.log(candidate.id);
        let ids = operations::begin(
            locked,
            candidate.id,
            &rows,
            &settlement,
            &ledger::PlanRecord {
                from_ledger: steps.iter().map(|step| step.from_ledger).collect(),
                how: steps.iter().map(PreparedStep::how).collect(),
                warnings: warnings.clone(),
            },
        )
        .await?
        .ok_or_else(|| {
            Failure::new(
                Reason::Interrupted,
                "another daemon took this one for dead and closed the operation; ask again",
            )
        })?;
        for (step, id) in steps.iter_mut().zip(ids) {
            step.id = id;
        }
        if !steps.is_empty() {
            locked
                .pin(
                    self.role.as_deref(),
                    snapshot.diesel_table.as_deref().unwrap_or_default(),
                )
                .await?;
        }
        let applied = snapshot
            .rows
            .iter()
            .filter(|row| row.is_applied())
            .map(|row| row.version.clone())
            .collect();
        let nothing_to_do =
            steps.is_empty() && settlement.resolution.is_none() && settlement.signatures.is_none();
        Ok(PreparedOperation {
            steps,
            warnings,
            applied,
            nothing_to_do,
        })
    }
}

impl Operations {
    /// The plan for a request without running it: validate_only. Takes no lock and writes nothing.
    ///
    /// # Errors
    /// What the real call would answer.
    pub(crate) async fn validate(
        &self,
        reader: &mut PooledReader,
        request: &OperationRequest,
    ) -> Result<OperationEvent, Failure> {
        let inner = &self.0;
        let snapshot = ledger::read::snapshot(reader).await?;
        if snapshot.running.is_some() && request.queue_timeout.is_zero() {
            return Err(busy(&LockHolder {
                operation: snapshot.running,
                ..LockHolder::default()
            }));
        }
        let compared = compared_bytes(&inner.catalog, &snapshot);
        let plan = blocking::in_place(compared, || plan(&inner.catalog, &snapshot, request))?;
        inner.spare_users(&plan, reader, request).await?;
        let warnings = inner.warnings(&plan, request).await;
        let mut steps = texts(plan, reader).await?;
        let bytes = script_bytes(&steps);
        blocking::in_place(bytes, || {
            check(&mut steps, &snapshot.rows, inner.role.as_deref())
        })?;
        text_encoding::check(&steps, reader, &snapshot.server.encoding, bytes).await?;
        let ledger = snapshot.ledger.as_ref().map_or(0, |ledger| ledger.version);
        inner.is_rehearsed(&steps, reader, ledger).await?;
        blocking::in_place(bytes, || {
            signed::verify(inner.signer(&snapshot), &steps, &snapshot.rows)
        })?;
        Ok(planned(&steps, &warnings))
    }
}

impl OperationsInner {
    /// What somebody should know before the first step.
    async fn warnings(&self, plan: &StepPlan, request: &OperationRequest) -> Vec<String> {
        let change = match request.action {
            OperationAction::Apply(_) => self.catalog.change().await,
            _ => None,
        };
        plan.warnings.iter().cloned().chain(change).collect()
    }

    /// Refuses to roll back what clients of any daemon watch, unless that is forced.
    async fn spare_users(
        &self,
        plan: &StepPlan,
        reader: &mut PooledReader,
        request: &OperationRequest,
    ) -> Result<(), Failure> {
        let OperationAction::Rollback(RollbackRequest { force: false, .. }) = &request.action
        else {
            return Ok(());
        };
        let mut watched = upkeep::watchers_elsewhere(reader, self.watchers.daemon()).await?;
        for (version, clients) in self.watchers.count() {
            *watched.entry(version).or_default() += clients;
        }
        let used = plan
            .steps
            .iter()
            .find_map(|step| Some((&step.version, *watched.get(&step.version)?)));
        match used {
            None => Ok(()),
            Some((version, clients)) => {
                let strangers = self.watchers.strangers(version);
                Err(PlanRefusal::InUse {
                    version: version.clone(),
                    clients,
                    strangers,
                }
                .into())
            }
        }
    }
}

/// About how many bytes a comparison of the set with the database's rows looks at.
fn compared_bytes(catalog: &MigrationSet, snapshot: &LedgerSnapshot) -> usize {
    256 * (catalog.len() + snapshot.rows.len())
}

/// How many bytes the scripts have, and those that belong to them. Many small ones take as long as
/// a large one.
fn script_bytes(steps: &[PreparedStep]) -> usize {
    let length = |script: &Script| script.sql.len();
    steps
        .iter()
        .map(|step| length(&step.script) + step.down.as_ref().map_or(0, length))
        .sum()
}

fn plan(
    catalog: &MigrationSet,
    snapshot: &LedgerSnapshot,
    request: &OperationRequest,
) -> Result<StepPlan, Failure> {
    if snapshot.server.read_only {
        return Err(Failure::new(
            Reason::ReadOnlyServer,
            "the server is a standby or read-only by default (default_transaction_read_only); \
             point MIGRATION_DATABASE_URL at the primary",
        ));
    }
    Ok(match &request.action {
        OperationAction::Apply(apply) => planner::plan_apply(catalog, &snapshot.rows, apply)?,
        OperationAction::Rollback(rollback) => {
            planner::plan_rollback(catalog, &snapshot.rows, rollback)?
        }
        OperationAction::Resolve(resolve) => {
            let resolution = planner::plan_resolve(catalog, &snapshot.rows, resolve)?;
            StepPlan {
                resolution: Some(resolution),
                ..StepPlan::default()
            }
        }
        OperationAction::Sign(sign) => {
            let signing = planner::plan_sign(catalog, &snapshot.rows, sign)?;
            StepPlan {
                signing: Some(signing),
                ..StepPlan::default()
            }
        }
    })
}

/// Fetches from the ledger the scripts that are not in the binary.
async fn texts(plan: StepPlan, reader: &mut PooledReader) -> Result<Vec<PreparedStep>, Failure> {
    let wanted: Vec<Checksum> = plan
        .steps
        .iter()
        .filter(|step| matches!(step.script, StepScript::Ledger(..)))
        .map(|step| step.script.checksum())
        .collect();
    let found = if wanted.is_empty() {
        Vec::new()
    } else {
        ledger::read::scripts(reader, wanted).await?
    };
    let bytes = found.iter().flatten().map(String::len).sum::<usize>() + embedded_bytes(&plan);
    blocking::in_place(bytes, || with_texts(plan, found))
}

fn embedded_bytes(plan: &StepPlan) -> usize {
    let length = |script: &StepScript| match script {
        StepScript::Binary(script) => script.sql.len(),
        StepScript::Ledger(..) => 0,
    };
    plan.steps.iter().map(|step| length(&step.script)).sum()
}

/// `found`: the ledger's scripts, in the order in which the plan names them.
fn with_texts(plan: StepPlan, found: Vec<Option<String>>) -> Result<Vec<PreparedStep>, Failure> {
    let mut found = found.into_iter();
    let total = plan.steps.len();
    plan.steps
        .into_iter()
        .enumerate()
        .map(|(index, step)| {
            let (script, from_ledger) = match step.script {
                StepScript::Binary(script) => (script, false),
                StepScript::Ledger(checksum, mode) => {
                    let sql = found
                        .next()
                        .flatten()
                        .ok_or_else(|| script_missing(&step.version, checksum))?;
                    (
                        Script {
                            sql: Arc::from(sql),
                            checksum,
                            mode,
                        },
                        true,
                    )
                }
            };
            let name = StepName {
                ordinal: index + 1,
                total,
                version: step.version.to_string(),
                name: step.name,
                direction: step.direction,
            };
            let summaries = summaries(&script);
            let (version, down, resume) = (step.version, step.down, ResumePoint::default());
            Ok(PreparedStep {
                id: 0,
                name,
                version,
                script,
                from_ledger,
                down,
                parts: Vec::new(),
                resume,
                earlier: None,
                summaries,
            })
        })
        .collect()
}

fn summaries(script: &Script) -> Vec<String> {
    const MOST: usize = 1_000;
    if script.mode == ScriptMode::Transactional {
        return Vec::new();
    }
    let statements = sql::split(&script.sql);
    if statements.len() > MOST {
        Vec::new()
    } else {
        statements.iter().map(sql::Statement::summary).collect()
    }
}

pub(super) fn script_missing(version: &Version, checksum: Checksum) -> Failure {
    Failure::new(
        Reason::ScriptMissing,
        format!(
            "the ledger lists {checksum} as the down of migration {version}, but schemad.scripts \
             does not hold it: somebody deleted it. Roll back from a daemon that carries the \
             migration, with that daemon's down script"
        ),
    )
    .with("version", version)
}

/// Refuses scripts that cannot run, and finds out where the half done ones go on; before anything
/// runs.
fn check(
    steps: &mut [PreparedStep],
    rows: &[MigrationRow],
    role: Option<&str>,
) -> Result<(), Failure> {
    let rows: HashMap<&Version, &MigrationRow> =
        rows.iter().map(|row| (&row.version, row)).collect();
    steps.iter_mut().try_for_each(|step| {
        let row = rows.get(&step.version).copied();
        if role.is_some() {
            run_mode::keeps_role(
                &step.name.name,
                &step.version,
                step.name.direction,
                &step.script,
            )?;
        }
        step.parts = run_mode::parts(
            &step.name.name,
            &step.version,
            step.name.direction,
            &step.script,
        )?;
        step.resume = planner::resume(row, step.name.direction, &step.parts)?;
        if step.name.direction == Direction::Up && step.resume == ResumePoint::default() {
            run_mode::means_what_it_says(&step.name.name, &step.version, &step.script)?;
        }
        step.earlier = planner::earlier(row, step.name.direction, &step.parts);
        Ok(())
    })
}

fn planned(steps: &[PreparedStep], warnings: &[String]) -> OperationEvent {
    let planned = |step: &PreparedStep| PlannedStep {
        version: step.name.version.clone(),
        name: step.name.name.clone(),
        direction: step.name.direction,
        from_ledger: Some(step.from_ledger),
        how: Some(step.how()),
    };
    OperationEvent::Planned {
        steps: steps.iter().map(planned).collect(),
        warnings: warnings.to_vec(),
    }
}

fn rows<'a>(
    steps: &'a [PreparedStep],
    request: &OperationRequest,
    role: Option<&'a str>,
    signer: Option<DownSigner<'_>>,
) -> Vec<operations::NewStepRow<'a>> {
    steps
        .iter()
        .map(|step| operations::NewStepRow {
            version: step.version.as_str(),
            name: &step.name.name,
            direction: step.name.direction,
            script: &step.script,
            down: step.down.as_ref(),
            down_mac: signer
                .zip(step.down.as_ref())
                .map(|(signer, down)| signer.sign(&step.version, down)),
            lock_timeout: step.lock_timeout(request),
            statement_timeout: step.settings().statement_timeout.unwrap_or_default(),
            parts: &step.parts,
            resume: step.resume,
            earlier: step.earlier.as_ref(),
            role,
        })
        .collect()
}
