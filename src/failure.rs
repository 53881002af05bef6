//! How schemad says no. A failure is a situation that an operator can recognise and act on; it is
//! the same whether it answers a call, is kept in the ledger or is printed by the command line.

mod of_database;
pub(crate) mod status;

pub(crate) use of_database::{LEDGER_REPAIR, is_damage};

use std::{collections::BTreeMap, fmt};

use serde::{Deserialize, Serialize};

/// What kind of no: it decides the gRPC code and the command line's exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailureKind {
    /// The request is malformed.
    Invalid,
    /// Nothing by that name.
    NotFound,
    /// The state of the database or of the set does not allow it.
    Refused,
    /// The migration's own SQL failed.
    Failed,
    /// Another operation runs.
    Busy,
    /// The daemon or the database session went away in the middle.
    Interrupted,
    /// Somebody cancelled it.
    Cancelled,
    /// Try later: database, pool or daemon are not available.
    Unavailable,
    /// Too many at once.
    Exhausted,
    /// Its time is over.
    Expired,
    /// Nobody knows who asks.
    Unauthenticated,
    /// It is known who asks, and that is not enough.
    Denied,
    /// Nothing here does that.
    Unsupported,
    /// A mistake in schemad.
    Internal,
}

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $name:ident $word:literal $kind:ident,)+) => {
        /// Why, as ErrorInfo.reason says it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Reason { $($(#[doc = $doc])+ $name,)+ }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),+];

            /// UPPER_SNAKE, as on the wire and in the ledger.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $word,)+ }
            }

            /// The reason of this word. A newer daemon's that this one does not know reads as
            /// [`Reason::Internal`].
            pub fn parse(word: &str) -> Self {
                Self::ALL.iter().copied().find(|r| r.as_str() == word).unwrap_or(Self::Internal)
            }

            /// What kind of no it is.
            pub fn kind(self) -> FailureKind {
                match self { $(Self::$name => FailureKind::$kind,)+ }
            }

            /// One sentence for docs/errors.md.
            pub fn doc(self) -> &'static str {
                match self { $(Self::$name => concat!($($doc),+).trim_start(),)+ }
            }
        }
    };
}

reasons! {
    /// The version is empty, longer than 50 characters or holds control characters.
    InvalidVersion "INVALID_VERSION" Invalid,
    /// `steps` is not between 1 and 10,000.
    InvalidSteps "INVALID_STEPS" Invalid,
    /// Rollback needs exactly one of `steps`, `to` and `all`; SignLedger either `versions` or
    /// `all`.
    TargetMissing "TARGET_MISSING" Invalid,
    /// The request_id is not a UUID.
    InvalidRequestId "INVALID_REQUEST_ID" Invalid,
    /// The request_id was used before for another request.
    RequestIdReused "REQUEST_ID_REUSED" Invalid,
    /// A duration is negative or longer than 24 hours.
    InvalidDuration "INVALID_DURATION" Invalid,
    /// expected_set_digest is not "sha256:" and 64 hex digits.
    InvalidDigest "INVALID_DIGEST" Invalid,
    /// The page size is negative or above 1,000.
    InvalidPageSize "INVALID_PAGE_SIZE" Invalid,
    /// The page token was not returned by this method.
    InvalidPageToken "INVALID_PAGE_TOKEN" Invalid,
    /// down_from is not a known source.
    InvalidSource "INVALID_SOURCE" Invalid,
    /// The request is larger than a message may be (--max-message-size).
    MessageTooLarge "MESSAGE_TOO_LARGE" Exhausted,
    /// The request's headers are larger than they may be (--max-header-size).
    HeadersTooLarge "HEADERS_TOO_LARGE" Exhausted,
    /// The request's bytes are not a message of that method.
    MalformedMessage "MALFORMED_MESSAGE" Invalid,
    /// The daemon has no method of that name.
    UnknownMethod "UNKNOWN_METHOD" Unsupported,
    /// The request is compressed in a way that the daemon does not read.
    UnsupportedCompression "UNSUPPORTED_COMPRESSION" Unsupported,
    /// Neither the daemon, the Diesel table nor the ledger knows the version.
    UnknownVersion "UNKNOWN_VERSION" NotFound,
    /// The daemon does not manage a database of that name.
    UnknownDatabase "UNKNOWN_DATABASE" NotFound,
    /// The operation is not in this database's ledger.
    UnknownOperation "UNKNOWN_OPERATION" NotFound,
    /// The operation's id is not a UUID.
    InvalidOperation "INVALID_OPERATION" Invalid,
    /// The sequence is negative, or beyond the operation's last event.
    InvalidSequence "INVALID_SEQUENCE" Invalid,
    /// A filter names no kind, state, time or principal there is.
    InvalidFilter "INVALID_FILTER" Invalid,
    /// The operation has ended, so it cannot be cancelled.
    OperationEnded "OPERATION_ENDED" Refused,
    /// Somebody cancelled the operation; its running step was undone, the steps before it stay.
    Cancelled "CANCELLED" Cancelled,
    /// A pending migration is older than one that is applied.
    OutOfOrder "OUT_OF_ORDER" Refused,
    /// A pending migration is older than an applied one that this daemon does not know.
    UnknownNewer "UNKNOWN_NEWER" Refused,
    /// A migration is pending, and none of the applied ones is in the daemon's set.
    ForeignSet "FOREIGN_SET" Refused,
    /// The up of an applied migration was changed since.
    Edited "EDITED" Refused,
    /// The daemon does not carry the set that the caller expects.
    SetMismatch "SET_MISMATCH" Refused,
    /// The rollback's target is not applied.
    NotApplied "NOT_APPLIED" Refused,
    /// Fewer migrations are applied than should be rolled back.
    TooFewApplied "TOO_FEW_APPLIED" Refused,
    /// A migration that would be rolled back has no down script anywhere.
    Irreversible "IRREVERSIBLE" Refused,
    /// The ledger's and the daemon's down script differ and the request does not choose.
    DownsDiffer "DOWNS_DIFFER" Refused,
    /// A statement was sent outside a transaction and nobody recorded whether it took effect.
    InDoubt "IN_DOUBT" Refused,
    /// An up that is not one transaction ended before its last statement; nothing is rolled back
    /// under it, and nothing applied on top by a daemon that lacks it.
    HalfApplied "HALF_APPLIED" Refused,
    /// A down that is not one transaction ended before its last statement; only a rollback goes on
    /// from there.
    HalfReverted "HALF_REVERTED" Refused,
    /// Clients watch the version that would be rolled back.
    InUse "IN_USE" Refused,
    /// Nothing about the migration is in doubt, half done or edited that could be resolved like
    /// this.
    NothingToResolve "NOTHING_TO_RESOLVE" Refused,
    /// Resolve and SignLedger need a reason, of at most 1,000 characters.
    InvalidReason "INVALID_REASON" Invalid,
    /// Resolve needs an outcome.
    InvalidOutcome "INVALID_OUTCOME" Invalid,
    /// A script that ended before its last statement was changed in what had run.
    JournalDiffers "JOURNAL_DIFFERS" Refused,
    /// The script runs in a transaction and holds a statement that cannot.
    NonTransactional "NON_TRANSACTIONAL" Refused,
    /// The script runs statement by statement, and a statement relies on what the session had
    /// before: a temporary table, SET LOCAL, currval().
    LosesSession "LOSES_SESSION" Refused,
    /// The script holds a statement that would end the transaction it runs in.
    EndsTransaction "ENDS_TRANSACTION" Refused,
    /// The script changes the role that it runs as, and the daemon runs migrations as a role of its
    /// own (--role).
    ChangesRole "CHANGES_ROLE" Refused,
    /// The script copies from or to the client, or holds a command of psql's; there is neither.
    NeedsClient "NEEDS_CLIENT" Refused,
    /// A script that the ledger should hold is missing from it.
    ScriptMissing "SCRIPT_MISSING" Refused,
    /// A newer schemad changed the ledger so that this one cannot use it.
    LedgerTooNew "LEDGER_TOO_NEW" Refused,
    /// The ledger is gone or of an older version, and what does not make it has nowhere to write;
    /// the next operation makes it.
    LedgerNotReady "LEDGER_NOT_READY" Refused,
    /// A part of the ledger is missing, was changed by hand or has what could run code of others;
    /// the message says which, and what to do.
    LedgerDamaged "LEDGER_DAMAGED" Refused,
    /// Diesel's table is gone, or has none of the migrations that the ledger lists as applied; a
    /// person has to say which of the two is right.
    DieselTableLost "DIESEL_TABLE_LOST" Refused,
    /// What the ledger names as Diesel's table could run code of others with the daemon's rights,
    /// or is not where the operator means.
    DieselTableUnsafe "DIESEL_TABLE_UNSAFE" Refused,
    /// The migrations' search_path begins with the ledger's schema, where they would create what
    /// they do not qualify.
    SearchPathUnsafe "SEARCH_PATH_UNSAFE" Refused,
    /// Row security hides rows of Diesel's table or of the ledger from the daemon's role.
    RowSecurity "ROW_SECURITY" Refused,
    /// The schema `schemad` exists and is not schemad's, or it or something of the ledger belongs
    /// to somebody whose code could run as the daemon.
    LedgerForeign "LEDGER_FOREIGN" Refused,
    /// The database role lacks a right; the message names the GRANT.
    MissingRight "MISSING_RIGHT" Refused,
    /// A transaction pooler lies between schemad and the server.
    TransactionPooler "TRANSACTION_POOLER" Refused,
    /// DATABASE_URL and MIGRATION_DATABASE_URL lead to two databases, also where one is a copy of
    /// the other.
    DatabasesDiffer "DATABASES_DIFFER" Refused,
    /// The server is a standby or read-only.
    ReadOnlyServer "READ_ONLY_SERVER" Refused,
    /// The server is older than PostgreSQL 13.
    ServerTooOld "SERVER_TOO_OLD" Refused,
    /// The migration's SQL failed; it was undone, the steps before it stay.
    MigrationFailed "MIGRATION_FAILED" Failed,
    /// A step could not get its locks within lock_wait; it was undone, the steps before it stay.
    LockTimeout "LOCK_TIMEOUT" Failed,
    /// Another operation holds the lock.
    Busy "BUSY" Busy,
    /// Another session has locked a table of the ledger, or Diesel's; nothing was begun.
    LedgerLocked "LEDGER_LOCKED" Busy,
    /// The operation ended before its last step: its daemon stopped or its database session was
    /// lost.
    Interrupted "INTERRUPTED" Interrupted,
    /// The database cannot be reached or did not answer.
    DatabaseUnavailable "DATABASE_UNAVAILABLE" Unavailable,
    /// All connections of the pool are in use.
    PoolExhausted "POOL_EXHAUSTED" Unavailable,
    /// The daemon is shutting down.
    ShuttingDown "SHUTTING_DOWN" Unavailable,
    /// Too many operations are queued in this daemon.
    TooManyQueued "TOO_MANY_QUEUED" Exhausted,
    /// The call needs a credential: a bearer token or a client certificate.
    CredentialMissing "CREDENTIAL_MISSING" Unauthenticated,
    /// The credential is not one that this daemon accepts, or not any more.
    CredentialInvalid "CREDENTIAL_INVALID" Unauthenticated,
    /// The credential is not valid yet, or was valid once.
    CredentialExpired "CREDENTIAL_EXPIRED" Unauthenticated,
    /// Whoever asks is known and has a role that does not allow it.
    PermissionDenied "PERMISSION_DENIED" Denied,
    /// One caller has too many requests under way.
    TooManyRequests "TOO_MANY_REQUESTS" Exhausted,
    /// The daemon, or one address, has too many connections.
    TooManyConnections "TOO_MANY_CONNECTIONS" Exhausted,
    /// Too many clients watch, or too many names are watched.
    TooManyWatchers "TOO_MANY_WATCHERS" Exhausted,
    /// The request did not arrive in time.
    RequestTooSlow "REQUEST_TOO_SLOW" Exhausted,
    /// The deadline that the caller gave the call has passed. An operation that it began goes on.
    DeadlineExceeded "DEADLINE_EXCEEDED" Expired,
    /// A down script in the ledger has no signature, or one that does not verify.
    SignatureInvalid "SIGNATURE_INVALID" Refused,
    /// SignLedger needs a daemon with a signing key.
    SigningKeyMissing "SIGNING_KEY_MISSING" Refused,
    /// A scratch database's name is taken, and so were the ones tried before it.
    ScratchNameTaken "SCRATCH_NAME_TAKEN" Refused,
    /// A scratch database cannot be copied because others are connected to it.
    ScratchInUse "SCRATCH_IN_USE" Unavailable,
    /// The migration's files cannot be loaded: an up without a statement, text that is no UTF-8, a
    /// wrong setting in a comment, a character that the database's encoding does not have.
    InvalidMigration "INVALID_MIGRATION" Refused,
    /// A migration that would be rehearsed reaches outside its database, and the server is not
    /// thrown away.
    ReachesOutside "REACHES_OUTSIDE" Refused,
    /// The state before a migration cannot be made again, so what comes after it cannot be
    /// rehearsed.
    RehearsalStuck "REHEARSAL_STUCK" Refused,
    /// A rehearsed migration that is pending has a worse verdict than ORDER_ONLY.
    RehearsalBad "REHEARSAL_BAD" Refused,
    /// The daemon applies only what was rehearsed well, and this was not (--require-rehearsed).
    NotRehearsed "NOT_REHEARSED" Refused,
    /// `last` is not between 1 and 10,000, or the request does not say what to rehearse.
    InvalidSelection "INVALID_SELECTION" Invalid,
    /// The daemon gives no leases: it has no server to make them on.
    LeasesOff "LEASES_OFF" Refused,
    /// One caller, or all together, have as many databases leased as they may, or too many that
    /// have ended are still being dropped.
    TooManyLeases "TOO_MANY_LEASES" Exhausted,
    /// The lease has lasted as long as it was asked for, and its database is dropped.
    LeaseExpired "LEASE_EXPIRED" Expired,
    /// A mistake in schemad; please report it with the daemon's log.
    Internal "INTERNAL" Internal,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Reason {
    /// A newer daemon's reason that this one does not know reads as [`Reason::Internal`]; the
    /// message is still its own.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Self::parse(&String::deserialize(deserializer)?))
    }
}

/// The SQLSTATE of lock_timeout.
const LOCK_NOT_AVAILABLE: &str = "55P03";

/// A no, with everything that is known about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Why.
    pub reason: Reason,
    /// What happened and what to do, in sentences.
    pub message: String,
    /// The same as data: version, file, statement, line, column, sqlstate and so on.
    #[serde(default)]
    pub metadata: BTreeMap<String, String>,
    /// The request's field that is at fault, for a malformed request.
    #[serde(default)]
    pub field: Option<String>,
}

impl Failure {
    /// A failure with its message.
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self {
            reason,
            message: message.into(),
            metadata: BTreeMap::new(),
            field: None,
        }
    }

    /// A malformed request.
    pub fn invalid(reason: Reason, field: &str, message: impl Into<String>) -> Self {
        Self {
            field: Some(field.into()),
            ..Self::new(reason, message)
        }
    }

    /// A statement of schemad's own waited for a lock as long as it may.
    pub fn is_lock_timeout(&self) -> bool {
        self.reason == Reason::DatabaseUnavailable
            && self
                .metadata
                .get("sqlstate")
                .is_some_and(|state| state == LOCK_NOT_AVAILABLE)
    }

    /// Adds one datum.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.into(), value.to_string());
        self
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.message)
    }
}

impl std::error::Error for Failure {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_survives_the_ledger_and_unknown_reasons_keep_their_message() {
        let failure = Failure::new(Reason::Edited, "x").with("version", "1");
        let json = serde_json::to_string(&failure).unwrap();
        assert_eq!(serde_json::from_str::<Failure>(&json).unwrap(), failure);
        let foreign: Failure =
            serde_json::from_str(r#"{"reason":"FROM_THE_FUTURE","message":"m"}"#).unwrap();
        assert_eq!(
            (foreign.reason, foreign.message.as_str()),
            (Reason::Internal, "m")
        );
    }
}
