//! What is compiled in: licences, sources and names of the dependencies, and where the code may be
//! unsafe.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use serde_json::Value;

/// Licences that let anybody do with the binary what schemad's own do.
const LICENCES: [&str; 8] = [
    "MIT",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-3-Clause",
    "ISC",
    "Zlib",
    "Unicode-3.0",
    "Unlicense",
];

/// The C libraries that schemad is to do without, a second TLS, and what has been replaced.
const BANNED: [&str; 13] = [
    "pq-sys",
    "libpq-sys",
    "postgres-openssl",
    "postgres-native-tls",
    "openssl",
    "openssl-sys",
    "openssl-src",
    "native-tls",
    "libsqlite3-sys",
    "mysqlclient-sys",
    "boring-sys",
    "libz-sys",
    "protobuf-src",
];

/// Implementations of what TLS is made of; one is enough to keep patched.
const CRYPTOGRAPHY: [&str; 7] = [
    "ring",
    "aws-lc-rs",
    "aws-lc-sys",
    "openssl-sys",
    "native-tls",
    "boring-sys",
    "mbedtls-sys-auto",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn packages() -> Vec<Value> {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command
        .current_dir(root())
        .args(["metadata", "--format-version", "1", "--locked"]);
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    metadata["packages"].as_array().unwrap().clone()
}

/// An SPDX expression, and the older form with a slash for OR: every part between ANDs needs one
/// licence of the list.
fn is_permitted(expression: &str) -> bool {
    expression
        .replace(['(', ')'], "")
        .replace('/', " OR ")
        .split(" AND ")
        .all(|part| {
            part.split(" OR ")
                .any(|licence| LICENCES.contains(&licence.trim()))
        })
}

#[test]
fn every_dependency_is_permitted_by_licence_source_and_name() {
    let packages = packages();
    assert!(packages.len() > 100, "{}", packages.len());
    let mut wrong = Vec::new();
    for package in &packages {
        let text = |key: &str| package[key].as_str().unwrap_or_default();
        let name = format!("{} {}", text("name"), text("version"));
        if !is_permitted(text("license")) {
            wrong.push(format!("{name}: licence {:?}", text("license")));
        }
        let ours =
            package["source"].is_null() && Path::new(text("manifest_path")).starts_with(root());
        if !ours && text("source") != "registry+https://github.com/rust-lang/crates.io-index" {
            wrong.push(format!("{name}: from {}", text("source")));
        }
        if BANNED.contains(&text("name")) {
            wrong.push(format!("{name} is banned"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    let names: BTreeSet<&str> = packages
        .iter()
        .filter_map(|package| package["name"].as_str())
        .collect();
    let cryptography: Vec<_> = CRYPTOGRAPHY
        .iter()
        .filter(|name| names.contains(**name))
        .collect();
    assert_eq!(
        cryptography,
        [&"ring"],
        "two implementations of TLS's cryptography"
    );
}

#[test]
fn a_licence_is_judged_by_all_of_its_parts() {
    for good in [
        "MIT",
        "MIT/Apache-2.0",
        "(MIT OR Apache-2.0) AND Unicode-3.0",
        "GPL-3.0 OR MIT",
        "Apache-2.0 / MIT",
    ] {
        assert!(is_permitted(good), "{good}");
    }
    for bad in [
        "",
        "GPL-3.0",
        "MIT AND GPL-3.0",
        "(MIT OR Apache-2.0) AND MPL-2.0",
        "MITx",
    ] {
        assert!(!is_permitted(bad), "{bad}");
    }
}

fn rust_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => rust_files(&path, found),
            false if path.extension().is_some_and(|ending| ending == "rs") => found.push(path),
            false => {}
        }
    }
}

/// `forbid` cannot be lifted for the one module that needs it, so the lint is denied and this test
/// forbids.
#[test]
fn one_module_alone_is_unsafe() {
    let mut files = vec![root().join("build.rs")];
    rust_files(&root().join("src"), &mut files);
    rust_files(&root().join("build"), &mut files);
    let mut found = Vec::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        let word = |line: &&str| {
            let code = line.split("//").next().unwrap_or_default();
            code.split(|c: char| !c.is_alphanumeric() && c != '_')
                .any(|word| word == "unsafe" || word == "unsafe_code")
        };
        let name = file.strip_prefix(root()).unwrap().display().to_string();
        found.extend(
            text.lines()
                .filter(word)
                .map(|line| format!("{name}: {}", line.trim())),
        );
    }
    assert_eq!(
        found,
        [
            r#"src/private_postgres.rs: #[expect(unsafe_code, reason = "pre_exec, and there is no other way to hear of a parent's death")]"#,
            "src/private_postgres/child.rs: unsafe {",
        ]
    );
    let manifest: toml::Table = fs::read_to_string(root().join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    assert_eq!(
        manifest["workspace"]["lints"]["rust"]["unsafe_code"].as_str(),
        Some("deny")
    );
    assert_eq!(manifest["lints"]["workspace"].as_bool(), Some(true));
}
