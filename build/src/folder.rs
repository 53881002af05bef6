//! The rules a migrations folder has to follow, checked where it is still files. Diesel passes over
//! several mistakes in silence, and what it embeds no longer shows them.

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
/// As in diesel_cli, files and names that begin with a dot are passed over, and every other entry
/// is a migration.
pub fn check(dir: &Path) -> Vec<Finding> {
    let mut findings = Vec::new();
    match migration_folders(dir) {
        Err(error) => findings.push(finding(dir, format!("cannot be read: {error}"))),
        Ok(folders) => {
            if folders.is_empty() {
                findings.push(finding(
                    dir,
                    "holds no migration; a daemon without any would call every schema current",
                ));
            }
            check_versions(&folders, &mut findings);
            for folder in &folders {
                check_folder(folder, &mut findings);
            }
        }
    }
    findings
}

/// Warnings about a folder that can be embedded: SQL files that nothing reads, versions that are no
/// numbers, and numbers that do not run in their order. Empty where the folder cannot be read,
/// which [`check`] finds.
pub fn remarks(dir: &Path) -> Vec<Finding> {
    let Ok(folders) = migration_folders(dir) else {
        return Vec::new();
    };
    let beside =
        "is passed over: a migration is a folder with up.sql and, to roll it back, down.sql in it";
    let mut remarks: Vec<Finding> = sql_files(dir)
        .iter()
        .map(|file| finding(file, beside))
        .collect();
    for file in folders.iter().flat_map(|folder| sql_files(folder)) {
        if !file.ends_with("up.sql") && !file.ends_with("down.sql") {
            remarks.push(finding(
                &file,
                "is passed over: of a migration, up.sql and down.sql are read",
            ));
        }
    }
    let mut versions: Vec<(String, &str)> = folders
        .iter()
        .filter_map(|folder| folder.file_name()?.to_str())
        .map(|name| (version_of(name), name))
        .collect();
    let is_number = |version: &str| version.bytes().all(|byte| byte.is_ascii_digit());
    for (version, name) in &versions {
        if !is_number(version) {
            let problem = format!(
                "its version, what stands before the first `_`, is {version:?} and no number: \
                 begin the name with a timestamp (or a number) and `_`, for migrations run in the \
                 order of their versions"
            );
            remarks.push(finding(&dir.join(name), problem));
        }
    }
    versions.retain(|(version, _)| is_number(version));
    versions.sort();
    let as_number = |version: &str| {
        let digits = version.trim_start_matches('0');
        (digits.len(), digits.to_owned())
    };
    if let Some([(_, first), (_, second)]) = versions
        .array_windows()
        .find(|[a, b]| as_number(&a.0) > as_number(&b.0))
    {
        remarks.push(finding(
            &dir.join(first),
            format!(
                "runs before {second}: versions are compared as text. Give all of them the \
                same number of digits"
            ),
        ));
    }
    remarks
}

/// The `.sql` files right in `dir`, sorted.
fn sql_files(dir: &Path) -> Vec<PathBuf> {
    let is_sql = |path: &Path| {
        path.extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("sql"))
    };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.path())
        .filter(|path| is_sql(path) && path.is_file())
        .collect();
    files.sort();
    files
}

/// The version diesel_cli reads from a folder's name: what stands before the first `_`, without any
/// `-`.
pub fn version_of(name: &str) -> String {
    name.split('_').next().unwrap_or_default().replace('-', "")
}

/// What is wrong with the version of a folder's name, if anything.
pub fn name_problem(version: &str) -> Option<String> {
    if version.is_empty() {
        Some("has no version: begin the name with a timestamp and `_`".into())
    } else {
        version_problem(version)
    }
}

/// What is wrong with a version, if anything.
pub fn version_problem(version: &str) -> Option<String> {
    let length = version.chars().count();
    if version.is_empty() {
        Some("the version is empty".into())
    } else if length > MAX_VERSION_CHARS {
        Some(format!(
            "version {version} has {length} characters, but Diesel's table holds \
             {MAX_VERSION_CHARS}: put `_` after the timestamp"
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
        Some(
            "begins with a byte order mark, which PostgreSQL refuses: save it as UTF-8 without \
             one",
        )
    } else if is_utf16(sql.as_bytes()) {
        Some(UTF16)
    } else if sql.contains('\0') {
        Some("contains a NUL byte, which PostgreSQL refuses")
    } else {
        None
    }
}

/// True when `sql` holds no statement: white space, comments and semicolons only, as PostgreSQL's
/// scan.l has them: a carriage return ends a comment, and white space is ASCII.
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
    Finding {
        path: path.to_path_buf(),
        problem: problem.into(),
    }
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
    let mut of_version: BTreeMap<String, Vec<(&Path, &str)>> = BTreeMap::new();
    for folder in folders {
        let Some(name) = folder.file_name().and_then(|n| n.to_str()) else {
            findings.push(finding(folder, "the name is not UTF-8"));
            continue;
        };
        let version = version_of(name);
        match name_problem(&version) {
            Some(problem) => findings.push(finding(folder, problem)),
            None => of_version.entry(version).or_default().push((folder, name)),
        }
    }
    for (version, folders) in of_version {
        let names: Vec<&str> = folders.iter().map(|(_, name)| *name).collect();
        if let [(first, _), .., (_, last)] = folders[..] {
            findings.push(finding(first, same_version(&version, &names, last)));
        }
    }
}

/// Why migrations cannot have one version, and what to do about it. `last` is the one that comes
/// last in the source.
pub fn same_version(version: &str, names: &[&str], last: &str) -> String {
    format!(
        "{} have the same version, {version}. Embedded, Diesel runs {last} and never the others, \
         and diesel_cli runs any one of them: give all but the one that has been applied another \
         timestamp",
        names.join(" and ")
    )
}

fn check_folder(folder: &Path, findings: &mut Vec<Finding>) {
    let up = folder.join("up.sql");
    match read(&up) {
        Ok(None) => findings.push(finding(folder, no_up(folder))),
        Ok(Some(sql)) if is_blank(&sql) => findings.push(finding(&up, "holds no statement")),
        Ok(Some(sql)) => findings.extend(script_problem(&sql).map(|p| finding(&up, p))),
        Err(problem) => findings.push(finding(&up, problem)),
    }
    let down = folder.join("down.sql");
    match read(&down) {
        Ok(sql) => findings.extend(
            sql.as_deref()
                .and_then(script_problem)
                .map(|p| finding(&down, p)),
        ),
        Err(problem) => findings.push(finding(&down, problem)),
    }
    let metadata = folder.join("metadata.toml");
    match read(&metadata) {
        Ok(text) => findings.extend(
            text.and_then(|t| metadata_problem(&t))
                .map(|p| finding(&metadata, p)),
        ),
        Err(problem) => findings.push(finding(&metadata, problem)),
    }
}

/// The finding of a folder without up.sql: Python's cache and a name in capitals are told apart.
fn no_up(folder: &Path) -> String {
    if folder.file_name().is_some_and(|name| name == "__pycache__") {
        return "is Python's, and Diesel takes every folder for a migration: delete it, and keep \
            scripts elsewhere"
            .into();
    }
    let in_capitals = sql_files(folder).into_iter().find(|file| {
        file.file_name()
            .is_some_and(|name| name.eq_ignore_ascii_case("up.sql"))
    });
    match in_capitals.as_deref().and_then(Path::file_name) {
        Some(name) => format!(
            "has no up.sql, but {}: the name is written in small letters",
            name.display()
        ),
        None => "has no up.sql".into(),
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
            "run_in_transaction is not true or false, and Diesel would silently run the migration \
             in a transaction"
                .into(),
        ),
        None => Some(
            "does not set run_in_transaction, which Diesel takes for false: set it, or delete \
                the file"
                .into(),
        ),
    }
}

const UTF16: &str = "is UTF-16, as PowerShell and some editors write it: save it as UTF-8, for \
                     example with iconv -f utf-16 -t utf-8 (without a byte order mark: utf-16le or \
                     utf-16be)";

/// It begins as UTF-16 does, or about every second byte is NUL.
fn is_utf16(bytes: &[u8]) -> bool {
    let has_mark = bytes.starts_with(b"\xff\xfe") || bytes.starts_with(b"\xfe\xff");
    has_mark || bytes.len() > 3 && bytes.iter().filter(|byte| **byte == 0).count() > bytes.len() / 3
}

/// What else the file is, or where the first byte is that is no UTF-8.
fn not_utf8(bytes: &[u8], valid: usize) -> String {
    if is_utf16(bytes) {
        return UTF16.into();
    }
    let line = bytes[..valid].iter().filter(|byte| **byte == b'\n').count() + 1;
    format!(
        "is not UTF-8 (byte {valid}, line {line}): save it as UTF-8, for example with iconv -f \
         latin1 -t utf-8"
    )
}

/// The file's text, `None` when there is no such file.
fn read(path: &Path) -> Result<Option<String>, String> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes)
            .map(Some)
            .map_err(|e| not_utf8(e.as_bytes(), e.utf8_error().valid_up_to())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("cannot be read: {error}")),
    }
}
