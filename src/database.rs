//! Knowledge of the managed database, kept current in the background: its state (`monitor`),
//! whether operations could run (`preflight`), and the deletion of old rows (`retention`).

pub(crate) mod monitor;
pub(crate) mod preflight;
pub(crate) mod retention;
