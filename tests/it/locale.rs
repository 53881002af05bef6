//! What the command line writes where the locale has ASCII only.

use crate::harness::{
    Set, TestDaemon, TestDatabase,
    process::{output, schemad, stderr, stdout},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_c_locale_gets_ascii_only() {
    let database = TestDatabase::new().await;
    let long = "x".repeat(300);
    let set = Set::of(&[
        (
            "1_größe",
            "CREATE TABLE a (b int); -- größe",
            "DROP TABLE a;",
        ),
        (
            "2_bad",
            &format!("CREATE TABLE c (d int);\nSELECT '{long}' || 'é' || nope;"),
            "DROP TABLE c;",
        ),
    ]);
    let daemon = TestDaemon::start(&database, &set).await;
    let at = |arguments: &[&str], locale: &[(&str, &str)]| {
        let mut command = schemad(arguments);
        command
            .env("SCHEMAD_ADDRESS", &daemon.address)
            .envs(locale.iter().copied());
        command
    };
    let all = |output: std::process::Output| stdout(&output) + &stderr(&output);
    for locale in [
        &[("LC_ALL", "C")][..],
        &[("LC_CTYPE", "POSIX"), ("LANG", "de_DE.UTF-8")],
        &[("LANG", "C")],
    ] {
        for arguments in [
            &["apply", "--output", "json"][..],
            &["apply"],
            &["status"],
            &["status", "--output", "json"],
            &["list"],
            &["history"],
            &["schema"],
            &["help", "apply"],
        ] {
            let told = all(output(at(arguments, locale)).await);
            assert!(
                told.is_ascii() && !told.is_empty(),
                "{locale:?} {arguments:?}: {told}"
            );
        }
    }
    let json = stdout(&output(at(&["list", "--output", "json"], &[("LC_ALL", "C")])).await);
    let list: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(
        list["migrations"][0]["name"], "1_größe",
        "JSON says the same in ASCII"
    );
    // A script is data: it is the same in every locale.
    let script = stdout(&output(at(&["show", "1"], &[("LC_ALL", "C")])).await);
    assert!(script.contains("-- größe"), "{script}");
    for locale in [
        &[("LC_ALL", "C.UTF-8")][..],
        &[("LANG", "C"), ("LC_ALL", "en_US.UTF-8")],
        &[],
    ] {
        let told = all(output(at(&["list"], locale)).await);
        assert!(told.contains("größe"), "{locale:?}: {told}");
    }
}
