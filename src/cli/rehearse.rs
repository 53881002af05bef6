//! `schemad rehearse`: each migration up, down and up again in a scratch database: on a server of
//! its own, on another that is given, or beside the daemon's.

mod local;
mod remote;
mod show;

use std::{num::NonZeroUsize, path::PathBuf};

use clap::Args;
use diesel::{migration::MigrationSource, pg::Pg};

use super::{exit::CommandExit, output::OutputFormat};
use crate::cli::client::connection::ClientArgs;
use crate::rehearse::RehearsalSelection;

/// Run each migration up, down and up again in a scratch database, compare the schema after each,
/// and say whether its down undoes it. It proves structure, not data.
#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("selection").args(["pending", "last", "all"]))]
pub(crate) struct RehearseArgs {
    /// What is not applied (without a daemon: everything); the default.
    #[arg(long)]
    pending: bool,
    /// The last so many of the set.
    #[arg(long, value_name = "K", value_parser = at_least_one)]
    last: Option<NonZeroUsize>,
    /// Everything.
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    local: local::LocalRehearseArgs,
    #[command(flatten)]
    remote: RemoteRehearseArgs,
}

/// Options of asking a daemon. Without --address none is asked: no variable may turn a local
/// rehearsal into another.
#[derive(Debug, Args)]
struct RemoteRehearseArgs {
    #[command(flatten)]
    common: ClientArgs,
}

impl RehearseArgs {
    pub(crate) async fn run(
        self,
        source: &dyn MigrationSource<Pg>,
        asks_daemon: bool,
    ) -> CommandExit {
        let selection = match self.last {
            Some(last) => RehearsalSelection::Last(last),
            None if self.all => RehearsalSelection::All,
            None => RehearsalSelection::Pending,
        };
        let common = self.remote.common;
        let ended = match asks_daemon {
            true if self.local.is_given() => Err(CommandExit::usage(
                "--address asks a daemon, which has its own migrations and server: leave --dir and \
                 the other local flags out",
            )),
            true => remote::run(&common, selection).await,
            false => self.local.run(source, selection, common.output).await,
        };
        ended.err().unwrap_or(CommandExit::DONE)
    }
}

fn at_least_one(text: &str) -> Result<NonZeroUsize, String> {
    text.parse().map_err(|_| "is a whole number from 1".into())
}

/// A folder below which private servers lie.
fn server_dir(given: Option<PathBuf>) -> Result<PathBuf, CommandExit> {
    given.map_or_else(|| crate::cli::local::dev::state_dir("rehearse"), Ok)
}

/// True for the form that programs read.
fn is_json(output: OutputFormat) -> bool {
    output == OutputFormat::Json
}
