//! Typed Diesel models of the reference schema, with its enum types as Rust enums whose labels are
//! the database's values (`admin`, never `ADMIN`). Run against a database where the schema is
//! applied :
//!
//! ```sh
//! DATABASE_URL=postgres://… cargo run --example models
//! ```
//!
//! It writes a user for every role and reads it back, then sends every label of every enum to the
//! server and back, all in a transaction that is rolled back.

use std::error::Error;

use diesel::{
    ExpressionMethods as _, Insertable, IntoSql as _, QueryDsl as _, Queryable, Selectable,
    SelectableHelper as _,
    deserialize::{self, FromSql, FromSqlRow},
    expression::AsExpression,
    pg::{Pg, PgValue},
    serialize::{self, IsNull, Output, ToSql},
    sql_types::Text,
};
use diesel_async::{
    AsyncConnection as _, AsyncPgConnection, RunQueryDsl as _, SimpleAsyncConnection as _,
};
use uuid::Uuid;

/// A Rust enum for a PostgreSQL enum type: each variant with its label.
macro_rules! labels {
    ($(#[$doc:meta])* $name:ident = $sql:ident $type:literal { $($variant:ident = $label:literal),+ $(,)? }) => {
        #[doc = concat!("The SQL type ", $type, ".")]
        #[derive(Clone, Copy, Debug, Default, diesel::query_builder::QueryId, diesel::sql_types::SqlType)]
        #[diesel(postgres_type(name = $type))]
        pub struct $sql;

        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, AsExpression, FromSqlRow)]
        #[diesel(sql_type = $sql)]
        pub enum $name { $(#[doc = $label] $variant),+ }

        impl $name {
            /// In the order of the type.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// As the database writes it.
            pub fn label(self) -> &'static str {
                match self { $(Self::$variant => $label),+ }
            }
        }

        impl ToSql<$sql, Pg> for $name {
            fn to_sql<'b>(&'b self, out: &mut Output<'b, '_, Pg>) -> serialize::Result {
                std::io::Write::write_all(out, self.label().as_bytes())?;
                Ok(IsNull::No)
            }
        }

        impl FromSql<$sql, Pg> for $name {
            fn from_sql(value: PgValue<'_>) -> deserialize::Result<Self> {
                let label = std::str::from_utf8(value.as_bytes())?;
                let known = Self::ALL.iter().copied().find(|known| known.label() == label);
                known.ok_or_else(|| format!("{} has no label {label:?}", $type).into())
            }
        }
    };
}

labels! {
    /// What a person may do.
    UserRole = Userrole "userrole" { Writer = "writer", Editor = "editor", Admin = "admin" }
}
labels! {
    /// What is written.
    OutputType = Outputtype "outputtype" {
        GrantProposal = "grant_proposal", LetterOfInquiry = "letter_of_inquiry", GrantReport = "grant_report", Other = "other",
    }
}
labels! {
    /// What became of it.
    OutputStatus = Outputstatus "outputstatus" {
        Draft = "draft", Submitted = "submitted", Pending = "pending", Awarded = "awarded", NotAwarded = "not_awarded",
    }
}
labels! {
    /// How it is written.
    StyleType = Styletype "styletype" {
        Narrative = "narrative", Technical = "technical", Persuasive = "persuasive", Academic = "academic", Other = "other",
    }
}
labels! {
    /// Who speaks in a conversation.
    MessageRole = Messagerole "messagerole" { System = "system", User = "user", Assistant = "assistant", Tool = "tool" }
}

/// What `diesel print-schema` would write.
mod schema {
    diesel::table! {
        use diesel::sql_types::{Text, Uuid};
        use crate::Userrole;

        users (id) {
            id -> Uuid,
            email -> Text,
            full_name -> Text,
            password_hash -> Text,
            role -> Userrole,
        }
    }

    diesel::table! {
        use diesel::sql_types::{Nullable, Text, Uuid};
        use crate::{Outputstatus, Outputtype};

        outputs (id) {
            id -> Uuid,
            output_type -> Outputtype,
            title -> Text,
            content -> Text,
            status -> Outputstatus,
            created_by -> Nullable<Uuid>,
        }
    }

    diesel::joinable!(outputs -> users (created_by));
    diesel::allow_tables_to_appear_in_same_query!(users, outputs);
}

use schema::{outputs, users};

/// Somebody who signs in.
#[derive(Debug, PartialEq, Queryable, Selectable)]
#[diesel(check_for_backend(Pg))]
pub struct User {
    /// Made by the database.
    pub id: Uuid,
    /// As typed; unique whatever its case.
    pub email: String,
    /// What the person may do.
    pub role: UserRole,
}

/// Somebody new.
#[derive(Debug, Insertable)]
#[diesel(table_name = users)]
pub struct NewUser<'a> {
    email: &'a str,
    full_name: &'a str,
    password_hash: &'a str,
    role: UserRole,
}

/// A text that was written.
#[derive(Debug, PartialEq, Queryable, Selectable)]
#[diesel(check_for_backend(Pg))]
#[diesel(table_name = outputs)]
pub struct Written {
    /// What it is.
    pub output_type: OutputType,
    /// What became of it.
    pub status: OutputStatus,
}

/// Sends each label of an enum to the server, typed, and gets it back typed and as text.
macro_rules! round_trip {
    ($connection:expr, $name:ident, $sql:ty) => {
        for value in $name::ALL {
            let (typed, text): ($name, String) = diesel::select((
                value.into_sql::<$sql>(),
                diesel::dsl::sql::<Text>("")
                    .bind::<$sql, _>(*value)
                    .sql("::text"),
            ))
            .get_result($connection)
            .await?;
            assert_eq!((typed, text.as_str()), (*value, value.label()));
            println!("{} {text}", stringify!($name));
        }
    };
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = std::env::var("DATABASE_URL").map_err(|_| "set DATABASE_URL")?;
    let mut connection = AsyncPgConnection::establish(&url).await?;
    connection.batch_execute("BEGIN").await?;
    for role in UserRole::ALL.iter().copied() {
        let email = format!("{}@example.org", role.label());
        let new = NewUser {
            email: &email,
            full_name: "A person",
            password_hash: "$none$",
            role,
        };
        let id: Uuid = diesel::insert_into(users::table)
            .values(&new)
            .returning(users::id)
            .get_result(&mut connection)
            .await?;
        let found: User = users::table
            .filter(users::role.eq(role))
            .select(User::as_select())
            .first(&mut connection)
            .await?;
        assert_eq!(found, User { id, email, role });
    }
    for output_type in OutputType::ALL.iter().copied() {
        let values = (
            outputs::output_type.eq(output_type),
            outputs::title.eq("A title"),
            outputs::content.eq("A text"),
        );
        let written: Written = diesel::insert_into(outputs::table)
            .values(values)
            .returning(Written::as_returning())
            .get_result(&mut connection)
            .await?;
        assert_eq!(
            written,
            Written {
                output_type,
                status: OutputStatus::Draft
            }
        );
    }
    round_trip!(&mut connection, UserRole, Userrole);
    round_trip!(&mut connection, OutputType, Outputtype);
    round_trip!(&mut connection, OutputStatus, Outputstatus);
    round_trip!(&mut connection, StyleType, Styletype);
    round_trip!(&mut connection, MessageRole, Messagerole);
    // Nothing of this stays.
    connection.batch_execute("ROLLBACK").await?;
    Ok(())
}
