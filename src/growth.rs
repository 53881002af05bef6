//! Measures how the cost of every pure function over scripts and schemas grows when its input
//! doubles. A function that takes four times as long for twice the input is quadratic: somebody's
//! seed of a few megabytes would then keep a processor busy for minutes.
//!
//! `cargo test --lib growth` measures small inputs and fails on what grows too fast. `./dev growth`
//! measures larger ones and prints the whole table.

use std::{hint::black_box, time::Duration};

use nix::time::{ClockId, clock_gettime};

use crate::{
    api::{
        describe::{SchemaListing, TextLength},
        rehearsals, request,
    },
    cli::snippet,
    failure::{Failure, status::status_from_failure},
    migration::{
        Checksum, Direction, JournalRecord, Migration, MigrationRow, RunningPart, Script,
        ScriptMode, TriedPart, Version, folder, run_mode,
        set::{
            MigrationSet,
            tests::{Hand, Source},
        },
    },
    pb, planner,
    postgres::SqlError,
    rehearse::single_transaction::ScriptTraits,
    runner::{self, RunnableStep, ScriptError, UndoneExtent, message},
    runtime::blocking,
    schema::{
        self, Column, Constraint, Enum, Publication, Relation, Routine, Snapshot, Sorted, Table,
    },
    sql,
};

/// The growth for twice the input from which on it is too fast: linear is 2, quadratic is 4.
const TOO_FAST: f64 = 2.9;

/// How far to go. In a run of all tests not far, because there are 1,500 measurements to make: that
/// finds what is bad, and `./dev growth` what is less so.
struct Effort {
    /// Inputs are made larger until a measurement takes so long, then `FURTHER` times.
    long_enough: Duration,
    /// Inputs have at most so many bytes, or parts. What takes no time for these is fast enough,
    /// however it grows.
    largest: usize,
}

impl Effort {
    fn asked_for() -> Self {
        match std::env::var("GROWTH_MS")
            .ok()
            .and_then(|text| text.parse().ok())
        {
            None => Self {
                long_enough: Duration::from_micros(200),
                largest: 1 << 16,
            },
            Some(milliseconds) => Self {
                long_enough: Duration::from_millis(milliseconds),
                largest: 1 << 21,
            },
        }
    }
}

/// The second measurement's input is so many times as large as the first's: two doublings.
const FURTHER: usize = 4;

/// What looks at so many bytes in a second is fast enough. It does little but copy, and for larger
/// inputs the system's own way of handing out memory is another one.
const FAST: f64 = 100e6;

/// Makes an input of about so many bytes or parts, and returns what is measured.
type Prepare = Box<dyn Fn(usize) -> Box<dyn FnMut()>>;

struct Case {
    function: &'static str,
    shape: &'static str,
    /// The first size.
    from: usize,
    prepare: Prepare,
}

struct Measured {
    size: usize,
    took: Duration,
    /// For twice the input; none where the largest input took no time.
    growth: Option<f64>,
}

#[test]
#[expect(
    clippy::print_stdout,
    reason = "the table is what `./dev growth` is for"
)]
fn no_function_of_a_script_or_a_schema_grows_faster_than_its_input() {
    let wanted = std::env::var("GROWTH_ONLY").unwrap_or_default();
    let head = format!(
        "{:32} {:40} {:>9} {:>12} {:>6}",
        "function", "shape", "size", "took", "x"
    );
    println!("{head}");
    let effort = Effort::asked_for();
    let mut too_fast = Vec::new();
    for case in scripts().into_iter().chain(schemas()).chain(sets()) {
        let Case {
            function, shape, ..
        } = &case;
        if !format!("{function} {shape}").contains(&wanted) {
            continue;
        }
        let mut measured = case.measure(&effort);
        for _ in 0..3 {
            // Something else may have used the processor's caches meanwhile.
            if measured.is_too_fast() {
                measured = case.measure(&effort);
            }
        }
        let growth = measured
            .growth
            .map_or_else(|| "-".to_owned(), |growth| format!("{growth:.2}"));
        let line = format!(
            "{function:32} {shape:40} {:>9} {:>12.1?} {growth:>6}",
            measured.size, measured.took
        );
        println!("{line}");
        if measured.is_too_fast() {
            too_fast.push(line);
        }
    }
    assert!(
        too_fast.is_empty(),
        "these grow faster than their input:\n{head}\n{}",
        too_fast.join("\n")
    );
}

/// Those that look at little of their input, only copy it, run before anything is served, or are
/// handed over by who calls them.
const ANYWHERE: [&str; 5] = [
    "sql::transaction_modes",
    "runner::message",
    "folder::is_blank, script_problem",
    "Snapshot::eq, clone",
    "DescribeSchema, all objects",
];

#[test]
fn large_inputs_are_looked_at_beside_the_threads_that_answer() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .build()
        .unwrap();
    let looks = async {
        let script = text(
            "",
            |i| format!("INSERT INTO t VALUES ({i}, 'a');\n"),
            "",
            1 << 18,
        );
        let (before, after) = (SCHEMAS[0].1(1 << 9, "word"), SCHEMAS[0].1(1 << 9, "other"));
        let scripts = FUNCTIONS
            .iter()
            .map(|(name, run)| (*name, Box::new(|| run(&script)) as Box<dyn Fn()>));
        let schemas = COMPARISONS
            .iter()
            .map(|(name, run)| (*name, Box::new(|| run(&before, &after)) as Box<dyn Fn()>));
        let is_in_place = |(name, run): (&'static str, Box<dyn Fn()>)| {
            let handed_over = blocking::handed_over();
            run();
            (blocking::handed_over() == handed_over).then_some(name)
        };
        scripts
            .chain(schemas)
            .filter_map(is_in_place)
            .collect::<Vec<_>>()
    };
    let mut in_place = runtime.block_on(async { tokio::spawn(looks).await.unwrap() });
    in_place.retain(|name| !ANYWHERE.contains(name));
    assert!(
        in_place.is_empty(),
        "these keep a thread from answering: {in_place:?}"
    );
}

impl Measured {
    fn is_too_fast(&self) -> bool {
        self.growth.is_some_and(|growth| growth > TOO_FAST)
    }
}

impl Case {
    fn measure(&self, effort: &Effort) -> Measured {
        let mut size = self.from;
        let mut took = self.time(size);
        while took < effort.long_enough && size < effort.largest {
            size *= 2;
            took = self.time(size);
        }
        if took < effort.long_enough {
            return Measured {
                size,
                took,
                growth: None,
            };
        }
        // The first run at a size pays for what later ones find in the caches.
        let took = took.min(self.time(size));
        let further = self.time(size * FURTHER).as_secs_f64();
        let is_fast = (size * FURTHER) as f64 / further > FAST;
        let doublings = (FURTHER as f64).log2();
        let growth = (further / took.as_secs_f64()).powf(1.0 / doublings);
        Measured {
            size,
            took,
            growth: (!is_fast).then_some(growth),
        }
    }

    /// The time of this thread's processor, so that other tests beside this one do not count.
    fn time(&self, size: usize) -> Duration {
        let mut run = (self.prepare)(size);
        let now = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let begun = now();
        run();
        now() - begun
    }
}

/// A text of about `size` bytes: the head, the part again and again with its number, the tail.
fn text(head: &str, part: impl Fn(usize) -> String, tail: &str, size: usize) -> String {
    let mut text = head.to_owned();
    for number in 0.. {
        if text.len() >= size {
            break;
        }
        text += &part(number);
    }
    text + tail
}

/// Parts that open and as many that close, from the inside out.
fn nested(
    open: impl Fn(usize) -> String,
    inside: &str,
    close: impl Fn(usize) -> String,
    size: usize,
) -> String {
    let depth = size / (open(100).len() + close(100).len()) + 1;
    let opened: String = (0..depth).map(&open).collect();
    let closed: String = (0..depth).rev().map(&close).collect();
    opened + inside + &closed
}

type Shape = (&'static str, fn(usize) -> String);

/// Scripts that people and tools write, and scripts that nobody should.
const SHAPES: &[Shape] = &[
    ("one INSERT of many rows", |n| {
        text(
            "INSERT INTO t (a, b) VALUES (0, '')",
            |i| format!(",\n({i}, 'it''s row {i}')"),
            ";",
            n,
        )
    }),
    ("many statements", |n| {
        text("", |i| format!("INSERT INTO t VALUES ({i}, 'a');\n"), "", n)
    }),
    ("many tables", |n| {
        text(
            "",
            |i| format!("CREATE TABLE t{i} (id bigint PRIMARY KEY, a text);\n"),
            "",
            n,
        )
    }),
    ("one very long line of statements", |n| {
        text("", |i| format!("SELECT {i}; "), "", n)
    }),
    ("one very long word", |n| {
        text("SELECT ", |_| "abcdefgh".into(), "", n)
    }),
    ("one very long number", |n| {
        text("SELECT ", |_| "12345678".into(), "", n)
    }),
    ("one very long string", |n| {
        text("SELECT '", |_| "abc ''x'' ".into(), "'", n)
    }),
    ("one very long escaped string", |n| {
        text("SELECT E'", |_| r"\n\x61\\\' ".into(), "'", n)
    }),
    ("one very long unicode string", |n| {
        text("SELECT U&'", |_| r"\0061 ".into(), "'", n)
    }),
    ("strings that go on in the next line", |n| {
        text("SELECT 'a'", |_| "\n'b'".into(), ";", n)
    }),
    ("escaped strings that go on", |n| {
        text("SELECT E'a'", |_| "\n'b\\''".into(), ";", n)
    }),
    ("escaped strings, comments between", |n| {
        text("SELECT E'a'", |_| ", E'a' -- x\n".into(), ";", n)
    }),
    ("deep parentheses", |n| {
        nested(|_| "(".into(), "1", |_| ")".into(), n)
    }),
    ("an open parenthesis, many statements", |n| {
        text("SELECT (", |i| format!("{i};\n"), "", n)
    }),
    ("many comments", |n| {
        text("", |i| format!("-- the comment {i}\n"), "SELECT 1;", n)
    }),
    ("many block comments", |n| {
        text("", |i| format!("/* the comment {i} */\n"), "SELECT 1;", n)
    }),
    ("nested comments", |n| {
        nested(|_| "/* ".into(), "x", |_| " */".into(), n) + "SELECT 1"
    }),
    ("many settings in comments", |n| {
        text(
            "",
            |_| "-- schemad: lock_timeout=1s\n".into(),
            "SELECT 1;",
            n,
        )
    }),
    ("comments after the statement", |n| {
        text("SELECT 1;", |i| format!("\n-- the comment {i}"), "", n)
    }),
    ("many dollar quotes", |n| {
        text("SELECT $$a$$", |i| format!(", $x{i}$b$x{i}$"), ";", n)
    }),
    ("dollar quotes that never close", |n| {
        text("SELECT 1", |i| format!(" $x{i}$"), "", n)
    }),
    ("dollars", |n| {
        text("SELECT 1", |_| " $a $1 $".into(), "", n)
    }),
    ("comments that never close", |n| {
        text("SELECT 1", |_| " /* x".into(), "", n)
    }),
    ("strings that never close", |n| {
        text("SELECT 'a", |_| " x; \\ $$".into(), "", n)
    }),
    ("a quoted identifier that never closes", |n| {
        text("SELECT \"a", |_| " x; '".into(), "", n)
    }),
    ("many quoted identifiers", |n| {
        text("SELECT 1", |i| format!(", \"a \"\"{i}\""), ";", n)
    }),
    ("a long name with dots", |n| {
        text("SELECT a", |_| ".b".into(), ";", n)
    }),
    ("a DO of many statements", |n| {
        text(
            "DO $$ BEGIN\n",
            |i| format!("IF a THEN UPDATE t SET a = {i}; END IF;\n"),
            "END $$;",
            n,
        )
    }),
    ("a DO of one long CASE", |n| {
        text(
            "DO $$ BEGIN a := CASE",
            |i| format!(" WHEN {i} THEN {i} ELSE CASE"),
            " END; END $$;",
            n,
        )
    }),
    ("a DO in single quotes", |n| {
        text(
            "DO 'BEGIN\n",
            |i| format!("PERFORM ''it'' || {i};\n"),
            "END';",
            n,
        )
    }),
    ("a DO of many EXECUTEs", |n| {
        text(
            "DO $$ BEGIN\n",
            |i| format!("EXECUTE 'UPDATE t SET a = {i}';\n"),
            "END $$;",
            n,
        )
    }),
    ("a DO of many GRANTs", |n| {
        text(
            "DO $$ BEGIN\n",
            |_| "BEGIN GRANT SELECT, INSERT THEN ELSE LOOP\n".into(),
            "END $$;",
            n,
        )
    }),
    ("bodies in bodies", |n| {
        nested(
            |i| format!("DO $a{i}$ BEGIN EXECUTE "),
            "'x'",
            |i| format!("; END $a{i}$"),
            n,
        )
    }),
    ("many functions", |n| {
        text(
            "",
            |i| format!("CREATE FUNCTION f{i}() RETURNS int LANGUAGE sql AS $$ SELECT {i} $$;\n"),
            "",
            n,
        )
    }),
    ("a function of one long body", |n| {
        text(
            "CREATE FUNCTION f() RETURNS int AS $f$ BEGIN\n",
            |i| format!("a := {i};\n"),
            "END $f$ LANGUAGE plpgsql;",
            n,
        )
    }),
    ("BEGIN ATOMIC of many statements", |n| {
        text(
            "CREATE FUNCTION f() RETURNS int BEGIN ATOMIC\n",
            |i| format!("SELECT {i};\n"),
            "END;",
            n,
        )
    }),
    ("BEGIN ATOMIC of nested CASEs", |n| {
        let nested = nested(|_| "CASE WHEN a THEN ".into(), "1", |_| " END".into(), n);
        format!("CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT {nested}; END;")
    }),
    ("what pg_dump writes for COPY", |n| {
        text(
            "COPY t FROM stdin;\n",
            |i| format!("{i}\tit's\t\\N\n"),
            "\\.\n",
            n,
        )
    }),
    ("commands of psql's", |n| {
        text("", |i| format!("\\echo 'open {i}\n"), "", n)
    }),
    ("many COPYs", |n| {
        text(
            "",
            |i| format!("COPY (SELECT substring(a from 'b')) TO t{i};\n"),
            "",
            n,
        )
    }),
    ("one COPY of a long query", |n| {
        text(
            "COPY (SELECT 1",
            |_| ", (a), to from 'b'".into(),
            ") TO x;",
            n,
        )
    }),
    ("many SETs between statements", |n| {
        text("", |i| format!("SET a.b{i} = {i};\nSELECT {i};\n"), "", n)
    }),
    ("many SETs", |n| {
        text("", |i| format!("SET a.b = {i};\n"), "", n)
    }),
    ("many set_config()", |n| {
        text(
            "",
            |i| format!("SELECT set_config('a.b', '{i}', false);\n"),
            "",
            n,
        )
    }),
    ("many search paths", |n| {
        text(
            "SET search_path = a",
            |i| format!(", a{i}"),
            "; SELECT 1",
            n,
        )
    }),
    ("many transactions", |n| {
        text(
            "",
            |i| format!("BEGIN; SET a = {i}; SELECT {i}; COMMIT;\n"),
            "",
            n,
        )
    }),
    ("one transaction of many statements", |n| {
        text("BEGIN;\n", |i| format!("SELECT {i};\n"), "COMMIT;", n)
    }),
    ("a transaction that is never committed", |n| {
        text("BEGIN;\n", |i| format!("SELECT {i};\n"), "", n)
    }),
    ("many index builds", |n| {
        text(
            "",
            |i| format!("CREATE INDEX CONCURRENTLY i{i} ON t (a);\n"),
            "",
            n,
        )
    }),
    ("many VACUUMs", |n| {
        text("", |i| format!("VACUUM t{i};\n"), "", n)
    }),
    ("many roles", |n| {
        text("", |i| format!("CREATE ROLE r{i};\n"), "", n)
    }),
    ("many GRANTs of roles", |n| {
        text("", |i| format!("GRANT r{i} TO app;\n"), "", n)
    }),
    ("one GRANT to many roles", |n| {
        text(
            "GRANT SELECT ON t TO a",
            |i| format!(", on role r{i}"),
            ";",
            n,
        )
    }),
    ("names of functions that reach outside", |n| {
        text(
            "SELECT 1",
            |i| format!(", pg_copy_{i} AS dblink(a)"),
            ";",
            n,
        )
    }),
    ("an index over such names", |n| {
        text(
            "CREATE INDEX i ON t (a)",
            |_| " WHERE on dblink_cache (a)".into(),
            ";",
            n,
        )
    }),
    ("a dotted name of such names", |n| {
        text("SELECT dblink", |_| ".dblink".into(), " (1)", n)
    }),
    ("an operator of such names", |n| {
        text(
            "CREATE AGGREGATE a (text) (",
            |_| "SFUNC = textcat, dblink, ".into(),
            "STYPE = text)",
            n,
        )
    }),
    ("names of shared catalogs", |n| {
        text(
            "SELECT pg_authid",
            |_| ", pg_catalog.pg_authid".into(),
            ";",
            n,
        )
    }),
    ("functions that run a text", |n| {
        text("SELECT 1", |i| format!(", ts_stat('SELECT {i}')"), ";", n)
    }),
    ("many languages", |n| {
        text(
            "CREATE FUNCTION f() RETURNS int",
            |_| " LANGUAGE sql".into(),
            ";",
            n,
        )
    }),
    ("many passwords", |n| {
        text("", |i| format!("ALTER ROLE r{i} PASSWORD 'x';\n"), "", n)
    }),
    ("many roles set", |n| {
        text("", |_| "SET LOCAL ROLE a; RESET ROLE;\n".into(), "", n)
    }),
    ("one statement of many roles", |n| {
        text("SELECT 1", |_| ", role, set role, reset".into(), ";", n)
    }),
    ("white space", |n| {
        text("SELECT 1;", |_| " \t\r\n\n".into(), "", n)
    }),
    ("carriage returns", |n| {
        text("SELECT 1;", |i| format!("-- {i}\rSELECT {i};\r"), "", n)
    }),
    ("semicolons", |n| text("SELECT 1", |_| ";".into(), "", n)),
    ("letters of several bytes", |n| {
        text("SELECT '", |_| "größe 漢字 ".into(), "' || é;", n)
    }),
];

/// Keeps the compiler from leaving out what nobody reads.
fn used<T>(value: T) {
    drop(black_box(value));
}

type Function = (&'static str, fn(&str));

/// Everything that looks at a script, once.
const FUNCTIONS: &[Function] = &[
    ("sql::split", |s| used(sql::split(s))),
    ("sql::count", |s| used(sql::count(s))),
    ("sql::Statement::*", |s| {
        for statement in sql::split(s) {
            black_box((
                statement.kind(),
                statement.summary(),
                statement.sets_otherwise(),
                statement.writes(),
                statement.defines(),
                statement.transaction_modes(),
                statement.repeats(),
                statement.search_path(),
            ));
        }
    }),
    // With a word that has it look at all.
    ("sql::loses_session", |s| {
        let named = format!("CREATE TEMP TABLE no_such_name (n int);\n{s}");
        used(sql::loses_session(&named));
    }),
    ("sql::units", |s| {
        let units = sql::units(s);
        let settings = units.iter().flatten().map(|unit| unit.settings.len()).max();
        black_box((units.is_ok(), settings));
    }),
    ("sql::hazard", |s| used(sql::hazard(s))),
    ("sql::has_own_transactions", |s| {
        used(sql::has_own_transactions(s))
    }),
    ("sql::transaction_modes", |s| {
        used(sql::transaction_modes(s))
    }),
    ("sql::settings", |s| used(sql::settings(s))),
    ("sql::may_define", |s| used(sql::may_define(s))),
    ("sql::first_reach", |s| used(sql::first_reach(s))),
    ("sql::first_role_change", |s| {
        used(sql::first_role_change(s))
    }),
    ("sql::is_dynamic", |s| used(sql::is_dynamic(s))),
    ("sql::drops_roles", |s| used(sql::drops_roles(s))),
    ("sql::unterminated", |s| used(sql::unterminated(s))),
    ("sql::place and the like", |s| {
        let last = s.chars().count();
        let place = sql::place(s, last);
        black_box((
            sql::nth_character(s, s.len()),
            sql::statement_of(s, last),
            sql::statement_at(s, place),
        ));
        black_box((
            sql::excerpt(s, place),
            sql::start_of(s, sql::count(s).saturating_sub(1)),
        ));
        black_box(sql::semicolon_after(s, 0));
    }),
    ("folder::is_blank, script_problem", |s| {
        used((folder::is_blank(s), folder::script_problem(s)))
    }),
    ("Checksum::of_script", |s| used(Checksum::of_script(s))),
    ("fitness::parts, one transaction", |s| {
        used(parts(s, ScriptMode::Transactional))
    }),
    ("fitness::parts, none", |s| {
        used(parts(s, ScriptMode::NonTransactional))
    }),
    ("Catalog::load_to_rehearse", |s| {
        // Leaked, as the sets of tests are.
        let hand = Hand("1_a", vec![s.to_owned().leak()], Some("SELECT 1"));
        used(MigrationSet::load_to_rehearse(&Source(vec![hand])));
    }),
    ("rehearse::together", |s| {
        let script = Script::new(s, ScriptMode::Transactional);
        let (version, name) = ("1".parse::<Version>().unwrap(), "1_a".to_owned());
        black_box(ScriptTraits::of(
            &Migration {
                version,
                name,
                up: script.clone(),
                down: None,
            },
            &script,
        ));
    }),
    ("runner::message", |s| {
        let (lock_wait, lock_timeout) = (Duration::ZERO, Duration::ZERO);
        let step = RunnableStep {
            id: 1,
            sql: s,
            lock_wait,
            lock_timeout,
            role: None,
            earlier: None,
            journaled: None,
        };
        black_box(message::of(&step, Some("public.d"), "RESET ALL"));
    }),
    ("runner::explain and the snippet", |s| {
        for failed in refused(s) {
            let failure = runner::explain(&failed, s, "1_a/up.sql", "deploy", false)
                .with("file", "1_a/up.sql");
            black_box(snippet::of(&status_from_failure(&failure)));
        }
    }),
    ("planner: a script in doubt", |s| {
        let row = half_done(s);
        let catalog =
            MigrationSet::load_to_rehearse(&Source(vec![Hand("1_a", vec!["SELECT 1"], None)]))
                .unwrap();
        black_box(planner::assess(&catalog, std::slice::from_ref(&row)));
        black_box(planner::earlier(Some(&row), Direction::Up, &[]));
    }),
];

fn parts(sql: &str, mode: ScriptMode) -> Result<Vec<run_mode::JournalPart>, Failure> {
    run_mode::parts(
        "1_a",
        &"1".parse().unwrap(),
        Direction::Up,
        &Script::new(sql, mode),
    )
}

/// The ways in which a server refuses a script: at its end, without a place, in a block, at the
/// very end, for want of a right.
fn refused(sql: &str) -> Vec<ScriptError> {
    let (characters, statements) = (sql.chars().count(), sql::count(sql));
    let of = |sqlstate: &str, position, statements_done, context: Option<&str>| ScriptError {
        error: SqlError {
            sqlstate: sqlstate.into(),
            message: "permission denied for table t".into(),
            position,
            context: context.map(Into::into),
            ..SqlError::default()
        },
        statements_done,
        preamble: 0,
        undone: Some(UndoneExtent {
            first: 0,
            through: false,
            stays: false,
        }),
    };
    let last = statements.saturating_sub(1);
    vec![
        of("42601", Some(characters), 0, None),
        of("42601", Some(characters + 5), 0, None),
        of("22012", None, last, None),
        of(
            "P0001",
            None,
            last,
            Some("PL/pgSQL function inline_code_block line 3 at RAISE"),
        ),
        of("42501", None, last, None),
        of(
            "SCH04",
            None,
            statements,
            Some("PL/pgSQL function schemad.finish_step_v2(bigint) line 1"),
        ),
        of("25001", None, last, None),
    ]
}

/// Of this script everything but the last part is done.
fn half_done(script: &str) -> MigrationRow {
    let units = sql::units(script).unwrap_or_default();
    let checksum = |unit: &sql::ScriptUnit<'_>| Checksum::of_script(unit.body.sql).to_string();
    let last = units.last().map(checksum).unwrap_or_default();
    let done: Vec<String> = units.iter().rev().skip(1).rev().map(checksum).collect();
    let journal = JournalRecord {
        step: 1,
        direction: Direction::Up,
        name: "1_a".into(),
        done,
        running: Some(RunningPart {
            checksum: last.clone(),
            in_doubt: true,
            failed: false,
        }),
        tried: Some(TriedPart {
            checksum: last,
            before: Vec::new(),
            sql: None,
        }),
        script: Some(script.into()),
    };
    MigrationRow {
        version: "1".parse().unwrap(),
        run_on: None,
        recorded: None,
        journal: Some(journal),
    }
}

fn scripts() -> Vec<Case> {
    let cases = FUNCTIONS.iter().flat_map(|(function, run)| {
        SHAPES
            .iter()
            .map(move |(shape, make)| (function, run, shape, make))
    });
    cases
        .map(|(function, run, shape, make)| Case {
            function,
            shape,
            from: 1 << 10,
            prepare: Box::new(move |size| {
                let script = make(size);
                Box::new(move || run(&script))
            }),
        })
        .collect()
}

/// Makes a schema of so many parts, and the same with every part changed.
type SchemaShape = (&'static str, fn(usize, &str) -> Snapshot);

const SCHEMAS: &[SchemaShape] = &[
    ("many tables", |n, word| Snapshot {
        tables: (0..n)
            .map(|i| {
                table(
                    &format!("t{i:09}"),
                    vec![column("a", word), column(word, "text")],
                )
            })
            .collect(),
        ..Snapshot::default()
    }),
    ("one table of many columns", |n, word| Snapshot {
        tables: vec![table(
            "t",
            (0..n).map(|i| column(&format!("a{i}"), word)).collect(),
        )],
        ..Snapshot::default()
    }),
    ("one table, its columns in another order", |n, word| {
        let mut columns: Vec<Column> = (0..n).map(|i| column(&format!("a{i}"), "text")).collect();
        if word == "other" {
            columns.reverse();
        }
        Snapshot {
            tables: vec![table("t", columns)],
            ..Snapshot::default()
        }
    }),
    ("one table, other columns", |n, word| Snapshot {
        tables: vec![table(
            "t",
            (0..n)
                .map(|i| column(&format!("{word}{i}"), "text"))
                .collect(),
        )],
        ..Snapshot::default()
    }),
    ("other tables", |n, word| Snapshot {
        tables: (0..n)
            .map(|i| table(&format!("{word}{i:09}"), vec![column("a", "text")]))
            .collect(),
        constraints: (0..n)
            .map(|i| constraint(&format!("{word}{i:09}"), "c", "CHECK (a)"))
            .collect(),
        ..Snapshot::default()
    }),
    ("many constraints of one table", |n, word| Snapshot {
        tables: vec![table("t", Vec::new())],
        constraints: (0..n)
            .map(|i| constraint("t", &format!("c{i:09}"), &format!("CHECK ({word})")))
            .collect(),
        ..Snapshot::default()
    }),
    ("many functions", |n, word| Snapshot {
        routines: (0..n)
            .map(|i| routine(&format!("f{i:09}"), &format!("SELECT {i}\n{word}")))
            .collect(),
        ..Snapshot::default()
    }),
    ("one function of many lines", |n, word| Snapshot {
        routines: vec![routine(
            "f",
            &(0..n)
                .map(|i| format!("SELECT {i} {word};\n"))
                .collect::<String>(),
        )],
        ..Snapshot::default()
    }),
    ("one enum of many labels", |n, word| Snapshot {
        enums: vec![Enum {
            schema: "public".into(),
            name: "e".into(),
            labels: (0..n).map(|i| format!("{word} {i}")).collect(),
            ..Enum::default()
        }],
        ..Snapshot::default()
    }),
    ("many partitions", |n, word| {
        let partition = |i| Table {
            parents: vec!["public.t".into()],
            ..table(&format!("u{i:09}"), vec![column("a", word)])
        };
        Snapshot {
            tables: std::iter::once(table("t", Vec::new()))
                .chain((0..n).map(partition))
                .collect(),
            ..Snapshot::default()
        }
    }),
    ("partitions of partitions, published", |n, word| {
        let partition = |i: usize| Table {
            parents: if i == 0 {
                Vec::new()
            } else {
                vec![format!("public.t{:09}", i - 1)]
            },
            partition_bound: (i > 0).then(|| word.into()),
            ..table(&format!("t{i:09}"), Vec::new())
        };
        Snapshot {
            tables: (0..n).map(partition).collect(),
            publications: vec![Publication {
                name: "p".into(),
                all_tables: true,
                ..Publication::default()
            }],
            ..Snapshot::default()
        }
    }),
    ("a publication of many tables", |n, word| Snapshot {
        tables: (0..n)
            .map(|i| table(&format!("t{i:09}"), vec![column("a", word)]))
            .collect(),
        publications: vec![Publication {
            name: "p".into(),
            tables: Sorted((0..n).map(|i| format!("public.t{i:09} (a)")).collect()),
            ..Publication::default()
        }],
        ..Snapshot::default()
    }),
];

fn table(name: &str, columns: Vec<Column>) -> Table {
    let relation = Relation {
        schema: "public".into(),
        name: name.into(),
    };
    Table {
        relation,
        columns,
        ..Table::default()
    }
}

fn column(name: &str, r#type: &str) -> Column {
    Column {
        name: name.into(),
        r#type: r#type.into(),
        ..Column::default()
    }
}

fn constraint(table: &str, name: &str, definition: &str) -> Constraint {
    let table = Relation {
        schema: "public".into(),
        name: table.into(),
    };
    Constraint {
        table,
        name: name.into(),
        definition: definition.into(),
        ..Constraint::default()
    }
}

fn routine(name: &str, definition: &str) -> Routine {
    Routine {
        schema: "public".into(),
        name: name.into(),
        definition: definition.into(),
        ..Routine::default()
    }
}

type Compare = (&'static str, fn(&Snapshot, &Snapshot));

const COMPARISONS: &[Compare] = &[
    ("schema::diff, and its lines", |before, after| {
        let differences = schema::diff(before, after);
        black_box((
            schema::for_people(&differences, &schema::Styles::default()),
            schema::in_one_line(&differences),
        ));
    }),
    ("schema differences as messages", |before, after| {
        for difference in schema::diff(before, after) {
            black_box(rehearsals::difference(&difference));
        }
    }),
    ("Snapshot::fingerprint", |before, _| {
        used(before.fingerprint())
    }),
    ("Snapshot::eq, clone", |before, after| {
        used((before == after, before.clone()))
    }),
    ("DescribeSchema, all objects", |before, _| {
        let filter = request::schema(pb::DescribeSchemaRequest::default()).unwrap();
        let listing = SchemaListing::new(before, &filter);
        for (_, object) in listing.after(None) {
            black_box(listing.message(
                object,
                &std::collections::HashMap::new(),
                TextLength::Whole,
            ));
        }
    }),
];

fn schemas() -> Vec<Case> {
    let cases = COMPARISONS.iter().flat_map(|(function, run)| {
        SCHEMAS
            .iter()
            .map(move |(shape, make)| (function, run, shape, make))
    });
    cases
        .map(|(function, run, shape, make)| Case {
            function,
            shape,
            from: 1 << 6,
            prepare: Box::new(move |size| {
                let (before, after) = (make(size, "word"), make(size, "other"));
                Box::new(move || run(&before, &after))
            }),
        })
        .collect()
}

/// Sets of many migrations: those from `applied` on are pending.
fn set(
    n: usize,
    is_applied: impl Fn(usize) -> bool,
    unknown: usize,
) -> (MigrationSet, Vec<MigrationRow>) {
    let hand = |i: usize| {
        Hand(
            format!("{i:09}_a").leak(),
            vec!["SELECT 1"],
            Some("SELECT 2"),
        )
    };
    let catalog = MigrationSet::load(&Source((0..n).map(hand).collect())).unwrap();
    let row = |i: usize| MigrationRow {
        version: format!("{i:09}").parse().unwrap(),
        run_on: Some(std::time::SystemTime::UNIX_EPOCH),
        recorded: None,
        journal: None,
    };
    (
        catalog,
        (0..n + unknown)
            .filter(|i| *i >= n || is_applied(*i))
            .map(row)
            .collect(),
    )
}

type SetShape = (&'static str, fn(usize) -> (MigrationSet, Vec<MigrationRow>));

const SETS: &[SetShape] = &[
    ("many migrations, none applied", |n| set(n, |_| false, 0)),
    ("many migrations, all applied", |n| set(n, |_| true, 0)),
    ("many migrations, every second applied", |n| {
        set(n, |i| i % 2 == 1, 0)
    }),
    ("many migrations, the newer half applied", |n| {
        set(n, |i| i >= n / 2, 0)
    }),
    ("many migrations, as many unknown", |n| set(n, |i| i > 0, n)),
];

type Plan = (&'static str, fn(&MigrationSet, &[MigrationRow]));

fn sets() -> Vec<Case> {
    let plans: &[Plan] = &[
        ("planner::assess", |catalog, rows| {
            used(planner::assess(catalog, rows))
        }),
        ("planner::plan_apply", |catalog, rows| {
            let request = planner::ApplyRequest {
                allow_out_of_order: true,
                ..planner::ApplyRequest::default()
            };
            used(planner::plan_apply(catalog, rows, &request));
            used(planner::plan_apply(
                catalog,
                rows,
                &planner::ApplyRequest::default(),
            ));
        }),
        ("planner::plan_rollback", |catalog, rows| {
            let request = planner::RollbackRequest {
                target: planner::RollbackTarget::All,
                down_from: None,
                force: false,
            };
            used(planner::plan_rollback(catalog, rows, &request));
        }),
    ];
    plans
        .iter()
        .flat_map(|(function, run)| {
            SETS.iter()
                .map(move |(shape, make)| (*function, *run, *shape, *make))
        })
        .map(|(function, run, shape, make)| Case {
            function,
            shape,
            from: 1 << 6,
            prepare: Box::new(move |size| {
                let (catalog, rows) = make(size.min(1 << 14));
                Box::new(move || run(&catalog, &rows))
            }),
        })
        .collect()
}
