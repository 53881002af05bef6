//! PostgreSQL as schemad uses it: where it is (`url`), what it answers when it refuses (`error`),
//! the pool that reads (`pool`), the one session that changes things (`session`), the lock that
//! session holds (`lock`), and what others are doing (`activity`).

pub mod activity;
mod cause;
pub mod connect;
pub mod error;
pub mod lock;
pub mod logins;
mod options;
pub mod pool;
pub mod pooler;
pub mod session;
mod tls;
pub mod url;

pub use error::{Error, SqlError};
pub use tls::Mode as TlsMode;
pub use url::DatabaseUrl;
