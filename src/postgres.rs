//! PostgreSQL as schemad uses it: where it is (`url`), what it answers when it refuses (`error`),
//! the pool that reads (`pool`), the one session that changes things (`session`), the lock that
//! session holds (`lock`), and what others are doing (`activity`).

pub(crate) mod activity;
pub(crate) mod connect;
pub(crate) mod connect_advice;
pub(crate) mod error;
pub(crate) mod lock;
pub(crate) mod logins;
mod options;
pub(crate) mod pool;
pub(crate) mod pooler;
pub(crate) mod private_server;
pub(crate) mod scratch;
pub(crate) mod session;
mod tls;
pub(crate) mod url;

pub(crate) use error::{DatabaseError, SqlError};
pub(crate) use tls::VerifyMode as TlsMode;
pub use url::DatabaseUrl;
