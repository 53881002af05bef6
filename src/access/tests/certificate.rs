//! Client certificates, made as a client CA would.

use std::time::Duration;

use rcgen::{CertificateParams, DnType, KeyPair, SanType, string::Ia5String};

use super::*;

/// A certificate in DER.
pub(super) fn of(change: impl FnOnce(&mut CertificateParams)) -> Vec<u8> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    change(&mut params);
    params
        .self_signed(&KeyPair::generate().unwrap())
        .unwrap()
        .der()
        .to_vec()
}

pub(super) fn dns(name: &str) -> SanType {
    SanType::DnsName(Ia5String::try_from(name).unwrap())
}

fn uri(uri: &str) -> SanType {
    SanType::URI(Ia5String::try_from(uri).unwrap())
}

const RULES: &str = r#"
[[certificate]]
uri = "spiffe://example.org/deploy/*"
role = "deployer"
[[certificate]]
uri = "spiffe://example.org/dba"
role = "admin"
[[certificate]]
dns = "Deploy.example.org"
role = "viewer"
[[certificate]]
cn = "Ada Deploy"
role = "deployer"
"#;

async fn ask_at(der: &[u8], now: SystemTime) -> Result<Principal, CredentialRefusal> {
    let case = Case::new(RULES);
    case.access
        .authenticate_at(
            &PresentedCredentials {
                authorization: None,
                certificate: Some(der),
            },
            now,
        )
        .await
}

async fn ask(der: &[u8]) -> Result<Principal, CredentialRefusal> {
    ask_at(der, SystemTime::now()).await
}

#[tokio::test]
async fn the_first_rule_that_matches_says_who_it_is() {
    for (names, expected) in [
        (
            vec![uri("spiffe://example.org/deploy/shop")],
            Some(("cert:spiffe://example.org/deploy/shop", Role::Deployer)),
        ),
        (
            vec![uri("spiffe://example.org/deploy/a/b")],
            Some(("cert:spiffe://example.org/deploy/a/b", Role::Deployer)),
        ),
        (
            vec![uri("spiffe://example.org/dba")],
            Some(("cert:spiffe://example.org/dba", Role::Admin)),
        ),
        (
            vec![dns("x.example.org"), dns("DEPLOY.example.org")],
            Some(("cert:deploy.example.org", Role::Viewer)),
        ),
        (
            vec![dns("deploy.example.org"), uri("spiffe://example.org/dba")],
            Some(("cert:spiffe://example.org/dba", Role::Admin)),
        ),
        (vec![uri("spiffe://example.org/deploy")], None),
        (vec![uri("spiffe://example.org/deploy/")], None),
        (vec![uri("spiffe://example.org/deploy//shop")], None),
        (vec![uri("spiffe://example.org/deploy/../dba")], None),
        (vec![uri("spiffe://example.org/deploy/%2e%2e/dba")], None),
        (vec![uri("spiffe://example.org/deployer/shop")], None),
        (
            vec![uri("spiffe://example.org.evil.example/deploy/shop")],
            None,
        ),
        (vec![uri("spiffe://example.org/dba/x")], None),
        (
            vec![dns("*.example.org"), dns("a.deploy.example.org")],
            None,
        ),
        (vec![dns("Ada Deploy")], None),
        (vec![], None),
    ] {
        let der = of(|params| params.subject_alt_names = names.clone());
        let found = ask(&der).await;
        match expected {
            Some((name, role)) => assert_eq!(found, Ok(principal(name, role))),
            None => assert!(
                matches!(found, Err(CredentialRefusal::Invalid(_))),
                "{names:?}: {found:?}"
            ),
        }
    }
}

#[tokio::test]
async fn a_common_name_counts_where_a_rule_asks_for_it() {
    let der = of(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "Ada Deploy")
    });
    assert_eq!(
        ask(&der).await,
        Ok(principal("cert:Ada Deploy", Role::Deployer))
    );
    let der = of(|params| {
        params
            .distinguished_name
            .push(DnType::OrganizationName, "Ada Deploy")
    });
    assert!(matches!(
        ask(&der).await,
        Err(CredentialRefusal::Invalid(_))
    ));
    let der = of(|params| {
        params
            .distinguished_name
            .push(DnType::CommonName, "spiffe://example.org/dba")
    });
    assert!(matches!(
        ask(&der).await,
        Err(CredentialRefusal::Invalid(_))
    ));
}

#[tokio::test]
async fn a_certificate_is_valid_in_its_time_however_long_the_connection_lasts() {
    let now = SystemTime::now();
    let day = Duration::from_secs(86400);
    let der = of(|params| {
        params.subject_alt_names = vec![uri("spiffe://example.org/dba")];
        params.not_before = (now - day).into();
        params.not_after = (now + day).into();
    });
    assert!(ask_at(&der, now).await.is_ok());
    let expired = Err(CredentialRefusal::Expired(
        "cert:spiffe://example.org/dba".into(),
    ));
    assert_eq!(ask_at(&der, now + 2 * day).await, expired);
    assert_eq!(ask_at(&der, now - 2 * day).await, expired);
}

#[tokio::test]
async fn garbage_is_refused() {
    let mut der = of(|params| params.subject_alt_names = vec![uri("spiffe://example.org/dba")]);
    for garbage in [&b""[..], b"\x30\x80", &[0x30; 4096]] {
        assert!(matches!(
            ask(garbage).await,
            Err(CredentialRefusal::Invalid(_))
        ));
    }
    der.truncate(der.len() - 1);
    assert!(matches!(
        ask(&der).await,
        Err(CredentialRefusal::Invalid(_))
    ));
}
