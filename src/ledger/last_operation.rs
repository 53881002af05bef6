//! The operation that ended last, for whoever asks how things stand.

use diesel::sql_query;
use diesel_async::RunQueryDsl as _;

use super::{
    OperationRow,
    history::{RawOperation, operation_columns},
};
use crate::postgres::{DatabaseError, pool::PooledReader};

/// The newest operation that has ended, which the index on the time they were created at finds
/// without reading the others: one runs at a time, so the newest is the last. `None`: there is none
/// yet. There has to be a ledger.
///
/// # Errors
/// The database's, or its loss.
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
