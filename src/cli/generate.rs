//! `schemad completions` and `schemad man`: what packages and shells want of a command line.

use std::{io::Write as _, iter};

use clap::{Args, Command, CommandFactory as _};
use clap_complete::Shell;

use super::{Cli, exit::Exit};

/// Print a shell's completion script.
#[derive(Debug, Args)]
pub(super) struct Completions {
    /// For example: schemad completions bash >/etc/bash_completion.d/schemad
    shell: Shell,
}

/// Print the manual page, one page for the whole command line.
#[derive(Debug, Args)]
pub(super) struct Man {}

impl Completions {
    pub(super) fn run(self) -> Exit {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Cli::command(), "schemad", &mut script);
        print(&script)
    }
}

impl Man {
    pub(super) fn run(self) -> Exit {
        let mut page = Vec::new();
        let mut command = Cli::command();
        command.build();
        // The page of the command, then its subcommands' options, which clap_mangen would put on pages of their own.
        let mut rendered = clap_mangen::Man::new(command.clone()).render(&mut page);
        for sub in commands_below(&command) {
            let title = sub.get_bin_name().unwrap_or_else(|| sub.get_name());
            let man = clap_mangen::Man::new(sub.clone());
            rendered = rendered
                .and_then(|()| writeln!(page, ".SH {}", title.to_uppercase()))
                .and_then(|()| man.render_description_section(&mut page))
                .and_then(|()| man.render_options_section(&mut page));
        }
        match rendered {
            Ok(()) => print(&page),
            Err(error) => Exit::unknown(error),
        }
    }
}

/// Subcommands, each before its own; clap's `help` is none.
fn commands_below(command: &Command) -> Vec<&Command> {
    let own = command.get_subcommands().filter(|sub| sub.get_name() != "help");
    own.flat_map(|sub| iter::once(sub).chain(commands_below(sub))).collect()
}

fn print(bytes: &[u8]) -> Exit {
    match std::io::stdout().write_all(bytes) {
        Ok(()) => Exit::DONE,
        Err(error) => Exit::unknown(format!("cannot write: {error}")),
    }
}
