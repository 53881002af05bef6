//! The signing keys, from files.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use clap::Args;

use crate::cli::{env_file, exit::CommandExit, file_name::FileNameParser};
use crate::migration::signature::SigningKeys;

/// No key is longer; whoever names another file by mistake is told at once.
const LONGEST: u64 = 4096;

/// The setting.
#[derive(Clone, Debug, Args)]
pub(crate) struct SigningArgs {
    /// Sign the down scripts that the ledger keeps with the key in this file, and run none from
    /// there that is not signed. Several: the first signs, all verify. `openssl rand -hex 32` makes
    /// a key.
    #[arg(long, env = "SCHEMAD_SIGNING_KEY_FILE", value_name = "FILE", value_delimiter = ',', value_parser = FileNameParser)]
    signing_key_file: Vec<PathBuf>,
}

impl SigningArgs {
    /// The files.
    pub(crate) fn files(&self) -> &[PathBuf] {
        &self.signing_key_file
    }

    /// The keys in the files; `None` without any.
    pub(crate) fn keys(&self) -> Result<Option<SigningKeys>, CommandExit> {
        for file in &self.signing_key_file {
            env_file::check_beside("SCHEMAD_SIGNING_KEY_FILE", file).map_err(CommandExit::usage)?;
        }
        let complain = |file: &Path, error: &dyn std::fmt::Display| {
            CommandExit::usage(format!("--signing-key-file {}: {error}", file.display()))
        };
        let read = |file: &PathBuf| read(file).map_err(|error| complain(file, &error));
        let files: Vec<Vec<u8>> = self
            .signing_key_file
            .iter()
            .map(read)
            .collect::<Result<_, _>>()?;
        SigningKeys::read(&files).map_err(|(n, error)| match self.signing_key_file.get(n) {
            Some(file) => complain(file, &error),
            None => CommandExit::usage(error),
        })
    }
}

fn read(file: &Path) -> Result<Vec<u8>, std::io::Error> {
    let mut bytes = Vec::new();
    File::open(file)?
        .take(LONGEST + 1)
        .read_to_end(&mut bytes)?;
    if bytes.len() as u64 > LONGEST {
        Err(std::io::Error::other(format!(
            "it is longer than {LONGEST} bytes, which is no key"
        )))
    } else {
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        signing: SigningArgs,
    }

    fn keys(args: &[&str]) -> Result<Option<SigningKeys>, CommandExit> {
        let line = Line::try_parse_from([&["x"], args].concat()).unwrap();
        line.signing.keys()
    }

    #[test]
    fn several_files_are_repeated_or_stand_with_commas() {
        let dir = tempfile::tempdir().unwrap();
        let file = |name: &str, bytes: usize| {
            let path = dir.path().join(name);
            std::fs::write(&path, vec![b'k'; bytes]).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let (a, b, long) = (file("a", 32), file("b", 40), file("long", 5000));
        assert!(keys(&[]).unwrap().is_none());
        for args in [
            &["--signing-key-file", &format!("{a},{b}")][..],
            &["--signing-key-file", &a, "--signing-key-file", &b],
        ] {
            assert_eq!(keys(args).unwrap().unwrap().count(), 2);
        }
        assert!(
            format!("{:?}", keys(&["--signing-key-file", &long]).unwrap_err())
                .contains("which is no key")
        );
    }
}
