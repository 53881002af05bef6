//! Keys over HTTP, from an issuer on this machine.

use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{
    signer::{Signer, claims, key_set},
    *,
};

/// An issuer whose answers change.
struct Issuer {
    url: String,
    keys: Arc<Mutex<(u16, String)>>,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Issuer {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let issuer = Self {
            url,
            keys: Arc::default(),
            asked: Arc::default(),
        };
        let (url, keys, asked) = (
            issuer.url.clone(),
            issuer.keys.clone(),
            issuer.asked.clone(),
        );
        tokio::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    request.push(stream.read_u8().await.unwrap());
                }
                let path = String::from_utf8(request)
                    .unwrap()
                    .split(' ')
                    .nth(1)
                    .unwrap()
                    .to_owned();
                let (status, body) = match path.as_str() {
                    "/.well-known/openid-configuration" => (
                        200,
                        json!({"issuer": url, "jwks_uri": format!("{url}/keys")}).to_string(),
                    ),
                    _ => keys.lock().unwrap().clone(),
                };
                asked.lock().unwrap().push(path);
                let head = format!(
                    "HTTP/1.1 {status} X\r\nlocation: /elsewhere\r\ncontent-length: {}\r\n\r\n",
                    body.len()
                );
                let _ = stream.write_all((head + &body).as_bytes()).await;
            }
        });
        issuer
    }

    fn answer(&self, status: u16, keys: &str) {
        *self.keys.lock().unwrap() = (status, keys.into());
    }

    fn case(&self) -> Case {
        Case::new(&format!(
            "[[oidc]]\nissuer = \"{}\"\naudience = \"schemad\"\n[[oidc.rule]]\nclaims = {{ \
             repository = \"acme/*\" }}\nrole = \"deployer\"\n",
            self.url
        ))
    }

    fn sign(&self, signer: &Signer) -> String {
        let mut claims = claims();
        claims["iss"] = json!(self.url);
        signer.sign(&claims)
    }
}

#[tokio::test]
async fn keys_are_discovered_when_the_first_token_comes() {
    let issuer = Issuer::start().await;
    let signer = Signer::es256("k");
    issuer.answer(200, &key_set([&signer]));
    let case = issuer.case();
    let jwt = issuer.sign(&signer);
    let (one, two) = tokio::join!(case.bearer(&jwt), case.bearer(&jwt));
    assert_eq!(
        (one, two),
        (
            Ok(principal("oidc:job", Role::Deployer)),
            Ok(principal("oidc:job", Role::Deployer))
        )
    );
    let asked = issuer.asked.lock().unwrap().clone();
    assert_eq!(
        asked,
        ["/.well-known/openid-configuration", "/keys"],
        "together"
    );
}

#[tokio::test]
async fn a_new_key_is_found_however_many_are_invented_and_the_issuer_hardly_notices() {
    let issuer = Issuer::start().await;
    let (old, new) = (Signer::es256("old"), Signer::es256("new"));
    issuer.answer(200, &key_set([&old]));
    let case = issuer.case();
    assert!(case.bearer(&issuer.sign(&old)).await.is_ok());
    let invented = || issuer.sign(&Signer::es256("invented"));
    let crowd = futures_util::future::join_all((0..100).map(|_| {
        let (access, jwt) = (case.access.clone(), invented());
        async move { bearer_of(&access, &jwt).await }
    }));
    assert!(crowd.await.iter().all(Result::is_err));
    for _ in 0..3 {
        case.bearer(&invented()).await.unwrap_err();
    }
    issuer.answer(200, &key_set([&old, &new]));
    // As one of many, and with what may be asked at once used up: it waits for its turn, and is let
    // in.
    let (forged, genuine) = (invented(), issuer.sign(&new));
    let (forged, genuine) = tokio::join!(case.bearer(&forged), case.bearer(&genuine));
    assert_eq!(
        (forged.is_err(), genuine),
        (true, Ok(principal("oidc:job", Role::Deployer)))
    );
    let asked = issuer
        .asked
        .lock()
        .unwrap()
        .iter()
        .filter(|path| *path == "/keys")
        .count();
    assert!(asked <= 8, "{asked} times for 106 tokens");
}

#[tokio::test]
async fn what_is_no_key_set_is_not_believed_and_the_log_says_why() {
    for (status, body, cause) in [
        (302, String::new(), "redirect (302)"),
        (500, String::new(), "status 500"),
        (200, "<html>".into(), "not a JSON Web Key Set"),
        (200, "x".repeat(300_000), "at most 262144 bytes"),
    ] {
        let (log, _guard) = Log::capture();
        let issuer = Issuer::start().await;
        issuer.answer(status, &body);
        issuer
            .case()
            .bearer(&issuer.sign(&Signer::es256("k")))
            .await
            .unwrap_err();
        assert!(log.text().contains(cause), "{cause}: {}", log.text());
        assert!(
            !issuer
                .asked
                .lock()
                .unwrap()
                .iter()
                .any(|path| path == "/elsewhere")
        );
    }
}

#[tokio::test]
async fn keys_stay_while_the_issuer_is_away() {
    let issuer = Issuer::start().await;
    let signer = Signer::eddsa("k");
    issuer.answer(200, &key_set([&signer]));
    let case = issuer.case();
    look(&case.access, &mut ReportedProblem::default()).await; // begins to fetch
    assert!(case.bearer(&issuer.sign(&signer)).await.is_ok());
    issuer.answer(500, "");
    case.bearer(&issuer.sign(&Signer::eddsa("unknown")))
        .await
        .unwrap_err();
    let mut other = claims();
    (other["iss"], other["sub"]) = (json!(issuer.url), json!("not in the cache"));
    assert!(case.bearer(&signer.sign(&other)).await.is_ok());
    assert_eq!(
        issuer
            .asked
            .lock()
            .unwrap()
            .iter()
            .filter(|path| *path == "/keys")
            .count(),
        2
    );
}
