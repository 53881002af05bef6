//! Files that are read again when they change. They are compared by content and not watched: a
//! mounted secret changes by a swapped link somewhere above it, which no watch on the file sees and
//! no time of its own shows.

use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

/// How long what was taken out of a file is still accepted; reading small files costs next to
/// nothing.
const EVERY: Duration = Duration::from_secs(1);

/// Takes what the files came to.
pub(crate) type ApplyChange = Box<dyn FnOnce() + Send>;

/// Something that is as its files say.
pub(crate) trait ReloadableFiles: Clone + Send + 'static {
    /// The event of a change that cannot be taken.
    const NOT_TAKEN: &'static str;

    /// What the files say now, if that is something new.
    ///
    /// # Errors
    /// What is wrong with them, in words; what was there stays.
    fn read_again(&self) -> Result<Option<ApplyChange>, String>;

    /// What else there is to do now and then.
    fn tend(&self) {}
}

/// What an operator was told and still holds.
#[derive(Debug, Default)]
pub(crate) struct ReportedProblem(Option<String>);

/// Follows the files; never returns.
///
/// Dropping the future leaves everything as it is.
pub(crate) async fn follow(files: impl ReloadableFiles) {
    let mut told = ReportedProblem::default();
    let mut ticks = interval(EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        look(&files, &mut told).await;
    }
}

/// Once.
pub(crate) async fn look<F: ReloadableFiles>(files: &F, told: &mut ReportedProblem) {
    let reading = files.clone();
    // On a thread of its own: they may lie on a network that hangs.
    let problem = match tokio::task::spawn_blocking(move || reading.read_again()).await {
        Ok(Ok(new)) => {
            new.into_iter().for_each(|take| take());
            None
        }
        Ok(Err(problem)) => Some(problem),
        Err(panic) => Some(format!("a mistake in schemad: {panic}")),
    };
    if let Some(problem) = problem
        .as_ref()
        .filter(|problem| told.0.as_ref() != Some(problem))
    {
        tracing::error!(
            event = F::NOT_TAKEN,
            "what was there before stays: {problem}"
        );
    }
    told.0 = problem;
    files.tend();
}
