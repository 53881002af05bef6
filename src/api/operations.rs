//! OperationService.

use std::{sync::Arc, time::UNIX_EPOCH};

use futures_util::StreamExt as _;
use tonic::{Request, Response};

use super::{
    convert, gate,
    migrations::{EventResponses, MigrationAnswer, check_database, malformed},
    request,
    stream::StreamEnd,
};
use crate::{database::Database, failure::status, pb};
use crate::{
    failure::Failure,
    ledger::{control, history},
};

/// The service.
pub(crate) struct OperationHandlers {
    /// The database that requests are about.
    pub database: Arc<Database>,
}

/// What is not goes to the log.
fn well_formed<T>(checked: Result<T, Failure>) -> Result<T, Failure> {
    checked.inspect_err(|failure| {
        malformed(failure);
    })
}

impl OperationHandlers {
    async fn get(&self, id: &str) -> Result<pb::Operation, Failure> {
        let id = well_formed(request::operation_id(id))?;
        let found = self
            .database
            .reads
            .read(|reader| Box::pin(history::get(reader, id)))
            .await?;
        found
            .as_ref()
            .map(convert::operation)
            .ok_or_else(|| control::unknown(id))
    }

    async fn list(
        &self,
        message: pb::ListOperationsRequest,
    ) -> Result<pb::ListOperationsResponse, Failure> {
        let (filter, size) = well_formed(request::operations(message))?;
        let found = self
            .database
            .reads
            .read(|reader| {
                let filter = filter.clone();
                Box::pin(async move { history::list(reader, &filter, size + 1).await })
            })
            .await?;
        let next_page_token = match found.get(size - 1).filter(|_| found.len() > size) {
            Some(last) => {
                let micros = last
                    .created_at
                    .duration_since(UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_micros();
                request::operations_page_token(&filter, micros, last.id)
            }
            None => String::new(),
        };
        let operations = found.iter().take(size).map(convert::operation).collect();
        Ok(pb::ListOperationsResponse {
            operations,
            next_page_token,
        })
    }
}

#[tonic::async_trait]
impl pb::operation_service_server::OperationService for OperationHandlers {
    async fn get_operation(
        &self,
        request: Request<pb::GetOperationRequest>,
    ) -> MigrationAnswer<pb::GetOperationResponse> {
        let message = request.into_inner();
        check_database(&self.database, &message.database)?;
        let operation = self
            .get(&message.id)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::GetOperationResponse {
            operation: Some(operation),
        }))
    }

    async fn list_operations(
        &self,
        request: Request<pb::ListOperationsRequest>,
    ) -> MigrationAnswer<pb::ListOperationsResponse> {
        let message = request.into_inner();
        check_database(&self.database, &message.database)?;
        Ok(Response::new(
            self.list(message)
                .await
                .map_err(|e| status::status_from_failure(&e))?,
        ))
    }

    type WatchOperationStream = EventResponses<pb::WatchOperationResponse>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> MigrationAnswer<Self::WatchOperationStream> {
        let message = request.into_inner();
        check_database(&self.database, &message.database)?;
        let (id, after) = request::watch(&message).map_err(|e| malformed(&e))?;
        let follower = self
            .database
            .operations
            .watch(id, after)
            .await
            .map_err(|e| status::status_from_failure(&e))?;
        let events = super::stream::follow(follower, StreamEnd::Well);
        let wrap = |event| pb::WatchOperationResponse { event: Some(event) };
        Ok(Response::new(Box::pin(
            events.map(move |event| event.map(wrap)),
        )))
    }

    async fn cancel_operation(
        &self,
        request: Request<pb::CancelOperationRequest>,
    ) -> MigrationAnswer<pb::CancelOperationResponse> {
        let (principal, message) = gate::caller(request)?;
        check_database(&self.database, &message.database)?;
        let cancel = async {
            let id = well_formed(request::operation_id(&message.id))?;
            self.database.operations.cancel(id, &principal).await
        };
        let operation = cancel.await.map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::CancelOperationResponse {
            operation: Some(convert::operation(&operation)),
        }))
    }
}
