//! Why a plan is refused, each with what to do about it.

use std::fmt;

use crate::{
    failure::{Failure, Reason},
    migration::{Checksum, Direction, Version, signature::SignatureProblem},
    planner::ResolveOutcome,
    sql::TextPosition,
};

/// A plan that is not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanRefusal {
    /// Nobody knows this version.
    #[error("version {0} is unknown to this daemon and to the database")]
    UnknownVersion(Version),
    /// Pending and older than an applied one.
    #[error(
        "migration {pending} is pending but older than {applied}, which is applied: a branch was \
         probably merged late. Give it a newer version, or allow that it is applied out of order"
    )]
    OutOfOrder {
        /// The pending one.
        pending: Version,
        /// The newest applied one.
        applied: Version,
    },
    /// Pending and older than an applied one that this daemon does not carry.
    #[error(
        "migration {pending} is pending but older than {applied}, which another daemon applied and \
         this one does not carry: its set is probably an older one. Apply from a daemon that \
         carries both, or allow that it is applied out of order"
    )]
    UnknownNewer {
        /// The pending one.
        pending: Version,
        /// The applied one.
        applied: Version,
    },
    /// Of a set that has nothing of what is applied.
    #[error(
        "migration {pending} is pending, and none of the {applied} applied migration(s) is in this \
         daemon's set: it is probably the set of another database. Where it is the right one (what \
         is applied was put together into fewer migrations, for example), allow that it is applied \
         out of order"
    )]
    ForeignSet {
        /// The pending one.
        pending: Version,
        /// How many are applied.
        applied: usize,
    },
    /// An applied up was changed.
    #[error(
        "the up of migration {version} was changed after it was applied (applied {recorded}, now \
         {embedded}): restore the file and put the change into a new migration; or, where the \
         change is only one of words, have it accepted (Resolve)"
    )]
    Edited {
        /// Which.
        version: Version,
        /// As applied.
        recorded: Checksum,
        /// As the daemon carries it.
        embedded: Checksum,
    },
    /// The daemon carries another set than expected.
    #[error(
        "this daemon carries the set {actual}, not {expected}: the call reached a daemon with \
         other migrations"
    )]
    SetMismatch {
        /// What the caller expects.
        expected: Checksum,
        /// What it carries.
        actual: Checksum,
    },
    /// The version to roll back to is not applied.
    #[error("version {0} is not applied, so nothing can be rolled back to it")]
    NotApplied(Version),
    /// Diesel's table lists nothing, and the ledger does.
    #[error(
        "Diesel's table is gone or empty, and the ledger lists {listed} applied migration(s): it \
         was dropped, renamed, emptied, or left out of a restore. Nothing runs before somebody \
         says which is right: put the table back; or have it list again what the ledger lists; or \
         say that really nothing is applied any more (Resolve)"
    )]
    DieselTableLost {
        /// How many the ledger lists.
        listed: usize,
    },
    /// There is nothing to settle between Diesel's table and the ledger.
    #[error(
        "Diesel's table lists applied migrations, or the ledger lists none either: there is \
         nothing to resolve"
    )]
    TableNotLost,
    /// Not that many are applied.
    #[error(
        "only {applied} migrations are applied, so {asked} cannot be rolled back; ask for \
         {applied}, or for all"
    )]
    TooFewApplied {
        /// How many are.
        applied: usize,
        /// How many were asked for.
        asked: usize,
    },
    /// No down anywhere.
    #[error(
        "migration {version} cannot be rolled back: {}. Undo it with a new migration",
        if *.adopted { "it was applied by something other than schemad and this daemon carries no \
            down script for it" }
        else { "it was applied without a down script (none, or one that holds comments only) and \
            this daemon carries none" }
    )]
    Irreversible {
        /// Which.
        version: Version,
        /// schemad never saw its down.
        adopted: bool,
    },
    /// A statement that may or may not have taken effect.
    #[error(
        "part {statement} of the {} of migration {version}{}, and say so (Resolve): that it was \
         applied, that it was not, or that doing it again does no harm",
        .direction.as_str(),
        doubt(sent.as_deref(), *failed)
    )]
    InDoubt {
        /// Which.
        version: Version,
        /// Up or down.
        direction: Direction,
        /// The part of the script, from 1.
        statement: usize,
        /// The server has answered that it failed.
        failed: bool,
        /// What was sent, where the ledger has its text.
        sent: Option<Box<SentStatement>>,
    },
    /// A script that ended before its last statement, and the Diesel table says that it is through.
    #[error("migration {version} {}", contradiction(*.direction, *.done))]
    Contradicted {
        /// Which.
        version: Version,
        /// Up or down.
        direction: Direction,
        /// Parts done.
        done: usize,
    },
    /// A down that ended before its last statement.
    #[error(
        "the rollback of migration {version} failed or was interrupted after {done} of its \
         statements or blocks; roll it back again, which goes on from there. Where something newer \
         is in the way: undo by hand what ran, and say that it starts over (Resolve)"
    )]
    HalfReverted {
        /// Which.
        version: Version,
        /// Parts done.
        done: usize,
    },
    /// An up that ended before its last statement: what it did would lose its ground.
    #[error(
        "the up of migration {version} failed or was interrupted after {done} of its statements or \
         blocks, and a rollback of what it stands on would break what it did. Mend it and apply it \
         to its end, which goes on from there; or undo by hand what ran, say that it starts over \
         (Resolve), and roll back then"
    )]
    HalfApplied {
        /// Which.
        version: Version,
        /// Parts done.
        done: usize,
    },
    /// Half applied, and not in the set.
    #[error(
        "the up of migration {version} failed or was interrupted after {done} of its statements or \
         blocks, and this daemon does not carry it, so it cannot go on from there. Apply it to its \
         end from a daemon that carries it; or undo by hand what ran, and say that it starts over \
         (Resolve)"
    )]
    HalfAppliedElsewhere {
        /// Which.
        version: Version,
        /// Parts done.
        done: usize,
    },
    /// A script that ran part by part, and now says that it is one transaction.
    #[error(
        "the script of migration {version} began to run statement by statement and ended before \
         its last statement, and now it is to run in one transaction. Restore its metadata.toml \
         (run_in_transaction = false), or its BEGIN ... COMMIT; or undo by hand what ran, and say \
         that it starts over (Resolve)"
    )]
    JournalWithoutParts {
        /// Which.
        version: Version,
    },
    /// A script that ended before its last statement and was changed in what ran.
    #[error(
        "the script of migration {version} ended before its last statement, and its part \
         {statement}, which ran, is no longer what it was. Restore it (what did not run yet may be \
         changed), or undo by hand what ran, and say that it starts over (Resolve)"
    )]
    JournalDiffers {
        /// Which.
        version: Version,
        /// The part, from 1.
        statement: usize,
    },
    /// Clients watch it.
    #[error(
        "migration {version} is in use: {clients} client(s) watch \
         schemad.schema.applied.{version}{}, so an app depends on it. Stop the app first, or have \
         it rolled back by force", if *.strangers == 0 { String::new() } else { format!(" \
             ({} here without a credential)", .strangers) }
    )]
    InUse {
        /// Which.
        version: Version,
        /// How many, of all daemons.
        clients: usize,
        /// How many of this daemon's said no name where others do: they may be anybody.
        strangers: usize,
    },
    /// Nothing of that kind is to be settled.
    #[error("migration {version} cannot be resolved as {}: {instead}", .outcome.as_str())]
    NothingToResolve {
        /// Which.
        version: Version,
        /// How it was to be settled.
        outcome: ResolveOutcome,
        /// What there is.
        instead: &'static str,
    },
    /// A down from the ledger that nobody vouches for.
    #[error(
        "the down of migration {version} in the ledger {unverified}, so nothing was run. Look at \
         it, and where it is right have it signed (SignLedger); or roll back from a daemon that \
         carries it, with that daemon's script where they differ"
    )]
    SignatureInvalid {
        /// Which.
        version: Version,
        /// What is wrong.
        unverified: SignatureProblem,
    },
    /// Two downs.
    #[error(
        "the down of migration {version} in the ledger ({ledger}) differs from the one that this \
         daemon carries ({binary}): choose the ledger's (what belonged to it when it was applied) \
         or the daemon's"
    )]
    DownsDiffer {
        /// Which.
        version: Version,
        /// The ledger's.
        ledger: Checksum,
        /// The daemon's.
        binary: Checksum,
    },
}

/// What happened to a statement in doubt, and what to look for.
fn doubt(sent: Option<&SentStatement>, failed: bool) -> String {
    let happened = if failed {
        "failed outside a transaction, and may have committed a part of its work before"
    } else {
        "was sent outside a transaction, and its end is not known"
    };
    let question = if failed {
        "what of it is there"
    } else {
        "whether it took effect"
    };
    match sent {
        Some(sent) => format!(
            " ({sent}) {happened}: {}. Look {question} ({})",
            sent.summary, sent.look
        ),
        None => format!(" {happened}; its text is not known either. Look {question}"),
    }
}

fn contradiction(direction: Direction, done: usize) -> String {
    let (listed, ended, writes, mend, goes_on) = match direction {
        Direction::Up => ("is", "up", "inserts", "DELETE its row from", "Apply"),
        Direction::Down => (
            "is no longer",
            "down",
            "deletes",
            "INSERT its row again into",
            "Rollback",
        ),
    };
    format!(
        "{listed} listed in Diesel's table, although its {ended} ended after {done} of its \
         statements or blocks: the file itself {writes} its row there (which is schemad's to do), \
         or something else did the rest. Where the rest is still to be done: {mend} Diesel's \
         table, and the next {goes_on} goes on; where all of it is done: say that it was applied \
         (Resolve)"
    )
}

/// A statement that was sent outside a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentStatement {
    /// The file it stood in.
    pub file: String,
    /// Where.
    pub place: TextPosition,
    /// From 1.
    pub statement: usize,
    /// Of so many.
    pub statements: usize,
    /// How it begins.
    pub summary: String,
    /// Its line, and the column in that.
    pub excerpt: (String, usize),
    /// What tells a person whether it took effect.
    pub look: String,
}

impl fmt::Display for SentStatement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            file,
            place: TextPosition { line, column },
            statement,
            statements,
            ..
        } = self;
        write!(
            f,
            "{file}, line {line}, column {column}, statement {statement} of {statements}"
        )
    }
}

impl SentStatement {
    fn told_in(self, failure: Failure) -> Failure {
        let (source, column) = self.excerpt;
        let meaning = format!(
            "Look ({}), and say so (Resolve): that it was applied, that it was not, or that doing \
             it again does no harm",
            self.look
        );
        failure
            .with("meaning", meaning)
            .with("file", self.file)
            .with("line", self.place.line)
            .with("column", self.place.column)
            .with("statement", self.statement)
            .with("statements", self.statements)
            .with("source", source)
            .with("source_column", column)
            .with(
                "problem",
                "it is not known whether this statement took effect",
            )
            .with("look", self.look)
    }
}

impl PlanRefusal {
    /// How Resolve can settle it.
    fn outcomes(&self) -> &'static [ResolveOutcome] {
        match self {
            Self::Edited { .. } => &[ResolveOutcome::Accept],
            Self::DieselTableLost { .. } => {
                &[ResolveOutcome::RestoreTable, ResolveOutcome::NothingApplied]
            }
            Self::InDoubt { .. } => &ResolveOutcome::OF_A_DOUBT,
            Self::Contradicted { .. } => &[ResolveOutcome::Applied],
            Self::HalfReverted { .. }
            | Self::HalfApplied { .. }
            | Self::HalfAppliedElsewhere { .. }
            | Self::JournalWithoutParts { .. }
            | Self::JournalDiffers { .. } => &[ResolveOutcome::StartOver],
            _ => &[],
        }
    }
}

impl From<PlanRefusal> for Failure {
    fn from(refusal: PlanRefusal) -> Self {
        let (message, outcomes) = (refusal.to_string(), refusal.outcomes());
        let failure = |reason| {
            let failure = Self::new(reason, message);
            if outcomes.is_empty() {
                failure
            } else {
                failure.with("resolve", ResolveOutcome::list(outcomes))
            }
        };
        match refusal {
            PlanRefusal::UnknownVersion(version) => {
                failure(Reason::UnknownVersion).with("version", version)
            }
            PlanRefusal::OutOfOrder { pending, applied } => failure(Reason::OutOfOrder)
                .with("version", pending)
                .with("applied", applied),
            PlanRefusal::ForeignSet { pending, applied } => failure(Reason::ForeignSet)
                .with("version", pending)
                .with("applied", applied),
            PlanRefusal::UnknownNewer { pending, applied } => failure(Reason::UnknownNewer)
                .with("version", pending)
                .with("applied", applied),
            PlanRefusal::Edited {
                version,
                recorded,
                embedded,
            } => failure(Reason::Edited)
                .with("version", version)
                .with("recorded_checksum", recorded)
                .with("embedded_checksum", embedded),
            PlanRefusal::SetMismatch { expected, actual } => failure(Reason::SetMismatch)
                .with("expected", expected)
                .with("embedded", actual),
            PlanRefusal::DieselTableLost { listed } => {
                failure(Reason::DieselTableLost).with("listed", listed)
            }
            PlanRefusal::TableNotLost => failure(Reason::NothingToResolve),
            PlanRefusal::NotApplied(version) => {
                failure(Reason::NotApplied).with("version", version)
            }
            PlanRefusal::TooFewApplied { applied, asked } => failure(Reason::TooFewApplied)
                .with("applied", applied)
                .with("asked", asked),
            PlanRefusal::Irreversible { version, .. } => {
                failure(Reason::Irreversible).with("version", version)
            }
            PlanRefusal::InUse {
                version,
                clients,
                strangers,
            } => failure(Reason::InUse)
                .with("version", version)
                .with("clients", clients)
                .with("strangers", strangers),
            PlanRefusal::NothingToResolve { version, .. } => {
                failure(Reason::NothingToResolve).with("version", version)
            }
            PlanRefusal::InDoubt {
                version,
                statement,
                sent,
                ..
            } => {
                let failure = failure(Reason::InDoubt)
                    .with("version", &version)
                    .with("part", statement);
                match sent {
                    Some(sent) => sent.told_in(failure),
                    None => failure,
                }
            }
            PlanRefusal::JournalWithoutParts { version } => {
                failure(Reason::JournalDiffers).with("version", version)
            }
            PlanRefusal::HalfApplied { version, .. }
            | PlanRefusal::HalfAppliedElsewhere { version, .. } => {
                failure(Reason::HalfApplied).with("version", version)
            }
            PlanRefusal::Contradicted {
                version,
                direction: Direction::Up,
                ..
            } => failure(Reason::HalfApplied).with("version", version),
            PlanRefusal::Contradicted {
                version,
                direction: Direction::Down,
                ..
            } => failure(Reason::HalfReverted).with("version", version),
            PlanRefusal::HalfReverted { version, .. } => {
                failure(Reason::HalfReverted).with("version", version)
            }
            PlanRefusal::JournalDiffers {
                version, statement, ..
            } => failure(Reason::JournalDiffers)
                .with("version", version)
                .with("part", statement),
            PlanRefusal::SignatureInvalid {
                version,
                unverified,
            } => failure(Reason::SignatureInvalid)
                .with("version", version)
                .with("signature", unverified.as_str()),
            PlanRefusal::DownsDiffer {
                version,
                ledger,
                binary,
            } => failure(Reason::DownsDiffer)
                .with("version", version)
                .with("ledger_checksum", ledger)
                .with("binary_checksum", binary),
        }
    }
}
