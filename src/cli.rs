//! The command line: one binary that serves, and asks. The only place that reads the environment.

pub(crate) mod client;
mod env_file;
mod exit;
mod file_name;
pub(crate) mod local;
mod open_file;
mod output;
mod rehearse;
pub(crate) mod snippet;

use std::process::ExitCode;

use clap::{
    ArgMatches, CommandFactory as _, FromArgMatches as _, Parser, Subcommand, builder::Resettable,
    parser::ValueSource,
};
use diesel::{migration::MigrationSource, pg::Pg};

use client::{health, history, lease, ledger, list, operate, resolve, schema, show, status, wait};
use exit::CommandExit;
use local::{dev, doctor, generate, serve, token};
use output::say;

/// Owns the schema of a PostgreSQL database; deploy pipelines ask it to apply, roll back and report
/// migrations.
///
/// Every flag can be set in the environment (--queue-timeout as SCHEMAD_QUEUE_TIMEOUT) or in a file
/// .env in the current folder. A flag beats the environment, which beats the file.
#[derive(Debug, Parser)]
#[command(name = "schemad", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Subcommands,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    /// Run the daemon.
    Serve(serve::ServeArgs),
    /// Run the daemon on a private PostgreSQL with everything applied, to try it out.
    Dev(dev::DevArgs),
    /// Look at the database the way the daemon will use it, and say what it would stumble over.
    Doctor(doctor::DoctorArgs),
    /// Show the state of the schema.
    Status(status::StatusArgs),
    /// List all known migrations.
    List(list::ListArgs),
    /// Show the schema of the database: tables, types, views, functions; or an ER diagram.
    Schema(schema::SchemaArgs),
    /// Show one migration with its SQL.
    Show(show::ShowArgs),
    /// Apply pending migrations.
    Apply(operate::ApplyArgs),
    /// Roll back applied migrations.
    Rollback(operate::RollbackArgs),
    /// Try each migration up, down and up again in a scratch database, and say whether its down
    /// undoes it.
    Rehearse(rehearse::RehearseArgs),
    /// Settle what only a person can know: a statement in doubt, a half done script, an edited up.
    Resolve(resolve::ResolveArgs),
    /// Sign the down scripts that the ledger keeps.
    Ledger(ledger::LedgerArgs),
    /// List operations.
    History(history::HistoryArgs),
    /// Follow an operation.
    Watch(history::WatchArgs),
    /// Cancel an operation.
    Cancel(history::CancelArgs),
    /// Lease a migrated database for a test.
    Lease(lease::LeaseArgs),
    /// Ask the gRPC health service, with the flags and exit codes of grpc_health_probe.
    Health(health::HealthArgs),
    /// Wait until the daemon, the database or the schema is ready.
    Wait(wait::WaitArgs),
    /// Make a bearer token for the access file.
    Token(token::TokenCommand),
    /// Print a shell's completion script.
    Completions(generate::CompletionsArgs),
    /// Print the manual page.
    Man(generate::ManArgs),
}

/// Parses the command line and runs it around `source`. Returns the process's exit code
/// (docs/exit-codes.md).
pub(crate) fn main(source: &dyn MigrationSource<Pg>) -> ExitCode {
    let is_daemon = std::env::args_os()
        .nth(1)
        .is_some_and(|command| command == "serve" || command == "dev");
    if is_daemon {
        crate::telemetry::log_queue::start();
    }
    let code = run_command_line(source);
    crate::telemetry::log_queue::flush();
    code
}

fn run_command_line(source: &dyn MigrationSource<Pg>) -> ExitCode {
    let mut command = Cli::command();
    command.build();
    let warnings = match env_file::load(&command) {
        Ok(warnings) => warnings,
        Err(error) => return CommandExit::usage(error).report(),
    };
    let args = health::with_double_dashes(std::env::args_os());
    let asks_health = args.get(1).is_some_and(|arg| arg == "health");
    let parsed = without_empty_settings(Cli::command()).try_get_matches_from(args);
    let asks_daemon = parsed.as_ref().is_ok_and(names_a_daemon);
    if let Ok(matches) = &parsed {
        env_file::note_flags(&command, matches);
    }
    match parsed.and_then(|matches| Cli::from_arg_matches(&matches)) {
        Ok(cli) => {
            // A daemon logs them, and a probe that is made every few seconds would only repeat
            // them.
            match cli.command {
                Subcommands::Serve(_) | Subcommands::Dev(_) => env_file::keep_warnings(warnings),
                Subcommands::Health(_) | Subcommands::Completions(_) | Subcommands::Man(_) => {}
                _ => warnings.iter().for_each(|warning| output::warn(warning)),
            }
            let exit = run(cli.command, source, asks_daemon);
            output::checked(
                exit,
                if asks_health {
                    health::NOT_PRINTED
                } else {
                    CommandExit::NOT_PRINTED
                },
            )
            .report()
        }
        Err(error) => {
            let text = error.render().ansi().to_string();
            match error.exit_code() {
                0 => {
                    say(text.trim_end());
                    output::checked(CommandExit::DONE, CommandExit::NOT_PRINTED).report()
                }
                code => {
                    output::progress(&without_secrets(&text));
                    if asks_health {
                        health::USAGE
                    } else {
                        ExitCode::from(u8::try_from(code).unwrap_or(2))
                    }
                }
            }
        }
    }
}

/// True where --address stands on the command line, not only in the environment.
fn names_a_daemon(matches: &ArgMatches) -> bool {
    let given = |matches: &ArgMatches| {
        matches.try_contains_id("address").unwrap_or(false)
            && matches.value_source("address") == Some(ValueSource::CommandLine)
    };
    matches
        .subcommand()
        .is_some_and(|(_, matches)| given(matches))
}

fn run(command: Subcommands, source: &dyn MigrationSource<Pg>, asks_daemon: bool) -> CommandExit {
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return CommandExit::usage(format!("cannot start: {error}")),
    };
    runtime.block_on(async {
        match command {
            Subcommands::Serve(serve) => serve.run(source).await,
            Subcommands::Dev(dev) => dev.run(source).await,
            Subcommands::Doctor(doctor) => doctor.run(source).await,
            Subcommands::Status(status) => status.run().await,
            Subcommands::List(list) => list.run().await,
            Subcommands::Schema(schema) => schema.run().await,
            Subcommands::Show(show) => show.run().await,
            Subcommands::Apply(apply) => apply.run().await,
            Subcommands::Rollback(rollback) => rollback.run().await,
            Subcommands::Rehearse(rehearse) => rehearse.run(source, asks_daemon).await,
            Subcommands::Resolve(resolve) => resolve.run().await,
            Subcommands::Ledger(ledger) => ledger.run().await,
            Subcommands::History(history) => history.run().await,
            Subcommands::Watch(watch) => watch.run().await,
            Subcommands::Cancel(cancel) => cancel.run().await,
            Subcommands::Lease(lease) => lease.run().await,
            Subcommands::Health(health) => health.run().await,
            Subcommands::Wait(wait) => wait.run().await,
            Subcommands::Token(token) => token.run(),
            Subcommands::Completions(completions) => completions.run(),
            Subcommands::Man(man) => man.run(),
        }
    })
}

/// clap repeats what it does not understand, and that may be a URL, a DSN, a token or a key in a
/// wrong place: such a line is cut there, and a key's are all.
fn without_secrets(message: &str) -> String {
    let message = message
        .split_inclusive("-----BEGIN")
        .next()
        .unwrap_or_default();
    let cut = |line: &str| match ["://", "password=", "schemad_", "eyJ", "-----BEGIN"]
        .iter()
        .filter_map(|begins| line.find(begins))
        .min()
    {
        Some(at) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    };
    message
        .trim_end()
        .lines()
        .map(cut)
        .collect::<Vec<_>>()
        .join("\n")
}

/// An empty variable is no setting: compose files and unit files write `X=` for "not set".
fn without_empty_settings(command: clap::Command) -> clap::Command {
    command
        .mut_subcommands(without_empty_settings)
        .mut_args(|arg| {
            let is_empty = arg
                .get_env()
                .is_some_and(|name| std::env::var_os(name).is_some_and(|value| value.is_empty()));
            if is_empty {
                arg.env(Resettable::Reset)
            } else {
                arg
            }
        })
}
