//! Text for places that cannot hold every character: a terminal, a log, a ledger in a database that
//! is not UTF-8.

pub(crate) mod ascii;
pub(crate) mod escape;
