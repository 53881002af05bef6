//! The rules of a migrations folder, which a build checks as well: the crate `schemad-build` has
//! them.

pub use schemad_build::folder::*;

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    fn findings_of(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = format!("{}/", dir.path().display());
        check(dir.path())
            .iter()
            .map(|f| f.to_string().replace(&root, ""))
            .collect()
    }

    #[test]
    fn odd_but_legal_trees_are_accepted() {
        let findings = findings_of(&[
            ("README.md", "# notes"),
            (".keep", ""),
            (".diesel_lock", ""),
            ("generate.sh", "#!/bin/sh"),
            (".hidden/x", ""),
            ("00000000000000_diesel_initial_setup/up.sql", "SELECT 1;"),
            ("00000000000000_diesel_initial_setup/down.sql", ""),
            ("2025-07-14-add_x/up.sql", "SELECT 1;"),
            (
                "2025-07-14-add_x/metadata.toml",
                "run_in_transaction = false\nnote = 'x'\n",
            ),
            ("1/up.sql", "SELECT 1"),
            ("20200101 with spaces_é/up.sql", "SELECT 1 -- trailing"),
            ("20200102_notes/up.sql", "SELECT 1"),
            ("20200102_notes/README", "beside"),
        ]);
        assert_eq!(findings, Vec::<String>::new());
    }

    #[test]
    fn versions_are_read_as_diesel_cli_reads_them() {
        for name in [
            "2025-07-14-add_x",
            "00000000000000_diesel_initial_setup",
            "1",
            "a-b-c",
            "_x",
            "--_y",
        ] {
            let diesel = migrations_version(name);
            assert_eq!(version_of(name), diesel, "{name}");
        }
        assert_eq!(version_of("2025-07-14-add_x"), "20250714add");
    }

    /// Diesel's own rule, through the public trait.
    fn migrations_version(name: &str) -> String {
        use diesel::migration::{Migration, MigrationSource};
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join(name)).unwrap();
        fs::write(dir.path().join(name).join("up.sql"), "SELECT 1").unwrap();
        let source = diesel_migrations::FileBasedMigrations::from_path(dir.path()).unwrap();
        let migrations: Vec<Box<dyn Migration<diesel::pg::Pg>>> = source.migrations().unwrap();
        migrations[0].name().version().to_string()
    }

    #[test]
    fn every_trap_is_named() {
        let long = format!("{}_x/up.sql", "1".repeat(51));
        let findings = findings_of(&[
            ("10_no_up/down.sql", "SELECT 1"),
            ("11_blank_up/up.sql", " -- nothing\n/* at /* all */ */ ;"),
            ("12_a/up.sql", "SELECT 1"),
            ("12_b/up.sql", "SELECT 1"),
            ("13_empty_metadata/up.sql", "SELECT 1"),
            ("13_empty_metadata/metadata.toml", ""),
            ("14_malformed/up.sql", "SELECT 1"),
            ("14_malformed/metadata.toml", "run_in_transaction = yes"),
            ("15_type/up.sql", "SELECT 1"),
            ("15_type/metadata.toml", "run_in_transaction = 'false'"),
            ("16_bom/up.sql", "\u{feff}SELECT 1"),
            ("17_nul/up.sql", "SELECT 1\0"),
            ("18_capitals/UP.SQL", "SELECT 1"),
            ("__pycache__/conftest.pyc", "x"),
            ("_none/up.sql", "SELECT 1"),
            (&long, "SELECT 1"),
        ]);
        insta::assert_snapshot!(findings.join("\n"));
    }

    #[test]
    fn text_that_is_not_utf8_is_named_with_the_byte() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("1_x")).unwrap();
        fs::write(dir.path().join("1_x/up.sql"), b"SELECT '\xff'").unwrap();
        assert_eq!(
            check(dir.path())[0].problem,
            "is not UTF-8 (byte 8, line 1): save it as UTF-8, for example with iconv -f latin1 -t \
             utf-8"
        );
    }

    #[test]
    fn what_may_be_meant_otherwise_is_remarked() {
        let dir = tempfile::tempdir().unwrap();
        let tree = [
            "V1__init.sql",
            "2_second/up.sql",
            "10_tenth/up.sql",
            "10_tenth/seed.sql",
            "create_users/up.sql",
            "2025-07-14-add_x/up.sql",
            "003_third/down.sql",
            "README.md",
        ];
        for path in tree {
            fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
            fs::write(dir.path().join(path), "SELECT 1").unwrap();
        }
        let root = format!("{}/", dir.path().display());
        let told: Vec<String> = remarks(dir.path())
            .iter()
            .map(|f| f.to_string().replace(&root, ""))
            .collect();
        insta::assert_snapshot!(told.join("\n"));
        // As most folders are.
        let plain = tempfile::tempdir().unwrap();
        for name in [
            "00000000000000_diesel_initial_setup",
            "2025-07-14-101500_a",
            "20250714101501_b",
        ] {
            fs::create_dir_all(plain.path().join(name)).unwrap();
            fs::write(plain.path().join(name).join("up.sql"), "SELECT 1").unwrap();
        }
        assert_eq!(remarks(plain.path()), []);
    }

    #[test]
    fn utf_16_is_told_from_other_bytes() {
        let utf16: Vec<u8> = "CREATE TABLE \u{e9} ();"
            .encode_utf16()
            .flat_map(u16::to_le_bytes)
            .collect();
        let plain: Vec<u8> = "CREATE TABLE t ();"
            .encode_utf16()
            .flat_map(u16::to_be_bytes)
            .collect();
        for bytes in [utf16.clone(), [b"\xff\xfe".to_vec(), utf16].concat(), plain] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join("1_x")).unwrap();
            fs::write(dir.path().join("1_x/up.sql"), &bytes).unwrap();
            assert!(
                check(dir.path())[0].problem.starts_with("is UTF-16"),
                "{bytes:?}"
            );
        }
    }

    #[test]
    fn an_empty_folder_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        assert!(
            check(dir.path())[0]
                .problem
                .starts_with("holds no migration")
        );
    }

    #[test]
    fn a_missing_folder_is_named() {
        let findings = check(Path::new("/no/such/folder"));
        assert!(
            findings[0]
                .to_string()
                .starts_with("/no/such/folder: cannot be read"),
            "{findings:?}"
        );
    }

    #[test]
    fn blankness_sees_through_comments() {
        for blank in [
            "",
            " \n;",
            "-- x",
            "-- x\n ; ",
            "/* a /* b */ c */",
            "/* open",
        ] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for full in [
            "SELECT 1",
            "-- x\nSELECT 1",
            "/* a */ SELECT 1",
            "/**/x",
            "-- x\rSELECT 1",
            "\u{a0}",
        ] {
            assert!(!is_blank(full), "{full:?}");
        }
    }
}
