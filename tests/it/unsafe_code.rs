//! Where the code may be unsafe.

use std::{fs, path::Path};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn rust_files(dir: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            rust_files(&path, found);
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
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
            "src/postgres/private_server.rs: unsafe_code,",
            "src/postgres/private_server/child.rs: unsafe {",
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
