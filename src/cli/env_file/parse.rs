//! The lines of a `.env`, as dotenvy reads them but for two things. An error says the number of its
//! line and quotes nothing, for the line may hold a password. And a `$` stands for itself unless it
//! names what a line above has set: dotenvy puts the variables of the environment there, among them
//! secrets, and nothing where there is no such variable, which changes a password in silence.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// The reason that a line cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line} of .env {problem}")]
pub(crate) struct LineError {
    line: usize,
    problem: &'static str,
}

const NO_NAME: &str = "begins with no name of a variable (NAME=value)";
const NO_EQUALS: &str = "has no = behind a name of letters, digits and _ (NAME=value)";
const SPACES: &str = "has something behind the value: put quotes around a value with spaces";
const OPEN_QUOTE: &str = "opens a quote that is closed nowhere";
const BACKSLASH: &str =
    "has a \\ before a sign that needs none; in single quotes a \\ stands for itself";
const NOT_SET: &str = "puts in a ${NAME} that no line above it sets. Variables of the environment \
     are not put in; in single quotes a $ stands for itself";

/// The names and values in the order of the file.
pub(crate) fn parse(text: &str) -> Result<Vec<(String, String)>, LineError> {
    let text = text
        .strip_prefix('\u{feff}')
        .unwrap_or(text)
        .replace("\r\n", "\n");
    let mut reader = LineReader {
        rest: text.chars().peekable(),
        line: 1,
        set: BTreeMap::new(),
    };
    let mut pairs = Vec::new();
    while let Some(pair) = reader.pair()? {
        reader.set.insert(pair.0.clone(), pair.1.clone());
        pairs.push(pair);
    }
    Ok(pairs)
}

/// The pairs as a file in which no sign means anything.
pub(crate) fn written(pairs: &BTreeMap<String, String>) -> String {
    pairs
        .iter()
        .map(|(name, value)| format!("{name}='{}'\n", value.replace('\'', "'\\''")))
        .collect()
}

struct LineReader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
    set: BTreeMap<String, String>,
}

impl LineReader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn take_while(&mut self, is_part: impl Fn(char) -> bool) -> String {
        let mut taken = String::new();
        while let Some(c) = self.rest.next_if(|c| is_part(*c)) {
            self.line += usize::from(c == '\n');
            taken.push(c);
        }
        taken
    }

    fn skip_blanks(&mut self) {
        self.take_while(|c| c != '\n' && c.is_whitespace());
    }

    /// The next pair; `None` at the end.
    fn pair(&mut self) -> Result<Option<(String, String)>, LineError> {
        loop {
            self.take_while(char::is_whitespace);
            match self.rest.peek() {
                None => return Ok(None),
                Some('#') => drop(self.take_while(|c| c != '\n')),
                Some(_) => break,
            }
        }
        let line = self.line;
        let wrong = |problem| LineError { line, problem };
        let mut name = self.name().ok_or(wrong(NO_NAME))?;
        self.skip_blanks();
        if name == "export" && self.rest.peek() != Some(&'=') {
            name = self.name().ok_or(wrong(NO_NAME))?;
            self.skip_blanks();
        }
        self.rest.next_if_eq(&'=').ok_or(wrong(NO_EQUALS))?;
        self.skip_blanks();
        let value = match self.rest.peek() {
            Some('#') => {
                self.take_while(|c| c != '\n');
                String::new()
            }
            _ => self.value().map_err(wrong)?,
        };
        Ok(Some((name, value)))
    }

    fn name(&mut self) -> Option<String> {
        self.rest
            .peek()
            .filter(|c| c.is_ascii_alphabetic() || **c == '_')?;
        Some(self.take_while(|c| c.is_ascii_alphanumeric() || c == '_' || c == '.'))
    }

    /// The value, to the end of its line.
    fn value(&mut self) -> Result<String, &'static str> {
        let mut value = String::new();
        loop {
            match self.next() {
                None | Some('\n') => return Ok(value),
                Some('\'') => loop {
                    match self.next().ok_or(OPEN_QUOTE)? {
                        '\'' => break,
                        c => value.push(c),
                    }
                },
                Some('"') => loop {
                    match self.next().ok_or(OPEN_QUOTE)? {
                        '"' => break,
                        '\\' => value.push(self.escaped()?),
                        '$' => self.put_in(&mut value)?,
                        c => value.push(c),
                    }
                },
                Some('\\') => value.push(self.escaped()?),
                Some('$') => self.put_in(&mut value)?,
                Some(c) if c.is_whitespace() => {
                    self.skip_blanks();
                    match self.next() {
                        None | Some('\n') => return Ok(value),
                        Some('#') => {
                            self.take_while(|c| c != '\n');
                            return Ok(value);
                        }
                        Some(_) => return Err(SPACES),
                    }
                }
                Some(c) => value.push(c),
            }
        }
    }

    /// The character that a backslash and the sign behind it stand for.
    fn escaped(&mut self) -> Result<char, &'static str> {
        match self.next() {
            Some(c @ ('\\' | '\'' | '"' | '$' | ' ')) => Ok(c),
            Some('n') => Ok('\n'),
            _ => Err(BACKSLASH),
        }
    }

    /// The value that `$NAME` or `${NAME}` stands for; the `$` was read.
    fn put_in(&mut self, value: &mut String) -> Result<(), &'static str> {
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let has_brace = self.rest.next_if_eq(&'{').is_some();
        let name = self.take_while(is_part);
        let is_closed = has_brace && self.rest.next_if_eq(&'}').is_some();
        match (self.set.get(&name), has_brace, is_closed) {
            (Some(set), false, _) | (Some(set), true, true) => value.push_str(set),
            (None, true, true) => return Err(NOT_SET),
            (_, true, false) => value.push_str(&format!("${{{name}")),
            (None, false, _) => value.push_str(&format!("${name}")),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(text: &str) -> Vec<(String, String)> {
        parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
    }

    fn value(text: &str) -> String {
        pairs(text).pop().unwrap().1
    }

    #[test]
    fn a_dollar_stands_for_itself_unless_a_line_above_sets_what_it_names() {
        for (text, expected) in [
            ("A=pa$word", "pa$word"),
            ("A=\"pa$word\"", "pa$word"),
            ("A=$", "$"),
            ("A=1$2$$x${", "1$2$$x${"),
            ("A=$HOME", "$HOME"),
            ("A='$HOME ${HOME}'", "$HOME ${HOME}"),
            ("A=\\$B", "$B"),
            ("B_1=x\nA=a$B_1-${B_1}y\"$B_1\"", "ax-xyx"),
            ("B=x\nB='y'\nA=$B", "y"),
        ] {
            assert_eq!(value(text), expected, "{text}");
        }
        assert_eq!(
            parse("X=1\nA=${HOME}").unwrap_err(),
            LineError {
                line: 2,
                problem: NOT_SET
            }
        );
    }

    #[test]
    fn a_line_that_cannot_be_read_is_named_by_its_number() {
        for (text, line) in [
            ("A", 1),
            ("\n# x\n=1", 3),
            ("A='1\n2'\nB C=1", 3),
            ("A=1 2", 1),
            ("A='1\n2", 1),
            ("X=\nA=\"1\\x\"", 2),
            ("A=a\\", 1),
            ("1A=1", 1),
        ] {
            assert_eq!(parse(text).unwrap_err().line, line, "{text}");
        }
    }

    #[test]
    fn all_else_is_as_dotenvy_reads_it() {
        for text in [
            "A=1\nB=2",
            "\r\nA=1\r\nB='x'\r\n",
            "  A = 1  # c\nexport B=2\nexport=3\nexport  C = '4'",
            "A=\nB=   \nC= # c\nD=#c\nE=a#b\nF=a #b",
            "A='a b'\"c d\"e\\ f\nB=\"x\\n\\\"y\\\\\"\nC='\\n'",
            "A='two\nlines'\nB=\"and\nthree\n\"",
            "A.B=1\n_x=y",
            "A=1\nA=2",
            "A=postgres://u:p%20w@h:1/d?a=b&c=d",
        ] {
            let theirs: Vec<(String, String)> = dotenvy::from_read_iter(text.as_bytes())
                .map(|pair| pair.unwrap())
                .collect();
            assert_eq!(pairs(text), theirs, "{text}");
        }
    }

    #[test]
    fn what_is_written_is_read_as_it_was() {
        let set: BTreeMap<String, String> =
            [("A", "it's $HOME \\ \"x\"\n${B} #"), ("B", ""), ("C", "'")]
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .into();
        let read: BTreeMap<String, String> = dotenvy::from_read_iter(written(&set).as_bytes())
            .map(|pair| pair.unwrap())
            .collect();
        assert_eq!(read, set);
    }
}
