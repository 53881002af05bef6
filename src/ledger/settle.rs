//! Changes that other tools made to Diesel's table since the last operation. Versions that appeared
//! are adopted, and versions that disappeared are deleted from the ledger. Both are recorded in an
//! event of the operation that found them.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::signatures::NewSignatures;
use crate::{
    migration::{Direction, Migration, MigrationRow, set::MigrationSet, signature::DownSigner},
    planner::{LedgerResolution, is_contradicted},
};

/// The changes that the next operation writes to the ledger before its first step.
#[derive(Debug, Default)]
pub(crate) struct Settlement<'a> {
    /// The rows that are only in Diesel's table, in the order of run_on. Each has its migration, if
    /// the binary embeds it.
    pub adopted: Vec<(&'a MigrationRow, Option<&'a Migration>)>,
    /// The rows that are only in the ledger.
    pub forgotten: Vec<&'a MigrationRow>,
    /// The resolution that an operator requested.
    pub resolution: Option<LedgerResolution>,
    /// The signatures that an operator requested.
    pub signatures: Option<NewSignatures>,
    /// The characters of the adopted migrations that the database cannot hold. A script with one of
    /// them is not stored.
    pub not_held: BTreeSet<char>,
    /// Signs the down scripts of the adopted migrations, if a signing key is configured.
    pub signer: Option<DownSigner<'a>>,
}

impl<'a> Settlement<'a> {
    /// Compares Diesel's table with the ledger. If a resolution restores the rows of Diesel's
    /// table, none is deleted from the ledger.
    pub(crate) fn of(
        rows: &'a [MigrationRow],
        catalog: &'a MigrationSet,
        resolution: Option<LedgerResolution>,
    ) -> Self {
        let mut adopted: Vec<_> = rows
            .iter()
            .filter(|row| row.is_applied() && row.recorded.is_none() && !is_contradicted(row))
            .map(|row| (row, catalog.get(&row.version)))
            .collect();
        adopted.sort_by_key(|(row, _)| (row.run_on, &row.version));
        let is_restored = matches!(resolution, Some(LedgerResolution::RestoreTable));
        let forgotten = rows
            .iter()
            .filter(|_| !is_restored)
            .filter(|row| row.is_reverted_elsewhere() && !is_contradicted(row))
            .collect();
        Self {
            adopted,
            forgotten,
            resolution,
            ..Self::default()
        }
    }

    /// Returns whether the database can hold `text`.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.not_held.is_empty() || !text.contains(|c| self.not_held.contains(&c))
    }

    /// Returns the steps with a journal without progress, for migrations that another tool has
    /// applied or reverted since. Diesel's table shows that they are settled.
    pub(crate) fn settled_journals(&self) -> impl Iterator<Item = i64> + '_ {
        let adopted = self.adopted.iter().map(|(row, _)| (*row, Direction::Up));
        let forgotten = self.forgotten.iter().map(|row| (*row, Direction::Down));
        adopted.chain(forgotten).filter_map(|(row, settled)| {
            row.journal
                .as_ref()
                .filter(|journal| journal.direction == settled)
                .map(|journal| journal.step)
        })
    }

    /// Logs the changes.
    pub(crate) fn log(&self, operation: Uuid) {
        if !self.adopted.is_empty() {
            tracing::info!(event = "operation.adopted", %operation, count = self.adopted.len(),
                "adopted migrations that something else applied");
        }
        if !self.forgotten.is_empty() {
            tracing::info!(event = "operation.forgotten", %operation, count = self.forgotten.len(),
                "noted migrations that something else reverted");
        }
        if let Some(NewSignatures { signed, refused }) = &self.signatures {
            tracing::info!(event = "operation.signed", %operation, signed = signed.len(), refused = refused.len(),
                "signed downs that the ledger keeps");
        }
    }
}
