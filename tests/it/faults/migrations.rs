//! The set that is applied and rolled back under faults, and what must be there at any moment:
//! after so many statements of a migration, exactly these of its objects.

use crate::harness::Set;

/// A table with the versions that are up, and a trail of every run that was ever committed.
pub const COUNTERS: &str = "CREATE TABLE counter (version int NOT NULL); CREATE TABLE trail (id \
    bigint GENERATED ALWAYS AS IDENTITY, version int NOT NULL, direction text NOT NULL)";

/// How many migrations there are.
pub const MIGRATIONS: usize = 72;

/// Their kinds take turns: 0 and 1 are one transaction, eight in a row, so that several are in
/// flight; the others are not.
fn kind(i: usize) -> usize {
    [0, 1, 0, 1, 0, 1, 0, 1, 2, 3, 4, 5][i % 12]
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    Up,
    Down,
}

impl Direction {
    pub fn word(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
        }
    }
}

/// What a migration has made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Made {
    pub table: bool,
    pub valid_indexes: usize,
    pub invalid_indexes: usize,
    /// Rows in the counter.
    pub counted: usize,
}

impl Made {
    pub const NOTHING: Self = Self {
        table: false,
        valid_indexes: 0,
        invalid_indexes: 0,
        counted: 0,
    };
    pub const ALL: Self = Self {
        table: true,
        valid_indexes: 1,
        invalid_indexes: 0,
        counted: 1,
    };
}

/// What a part of a script does that can be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Table,
    Index,
    Count,
}
use Effect::{Count, Index, Table};

/// A statement or block that commits by itself.
struct Part {
    sql: String,
    effects: &'static [Effect],
    /// Runs outside a transaction.
    outside: bool,
}

fn part(sql: String, effects: &'static [Effect]) -> Part {
    Part {
        sql,
        effects,
        outside: false,
    }
}

fn outside(sql: String, effects: &'static [Effect]) -> Part {
    Part {
        sql,
        effects,
        outside: true,
    }
}

/// How far the journal says that a script is.
#[derive(Clone, Copy, Debug)]
pub struct Journal {
    pub direction: Direction,
    pub done: usize,
    /// The next part was announced, and its end is not recorded.
    pub running: bool,
    /// The next part was tried and refused. An index may be invalid since: the next request goes on
    /// with it.
    pub given_up: bool,
}

/// The parts of migration `i`.
fn parts(i: usize, direction: Direction) -> Vec<Part> {
    let make = format!("CREATE TABLE t{i} AS SELECT generate_series(1, 300) AS id;");
    let concurrently = |rest: &str| outside(format!("CREATE INDEX CONCURRENTLY {rest};"), &[Index]);
    let drop_concurrently =
        |name: &str| outside(format!("DROP INDEX CONCURRENTLY {name};"), &[Index]);
    let vacuum = || outside(format!("VACUUM t{i};"), &[]);
    let drop = format!("DROP TABLE t{i};");
    let count = match direction {
        Direction::Up => format!("WITH counted AS (INSERT INTO counter VALUES ({i}))"),
        Direction::Down => format!("WITH counted AS (DELETE FROM counter WHERE version = {i})"),
    };
    let count = format!(
        "{count} INSERT INTO trail (version, direction) VALUES ({i}, '{}');",
        direction.word()
    );
    // Long enough for a lost session's daemon to be back before the statement is through.
    let pause = format!(
        "SELECT pg_sleep({});",
        if i % 12 == 3 { 0.12 } else { 0.01 }
    );
    let block = |sql: &[&str]| format!("BEGIN;\n{}\nCOMMIT;", sql.join("\n"));
    let index = format!("CREATE INDEX i{i} ON t{i} (id);");
    match (kind(i), direction) {
        (0, Direction::Up) => vec![part(
            [make, index, count].join("\n"),
            &[Table, Index, Count],
        )],
        (1, Direction::Up) => {
            vec![part(
                [count, make, pause, index].join("\n"),
                &[Table, Index, Count],
            )]
        }
        (0, Direction::Down) => vec![part([count, drop].join("\n"), &[Table, Index, Count])],
        (1, Direction::Down) => {
            vec![part(
                [drop, pause, count].join("\n"),
                &[Table, Index, Count],
            )]
        }
        (2, Direction::Up) => {
            vec![
                part(make, &[Table]),
                concurrently(&format!("i{i} ON t{i} (id)")),
                part(count, &[Count]),
            ]
        }
        (2, Direction::Down) => {
            vec![
                part(count, &[Count]),
                drop_concurrently(&format!("i{i}")),
                part(drop, &[Table]),
            ]
        }
        (3, Direction::Up) => vec![
            part(block(&[&make]), &[Table]),
            part(block(&[&index, &count]), &[Index, Count]),
        ],
        (3, Direction::Down) => {
            vec![
                part(
                    block(&[&format!("DROP INDEX i{i};"), &count]),
                    &[Index, Count],
                ),
                part(drop, &[Table]),
            ]
        }
        (4, Direction::Up) => vec![
            part(make, &[Table]),
            vacuum(),
            concurrently(&format!("IF NOT EXISTS i{i} ON t{i} (id)")),
            part(count, &[Count]),
        ],
        (4, Direction::Down) => vec![
            drop_concurrently(&format!("IF EXISTS i{i}")),
            vacuum(),
            part(block(&[&drop, &count]), &[Table, Count]),
        ],
        (_, Direction::Up) => {
            vec![
                part(block(&[&make, &count]), &[Table, Count]),
                concurrently(&format!("ON t{i} (id)")),
            ]
        }
        (_, Direction::Down) => {
            vec![
                drop_concurrently(&format!("t{i}_id_idx")),
                part(drop, &[Table]),
                part(count, &[Count]),
            ]
        }
    }
}

/// Writes the folder.
pub fn set() -> Set {
    let set = Set::of(&[]);
    for i in 1..=MIGRATIONS {
        let script = |direction| {
            parts(i, direction)
                .into_iter()
                .map(|part| part.sql)
                .collect::<Vec<_>>()
                .join("\n")
        };
        let (name, up, down) = (
            format!("{i:04}_m{i}"),
            script(Direction::Up),
            script(Direction::Down),
        );
        match kind(i) {
            0 | 1 => set.add(&name, &up, &down),
            _ => set.add_non_transactional(&name, &up, &down),
        }
    }
    set
}

/// What may be there of migration `i`, and how often its runs are in the trail beyond the applied
/// steps (up, down).
pub fn expected(i: usize, applied: bool, journal: Option<Journal>) -> (Vec<Made>, (usize, usize)) {
    let base = if applied { Made::ALL } else { Made::NOTHING };
    let Some(Journal {
        direction,
        done,
        running,
        given_up,
    }) = journal
    else {
        return (vec![base], (0, 0));
    };
    let parts = parts(i, direction);
    let made = parts[..done.min(parts.len())]
        .iter()
        .flat_map(|part| part.effects)
        .fold(base, |made, effect| after(made, *effect, direction));
    let counted = parts[..done.min(parts.len())]
        .iter()
        .flat_map(|part| part.effects)
        .any(|effect| *effect == Count);
    let more = match direction {
        Direction::Up => (usize::from(counted), 0),
        Direction::Down => (0, usize::from(counted)),
    };
    let mut allowed = vec![made];
    let next = parts
        .get(done)
        .filter(|part| part.outside && part.effects == [Index]);
    if next.is_some() && (running || given_up) {
        allowed.push(Made {
            valid_indexes: 0,
            invalid_indexes: 1,
            ..made
        });
    }
    if let Some(part) = next.filter(|_| running) {
        allowed.push(
            part.effects
                .iter()
                .fold(made, |made, effect| after(made, *effect, direction)),
        );
    }
    (allowed, more)
}

fn after(made: Made, effect: Effect, direction: Direction) -> Made {
    let there = direction == Direction::Up;
    match effect {
        // Its indexes go with it.
        Table if !there => Made {
            table: false,
            valid_indexes: 0,
            ..made
        },
        Table => Made {
            table: true,
            ..made
        },
        Index => Made {
            valid_indexes: usize::from(there),
            ..made
        },
        Count => Made {
            counted: usize::from(there),
            ..made
        },
    }
}
