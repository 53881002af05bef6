//! What reaches outside the database it runs in: roles, other databases, the server's settings and files, other servers. Told by
//! words, also inside the bodies of DO blocks and functions; what is put together at run time ([`is_dynamic`]) nobody can tell.

mod call;
#[cfg(test)]
mod tests;
mod words;

use super::{Place, Statement, nth_character, place, split};
use call::{call, runs_text};
use words::words;

/// A statement that reaches outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reach {
    /// Where it begins.
    pub place: Place,
    /// What it reaches.
    pub what: &'static str,
}

/// The statements of `sql` that reach outside, in order.
pub fn reaches(sql: &str) -> Vec<Reach> {
    let reach = |statement: Statement<'_>| {
        let what = reach_of(&statement)?;
        Some(Reach { place: place(sql, nth_character(sql, statement.start)), what })
    };
    split(sql).into_iter().filter_map(reach).collect()
}

/// True where a body puts statements together at run time: EXECUTE in a DO block or a routine.
pub fn is_dynamic(sql: &str) -> bool {
    let executes = |statement: &Statement<'_>| {
        let words = words(statement.sql);
        let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
        has_body(&tokens) && tokens.iter().filter_map(|token| body(token)).any(executes)
    };
    split(sql).iter().any(executes)
}

/// True where a statement drops a role.
pub fn drops_roles(sql: &str) -> bool {
    let drops =
        |tokens: &[&str]| is(tokens[0], "drop") && ["role", "user", "group"].iter().any(|what| is(tokens[1], what));
    split(sql).iter().any(|statement| statement.tokens().collect::<Vec<_>>().get(..2).is_some_and(drops))
}

/// EXECUTE FUNCTION belongs to CREATE TRIGGER.
fn executes(body: &str) -> bool {
    let words = words(body);
    words.iter().enumerate().any(|(at, token)| {
        let next = words.get(at + 1).map_or("", |next| next);
        is(token, "execute") && !is(next, "function") && !is(next, "procedure") && !is(next, "on")
    })
}

fn reach_of(statement: &Statement<'_>) -> Option<&'static str> {
    let words = words(statement.sql);
    let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
    head(&tokens).or_else(|| call(&tokens)).or_else(|| {
        let mut bodies =
            tokens.iter().filter(|_| has_body(&tokens) || runs_text(&tokens)).filter_map(|token| body(token));
        bodies.find_map(in_body)
    })
}

/// A body's statements begin after these words and signs.
const BEFORE: [&str; 6] = [";", "begin", "then", "else", "loop", ">>"];

fn in_body(body: &str) -> Option<&'static str> {
    let words = words(body);
    let tokens: Vec<&str> = words.iter().map(String::as_str).collect();
    let begins = |at: usize| at == 0 || BEFORE.iter().any(|word| is(tokens[at - 1], word));
    let stands = (0..tokens.len()).filter(|at| begins(*at)).find_map(|at| {
        let end = tokens[at..].iter().position(|token| *token == ";").map_or(tokens.len(), |n| at + n);
        head(&tokens[at..end])
    });
    // EXECUTE 'CREATE ROLE …', and a body within the body.
    let quoted = || tokens.iter().filter_map(|token| self::body(token)).find_map(in_body);
    stands.or_else(|| call(&tokens)).or_else(quoted)
}

fn has_body(tokens: &[&str]) -> bool {
    let word = |at: usize, word: &str| tokens.get(at).is_some_and(|token| is(token, word));
    word(0, "do")
        || word(0, "create") && tokens.iter().take(4).any(|token| is(token, "function") || is(token, "procedure"))
}

/// What stands in a string.
fn body<'a>(token: &&'a str) -> Option<&'a str> {
    token.strip_prefix('\'')?.strip_suffix('\'')
}

fn is(token: &str, word: &str) -> bool {
    token.eq_ignore_ascii_case(word)
}

/// What a statement reaches, by how it begins.
fn head(tokens: &[&str]) -> Option<&'static str> {
    let any = |at: usize, words: &[&str]| tokens.get(at).is_some_and(|token| words.iter().any(|word| is(token, word)));
    let find = |word: &str| tokens.iter().position(|token| is(token, word));
    let (created, on_shared) = (any(0, &["create", "alter", "drop"]), || {
        let on = find("on")?;
        // ON role TO x: a table of that name.
        let is_named =
            tokens.get(on + 2).is_some_and(|next| !["to", "from", ",", "."].iter().any(|word| is(next, word)));
        (is_named && any(on + 1, &["database", "role", "tablespace", "parameter"])).then_some(on)
    });
    Some(match () {
        () if created && any(1, &["user"]) && any(2, &["mapping"]) => "a foreign server",
        () if created && any(1, &["role", "user", "group"]) => "roles, which all databases of the server share",
        () if any(0, &["drop", "reassign"]) && any(1, &["owned"]) => "what a role owns, also outside this database",
        // GRANT a TO b, REVOKE a FROM b: a membership. With ON it is a right on an object.
        () if any(0, &["grant", "revoke"]) && find("on").is_none() && !any(1, &["end"]) => {
            "memberships of roles, which all databases share"
        }
        () if any(0, &["grant", "revoke", "comment", "security"]) && on_shared().is_some() => {
            "something that all databases of the server share"
        }
        () if any(0, &["alter"]) && any(1, &["system"]) => "the server's settings",
        () if created && any(1, &["database"]) => "other databases of the server",
        () if created && any(1, &["tablespace"]) => "the server's tablespaces",
        () if created && any(1, &["subscription"]) => "another server (a subscription)",
        () if any(0, &["create", "alter"]) && any(1, &["server"]) => "another server (a foreign server)",
        () if any(0, &["import"]) && any(1, &["foreign"]) => "another server (IMPORT FOREIGN SCHEMA)",
        () if any(0, &["copy"]) && copies(tokens, Some("program")) => "a program on the server",
        () if any(0, &["copy"]) && copies(tokens, None) => "a file on the server",
        () if any(0, &["load"]) && tokens.get(1).is_some_and(|token| token.starts_with('\'')) => {
            "a library on the server"
        }
        () if any(0, &["create", "do"]) && is_untrusted(tokens) => "whatever an untrusted language can",
        () => return None,
    })
}

/// COPY … FROM or TO, perhaps this word, and then a text. A variable may be called copy, and the query of a COPY has a FROM.
fn copies(tokens: &[&str], word: Option<&str>) -> bool {
    let is_variable = tokens.get(1).is_some_and(|token| [":", "=", ":="].contains(token));
    let mut depth = 0_i32;
    let mut direction = |at: &usize| {
        depth += i32::from(tokens[*at] == "(") - i32::from(tokens[*at] == ")");
        depth == 0 && (is(tokens[*at], "from") || is(tokens[*at], "to"))
    };
    let text_at = |at: usize| tokens.get(at).is_some_and(|token| token.starts_with('\''));
    !is_variable
        && (0..tokens.len()).filter(|at| direction(at)).any(|at| match word {
            Some(word) => tokens.get(at + 1).is_some_and(|token| is(token, word)) && text_at(at + 2),
            None => text_at(at + 1),
        })
}

/// A routine in C or in a language whose name says that it is not trusted.
fn is_untrusted(tokens: &[&str]) -> bool {
    let name = |token: &str| token.trim_matches(['\'', '"']).to_ascii_lowercase();
    let untrusted = |name: String| {
        ["c", "internal", "plsh"].contains(&name.as_str()) || name.starts_with("pl") && name.ends_with('u')
    };
    has_body(tokens) && tokens.windows(2).any(|pair| is(pair[0], "language") && untrusted(name(pair[1])))
}
