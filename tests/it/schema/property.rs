//! The law that the snapshot is held to: two databases whose `pg_dump --schema-only` differ have
//! snapshots that differ, and the reverse. Random DDL runs on one database, is compared, runs on
//! the other and is compared again; at the end what was dumped is restored and compared once more.
//! `SCHEMAD_SCHEMA_STEPS=2000` makes it long, `SCHEMAD_SCHEMA_SEED` another one.

use std::process::Stdio;

use schemad::internals::schema::{self, Snapshot, Table, View};
use tokio_postgres::Client;

use super::{
    lines, snapshot,
    statements::{BASE, STATEMENTS, TEMPLATES},
};
use crate::harness::{TestDatabase, server::tool};

/// Marsaglia's xorshift: the same numbers from the same seed, everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % end as u64) as usize
    }

    fn of<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// A statement with every `{word|word}` decided.
fn statement(random: &mut Random, major: u32) -> String {
    let mut text = loop {
        match random.below(3) {
            0 => {
                let (since, change, undo) = random.of(STATEMENTS);
                if *since <= major {
                    break if random.below(2) == 0 { change } else { undo }.to_string();
                }
            }
            _ => {
                let (since, template) = random.of(TEMPLATES);
                if *since <= major {
                    break template.to_string();
                }
            }
        }
    };
    while let Some(start) = text.find("{{") {
        let end = start + text[start..].find("}}").unwrap();
        let choices: Vec<&str> = text[start + 2..end].split('|').collect();
        let chosen = random.of(&choices).to_string();
        text.replace_range(start..end + 2, &chosen);
    }
    text
}

/// pg_dump's blocks, each without comments and settings, sorted: neither their order nor that of
/// GRANTs means anything.
async fn dump(database: &TestDatabase) -> Vec<String> {
    let output = tokio::process::Command::new(tool("pg_dump"))
        .args(["--schema-only", "-d", &database.url])
        .stderr(Stdio::inherit())
        .output()
        .await
        .unwrap();
    assert!(output.status.success());
    let text = String::from_utf8(output.stdout).unwrap();
    let mut blocks: Vec<String> = text
        .split("\n--\n-- Name: ")
        .map(block)
        .filter(|block| !block.is_empty())
        .collect();
    blocks.sort();
    blocks
}

fn block(text: &str) -> String {
    let noise = |line: &str| {
        line.is_empty()
            || line.starts_with("--")
            || line.starts_with('\\')
            || line.starts_with("SET ") && !line.starts_with("SET default_")
            || line.starts_with("SELECT pg_catalog.set_config('search_path'")
    };
    // The rest of the line that began with "-- Name: ".
    let mut lines: Vec<&str> = text.lines().skip(1).filter(|line| !noise(line)).collect();
    // The table's own settings come before whatever needs them, wherever that is.
    lines.retain(|line| !line.starts_with("SET default_"));
    if lines.iter().all(|line| {
        ["GRANT", "REVOKE", "ALTER DEFAULT"]
            .iter()
            .any(|word| line.starts_with(word))
    }) {
        lines.sort_unstable();
    }
    lines
        .into_iter()
        .map(with_sorted_options)
        .collect::<Vec<_>>()
        .join("\n")
}

/// Storage parameters are written in the order in which they were set, which means nothing.
fn with_sorted_options(line: &str) -> String {
    let Some((options, end)) = line
        .strip_prefix("WITH (")
        .and_then(|rest| rest.rsplit_once(')'))
    else {
        return line.to_owned();
    };
    let mut options: Vec<&str> = options.split(", ").collect();
    options.sort_unstable();
    format!("WITH ({}){end}", options.join(", "))
}

struct Side {
    database: TestDatabase,
    session: Client,
    dump: Vec<String>,
    snapshot: Snapshot,
}

impl Side {
    async fn new(base: &str) -> Self {
        let database = TestDatabase::new().await;
        let session = database.connect().await;
        session
            .batch_execute(base)
            .await
            .unwrap_or_else(|e| panic!("{e:?}"));
        let mut side = Self {
            database,
            session,
            dump: Vec::new(),
            snapshot: Snapshot::default(),
        };
        side.look().await;
        side
    }

    /// True when it did anything.
    async fn run(&mut self, statement: &str) -> bool {
        let ran = self.session.batch_execute(statement).await.is_ok();
        if ran {
            self.look().await;
        }
        ran
    }

    async fn look(&mut self) {
        (self.dump, self.snapshot) = tokio::join!(dump(&self.database), snapshot(&self.database));
    }
}

/// What is wrong, if the two ways to compare disagree.
fn disagreement(one: &Side, other: &Side, why: &str) -> Option<String> {
    let mut differences = schema::diff(&one.snapshot, &other.snapshot);
    assert_eq!(
        differences.is_empty(),
        one.snapshot.fingerprint() == other.snapshot.fingerprint(),
        "{why}"
    );
    // pg_dump does not write down where among a child's own columns the inherited ones lie.
    differences
        .retain(|difference| !difference.is_order_only() || own_columns(one) != own_columns(other));
    if differences.is_empty() == (one.dump == other.dump) {
        return None;
    }
    let only = |these: &[String], those: &[String]| -> Vec<String> {
        these
            .iter()
            .filter(|block| !those.contains(block))
            .cloned()
            .collect()
    };
    Some(format!(
        "{why}\nsnapshots: {}\ndumps: {:#?}\nand {:#?}\n",
        lines(&differences),
        only(&one.dump, &other.dump),
        only(&other.dump, &one.dump)
    ))
}

fn own_columns(side: &Side) -> Vec<Vec<&str>> {
    let own = |table: &Table| table.parents.is_empty() || table.partition_bound.is_some();
    let columns = side.snapshot.tables.iter().map(|table| {
        let columns = table
            .columns
            .iter()
            .filter(|column| own(table) || !column.inherited);
        columns.map(|column| column.name.as_str()).collect()
    });
    columns.collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_makes_two_dumps_differ_makes_two_snapshots_differ_and_the_reverse() {
    let steps = number("SCHEMAD_SCHEMA_STEPS").unwrap_or(120);
    let seed = number("SCHEMAD_SCHEMA_SEED").unwrap_or(20_260_301);
    let mut random = Random(seed.max(1));
    let roles = [
        format!("reader_{}", std::process::id()),
        format!("owner_{}", std::process::id()),
    ];
    let make = |role: &String| format!("CREATE ROLE {role};");
    let admin = TestDatabase::new().await;
    admin.execute(&roles.each_ref().map(make).concat()).await;
    let (mut one, mut other) = (Side::new(BASE).await, Side::new(BASE).await);
    let major = one.snapshot.server_major;
    let (mut wrong, mut compared, mut equal, mut refused) = (Vec::new(), 0, 0, 0);
    for _ in 0..steps {
        let statement = statement(&mut random, major)
            .replace("READER", &roles[0])
            .replace("OWNER_ROLE", &roles[1]);
        if !one.run(&statement).await {
            refused += 1;
            continue;
        }
        wrong.extend(disagreement(&one, &other, &statement));
        equal += usize::from(one.dump == other.dump);
        assert!(
            other.run(&statement).await,
            "only the first database takes {statement}"
        );
        wrong.extend(disagreement(&one, &other, &format!("both: {statement}")));
        equal += usize::from(one.dump == other.dump);
        compared += 2;
        if one.dump != other.dump {
            (one, other) = (Side::new(BASE).await, Side::new(BASE).await);
        }
    }
    wrong.extend(restored(&one).await);
    println!(
        "PostgreSQL {major}, seed {seed}: {steps} statements, {refused} refused; {compared} \
         comparisons, {equal} of them equal; {} disagreements",
        wrong.len()
    );
    drop((one, other));
    admin
        .execute(
            &roles
                .each_ref()
                .map(|role| format!("DROP ROLE {role};"))
                .concat(),
        )
        .await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What is wrong with the database that comes of the dump, if anything.
async fn restored(one: &Side) -> Option<String> {
    let mut restored = Side::new("").await;
    if let Err(error) = restored
        .session
        .batch_execute(&script(&one.database).await)
        .await
    {
        println!("the dump cannot be restored: {:?}", error.as_db_error());
        return None;
    }
    restored.look().await;
    // pg_dump leaves materialised views without rows, and their owners may not be allowed to fill
    // them.
    for view in &mut restored.snapshot.views {
        let filled = |other: &View| other.relation == view.relation && !other.unpopulated;
        view.unpopulated &= !one.snapshot.views.iter().any(filled);
    }
    disagreement(one, &restored, "restored")
}

/// The dump as it can be run.
async fn script(database: &TestDatabase) -> String {
    let output = tokio::process::Command::new(tool("pg_dump"))
        .args(["--schema-only", "-d", &database.url])
        .output()
        .await
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let lines = text
        .lines()
        .filter(|line| !line.starts_with('\\') && !line.starts_with("SET transaction_timeout"));
    lines.collect::<Vec<_>>().join("\n")
}
