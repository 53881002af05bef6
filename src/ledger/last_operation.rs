//! Reads the operation that ended last, for the status report.

use diesel::sql_query;
use diesel_async::RunQueryDsl as _;

use super::{
    OperationRow,
    history::{RawOperation, operation_columns},
};
use crate::postgres::{DatabaseError, pool::PooledReader};

/// Returns the newest operation that has ended, or `None` if there is none. Operations run one at a
/// time, so the newest is the last. The index on the time of creation finds it without a scan.
/// There must be a ledger.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn read(reader: &mut PooledReader) -> Result<Option<OperationRow>, DatabaseError> {
    let query = concat!(
        "SELECT ",
        operation_columns!(),
        " FROM schemad.operations o WHERE o.state NOT IN ('pending', 'running') ORDER BY \
         o.created_at DESC, o.id DESC LIMIT 1"
    );
    reader.begin().await?;
    let result = sql_query(query).load::<RawOperation>(reader.conn()).await;
    Ok(reader
        .end(result.map(|mut rows| rows.pop()))
        .await?
        .map(OperationRow::from))
}
