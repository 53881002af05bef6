//! The SQL of any Diesel migration, found by letting it run against a connection that only writes
//! down. Diesel has no public way to an embedded migration's text (diesel_migrations 2.3).

use diesel::{
    ConnectionResult, QueryResult,
    connection::{
        AnsiTransactionManager, CacheSize, Connection, ConnectionSealed, Instrumentation,
        SimpleConnection,
    },
    migration::Migration,
    pg::Pg,
    query_builder::{QueryFragment, QueryId},
};
use diesel_migrations::MigrationError;

/// The text of a migration's up.
pub(super) fn up(migration: &dyn Migration<Pg>) -> diesel::migration::Result<String> {
    let mut recorder = SqlRecorder::default();
    migration.run(&mut recorder)?;
    Ok(recorder.text())
}

/// The text of a migration's down, `None` when it has none or it is empty.
pub(super) fn down(migration: &dyn Migration<Pg>) -> diesel::migration::Result<Option<String>> {
    let mut recorder = SqlRecorder::default();
    match migration.revert(&mut recorder) {
        Ok(()) => Ok(Some(recorder.text())),
        Err(error)
            if matches!(
                error.downcast_ref(),
                Some(MigrationError::NoMigrationRevertFile)
            ) =>
        {
            Ok(None)
        }
        // A file of 0 bytes, for FileBasedMigrations; the error's type is not public.
        Err(error)
            if error
                .to_string()
                .ends_with("Attempted to run an empty migration.") =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[derive(Default)]
struct SqlRecorder {
    scripts: Vec<String>,
    transactions: AnsiTransactionManager,
    instrumentation: Option<Box<dyn Instrumentation>>,
}

impl SqlRecorder {
    /// What was sent, in one text; a line break keeps a trailing comment from swallowing what
    /// follows.
    fn text(self) -> String {
        self.scripts.join("\n;\n")
    }
}

impl SimpleConnection for SqlRecorder {
    fn batch_execute(&mut self, query: &str) -> QueryResult<()> {
        self.scripts.push(query.into());
        Ok(())
    }
}

impl ConnectionSealed for SqlRecorder {}

impl Connection for SqlRecorder {
    type Backend = Pg;
    type TransactionManager = AnsiTransactionManager;

    fn establish(_: &str) -> ConnectionResult<Self> {
        Ok(Self::default())
    }

    fn execute_returning_count<T: QueryFragment<Pg> + QueryId>(
        &mut self,
        _: &T,
    ) -> QueryResult<usize> {
        Err(diesel::result::Error::QueryBuilderError(
            "schemad embeds SQL: a migration may use only batch_execute, not Diesel's query \
             builder"
                .into(),
        ))
    }

    fn transaction_state(&mut self) -> &mut AnsiTransactionManager {
        &mut self.transactions
    }

    fn instrumentation(&mut self) -> &mut dyn Instrumentation {
        &mut self.instrumentation
    }

    fn set_instrumentation(&mut self, instrumentation: impl Instrumentation) {
        self.instrumentation = Some(Box::new(instrumentation));
    }

    fn set_prepared_statement_cache_size(&mut self, _: CacheSize) {}
}
