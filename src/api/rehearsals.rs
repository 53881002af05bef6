//! A rehearsal as messages: for the stream of Rehearse, and for the command line, which shows a
//! local one the same way.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    pin::Pin,
    time::{Duration, Instant, SystemTime},
};

use futures_util::stream::{self, Stream};
use prost::Message as _;
use tonic::Status;

use crate::{
    failure::status,
    pb::{self, rehearsal_event::Event as Wire},
};
use crate::{
    failure::{Failure, Reason},
    migration::{Version, set::MigrationSet},
    rehearse::{RehearsalEvent, RehearsedMigration, RunningRehearsal},
    runtime::blocking,
    schema::Difference,
};

/// Bytes of a message's differences, well below the 3 MiB of a message.
const MOST: usize = 1 << 20;

/// What no rehearsal proves.
pub(crate) const CAVEAT: &str = "A rehearsal proves structure, not data: rows that a down deletes \
    or changes are not looked at, and nor are roles and their settings.";

/// What Rehearse returns, before it is wrapped into its own response type.
pub(crate) type RehearsalEvents =
    Pin<Box<dyn Stream<Item = Result<pb::RehearsalEvent, Status>> + Send>>;

/// Proxies cut a stream that is silent for longer.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Where a stream is.
enum RehearsalStage {
    Events(RunningRehearsal, RehearsalCounts, Instant),
    Result(Result<(), Failure>),
    End,
}

/// Follows a rehearsal to its end: its events, the summary, and its result as the final status.
/// Dropping the stream ends it.
pub(crate) fn follow(begun: RunningRehearsal, tally: RehearsalCounts) -> RehearsalEvents {
    Box::pin(stream::unfold(
        RehearsalStage::Events(begun, tally, Instant::now()),
        async |stage| {
            let (mut begun, mut tally, since) = match stage {
                RehearsalStage::Events(begun, tally, since) => (begun, tally, since),
                RehearsalStage::Result(result) => {
                    return Some((
                        Err(status::status_from_failure(&result.err()?)),
                        RehearsalStage::End,
                    ));
                }
                RehearsalStage::End => return None,
            };
            let event = match tokio::time::timeout(HEARTBEAT, begun.events.recv()).await {
                Err(_) => Wire::Heartbeat(pb::Heartbeat {}),
                Ok(Some(event)) => tally.event(&event),
                Ok(None) => {
                    let gone = || {
                        Failure::new(
                            Reason::Internal,
                            "a mistake in schemad ended the rehearsal; see the daemon's log",
                        )
                    };
                    return match begun.result.await.unwrap_or_else(|_| Err(gone())) {
                        Ok(()) => {
                            let summary = timed(Wire::Summary(tally.summary(since.elapsed())));
                            Some((Ok(summary), RehearsalStage::Result(tally.result())))
                        }
                        Err(failure) => Some((
                            Err(status::status_from_failure(&failure)),
                            RehearsalStage::End,
                        )),
                    };
                }
            };
            Some((
                Ok(timed(event)),
                RehearsalStage::Events(begun, tally, since),
            ))
        },
    ))
}

fn timed(event: Wire) -> pb::RehearsalEvent {
    pb::RehearsalEvent {
        time: Some(SystemTime::now().into()),
        event: Some(event),
    }
}

/// Counts what is told, for the summary.
pub(crate) struct RehearsalCounts {
    set_digest: String,
    pending: BTreeSet<Version>,
    verdicts: BTreeMap<&'static str, i32>,
    bad: Vec<String>,
}

impl RehearsalCounts {
    /// Of a set of which these are pending.
    pub(crate) fn new(catalog: &MigrationSet, pending: BTreeSet<Version>) -> Self {
        Self {
            set_digest: catalog.digest().to_string(),
            pending,
            verdicts: BTreeMap::new(),
            bad: Vec::new(),
        }
    }

    /// An event as it is sent.
    pub(crate) fn event(&mut self, event: &RehearsalEvent) -> Wire {
        match event {
            RehearsalEvent::Began {
                ordinal,
                total,
                version,
                name,
            } => Wire::Began(pb::RehearsalBegan {
                version: version.to_string(),
                name: name.clone(),
                ordinal: number(*ordinal),
                total: number(*total),
            }),
            RehearsalEvent::LeftOut { version, failure } => Wire::LeftOut(pb::RehearsalLeftOut {
                version: version.to_string(),
                failure: Some(self::failure(failure)),
            }),
            RehearsalEvent::Ended(rehearsed) => {
                let is_pending = self.pending.contains(&rehearsed.version);
                *self.verdicts.entry(rehearsed.verdict.as_str()).or_default() += 1;
                if is_pending && !rehearsed.verdict.is_good() {
                    self.bad.push(rehearsed.version.to_string());
                }
                Wire::Rehearsed(migration(rehearsed, is_pending))
            }
        }
    }

    /// The last event.
    pub(crate) fn summary(&self, took: Duration) -> pb::RehearsalSummary {
        pb::RehearsalSummary {
            total: self.verdicts.values().sum(),
            verdicts: self
                .verdicts
                .iter()
                .map(|(verdict, count)| ((*verdict).into(), *count))
                .collect(),
            bad: self.bad.clone(),
            set_digest: self.set_digest.clone(),
            duration: prost_types::Duration::try_from(took).ok(),
            caveat: CAVEAT.into(),
        }
    }

    /// Why the whole is not good, if it is not.
    pub(crate) fn result(&self) -> Result<(), Failure> {
        if self.bad.is_empty() {
            return Ok(());
        }
        const NAMED: usize = 10;
        let named = self
            .bad
            .iter()
            .take(NAMED)
            .cloned()
            .collect::<Vec<_>>()
            .join(", ");
        let more = if self.bad.len() > NAMED {
            format!(" and {} more", self.bad.len() - NAMED)
        } else {
            String::new()
        };
        let message = format!(
            "{} of {} rehearsed migrations are pending, and their downs do not bring back what was \
             before (or there is none, or the up fails): {named}{more}",
            self.bad.len(),
            self.verdicts.values().sum::<i32>(),
        );
        Err(Failure::new(Reason::RehearsalBad, message).with("bad", self.bad.len()))
    }
}

fn migration(of: &RehearsedMigration, pending: bool) -> pb::MigrationRehearsal {
    // A difference is some hundred bytes, or a routine's whole body.
    blocking::in_place(
        512 * (of.differences.len() + of.up_differences.len()),
        || message(of, pending),
    )
}

fn message(of: &RehearsedMigration, pending: bool) -> pb::MigrationRehearsal {
    let mut room = MOST;
    let mut differences = |of: &[Difference]| -> Vec<pb::SchemaDifference> {
        let fits = |one: &pb::SchemaDifference| {
            room = room.saturating_sub(one.encoded_len());
            room > 0
        };
        of.iter().map(difference).take_while(fits).collect()
    };
    pb::MigrationRehearsal {
        version: of.version.to_string(),
        name: of.name.clone(),
        ordinal: number(of.ordinal),
        total: number(of.total),
        verdict: of.verdict.as_str().into(),
        pending,
        differences: differences(&of.differences),
        up_differences: differences(&of.up_differences),
        differences_total: number(of.differences.len() + of.up_differences.len()),
        failure: of.failure.as_ref().map(failure),
        notes: of.notes.clone(),
        up_checksum: of.up.0.to_string(),
        down_checksum: of
            .down
            .map(|(checksum, _)| checksum.to_string())
            .unwrap_or_default(),
        up_duration: of.up_took.and_then(|took| took.try_into().ok()),
        down_duration: of.down_took.and_then(|took| took.try_into().ok()),
        duration: of.took.try_into().ok(),
    }
}

/// A difference, its values as JSON.
pub(crate) fn difference(of: &Difference) -> pb::SchemaDifference {
    // Longer ones are a routine's body or a view's query, of which the summary says that it
    // differs.
    const LONGEST: usize = 64 << 10;
    let fields = serde_json::to_value(of).unwrap_or_default();
    let word = |name: &str| fields[name].as_str().unwrap_or_default().to_owned();
    let json = |name: &str| {
        fields
            .get(name)
            .map(ToString::to_string)
            .filter(|text| text.len() <= LONGEST)
            .unwrap_or_default()
    };
    pb::SchemaDifference {
        kind: word("kind"),
        name: of.name.clone(),
        change: word("change"),
        property: word("property"),
        from: json("from"),
        to: json("to"),
        summary: of.to_string(),
    }
}

/// A difference back from its message; `None` where that does not say all of it.
pub(crate) fn difference_of(message: &pb::SchemaDifference) -> Option<Difference> {
    let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).ok();
    let mut fields = serde_json::Map::new();
    fields.insert("kind".into(), message.kind.clone().into());
    fields.insert("name".into(), message.name.clone().into());
    fields.insert("change".into(), message.change.clone().into());
    if !message.property.is_empty() {
        fields.insert("property".into(), message.property.clone().into());
    }
    for (name, text) in [("from", &message.from), ("to", &message.to)] {
        if let Some(value) = value(text) {
            fields.insert(name.into(), value);
        }
    }
    serde_json::from_value(fields.into()).ok()
}

fn failure(of: &Failure) -> pb::Failure {
    let metadata: HashMap<_, _> = of.metadata.clone().into_iter().collect();
    pb::Failure {
        reason: of.reason.as_str().into(),
        message: of.message.clone(),
        metadata,
    }
}

fn number(of: usize) -> i32 {
    i32::try_from(of).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Column, Enum, Relation, Snapshot, Table, diff};

    #[test]
    fn differences_come_back_from_their_messages() {
        let table = |name: &str, columns: &[&str]| Table {
            relation: Relation {
                schema: "public".into(),
                name: name.into(),
            },
            columns: columns
                .iter()
                .map(|name| Column {
                    name: (*name).into(),
                    ..Column::default()
                })
                .collect(),
            ..Table::default()
        };
        let mood = |labels: &[&str]| Enum {
            schema: "public".into(),
            name: "Mood".into(),
            labels: labels.iter().map(ToString::to_string).collect(),
            ..Enum::default()
        };
        let snapshot = |tables: Vec<Table>, labels: &[&str]| Snapshot {
            enums: vec![mood(labels)],
            tables,
            ..Snapshot::default()
        };
        let before = snapshot(vec![table("a", &["x", "y"]), table("b", &[])], &["sad"]);
        let after = snapshot(
            vec![table("a", &["y", "x"]), table("c", &[])],
            &["sad", "ok"],
        );
        let differences = diff(&before, &after);
        assert_eq!(differences.len(), 4);
        let back: Vec<_> = differences
            .iter()
            .map(|one| difference_of(&difference(one)).unwrap())
            .collect();
        assert_eq!(back, differences);
    }
}
