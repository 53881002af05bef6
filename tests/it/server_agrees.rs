//! Where schemad sees a statement end, the server sees it end: scripts made by chance from
//! everything that can hide a semicolon, each sent as one message. The server answers once for each
//! statement that it found. What it cannot parse says nothing.

use tokio_postgres::SimpleQueryMessage;

use crate::harness::TestDatabase;

/// How many scripts of each kind; more with SCHEMAD_SCRIPTS, and others with SCHEMAD_SEED.
const SCRIPTS: u64 = 2_000;

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// A source of numbers that gives the same ones for the same seed (xorshift64*).
struct Chance(u64);

impl Chance {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        usize::try_from(self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33).unwrap() % n
    }

    fn of<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices[self.below(choices.len())]
    }
}

/// What stands inside of a literal or a comment: all that could be taken for its end, for another's
/// beginning, or for a statement's.
const INSIDE: [&str; 26] = [
    ";",
    "; SELECT 2;",
    "--",
    "/*",
    "*/",
    "$$",
    "$a$",
    "$b$",
    "\n",
    "\r",
    "\"",
    "a",
    " ",
    "\\\\",
    "\\n",
    "end",
    "case",
    "é",
    "\u{a0}",
    "E",
    "U&",
    "()",
    "(",
    ")",
    "BEGIN ATOMIC",
    "%",
];

fn inside(chance: &mut Chance, without: &[&str]) -> String {
    (0..chance.below(6))
        .map(|_| chance.of(&INSIDE))
        .filter(|part| !without.iter().any(|w| part.contains(w)))
        .collect()
}

/// A value, in one of the ways to write it.
fn value(chance: &mut Chance) -> String {
    let escaped = |text: String| text.replace('\'', "''");
    match chance.below(12) {
        0 => format!("'{}'", escaped(inside(chance, &[]))),
        1 => format!("'{}\\'", inside(chance, &[])),
        2 => format!("E'{}\\'{}'", inside(chance, &[]), inside(chance, &[])),
        3 => format!("E'{}''{}\\\\'", inside(chance, &[]), inside(chance, &[])),
        4 => format!("$${}$$", inside(chance, &["$$"])),
        5 => format!("$a${}$a$", inside(chance, &["$a$"])),
        6 => format!("$é_1${};'$$$é_1$", inside(chance, &[])),
        // A string that goes on in another line keeps its kind.
        7 => {
            let between = chance.of(&["\n", " \r\n ", " -- '\n"]);
            match chance.below(2) {
                0 => format!("E'a;\\\\'{between}'b\\';{}'", inside(chance, &[])),
                _ => format!(
                    "{}'a;\\'{between}'{}\\'",
                    chance.of(&["", "N"]),
                    inside(chance, &[])
                ),
            }
        }
        8 => format!("U&'{}!0041' UESCAPE '!'", inside(chance, &["\\", "!"])),
        9 => chance
            .of(&[
                "B'01'",
                "X'0f'",
                "b'1'::text",
                "1e5",
                "0.5",
                ".5",
                "1::int",
                "1+-1",
                "1 - -1",
                "4*/*;*/2",
                "4%--;\n3",
            ])
            .into(),
        10 => format!("({}, {})", value(chance), value(chance)),
        _ => format!(
            "CASE WHEN true THEN {} ELSE '' END",
            chance.of(&["'x'", "';'", "E'\\';'", "$$;$$"])
        ),
    }
}

fn blank(chance: &mut Chance) -> String {
    match chance.below(9) {
        0 => format!("/*{}*/", inside(chance, &["/*", "*/"])),
        1 => format!("/* /*{}*/ ; */", inside(chance, &["/*", "*/"])),
        2 => format!("--{}\n", inside(chance, &["\n", "\r"])),
        3 => format!("--{}\r", inside(chance, &["\n", "\r"])),
        4 => "\n".into(),
        5 => "\t\x0c ".into(),
        _ => " ".into(),
    }
}

/// Words that begin or end something elsewhere, as names.
const NAMES: [&str; 10] = [
    "a",
    "end",
    "case",
    "begin",
    "atomic",
    "\"a;\"",
    "\"a\"\";\"",
    "a$b$",
    "U&\"a;!0041\" UESCAPE '!'",
    "é",
];

fn select(chance: &mut Chance) -> String {
    let (one, two) = (blank(chance), blank(chance));
    format!(
        "SELECT{one} {}{two} AS {}",
        value(chance),
        chance.of(&NAMES)
    )
}

/// A routine whose body the server parses; from PostgreSQL 14 on.
fn routine(chance: &mut Chance) -> String {
    let column = |chance: &mut Chance| chance.of(&["end", "case", "begin", "a"]).to_owned();
    let statement = |chance: &mut Chance| match chance.below(5) {
        0 => format!(
            "SELECT t.{0} FROM (SELECT {1} AS {0}) t",
            column(chance),
            value(chance)
        ),
        1 => format!(
            "SELECT CASE WHEN true THEN 1 ELSE CASE 1 WHEN 1 THEN 2 END END AS {}",
            column(chance)
        ),
        2 => format!(
            "SELECT \"case\", \"end\" FROM (SELECT {} AS \"case\", 1 AS end) t",
            value(chance)
        ),
        3 => format!("{};", select(chance)),
        _ => select(chance),
    };
    let body: Vec<String> = (0..chance.below(4))
        .map(|_| statement(chance) + ";")
        .collect();
    let head = chance.of(&[
        "CREATE FUNCTION",
        "create or replace function",
        "CREATE OR REPLACE PROCEDURE",
    ]);
    let returns = if head.ends_with("PROCEDURE") {
        ""
    } else {
        "RETURNS void"
    };
    let name = format!("pg_temp.f{}", chance.below(1_000_000_000));
    let argument = chance.of(&["", "a text DEFAULT ';'"]);
    let end = blank(chance);
    format!(
        "{head} {name}({argument}) {returns} LANGUAGE sql BEGIN{end}ATOMIC {}{end} END",
        body.join(&blank(chance))
    )
}

fn rule(chance: &mut Chance) -> String {
    format!(
        "CREATE OR REPLACE RULE r AS ON UPDATE TO pg_temp.v DO ALSO ({}; SELECT {})",
        select(chance),
        value(chance)
    )
}

fn script(chance: &mut Chance, has_bodies: bool) -> String {
    let statement = |chance: &mut Chance| match chance.below(8) {
        0 if has_bodies => routine(chance),
        1 => rule(chance),
        2 => String::new(),
        _ => select(chance),
    };
    let mut script = blank(chance);
    for _ in 0..chance.below(5) {
        script += &statement(chance);
        script += &blank(chance);
        script += ";";
        script += &blank(chance);
    }
    script + chance.of(&["", "SELECT 1", ";", "--", "-- ;"])
}

/// Anything at all: most of it is no SQL, and what is has been thought of by nobody.
fn soup(chance: &mut Chance) -> String {
    const PIECES: [&str; 30] = [
        "SELECT ", "SELECT 1", ";", "'", "''", "E'", "e'", "\\", "\\'", "$$", "$a$", "$a", "a$",
        "U&'", "\"", "--", "/*", "*/", "\n", "\r", " ", "1", "+", "(", ")", ",", "N'", "x",
        "::text", "AS end",
    ];
    (0..chance.below(14)).map(|_| chance.of(&PIECES)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_sees_a_statement_end_where_schemad_does() {
    let database = TestDatabase::new().await;
    let client = database.connect().await;
    // As a session that runs scripts is set up, where that decides how they are read.
    client
        .batch_execute("SET standard_conforming_strings = on; CREATE TEMP TABLE v (n int)")
        .await
        .unwrap();
    let has_bodies = database
        .text("SELECT current_setting('server_version_num')::int >= 140000")
        .await
        == "t";
    let seed = setting("SCHEMAD_SEED").unwrap_or(0x5EED);
    let scripts = setting("SCHEMAD_SCRIPTS").unwrap_or(SCRIPTS);
    let mut chance = Chance(seed);
    let (mut compared, mut differ) = (0, Vec::new());
    for n in 0..2 * scripts {
        let script = if n % 2 == 0 {
            script(&mut chance, has_bodies)
        } else {
            soup(&mut chance)
        };
        let found = schemad::internals::sql::count(&script);
        match client.simple_query(&script).await {
            Ok(answers) => {
                compared += 1;
                let done = |answer: &&SimpleQueryMessage| {
                    matches!(answer, SimpleQueryMessage::CommandComplete(_))
                };
                // An empty script is answered as one.
                let statements = answers.iter().filter(done).count();
                if statements != found && !(found == 0 && statements == 1) {
                    differ.push(format!(
                        "the server {statements}, schemad {found}: {script:?}"
                    ));
                }
            }
            Err(error) => assert!(!error.is_closed(), "{script:?}: {error}"),
        }
    }
    println!(
        "seed {seed}: {compared} of {} scripts compared",
        2 * scripts
    );
    assert!(
        differ.is_empty(),
        "{} differ, among them\n{}",
        differ.len(),
        differ[..differ.len().min(10)].join("\n")
    );
    assert!(
        compared > scripts / 2,
        "only {compared} of {scripts} could be compared"
    );
}
