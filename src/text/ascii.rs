//! Text in ASCII, for where nothing else can be shown or kept: a terminal in the C locale, a ledger
//! in a database that is not UTF-8.

/// `text` with signs of schemad's own by others that mean the same, and any other character that is
/// not ASCII as `other` writes it.
pub(crate) fn in_ascii(text: &str, other: impl Fn(char) -> String) -> String {
    text.chars()
        .fold(String::with_capacity(text.len()), |mut ascii, c| {
            match c {
                '…' => ascii.push_str("..."),
                'µ' | 'μ' => ascii.push('u'),
                '–' | '—' | '─' | '━' => ascii.push('-'),
                '→' => ascii.push_str("->"),
                '≤' => ascii.push_str("<="),
                '≥' => ascii.push_str(">="),
                '×' => ascii.push('x'),
                '“' | '”' => ascii.push('"'),
                '‘' | '’' => ascii.push('\''),
                '│' | '┃' => ascii.push('|'),
                '\u{a0}' => ascii.push(' '),
                c if c.is_ascii() => ascii.push(c),
                c => ascii.push_str(&other(c)),
            }
            ascii
        })
}
