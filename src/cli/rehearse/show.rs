//! What people and programs see of a rehearsal.

use crate::{
    api::rehearsals::difference_of,
    cli::{
        client::operate::ProgressDisplay,
        exit::CommandExit,
        output::{
            self, BAD, DIM, GOOD, OutputFormat, WARN, duration, fitted, fitted_table, line,
            progress, say, styled,
        },
    },
    pb::{self, rehearsal_event::Event},
    rehearse::Verdict,
    schema::{Styles, for_people},
};

/// Differences that are shown of one migration.
const SHOWN: usize = 30;

/// Shows events as they come and the table at the end; on a terminal, what is rehearsed meanwhile,
/// and since when.
pub(crate) struct RehearsalDisplay {
    output: OutputFormat,
    live: ProgressDisplay,
    done: Vec<pb::MigrationRehearsal>,
}

impl RehearsalDisplay {
    pub(crate) fn new(output: OutputFormat) -> Self {
        Self {
            output,
            live: ProgressDisplay::new(),
            done: Vec::new(),
        }
    }

    /// One event: progress on stderr, and for programs a migration's object on stdout.
    pub(crate) fn event(&mut self, event: &Event) {
        match event {
            Event::Rehearsed(done) => {
                self.live.above(|| progress(&ended(done)));
                if super::is_json(self.output) {
                    let _ = output::json(done, "schemad.v1.MigrationRehearsal");
                }
                self.done.push(done.clone());
            }
            Event::LeftOut(left_out) => {
                let message = left_out
                    .failure
                    .as_ref()
                    .map(|failure| line(&failure.message))
                    .unwrap_or_default();
                let what = format!(
                    "{} could not be applied, and the others go on without it",
                    line(&left_out.version)
                );
                self.live
                    .above(|| progress(&format!("{} {what}: {message}", styled(WARN, "warning:"))));
            }
            Event::Began(began) => self.live.rehearses(began),
            Event::Summary(_) | Event::Heartbeat(_) => {}
        }
    }

    /// What there is of it when it ends before its end.
    pub(crate) fn broken_off(&mut self) {
        self.live.clear();
        if !super::is_json(self.output) && !self.done.is_empty() {
            say(&found(&self.done));
        }
    }

    /// The end.
    pub(crate) fn summary(&mut self, summary: &pb::RehearsalSummary) {
        self.live.clear();
        if super::is_json(self.output) {
            let _ = output::json(summary, "schemad.v1.RehearsalSummary");
            return;
        }
        say(&result(&self.done, summary));
    }
}

/// A line of progress.
fn ended(done: &pb::MigrationRehearsal) -> String {
    let total = done.total.to_string();
    let before = format!(
        "{:>width$}/{total}  {:21}  ",
        done.ordinal,
        done.verdict,
        width = total.len()
    );
    let took = duration(done.duration.as_ref());
    let name = fitted(
        &line(&done.name),
        before.chars().count() + took.chars().count() + 2,
    );
    let verdict = format!("{:21}", line(&done.verdict));
    format!(
        "{:>width$}/{total}  {}  {name}  {}",
        done.ordinal,
        styled(style(&done.verdict), &verdict),
        styled(DIM, &took),
        width = total.len()
    )
}

/// What is bad in detail, then all in a table, then what it comes to.
fn result(done: &[pb::MigrationRehearsal], summary: &pb::RehearsalSummary) -> String {
    if done.is_empty() {
        return "Nothing to rehearse.".into();
    }
    let counts = Verdict::ALL.iter().filter_map(|verdict| {
        let count = summary.verdicts.get(verdict.as_str())?;
        Some(format!(
            "{count} {}",
            styled(style(verdict.as_str()), verdict.as_str())
        ))
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    let (took, caveat) = (duration(summary.duration.as_ref()), line(&summary.caveat));
    format!(
        "{}\n\n{} rehearsed in {took}: {counts}.\n{caveat}",
        found(done),
        summary.total
    )
}

/// The same without what it comes to.
fn found(done: &[pb::MigrationRehearsal]) -> String {
    let mut parts: Vec<String> = done.iter().filter_map(details).collect();
    let rows = done.iter().map(|one| {
        let state = if one.pending { "pending" } else { "applied" };
        vec![
            one.verdict.clone(),
            one.name.clone(),
            state.into(),
            duration(one.duration.as_ref()),
        ]
    });
    parts.push(fitted_table(
        &["VERDICT", "MIGRATION", "STATE", "TOOK"],
        rows.collect(),
        &["STATE", "TOOK"],
        "MIGRATION",
    ));
    parts.join("\n\n")
}

/// What there is to say about one that is not as good as can be, or that was not looked into
/// wholly.
fn details(done: &pb::MigrationRehearsal) -> Option<String> {
    let mut lines = Vec::new();
    let told = [
        (
            &done.differences,
            "after the down, the schema is not what it was before the up:",
        ),
        (
            &done.up_differences,
            "after the second up, the schema is not what it was after the first:",
        ),
    ];
    for (differences, what) in told
        .into_iter()
        .filter(|(differences, _)| !differences.is_empty())
    {
        lines.push(what.to_owned());
        lines.extend(shown(differences).lines().map(|line| format!("  {line}")));
    }
    if let Some(failure) = &done.failure {
        lines.push(CommandExit::from_failure(Some(failure)).text());
    }
    let verdict: Option<Verdict> = Verdict::parse(&done.verdict);
    if verdict == Some(Verdict::Irreversible) {
        lines.push("there is no down.sql, or no statement in it".to_owned());
    }
    lines.extend(
        done.notes
            .iter()
            .map(|note| format!("{} {}", styled(DIM, "note:"), line(note))),
    );
    (!lines.is_empty()).then(|| {
        let title = format!(
            "{} {}",
            styled(style(&done.verdict), &line(&done.verdict)),
            line(&done.name)
        );
        format!("{title}\n{}", lines.join("\n"))
    })
}

fn shown(differences: &[pb::SchemaDifference]) -> String {
    let styles = Styles {
        added: GOOD,
        removed: BAD,
        changed: WARN,
    };
    let one = |message: &pb::SchemaDifference| match difference_of(message) {
        Some(difference) => for_people(&[difference], &styles),
        None => line(&message.summary),
    };
    let mut lines: Vec<String> = differences.iter().take(SHOWN).map(one).collect();
    if differences.len() > SHOWN {
        lines.push(format!("and {} more", differences.len() - SHOWN));
    }
    lines.join("\n")
}

fn style(verdict: &str) -> anstyle::Style {
    match Verdict::parse(verdict) {
        Some(Verdict::Restores) => GOOD,
        Some(Verdict::OrderOnly | Verdict::Irreversible) => WARN,
        _ => BAD,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        api::rehearsals::CAVEAT,
        failure::{Failure, Reason},
    };

    fn rehearsed(ordinal: i32, verdict: &str, name: &str) -> pb::MigrationRehearsal {
        let (version, _) = name.split_once('_').unwrap();
        pb::MigrationRehearsal {
            version: version.into(),
            name: name.into(),
            ordinal,
            total: 4,
            verdict: verdict.into(),
            pending: ordinal > 1,
            duration: Some(prost_types::Duration {
                seconds: 0,
                nanos: 12_340_000,
            }),
            ..Default::default()
        }
    }

    fn difference(
        kind: &str,
        name: &str,
        change: &str,
        from: &str,
        to: &str,
    ) -> pb::SchemaDifference {
        let (from, to) = (from.into(), to.into());
        pb::SchemaDifference {
            kind: kind.into(),
            name: name.into(),
            change: change.into(),
            from,
            to,
            ..Default::default()
        }
    }

    fn without_colours(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn a_rehearsal_reads_well() {
        let failure = Failure::new(Reason::MigrationFailed, "m")
            .with("file", "20260104_c/down.sql")
            .with("sqlstate", "42P01")
            .with("database_message", "table \"tokens\" does not exist")
            .with("line", 1)
            .with("column", 1)
            .with("statement", 1)
            .with("statements", 1)
            .with("source", "DROP TABLE tokens;")
            .with("source_column", 1);
        let failure = pb::Failure {
            reason: failure.reason.as_str().into(),
            message: failure.message,
            metadata: failure.metadata.into_iter().collect(),
        };
        let done = [
            rehearsed(1, "RESTORES", "20260101_a"),
            pb::MigrationRehearsal {
                differences: vec![difference(
                    "table",
                    "public.t",
                    "reordered",
                    r#"["a","b"]"#,
                    r#"["b","a"]"#,
                )],
                ..rehearsed(2, "ORDER_ONLY", "20260102_o")
            },
            pb::MigrationRehearsal {
                differences: vec![
                    difference(
                        "enum",
                        "public.mood",
                        "added",
                        "",
                        r#"{"labels":["sad","ok"]}"#,
                    ),
                    difference(
                        "column",
                        "public.t.x",
                        "removed",
                        r#"{"type":"integer","not_null":true}"#,
                        "",
                    ),
                    pb::SchemaDifference {
                        summary: "function public.f(): definition changed".into(),
                        ..Default::default()
                    },
                ],
                notes: vec!["not compared: 1 subscription".into()],
                ..rehearsed(3, "DOES_NOT_RESTORE", "20260103_b")
            },
            pb::MigrationRehearsal {
                failure: Some(failure),
                ..rehearsed(4, "DOWN_FAILS", "20260104_c")
            },
        ];
        let count = |verdict: &str| (verdict.to_owned(), 1);
        let summary = pb::RehearsalSummary {
            total: 4,
            verdicts: ["RESTORES", "ORDER_ONLY", "DOES_NOT_RESTORE", "DOWN_FAILS"]
                .map(count)
                .into(),
            duration: Some(prost_types::Duration {
                seconds: 1,
                nanos: 200_000_000,
            }),
            caveat: CAVEAT.into(),
            ..Default::default()
        };
        insta::assert_snapshot!(without_colours(&result(&done, &summary)));
        insta::assert_snapshot!("progress", without_colours(&ended(&done[2])));
        assert_eq!(result(&[], &summary), "Nothing to rehearse.");
    }
}
