//! What the access file's errors say.

use super::*;

const SHA: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

fn error(text: &str) -> String {
    Access::check(Path::new("/etc/schemad/access.toml"), text)
        .unwrap_err()
        .to_string()
}

#[test]
fn every_error_names_its_line_and_what_to_do() {
    let token = |more: &str| {
        format!("[[token]]\nname = \"ci\"\nrole = \"viewer\"\nsha256 = \"{SHA}\"\n{more}")
    };
    let oidc = |more: &str| {
        format!(
            "[[oidc]]\nissuer = \"https://x.example\"\naudience = \
             \"schemad\"\n{more}\n[[oidc.rule]]\nclaims = {{ sub = \"a\" }}\nrole = \"viewer\"\n"
        )
    };
    let certificate = |more: &str| format!("[[certificate]]\nrole = \"viewer\"\n{more}");
    let cases = [
        ("no TOML", "[[token]]\nname = ci\n".into()),
        ("unknown table", "[[tokens]]\n".into()),
        ("unknown key", token("expire = \"2027-01-01T00:00:00Z\"")),
        (
            "missing key",
            "# comment\n[[token]]\nname = \"ci\"\nrole = \"viewer\"\n".into(),
        ),
        ("role", token("").replace("viewer", "root")),
        (
            "the token instead of its hash",
            token("").replace(SHA, "schemad_hunter2hunter2hunter2"),
        ),
        (
            "a secret for a key",
            token("schemad_hunter2hunter2hunter2 = 1"),
        ),
        (
            "a secret for a table",
            token("expires = 5\n").replace("\"ci\"", "{ a = \"hunter2\" }"),
        ),
        (
            "a secret for a list",
            "token = \"schemad_hunter2\"\n".into(),
        ),
        ("name", token("").replace("\"ci\"", "\"a\\nb\"")),
        (
            "invisible name",
            token("").replace("\"ci\"", "\"ci\\u3164\""),
        ),
        ("long name", token("").replace("ci", &"x".repeat(201))),
        ("same name", token("") + &token("")),
        ("same token", token("") + &token("").replace("ci", "cd")),
        ("time", token("expires = \"tomorrow\"")),
        (
            "period",
            token("expires = \"2027-01-01T00:00:00Z\"\nnot_before = \"2028-01-01T00:00:00Z\""),
        ),
        ("two names", certificate("dns = \"a\"\ncn = \"b\"")),
        ("no name", certificate("")),
        (
            "star in the middle",
            certificate("uri = \"spiffe://a/*/b\""),
        ),
        ("any trust domain", certificate("uri = \"spiffe://*\"")),
        ("no URI", certificate("uri = \"deploy\"")),
        ("star in DNS", certificate("dns = \"*.example.org\"")),
        (
            "unreachable",
            certificate("dns = \"a\"\n") + &certificate("dns = \"A\""),
        ),
        ("http issuer", oidc("").replace("https", "http")),
        ("http keys", oidc("jwks = \"http://x.example/k\"")),
        ("relative keys", oidc("jwks = \"k.json\"")),
        ("same issuer", oidc("") + &oidc("")),
        ("no audience", oidc("").replace("\"schemad\"", "[]")),
        ("audience", oidc("").replace("\"schemad\"", "5")),
        ("HS256", oidc("algorithms = [\"RS256\", \"HS256\"]")),
        ("none", oidc("algorithms = [\"none\"]")),
        ("no algorithms", oidc("algorithms = []")),
        ("leeway", oidc("leeway = \"soon\"")),
        ("long leeway", oidc("leeway = \"1day\"")),
        (
            "no rule",
            "[[oidc]]\nissuer = \"https://x.example\"\naudience = \"schemad\"\n".into(),
        ),
        (
            "rule for everybody",
            oidc("").replace("{ sub = \"a\" }", "{}"),
        ),
        ("claim", oidc("").replace("\"a\"", "true")),
    ];
    let shown: Vec<String> = cases
        .iter()
        .map(|(case, text)| format!("{case}\n    {}", error(text)))
        .collect();
    let shown = shown.join("\n");
    assert!(!shown.contains("hunter2"), "{shown}");
    insta::assert_snapshot!(shown);
}

#[test]
fn a_full_file_is_understood() {
    let text =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/access.md")).unwrap();
    let blocks: Vec<&str> = text
        .split("```toml\n")
        .skip(1)
        .filter_map(|rest| rest.split("```").next())
        .collect();
    assert!(blocks.len() >= 4, "{}", blocks.len());
    for block in blocks {
        Access::check(Path::new("docs/access.md"), block).unwrap();
    }
}

#[test]
fn a_file_without_an_entry_lets_no_daemon_start() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("access.toml");
    std::fs::write(&file, "# nobody\n").unwrap();
    let error = Access::open(&file).unwrap_err().to_string();
    assert!(
        error.contains("has no entry, so nobody could call: add a [[token]]"),
        "{error}"
    );
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Access::open(Path::new("/nowhere/access.toml"))
        .unwrap_err()
        .to_string();
    assert!(
        error.starts_with("the access file /nowhere/access.toml cannot be read"),
        "{error}"
    );
}
