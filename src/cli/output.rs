//! What people and programs read: tables and colours for the one, proto3 JSON for the other.
//! Colours go away when NO_COLOR is set or nobody is looking (anstream decides).

use std::{
    io::{self, Write as _},
    sync::{LazyLock, OnceLock},
};

use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use comfy_table::{ContentArrangement, Table, presets};
use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool, DynamicMessage, SerializeOptions};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::exit::CommandExit;
use crate::pb;
use crate::telemetry::log_queue;
use crate::text::escape;

pub(crate) use crate::text::escape::{line, plain};

/// How to answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum OutputFormat {
    /// For people.
    #[default]
    Table,
    /// The response in proto3 JSON, one object a line.
    Json,
}

pub(crate) const GOOD: Style = AnsiColor::Green.on_default();
pub(crate) const WARN: Style = AnsiColor::Yellow.on_default();
pub(crate) const BAD: Style = AnsiColor::Red.on_default().bold();
pub(crate) const DIM: Style = Style::new().dimmed();
pub(crate) const BOLD: Style = Style::new().bold();

/// Why stdout could not be written, once it could not. A full disk, a quota, a device that is gone:
/// whoever reads what was written has a part of an answer, or none.
static NOT_PRINTED: OnceLock<io::Error> = OnceLock::new();

/// True until something could not be written to stdout.
pub(crate) fn is_printed() -> bool {
    NOT_PRINTED.get().is_none()
}

/// Writes to stdout, to its end. A reader that is gone has seen enough, and needs no answer.
fn print(bytes: &[u8]) {
    let mut stdout = anstream::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        NOT_PRINTED.get_or_init(|| error);
    }
}

/// A line on stdout.
pub(crate) fn say(line: &str) {
    print(format!("{}\n", escape::in_locale(&escape::last_look(line))).as_bytes());
}

/// A text on stdout that is somebody's data, a script: the same bytes in every locale.
pub(crate) fn say_data(text: &str) {
    print(format!("{}\n", escape::last_look(text)).as_bytes());
}

/// What was made for programs, as it is.
pub(crate) fn say_bytes(bytes: &[u8]) {
    let mut stdout = io::stdout();
    let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
    if let Err(error) = written
        && error.kind() != io::ErrorKind::BrokenPipe
    {
        NOT_PRINTED.get_or_init(|| error);
    }
}

/// What was done, as a line on stdout; on stderr where stdout cannot be written, for it has been
/// done.
pub(crate) fn tell_done(line: &str) {
    if is_printed() {
        say(line);
    }
    if !is_printed() {
        progress(line);
    }
}

/// How to exit after everything that was to be printed: as `exit` says, but not as a success when
/// stdout could not be written. `code` is what says so.
pub(crate) fn checked(exit: CommandExit, code: u8) -> CommandExit {
    let Some(error) = NOT_PRINTED.get() else {
        return exit;
    };
    let code = if exit.code() == 0 { code } else { exit.code() };
    let code = exit.report_as(code);
    complain(&format!(
        "stdout could not be written ({error}), so the answer is not complete there"
    ));
    CommandExit::with_code(code, None)
}

/// A line on stderr: progress. That of a daemon goes where its log goes, which waits for no reader.
pub(crate) fn progress(line: &str) {
    let line = escape::in_locale(&escape::last_look(line)).into_owned();
    let Some(queue) = log_queue::of_this_process() else {
        let _ = writeln!(anstream::stderr(), "{line}");
        return;
    };
    let mut text =
        anstream::AutoStream::new(Vec::new(), anstream::AutoStream::choice(&std::io::stderr()));
    let _ = writeln!(text, "{line}"); // writing to memory cannot fail
    queue.push(text.into_inner());
}

/// A warning on stderr.
pub(crate) fn warn(message: &str) {
    progress(&format!("{} {}", styled(WARN, "warning:"), line(message)));
}

/// An error on stderr.
pub(crate) fn complain(message: &str) {
    let (sign, message) = ("error:", plain(message));
    let text = width().map_or_else(
        || message.clone(),
        |width| wrapped(&message, width - sign.len() - 1),
    );
    progress(&format!("{BAD}{sign}{BAD:#} {text}"));
}

/// How wide the terminal is that shows stderr; none where it is no terminal, and lines are as long
/// as they are.
pub(crate) fn width() -> Option<usize> {
    // Narrower than this nothing is readable anyway.
    const NARROWEST: usize = 40;
    terminal_size::terminal_size_of(std::io::stderr())
        .map(|(width, _)| usize::from(width.0).max(NARROWEST))
}

/// `text` with a line's end before every word that would go beyond `width`; a terminal would break
/// the word.
pub(crate) fn wrapped(text: &str, width: usize) -> String {
    let mut lines = Vec::new();
    for line in text.lines() {
        let mut current = String::new();
        for word in line.split(' ') {
            if !current.is_empty() && current.width() + 1 + word.width() > width {
                lines.push(std::mem::take(&mut current));
            }
            if !current.is_empty() {
                current.push(' ');
            }
            current.push_str(word);
        }
        lines.push(current);
    }
    lines.join("\n")
}

/// `text` in at most so many columns of a terminal, the last of them … where it is longer.
pub(crate) fn shortened(text: &str, most: usize) -> String {
    if text.width() <= most {
        return text.to_owned();
    }
    let mut left = most.saturating_sub(1);
    let fits = |c: &char| {
        let rest = left.checked_sub(c.width().unwrap_or_default());
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    text.chars().take_while(fits).chain(['…']).collect()
}

/// `text` as short as it has to be for what stands around it, of so many columns, on a terminal's
/// line.
pub(crate) fn fitted(text: &str, around: usize) -> String {
    const SHORTEST: usize = 8;
    // In a C locale the sign for what is left out is three.
    let around = around + if escape::is_ascii() { 2 } else { 0 };
    width().map_or_else(
        || text.to_owned(),
        |width| shortened(text, width.saturating_sub(around).max(SHORTEST)),
    )
}

/// Text in a style.
pub(crate) fn styled(style: Style, text: &str) -> String {
    format!("{style}{text}{style:#}")
}

/// A message as proto3 JSON on one line of stdout.
pub(crate) fn json(message: &impl Message, name: &str) -> Result<(), CommandExit> {
    let json = to_json(message, name)
        .map_err(|e| CommandExit::unknown(format!("the answer cannot be shown: {e}")))?;
    say_json(&json);
    Ok(())
}

/// JSON on one line of stdout.
pub(crate) fn say_json(json: &str) {
    print(format!("{}\n", escape::json(json)).as_bytes());
}

fn to_json(message: &impl Message, name: &str) -> Result<String, Box<dyn std::error::Error>> {
    static POOL: LazyLock<Result<DescriptorPool, DescriptorError>> =
        LazyLock::new(|| DescriptorPool::decode(pb::DESCRIPTORS));
    let pool = POOL.as_ref()?;
    let descriptor = pool.get_message_by_name(name).ok_or("unknown message")?;
    let dynamic = DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice())?;
    let mut serializer = serde_json::Serializer::new(Vec::new());
    dynamic.serialize_with_options(
        &mut serializer,
        &SerializeOptions::new().skip_default_fields(false),
    )?;
    Ok(String::from_utf8(serializer.into_inner())?)
}

/// Text on stdout that begins at column `at` of a terminal's line, and goes on there below.
pub(crate) fn hanging(text: &str, at: usize) -> String {
    hung(text, at, stdout_width())
}

/// The same on stderr.
pub(crate) fn indented(text: &str, at: usize) -> String {
    hung(text, at, width())
}

fn hung(text: &str, at: usize, width: Option<usize>) -> String {
    let Some(width) = width else {
        return text.to_owned();
    };
    wrapped(text, width.saturating_sub(at)).replace('\n', &format!("\n{}", " ".repeat(at)))
}

/// How wide the terminal is that shows stdout; none where it is no terminal, and every cell is
/// whole.
fn stdout_width() -> Option<usize> {
    terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0))
}

/// True for a terminal with fewer columns than that.
pub(crate) fn is_narrow(columns: usize) -> bool {
    stdout_width().is_some_and(|width| width < columns)
}

/// A table as narrow as the terminal: the columns with these headers are left out while it is too
/// wide, in that order, and then the cells of the column with the header `cut` are cut. Where
/// stdout is no terminal, nothing is.
pub(crate) fn fitted_table(
    header: &[&str],
    rows: Vec<Vec<String>>,
    optional: &[&str],
    cut: &str,
) -> String {
    stdout_width().map_or_else(
        || table(header, rows.clone()),
        |width| narrowed(header, rows.clone(), optional, cut, width),
    )
}

fn narrowed(
    header: &[&str],
    mut rows: Vec<Vec<String>>,
    optional: &[&str],
    cut: &str,
    width: usize,
) -> String {
    const SHORTEST: usize = 8;
    let mut header = header.to_vec();
    let widest = |text: &str| {
        text.lines()
            .map(|line| line.width())
            .max()
            .unwrap_or_default()
    };
    for name in optional {
        if widest(&table(&header, rows.clone())) <= width {
            break;
        }
        if let Some(at) = header.iter().position(|header| header == name) {
            header.remove(at);
            rows.iter_mut().for_each(|row| drop(row.remove(at)));
        }
    }
    let over = widest(&table(&header, rows.clone())).saturating_sub(width);
    if let (true, Some(at)) = (over > 0, header.iter().position(|header| *header == cut)) {
        // The column's own width is that of its longest cell.
        let longest = rows
            .iter()
            .map(|row| line(&row[at]).width())
            .max()
            .unwrap_or_default();
        // In a C locale the sign for what is left out is three.
        let sign = if escape::is_ascii() { 2 } else { 0 };
        let most = longest.saturating_sub(over + sign).max(SHORTEST);
        rows.iter_mut()
            .for_each(|row| row[at] = shortened(&line(&row[at]), most));
    }
    table(&header, rows)
}

/// A table without lines, as wide as it needs to be.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled);
    table.set_header(header.to_vec());
    for row in rows {
        table.add_row(row.iter().map(|cell| line(cell)));
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table
        .lines()
        .map(|line| line.trim_end().to_owned())
        .collect::<Vec<_>>()
        .join("\n")
}

/// A time as "2026-01-31 12:00:00Z".
pub(crate) fn time(timestamp: Option<&prost_types::Timestamp>) -> String {
    let Some(timestamp) = timestamp else {
        return String::new();
    };
    let whole = prost_types::Timestamp {
        seconds: timestamp.seconds,
        nanos: 0,
    };
    whole.to_string().replace('T', " ")
}

/// A duration as people say it.
pub(crate) fn duration(duration: Option<&prost_types::Duration>) -> String {
    let Some(Ok(duration)) = duration.cloned().map(std::time::Duration::try_from) else {
        return String::new();
    };
    match duration.as_micros() {
        0..1_000 => format!("{} µs", duration.as_micros()),
        1_000..1_000_000 => format!("{:.1} ms", duration.as_secs_f64() * 1e3),
        _ => format!("{:.1} s", duration.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_word_is_broken_at_the_edge() {
        assert_eq!(wrapped("aaa bbb cccccc d\ne", 7), "aaa bbb\ncccccc\nd\ne");
        assert_eq!(wrapped("", 7), "");
        assert_eq!(
            [
                shortened("größer", 6),
                shortened("größer", 4),
                shortened("x", 0)
            ],
            ["größer", "grö…", "…"]
        );
        assert_eq!(
            [
                shortened("日本語", 6),
                shortened("日本語", 5),
                shortened("日本語", 4)
            ],
            ["日本語", "日本…", "日…"]
        );
        assert_eq!(wrapped("日本 語", 6), "日本\n語");
    }

    #[test]
    fn json_is_proto3_json() {
        let status = pb::GetStatusResponse {
            status: Some(pb::SchemaStatus {
                state: pb::SchemaState::Current.into(),
                ..Default::default()
            }),
        };
        let json = to_json(&status, "schemad.v1.GetStatusResponse").unwrap();
        assert!(
            json.contains(r#""state":"SCHEMA_STATE_CURRENT""#)
                && json.contains(r#""pendingCount":0"#),
            "{json}"
        );
    }

    #[test]
    fn a_table_is_narrowed_to_the_terminal() {
        let rows = || {
            let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
            vec![
                row(["1", "a_long_name_of_a_migration", "12 ms"]),
                row(["2", "short", "1 s"]),
            ]
        };
        let of = |width| {
            narrowed(
                &["VERSION", "NAME", "TOOK"],
                rows(),
                &["TOOK"],
                "NAME",
                width,
            )
        };
        assert_eq!(of(80), table(&["VERSION", "NAME", "TOOK"], rows()));
        assert_eq!(of(40).lines().next(), Some("VERSION  NAME"));
        assert_eq!(of(20).lines().nth(1), Some("1        a_long_nam…"));
        assert!(of(20).lines().all(|line| line.width() <= 20), "{}", of(20));
    }

    #[test]
    fn durations_read_well() {
        let of = |seconds, nanos| duration(Some(&prost_types::Duration { seconds, nanos }));
        assert_eq!(
            [of(0, 42_000), of(0, 1_500_000), of(61, 0)],
            ["42 µs", "1.5 ms", "61.0 s"]
        );
    }
}
