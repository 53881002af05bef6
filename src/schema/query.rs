//! How a read asks its questions: once, without leaving anything in the session; or again and
//! again, with statements that the session keeps, because planning forty questions takes longer
//! than answering them about a small schema.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio_postgres::{
    Client, Row, Statement,
    error::SqlState,
    types::{ToSql, Type},
};

use crate::postgres::DatabaseError;

/// The answer that says why a transaction has failed comes before those that say that it has.
const CAUSE_WITHIN: Duration = Duration::from_secs(1);

/// The statements that one session keeps. They are of no use to another.
#[derive(Default)]
pub(crate) struct PreparedQueries {
    statements: Mutex<HashMap<String, Statement>>,
}

impl PreparedQueries {
    /// Forgets them: the session has ended them.
    pub(crate) fn clear(&self) {
        self.statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// A parameter with its type.
pub(super) type Parameter<'a> = (&'a (dyn ToSql + Sync), Type);

/// A session, and what it keeps.
#[derive(Clone, Copy)]
pub(super) struct CatalogQuery<'a> {
    pub client: &'a Client,
    pub prepared: Option<&'a PreparedQueries>,
}

impl CatalogQuery<'_> {
    /// Asks. On the heap, because forty of these are waited for at once, and a thread's stack is
    /// small.
    pub(super) fn ask<'f>(
        self,
        query: &'f str,
        parameters: &'f [Parameter<'f>],
    ) -> Pin<Box<dyn Future<Output = Result<Vec<Row>, DatabaseError>> + Send + 'f>>
    where
        Self: 'f,
    {
        Box::pin(async move {
            let answer = self.asked(query, parameters).await;
            if matches!(&answer, Err(DatabaseError::Sql(error)) if error.is(&SqlState::IN_FAILED_SQL_TRANSACTION))
            {
                // Another of those that are waited for together was refused, and says why; that
                // ends this wait.
                tokio::time::sleep(CAUSE_WITHIN).await;
            }
            answer
        })
    }

    async fn asked(
        self,
        query: &str,
        parameters: &[Parameter<'_>],
    ) -> Result<Vec<Row>, DatabaseError> {
        let Some(prepared) = self.prepared else {
            return Ok(self.client.query_typed(query, parameters).await?);
        };
        let known = prepared
            .statements
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .get(query)
            .cloned();
        let statement = match known {
            Some(statement) => statement,
            None => {
                let types: Vec<Type> = parameters.iter().map(|(_, of)| of.clone()).collect();
                let statement = self.client.prepare_typed(query, &types).await?;
                let mut statements = prepared
                    .statements
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                statements.insert(query.to_owned(), statement.clone());
                statement
            }
        };
        let values: Vec<_> = parameters.iter().map(|(value, _)| *value).collect();
        Ok(self.client.query(&statement, &values).await?)
    }
}
