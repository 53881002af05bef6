//! Compares what clients were told, the ledger, the Diesel table and the catalog, as one snapshot
//! shows them: so it may look at any moment, also while something runs.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use tokio_postgres::{Client, Row};

use super::{
    asking::Told,
    migrations::{Direction, Journal, MIGRATIONS, Made, expected},
    tally::Finding,
};

/// What one look found.
#[derive(Default)]
pub struct Seen {
    pub findings: Vec<Finding>,
    pub in_doubt: Vec<String>,
    /// How many are applied, as the Diesel table says.
    pub applied: usize,
    /// What is half done, and so can only be gone on with.
    pub half: Option<Direction>,
    /// A statement outside a transaction was announced, and its end is not recorded.
    pub running: bool,
}

const LEDGER: &str = "SELECT version FROM schemad.migrations";
const DIESEL: &str = "SELECT version FROM __diesel_schema_migrations";
const STEPS: &str = "SELECT version, direction, count(*), max(id) FROM schemad.steps WHERE state = \
    'applied' GROUP BY 1, 2";
const JOURNALS: &str = "SELECT s.version, s.direction, count(*) FILTER (WHERE p.state = 'done'), \
    bool_or(p.state = 'running'), bool_or(p.state = 'pending' AND p.indexes_before IS NOT NULL) \
    FROM schemad.statements p JOIN schemad.steps s ON s.id = p.step GROUP BY s.id, s.version, \
    s.direction HAVING bool_or(p.state <> 'pending' OR p.indexes_before IS NOT NULL)";
const TABLES: &str = "SELECT substr(c.relname, 2)::int, count(i.indexrelid) FILTER (WHERE \
    i.indisvalid), count(i.indexrelid) FILTER (WHERE NOT i.indisvalid) FROM pg_class c LEFT JOIN \
    pg_index i ON i.indrelid = c.oid WHERE c.relname ~ '^t[0-9]+$' AND c.relkind = 'r' GROUP BY 1";
const COUNTER: &str = "SELECT version, count(*) FROM counter GROUP BY 1";
const TRAIL: &str = "SELECT version, direction, count(*) FROM trail GROUP BY 1, 2";
/// One after the other, never two of a kind.
const REPEATED: &str = "SELECT DISTINCT version FROM (SELECT version, direction = lag(direction) \
    OVER (PARTITION BY version ORDER BY id) AS again FROM trail) t WHERE again";
/// Steps of different operations that ran at the same time.
const OVERLAPPING: &str = "SELECT count(*) FROM (SELECT operation <> lag(operation) OVER w AND \
    started_at < lag(finished_at) OVER w AS meets FROM schemad.steps WHERE state = 'applied' \
    WINDOW w AS (ORDER BY id)) s WHERE meets";
const RUNNING: &str = "SELECT count(*) FROM schemad.operations WHERE state = 'running'";
const TOLD: &str = "SELECT operation::text, version, direction FROM schemad.steps WHERE state = \
    'applied' AND operation::text = ANY ($1)";

/// Looks at everything; `told` is what clients heard and was not compared yet.
pub async fn look(client: &mut Client, told: &[Told]) -> Result<Seen, tokio_postgres::Error> {
    let transaction = client
        .build_transaction()
        .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
        .read_only(true)
        .start()
        .await?;
    let ids: Vec<String> = told
        .iter()
        .map(|told| told.operation.clone())
        .filter(|id| !id.is_empty())
        .collect();
    let rows = async |sql: &str| transaction.query(sql, &[]).await;
    let (ledger, diesel) = (
        versions(&rows(LEDGER).await?),
        versions(&rows(DIESEL).await?),
    );
    let (steps, journals) = (rows(STEPS).await?, rows(JOURNALS).await?);
    let (tables, counter, trail) = (
        rows(TABLES).await?,
        rows(COUNTER).await?,
        rows(TRAIL).await?,
    );
    let (repeated, overlapping, running) = (
        rows(REPEATED).await?,
        rows(OVERLAPPING).await?,
        rows(RUNNING).await?,
    );
    let of_told = transaction.query(TOLD, &[&ids]).await?;
    transaction.commit().await?;

    let mut seen = Seen {
        applied: diesel.len(),
        ..Seen::default()
    };
    if ledger != diesel {
        let text = format!(
            "ledger and Diesel table differ in {:?}",
            ledger.symmetric_difference(&diesel)
        );
        seen.findings.push(Finding::disagreement("diesel", text));
    }
    let open = running[0].get::<_, i64>(0);
    if open > 1 {
        seen.findings.push(Finding::disagreement(
            "running",
            format!("{open} operations are running"),
        ));
    }
    if overlapping[0].get::<_, i64>(0) > 0 {
        seen.findings.push(Finding::disagreement(
            "overlap",
            "steps of two operations ran at the same time",
        ));
    }
    for row in repeated {
        let version: i32 = row.get(0);
        seen.findings.push(Finding::doubled(
            version,
            format!("version {version} ran twice in one direction"),
        ));
    }
    compare_objects(
        &mut seen, &ledger, &steps, &journals, &tables, &counter, &trail,
    );
    compare_told(&mut seen, told, &of_told);
    Ok(seen)
}

fn compare_objects(
    seen: &mut Seen,
    ledger: &BTreeSet<usize>,
    steps: &[Row],
    journals: &[Row],
    tables: &[Row],
    counter: &[Row],
    trail: &[Row],
) {
    let mut applied: HashMap<(usize, Direction), (i64, i64)> = HashMap::new();
    for row in steps {
        applied.insert(
            (number(row.get(0)), direction(row.get(1))),
            (row.get(2), row.get(3)),
        );
    }
    let mut open: BTreeMap<usize, Journal> = BTreeMap::new();
    for row in journals {
        let (version, direction) = (number(row.get(0)), direction(row.get(1)));
        let journal = Journal {
            direction,
            done: row.get::<_, i64>(2) as usize,
            running: row.get(3),
            given_up: row.get(4),
        };
        seen.half = Some(direction);
        seen.running |= journal.running;
        if open.insert(version, journal).is_some() {
            seen.findings.push(Finding::disagreement(
                format!("journals {version}"),
                "a migration has two journals",
            ));
        }
    }
    let tables: HashMap<i32, (i64, i64)> = tables
        .iter()
        .map(|r| (r.get(0), (r.get(1), r.get(2))))
        .collect();
    let counter: HashMap<i32, i64> = counter.iter().map(|r| (r.get(0), r.get(1))).collect();
    let trail: HashMap<(usize, Direction), i64> = trail
        .iter()
        .map(|r| ((r.get::<_, i32>(0) as usize, direction(r.get(1))), r.get(2)))
        .collect();
    for i in 1..=MIGRATIONS {
        let (is_applied, journal) = (ledger.contains(&i), open.get(&i).copied());
        let last = |direction| applied.get(&(i, direction)).map_or(0, |(_, id)| *id);
        if is_applied != (last(Direction::Up) > last(Direction::Down)) {
            let text = format!(
                "the ledger says that {i} is applied: {is_applied}; its steps say otherwise"
            );
            seen.findings
                .push(Finding::disagreement(format!("steps {i}"), text));
        }
        if journal.is_some_and(|journal| (journal.direction == Direction::Down) != is_applied) {
            let text = format!("{i} is applied: {is_applied}, and has a journal {journal:?}");
            seen.findings
                .push(Finding::disagreement(format!("journal {i}"), text));
        }
        let (allowed, more) = expected(i, is_applied, journal);
        let (valid, invalid) = tables.get(&(i as i32)).copied().unwrap_or_default();
        let made = Made {
            table: tables.contains_key(&(i as i32)),
            valid_indexes: valid as usize,
            invalid_indexes: invalid as usize,
            counted: counter.get(&(i as i32)).copied().unwrap_or_default() as usize,
        };
        if made.counted > 1 || made.valid_indexes > 1 {
            seen.findings
                .push(Finding::doubled(i, format!("version {i}: {made:?}")));
        } else if !allowed.contains(&made) {
            let text = format!(
                "version {i}, applied: {is_applied}, {journal:?}: {made:?} instead of {allowed:?}"
            );
            seen.findings
                .push(Finding::disagreement(format!("objects {i}"), text));
        }
        for (direction, more) in [(Direction::Up, more.0), (Direction::Down, more.1)] {
            let recorded =
                applied.get(&(i, direction)).map_or(0, |(count, _)| *count) + more as i64;
            let ran = trail.get(&(i, direction)).copied().unwrap_or_default();
            let text = format!(
                "version {i} {}: ran {ran} times, recorded {recorded} times",
                direction.word()
            );
            match ran.cmp(&recorded) {
                std::cmp::Ordering::Less => seen.findings.push(Finding::lost(i, text)),
                std::cmp::Ordering::Greater => seen.findings.push(Finding::doubled(i, text)),
                std::cmp::Ordering::Equal => {}
            }
        }
    }
}

/// What clients heard is so.
fn compare_told(seen: &mut Seen, told: &[Told], recorded: &[Row]) {
    let mut steps: HashMap<String, BTreeSet<(String, String)>> = HashMap::new();
    for row in recorded {
        steps
            .entry(row.get(0))
            .or_default()
            .insert((row.get(1), row.get(2)));
    }
    let none = BTreeSet::new();
    for told in told {
        let there = steps.get(&told.operation).unwrap_or(&none);
        for (version, direction) in told.done.iter().filter(|step| !there.contains(step)) {
            let key = format!("{} {version}", told.operation);
            seen.findings.push(Finding::lost(
                key,
                format!("{direction} of {version} was acknowledged and is not applied"),
            ));
        }
        if told.is_unknown() {
            seen.in_doubt
                .push(format!("{}: {}", told.operation, told.message()));
        } else if let Some(finished) = &told.finished
            && finished.steps_done != there.len() as i32
        {
            let text = format!(
                "operation {} ended {} with {} steps done, and {} are applied",
                told.operation,
                finished.state().as_str_name(),
                finished.steps_done,
                there.len()
            );
            seen.findings
                .push(Finding::disagreement(&told.operation, text));
        }
    }
}

fn versions(rows: &[Row]) -> BTreeSet<usize> {
    rows.iter().map(|row| number(row.get(0))).collect()
}

fn number(version: &str) -> usize {
    version.parse().unwrap()
}

fn direction(word: &str) -> Direction {
    if word == "up" {
        Direction::Up
    } else {
        Direction::Down
    }
}
