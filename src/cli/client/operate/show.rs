//! What people see of an operation: a line an event, on stderr but for the last, which is the
//! result.

use crate::{
    cli::{
        client::list,
        output::{
            self, BAD, BOLD, DIM, GOOD, WARN, duration, fitted, fitted_table, indented, line,
            progress, say, styled, tell_done,
        },
    },
    pb::{self, operation_event::Event},
    postgres::activity,
};

/// Shows one event.
pub(crate) fn event(event: &pb::OperationEvent) {
    match &event.event {
        Some(Event::Accepted(accepted)) => {
            let again = if accepted.repeated {
                ", accepted before"
            } else {
                ""
            };
            let (operation, request) = (&event.operation, line(&accepted.request_id));
            let both = format!("operation {operation} (request {request}{again})");
            if output::width().is_none_or(|width| width >= both.chars().count()) {
                progress(&styled(DIM, &both))
            } else {
                progress(&styled(DIM, &format!("operation {operation}")));
                progress(&styled(DIM, &format!("request   {request}{again}")));
            }
        }
        Some(Event::Queued(queued)) => match &queued.running {
            Some(running) if running.start_time.is_none() => {
                progress(&format!(
                    "waiting for operation {} of {}, which is about to begin",
                    running.id,
                    line(&running.daemon)
                ));
            }
            Some(running) => progress(&format!(
                "waiting for operation {} of {} ({} of {} steps done since {})",
                running.id,
                line(&running.daemon),
                running.steps_done,
                running.steps_total,
                output::time(running.start_time.as_ref())
            )),
            None => match &queued.holder {
                Some(holder) => progress(&format!(
                    "waiting for {}, which holds the operation lock without running an operation",
                    line(&blocker(holder))
                )),
                None => progress("waiting for another operation"),
            },
        },
        Some(Event::Planned(plan)) => planned(plan, event.operation.is_empty()),
        Some(Event::StatementDone(done)) => {
            let number = format!(
                "  {}/{}",
                range(done.first_statement, done.statement),
                done.statements
            );
            let took = duration(done.duration.as_ref());
            let summary = fitted(
                &line(&done.summary),
                number.len() + took.chars().count() + 4,
            );
            progress(&styled(DIM, &format!("{number}  {summary}  {took}")));
        }
        Some(Event::StepStarted(_) | Event::StatementStarted(_) | Event::Heartbeat(_)) | None => {}
        Some(Event::Notice(notice)) => {
            let severity = line(&notice.severity);
            let indent = severity.chars().count() + 3;
            let style = if notice.severity == "NOTICE" || notice.severity == "INFO" {
                DIM
            } else {
                WARN
            };
            progress(&format!(
                "  {} {}",
                styled(style, &severity),
                indented(&line(&notice.message), indent)
            ));
            for text in notice.detail.lines().chain(notice.hint.lines()) {
                progress(&format!(
                    "{:indent$}{}",
                    "",
                    styled(DIM, &indented(&line(text), indent))
                ));
            }
        }
        Some(Event::Waiting(waiting)) => {
            let relation = if waiting.relation.is_empty() {
                String::new()
            } else {
                format!(" on {}", waiting.relation)
            };
            let version = if waiting.version.is_empty() {
                "the operation's end".into()
            } else {
                line(&waiting.version)
            };
            let what = format!("{version}: for {}{}", line(&waiting.mode), line(&relation));
            progress(&format!(
                "{} {}",
                styled(WARN, "waiting"),
                indented(&what, "waiting ".len())
            ));
            for blocker in &waiting.blockers {
                progress(&format!(
                    "  behind {}",
                    indented(&line(&self::blocker(blocker)), "  behind ".len())
                ));
            }
        }
        // A terminal shows it while it moves.
        Some(Event::Progress(_)) => {}
        Some(Event::Dropped(dropped)) => {
            progress(&styled(
                DIM,
                &format!(
                    "  {} messages were dropped, because this end was too slow",
                    dropped.events
                ),
            ));
        }
        Some(Event::Retrying(retry)) => {
            let what = format!(
                "{}: {}; trying again in {}",
                line(&retry.version),
                line(&retry.message),
                duration(retry.delay.as_ref())
            );
            progress(&format!(
                "{} {}",
                styled(WARN, "locked"),
                indented(&what, "locked ".len())
            ));
        }
        Some(Event::StepDone(step)) => step_done(step),
        Some(Event::Finished(finished)) => self::finished(finished),
    }
}

/// One statement's number, or the first and the last of a block. A daemon of an older release says
/// only one of the two.
pub(crate) fn range(first: i32, last: i32) -> String {
    if first == last || first == 0 || last == 0 {
        first.max(last).to_string()
    } else {
        format!("{first}-{last}")
    }
}

/// After Ctrl-C.
pub(crate) fn left(operation: &str) {
    let operation = line(operation);
    progress(&format!(
        "left operation {operation}, which goes on in the daemon"
    ));
    progress(&format!("  schemad watch {operation}   follows it"));
    progress(&format!("  schemad cancel {operation}  cancels it"));
}

fn step_done(step: &pb::StepDone) {
    let total = step.total.to_string();
    let before = format!(
        "{:>width$}/{total}  {}  ",
        step.ordinal,
        way(step.direction()),
        width = total.len()
    );
    let took = duration(step.duration.as_ref());
    let name = fitted(
        &line(&step.name),
        before.chars().count() + took.chars().count() + 2,
    );
    progress(&format!("{before}{name}  {}", styled(DIM, &took)));
}

/// A session that is in the way, in one line.
pub(crate) fn blocker(blocker: &pb::Blocker) -> String {
    let some = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
    activity::Blocker {
        pid: blocker.pid,
        user: some(&blocker.user),
        application: some(&blocker.application_name),
        state: some(&blocker.state),
        age: blocker.age.and_then(|age| age.try_into().ok()),
        relation: some(&blocker.relation),
        mode: some(&blocker.mode),
    }
    .to_string()
}

fn planned(plan: &pb::Planned, validating: bool) {
    for warning in &plan.warnings {
        progress(&format!("{} {}", styled(WARN, "warning:"), line(warning)));
    }
    if !validating {
        return;
    }
    if plan.steps.is_empty() {
        say("Nothing to do.");
        return;
    }
    let rows = plan.steps.iter().map(|step| {
        let source = list::source(step.source());
        let runs = list::runs(step.mode(), step.mode_reason(), step.parts);
        vec![
            way(step.direction()).into(),
            step.version.clone(),
            step.name.clone(),
            source,
            runs,
        ]
    });
    let header = ["", "VERSION", "NAME", "SCRIPT FROM", "RUNS"];
    say(&fitted_table(
        &header,
        rows.collect(),
        &["SCRIPT FROM"],
        "NAME",
    ));
}

fn way(direction: pb::Direction) -> &'static str {
    match direction {
        pb::Direction::Down => "down",
        _ => "up",
    }
}

fn finished(finished: &pb::Finished) {
    let current = match finished.current_version.as_str() {
        "" => "nothing is applied".into(),
        version => format!("the current version is {}", line(version)),
    };
    let done = format!(
        "{} of {} steps done, {current}",
        finished.steps_done, finished.steps_total
    );
    match finished.state() {
        pb::OperationState::Succeeded if finished.nothing_to_do => {
            tell_done(&format!("Nothing to do; {current}."))
        }
        pb::OperationState::Succeeded => tell_done(&format!("{} {done}.", styled(GOOD, "Done:"))),
        pb::OperationState::Cancelled if finished.steps_total == 0 => {
            tell_done(&styled(WARN, "Cancelled before the first step."));
        }
        pb::OperationState::Interrupted if finished.steps_total == 0 => {
            tell_done(&styled(WARN, "Interrupted before the first step."));
        }
        pb::OperationState::Cancelled => {
            tell_done(&format!("{} {done}.", styled(WARN, "Cancelled:")))
        }
        pb::OperationState::Interrupted => {
            tell_done(&format!("{} {done}.", styled(WARN, "Interrupted:")))
        }
        _ if finished.steps_total == 0 => tell_done(&styled(BAD, "Failed before the first step.")),
        _ => tell_done(&format!(
            "{} {done}.",
            styled(BOLD.fg_color(BAD.get_fg_color()), "Failed:")
        )),
    }
}
