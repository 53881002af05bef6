//! DescribeSchema's filters and pages.

use super::page::{foreign, seal, size, token};
use crate::pb;
use crate::{
    failure::{Failure, Reason},
    migration::Checksum,
};

/// Marks the page tokens of DescribeSchema.
const LIST: &str = "schema:";
/// Schemas in a filter, and characters of a pattern: more is a mistake.
const MAX_SCHEMAS: usize = 100;
const MAX_PATTERN: usize = 200;

/// What to describe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectFilter {
    schemas: Vec<String>,
    name: String,
    kinds: Vec<pb::SchemaObjectKind>,
    /// After this one in the order of the list.
    pub after: Option<PageCursor>,
    /// The fingerprint of the schema that the page before was of.
    pub seen: Option<String>,
    /// Objects on a page.
    pub size: usize,
}

/// Where an object stands in the list: its kind, schema, name and arguments.
pub(crate) type PageCursor = (i32, String, String, String);

/// Checks a DescribeSchemaRequest.
///
/// # Errors
/// The first malformed field.
pub fn schema(message: pb::DescribeSchemaRequest) -> Result<ObjectFilter, Failure> {
    let invalid = |field, problem: &str| Failure::invalid(Reason::InvalidFilter, field, problem);
    let kinds: Vec<_> = message.kinds().collect();
    if message.schemas.len() > MAX_SCHEMAS
        || message
            .schemas
            .iter()
            .any(|schema| schema.len() > MAX_PATTERN)
    {
        return Err(invalid(
            "schemas",
            "schemas are at most 100 patterns of at most 200 bytes",
        ));
    }
    if message.name_pattern.len() > MAX_PATTERN {
        return Err(invalid("name_pattern", "name_pattern is at most 200 bytes"));
    }
    if kinds.len() != message.kinds.len() || kinds.contains(&pb::SchemaObjectKind::Unspecified) {
        return Err(invalid("kinds", "kinds names a kind that there is not"));
    }
    let mut filter = ObjectFilter {
        size: size(message.page_size)?,
        schemas: message.schemas,
        name: message.name_pattern,
        kinds,
        after: None,
        seen: None,
    };
    if let Some(text) = token(LIST, &message.page_token)? {
        let (digest, place) = text.split_once(':').ok_or_else(foreign)?;
        if digest != filter.digest() {
            return Err(foreign());
        }
        let (seen, place) = serde_json::from_str(place).map_err(|_| foreign())?;
        (filter.seen, filter.after) = (Some(seen), Some(place));
    }
    Ok(filter)
}

impl ObjectFilter {
    /// True for what is to be described. An extension counts by the schema of its members.
    pub fn wants(&self, kind: pb::SchemaObjectKind, schema: &str, name: &str) -> bool {
        (self.kinds.is_empty() || self.kinds.contains(&kind))
            && (self.schemas.is_empty() || self.schemas.iter().any(|pattern| fits(pattern, schema)))
            && (self.name.is_empty() || fits(&self.name, name))
    }

    /// The token of the page after this object, of a schema with this fingerprint.
    pub fn page_token(&self, fingerprint: &str, place: &PageCursor) -> String {
        // Strings and a number always have one.
        let place = serde_json::to_string(&(fingerprint, place)).unwrap_or_default();
        seal(&format!("{LIST}{}:{place}", self.digest()))
    }

    /// A token is one list's.
    fn digest(&self) -> String {
        let kinds: Vec<_> = self.kinds.iter().map(|kind| kind.as_str_name()).collect();
        let parts = [self.schemas.join("\n"), self.name.clone(), kinds.join("\n")];
        let digest =
            Checksum::of_parts("schemad.filter.1", parts.iter().map(String::as_str)).to_string();
        digest
            .trim_start_matches("sha256:")
            .chars()
            .take(16)
            .collect()
    }
}

/// What a pattern is made of.
#[derive(Clone, Copy, PartialEq)]
enum GlobPart {
    Any,
    One,
    Char(char),
}

fn parts(pattern: &str) -> Vec<GlobPart> {
    let mut chars = pattern.chars().peekable();
    let mut parts = Vec::new();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => GlobPart::Any,
            '?' => GlobPart::One,
            '\\' => GlobPart::Char(
                chars
                    .next_if(|next| matches!(next, '*' | '?' | '\\'))
                    .unwrap_or(c),
            ),
            c => GlobPart::Char(c),
        });
    }
    parts
}

/// True when `text` fits the pattern: `*` stands for any characters, `?` for one, `\` before one of
/// the three for itself.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<GlobPart>, Vec<char>) = (parts(pattern), text.chars().collect());
    // Where the last star stood, and how much of the text it has taken.
    let (mut at, mut read, mut star) = (0, 0, None);
    while read < text.len() {
        match pattern.get(at) {
            Some(GlobPart::Any) => {
                star = Some((at, read));
                at += 1;
            }
            Some(part) if *part == GlobPart::One || *part == GlobPart::Char(text[read]) => {
                (at, read) = (at + 1, read + 1)
            }
            _ => match star {
                Some((star_at, taken)) => {
                    star = Some((star_at, taken + 1));
                    (at, read) = (star_at + 1, taken + 1);
                }
                None => return false,
            },
        }
    }
    pattern[at..].iter().all(|part| *part == GlobPart::Any)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_fit_whole_names() {
        for (pattern, text, expected) in [
            ("users", "users", true),
            ("users", "users2", false),
            ("user*", "users", true),
            ("*", "", true),
            ("*_id", "user_id_id", true),
            ("u?e*s", "users", true),
            ("?", "", false),
            ("a*b*c", "axxbyyc", true),
            ("a*b*c", "axxbyy", false),
            ("größe?", "größen", true),
            (r"\*", "*", true),
            (r"\*", "x", false),
            (r"a\\*", r"a\b", true),
            (r"a\b", r"a\b", true),
        ] {
            assert_eq!(fits(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_page_token_belongs_to_its_filter() {
        let request = pb::DescribeSchemaRequest {
            name_pattern: "u*".into(),
            ..Default::default()
        };
        let filter = schema(request.clone()).unwrap();
        let place = (2, "public".into(), "users".into(), String::new());
        let page_token = filter.page_token("schema-v1", &place);
        let next = schema(pb::DescribeSchemaRequest {
            page_token: page_token.clone(),
            ..request
        })
        .unwrap();
        assert_eq!(
            (next.after, next.seen.as_deref()),
            (Some(place), Some("schema-v1"))
        );
        let other = pb::DescribeSchemaRequest {
            page_token,
            ..Default::default()
        };
        assert_eq!(schema(other).unwrap_err().reason, Reason::InvalidPageToken);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for request in [
            pb::DescribeSchemaRequest {
                kinds: vec![99],
                ..Default::default()
            },
            pb::DescribeSchemaRequest {
                kinds: vec![0],
                ..Default::default()
            },
            pb::DescribeSchemaRequest {
                name_pattern: "x".repeat(201),
                ..Default::default()
            },
            pb::DescribeSchemaRequest {
                schemas: vec![String::new(); 101],
                ..Default::default()
            },
        ] {
            assert_eq!(schema(request).unwrap_err().reason, Reason::InvalidFilter);
        }
    }
}
