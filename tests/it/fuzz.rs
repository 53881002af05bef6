//! The fuzz targets' corpora, replayed: what once broke a law must not do so again. `fuzz/src`
//! holds the targets, `./dev fuzz` runs them for long.

use std::{collections::BTreeSet, fs, panic::catch_unwind, path::Path};

#[path = "../../fuzz/src/lib.rs"]
mod targets;

fn names(dir: &Path) -> BTreeSet<String> {
    fs::read_dir(dir)
        .unwrap()
        .map(|entry| {
            entry
                .unwrap()
                .path()
                .file_stem()
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .collect()
}

#[test]
fn every_input_that_was_kept_passes() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let mut failed = Vec::new();
    for (name, _) in targets::TARGETS {
        for entry in fs::read_dir(root.join(name)).unwrap() {
            let path = entry.unwrap().path();
            let data = fs::read(&path).unwrap();
            if catch_unwind(|| targets::run(name, &data)).is_err() {
                failed.push(path);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:#?}");
}

#[test]
fn every_target_has_its_program_and_its_corpus() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let table: BTreeSet<String> = targets::TARGETS
        .iter()
        .map(|(name, _)| (*name).to_owned())
        .collect();
    assert_eq!(names(&root.join("corpus")), table);
    assert_eq!(names(&root.join("fuzz_targets")), table);
    let manifest: toml::Table = fs::read_to_string(root.join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap();
    let programs = manifest["bin"]
        .as_array()
        .unwrap()
        .iter()
        .map(|bin| bin["name"].as_str().unwrap().to_owned());
    assert_eq!(programs.collect::<BTreeSet<_>>(), table);
    for name in &table {
        let program =
            fs::read_to_string(root.join("fuzz_targets").join(format!("{name}.rs"))).unwrap();
        assert!(program.contains(&format!("{name:?}")), "{program}");
    }
}

#[test]
fn the_corpora_stay_small() {
    let size = |dir: &Path| -> u64 {
        fs::read_dir(dir)
            .unwrap()
            .map(|f| f.unwrap().metadata().unwrap().len())
            .sum()
    };
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
    let total: u64 = fs::read_dir(&root)
        .unwrap()
        .map(|dir| size(&dir.unwrap().path()))
        .sum();
    assert!(
        total < 1 << 20,
        "{total} bytes: minimise them, see CONTRIBUTING.md"
    );
}
