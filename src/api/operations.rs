//! OperationService.

use std::time::UNIX_EPOCH;

use futures_util::StreamExt as _;
use tonic::{Request, Response};

use super::{
    convert, gate,
    migrations::{EventResponses, MigrationAnswer, malformed},
    reads::ReadHandle,
    request,
    stream::StreamEnd,
};
use crate::{
    failure::Failure,
    ledger::{control, history},
    operation::Operations as Running,
};
use crate::{failure::status, pb};

/// The service.
pub(crate) struct OperationHandlers {
    /// For reads.
    pub reads: ReadHandle,
    /// For those that run.
    pub operations: Running,
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
        let operation = self
            .get(&request.into_inner().id)
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
        Ok(Response::new(
            self.list(request.into_inner())
                .await
                .map_err(|e| status::status_from_failure(&e))?,
        ))
    }

    type WatchOperationStream = EventResponses<pb::WatchOperationResponse>;

    async fn watch_operation(
        &self,
        request: Request<pb::WatchOperationRequest>,
    ) -> MigrationAnswer<Self::WatchOperationStream> {
        let (id, after) = request::watch(&request.into_inner()).map_err(|e| malformed(&e))?;
        let follower = self
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
        let cancel = async {
            let id = well_formed(request::operation_id(&message.id))?;
            self.operations.cancel(id, &principal).await
        };
        let operation = cancel.await.map_err(|e| status::status_from_failure(&e))?;
        Ok(Response::new(pb::CancelOperationResponse {
            operation: Some(convert::operation(&operation)),
        }))
    }
}
