//! `schemad completions` and `schemad man`: what packages and shells want of a command line.

use std::io::Write as _;

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use crate::cli::{Cli, exit::CommandExit, output};

/// Print a shell's completion script.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// For example: schemad completions bash >/etc/bash_completion.d/schemad
    shell: Shell,
}

/// Print the manual page, or that of one command.
#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// For example: schemad man apply | man -l -
    command: Option<String>,
}

impl CompletionsArgs {
    pub(crate) fn run(self) -> CommandExit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "schemad", &mut script);
        print(&script)
    }
}

impl ManArgs {
    pub(crate) fn run(self) -> CommandExit {
        let mut root = Cli::command();
        root.build();
        let page = match &self.command {
            None => whole(&root),
            Some(name) => match commands(&root).find(|command| command.get_name() == name) {
                Some(command) => one(command),
                None => {
                    let names: Vec<&str> = commands(&root).map(Command::get_name).collect();
                    return CommandExit::usage(format!(
                        "there is no command {name}; there are {}",
                        names.join(", ")
                    ));
                }
            },
        };
        match page {
            Ok(page) => print(&page),
            Err(error) => CommandExit::unknown(error),
        }
    }
}

fn commands(root: &Command) -> impl Iterator<Item = &Command> {
    root.get_subcommands()
        .filter(|command| command.get_name() != "help")
}

/// All of them, each before its own.
fn commands_below(command: &Command) -> Vec<&Command> {
    commands(command)
        .flat_map(|sub| std::iter::once(sub).chain(commands_below(sub)))
        .collect()
}

/// The page of one command, with the options of those below it.
fn one(command: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    clap_mangen::Man::new(command.clone()).render(&mut page)?;
    sections(command, &mut page)?;
    Ok(page)
}

/// What the commands below are for, and their options.
fn sections(command: &Command, page: &mut Vec<u8>) -> std::io::Result<()> {
    for sub in commands_below(command) {
        let man = clap_mangen::Man::new(sub.clone());
        writeln!(
            page,
            ".SH {}",
            sub.get_bin_name()
                .unwrap_or_else(|| sub.get_name())
                .to_uppercase()
        )?;
        man.render_description_section(page)?;
        man.render_options_section(page)?;
    }
    Ok(())
}

/// The page of all: the commands with their options. clap_mangen's own list of them would name
/// pages that nobody has installed.
fn whole(root: &Command) -> std::io::Result<Vec<u8>> {
    let mut page = Vec::new();
    let man = clap_mangen::Man::new(root.clone());
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    writeln!(
        page,
        ".SH COMMANDS\nEach has its own page: \\fBschemad man \\fICOMMAND\\fR prints it."
    )?;
    for command in commands(root) {
        let about = command
            .get_about()
            .map(ToString::to_string)
            .unwrap_or_default();
        writeln!(
            page,
            ".TP\n\\fBschemad {}\\fR\n{}",
            command.get_name(),
            about.replace('\\', "\\\\").replace('-', "\\-")
        )?;
    }
    sections(root, &mut page)?;
    man.render_version_section(&mut page)?;
    Ok(page)
}

fn print(bytes: &[u8]) -> CommandExit {
    output::say_bytes(bytes);
    CommandExit::DONE
}
