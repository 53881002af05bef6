//! JWTs, right and wrong in every way that a test can think of.

use serde_json::{Value, json};

use super::{
    signer::{ISSUER, Signer, base64url, claims, key_set, message, seconds},
    *,
};

/// Signed once with a key that nobody kept; ring makes no RSA keys.
const RSA_N: &str = "zZv-pFn94GDPuRwNpJU4qrVWxne5VO7OuJsMPUrbjLgALqgEEF9JAPTC41R6q06WxaGNe4trdf7NOrQvvE11FR5b3H3HWW5c40kN3886szyOKGEycj9JnbGkFN66tOK8RmmL121xenn7IZSATzwquXEqDbyGgzkT49SChWUlfq26ZGfsJq1Hkx_sW9vWDFEkNkTncuWMV2VlNL4Yb8sr0P8K0IUzpOsonJxxwtRAxS9Vo6abbbYMkxE9WIIcQCTsr0Az90f8J0v_DbtvXJgYvYnzNKh044nxUVYt5Ikzunaje8cFp963ct2R8V5jUlV88Ne_5qLKn4gPxObgnnIEgw";
const RSA_CLAIMS: &str = "eyJpc3MiOiJodHRwczovL2lzc3Vlci5leGFtcGxlIiwiYXVkIjoic2NoZW1hZCIsInN1YiI6InJzYSIsImV4cCI6NDEwMjQ0NDgwMCwicmVwb3NpdG9yeSI6ImFjbWUvc2hvcCJ9";
const RS256: [&str; 2] = [
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InJzYSJ9",
    "mb-JXsmVLhIxZco8XW0BiEdITPBvNyzRrXhZgSHtRGBY0f69QXS8t-yPggnUbWIZ-BGionVflbEfiqFqVB-jjXhON72spsFOVjyIBKlbL2UAS5gXdGHaX4O8_7wc5F0_cJmE7U0-o_jridRZNQdEi3TjzclDSDOMDZ0dDSyN37ZxWaFdWxlktJRtbfqR-mCgcTuyDAd1o8sgXz_0zWHTcEWpUFzGjj3bfrH4oVUTA0CPPreNbivSh-Fvi0-5IyEfoQ2-MOqAMmFXzhEMvnj71COUHiNxpkbJMOjehgDDxJyJXdGK5556U5X8x6xSkces_BdgEhnRAB1SH5F3cGghPg",
];
const PS256: [&str; 2] = [
    "eyJhbGciOiJQUzI1NiIsImtpZCI6InJzYSJ9",
    "TEg0cCje9Du7yKQgJo3ayLt7UcsMsWiuincvoVFB7DarHIINvL1zZsnqXw8gub22Bpyg2oIi_pyhjb_6ggDm1KdW97C1WMPeVNSOPV9F6cieUxyoDwlWSDP2RZLheHXTJF4dl8aJIQClSMNq2ZLWmjyoRNewMRNDohKMYxW9gZZj4JawCOEi6hOG4z8SXYX3gY9tu-xLNeLwskbuSw-TFnfinrPw48QupPetZml7Vf2vj16G38kyK5Sm4F_F6mCs3trurW-kiCXqp5sYg0jhOvON-o_VoTL2XhSW0uf-JkSEdmbonEBmMCIcBl6ztFP8LnwStt2akrw7JvouQlK3tg",
];

/// An access file with one issuer, whose keys lie beside it.
struct Issued {
    case: Case,
}

impl Issued {
    fn new(keys: &str, more: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("jwks.json"), keys).unwrap();
        let text = Self::text(&folder, more);
        fs::write(folder.path().join("access.toml"), text).unwrap();
        let access = Access::open(&folder.path().join("access.toml")).unwrap();
        Self {
            case: Case { folder, access },
        }
    }

    fn text(folder: &TempDir, more: &str) -> String {
        format!(
            "[[oidc]]\nissuer = {ISSUER:?}\naudience = [\"schemad\", \"other\"]\njwks = \
             \"{}/jwks.json\"\nleeway = \"10s\"\n{more}\n[[oidc.rule]]\nclaims = {{ repository = \
             \"acme/shop\" }}\nrole = \"deployer\"\n",
            folder.path().display()
        )
    }

    fn rotate(&self, keys: &str) {
        fs::write(self.case.folder.path().join("jwks.json"), keys).unwrap();
    }

    /// The cause of the refusal.
    async fn invalid(&self, jwt: &str) -> String {
        match self.case.bearer(jwt).await {
            Err(CredentialRefusal::Invalid(cause)) => cause,
            other => panic!("{other:?}"),
        }
    }
}

fn with(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn without(name: &str) -> Value {
    let mut claims = claims();
    claims.as_object_mut().unwrap().remove(name);
    claims
}

fn job() -> Result<Principal, CredentialRefusal> {
    Ok(principal("oidc:job", Role::Deployer))
}

#[tokio::test]
async fn right_tokens_of_every_kind_are_let_in() {
    let (ec, ed) = (Signer::es256("ec"), Signer::eddsa("ed"));
    let rsa = json!({"kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB", "use": "sig"});
    let issued = Issued::new(&json!({"keys": [ec.jwk(), ed.jwk(), rsa]}).to_string(), "");
    for _ in 0..2 {
        // The second time, from the cache.
        for [header, signature] in [RS256, PS256] {
            let jwt = format!("{header}.{RSA_CLAIMS}.{signature}");
            assert_eq!(
                issued.case.bearer(&jwt).await,
                Ok(principal("oidc:rsa", Role::Deployer))
            );
        }
    }
    for signer in [&ec, &ed] {
        assert_eq!(issued.case.bearer(&signer.sign(&claims())).await, job());
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("aud", json!(["x", "other"]))))
                .await,
            job()
        );
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("exp", json!(1e12))))
                .await,
            job()
        );
    }
    let jwt = format!("{}.{RSA_CLAIMS}.{}", PS256[0], RS256[1]);
    assert!(issued.invalid(&jwt).await.ends_with("does not verify"));
}

#[tokio::test]
async fn a_token_for_somebody_else_is_refused() {
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    for (claims, cause) in [
        (with("aud", json!("other-service")), "another aud"),
        (with("aud", json!([])), "another aud"),
        (with("aud", json!(7)), "no aud"),
        (without("aud"), "no aud"),
        (
            with("iss", json!("https://evil.example")),
            "iss is that of no [[oidc]]",
        ),
        (with("iss", json!([ISSUER])), "without a readable iss"),
        (without("iss"), "without a readable iss"),
        (
            with("repository", json!("evil/shop")),
            "no [[oidc.rule]] matches",
        ),
        (without("repository"), "no [[oidc.rule]] matches"),
        (without("sub"), "names the principal"),
        (with("sub", json!("a\nb")), "names the principal"),
        (with("sub", json!("x".repeat(201))), "names the principal"),
        (with("sub", json!(7)), "names the principal"),
    ] {
        let found = issued.invalid(&signer.sign(&claims)).await;
        assert!(found.contains(cause), "{found:?} is not {cause:?}");
    }
}

#[tokio::test]
async fn time_is_looked_at_with_leeway_and_only_of_genuine_tokens() {
    let (signer, forger) = (Signer::es256("k"), Signer::es256("k"));
    let issued = Issued::new(&key_set([&signer]), "");
    let expired = Err(CredentialRefusal::Expired("oidc:job".into()));
    for _ in 0..2 {
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("exp", json!(seconds(-60)))))
                .await,
            expired
        );
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("nbf", json!(seconds(60)))))
                .await,
            expired
        );
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("exp", json!(seconds(-5)))))
                .await,
            job()
        );
        assert_eq!(
            issued
                .case
                .bearer(&signer.sign(&with("nbf", json!(seconds(5)))))
                .await,
            job()
        );
    }
    let cause = issued.invalid(&signer.sign(&without("exp"))).await;
    assert!(cause.ends_with("has no exp"), "{cause}");
    for wrong in [json!("2100"), json!(null), json!([seconds(60)]), json!(-1)] {
        let jwt = signer.sign(&with("exp", wrong.clone()));
        assert!(
            matches!(
                issued.case.bearer(&jwt).await,
                Err(CredentialRefusal::Invalid(_))
            ),
            "{wrong}"
        );
    }
    issued
        .invalid(&signer.sign(&with("nbf", json!("now"))))
        .await;
    let mut claims = with("exp", json!(seconds(-60)));
    let cause = issued.invalid(&forger.sign(&claims)).await;
    assert!(cause.ends_with("does not verify"), "{cause}");
    claims["aud"] = json!("other-service");
    assert!(
        issued
            .invalid(&signer.sign(&claims))
            .await
            .ends_with("another aud")
    );
}

#[tokio::test]
async fn what_is_in_the_cache_still_expires() {
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    let authorization = format!("Bearer {}", signer.sign(&claims()));
    let presented = PresentedCredentials {
        authorization: Some(&authorization),
        certificate: None,
    };
    let now = SystemTime::now();
    let at = async |offset| {
        issued
            .case
            .access
            .authenticate_at(&presented, now + std::time::Duration::from_secs(offset))
            .await
    };
    assert_eq!(at(0).await, job());
    assert_eq!(at(305).await, job());
    assert_eq!(
        at(320).await,
        Err(CredentialRefusal::Expired("oidc:job".into()))
    );
}

#[tokio::test]
async fn a_token_does_not_choose_how_it_is_checked() {
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    let hmac = |secret: &[u8]| {
        let message = message(&json!({"alg": "HS256", "kid": "k"}), &claims());
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, secret);
        format!(
            "{message}.{}",
            base64url(ring::hmac::sign(&key, message.as_bytes()))
        )
    };
    let none = message(&json!({"alg": "none"}), &claims());
    let jwk = signer.jwk().to_string();
    for jwt in [
        hmac(signer.public()),
        hmac(jwk.as_bytes()),
        hmac(b""),
        format!("{none}."),
        format!("{none}.AAAA"),
        format!("{}.", message(&signer.header(), &claims())),
        signer.sign_under(&json!({"kid": "k"}), &claims()),
        signer.sign_under(&json!({"alg": "RS256", "kid": "k"}), &claims()),
        signer.sign_under(&json!({"alg": "EdDSA", "kid": "k"}), &claims()),
        signer.sign_under(
            &json!({"alg": "ES256", "kid": "k", "crit": ["exp"], "exp": 1}),
            &claims(),
        ),
        signer.sign_under(&json!({"alg": "ES256", "kid": "k", "crit": []}), &claims()),
        signer.sign_under(
            &json!({"alg": "ES256", "kid": "k", "b64": false}),
            &claims(),
        ),
    ] {
        issued.invalid(&jwt).await;
    }
    let forger = Signer::es256("k");
    let own =
        json!({"alg": "ES256", "kid": "k", "jwk": forger.jwk(), "jku": "https://evil.example/k"});
    assert!(
        issued
            .invalid(&forger.sign_under(&own, &claims()))
            .await
            .ends_with("does not verify")
    );
    let own = json!({"alg": "ES256", "kid": "../k", "jwk": forger.jwk()});
    assert!(
        issued
            .invalid(&forger.sign_under(&own, &claims()))
            .await
            .contains("not in the issuer's key set")
    );
    assert_eq!(issued.case.bearer(&signer.sign(&claims())).await, job());
}

#[tokio::test]
async fn the_file_chooses_the_algorithms_and_a_key_may_narrow_them() {
    let (ec, ed) = (Signer::es256("ec"), Signer::eddsa("ed"));
    let issued = Issued::new(&key_set([&ec, &ed]), "algorithms = [\"EdDSA\"]");
    assert_eq!(issued.case.bearer(&ed.sign(&claims())).await, job());
    assert!(
        issued
            .invalid(&ec.sign(&claims()))
            .await
            .contains("not accepted from this issuer")
    );
    let rsa = |more: Value| {
        let mut key = json!({"kty": "RSA", "kid": "rsa", "n": RSA_N, "e": "AQAB"});
        key.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        Issued::new(&json!({"keys": [key, ec.jwk()]}).to_string(), "")
    };
    let jwt = format!("{}.{RSA_CLAIMS}.{}", RS256[0], RS256[1]);
    assert!(rsa(json!({"alg": "RS256"})).case.bearer(&jwt).await.is_ok());
    assert!(
        rsa(json!({"key_ops": ["verify"]}))
            .case
            .bearer(&jwt)
            .await
            .is_ok()
    );
    for wrong in [
        json!({"alg": "PS256"}),
        json!({"use": "enc"}),
        json!({"key_ops": ["encrypt"]}),
        json!({"alg": "RSA-OAEP"}),
    ] {
        rsa(wrong).invalid(&jwt).await;
    }
}

#[tokio::test]
async fn a_token_without_a_key_id_is_understood_where_there_is_one_key() {
    let (signer, other) = (Signer::es256("k"), Signer::es256("other"));
    let jwt = signer.sign_under(&json!({"alg": "ES256"}), &claims());
    assert_eq!(
        Issued::new(&key_set([&signer]), "").case.bearer(&jwt).await,
        job()
    );
    Issued::new(&key_set([&signer, &other]), "")
        .invalid(&jwt)
        .await;
}

#[tokio::test]
async fn garbage_is_refused() {
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    let good = signer.sign(&claims());
    let (message, _) = good.rsplit_once('.').unwrap();
    let payload = base64url(claims().to_string());
    for jwt in [
        "..".into(),
        "a.b.c".into(),
        format!("{message}.{}", base64url([0; 64])),
        format!("{message}.{}", base64url([7; 7])),
        format!("{good}."),
        format!("{good}="),
        format!(".{payload}."),
        format!("{}.{payload}.", base64url("[]")),
        format!("{}.{payload}.x", base64url([0xff, 0xfe])),
        signer.sign(&with("padding", json!("x".repeat(8000)))),
    ] {
        issued.invalid(&jwt).await;
    }
    let twice = format!("{{\"iss\":\"{ISSUER}\",\"iss\":\"https://evil.example\"}}");
    issued
        .invalid(&format!(
            "{}.{}.",
            base64url(signer.header().to_string()),
            base64url(twice)
        ))
        .await;
}

#[tokio::test]
async fn an_unknown_key_is_looked_for_and_a_withdrawn_one_is_forgotten() {
    let (old, new, newest) = (
        Signer::es256("old"),
        Signer::es256("new"),
        Signer::es256("newest"),
    );
    let issued = Issued::new(&key_set([&old]), "");
    let old_jwt = old.sign(&claims());
    assert_eq!(issued.case.bearer(&old_jwt).await, job());
    issued.rotate(&key_set([&new]));
    issued.invalid(&newest.sign(&claims())).await; // has them looked at
    issued.invalid(&old_jwt).await;
    assert_eq!(issued.case.bearer(&new.sign(&claims())).await, job());
    issued.rotate(&key_set([&newest]));
    assert_eq!(issued.case.bearer(&newest.sign(&claims())).await, job());
    issued.invalid(&new.sign(&claims())).await;
}

#[tokio::test]
async fn a_broken_key_file_leaves_the_keys_and_stops_a_start() {
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    for broken in [
        "",
        "{}",
        "{\"keys\": []}",
        "{\"keys\": [{\"kty\": \"oct\", \"k\": \"aHVudGVyMg\", \"kid\": \"k\"}]}",
        &" ".repeat(300_000),
    ] {
        issued.rotate(broken);
        issued
            .invalid(&Signer::es256("other").sign(&claims()))
            .await;
        assert_eq!(issued.case.bearer(&signer.sign(&claims())).await, job());
        let error = Access::open(&issued.case.folder.path().join("access.toml"))
            .unwrap_err()
            .to_string();
        assert!(
            error.contains("the keys of https://issuer.example") && !error.contains("aHVudGVyMg"),
            "{error}"
        );
    }
}

#[tokio::test]
async fn new_rules_hold_for_tokens_that_were_verified_before() {
    let (log, _guard) = Log::capture();
    let signer = Signer::es256("k");
    let issued = Issued::new(&key_set([&signer]), "");
    let jwt = signer.sign(&claims());
    assert_eq!(issued.case.bearer(&jwt).await, job());
    // The keys are taken over.
    fs::remove_file(issued.case.folder.path().join("jwks.json")).unwrap();
    let text = Issued::text(&issued.case.folder, "");
    issued.case.rewrite(&text.replace("deployer", "viewer"));
    look(&issued.case.access, &mut ReportedProblem::default()).await;
    assert_eq!(
        issued.case.bearer(&jwt).await,
        Ok(principal("oidc:job", Role::Viewer))
    );
    issued
        .case
        .rewrite(&text.replace("acme/shop", "acme/other"));
    look(&issued.case.access, &mut ReportedProblem::default()).await;
    issued.invalid(&jwt).await;
    assert!(!log.text().contains(&jwt) && !log.text().contains(jwt.rsplit('.').next().unwrap()));
}
