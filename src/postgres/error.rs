//! What PostgreSQL, or the way to it, can answer instead of a result. Nothing the server said is
//! dropped: diesel's own error has no SQLSTATE, and tokio-postgres hides the cause behind
//! `source()`.

use std::{error::Error as StdError, fmt, sync::Arc, time::Duration};

use tokio_postgres::error::{DbError, ErrorPosition, Severity, SqlState};

use crate::sql::SecretWords;

/// What stands in the place of the server's words where they quote a password.
const WITHHELD: &str = "refused; the server's words are not shown, because they may quote the \
    password that the statement holds";

/// An error that the server reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SqlError {
    /// The five-character SQLSTATE; empty where diesel reported the error, which drops it.
    pub sqlstate: String,
    /// The primary message.
    pub message: String,
    /// DETAIL.
    pub detail: Option<String>,
    /// HINT.
    pub hint: Option<String>,
    /// The schema of the relation concerned, where the server names it (of a violated constraint,
    /// for example).
    pub schema: Option<String>,
    /// The CONTEXT lines, for example a PL/pgSQL call stack.
    pub context: Option<String>,
    /// Characters from 1 into the message that was sent.
    pub position: Option<usize>,
    /// Characters from 1 into `internal_query`.
    pub internal_position: Option<usize>,
    /// A statement that the server made itself, for example inside a PL/pgSQL function.
    pub internal_query: Option<String>,
    /// A statement that the server made itself holds a password, which may stand in the script's
    /// own words, too.
    pub ran_secret: bool,
}

impl From<&DbError> for SqlError {
    fn from(error: &DbError) -> Self {
        let (position, internal_position, internal_query) = match error.position() {
            Some(ErrorPosition::Original(at)) => (Some(*at as usize), None, None),
            Some(ErrorPosition::Internal { position, query }) => {
                (None, Some(*position as usize), Some(query.clone()))
            }
            None => (None, None, None),
        };
        let said = Self {
            sqlstate: error.code().code().into(),
            message: error.message().into(),
            detail: error.detail().map(Into::into),
            hint: error.hint().map(Into::into),
            schema: error.schema().map(Into::into),
            context: error.where_().map(Into::into),
            position,
            internal_position,
            internal_query,
            ran_secret: false,
        };
        let inner = said.inner_secrets();
        Self {
            ran_secret: !inner.is_empty(),
            ..said
        }
        .without(&inner, false)
    }
}

impl SqlError {
    /// True for this SQLSTATE.
    pub fn is(&self, state: &SqlState) -> bool {
        self.sqlstate == state.code()
    }

    /// The passwords in statements that the server ran itself, and quotes.
    fn inner_secrets(&self) -> SecretWords {
        let quoted = self
            .context
            .as_deref()
            .map(SecretWords::of_context)
            .unwrap_or_default();
        quoted.and(
            self.internal_query
                .as_deref()
                .map(SecretWords::of)
                .unwrap_or_default(),
        )
    }

    /// The error without what shows one of `secrets`. `is_of_secret`: the statement that was
    /// refused holds one, and a syntax error quotes it wherever it went wrong.
    #[must_use]
    pub fn without(self, secrets: &SecretWords, is_of_secret: bool) -> Self {
        let is_own = |message: &str| {
            message.starts_with("unterminated ") && !message.contains("at or near")
                || message.ends_with("end of file")
        };
        let quotes = is_of_secret && self.is(&SqlState::SYNTAX_ERROR) && !is_own(&self.message);
        if secrets.is_empty() && !quotes {
            return self;
        }
        let shows = |text: &str| secrets.are_in(text);
        let kept = |text: Option<String>| {
            text.map(|text| {
                if shows(&text) {
                    WITHHELD.to_owned()
                } else {
                    text
                }
            })
        };
        let is_inner_shown = self
            .internal_query
            .as_deref()
            .is_some_and(|query| !shows(query));
        Self {
            message: if quotes || shows(&self.message) {
                WITHHELD.to_owned()
            } else {
                self.message
            },
            detail: kept(self.detail),
            hint: kept(self.hint),
            context: kept(self.context),
            internal_query: self.internal_query.filter(|_| is_inner_shown),
            internal_position: self.internal_position.filter(|_| is_inner_shown),
            ..self
        }
    }

    /// A step that failed with this was undone wholly and may be tried again: lock_timeout ran out,
    /// or a deadlock.
    pub fn is_lock_conflict(&self) -> bool {
        self.is(&SqlState::LOCK_NOT_AVAILABLE) || self.is(&SqlState::T_R_DEADLOCK_DETECTED)
    }
}

impl fmt::Display for SqlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.sqlstate.is_empty() {
            write!(f, " (SQLSTATE {})", self.sqlstate)?;
        }
        for (label, text) in [
            ("detail", &self.detail),
            ("hint", &self.hint),
            ("context", &self.context),
        ] {
            if let Some(text) = text {
                write!(f, "; {label}: {text}")?;
            }
        }
        Ok(())
    }
}

/// Why something could not be asked of the database.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DatabaseError {
    /// No connection could be made.
    #[error("cannot connect to {target}: {cause}")]
    Connect {
        /// `user@host:port/database`, never a password.
        target: String,
        /// The whole chain of causes.
        cause: String,
    },
    /// The server refused the connection or a statement.
    #[error("{0}")]
    Sql(Box<SqlError>),
    /// The connection ended or the answer made no sense. What ran may or may not have been
    /// committed.
    #[error("the database connection was lost: {0}")]
    Lost(String),
    /// No connection of the pool became free.
    #[error("all {size} database connections were in use for {waited:?}")]
    PoolExhausted {
        /// The pool's limit.
        size: u32,
        /// How long the read waited.
        waited: Duration,
    },
    /// The server did not answer.
    #[error("the database did not answer within {0:?}")]
    Timeout(Duration),
    /// A transaction pooler lies between schemad and the server.
    #[error("{0}")]
    Pooler(Arc<str>),
    /// The role may not do what it has to.
    #[error("the role {role} lacks a right: GRANT {right} TO {role};")]
    MissingRight {
        /// The role, quoted.
        role: String,
        /// What GRANT gives, for example `SELECT ON ALL TABLES IN SCHEMA schemad`.
        right: String,
    },
    /// The role that runs the migrations cannot be taken.
    #[error(
        "cannot run migrations as the role {role:?} (the setting SCHEMAD_ROLE): {cause}. {}",
        .grant.as_ref().map_or_else(|| "Create it, or name another".to_owned(), |grant| format!("{grant};"))
    )]
    Role {
        /// As it was given.
        role: String,
        /// The server's words.
        cause: String,
        /// What helps, where there is such a role.
        grant: Option<String>,
    },
    /// Row security hides rows of a table whose every row counts.
    #[error(
        "row security hides rows of {table} from the role {role}, so what is applied cannot be \
         told: ALTER TABLE {table} DISABLE ROW LEVEL SECURITY, or ALTER ROLE {role} BYPASSRLS"
    )]
    RowSecurity {
        /// The table with its schema, quoted.
        table: String,
        /// The role, quoted.
        role: String,
    },
    /// What stands in the place of Diesel's table could run code of others with the daemon's
    /// rights, or is not the operator's.
    #[error("Diesel's table {table} is not used: {problem}")]
    UnsafeTable {
        /// The table with its schema, quoted.
        table: String,
        /// What is wrong, and what to do.
        problem: String,
    },
    /// The ledger, or something of it, belongs to somebody whose code could run as the daemon.
    #[error("{0}")]
    ForeignLedger(String),
    /// A part of the ledger is missing or was changed by hand.
    #[error("{0}")]
    Damaged(String),
    /// The server is older than schemad can use.
    #[error("the server is PostgreSQL {0}; schemad needs 13 or later")]
    ServerTooOld(String),
}

/// Something of the ledger that belongs to somebody else.
#[derive(Clone, Copy, Debug)]
pub struct ForeignObject<'a> {
    /// schema, table or function.
    pub kind: &'a str,
    /// The object's name, quoted by the server.
    pub name: &'a str,
    /// The owner's name, quoted by the server.
    pub owner: &'a str,
}

impl<'a> ForeignObject<'a> {
    /// Reads the array of kind, name and owner that a query returns; `None` for another length.
    pub fn of(found: &'a [String]) -> Option<Self> {
        let [kind, name, owner] = found else {
            return None;
        };
        Some(Self { kind, name, owner })
    }
}

impl DatabaseError {
    /// Diesel's table, as the server quotes it, is not what it should be.
    pub fn unsafe_table(table: &str, problem: &str) -> Self {
        Self::UnsafeTable {
            table: table.into(),
            problem: problem.into(),
        }
    }

    /// Diesel's table, as the server quotes it, belongs to somebody whose code it could run as the
    /// daemon.
    pub fn untrusted_owner(table: &str, owner: &str) -> Self {
        let problem = format!(
            "its owner {owner} is neither the daemon's role, nor the owner of the ledger, nor a \
             superuser, and what an owner puts on a table would run with the daemon's rights. If \
             it is the right table: ALTER TABLE {table} OWNER TO the daemon's role, and GRANT \
             SELECT, INSERT, DELETE ON {table} TO {owner}; else somebody changed schemad.ledger"
        );
        Self::UnsafeTable {
            table: table.into(),
            problem,
        }
    }

    /// The refusal of a ledger whose `object` belongs to a role that `role`, the daemon's, has no
    /// reason to trust. Names are as the server quotes them.
    pub fn foreign_ledger(
        object: &ForeignObject<'_>,
        role: &str,
        is_superuser: bool,
        migrating_role: Option<&str>,
    ) -> Self {
        let ForeignObject { kind, name, owner } = object;
        let alter = format!("ALTER {} {name} OWNER TO {role}", kind.to_uppercase());
        let (who, cure) = match migrating_role == Some(owner) {
            true => (
                format!("whom migrations run as (SCHEMAD_ROLE={owner})"),
                alter,
            ),
            false if is_superuser => (format!("who is neither a superuser nor {role}"), alter),
            false => (
                format!(
                    "who is neither a superuser nor {role} nor a role that {role} is a member of"
                ),
                format!("{alter}; or GRANT {owner} TO {role}"),
            ),
        };
        Self::ForeignLedger(format!(
            "the {kind} {name} belongs to {owner}, {who}: code of {owner} could run with the \
             daemon's rights. If schemad made it, and nobody has changed it: {cure}; else drop it, \
             or rename the schema away (ALTER SCHEMA schemad RENAME TO ...)"
        ))
    }

    /// What the server said, if it was the server.
    pub fn sql(&self) -> Option<&SqlError> {
        match self {
            Self::Sql(error) => Some(error),
            _ => None,
        }
    }

    /// A lock could not be had within lock_timeout.
    pub fn is_lock_timeout(&self) -> bool {
        self.sql()
            .is_some_and(|error| error.is(&SqlState::LOCK_NOT_AVAILABLE))
    }
}

impl From<SqlError> for DatabaseError {
    fn from(error: SqlError) -> Self {
        Self::Sql(Box::new(error))
    }
}

impl From<tokio_postgres::Error> for DatabaseError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // The server closes the session after these (shutdown, termination, crash of a
            // neighbour). As an ERROR it is somebody else's word: a script's RAISE, or another
            // server's through a foreign table.
            Some(db)
                if db.code().code().starts_with("57P")
                    && !matches!(db.parsed_severity(), Some(Severity::Error)) =>
            {
                Self::Lost(SqlError::from(db).to_string())
            }
            Some(db) => SqlError::from(db).into(),
            None => Self::Lost(chain(&error)),
        }
    }
}

/// The SQLSTATE of what the server says, where it speaks English: diesel keeps the message and
/// drops the SQLSTATE. Empty for all that schemad does not tell apart.
pub(super) fn sqlstate_of(message: &str) -> &'static str {
    let is_missing = |kind: &str| message.starts_with(kind) && message.ends_with(" does not exist");
    match message {
        "canceling statement due to lock timeout" => "55P03",
        _ if is_missing("column ") => "42703",
        _ if is_missing("relation ") => "42P01",
        _ if is_missing("function ") => "42883",
        _ => "",
    }
}

/// What a pooler means that gives up before it has a server connection to give.
pub(crate) const POOL_TOO_SMALL: &str = "the pooler's pool has no server connection left: schemad \
    keeps up to SCHEMAD_POOL_SIZE and 5 more open (10 by default), and SCHEMAD_POOL_OVERFLOW more \
    under load; give the pool as many, or lower those";

/// An error with all its causes, each once.
pub(crate) fn chain(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
