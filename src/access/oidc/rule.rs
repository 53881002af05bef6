//! Which claims make somebody what: the first rule whose claims all match decides.

use serde_json::{Map, Value};

use crate::access::Role;

/// The claims of a token.
pub(in crate::access) type Claims = Map<String, Value>;

/// One `[[oidc.rule]]`.
#[derive(Debug)]
pub(in crate::access) struct ClaimRule {
    /// Never empty: that would let everybody in whom the issuer knows.
    pub claims: Vec<(String, ClaimPattern)>,
    pub role: Role,
    /// The claim that names the principal.
    pub name: String,
}

/// What a claim has to be.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::access) enum ClaimPattern {
    Exactly(String),
    StartingWith(String),
}

impl ClaimPattern {
    /// A text, with `*` at its end for any continuation.
    pub(in crate::access) fn parse(text: &str) -> Self {
        match text.strip_suffix('*') {
            Some(prefix) => Self::StartingWith(prefix.into()),
            None => Self::Exactly(text.into()),
        }
    }

    /// A string has to match, of an array one member.
    fn matches(&self, claim: &Value) -> bool {
        match claim {
            Value::String(text) => self.matches_text(text),
            Value::Array(members) => members
                .iter()
                .filter_map(Value::as_str)
                .any(|text| self.matches_text(text)),
            _ => false,
        }
    }

    fn matches_text(&self, text: &str) -> bool {
        match self {
            Self::Exactly(wanted) => text == wanted,
            Self::StartingWith(prefix) => text.starts_with(prefix),
        }
    }
}

impl ClaimRule {
    /// Whether all its claims are there and match.
    pub(in crate::access) fn matches(&self, claims: &Claims) -> bool {
        self.claims
            .iter()
            .all(|(name, wanted)| claims.get(name).is_some_and(|claim| wanted.matches(claim)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn matches(wanted: &[(&str, &str)], claims: Value) -> bool {
        let claims_wanted = wanted
            .iter()
            .map(|(name, text)| ((*name).to_owned(), ClaimPattern::parse(text)))
            .collect();
        let rule = ClaimRule {
            claims: claims_wanted,
            role: Role::Viewer,
            name: "sub".into(),
        };
        rule.matches(claims.as_object().unwrap())
    }

    #[test]
    fn every_claim_has_to_match() {
        let wanted = [("repository", "acme/shop"), ("ref", "refs/heads/main")];
        assert!(matches(
            &wanted,
            json!({"repository": "acme/shop", "ref": "refs/heads/main", "other": 1})
        ));
        assert!(!matches(
            &wanted,
            json!({"repository": "acme/shop", "ref": "refs/heads/other"})
        ));
        assert!(!matches(&wanted, json!({"repository": "acme/shop"})));
        assert!(!matches(
            &wanted,
            json!({"repository": "acme/shopping", "ref": "refs/heads/main"})
        ));
    }

    #[test]
    fn an_array_needs_one_member_and_a_star_is_any_continuation() {
        assert!(matches(
            &[("groups", "dba")],
            json!({"groups": ["dev", "dba"]})
        ));
        assert!(!matches(
            &[("groups", "dba")],
            json!({"groups": ["dev", 1, ["dba"]]})
        ));
        assert!(matches(
            &[("ref", "refs/tags/*")],
            json!({"ref": "refs/tags/v1"})
        ));
        assert!(!matches(
            &[("ref", "refs/tags/*")],
            json!({"ref": "refs/heads/refs/tags/v1"})
        ));
        assert!(!matches(&[("n", "1")], json!({"n": 1})));
        assert!(!matches(&[("n", "*")], json!({"n": null})));
    }
}
