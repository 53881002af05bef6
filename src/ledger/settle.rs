//! What others did to the Diesel table since the ledger last looked: versions that appeared are
//! adopted, versions that went are forgotten, each with an audit row under the operation that found
//! it.

use std::collections::BTreeSet;

use uuid::Uuid;

use super::signatures::NewSignatures;
use crate::{
    migration::{Direction, Migration, MigrationRow, set::MigrationSet, signature::DownSigner},
    planner::{LedgerResolution, is_contradicted},
};

/// What the next operation settles before its first step.
#[derive(Debug, Default)]
pub(crate) struct Settlement<'a> {
    /// In the Diesel table only, in the order of run_on; with the embedded migration where the
    /// binary carries it.
    pub adopted: Vec<(&'a MigrationRow, Option<&'a Migration>)>,
    /// In the ledger only.
    pub forgotten: Vec<&'a MigrationRow>,
    /// What a person settles.
    pub resolution: Option<LedgerResolution>,
    /// What a person vouches for.
    pub signatures: Option<NewSignatures>,
    /// Characters of what is adopted that the database cannot hold: a script with one is not kept,
    /// because its text could not be.
    pub not_held: BTreeSet<char>,
    /// Signs the downs of what is adopted, where there is a key.
    pub signer: Option<DownSigner<'a>>,
}

impl<'a> Settlement<'a> {
    /// Compares the two tables. What a resolution puts back into Diesel's table is not forgotten.
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

    /// Whether the database can hold `text`.
    pub(crate) fn holds(&self, text: &str) -> bool {
        self.not_held.is_empty() || !text.contains(|c| self.not_held.contains(&c))
    }

    /// The steps of which nothing is done, and which others did, one way or the other: the Diesel
    /// table says so.
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

    /// Says it.
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
