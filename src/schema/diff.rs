//! What makes two schemas differ, property by property.

use std::{
    cmp::Ordering,
    collections::{BTreeSet, HashMap, HashSet},
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::runtime::blocking::in_place;

use super::{
    Snapshot,
    name::identifier,
    object::{Kind, SchemaObject},
};

/// One difference between two schemas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// The kind of what differs.
    pub kind: Kind,
    /// Its name, qualified and quoted where needed.
    pub name: String,
    /// How it differs.
    #[serde(flatten)]
    pub change: Change,
}

/// How an object differs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Change {
    /// It is there only afterwards.
    Added {
        /// What it is, in its properties.
        to: Map<String, Value>,
    },
    /// It was there only before.
    Removed {
        /// What it was.
        from: Map<String, Value>,
    },
    /// A property is another one. Null: there is none.
    Changed {
        /// Which, for example `type`.
        property: String,
        /// Before.
        from: Value,
        /// Afterwards.
        to: Value,
    },
    /// The columns that are there before and afterwards come in another order.
    Reordered {
        /// Their names before.
        from: Vec<String>,
        /// And afterwards.
        to: Vec<String>,
    },
}

impl Difference {
    /// True where only the order of a table's columns differs: no name, no type, no row.
    pub fn is_order_only(&self) -> bool {
        self.kind == Kind::Table && matches!(self.change, Change::Reordered { .. })
    }
}

/// All differences, kind by kind and sorted by name. Of a table or view that was added or removed,
/// its parts (columns, constraints, indexes, triggers, rules, policies) are not told one by one.
/// Empty exactly when the fingerprints are equal, for servers of one major version.
pub fn diff(before: &Snapshot, after: &Snapshot) -> Vec<Difference> {
    in_place(before.bytes() + after.bytes(), || {
        before.compare(
            after,
            &Wholes {
                gone: relations(before, after),
                new: relations(after, before),
            },
        )
    })
}

/// The tables and views that are there on one side only.
pub(super) struct Wholes<'a> {
    gone: HashSet<(&'a str, &'a str)>,
    new: HashSet<(&'a str, &'a str)>,
}

/// Those of `here` that are not there.
fn relations<'a>(here: &'a Snapshot, there: &Snapshot) -> HashSet<(&'a str, &'a str)> {
    fn names(snapshot: &Snapshot) -> impl Iterator<Item = (&str, &str)> {
        let tables = snapshot.tables.iter().map(|table| &table.relation);
        let all = tables.chain(snapshot.views.iter().map(|view| &view.relation));
        all.map(|relation| (relation.schema.as_str(), relation.name.as_str()))
    }
    let there: HashSet<_> = names(there).collect();
    names(here).filter(|name| !there.contains(name)).collect()
}

/// The differences of one kind; both lists are sorted.
pub(super) fn compare<T: SchemaObject>(
    before: &[T],
    after: &[T],
    wholes: &Wholes<'_>,
    differences: &mut Vec<Difference>,
) {
    let (mut before, mut after) = (before.iter().peekable(), after.iter().peekable());
    loop {
        let order = match (before.peek(), after.peek()) {
            (None, None) => break,
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (Some(from), Some(to)) => from.key().cmp(&to.key()),
        };
        let from = before.next_if(|_| order.is_le());
        let to = after.next_if(|_| order.is_ge());
        match (from, to) {
            (Some(from), Some(to)) if from != to => changed(from, to, differences),
            (Some(from), None)
                if from
                    .part_of()
                    .is_none_or(|whole| !wholes.gone.contains(&whole)) =>
            {
                let change = Change::Removed { from: fields(from) };
                differences.push(Difference {
                    kind: T::KIND,
                    name: from.name(),
                    change,
                });
            }
            (None, Some(to))
                if to
                    .part_of()
                    .is_none_or(|whole| !wholes.new.contains(&whole)) =>
            {
                let change = Change::Added { to: fields(to) };
                differences.push(Difference {
                    kind: T::KIND,
                    name: to.name(),
                    change,
                });
            }
            _ => {}
        }
    }
}

fn fields(object: &impl Serialize) -> Map<String, Value> {
    match serde_json::to_value(object) {
        Ok(Value::Object(fields)) => fields,
        _ => Map::new(), // records are objects
    }
}

fn changed<T: SchemaObject>(from: &T, to: &T, differences: &mut Vec<Difference>) {
    let (kind, name) = (T::KIND, from.name());
    let (mut before, mut after) = (fields(from), fields(to));
    for implied in T::IMPLIED {
        before.remove(*implied);
        after.remove(*implied);
    }
    if let (Some(from), Some(to)) = (columns(&mut before), columns(&mut after)) {
        properties(kind, &name, &before, &after, differences);
        differences.extend(reordered(kind, &name, &from, &to));
        compare_columns(&name, &from, &to, differences);
    } else {
        properties(kind, &name, &before, &after, differences);
    }
}

fn properties(
    kind: Kind,
    name: &str,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
    differences: &mut Vec<Difference>,
) {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    for property in names {
        let of = |map: &Map<String, Value>| map.get(property).cloned().unwrap_or_default();
        let (from, to) = (of(before), of(after));
        if from != to {
            let change = Change::Changed {
                property: property.clone(),
                from,
                to,
            };
            differences.push(Difference {
                kind,
                name: name.to_owned(),
                change,
            });
        }
    }
}

/// The columns of what has any, by name and in their order.
fn columns(fields: &mut Map<String, Value>) -> Option<Vec<(String, Map<String, Value>)>> {
    let is_column = |item: &Value| item.get("name").is_some();
    let items = match fields.get_mut("columns") {
        Some(Value::Array(items)) if items.iter().all(is_column) => std::mem::take(items),
        Some(_) => return None,
        None => Vec::new(),
    };
    fields.remove("columns");
    let columns = items.into_iter().filter_map(|item| match item {
        Value::Object(mut column) => match column.remove("name") {
            Some(Value::String(name)) => Some((name, column)),
            _ => None,
        },
        _ => None,
    });
    Some(columns.collect())
}

type Columns = [(String, Map<String, Value>)];

fn reordered(kind: Kind, name: &str, from: &Columns, to: &Columns) -> Option<Difference> {
    let common = |these: &Columns, those: &Columns| -> Vec<String> {
        let those: HashSet<&String> = those.iter().map(|(name, _)| name).collect();
        these
            .iter()
            .filter(|(name, _)| those.contains(name))
            .map(|(name, _)| name.clone())
            .collect()
    };
    let (from, to) = (common(from, to), common(to, from));
    (from != to).then(|| Difference {
        kind,
        name: name.to_owned(),
        change: Change::Reordered { from, to },
    })
}

/// In the order of the columns afterwards, those that are gone at the end.
fn compare_columns(table: &str, from: &Columns, to: &Columns, differences: &mut Vec<Difference>) {
    let before: HashMap<_, _> = from.iter().map(|(name, fields)| (name, fields)).collect();
    let after: HashSet<_> = to.iter().map(|(name, _)| name).collect();
    let named = |column: &str| format!("{table}.{}", identifier(column));
    for (column, fields) in to {
        match before.get(column) {
            Some(was) => properties(Kind::Column, &named(column), was, fields, differences),
            None => {
                let change = Change::Added { to: fields.clone() };
                differences.push(Difference {
                    kind: Kind::Column,
                    name: named(column),
                    change,
                });
            }
        }
    }
    for (column, fields) in from.iter().filter(|(column, _)| !after.contains(column)) {
        let change = Change::Removed {
            from: fields.clone(),
        };
        differences.push(Difference {
            kind: Kind::Column,
            name: named(column),
            change,
        });
    }
}
