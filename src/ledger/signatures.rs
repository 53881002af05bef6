//! The signatures of the down scripts in the ledger, as SignLedger writes them, and a record of
//! which were signed or refused.

use diesel::{
    QueryableByName, sql_query,
    sql_types::{Nullable, Text},
};
use diesel_async::RunQueryDsl as _;
use serde::{Deserialize, Serialize};
use tokio_postgres::{Client, types::Type};
use uuid::Uuid;

use super::operations::note;
use crate::postgres::{DatabaseError, pool::PooledReader};

/// The signatures that are to be written.
#[derive(Debug, Default)]
pub(crate) struct NewSignatures {
    /// The version and the signature.
    pub signed: Vec<(String, Vec<u8>)>,
    /// The version, and the reason that it was not signed.
    pub refused: Vec<(String, String)>,
}

/// The result of a SignLedger operation, as stored in the ledger.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SigningRecord {
    /// The versions that were signed.
    pub signed: Vec<String>,
    /// The version, and the reason that it was not signed.
    pub refused: Vec<(String, String)>,
}

/// Writes the signatures and an event. It runs in the transaction that begins the operation, and a
/// SignLedger has nothing else to do.
pub(super) async fn write(
    client: &Client,
    operation: Uuid,
    signatures: &NewSignatures,
) -> Result<(), DatabaseError> {
    let (versions, macs): (Vec<&str>, Vec<&[u8]>) = signatures
        .signed
        .iter()
        .map(|(version, mac)| (version.as_str(), mac.as_slice()))
        .unzip();
    let update = "UPDATE schemad.migrations m SET mac = s.mac \
        FROM unnest($1::text[], $2::bytea[]) s (version, mac) WHERE m.version = s.version";
    client
        .query_typed(
            update,
            &[(&versions, Type::TEXT_ARRAY), (&macs, Type::BYTEA_ARRAY)],
        )
        .await?;
    let data = serde_json::json!({ "signed": versions, "refused": signatures.refused });
    note(client, operation, "signed", &data.to_string()).await
}

/// Returns the result of the SignLedger operation with this id. It is empty for any other
/// operation.
///
/// # Errors
/// Returns an error if the query fails or the connection is lost.
pub(crate) async fn of(
    reader: &mut PooledReader,
    operation: Uuid,
) -> Result<SigningRecord, DatabaseError> {
    #[derive(QueryableByName)]
    struct Data {
        #[diesel(sql_type = Nullable<Text>)]
        data: Option<String>,
    }
    reader.begin().await?;
    let query = "SELECT e.data::text AS data FROM schemad.events e WHERE e.operation = $1::uuid \
        AND e.kind = 'signed'";
    let result = sql_query(query)
        .bind::<Text, _>(operation.to_string())
        .load::<Data>(reader.conn())
        .await;
    let rows = reader.end(result).await?;
    let data = rows.into_iter().find_map(|row| row.data);
    Ok(data
        .and_then(|json| serde_json::from_str(&json).ok())
        .unwrap_or_default())
}
