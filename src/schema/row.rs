//! Rows of the catalog into values. A value's fields are the columns of its query in the same
//! order, so a kind is one struct beside one query; what a row belongs to is looked up, and a row
//! of what was left out is dropped here.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tokio_postgres::{
    Row,
    error::SqlState,
    types::{FromSql, WasNull},
};

use super::{Relation, column::Column};
use crate::postgres::{DatabaseError, SqlError};

/// What the rows of one reading refer to.
#[derive(Default)]
pub(super) struct Context {
    /// Everything in pg_class that is compared, by its oid.
    pub relations: HashMap<u32, Relation>,
    /// Their columns in order, until somebody takes them.
    pub columns: HashMap<u32, Vec<Column>>,
}

/// Why a row became no value.
pub(super) enum Unread {
    /// It belongs to something that is not compared.
    LeftOut,
    /// The server's answer is not what was asked for.
    Failed(DatabaseError),
}

/// A row that is read cell by cell.
pub(super) struct Cells<'a> {
    row: &'a Row,
    at: usize,
    pub context: &'a mut Context,
}

impl<'a> Cells<'a> {
    pub(super) fn new(row: &'a Row, context: &'a mut Context) -> Self {
        Self {
            row,
            at: 0,
            context,
        }
    }

    /// The next cell.
    pub(super) fn next<T: for<'r> FromSql<'r>>(&mut self) -> Result<T, Unread> {
        let at = self.at;
        self.at += 1;
        self.row.try_get(at).map_err(|error| {
            // The server's own functions look at the catalog as it is now, and say nothing of what
            // is gone.
            let is_gone =
                std::error::Error::source(&error).is_some_and(|source| source.is::<WasNull>());
            let gone = || SqlError {
                sqlstate: SqlState::INTERNAL_ERROR.code().into(),
                message: "an object was dropped while it was read".into(),
                ..SqlError::default()
            };
            Unread::Failed(if is_gone { gone().into() } else { error.into() })
        })
    }
}

/// What can be read from a row.
pub(super) trait RowReader: Sized {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread>;
}

macro_rules! plain {
    ($($type:ty),*) => { $(impl RowReader for $type {
        fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
            cells.next()
        }
    })* };
}
plain!(
    bool,
    i32,
    i64,
    u32,
    String,
    Option<bool>,
    Option<i32>,
    Option<String>
);

/// NULL and an empty array say the same.
impl RowReader for Vec<String> {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
        Ok(cells.next::<Option<Self>>()?.unwrap_or_default())
    }
}

/// From its oid.
impl RowReader for Relation {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
        let oid = cells.next::<u32>()?;
        cells
            .context
            .relations
            .get(&oid)
            .cloned()
            .ok_or(Unread::LeftOut)
    }
}

/// From the oid of their relation.
impl RowReader for Vec<Column> {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
        let oid = cells.next::<u32>()?;
        Ok(cells.context.columns.remove(&oid).unwrap_or_default())
    }
}

/// Options as `name=value`, whose order means nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sorted(pub Vec<String>);

impl RowReader for Sorted {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
        let mut items = Vec::read(cells)?;
        items.sort_unstable();
        Ok(Self(items))
    }
}

/// Who may do what, as PostgreSQL writes it (`reader=r/owner`), sorted. `None`: as for a new object
/// of its owner, whether or not somebody said so; empty: nobody may do anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Acl(pub Option<Vec<String>>);

/// From the list, and the list that a new object would have.
impl RowReader for Acl {
    fn read(cells: &mut Cells<'_>) -> Result<Self, Unread> {
        let (given, new) = (
            cells.next::<Option<Vec<String>>>()?,
            cells.next::<Option<Vec<String>>>()?,
        );
        let sorted = |mut list: Vec<String>| {
            list.sort_unstable();
            list
        };
        let (given, new) = (given.map(sorted), sorted(new.unwrap_or_default()));
        Ok(Self(given.filter(|given| *given != new)))
    }
}

/// True for what goes without saying: it is left out of the serialised form.
pub(super) fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A struct that is read from a row, field by field in the order of its query's columns.
macro_rules! record {
    ($(#[$meta:meta])* pub struct $name:ident { $($(#[$field_meta:meta])* pub $field:ident: $type:ty,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        pub struct $name {
            $($(#[$field_meta])*
            #[serde(default, skip_serializing_if = "crate::schema::row::is_default")]
            pub $field: $type,)*
        }
        impl $crate::schema::row::RowReader for $name {
            fn read(cells: &mut $crate::schema::row::Cells<'_>) -> Result<Self, $crate::schema::row::Unread> {
                Ok(Self { $($field: $crate::schema::row::RowReader::read(cells)?,)* })
            }
        }
    };
}
pub(super) use record;

/// An enum that the catalog writes as a letter.
macro_rules! letters {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$variant_meta:meta])* $variant:ident = $($letter:literal)|+,)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ::serde::Serialize, ::serde::Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum $name { $($(#[$variant_meta])* $variant,)* }
        impl $crate::schema::row::RowReader for $name {
            fn read(cells: &mut $crate::schema::row::Cells<'_>) -> Result<Self, $crate::schema::row::Unread> {
                let letter: String = cells.next()?;
                match letter.as_str() {
                    $($($letter)|+ => Ok(Self::$variant),)*
                    _ => Err($crate::schema::row::Unread::Failed(crate::postgres::DatabaseError::Lost(
                        format!("the catalog says {letter:?} where schemad knows no such {}", stringify!($name)),
                    ))),
                }
            }
        }
    };
}
pub(super) use letters;
