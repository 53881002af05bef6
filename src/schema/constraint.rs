//! Constraints of tables, indexes, extended statistics. NOT NULL is a column's, in every version.

use std::borrow::Cow;

use super::{
    Relation,
    name::identifier,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of, made_in_schema},
};
use crate::schema::row::{letters, record};

letters! {
    /// The sorts of constraints.
    pub enum ConstraintKind {
        /// CHECK.
        #[default] Check = "c",
        /// FOREIGN KEY.
        ForeignKey = "f",
        /// PRIMARY KEY.
        PrimaryKey = "p",
        /// UNIQUE.
        Unique = "u",
        /// EXCLUDE.
        Exclusion = "x",
    }
}

record! {
    /// A constraint of a table.
    pub struct Constraint {
        /// The table.
        pub table: Relation,
        /// Its name.
        pub name: String,
        /// Which sort.
        pub kind: ConstraintKind,
        /// As the server writes it, with NOT VALID, DEFERRABLE and NO INHERIT.
        pub definition: String,
        /// The columns it is about, in its order.
        pub columns: Vec<String>,
        /// A foreign key's table.
        pub references: Option<String>,
        /// And its columns, in the same order.
        pub referenced_columns: Vec<String>,
        /// NOT VALID.
        pub not_valid: bool,
        /// DEFERRABLE.
        pub deferrable: bool,
        /// INITIALLY DEFERRED.
        pub deferred: bool,
        /// A check that children do not inherit.
        pub no_inherit: bool,
        /// Declared by a parent only.
        pub inherited: bool,
        /// COMMENT ON CONSTRAINT.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Constraint {
    const KIND: Kind = Kind::Constraint;
    const IMPLIED: &'static [&'static str] = &[
        "columns",
        "references",
        "referenced_columns",
        "not_valid",
        "deferrable",
        "deferred",
        "no_inherit",
    ];

    /// The foreign keys of a partition that follow from those of its table are left out: their
    /// names are the server's own.
    fn query(_: u32) -> Cow<'static, str> {
        // All at once: a subquery for each constraint takes longer than the rest of the row.
        let columns = |keys: &str, table: &str, kinds: &str, alias: &str| {
            format!(
                "LEFT JOIN (SELECT c.oid, array_agg(a.attname::text ORDER BY k.at) AS names FROM \
                 pg_constraint c CROSS JOIN unnest(c.{keys}) WITH ORDINALITY k (num, at) JOIN \
                 pg_attribute a ON a.attrelid = c.{table} AND a.attnum = k.num WHERE c.conrelid >= \
                 16384 AND c.contype IN ({kinds}) GROUP BY c.oid) {alias} ON {alias}.oid = c.oid"
            )
        };
        format!(
            "SELECT c.conrelid, c.conname::text, c.contype::text, pg_get_constraintdef(c.oid), \
             own.names, CASE WHEN c.contype = 'f' THEN c.confrelid::regclass::text END, \
             other.names, NOT c.convalidated, c.condeferrable, c.condeferred, c.contype = 'c' AND \
             c.connoinherit, NOT c.conislocal, {} FROM pg_constraint c {} {} {} WHERE c.conrelid \
             >= 16384 AND c.contype IN ('c', 'f', 'p', 'u', 'x') AND NOT (c.contype = 'f' AND \
             c.conparentid <> 0)",
            comment(),
            columns("conkey", "conrelid", "'f', 'p', 'u', 'x'", "own"),
            columns("confkey", "confrelid", "'f'", "other"),
            comment_of("pg_constraint", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey {
            schema: &self.table.schema,
            name: &self.table.name,
            rest: &self.name,
        }
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}

record! {
    /// An index.
    pub struct Index {
        /// Its schema, which is its table's.
        pub table: Relation,
        /// Its name.
        pub name: String,
        /// As the server writes it.
        pub definition: String,
        /// The constraint that it is for.
        pub constraint: Option<String>,
        /// UNIQUE.
        pub unique: bool,
        /// A build that failed or is under way. A partitioned table's index is as valid as its
        /// partitions'.
        pub invalid: bool,
        /// The index of the partitioned table that it is part of.
        pub parent: Option<String>,
        /// REPLICA IDENTITY USING INDEX.
        pub replica_identity: bool,
        /// CLUSTER ON.
        pub clustered: bool,
        /// SET STATISTICS of its expressions: `column=target`.
        pub statistics: Vec<String>,
        /// Where it is not the database's.
        pub tablespace: Option<String>,
        /// COMMENT ON INDEX.
        pub comment: Option<String>,
    }
}

/// What pg_get_indexdef says, which opens the table for it. The index of a primary key or UNIQUE
/// constraint is a B-tree in the default order with the default operator classes, so the
/// constraint's own definition says all of it: `UNIQUE NULLS NOT DISTINCT (a) INCLUDE (b)
/// DEFERRABLE INITIALLY DEFERRED`. OFFSET 0 keeps it from being asked for at each use.
const DEFINITION: &str = "CASE WHEN k.contype IN ('p', 'u') AND c.relam = 403 AND c.reloptions IS \
    NULL THEN (SELECT format('CREATE UNIQUE INDEX %I ON %s%I.%I USING btree (%s', c.relname, CASE \
    c.relkind WHEN 'I' THEN 'ONLY ' END, n.nspname, t.relname, substr(left(w.def, length(w.def) - \
    w.ending), position('(' IN w.def) + 1)) || CASE WHEN w.def LIKE 'UNIQUE NULLS NOT DISTINCT %' \
    THEN ' NULLS NOT DISTINCT' ELSE '' END FROM (SELECT pg_get_constraintdef(k.oid) AS def, CASE \
    WHEN k.condeferred THEN length(' DEFERRABLE INITIALLY DEFERRED') WHEN k.condeferrable THEN \
    length(' DEFERRABLE') ELSE 0 END AS ending OFFSET 0) w) ELSE pg_get_indexdef(i.indexrelid) \
    END";

impl SchemaObject for Index {
    const KIND: Kind = Kind::Index;
    const IMPLIED: &'static [&'static str] = &["unique"];

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT i.indrelid, c.relname::text, {DEFINITION}, k.conname::text, i.indisunique, NOT \
             i.indisvalid AND c.relkind = 'i', h.inhparent::regclass::text, i.indisreplident, \
             i.indisclustered, a.targets, s.spcname::text, {} FROM pg_index i JOIN pg_class c ON \
             c.oid = i.indexrelid LEFT JOIN pg_constraint k ON k.conindid = i.indexrelid AND \
             k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x') JOIN pg_class t ON t.oid = \
             i.indrelid JOIN pg_namespace n ON n.oid = t.relnamespace LEFT JOIN pg_inherits h ON \
             h.inhrelid = i.indexrelid LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT \
             JOIN (SELECT g.attrelid, array_agg(g.attnum || '=' || g.attstattarget ORDER BY \
             g.attnum) AS targets FROM pg_attribute g WHERE g.attstattarget >= 0 AND g.attnum > 0 \
             AND g.attrelid >= 16384 GROUP BY g.attrelid) a ON a.attrelid = i.indexrelid {} WHERE \
             i.indrelid >= 16384 AND c.relnamespace <> 'pg_toast'::regnamespace",
            comment(),
            comment_of("pg_class", "i.indexrelid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.table.schema, &self.name)
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}

record! {
    /// Extended statistics.
    pub struct Statistics {
        /// Their schema.
        pub schema: String,
        /// Their name.
        pub name: String,
        /// The table.
        pub table: Relation,
        /// As the server writes them.
        pub definition: String,
        /// SET STATISTICS.
        pub target: Option<i32>,
        /// Their owner.
        pub owner: String,
        /// COMMENT ON STATISTICS.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Statistics {
    const KIND: Kind = Kind::Statistics;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT n.nspname::text, s.stxname::text, s.stxrelid, pg_get_statisticsobjdef(s.oid), \
             CASE WHEN s.stxstattarget >= 0 THEN s.stxstattarget::int END, \
             pg_get_userbyid(s.stxowner)::text, {} FROM pg_statistic_ext s JOIN pg_namespace n ON \
             n.oid = s.stxnamespace {} WHERE {}",
            comment(),
            comment_of("pg_statistic_ext", "s.oid"),
            made_in_schema("pg_statistic_ext", "s.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.schema, &self.name)
    }

    fn name(&self) -> String {
        format!("{}.{}", identifier(&self.schema), identifier(&self.name))
    }

    fn part_of(&self) -> Option<(&str, &str)> {
        Some((&self.table.schema, &self.table.name))
    }
}
