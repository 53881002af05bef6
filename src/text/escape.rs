//! Text from elsewhere (migrations, the database, requests, a daemon) on a terminal or in a log: it
//! must neither command the terminal nor look like a line of schemad's own. What would is written
//! as an escape, so that it can still be seen.

use std::{borrow::Cow, fmt::Write as _, io, sync::LazyLock};

use crate::text::ascii::in_ascii;

/// What acts on a terminal without being seen, or breaks a line: control characters, and what
/// reorders the text of others or separates lines in Unicode (the bidirectional marks, embeddings,
/// overrides and isolates).
fn acts(c: char) -> bool {
    let reorders = matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || reorders || matches!(c, '\u{2028}' | '\u{2029}')
}

fn escaped(text: &str, keep: impl Fn(usize, char) -> bool) -> String {
    text.char_indices()
        .fold(String::with_capacity(text.len()), |mut plain, (at, c)| {
            match c {
                c if !acts(c) || keep(at, c) => plain.push(c),
                '\n' => plain.push_str("\\n"),
                '\r' => plain.push_str("\\r"),
                // Writing to a String cannot fail.
                c => drop(write!(plain, "\\u{{{:x}}}", u32::from(c))),
            }
            plain
        })
}

/// Text that may have lines of its own: SQL, a message that stands last.
pub(crate) fn plain(text: &str) -> String {
    escaped(&text.replace("\r\n", "\n"), |_, c| c == '\n' || c == '\t')
}

/// Text that is part of a line.
pub(crate) fn line(text: &str) -> String {
    escaped(text, |_, c| c == '\t')
}

/// A whole line or more of output, colours included: the last look at whatever is written, in case
/// a part of it was not looked at before.
pub(crate) fn last_look(text: &str) -> String {
    escaped(text, |at, c| {
        c == '\n' || c == '\t' || c == '\u{1b}' && is_colour(&text[at..])
    })
}

/// Whether the locale says that whoever reads has ASCII only: it is C or POSIX. Where nothing is
/// said (most containers) UTF-8 is written, which is what terminals have.
pub(crate) fn is_ascii() -> bool {
    static IS_ASCII: LazyLock<bool> =
        LazyLock::new(|| is_c_locale(|name| std::env::var(name).ok()));
    *IS_ASCII
}

/// The first of LC_ALL, LC_CTYPE and LANG that is set decides, as POSIX has it.
fn is_c_locale(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = ["LC_ALL", "LC_CTYPE", "LANG"]
        .into_iter()
        .find_map(|name| variable(name).filter(|it| !it.is_empty()));
    set.is_some_and(|locale| locale == "C" || locale == "POSIX")
}

/// Text as the locale has it.
pub(crate) fn in_locale(text: &str) -> Cow<'_, str> {
    if is_ascii() && !text.is_ascii() {
        ascii(text).into()
    } else {
        text.into()
    }
}

/// Text in ASCII, with letters as escapes.
fn ascii(text: &str) -> String {
    in_ascii(text, |c| format!("\\u{{{:x}}}", u32::from(c)))
}

/// JSON on one line. What is in it stands in strings, where serde_json has escaped the ASCII
/// control characters.
pub(crate) fn json(text: &str) -> String {
    json_with(text, is_ascii())
}

fn json_with(text: &str, ascii: bool) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut plain, c| {
            if !(acts(c) && c != '\n' || ascii && !c.is_ascii()) {
                plain.push(c)
            } else {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    let _ = write!(plain, "\\u{unit:04x}"); // writing to a String cannot fail
                }
            }
            plain
        })
}

/// `ESC [ numbers m`, as anstyle and indicatif write it.
fn is_colour(text: &str) -> bool {
    // Concealed text (8) is nothing that any of them writes.
    let rest = text.strip_prefix("\u{1b}[").unwrap_or_default();
    let numbers = &rest[..rest
        .find(|c: char| !c.is_ascii_digit() && c != ';')
        .unwrap_or(rest.len())];
    rest[numbers.len()..].starts_with('m') && numbers.split(';').all(|number| number != "8")
}

/// What a log's writer has to do with an event, which it gets whole and with the line's end.
#[derive(Clone, Copy, Debug)]
pub(crate) enum LogSink {
    /// JSON.
    Json,
    /// Text in colours. tracing-subscriber escapes ESC in messages, not in every field: what is
    /// left may be foreign, and then colours, but nothing else.
    Coloured,
    /// Text without.
    Text,
}

/// Writes events to `to`.
pub(crate) struct EventWriter<W> {
    /// What they are.
    pub log: LogSink,
    /// Where they go.
    pub to: W,
}

impl<W: io::Write> io::Write for EventWriter<W> {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(event);
        let (body, end) = text
            .strip_suffix('\n')
            .map_or((&*text, ""), |body| (body, "\n"));
        let plain = match self.log {
            LogSink::Json => json(body),
            LogSink::Coloured => escaped(body, |at, c| {
                c == '\t' || c == '\u{1b}' && is_colour(&body[at..])
            }),
            LogSink::Text => escaped(body, |_, c| c == '\t'),
        };
        let plain = if matches!(self.log, LogSink::Json) {
            plain.into()
        } else {
            in_locale(&plain)
        };
        self.to.write_all(format!("{plain}{end}").as_bytes())?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing_subscriber::{fmt, layer::SubscriberExt as _};

    use super::*;

    const EVIL: &str = "a\u{1b}[2Jb\tc\r\nDone: 1\u{202e}\u{2066}\u{9b}31m\u{7}\u{2028}";

    #[test]
    fn foreign_text_cannot_command_the_terminal() {
        assert_eq!(
            plain(EVIL),
            "a\\u{1b}[2Jb\tc\nDone: 1\\u{202e}\\u{2066}\\u{9b}31m\\u{7}\\u{2028}"
        );
        assert_eq!(
            line(EVIL),
            "a\\u{1b}[2Jb\tc\\r\\nDone: 1\\u{202e}\\u{2066}\\u{9b}31m\\u{7}\\u{2028}"
        );
        assert_eq!(
            plain("größe 漢字 👩‍👩‍👧 e\u{301}"),
            "größe 漢字 👩‍👩‍👧 e\u{301}",
            "what is only text stays"
        );
    }

    #[test]
    fn colours_pass_the_last_look_and_nothing_else_does() {
        let coloured = "\u{1b}[1;31merror:\u{1b}[0m x\n";
        assert_eq!(last_look(coloured), coloured);
        assert_eq!(
            last_look("\u{1b}[2J\u{1b}]0;t\u{7}\r"),
            "\\u{1b}[2J\\u{1b}]0;t\\u{7}\\r"
        );
    }

    #[test]
    fn a_c_locale_has_ascii_that_means_the_same() {
        assert_eq!(
            ascii("größe… 3 µs → “x” 漢"),
            "gr\\u{f6}\\u{df}e... 3 us -> \"x\" \\u{6f22}"
        );
        let value = serde_json::json!({ "größe": "漢 😀 \u{202e}" });
        let text = json_with(&value.to_string(), true);
        assert!(text.is_ascii(), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
        let is_c = |set: &[(&str, &str)]| {
            is_c_locale(|name| {
                set.iter()
                    .find(|(key, _)| *key == name)
                    .map(|(_, value)| (*value).to_owned())
            })
        };
        for set in [
            &[("LC_ALL", "C")][..],
            &[("LANG", "POSIX")],
            &[("LC_ALL", ""), ("LC_CTYPE", "C"), ("LANG", "x")],
        ] {
            assert!(is_c(set), "{set:?}");
        }
        for set in [
            &[][..],
            &[("LANG", "C.UTF-8")],
            &[("LC_ALL", "de_DE.UTF-8"), ("LANG", "C")],
        ] {
            assert!(!is_c(set), "{set:?}");
        }
    }

    #[test]
    fn json_stays_the_same_json() {
        let value = serde_json::json!({ "message": EVIL });
        let text = json(&value.to_string());
        assert!(!text.contains(acts), "{text}");
        assert_eq!(
            serde_json::from_str::<serde_json::Value>(&text).unwrap(),
            value
        );
    }

    #[derive(Clone, Default)]
    struct Memory(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Memory {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A real event, through the real formatter.
    #[test]
    fn an_event_is_one_line_of_a_log_whatever_it_says() {
        for log in [LogSink::Json, LogSink::Coloured, LogSink::Text] {
            let memory = Memory::default();
            let to = memory.clone();
            let writer = move || EventWriter {
                log,
                to: to.clone(),
            };
            let layer: Box<dyn tracing_subscriber::Layer<_> + Send + Sync> = match log {
                LogSink::Json => {
                    Box::new(fmt::layer().json().flatten_event(true).with_writer(writer))
                }
                LogSink::Coloured => Box::new(fmt::layer().with_ansi(true).with_writer(writer)),
                LogSink::Text => Box::new(fmt::layer().with_ansi(false).with_writer(writer)),
            };
            tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
                tracing::info!(event = "x", cause = %EVIL, hidden = %"\u{1b}[8mx\u{1b}[1;8mx", name = EVIL, "failed: \
                    {EVIL}");
            });
            let text = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
            assert_eq!(text.lines().count(), 1, "{text:?}");
            assert!(
                !text.contains("\u{1b}[2J") && !text.contains("\u{1b}[8m"),
                "{text:?}"
            );
            assert!(
                matches!(log, LogSink::Coloured) || !text.contains("\u{1b}"),
                "{text:?}"
            );
            assert!(
                !text
                    .trim_end()
                    .contains(|c| acts(c) && c != '\t' && c != '\u{1b}'),
                "{text:?}"
            );
        }
    }
}
