//! Splits SQL into words as the server reads them: strings without quotes and escapes, and the
//! continuation of a string on the next line joined to it.

use crate::sql::Statement;

/// Returns the words and signs of `sql`. Every string is returned as `'`, its text and `'`,
/// regardless of its quotes. A name with U& is decoded.
pub(super) fn words(sql: &str) -> Vec<String> {
    let mut words: Vec<String> = Vec::new();
    let mut is_string = false;
    for token in (Statement { sql, start: 0 }).tokens() {
        let text = text(token);
        match (text, words.last_mut()) {
            // Two strings in a row are one.
            (Some(text), Some(last)) if is_string && token.starts_with('\'') => {
                last.pop();
                last.push_str(&text);
                last.push('\'');
            }
            (Some(text), _) => {
                words.push(format!("'{text}'"));
                is_string = true;
            }
            (None, _) => {
                words.push(name(token).unwrap_or_else(|| token.to_owned()));
                is_string = false;
            }
        }
    }
    words
}

/// Returns the text of a token that is a string.
fn text(token: &str) -> Option<String> {
    if let Some(tagged) = token.strip_prefix('$') {
        let tag = tagged.find('$')? + 2;
        return token
            .get(tag..token.len().checked_sub(tag)?)
            .map(ToOwned::to_owned);
    }
    let (prefix, rest) = token.split_once('\'')?;
    let inner = rest.strip_suffix('\'')?.replace("''", "'");
    match prefix {
        "e" | "E" => Some(unescaped(&inner)),
        "u&" | "U&" => Some(unicode(&inner)),
        "" | "n" | "N" => Some(inner),
        _ => None,
    }
}

/// Returns U&"…" as "…".
fn name(token: &str) -> Option<String> {
    let inner = token
        .strip_prefix("U&\"")
        .or_else(|| token.strip_prefix("u&\""))?
        .strip_suffix('"')?;
    Some(format!("\"{}\"", unicode(inner)))
}

/// Decodes \0061 and \+000061.
fn unicode(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let (digits, skip) = if after.starts_with('+') {
            (after.get(1..7), 7)
        } else {
            (after.get(..4), 4)
        };
        match digits.and_then(|digits| number(digits, 16)) {
            Some(c) => {
                out.push(c);
                rest = &after[skip..];
            }
            None => {
                out.push('\\');
                rest = after.strip_prefix('\\').unwrap_or(after);
            }
        }
    }
    out + rest
}

/// Decodes \n, \x61, \141, \u0061 and the like.
fn unescaped(text: &str) -> String {
    let (mut out, mut rest) = (String::new(), text);
    while let Some((before, after)) = rest.split_once('\\') {
        out.push_str(before);
        let Some(first) = after.chars().next() else {
            break;
        };
        let (from, most, radix) = match first {
            'x' => (1, 2, 16),
            'u' => (1, 4, 16),
            'U' => (1, 8, 16),
            _ => (0, 3, 8),
        };
        let digits = after[from.min(after.len())..]
            .chars()
            .take(most)
            .take_while(|c| c.is_digit(radix))
            .count();
        match after
            .get(from..from + digits)
            .and_then(|digits| number(digits, radix))
        {
            Some(c) => {
                out.push(c);
                rest = &after[from + digits..];
            }
            None => {
                out.push(match first {
                    'n' | 'r' | 't' | 'b' | 'f' => ' ',
                    other => other,
                });
                rest = &after[first.len_utf8()..];
            }
        }
    }
    out + rest
}

fn number(digits: &str, radix: u32) -> Option<char> {
    char::from_u32(u32::from_str_radix(digits, radix).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_what_the_server_reads() {
        for (sql, expected) in [
            ("a 'it''s'", vec!["a", "'it's'"]),
            ("$$a$$ $x$b$$c$x$", vec!["'a'", "'b$$c'"]),
            ("'a '\n  'b' c", vec!["'a b'", "c"]),
            (r"E'\x52OLE \122\u004f\n\\\''", vec![r"'ROLE RO \''"]),
            (r#"U&"pg\005fx" u&'\+000061\\'"#, vec!["\"pg_x\"", r"'a\'"]),
            (r"E'é\é'", vec!["'éé'"]),
            ("$1", vec!["$1"]),
        ] {
            assert_eq!(words(sql), expected, "{sql}");
        }
    }
}
