//! `schemad token new`: a bearer token, shown once, and what the access file has to know of it
//! (docs/access.md).

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use clap::{Args, Subcommand};

use crate::access::{Access, AccessFileError, Role, SecretToken};
use crate::cli::{
    exit::CommandExit,
    output::{self, DIM, OutputFormat, progress, say, styled},
};

/// Make bearer tokens.
#[derive(Debug, Args)]
pub(crate) struct TokenCommand {
    #[command(subcommand)]
    command: TokenSubcommand,
}

#[derive(Debug, Subcommand)]
enum TokenSubcommand {
    /// Print a new token on stdout, and on stderr the entry that the access file needs.
    New(NewTokenArgs),
}

#[derive(Debug, Args)]
struct NewTokenArgs {
    /// Who will have it: calls are made by the principal token:NAME.
    #[arg(long)]
    name: String,
    /// What it may do: viewer, deployer or admin.
    #[arg(long, value_parser = role)]
    role: Role,
    /// How long it is valid, for example 90d [default: until it is taken out of the file].
    #[arg(long, value_name = "DURATION", value_parser = valid_for)]
    expires: Option<Duration>,
    /// Put the entry into this access file, which is made if there is none.
    #[arg(long, value_name = "FILE")]
    append: Option<PathBuf>,
    /// How to answer.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    output: OutputFormat,
}

/// A token and what goes with it.
#[derive(Debug)]
struct NewToken {
    secret: SecretToken,
    expires: Option<String>,
    entry: String,
}

fn role(word: &str) -> Result<Role, String> {
    word.parse()
        .map_err(|()| "a role is viewer, deployer or admin".into())
}

fn valid_for(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(Duration::ZERO) => Err("must be longer than 0".into()),
        Ok(duration) => Ok(duration),
        Err(error) => Err(error.to_string()),
    }
}

impl TokenCommand {
    pub(crate) fn run(self) -> CommandExit {
        let TokenSubcommand::New(new) = self.command;
        new.make().err().unwrap_or(CommandExit::DONE)
    }
}

impl NewTokenArgs {
    fn make(&self) -> Result<(), CommandExit> {
        let made = self.prepare()?;
        self.show(&made);
        if !output::is_printed() {
            if let Some(file) = &self.append {
                progress(&format!(
                    "The token was made and nobody has it: its entry, of the name {}, is in {}. \
                     Take it out, and make another.",
                    output::line(&self.name),
                    file.display()
                ));
            }
            return Ok(());
        }
        match &self.append {
            Some(file) => progress(&styled(
                DIM,
                &format!("Its entry is in {}.", file.display()),
            )),
            None => progress(&format!(
                "{}\n\n{}",
                styled(DIM, "For the access file:"),
                made.entry
            )),
        }
        Ok(())
    }

    /// The entry is in its file before the token is shown: nobody gets one that will never work.
    fn prepare(&self) -> Result<NewToken, CommandExit> {
        let secret = SecretToken::generate().map_err(CommandExit::unavailable)?;
        let expires = self
            .expires
            .map(|valid| time(SystemTime::now(), valid))
            .transpose()?;
        let entry = self.entry(&secret, expires.as_deref());
        match &self.append {
            Some(file) => append(file, &entry)?,
            None => check(&entry)?,
        }
        Ok(NewToken {
            secret,
            expires,
            entry,
        })
    }

    fn entry(&self, secret: &SecretToken, expires: Option<&str>) -> String {
        // JSON's quoting is also TOML's.
        let name = serde_json::Value::from(self.name.as_str());
        let expires = expires
            .map(|time| format!("expires = \"{time}\"\n"))
            .unwrap_or_default();
        format!(
            "[[token]]\nname = {name}\nrole = \"{}\"\nsha256 = \"{}\"\n{expires}",
            self.role,
            secret.digest()
        )
    }

    fn show(&self, made: &NewToken) {
        if self.output == OutputFormat::Table {
            return say(made.secret.reveal());
        }
        let token = serde_json::json!({
            "name": self.name,
            "role": self.role.as_str(),
            "token": made.secret.reveal(),
            "sha256": made.secret.digest().to_string(),
            "expires": made.expires,
        });
        output::say_json(&token.to_string());
    }
}

/// The time after `valid`, in RFC 3339.
fn time(now: SystemTime, valid: Duration) -> Result<String, CommandExit> {
    let year_9999 = SystemTime::UNIX_EPOCH + Duration::from_secs(253_402_300_799);
    let end = now.checked_add(valid).filter(|end| *end <= year_9999);
    let end =
        end.ok_or_else(|| CommandExit::usage("--expires lies after the year 9999; leave it out"))?;
    Ok(humantime::format_rfc3339_seconds(end).to_string())
}

/// An entry for which there is no file yet: what is wrong can only be the name.
fn check(entry: &str) -> Result<(), CommandExit> {
    Access::check(Path::new("access.toml"), entry).map_err(|error| match error {
        AccessFileError::Invalid { problem, .. } => {
            CommandExit::usage(format!("--name: {problem}"))
        }
        other => CommandExit::usage(other),
    })
}

/// Adds an entry to a file that is right with it. Only its owner can read a new file.
fn append(path: &Path, entry: &str) -> Result<(), CommandExit> {
    let failed = |error| CommandExit::usage(format!("--append {}: {error}", path.display()));
    let before = match fs::read_to_string(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => String::new(),
        read => read.map_err(failed)?,
    };
    let gap = match before.as_str() {
        "" => "",
        text if text.ends_with('\n') => "\n",
        _ => "\n\n",
    };
    let added = format!("{gap}{entry}");
    Access::check(path, &format!("{before}{added}")).map_err(CommandExit::usage)?;
    let file = OpenOptions::new()
        .append(true)
        .create(true)
        .mode(0o600)
        .open(path);
    // One write: a daemon that reads meanwhile sees the entry or does not.
    file.and_then(|mut file| {
        file.write_all(added.as_bytes())
            .and_then(|()| file.sync_all())
    })
    .map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn new(name: &str, append: Option<PathBuf>) -> NewTokenArgs {
        let expires = Some(Duration::from_secs(3600));
        NewTokenArgs {
            name: name.into(),
            role: Role::Deployer,
            expires,
            append,
            output: OutputFormat::Table,
        }
    }

    #[test]
    fn an_appended_entry_lets_its_token_in() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        new("ci \"quoted\"", Some(path.clone())).prepare().unwrap();
        assert_eq!(
            fs::metadata(&path).unwrap().permissions().mode() & 0o777,
            0o600
        );
        fs::write(&path, fs::read_to_string(&path).unwrap().trim_end()).unwrap();
        new("other", Some(path.clone())).prepare().unwrap();
        Access::open(&path).unwrap();
        assert_eq!(
            fs::read_to_string(&path)
                .unwrap()
                .matches("[[token]]")
                .count(),
            2
        );
    }

    #[test]
    fn what_the_file_would_not_take_is_not_written() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.toml");
        new("ci", Some(path.clone())).prepare().unwrap();
        let before = fs::read(&path).unwrap();
        for name in ["ci", "", "a\nb"] {
            new(name, Some(path.clone())).prepare().unwrap_err();
        }
        assert_eq!(fs::read(&path).unwrap(), before);
        new("a\nb", None).prepare().unwrap_err();
    }

    #[test]
    fn no_token_ends_beyond_what_can_be_written() {
        let day = Duration::from_secs(86400);
        assert_eq!(
            time(SystemTime::UNIX_EPOCH, day).unwrap(),
            "1970-01-02T00:00:00Z"
        );
        assert!(time(SystemTime::now(), Duration::MAX).is_err());
        assert!(time(SystemTime::now(), 4_000_000 * day).is_err());
    }
}
