//! What people see of an operation: a line an event, on stderr but for the last, which is the result.

use crate::{
    cli::output::{self, BAD, BOLD, DIM, GOOD, WARN, duration, line, progress, say, styled, table},
    db::activity,
    grpc::pb::{self, operation_event::Event},
};

/// Shows one event.
pub(in crate::cli) fn event(event: &pb::OperationEvent) {
    match &event.event {
        Some(Event::Accepted(accepted)) => {
            let again = if accepted.repeated { ", accepted before" } else { "" };
            let request = format!("operation {} (request {}{again})", event.operation, line(&accepted.request_id));
            progress(&styled(DIM, &request));
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
        // Worth a line in a log when it took its time; a terminal shows the others while they run.
        Some(Event::StatementDone(done)) if done.duration.is_some_and(|took| took.seconds > 0) => progress(&styled(
            DIM,
            &format!(
                "  {}/{}  {}  {}",
                done.statement,
                done.statements,
                line(&done.summary),
                duration(done.duration.as_ref())
            ),
        )),
        Some(Event::StepStarted(_) | Event::StatementDone(_) | Event::Heartbeat(_)) | None => {}
        Some(Event::Notice(notice)) => {
            progress(&format!("  {} {}", styled(DIM, &line(&notice.severity)), line(&notice.message)));
        }
        Some(Event::Waiting(waiting)) => {
            let relation =
                if waiting.relation.is_empty() { String::new() } else { format!(" on {}", waiting.relation) };
            progress(&format!(
                "{} {}: for {}{}",
                styled(WARN, "waiting"),
                line(&waiting.version),
                line(&waiting.mode),
                line(&relation)
            ));
            waiting
                .blockers
                .iter()
                .for_each(|blocker| progress(&format!("  behind {}", line(&self::blocker(blocker)))));
        }
        // A terminal shows it while it moves.
        Some(Event::Progress(_)) => {}
        Some(Event::Dropped(dropped)) => {
            progress(&styled(
                DIM,
                &format!("  {} messages were dropped, because this end was too slow", dropped.events),
            ));
        }
        Some(Event::Retrying(retry)) => progress(&format!(
            "{} {}: {}; trying again in {}",
            styled(WARN, "locked"),
            line(&retry.version),
            line(&retry.message),
            duration(retry.delay.as_ref())
        )),
        Some(Event::StepDone(step)) => progress(&format!(
            "{:>width$}/{}  {}  {}  {}",
            step.ordinal,
            step.total,
            way(step.direction()),
            line(&step.name),
            styled(DIM, &duration(step.duration.as_ref())),
            width = step.total.to_string().len(),
        )),
        Some(Event::Finished(finished)) => self::finished(finished),
    }
}

/// A session that is in the way, in one line.
fn blocker(blocker: &pb::Blocker) -> String {
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
        let source = step.source().as_str_name().trim_start_matches("SCRIPT_SOURCE_").to_lowercase();
        vec![way(step.direction()).into(), step.version.clone(), step.name.clone(), source]
    });
    say(&table(&["", "VERSION", "NAME", "SCRIPT FROM"], rows));
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
    let done = format!("{} of {} steps done, {current}", finished.steps_done, finished.steps_total);
    match finished.state() {
        pb::OperationState::Succeeded if finished.nothing_to_do => say(&format!("Nothing to do; {current}.")),
        pb::OperationState::Succeeded => say(&format!("{} {done}.", styled(GOOD, "Done:"))),
        pb::OperationState::Cancelled if finished.steps_total == 0 => {
            say(&styled(WARN, "Cancelled before the first step."));
        }
        pb::OperationState::Interrupted if finished.steps_total == 0 => {
            say(&styled(WARN, "Interrupted before the first step."));
        }
        pb::OperationState::Cancelled => say(&format!("{} {done}.", styled(WARN, "Cancelled:"))),
        pb::OperationState::Interrupted => say(&format!("{} {done}.", styled(WARN, "Interrupted:"))),
        _ if finished.steps_total == 0 => say(&styled(BAD, "Failed before the first step.")),
        _ => say(&format!("{} {done}.", styled(BOLD.fg_color(BAD.get_fg_color()), "Failed:"))),
    }
}
