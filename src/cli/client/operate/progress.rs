//! What moves on a terminal while an operation runs: the step with the statement that runs, and
//! since when, and a bar of all steps. What stays are the lines of `show`. Where stderr is no
//! terminal, nothing is drawn.

use std::{io::Write as _, time::Duration};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use nix::sys::termios::{LocalFlags, tcgetattr};

use super::show::range;
use crate::{
    cli::output::{fitted, line},
    pb::{self, operation_event::Event},
    text::escape::{in_locale, is_ascii},
};

/// What is longer than the terminal is wide is cut at its edge.
const OPERATION: &str = "{bar:24} {pos}/{len} steps, {elapsed}";
const REHEARSAL: &str = "{bar:24} {pos}/{len} migrations, {elapsed}";
const STEP: &str = "{spinner} {elapsed:>3}  {wide_msg}";

/// The bars of one operation.
pub(crate) struct ProgressDisplay {
    screen: MultiProgress,
    bars: Option<ProgressBars>,
}

struct ProgressBars {
    step: ProgressBar,
    operation: ProgressBar,
    /// The step that runs.
    name: String,
}

impl ProgressBars {
    /// Something begins, and its time with it.
    fn begin(&self, what: String) {
        self.step.reset_elapsed();
        self.say(what);
    }

    fn say(&self, what: String) {
        // The spinner and the time stand before it.
        self.step
            .set_message(in_locale(&fitted(&what, "⠴ 59m  ".chars().count())).into_owned());
    }
}

impl ProgressDisplay {
    pub(crate) fn new() -> Self {
        Self {
            screen: MultiProgress::new(),
            bars: None,
        }
    }

    /// Writes lines above the bars.
    pub(crate) fn above(&self, write: impl FnOnce()) {
        self.screen.suspend(write);
    }

    pub(crate) fn event(&mut self, event: &pb::OperationEvent) {
        match (&event.event, &mut self.bars) {
            (Some(Event::StepStarted(step)), _) => {
                let way = if step.direction() == pb::Direction::Down {
                    "down"
                } else {
                    "up"
                };
                self.started(
                    OPERATION,
                    (step.ordinal, step.total),
                    format!("{way} {}", line(&step.name)),
                );
            }
            (Some(Event::StatementStarted(started)), Some(bars)) => bars.begin(format!(
                "{}  statement {}/{}: {}",
                line(&started.version), // a name would leave no room
                range(started.statement, started.last_statement),
                started.statements,
                line(&started.summary)
            )),
            (Some(Event::StatementDone(_)), Some(bars)) => bars.begin(bars.name.clone()),
            (Some(Event::Progress(progress)), Some(bars)) => {
                let percent = if progress.total > 0 {
                    format!(" {:.0} %", progress.percent)
                } else {
                    String::new()
                };
                let index = if progress.index.is_empty() {
                    &progress.relation
                } else {
                    &progress.index
                };
                bars.say(format!(
                    "{}  {}: {}{percent}",
                    line(&progress.version),
                    line(index),
                    line(&progress.phase)
                ));
            }
            (Some(Event::Waiting(waiting)), Some(bars)) => {
                let behind: Vec<String> = waiting
                    .blockers
                    .iter()
                    .map(|blocker| blocker.pid.to_string())
                    .collect();
                bars.say(format!(
                    "{}  waiting for {} behind {}",
                    bars.name,
                    line(&waiting.mode),
                    behind.join(", ")
                ));
            }
            (Some(Event::Retrying(_)), Some(bars)) => {
                bars.say(format!("{}  locked, trying again", bars.name));
            }
            (Some(Event::StepDone(step)), Some(bars)) => {
                bars.operation.set_position(count(step.ordinal));
                bars.operation.tick(); // beside the line that says the same
            }
            (Some(Event::Finished(_)), _) => self.clear(),
            _ => {}
        }
    }

    /// A migration is about to be rehearsed.
    pub(crate) fn rehearses(&mut self, began: &pb::RehearsalBegan) {
        self.started(REHEARSAL, (began.ordinal, began.total), line(&began.name));
    }

    /// Takes everything off the screen.
    pub(crate) fn clear(&mut self) {
        if let Some(ProgressBars {
            step, operation, ..
        }) = self.bars.take()
        {
            step.finish_and_clear();
            operation.finish_and_clear();
        }
    }

    /// The same after Ctrl-C. The bars fill the last line to its end, so the terminal's echo of it
    /// stands on a line below.
    pub(crate) fn interrupted(&mut self) {
        if self.bars.is_some() && echoes_control() {
            move_cursor("\r\u{1b}[2K\u{1b}[1A");
        }
        self.clear();
    }

    fn started(&mut self, all: &str, (ordinal, total): (i32, i32), name: String) {
        let bars = self.bars.get_or_insert_with(|| {
            let spinner = if is_ascii() {
                style(STEP).tick_chars("|/-\\ ")
            } else {
                style(STEP)
            };
            let step = self
                .screen
                .add(ProgressBar::new_spinner().with_style(spinner));
            let operation = self
                .screen
                .add(ProgressBar::new(count(total)).with_style(style(all)));
            // The spinner turns, and the time is drawn anew.
            step.enable_steady_tick(Duration::from_millis(100));
            operation.enable_steady_tick(Duration::from_millis(500));
            ProgressBars {
                step,
                operation,
                name: String::new(),
            }
        });
        bars.name = name;
        bars.begin(bars.name.clone());
        bars.operation.set_position(count(ordinal - 1));
        bars.operation.tick();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates above are checked by a test.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_spinner())
        .progress_chars("=> ")
}

/// The terminal shows Ctrl-C as ^C.
fn echoes_control() -> bool {
    let flags = tcgetattr(std::io::stdin()).map(|terminal| terminal.local_flags);
    flags.is_ok_and(|flags| flags.contains(LocalFlags::ECHO | LocalFlags::ECHOCTL))
}

fn move_cursor(text: &str) {
    let mut stderr = std::io::stderr();
    let _ = stderr
        .write_all(text.as_bytes())
        .and_then(|()| stderr.flush()); // a terminal that is gone shows nothing
}

fn count(n: i32) -> u64 {
    u64::try_from(n).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_templates_are_valid() {
        for template in [OPERATION, STEP] {
            ProgressStyle::with_template(template).unwrap();
        }
    }
}
