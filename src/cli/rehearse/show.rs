//! What people and programs see of a rehearsal.

use crate::{
    cli::{
        exit::Exit,
        output::{self, BAD, DIM, GOOD, Output, WARN, duration, fitted, line, progress, say, styled, table},
    },
    grpc::{
        pb::{self, rehearsal_event::Event},
        rehearsal::difference_of,
    },
    rehearse::Verdict,
    schema::{Styles, for_people},
};

/// Differences that are shown of one migration.
const SHOWN: usize = 30;

/// Shows events as they come and the table at the end.
pub(super) struct Show {
    output: Output,
    done: Vec<pb::MigrationRehearsal>,
}

impl Show {
    pub(super) fn new(output: Output) -> Self {
        Self { output, done: Vec::new() }
    }

    /// One event: progress on stderr, and for programs a migration's object on stdout.
    pub(super) fn event(&mut self, event: &Event) {
        match event {
            Event::Rehearsed(done) => {
                progress(&ended(done));
                if super::is_json(self.output) {
                    let _ = output::json(done, "schemad.v1.MigrationRehearsal");
                }
                self.done.push(done.clone());
            }
            Event::LeftOut(left_out) => {
                let message = left_out.failure.as_ref().map(|failure| line(&failure.message)).unwrap_or_default();
                let what = format!("{} could not be applied, and the others go on without it", line(&left_out.version));
                progress(&format!("{} {what}: {message}", styled(WARN, "warning:")));
            }
            Event::Began(_) | Event::Summary(_) | Event::Heartbeat(_) => {}
        }
    }

    /// The end.
    pub(super) fn summary(&self, summary: &pb::RehearsalSummary) {
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
    let before = format!("{:>width$}/{total}  {:21}  ", done.ordinal, done.verdict, width = total.len());
    let took = duration(done.duration.as_ref());
    let name = fitted(&line(&done.name), before.chars().count() + took.chars().count() + 2);
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
    let mut parts: Vec<String> = done.iter().filter_map(details).collect();
    let rows = done.iter().map(|one| {
        let state = if one.pending { "pending" } else { "applied" };
        vec![one.verdict.clone(), one.name.clone(), state.into(), duration(one.duration.as_ref())]
    });
    parts.push(table(&["VERDICT", "MIGRATION", "STATE", "TOOK"], rows));
    let counts = Verdict::ALL.iter().filter_map(|verdict| {
        let count = summary.verdicts.get(verdict.as_str())?;
        Some(format!("{count} {}", styled(style(verdict.as_str()), verdict.as_str())))
    });
    let counts = counts.collect::<Vec<_>>().join(", ");
    parts.push(format!(
        "{} rehearsed in {}: {counts}.\n{}",
        summary.total,
        duration(summary.duration.as_ref()),
        line(&summary.caveat)
    ));
    parts.join("\n\n")
}

/// What there is to say about one that is not as good as can be, or that was not looked into wholly.
fn details(done: &pb::MigrationRehearsal) -> Option<String> {
    let mut lines = Vec::new();
    let told = [
        (&done.differences, "after the down, the schema is not what it was before the up:"),
        (&done.up_differences, "after the second up, the schema is not what it was after the first:"),
    ];
    for (differences, what) in told.into_iter().filter(|(differences, _)| !differences.is_empty()) {
        lines.push(what.to_owned());
        lines.extend(shown(differences).lines().map(|line| format!("  {line}")));
    }
    if let Some(failure) = &done.failure {
        lines.push(Exit::from_failure(Some(failure)).text());
    }
    let verdict: Option<Verdict> = Verdict::parse(&done.verdict);
    if verdict == Some(Verdict::Irreversible) {
        lines.push("there is no down.sql, or no statement in it".to_owned());
    }
    lines.extend(done.notes.iter().map(|note| format!("{} {}", styled(DIM, "note:"), line(note))));
    (!lines.is_empty()).then(|| {
        let title = format!("{} {}", styled(style(&done.verdict), &line(&done.verdict)), line(&done.name));
        format!("{title}\n{}", lines.join("\n"))
    })
}

fn shown(differences: &[pb::SchemaDifference]) -> String {
    let styles = Styles { added: GOOD, removed: BAD, changed: WARN };
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
