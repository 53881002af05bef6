//! The rules a migrations folder has to follow, checked where it is still files: when the binary is built (`build.rs`
//! includes this module). Diesel passes over several mistakes in silence, and what it embeds no longer shows them.

use std::{
    collections::BTreeMap,
    fmt, fs, io,
    path::{Path, PathBuf},
};

/// `__diesel_schema_migrations.version` is a `varchar(50)`.
pub const MAX_VERSION_CHARS: usize = 50;

/// One reason why a folder cannot be embedded: the file or folder, and what is wrong with it.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file or folder.
    pub path: PathBuf,
    /// What is wrong and what to do about it.
    pub problem: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.path.display(), self.problem)
    }
}

/// Everything wrong with the folder `dir`; empty when it can be embedded.
///
/// As in diesel_cli, files and names that begin with a dot are passed over, and every other entry is a migration.
pub fn check(dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    match migration_folders(dir) {
        Err(error) => findings.push(finding(dir, format!("cannot be read: {error}"))),
        Ok(folders) => {
            if folders.is_empty() {
                findings.push(finding(dir, "holds no migration; a daemon without any would call every schema current"));
            }
            check_versions(&folders, &mut findings);
            for folder in &folders {
                check_folder(folder, &mut findings);
            }
        }
    }
    findings
}

/// The version diesel_cli reads from a folder's name: what stands before the first `_`, without any `-`.
pub fn version_of(name: &str) -> String {
    name.split('_').next().unwrap_or_default().replace('-', "")
}

/// What is wrong with the version of a folder's name, if anything.
pub fn name_problem(version: &str) -> Option<String> {
    match version.is_empty() {
        true => Some("has no version: begin the name with a timestamp and `_`".into()),
        false => version_problem(version),
    }
}

/// What is wrong with a version, if anything.
pub fn version_problem(version: &str) -> Option<String> {
    let length = version.chars().count();
    if version.is_empty() {
        Some("the version is empty".into())
    } else if length > MAX_VERSION_CHARS {
        Some(format!(
            "version {version} has {length} characters, but Diesel's table holds {MAX_VERSION_CHARS}: put `_` after the timestamp"
        ))
    } else if version.chars().any(char::is_control) {
        Some("the name holds a control character".into())
    } else {
        None
    }
}

/// What keeps a script from being sent to PostgreSQL at all, if anything.
pub fn script_problem(sql: &str) -> Option<&'static str> {
    if sql.starts_with('\u{feff}') {
        Some("begins with a byte order mark, which PostgreSQL refuses: save it as UTF-8 without one")
    } else if sql.contains('\0') {
        Some("contains a NUL byte, which PostgreSQL refuses")
    } else {
        None
    }
}

/// True when `sql` holds no statement: white space, comments and semicolons only, as PostgreSQL's scan.l has them: a carriage
/// return ends a comment, and white space is ASCII.
pub fn is_blank(sql: &str) -> bool {
    let mut rest = sql;
    loop {
        rest = rest.trim_start_matches([' ', '\t', '\n', '\r', '\u{b}', '\u{c}', ';']);
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.find(['\n', '\r']).map_or("", |end| &comment[end..]);
        } else if rest.starts_with("/*") {
            rest = after_block_comment(rest);
        } else {
            return rest.is_empty();
        }
    }
}

/// What follows the block comment that `sql` begins with. PostgreSQL's block comments nest.
fn after_block_comment(sql: &str) -> &str {
    let (mut depth, mut at) = (0_usize, 0);
    while at < sql.len() {
        if sql[at..].starts_with("/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if sql[at..].starts_with("*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return &sql[at..];
            }
        } else {
            at += sql[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    ""
}

fn finding(path: &Path, problem: impl Into<String>) -> Finding {
    Finding { path: path.to_path_buf(), problem: problem.into() }
}

fn migration_folders(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut folders = Vec::new();
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if !entry.metadata()?.is_file() && !entry.file_name().as_encoded_bytes().starts_with(b".") {
            folders.push(entry.path());
        }
    }
    folders.sort();
    Ok(folders)
}

fn check_versions(folders: &[PathBuf], findings: &mut Vec<Finding>) {
    let mut seen: BTreeMap<String, &Path> = BTreeMap::new();
    for folder in folders {
        let Some(name) = folder.file_name().and_then(|n| n.to_str()) else {
            findings.push(finding(folder, "the name is not UTF-8"));
            continue;
        };
        let version = version_of(name);
        if let Some(problem) = name_problem(&version) {
            findings.push(finding(folder, problem));
        } else if let Some(other) = seen.insert(version.clone(), folder) {
            let other = other.file_name().unwrap_or_default().display();
            findings.push(finding(
                folder,
                format!("has the same version, {version}, as {other}; Diesel would silently drop one of them"),
            ));
        }
    }
}

fn check_folder(folder: &Path, findings: &mut Vec<Finding>) {
    let up = folder.join("up.sql");
    match read(&up) {
        Ok(None) => findings.push(finding(folder, "has no up.sql")),
        Ok(Some(sql)) if is_blank(&sql) => findings.push(finding(&up, "holds no statement")),
        Ok(Some(sql)) => findings.extend(script_problem(&sql).map(|p| finding(&up, p))),
        Err(problem) => findings.push(finding(&up, problem)),
    }
    let down = folder.join("down.sql");
    match read(&down) {
        Ok(sql) => findings.extend(sql.as_deref().and_then(script_problem).map(|p| finding(&down, p))),
        Err(problem) => findings.push(finding(&down, problem)),
    }
    let metadata = folder.join("metadata.toml");
    match read(&metadata) {
        Ok(text) => findings.extend(text.and_then(|t| metadata_problem(&t)).map(|p| finding(&metadata, p))),
        Err(problem) => findings.push(finding(&metadata, problem)),
    }
}

/// What is wrong with the text of a metadata.toml, if anything.
pub fn metadata_problem(text: &str) -> Option<String> {
    let table: toml::Table = match text.parse() {
        Ok(table) => table,
        Err(error) => {
            return Some(format!(
                "is not TOML, and Diesel would silently run the migration in a transaction: {}",
                error.message()
            ));
        }
    };
    match table.get("run_in_transaction") {
        Some(toml::Value::Boolean(_)) => None,
        Some(_) => Some(
            "run_in_transaction is not true or false, and Diesel would silently run the migration in a transaction"
                .into(),
        ),
        None => {
            Some("does not set run_in_transaction, which Diesel takes for false: set it, or delete the file".into())
        }
    }
}

/// Where the first byte is that is no UTF-8.
fn not_utf8(bytes: &[u8], valid: usize) -> String {
    let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!("is not UTF-8 (byte {valid}, line {line}): save it as UTF-8, for example with iconv -f latin1 -t utf-8")
}

/// The file's text, `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => {
            String::from_utf8(bytes).map(Some).map_err(|e| not_utf8(e.as_bytes(), e.utf8_error().valid_up_to()))
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings_of(files: &[(&str, &str)]) -> Vec<String> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        let root = format!("{}/", dir.path().display());
        check(dir.path()).iter().map(|f| f.to_string().replace(&root, "")).collect()
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
            ("2025-07-14-add_x/metadata.toml", "run_in_transaction = false\nnote = 'x'\n"),
            ("1/up.sql", "SELECT 1"),
            ("20200101 with spaces_é/up.sql", "SELECT 1 -- trailing"),
            ("20200102_notes/up.sql", "SELECT 1"),
            ("20200102_notes/README", "beside"),
        ]);
        assert_eq!(findings, Vec::<String>::new());
    }

    #[test]
    fn versions_are_read_as_diesel_cli_reads_them() {
        for name in ["2025-07-14-add_x", "00000000000000_diesel_initial_setup", "1", "a-b-c", "_x", "--_y"] {
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
            "is not UTF-8 (byte 8, line 1): save it as UTF-8, for example with iconv -f latin1 -t utf-8"
        );
    }

    #[test]
    fn an_empty_folder_is_a_mistake() {
        let dir = tempfile::tempdir().unwrap();
        assert!(check(dir.path())[0].problem.starts_with("holds no migration"));
    }

    #[test]
    fn a_missing_folder_is_named() {
        let findings = check(Path::new("/no/such/folder"));
        assert!(findings[0].to_string().starts_with("/no/such/folder: cannot be read"), "{findings:?}");
    }

    #[test]
    fn blankness_sees_through_comments() {
        for blank in ["", " \n;", "-- x", "-- x\n ; ", "/* a /* b */ c */", "/* open"] {
            assert!(is_blank(blank), "{blank:?}");
        }
        for full in ["SELECT 1", "-- x\nSELECT 1", "/* a */ SELECT 1", "/**/x", "-- x\rSELECT 1", "\u{a0}"] {
            assert!(!is_blank(full), "{full:?}");
        }
    }
}
