//! Whole files and whole credentials, through [`Access`].

mod certificate;
mod fetch;
mod file;
mod jwt;
mod signer;

use std::{
    fs,
    io::{self, Write},
    sync::{LazyLock, Mutex},
};

use tempfile::TempDir;
use tracing_subscriber::fmt::MakeWriter;

use super::*;
use crate::{
    failure::Reason,
    transport::reload::{ReportedProblem, follow, look},
};

/// An access file in a folder of its own.
struct Case {
    folder: TempDir,
    access: Access,
}

impl Case {
    fn new(text: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("access.toml"), text).unwrap();
        let access = Access::open(&folder.path().join("access.toml")).unwrap();
        Self { folder, access }
    }

    fn rewrite(&self, text: &str) {
        fs::write(self.folder.path().join("access.toml"), text).unwrap();
    }

    async fn bearer(&self, credential: &str) -> Result<Principal, CredentialRefusal> {
        bearer_of(&self.access, credential).await
    }
}

async fn bearer_of(access: &Access, credential: &str) -> Result<Principal, CredentialRefusal> {
    let authorization = format!("Bearer {credential}");
    let presented = PresentedCredentials {
        authorization: Some(&authorization),
        certificate: None,
    };
    access.authenticate_at(&presented, SystemTime::now()).await
}

fn token_entry(name: &str, role: &str, secret: &SecretToken) -> String {
    format!(
        "[[token]]\nname = {name:?}\nrole = {role:?}\nsha256 = \"{}\"\n",
        secret.digest()
    )
}

fn principal(name: &str, role: Role) -> Principal {
    Principal {
        name: name.into(),
        role,
    }
}

/// What was logged while it lives, on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        // With a single subscriber, tracing asks only the thread that meets an event first whether
        // anybody wants it, and that may be another test's: there is always a second one.
        static SECOND: LazyLock<tracing::Dispatch> =
            LazyLock::new(|| tracing_subscriber::registry().into());
        LazyLock::force(&SECOND);
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::TRACE)
            .with_writer(log.clone());
        (
            log,
            tracing::subscriber::set_default(subscriber.with_ansi(false).finish()),
        )
    }

    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

#[tokio::test]
async fn an_authorization_decides_alone() {
    let secret = SecretToken::generate().unwrap();
    let text = token_entry("ci", "deployer", &secret)
        + "[[certificate]]\ndns = \"app.example.org\"\nrole = \"viewer\"\n";
    let case = Case::new(&text);
    let der = certificate::of(|params| {
        params.subject_alt_names = vec![certificate::dns("app.example.org")]
    });
    let ask = async |authorization: Option<&str>, der: Option<&[u8]>| {
        case.access
            .authenticate(&PresentedCredentials {
                authorization,
                certificate: der,
            })
            .await
            .map_err(|failure| failure.reason)
    };
    let good = format!("Bearer {}", secret.reveal());
    assert_eq!(ask(None, None).await, Err(Reason::CredentialMissing));
    assert_eq!(
        ask(None, Some(&der)).await,
        Ok(principal("cert:app.example.org", Role::Viewer))
    );
    assert_eq!(
        ask(Some(&good), Some(&der)).await,
        Ok(principal("token:ci", Role::Deployer))
    );
    assert_eq!(
        ask(Some("Bearer wrong"), Some(&der)).await,
        Err(Reason::CredentialInvalid)
    );
    assert_eq!(
        ask(Some(""), Some(&der)).await,
        Err(Reason::CredentialInvalid)
    );
}

#[tokio::test]
async fn the_scheme_is_bearer_in_any_case_and_nothing_else() {
    let secret = SecretToken::generate().unwrap();
    let case = Case::new(&token_entry("ci", "admin", &secret));
    let ask = async |authorization: String| {
        let presented = PresentedCredentials {
            authorization: Some(&authorization),
            certificate: None,
        };
        case.access
            .authenticate(&presented)
            .await
            .map_err(|failure| failure.reason)
    };
    for scheme in ["Bearer ", "bearer ", "BEARER  "] {
        assert_eq!(
            ask(format!("{scheme}{}", secret.reveal())).await,
            Ok(principal("token:ci", Role::Admin))
        );
    }
    for scheme in ["", "Basic ", "Bearer", "Bearer\t", "Bearer Bearer "] {
        assert_eq!(
            ask(format!("{scheme}{}", secret.reveal())).await,
            Err(Reason::CredentialInvalid),
            "{scheme:?}"
        );
    }
    assert_eq!(
        ask(format!("Bearer {}", "a".repeat(9000))).await,
        Err(Reason::CredentialInvalid)
    );
    assert_eq!(
        ask(format!("Bearer {}{}", " ".repeat(9000), secret.reveal())).await,
        Err(Reason::CredentialInvalid)
    );
}

#[tokio::test]
async fn every_refusal_of_a_kind_reads_alike_and_only_the_log_knows_why() {
    let (log, _guard) = Log::capture();
    let secret = SecretToken::generate().unwrap();
    let case = Case::new(&token_entry("ci", "viewer", &secret));
    let unknown = SecretToken::generate().unwrap();
    let mut messages = Vec::new();
    for credential in [
        unknown.reveal(),
        "garbage-hunter2",
        "schemad_hunter2",
        "a.hunter2.c",
        &"hunter2".repeat(2000),
    ] {
        let authorization = format!("Bearer {credential}");
        let presented = PresentedCredentials {
            authorization: Some(&authorization),
            certificate: Some(b"hunter2"),
        };
        let failure = case.access.authenticate(&presented).await.unwrap_err();
        assert!(!format!("{presented:?} {failure:?} {failure}").contains("hunter2"));
        messages.push(failure);
    }
    assert!(
        messages.windows(2).all(|pair| pair[0] == pair[1]),
        "{messages:?}"
    );
    let log = log.text();
    assert!(
        log.contains("SHA-256 is not in the access file") && log.contains("longer than 8 KiB"),
        "{log}"
    );
    assert!(
        !log.contains("hunter2") && !log.contains(unknown.reveal()),
        "{log}"
    );
}

#[tokio::test]
async fn a_changed_file_is_taken_over_and_a_removed_token_is_nobody() {
    let (log, _guard) = Log::capture();
    let (first, second) = (
        SecretToken::generate().unwrap(),
        SecretToken::generate().unwrap(),
    );
    let case = Case::new(&token_entry("first", "viewer", &first));
    let mut told = ReportedProblem::default();
    look(&case.access, &mut told).await;
    assert!(!log.text().contains("reloaded"));
    case.rewrite(&token_entry("second", "admin", &second));
    look(&case.access, &mut told).await;
    assert!(matches!(
        case.bearer(first.reveal()).await,
        Err(CredentialRefusal::Invalid(_))
    ));
    assert_eq!(
        case.bearer(second.reveal()).await,
        Ok(principal("token:second", Role::Admin))
    );
    assert_eq!(
        log.text().matches("the access file was reloaded").count(),
        1
    );
}

#[tokio::test]
async fn a_broken_file_changes_nothing_and_is_complained_about_once() {
    let (log, _guard) = Log::capture();
    let secret = SecretToken::generate().unwrap();
    let good = token_entry("ci", "viewer", &secret);
    let case = Case::new(&good);
    let mut told = ReportedProblem::default();
    for _ in 0..3 {
        case.rewrite("[[token]]\nname = \"ci\"\nrole = \"root\"\nsha256 = \"schemad_hunter2\"\n");
        look(&case.access, &mut told).await;
        assert!(case.bearer(secret.reveal()).await.is_ok());
    }
    assert_eq!(
        log.text().matches("what was there before stays").count(),
        1,
        "{}",
        log.text()
    );
    fs::remove_file(case.folder.path().join("access.toml")).unwrap();
    look(&case.access, &mut told).await;
    assert!(case.bearer(secret.reveal()).await.is_ok());
    assert_eq!(log.text().matches("what was there before stays").count(), 2);
    case.rewrite(&good);
    look(&case.access, &mut told).await;
    case.rewrite("broken");
    look(&case.access, &mut told).await;
    assert_eq!(
        log.text().matches("what was there before stays").count(),
        3,
        "a new break is told again"
    );
    assert!(!log.text().contains("hunter2"));
}

#[tokio::test]
async fn whoever_takes_out_the_last_credential_has_taken_it_out() {
    let (log, _guard) = Log::capture();
    let secret = SecretToken::generate().unwrap();
    let good = token_entry("ci", "viewer", &secret);
    let case = Case::new(&good);
    let mut told = ReportedProblem::default();
    // A file that is written in place is empty for a moment.
    case.rewrite("");
    look(&case.access, &mut told).await;
    assert!(case.bearer(secret.reveal()).await.is_ok());
    case.rewrite(&format!("{good}# again\n"));
    look(&case.access, &mut told).await;
    case.rewrite("# nobody\n");
    look(&case.access, &mut told).await;
    assert!(case.bearer(secret.reveal()).await.is_ok());
    look(&case.access, &mut told).await;
    assert!(matches!(
        case.bearer(secret.reveal()).await,
        Err(CredentialRefusal::Invalid(_))
    ));
    look(&case.access, &mut told).await;
    assert_eq!(
        log.text().matches("has no entry").count(),
        1,
        "{}",
        log.text()
    );
    case.rewrite(&good);
    look(&case.access, &mut told).await;
    assert!(case.bearer(secret.reveal()).await.is_ok());
}

#[tokio::test]
async fn a_daemon_follows_its_file() {
    let secret = SecretToken::generate().unwrap();
    let case = Case::new(&token_entry("ci", "viewer", &secret));
    case.rewrite(&token_entry("ci", "admin", &secret));
    let keeping = tokio::spawn(follow(case.access.clone()));
    while case.bearer(secret.reveal()).await != Ok(principal("token:ci", Role::Admin)) {
        tokio::task::yield_now().await;
    }
    keeping.abort();
    let access = case.access.clone(); // as a server calls it, from any thread
    let asked =
        tokio::spawn(async move { access.authenticate(&PresentedCredentials::default()).await });
    assert_eq!(
        asked.await.unwrap().unwrap_err().reason,
        Reason::CredentialMissing
    );
}
