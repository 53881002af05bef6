//! Which publications a table belongs to.

use std::collections::HashMap;

use crate::schema::{Persistence, Publication, Relation, Snapshot, Table, TableKind};

/// The publications by what they name.
pub(crate) struct PublicationIndex<'a> {
    /// FOR ALL TABLES, and those that name schemas.
    broad: Vec<&'a Publication>,
    named: HashMap<Relation, Vec<&'a str>>,
    /// What partitions and the tables above them belong to, by name.
    partitioned: HashMap<&'a Relation, Vec<&'a str>>,
}

impl<'a> PublicationIndex<'a> {
    pub(super) fn new(snapshot: &'a Snapshot) -> Self {
        let mut named: HashMap<Relation, Vec<&str>> = HashMap::new();
        for publication in &snapshot.publications {
            for relation in publication
                .tables
                .0
                .iter()
                .filter_map(|table| relation(table))
            {
                named.entry(relation).or_default().push(&publication.name);
            }
        }
        let is_broad =
            |publication: &&Publication| publication.all_tables || !publication.schemas.is_empty();
        let broad = snapshot.publications.iter().filter(is_broad).collect();
        let mut publications = Self {
            broad,
            named,
            partitioned: HashMap::new(),
        };
        publications.add_partitions(&snapshot.tables);
        publications
    }

    /// A partition belongs to what its table belongs to. Each table is looked at once, however deep
    /// partitions are nested.
    fn add_partitions(&mut self, tables: &'a [Table]) {
        let by_name: HashMap<&Relation, &Table> = tables
            .iter()
            .map(|table| (&table.relation, table))
            .collect();
        let parent = |table: &Table| {
            table.partition_bound.as_ref()?;
            by_name
                .get(&Relation::parse(table.parents.first()?)?)
                .copied()
        };
        for table in tables
            .iter()
            .filter(|table| table.partition_bound.is_some())
        {
            let mut above = vec![table];
            while let Some(table) = above.last().and_then(|table| parent(table))
                && !self.partitioned.contains_key(&table.relation)
            {
                above.push(table);
            }
            for table in above.into_iter().rev() {
                let inherited = parent(table)
                    .and_then(|parent| self.partitioned.get(&parent.relation))
                    .cloned();
                let mut names = inherited.unwrap_or_default();
                names.extend(self.own(&table.relation));
                names.sort_unstable();
                names.dedup();
                self.partitioned.insert(&table.relation, names);
            }
        }
    }

    /// Those that name the table, its schema, or all tables.
    fn own(&self, relation: &Relation) -> Vec<&'a str> {
        let broad = self
            .broad
            .iter()
            .filter(|of| of.all_tables || of.schemas.contains(&relation.schema));
        let mut names: Vec<&str> = broad.map(|of| of.name.as_str()).collect();
        names.extend(self.named.get(relation).into_iter().flatten());
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Those that the table is part of, by name.
    pub(super) fn of(&self, table: &Table) -> Vec<String> {
        if table.persistence != Persistence::Permanent || table.kind == TableKind::Foreign {
            return Vec::new(); // it cannot be published
        }
        let names = self
            .partitioned
            .get(&table.relation)
            .cloned()
            .unwrap_or_else(|| self.own(&table.relation));
        names.into_iter().map(Into::into).collect()
    }
}

/// The table of an entry, after which columns and a condition may stand.
fn relation(entry: &str) -> Option<Relation> {
    let mut quoted = false;
    let end = entry.find(|c| {
        quoted ^= c == '"';
        c == ' ' && !quoted
    });
    Relation::parse(&entry[..end.unwrap_or(entry.len())])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::Sorted;

    #[test]
    fn a_table_belongs_to_what_names_it_its_schema_its_parent_or_all() {
        let table = |name: &str, parent: Option<&str>, persistence| Table {
            relation: Relation {
                schema: "app".into(),
                name: name.into(),
            },
            parents: parent.map(Into::into).into_iter().collect(),
            partition_bound: parent.map(|_| "FOR VALUES IN (1)".into()),
            persistence,
            ..Table::default()
        };
        let publication = |name: &str, tables: &[&str]| Publication {
            name: name.into(),
            tables: Sorted(tables.iter().map(ToString::to_string).collect()),
            ..Publication::default()
        };
        let snapshot = Snapshot {
            tables: vec![
                table("a b", None, Persistence::Permanent),
                table("part", Some("app.\"a b\""), Persistence::Permanent),
                table("fast", None, Persistence::Unlogged),
                table("a", None, Persistence::Permanent),
            ],
            publications: vec![
                Publication {
                    all_tables: true,
                    ..publication("every", &[])
                },
                publication("one", &["app.\"a b\" (id) WHERE (id > 0)"]),
                Publication {
                    schemas: vec!["other".into()],
                    ..publication("others", &[])
                },
            ],
            ..Snapshot::default()
        };
        let publications = PublicationIndex::new(&snapshot);
        let of: Vec<_> = snapshot
            .tables
            .iter()
            .map(|table| publications.of(table).join(" "))
            .collect();
        assert_eq!(of, ["every one", "every one", "", "every"]);
    }
}
