//! `schemad schema`.

mod details;
mod mermaid;
mod overview;

use std::time::Duration;

use clap::{Args, ValueEnum};

use crate::cli::{
    client::connection::{ClientArgs, DaemonAddress, ReadArgs},
    exit::CommandExit,
    output::{self, DIM, plain, say, say_data, styled},
};
use crate::pb::{self, SchemaObjectKind as Kind, schema_service_client::SchemaServiceClient};

/// How often a listing is begun whose schema changes between two pages.
const TRIES: u32 = 3;

/// Show the schema of the database as it is now, whoever made it.
#[derive(Debug, Args)]
pub(crate) struct SchemaArgs {
    #[command(flatten)]
    address: DaemonAddress,
    /// Only what lies in this schema; `*` stands for any characters, `?` for one, `\*` for itself.
    /// Can be given several times.
    #[arg(long, value_name = "SCHEMA")]
    schema: Vec<String>,
    /// Only what has such a name, with all its details; `*` stands for any characters, `?` for one,
    /// `\*` for itself.
    #[arg(long, value_name = "PATTERN")]
    name: Option<String>,
    /// How to answer: tables for people, the responses in proto3 JSON, or an ER diagram for
    /// Mermaid.
    #[arg(long, env = "SCHEMAD_OUTPUT", value_enum, default_value_t)]
    output: SchemaFormat,
    /// How long to wait for each page of the answer.
    #[arg(long, env = "SCHEMAD_TIMEOUT", default_value = "35s", value_parser = humantime::parse_duration, value_name = "DURATION")]
    timeout: Duration,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
enum SchemaFormat {
    #[default]
    Table,
    Json,
    Mermaid,
}

impl SchemaArgs {
    pub(crate) async fn run(self) -> CommandExit {
        self.print().await.err().unwrap_or(CommandExit::DONE)
    }

    /// All pages: for people at once, or one JSON object a page.
    async fn print(self) -> Result<(), CommandExit> {
        let kinds = if self.output == SchemaFormat::Mermaid {
            vec![Kind::Table.into()]
        } else {
            Vec::new()
        };
        let mut request = pb::DescribeSchemaRequest {
            schemas: self.schema,
            name_pattern: self.name.clone().unwrap_or_default(),
            kinds,
            page_size: 1000,
            page_token: String::new(),
            ..Default::default()
        };
        let read = ReadArgs::with_timeout(
            ClientArgs {
                address: self.address,
                output: output::OutputFormat::Table,
            },
            self.timeout,
        );
        let (mut pages, mut tries) = (Vec::<pb::DescribeSchemaResponse>::new(), 0);
        loop {
            let call = request.clone();
            let describe =
                async |mut client: SchemaServiceClient<_>| client.describe_schema(call).await;
            let most = |way| SchemaServiceClient::new(way);
            let page = read.call_on(most, describe).await?;
            if pages
                .last()
                .is_some_and(|before| before.fingerprint != page.fingerprint)
            {
                tries += 1;
                if tries == TRIES {
                    return Err(CommandExit::unavailable(
                        "the schema went on changing between two pages; try again when no \
                         migration runs",
                    ));
                }
                pages.clear();
                request.page_token.clear();
                continue;
            }
            request.page_token.clone_from(&page.next_page_token);
            pages.push(page);
            if request.page_token.is_empty() {
                break;
            }
        }
        if self.output == SchemaFormat::Json {
            for page in &pages {
                output::json(page, "schemad.v1.DescribeSchemaResponse")?;
            }
        }
        let (fingerprint, not_compared) = pages
            .last()
            .map(|page| (page.fingerprint.clone(), page.not_compared.clone()))
            .unwrap_or_default();
        let objects: Vec<_> = pages.into_iter().flat_map(|page| page.objects).collect();
        match self.output {
            SchemaFormat::Json => {}
            SchemaFormat::Mermaid => say_data(&mermaid::diagram(&objects)),
            SchemaFormat::Table if self.name.is_some() => say(&details::show(&objects)),
            SchemaFormat::Table => say(&overview::show(&objects)),
        }
        if self.output == SchemaFormat::Table {
            let besides = if not_compared.is_empty() {
                String::new()
            } else {
                format!("\nnot part of it: {}", not_compared.join(", "))
            };
            say(&styled(DIM, &plain(&format!("\n{fingerprint}{besides}"))));
        }
        Ok(())
    }
}

/// The name with its schema, which is left out where it is public.
fn qualified(object: &pb::SchemaObject) -> String {
    match object.schema.as_str() {
        "" | "public" => object.name.clone(),
        schema => format!("{schema}.{}", object.name),
    }
}

/// "1.2 MiB", or a dash where it is not known.
fn bytes(bytes: Option<i64>) -> String {
    let Some(bytes) = bytes else {
        return "–".into();
    };
    let (mut value, mut units) = (
        bytes as f64,
        ["bytes", "KiB", "MiB", "GiB", "TiB"].iter().peekable(),
    );
    while value >= 1024.0 && units.len() > 1 {
        value /= 1024.0;
        units.next();
    }
    let unit = units.next().copied().unwrap_or_default();
    if unit == "bytes" || value >= 10.0 {
        format!("{value:.0} {unit}")
    } else {
        format!("{value:.1} {unit}")
    }
}

/// An estimate, or a dash where nobody has made one.
fn rows(estimate: i64) -> String {
    if estimate < 0 {
        "–".into()
    } else {
        format!("~{estimate}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_read_well() {
        let of = [Some(0), Some(8192), Some(1_500_000), Some(1 << 45), None].map(bytes);
        assert_eq!(of, ["0 bytes", "8.0 KiB", "1.4 MiB", "32 TiB", "–"]);
        assert_eq!([rows(-1), rows(0)], ["–", "~0"]);
    }

    pub(crate) fn example() -> Vec<pb::SchemaObject> {
        let column = |name: &str, r#type: &str, not_null, default: &str| pb::SchemaColumn {
            name: name.into(),
            r#type: r#type.into(),
            not_null,
            default: default.into(),
            ..Default::default()
        };
        let constraint = |name: &str,
                          kind: pb::SchemaConstraintKind,
                          definition: &str,
                          columns: &[&str]| pb::SchemaConstraint {
            name: name.into(),
            kind: kind.into(),
            definition: definition.into(),
            columns: columns.iter().map(ToString::to_string).collect(),
            ..Default::default()
        };
        let foreign = pb::SchemaConstraint {
            references: "public.\"user\"".into(),
            referenced_columns: vec!["id".into()],
            ..constraint(
                "notes_user_fkey",
                pb::SchemaConstraintKind::ForeignKey,
                "FOREIGN KEY (user_id) REFERENCES public.\"user\"(id)",
                &["user_id"],
            )
        };
        let users = pb::SchemaObject {
            kind: Kind::Table.into(),
            schema: "public".into(),
            name: "user".into(),
            owner: "app".into(),
            comment: "Who writes".into(),
            columns: vec![
                column(
                    "id",
                    "integer",
                    true,
                    "nextval('public.user_id_seq'::regclass)",
                ),
                column("e-mail", "character varying(80)", true, ""),
                column("mood", "app.mood", false, "'ok'::app.mood"),
            ],
            constraints: vec![
                constraint(
                    "user_pkey",
                    pb::SchemaConstraintKind::PrimaryKey,
                    "PRIMARY KEY (id)",
                    &["id"],
                ),
                constraint(
                    "user_mail",
                    pb::SchemaConstraintKind::Unique,
                    "UNIQUE (\"e-mail\")",
                    &["e-mail"],
                ),
            ],
            indexes: vec![pb::SchemaIndex {
                name: "user_pkey".into(),
                definition: "CREATE UNIQUE INDEX user_pkey ON public.\"user\" USING btree (id)"
                    .into(),
                unique: true,
                constraint: "user_pkey".into(),
                ..Default::default()
            }],
            referenced_by: vec![pb::SchemaConstraint {
                table: "app.notes".into(),
                ..foreign.clone()
            }],
            row_estimate: 1234,
            total_bytes: Some(98_304),
            ..Default::default()
        };
        let notes = pb::SchemaObject {
            kind: Kind::Table.into(),
            schema: "app".into(),
            name: "notes".into(),
            owner: "app".into(),
            columns: vec![
                column("user_id", "integer", false, ""),
                pb::SchemaColumn {
                    storage: "external".into(),
                    compression: "lz4".into(),
                    statistics_target: Some(500),
                    options: vec!["n_distinct=5".into()],
                    access: vec!["=r/app".into()],
                    ..column("body", "text[]", true, "")
                },
            ],
            constraints: vec![foreign],
            indexes: vec![pb::SchemaIndex {
                name: "notes_user".into(),
                definition: "CREATE INDEX notes_user ON app.notes USING btree (user_id)".into(),
                flags: vec!["clustered".into()],
                comment: "for the list".into(),
                ..Default::default()
            }],
            rules: vec![pb::SchemaRule {
                name: "quiet".into(),
                definition: "CREATE RULE quiet AS\n    ON DELETE TO app.notes DO INSTEAD NOTHING;"
                    .into(),
                enabled: "origin".into(),
                ..Default::default()
            }],
            statistics: vec![pb::SchemaStatistics {
                name: "both".into(),
                definition: "CREATE STATISTICS app.both ON user_id, body FROM app.notes".into(),
                target: Some(100),
                ..Default::default()
            }],
            children: vec!["app.old_notes".into()],
            publications: vec!["all".into()],
            replica_identity: "full".into(),
            access: vec!["reader=r/app".into()],
            triggers: vec![pb::SchemaTrigger {
                name: "touched".into(),
                definition:
                    "CREATE TRIGGER touched BEFORE UPDATE ON app.notes FOR EACH ROW EXECUTE \
                     FUNCTION app.touch()"
                        .into(),
                enabled: "disabled".into(),
                ..Default::default()
            }],
            flags: vec!["row security".into()],
            row_estimate: -1,
            total_bytes: Some(8192),
            ..Default::default()
        };
        let mood = pb::SchemaObject {
            kind: Kind::EnumType.into(),
            schema: "app".into(),
            name: "mood".into(),
            owner: "app".into(),
            labels: vec!["sad".into(), "ok".into()],
            ..Default::default()
        };
        let odd = pb::SchemaObject {
            name: "odd\nmood".into(),
            labels: vec!["so, so".into(), "it's".into()],
            ..mood.clone()
        };
        let pair = pb::SchemaObject {
            kind: Kind::CompositeType.into(),
            schema: "app".into(),
            name: "pair".into(),
            owner: "app".into(),
            columns: vec![
                column("a", "integer", false, ""),
                column("B", "text", false, ""),
            ],
            ..Default::default()
        };
        let function = pb::SchemaObject {
            kind: Kind::Routine.into(),
            schema: "app".into(),
            name: "touch".into(),
            returns: "trigger".into(),
            owner: "app".into(),
            definition: "CREATE OR REPLACE FUNCTION app.touch()\n RETURNS trigger\n".into(),
            ..Default::default()
        };
        vec![users, notes, mood, odd, pair, function]
    }

    fn bare(text: &str) -> String {
        anstream::adapter::strip_str(text).to_string()
    }

    #[test]
    fn an_overview_reads_well() {
        insta::assert_snapshot!(bare(&overview::show(&example())));
    }

    #[test]
    fn details_read_well() {
        insta::assert_snapshot!(bare(&details::show(&example())));
    }

    #[test]
    fn a_diagram_has_names_that_mermaid_reads() {
        insta::assert_snapshot!(mermaid::diagram(&example()));
    }
}
