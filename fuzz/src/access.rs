//! What strangers show, and the file that says whom to believe.

use std::{path::Path, sync::OnceLock, time::Duration};

use schemad::internals::access::{Access, PresentedCredentials};
use tokio::runtime::{Builder, Runtime};

/// A token, a certificate rule, and an issuer whose one key signs nothing here.
const RULES: &str = r#"
[[token]]
name = "ci"
role = "admin"
sha256 = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff"

[[certificate]]
uri = "spiffe://example.org/deploy/*"
role = "deployer"

[[certificate]]
cn = "ops"
role = "viewer"

[[oidc]]
issuer = "https://ci.example.org"
audience = "schemad"
jwks = "KEYS"

[[oidc.rule]]
claims = { repository = "acme/*" }
role = "deployer"
"#;

/// RFC 7517's example key, whose other half nobody here has.
const KEYS: &str = r#"{"keys":[{"kty":"EC","crv":"P-256","kid":"1","alg":"ES256","use":"sig",
"x":"MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4","y":"4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}"#;

/// The bytes are an access file. It is taken or refused; a refusal names no digest, which is what
/// stands behind `sha256` and nowhere else: a name may look like one.
pub fn file(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    if let Err(error) = Access::check(Path::new("access.toml"), text) {
        let told = error.to_string();
        let digests = |line: &str| {
            let words = line.split(|c: char| !c.is_ascii_hexdigit());
            words
                .filter(|word| word.len() == 64)
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        let (of_tokens, others): (Vec<_>, Vec<_>) = text
            .lines()
            .partition(|line| line.trim_start().starts_with("sha256"));
        let elsewhere: Vec<_> = others.into_iter().flat_map(digests).collect();
        let mut secret = of_tokens
            .into_iter()
            .flat_map(digests)
            .filter(|digest| !elsewhere.contains(digest));
        assert!(secret.all(|digest| !told.contains(&digest)), "{told}");
    }
}

/// The bytes are a certificate when they begin with one of DER's sequences, else an authorization.
/// Nobody signed either, so nobody is let in; certificates are believed because the handshake
/// verified them, so for those only the absence of panics counts.
pub fn credential(data: &[u8]) {
    static RULED: OnceLock<(Access, Runtime)> = OnceLock::new();
    let (access, runtime) = RULED.get_or_init(|| {
        let folder = std::env::temp_dir().join(format!("schemad-fuzz-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder for the rules");
        let [rules, keys] = ["access.toml", "keys.json"].map(|name| folder.join(name));
        std::fs::write(&keys, KEYS).expect("a place for the keys");
        std::fs::write(&rules, RULES.replace("KEYS", &keys.to_string_lossy()))
            .expect("a place for the rules");
        let access = Access::open(&rules).expect("the rules above");
        let _ = std::fs::remove_dir_all(&folder);
        (
            access,
            Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime"),
        )
    });
    let shown = match (data.first(), std::str::from_utf8(data)) {
        (Some(0x30), _) | (_, Err(_)) => PresentedCredentials {
            authorization: None,
            certificate: Some(data),
        },
        (_, Ok(text)) => PresentedCredentials {
            authorization: Some(text),
            certificate: None,
        },
    };
    // A JWT with an unknown key waits for the issuer's keys to be looked at again; nobody has that
    // time here.
    let known = runtime.block_on(async {
        tokio::time::timeout(Duration::ZERO, access.authenticate(&shown)).await
    });
    assert!(
        shown.authorization.is_none() || !matches!(known, Ok(Ok(_))),
        "a stranger was let in"
    );
}
