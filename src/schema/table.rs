//! Tables.

use std::borrow::Cow;

use super::{
    Relation,
    column::Column,
    object::{Kind, ObjectKey, SchemaObject},
    sql::{comment, comment_of},
};
use crate::schema::row::{Acl, Sorted, letters, record};

letters! {
    /// The sorts of tables.
    pub enum TableKind {
        /// Has rows of its own; a partition too, if its `partition_of` says so.
        #[default] Plain = "r",
        /// PARTITION BY.
        Partitioned = "p",
        /// CREATE FOREIGN TABLE.
        Foreign = "f",
    }
}

letters! {
    /// How rows last.
    pub enum Persistence {
        /// They survive a crash.
        #[default] Permanent = "p",
        /// They do not.
        Unlogged = "u",
        /// They do not survive the session.
        Temporary = "t",
    }
}

letters! {
    /// What of an old row goes to subscribers.
    pub enum ReplicaIdentity {
        /// The primary key.
        #[default] PrimaryKey = "d",
        /// Nothing.
        Nothing = "n",
        /// All columns.
        Full = "f",
        /// An index; the index says so.
        Index = "i",
    }
}

record! {
    /// A table.
    pub struct Table {
        /// Its name.
        pub relation: Relation,
        /// Which sort.
        pub kind: TableKind,
        /// How its rows last.
        pub persistence: Persistence,
        /// In their order.
        pub columns: Vec<Column>,
        /// INHERITS: the parents, in their order. Of a partition: the table it is one of.
        pub parents: Vec<String>,
        /// A partition's bounds, for example `FOR VALUES IN ('a')`.
        pub partition_bound: Option<String>,
        /// DETACH … CONCURRENTLY was not finished.
        pub detaching: bool,
        /// PARTITION BY what.
        pub partition_by: Option<String>,
        /// OF this type.
        pub of_type: Option<String>,
        /// Its owner.
        pub owner: String,
        /// Who may do what.
        pub acl: Acl,
        /// Storage parameters, those of its TOAST table as `toast.name=value`.
        pub options: Sorted,
        /// ENABLE ROW LEVEL SECURITY.
        pub row_security: bool,
        /// FORCE ROW LEVEL SECURITY.
        pub force_row_security: bool,
        /// What of an old row goes to subscribers.
        pub replica_identity: ReplicaIdentity,
        /// Of a table with rows of its own: heap, mostly.
        pub access_method: Option<String>,
        /// Where it is not the database's.
        pub tablespace: Option<String>,
        /// A foreign table's.
        pub server: Option<String>,
        /// A foreign table's.
        pub foreign_options: Sorted,
        /// COMMENT ON TABLE.
        pub comment: Option<String>,
    }
}

impl SchemaObject for Table {
    const KIND: Kind = Kind::Table;

    fn query(major: u32) -> Cow<'static, str> {
        let detaching = if major < 14 {
            "false"
        } else {
            "coalesce(i.detaching, false)"
        };
        let pending = if major < 14 {
            ""
        } else {
            ", bool_or(h.inhdetachpending) AS detaching"
        };
        format!(
            "SELECT c.oid, c.relkind::text, c.relpersistence::text, c.oid, i.parents, \
             pg_get_expr(c.relpartbound, 0), {detaching}, CASE WHEN c.relkind = 'p' THEN \
             pg_get_partkeydef(c.oid) END, CASE WHEN c.reloftype <> 0 THEN \
             format_type(c.reloftype, NULL) END, pg_get_userbyid(c.relowner)::text, \
             c.relacl::text[], CASE WHEN c.relacl IS NOT NULL THEN acldefault('r', \
             c.relowner)::text[] END, c.reloptions || ARRAY(SELECT 'toast.' || o FROM \
             unnest(t.reloptions) o), c.relrowsecurity, c.relforcerowsecurity, \
             c.relreplident::text, m.amname::text, s.spcname::text, fs.srvname::text, \
             ft.ftoptions, {description} FROM pg_class c LEFT JOIN pg_class t ON t.oid = \
             c.reltoastrelid AND t.reloptions IS NOT NULL LEFT JOIN (SELECT h.inhrelid, \
             array_agg(h.inhparent::regclass::text ORDER BY h.inhseqno) AS parents{pending} FROM \
             pg_inherits h GROUP BY h.inhrelid) i ON i.inhrelid = c.oid LEFT JOIN pg_am m ON m.oid \
             = c.relam LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace LEFT JOIN \
             pg_foreign_table ft ON ft.ftrelid = c.oid LEFT JOIN pg_foreign_server fs ON fs.oid = \
             ft.ftserver {join} WHERE c.relkind IN ('r', 'p', 'f') AND c.oid >= 16384",
            description = comment(),
            join = comment_of("pg_class", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.relation.schema, &self.relation.name)
    }
}

letters! {
    /// The sorts of views.
    pub enum ViewKind {
        /// Computed at every use.
        #[default] View = "v",
        /// MATERIALIZED.
        Materialized = "m",
    }
}

record! {
    /// A view.
    pub struct View {
        /// Its name.
        pub relation: Relation,
        /// Which sort.
        pub kind: ViewKind,
        /// In their order.
        pub columns: Vec<Column>,
        /// Its query.
        pub definition: String,
        /// Its owner.
        pub owner: String,
        /// Who may do what.
        pub acl: Acl,
        /// security_barrier, check_option and storage parameters, those of a TOAST table as
        /// `toast.name=value`.
        pub options: Sorted,
        /// A materialised view that holds no rows yet cannot be read.
        pub unpopulated: bool,
        /// Of a materialised view.
        pub access_method: Option<String>,
        /// Where it is not the database's.
        pub tablespace: Option<String>,
        /// COMMENT ON VIEW.
        pub comment: Option<String>,
    }
}

impl SchemaObject for View {
    const KIND: Kind = Kind::View;

    fn query(_: u32) -> Cow<'static, str> {
        format!(
            "SELECT c.oid, c.relkind::text, c.oid, pg_get_viewdef(c.oid), \
             pg_get_userbyid(c.relowner)::text, c.relacl::text[], CASE WHEN c.relacl IS NOT NULL \
             THEN acldefault('r', c.relowner)::text[] END, c.reloptions || ARRAY(SELECT 'toast.' \
             || o FROM unnest(t.reloptions) o), NOT c.relispopulated, m.amname::text, \
             s.spcname::text, {description} FROM pg_class c LEFT JOIN pg_class t ON t.oid = \
             c.reltoastrelid AND t.reloptions IS NOT NULL LEFT JOIN pg_am m ON m.oid = c.relam \
             LEFT JOIN pg_tablespace s ON s.oid = c.reltablespace {join} WHERE c.relkind IN ('v', \
             'm') AND c.oid >= 16384",
            description = comment(),
            join = comment_of("pg_class", "c.oid"),
        )
        .into()
    }

    fn key(&self) -> ObjectKey<'_> {
        ObjectKey::of(&self.relation.schema, &self.relation.name)
    }
}
