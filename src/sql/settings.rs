//! The settings of one migration, in its leading comments, so that they stay with the file whatever
//! its source: `-- schemad: lock_timeout=2s statement_timeout=10min`.

use std::time::Duration;

use crate::runtime::blocking::in_place;

/// The settings in a script. `None` means schemad's own default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ScriptSettings {
    /// The longest that one attempt may wait for a lock. 0 means no limit.
    pub lock_timeout: Option<Duration>,
    /// The longest that one statement may run. 0 means no limit.
    pub statement_timeout: Option<Duration>,
    /// The longest that the step may keep retrying for its locks.
    pub lock_wait: Option<Duration>,
}

/// The largest duration that PostgreSQL's own settings accept.
const MAX: Duration = Duration::from_millis(i32::MAX as u64);

/// Reads the settings in the leading comments of `sql`, `--` and `/* */`.
///
/// # Errors
/// Returns a message for the author of the file if a line that begins with `schemad:` is invalid.
pub fn settings(sql: &str) -> Result<ScriptSettings, String> {
    let mut settings = ScriptSettings::default();
    let lines: Vec<&str> = in_place(sql.len(), || {
        super::split::leading_comments(sql)
            .flat_map(str::lines)
            .map(words)
            .collect()
    });
    let misspelt = |text: &&str| {
        let about_us = text
            .get(..7)
            .is_some_and(|word| word.eq_ignore_ascii_case("schemad"));
        about_us && !text.starts_with("schemad:") && text.contains('=')
    };
    if let Some(text) = lines.iter().find(|text| misspelt(text)) {
        return Err(format!(
            "`{text}` sets nothing: write `-- schemad: name=value`"
        ));
    }
    for text in lines
        .iter()
        .filter_map(|text| text.strip_prefix("schemad:"))
    {
        for word in text.split_whitespace() {
            let (name, value) = word
                .split_once('=')
                .ok_or_else(|| format!("`{word}` in its `-- schemad:` comment is no name=value"))?;
            let slot = match name {
                "lock_timeout" => &mut settings.lock_timeout,
                "statement_timeout" => &mut settings.statement_timeout,
                "lock_wait" => &mut settings.lock_wait,
                _ => {
                    return Err(format!(
                        "`{name}` in its `-- schemad:` comment is unknown; there are lock_timeout, \
                         statement_timeout and lock_wait"
                    ));
                }
            };
            *slot = Some(duration(value).ok_or_else(|| {
                format!(
                    "`{word}` in its `-- schemad:` comment: a duration is for example 0, \
                    500ms, 2s, 10min or 1h, at most 24 days"
                )
            })?);
        }
    }
    Ok(settings)
}

/// Returns whether a script may give a value to a custom setting (`SET app.user = …`,
/// set_config()). The setting stays defined, as an empty string, until the session ends. The check
/// is by words, also in bodies, and may return true for a script that does not.
pub(crate) fn may_define(sql: &str) -> bool {
    in_place(sql.len(), || defines_settings(sql))
}

fn defines_settings(sql: &str) -> bool {
    let text = sql.to_ascii_lowercase();
    let mut words = text
        .split(|c: char| c.is_whitespace() || c == ';' || c == '=')
        .filter(|word| !word.is_empty());
    let mut sets = || {
        while let Some(word) = words.next() {
            if word == "set" {
                let name = words.find(|word| !["local", "session"].contains(word));
                if name.is_some_and(|name| name.contains('.')) {
                    return true;
                }
            }
        }
        false
    };
    sets() || text.contains("set_config")
}

/// Returns the text of a comment's line without its delimiters.
fn words(line: &str) -> &str {
    line.trim()
        .trim_start_matches(['-', '/', '*'])
        .trim_end_matches("*/")
        .trim()
}

/// Parses a duration as PostgreSQL does. A bare number is milliseconds.
fn duration(text: &str) -> Option<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let number: u64 = text[..digits].parse().ok()?;
    let unit = match &text[digits..] {
        "" | "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return None,
    };
    Some(Duration::from_millis(number.checked_mul(unit)?)).filter(|d| *d <= MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_of_ones_own_are_noticed() {
        for sql in [
            "SET my.z = '7'",
            "set  LOCAL my.z TO 1",
            "DO $$BEGIN SET my.z=1; END$$",
            "SELECT set_config('my.z', '', true)",
        ] {
            assert!(may_define(sql), "{sql}");
        }
        for sql in [
            "SET search_path = a",
            "UPDATE t SET a = 1.5",
            "ALTER TABLE a.b SET SCHEMA c",
            "SELECT my.z",
        ] {
            assert!(!may_define(sql), "{sql}");
        }
    }

    #[test]
    fn leading_comments_are_read_and_later_ones_are_not() {
        let sql = "-- Adds a column.\n\n--schemad: lock_timeout=2s\n-- schemad: \
            statement_timeout=0 lock_wait=1h\nSELECT 1;\n-- schemad: lock_timeout=9s\n";
        let expected = ScriptSettings {
            lock_timeout: Some(Duration::from_secs(2)),
            statement_timeout: Some(Duration::ZERO),
            lock_wait: Some(Duration::from_secs(3600)),
        };
        assert_eq!(settings(sql), Ok(expected));
        assert_eq!(
            settings("SELECT 1; -- schemad: x"),
            Ok(ScriptSettings::default())
        );
        for sql in [
            "/* license */\n-- schemad: lock_timeout=2s statement_timeout=0 lock_wait=1h\nSELECT \
             1",
            "/* schemad: lock_timeout=2s statement_timeout=0 lock_wait=1h */ SELECT 1",
            "/*\n * Ours. /* nested */\n * schemad: lock_timeout=2s statement_timeout=0\n */ -- \
             schemad: lock_wait=1h\nSELECT 1",
        ] {
            assert_eq!(settings(sql), Ok(expected), "{sql}");
        }
        assert_eq!(
            settings("-- schemad is nice\nSELECT 1"),
            Ok(ScriptSettings::default())
        );
    }

    #[test]
    fn durations_are_postgresqls() {
        for (text, millis) in [
            ("0", 0),
            ("250", 250),
            ("500ms", 500),
            ("2s", 2_000),
            ("10min", 600_000),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                duration(text),
                Some(Duration::from_millis(millis)),
                "{text}"
            );
        }
        for bad in [
            "",
            "s",
            "-1",
            "1 s",
            "1.5s",
            "25d",
            "99999999999999999999",
            "2m",
        ] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (sql, word) in [
            ("-- schemad: lock_timeout", "lock_timeout"),
            ("-- schemad: work_mem=1", "work_mem"),
            ("-- schemad: lock_timeout=soon", "lock_timeout=soon"),
            ("-- schemad lock_timeout=2s", "sets nothing"),
            ("-- Schemad: lock_timeout=2s", "sets nothing"),
        ] {
            assert!(settings(sql).unwrap_err().contains(word), "{sql}");
        }
    }
}
