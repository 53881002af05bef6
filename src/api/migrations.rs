//! MigrationService.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    pin::Pin,
    sync::Arc,
    time::SystemTime,
};

use futures_util::stream::{self, Stream, StreamExt as _};
use tonic::{Request, Response, Status};

use super::{
    convert, gate, request,
    stream::{OperationEvents, StreamEnd},
};
use crate::{api::rehearsals::RehearsalCounts, database::Database, failure::status, pb};
use crate::{
    failure::{Failure, Reason},
    ledger::{self, LedgerSnapshot},
    migration::{Checksum, Migration, MigrationRow, Script, ScriptMode, Version},
    operation::{self, OperationEvent},
    planner,
    rehearse::RehearsalSelection,
    runtime::blocking,
    telemetry::rate_limit::LogRateLimiter,
};

/// The service.
pub(crate) struct MigrationHandlers {
    /// The database that requests are about.
    pub database: Arc<Database>,
    /// Anybody from anywhere may do everything.
    pub insecure: bool,
}

pub(crate) type MigrationAnswer<T> = Result<Response<T>, Status>;
pub(crate) type EventResponses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A request that is none is no operation's and no refusal's: only the log says that it came.
pub(crate) fn malformed(failure: &Failure) -> Status {
    static TOLD: LogRateLimiter = LogRateLimiter::new(20);
    // Its message is cut; the failure's quotes what was said, which may be a megabyte.
    let status = status::status_from_failure(failure);
    if TOLD.allows() {
        tracing::info!(event = "request.malformed", reason = %failure.reason, "malformed request: \
            {}", status.message());
    }
    status
}

/// Checks that the field `database` of a request means `managed`.
pub(crate) fn check_database(managed: &Database, name: &str) -> Result<(), Status> {
    managed
        .named(name)
        .map(|_| ())
        .map_err(|e| status::status_from_failure(&e))
}

impl MigrationHandlers {
    async fn snapshot(&self) -> Result<LedgerSnapshot, Failure> {
        self.database
            .reads
            .read(|reader| Box::pin(ledger::read::snapshot(reader)))
            .await
    }

    async fn start(
        &self,
        checked: Result<operation::OperationRequest, Failure>,
        validate_only: bool,
        detach: bool,
    ) -> Result<OperationEvents, Status> {
        let checked = checked.map_err(|e| malformed(&e))?;
        if !validate_only {
            let ends = if detach {
                StreamEnd::Accepted
            } else {
                StreamEnd::AsTheOperation
            };
            return Ok(super::stream::follow(
                self.database.operations.submit(checked),
                ends,
            ));
        }
        let planned = self
            .validate(&checked)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        let entry = operation::LogEntry {
            sequence: 1,
            time: SystemTime::now(),
            event: planned,
        };
        Ok(Box::pin(stream::iter([Ok(convert::event(None, &entry))])))
    }

    async fn validate(
        &self,
        request: &operation::OperationRequest,
    ) -> Result<OperationEvent, Failure> {
        self.database.reads.views.borrow().ready()?;
        self.database
            .reads
            .read(|reader| {
                let (operations, request) = (self.database.operations.clone(), request.clone());
                Box::pin(async move { operations.validate(reader, &request).await })
            })
            .await
    }

    async fn migration(&self, version: &Version) -> Result<pb::Migration, Failure> {
        let snapshot = self.snapshot().await?;
        let embedded = self.database.set.get(version);
        let row = snapshot.rows.iter().find(|row| row.version == *version);
        if embedded.is_none() && row.is_none() {
            return Err(planner::PlanRefusal::UnknownVersion(version.clone()).into());
        }
        let recorded = row.and_then(|row| row.recorded.as_ref());
        let (up, down) = match embedded {
            Some(migration) => (
                Some(migration.up.sql.to_string()),
                migration.down.as_ref().map(|down| down.sql.to_string()),
            ),
            None => {
                self.stored(recorded.and_then(|r| r.up), recorded.and_then(|r| r.down))
                    .await?
            }
        };
        // The ledger's, where they are others: a rollback may run what stands there.
        let others = |recorded: Option<(Checksum, ScriptMode)>, own: Option<&Script>| {
            recorded.filter(|(checksum, _)| own.is_none_or(|own| own.checksum != *checksum))
        };
        let (recorded_up, recorded_down) = match embedded {
            Some(own) => {
                let down = others(recorded.and_then(|r| r.down), own.down.as_ref());
                self.stored(others(recorded.and_then(|r| r.up), Some(&own.up)), down)
                    .await?
            }
            None => (None, None),
        };
        let text = |sql: Option<String>| convert::sql(sql.as_deref().unwrap_or_default());
        let texts = [up, down, recorded_up, recorded_down].map(text);
        let truncated = texts.iter().any(|(_, is_cut)| *is_cut);
        let [up_sql, down_sql, recorded_up_sql, recorded_down_sql] = texts.map(|(text, _)| text);
        Ok(pb::Migration {
            up_sql,
            down_sql,
            recorded_up_sql,
            recorded_down_sql,
            truncated,
            ..convert::migration(version, embedded, row)
        })
    }

    /// The ledger's texts of these scripts.
    async fn stored(
        &self,
        up: Option<(Checksum, ScriptMode)>,
        down: Option<(Checksum, ScriptMode)>,
    ) -> Result<(Option<String>, Option<String>), Failure> {
        let wanted: Vec<_> = [up, down]
            .into_iter()
            .flatten()
            .map(|(checksum, _)| checksum)
            .collect();
        if wanted.is_empty() {
            return Ok((None, None));
        }
        let mut found = self.texts(wanted).await?.into_iter();
        let up = up.and_then(|_| found.next().flatten());
        let down = down.and_then(|_| found.next().flatten());
        Ok((up, down))
    }

    async fn texts(&self, wanted: Vec<Checksum>) -> Result<Vec<Option<String>>, Failure> {
        self.database
            .reads
            .read(|reader| Box::pin(ledger::read::scripts(reader, wanted.clone())))
            .await
    }

    async fn list(&self, size: i32, token: &str) -> Result<pb::ListMigrationsResponse, Failure> {
        let (after, size) = request::page(size, token)?;
        let snapshot = self.snapshot().await?;
        let mut known = self.known(&snapshot).into_iter().filter(|(version, _)| {
            after
                .as_deref()
                .is_none_or(|after| version.as_str() > after)
        });
        let page: Vec<_> = known.by_ref().take(size).collect();
        let next_page_token = match (known.next(), page.last()) {
            (Some(_), Some((last, _))) => request::page_token(last),
            _ => String::new(),
        };
        let migrations = page
            .into_iter()
            .map(|(version, (embedded, row))| convert::migration(version, embedded, row))
            .collect();
        Ok(pb::ListMigrationsResponse {
            migrations,
            next_page_token,
        })
    }

    /// Every version that anybody knows, in order.
    fn known<'a>(
        &'a self,
        snapshot: &'a LedgerSnapshot,
    ) -> BTreeMap<&'a Version, (Option<&'a Migration>, Option<&'a MigrationRow>)> {
        let mut known: BTreeMap<_, _> = self
            .database
            .set
            .iter()
            .map(|m| (&m.version, (Some(m), None)))
            .collect();
        for row in &snapshot.rows {
            match known.entry(&row.version) {
                Entry::Occupied(mut entry) => entry.get_mut().1 = Some(row),
                Entry::Vacant(entry) => {
                    entry.insert((None, Some(row)));
                }
            }
        }
        known
    }

    async fn status(&self) -> Result<pb::SchemaStatus, Failure> {
        let snapshot = self.snapshot().await?;
        let compared = 256 * (self.database.set.len() + snapshot.rows.len());
        let mut assessment = blocking::in_place(compared, || {
            planner::assess(&self.database.set, &snapshot.rows)
        });
        let wanted = self.database.operations.signed_texts(&snapshot);
        let texts = if wanted.is_empty() {
            Vec::new()
        } else {
            self.texts(wanted).await?
        };
        let bytes = texts.iter().flatten().map(String::len).sum();
        assessment.problems.extend(blocking::in_place(bytes, || {
            self.database.operations.unverified(&snapshot, texts)
        }));
        if let Err(impossible) = &self.database.reads.views.borrow().preflight {
            let (version, message) = (String::new(), impossible.message.clone());
            let problem = planner::SchemaProblem {
                reason: impossible.reason.as_str(),
                version,
                message,
                blocking: true,
                outcomes: Vec::new(),
            };
            assessment.problems.insert(0, problem);
        }
        self.say_what_the_encoding_lacks(&snapshot, &mut assessment)
            .await?;
        if let Some(message) = self.database.set.change().await {
            let (reason, version) = ("FOLDER_CHANGED", String::new());
            assessment.problems.push(planner::SchemaProblem {
                reason,
                version,
                message,
                blocking: false,
                outcomes: Vec::new(),
            });
        }
        let (last_operation, waiting) = self.operation_of_interest(&snapshot).await?;
        Ok(pb::SchemaStatus {
            last_operation,
            waiting,
            ..convert::status(&self.database.set, &snapshot, &assessment, self.insecure)
        })
    }

    /// Where the database is not UTF-8: the pending migrations that it cannot take for their
    /// characters.
    async fn say_what_the_encoding_lacks(
        &self,
        snapshot: &LedgerSnapshot,
        assessment: &mut planner::Assessment,
    ) -> Result<(), Failure> {
        let (pending, encoding) = (assessment.pending.clone(), snapshot.server.encoding.clone());
        if operation::holds_everything(&encoding) || pending.is_empty() {
            return Ok(());
        }
        let unfit = self.database.reads.read(|reader| {
            let (catalog, pending, encoding) =
                (self.database.set.clone(), pending.clone(), encoding.clone());
            Box::pin(async move {
                operation::unfit_pending(&catalog, &pending, reader, &encoding).await
            })
        });
        let unfit = unfit.await?;
        assessment.refuse(unfit);
        Ok(())
    }

    /// The operation that ended last, and what the running one waits for.
    async fn operation_of_interest(
        &self,
        snapshot: &LedgerSnapshot,
    ) -> Result<(Option<pb::Operation>, Option<pb::Waiting>), Failure> {
        if snapshot.ledger.is_none() {
            return Ok((None, None));
        }
        let last = self
            .database
            .reads
            .read(|reader| Box::pin(ledger::last_operation::read(reader)))
            .await?;
        let activity = match snapshot.running.as_ref().map(|running| running.id) {
            Some(id) => {
                self.database
                    .reads
                    .read(|reader| Box::pin(ledger::step_activity::of(reader, id)))
                    .await?
            }
            None => None,
        };
        let waiting = activity.and_then(|activity| {
            Some(convert::waiting(
                &activity.version,
                activity.waiting.as_ref()?,
                activity.waited,
            ))
        });
        Ok((last.as_ref().map(convert::operation), waiting))
    }
}

impl MigrationHandlers {
    /// Runs what has no steps to its end.
    async fn settle(
        &self,
        checked: Result<operation::OperationRequest, Failure>,
    ) -> Result<ledger::OperationRow, Failure> {
        let checked = checked.inspect_err(|e| {
            malformed(e);
        })?;
        let follower = self.database.operations.submit(checked);
        let log = follower.log();
        follower.result().await?;
        let id = log
            .operation()
            .ok_or_else(|| Failure::new(Reason::Internal, "an operation without an id"))?;
        let found = self
            .database
            .reads
            .read(|reader| Box::pin(ledger::history::get(reader, id)))
            .await?;
        found.ok_or_else(|| ledger::control::unknown(id))
    }

    /// Begins a rehearsal of what is pending now, or of what was named.
    async fn rehearsal(
        &self,
        principal: &str,
        selection: RehearsalSelection,
    ) -> Result<crate::api::rehearsals::RehearsalEvents, Failure> {
        self.database.reads.views.borrow().ready()?;
        let snapshot = self.snapshot().await?;
        let pending = planner::assess(&self.database.set, &snapshot.rows)
            .pending
            .into_iter()
            .collect();
        let selected = selection.of(&self.database.set, &pending);
        let begun = self.database.rehearsals.begin(selected, principal)?;
        Ok(crate::api::rehearsals::follow(
            begun,
            RehearsalCounts::new(&self.database.set, pending),
        ))
    }

    async fn sign(
        &self,
        principal: &str,
        message: &pb::SignLedgerRequest,
    ) -> Result<pb::SignLedgerResponse, Failure> {
        let row = self
            .settle(request::sign_ledger(principal, message))
            .await?;
        let signed = self
            .database
            .reads
            .read(|reader| Box::pin(ledger::signatures::of(reader, row.id)))
            .await?;
        Ok(convert::signed(&row, signed))
    }
}

#[tonic::async_trait]
impl pb::migration_service_server::MigrationService for MigrationHandlers {
    async fn get_status(
        &self,
        request: Request<pb::GetStatusRequest>,
    ) -> MigrationAnswer<pb::GetStatusResponse> {
        check_database(&self.database, &request.into_inner().database)?;
        let status = self
            .status()
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::GetStatusResponse {
            status: Some(status),
        }))
    }

    async fn list_migrations(
        &self,
        request: Request<pb::ListMigrationsRequest>,
    ) -> MigrationAnswer<pb::ListMigrationsResponse> {
        let pb::ListMigrationsRequest {
            page_size,
            page_token,
            database,
        } = request.into_inner();
        check_database(&self.database, &database)?;
        Ok(Response::new(
            self.list(page_size, &page_token)
                .await
                .map_err(|e| status::status_from_failure(&e))?,
        ))
    }

    async fn get_migration(
        &self,
        request: Request<pb::GetMigrationRequest>,
    ) -> MigrationAnswer<pb::GetMigrationResponse> {
        let message = request.into_inner();
        check_database(&self.database, &message.database)?;
        let version = request::version("version", &message.version)
            .map_err(|e| status::status_from_failure(&e))?;
        let migration = self
            .migration(&version)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::GetMigrationResponse {
            migration: Some(migration),
        }))
    }

    type ApplyStream = EventResponses<pb::ApplyResponse>;

    async fn apply(
        &self,
        request: Request<pb::ApplyRequest>,
    ) -> MigrationAnswer<Self::ApplyStream> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let (validate_only, detach) = (message.validate_only, message.detach);
        let events = self
            .start(
                request::apply(&principal.name, message),
                validate_only,
                detach,
            )
            .await?;
        Ok(Response::new(Box::pin(events.map(|event| {
            event.map(|event| pb::ApplyResponse { event: Some(event) })
        }))))
    }

    type RollbackStream = EventResponses<pb::RollbackResponse>;

    async fn rollback(
        &self,
        request: Request<pb::RollbackRequest>,
    ) -> MigrationAnswer<Self::RollbackStream> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let (validate_only, detach) = (message.validate_only, message.detach);
        let events = self
            .start(
                request::rollback(&principal.name, message),
                validate_only,
                detach,
            )
            .await?;
        Ok(Response::new(Box::pin(events.map(|event| {
            event.map(|event| pb::RollbackResponse { event: Some(event) })
        }))))
    }

    type RehearseStream = EventResponses<pb::RehearseResponse>;

    async fn rehearse(
        &self,
        request: Request<pb::RehearseRequest>,
    ) -> MigrationAnswer<Self::RehearseStream> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let selection = request::rehearse(&message).map_err(|e| malformed(&e))?;
        let events = self
            .rehearsal(&principal.name, selection)
            .await
            .map_err(|failure| status::status_from_failure(&failure))?;
        Ok(Response::new(Box::pin(events.map(|event| {
            event.map(|event| pb::RehearseResponse { event: Some(event) })
        }))))
    }

    async fn resolve(
        &self,
        request: Request<pb::ResolveRequest>,
    ) -> MigrationAnswer<pb::ResolveResponse> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let checked = request::resolve(&principal.name, &message);
        let row = self
            .settle(checked)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::ResolveResponse {
            operation: Some(convert::operation(&row)),
        }))
    }

    async fn sign_ledger(
        &self,
        request: Request<pb::SignLedgerRequest>,
    ) -> MigrationAnswer<pb::SignLedgerResponse> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let response = self
            .sign(&principal.name, &message)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(response))
    }
}
