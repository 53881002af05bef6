//! SchemaService.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use prost::Message as _;
use tokio::sync::Semaphore;
use tokio_postgres::{Client, error::SqlState};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Request, Response};

use super::{
    describe::{SchemaListing, TextLength},
    migrations::{MigrationAnswer, check_database},
    request::{self, ObjectFilter},
};

use crate::{database::Database, failure::status, pb};
use crate::{
    failure::{Failure, Reason},
    ledger,
    postgres::{DatabaseError, connect::NewConnection},
    runtime::blocking,
    schema::{self, Except, Fingerprint, Snapshot},
    transport::{
        quota::{Quota, QuotaKey as Caller},
        quota_counter::QuotaCounter,
    },
};

/// Sessions beside the pool's that read the schema: one is slow because the schema is large, and
/// two are no load.
const SESSIONS: usize = 2;

/// Callers that wait for one of them, and of one caller: nobody's many keep another waiting.
const WAITING: Quota = Quota { each: 4, all: 64 };

/// A description that takes longer is no use to whoever asked.
const READ_WITHIN: Duration = Duration::from_secs(30);

/// Bytes of a page, with room below the 3 MiB of a message for what is around the objects.
const MAX_PAGE: usize = 5 << 19;

/// How long what was read serves the pages after the first.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// A schema that was read.
struct CachedSchema {
    snapshot: Snapshot,
    fingerprint: Fingerprint,
}

/// The service.
pub(crate) struct SchemaHandlers {
    /// The database that requests are about. pg_catalog is read on a session beside the pool,
    /// because diesel's connections hide the client that streams.
    database: Arc<Database>,
    sessions: Arc<Semaphore>,
    waiting: QuotaCounter,
    /// The last that did not fit on one page: whoever turns pages sees one schema, and it is read
    /// once.
    kept: Arc<Mutex<Option<Arc<CachedSchema>>>>,
}

impl SchemaHandlers {
    /// Describes the schema of `database`.
    pub(crate) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            sessions: Arc::new(Semaphore::new(SESSIONS)),
            waiting: QuotaCounter::default(),
            kept: Arc::default(),
        }
    }

    async fn describe(&self, filter: &ObjectFilter) -> Result<pb::DescribeSchemaResponse, Failure> {
        let ledger = self
            .database
            .reads
            .read(|reader| Box::pin(ledger::read::snapshot(reader)))
            .await?;
        let reading = async {
            let Ok(_session) = self.sessions.acquire().await else {
                return Err(Failure::new(
                    Reason::Internal,
                    "nobody closes this semaphore",
                ));
            };
            self.page(filter, &Except::ours(ledger.diesel_table.as_deref()))
                .await
        };
        let late = |_| Err(DatabaseError::Timeout(READ_WITHIN).into());
        tokio::time::timeout(READ_WITHIN, reading)
            .await
            .unwrap_or_else(late)
    }

    async fn page(
        &self,
        filter: &ObjectFilter,
        except: &Except,
    ) -> Result<pb::DescribeSchemaResponse, Failure> {
        let NewConnection {
            client, connection, ..
        } = self.database.url.connect("schemad reader").await?;
        let driver = AbortOnDropHandle::new(tokio::spawn(connection));
        let known = self.known(&client, filter, except).await?;
        let bytes = known.snapshot.bytes();
        let listing = blocking::in_place(bytes, || SchemaListing::new(&known.snapshot, filter));
        let mut left = listing.after(filter.after.as_ref()).peekable();
        let relations: Vec<_> = left
            .clone()
            .take(filter.size)
            .filter_map(|(_, object)| object.relation().cloned())
            .collect();
        let sizes = schema::sizes(&client, &relations).await?;
        drop((client, driver));
        let (objects, last) = blocking::in_place(bytes, || {
            let (mut objects, mut bytes, mut last) = (Vec::new(), 0, None);
            while let Some((place, object)) = left.peek()
                && objects.len() < filter.size
            {
                let message = listing.message(object, &sizes, TextLength::Whole);
                bytes += message.encoded_len();
                if bytes > MAX_PAGE && !objects.is_empty() {
                    break;
                }
                objects.push(if bytes > MAX_PAGE {
                    listing.message(object, &sizes, TextLength::Cut)
                } else {
                    message
                });
                last = Some((*place).clone());
                left.next();
            }
            (objects, last)
        });
        let next_page_token = match (left.peek(), last) {
            (Some(_), Some(last)) => {
                self.keep(&known);
                filter.page_token(&known.fingerprint.to_string(), &last)
            }
            _ => String::new(),
        };
        Ok(pb::DescribeSchemaResponse {
            objects,
            next_page_token,
            fingerprint: known.fingerprint.to_string(),
            not_compared: known.snapshot.not_compared.clone(),
        })
    }

    /// The schema that the page before was of, while it is kept; else as it is now.
    async fn known(
        &self,
        client: &Client,
        filter: &ObjectFilter,
        except: &Except,
    ) -> Result<Arc<CachedSchema>, Failure> {
        let kept = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(kept) =
            kept.filter(|kept| filter.seen.as_ref() == Some(&kept.fingerprint.to_string()))
        {
            return Ok(kept);
        }
        let snapshot =
            schema::read(client, except).await.map_err(|error| {
                match error {
            DatabaseError::Sql(error) if error.is(&SqlState::LOCK_NOT_AVAILABLE) => Failure::new(
                Reason::DatabaseUnavailable,
                "somebody holds a lock on a table that the server opens to write what is made of \
                 it (views, indexes, checks, generated columns, rules, policies, triggers); try \
                 again later, when no migration runs",
            )
            .with("sqlstate", error.sqlstate),
            error => error.into(),
        }
            })?;
        Ok(Arc::new(CachedSchema {
            fingerprint: snapshot.fingerprint(),
            snapshot,
        }))
    }

    fn keep(&self, known: &Arc<CachedSchema>) {
        let before = self
            .kept
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .replace(known.clone());
        if before.is_some_and(|before| Arc::ptr_eq(&before, known)) {
            return;
        }
        let (kept, known) = (self.kept.clone(), Arc::downgrade(known));
        tokio::spawn(async move {
            tokio::time::sleep(KEPT_FOR).await;
            let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
            kept.take_if(|kept| std::ptr::eq(Arc::as_ptr(kept), known.as_ptr()));
        });
    }
}

#[tonic::async_trait]
impl pb::schema_service_server::SchemaService for SchemaHandlers {
    async fn describe_schema(
        &self,
        request: Request<pb::DescribeSchemaRequest>,
    ) -> MigrationAnswer<pb::DescribeSchemaResponse> {
        let caller = request
            .extensions()
            .get()
            .cloned()
            .unwrap_or(Caller::Address(None));
        let Quota { each, all } = WAITING;
        let _waiting = self.waiting.enter(caller, WAITING).ok_or_else(|| {
            let message = format!(
                "{each} schemas of one caller, or {all} of all, are being read; ask again later"
            );
            status::status_from_failure(&Failure::new(Reason::TooManyRequests, message))
        })?;
        let message = request.into_inner();
        check_database(&self.database, &message.database)?;
        let filter = request::schema(message).map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(
            self.describe(&filter)
                .await
                .map_err(|e| status::status_from_failure(&e))?,
        ))
    }
}
