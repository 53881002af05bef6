//! The subcommands that work in this process: the daemon itself (`serve`, `dev`), the checks before
//! it starts (`doctor`), and their settings.

pub(crate) mod dev;
pub(crate) mod doctor;
pub(crate) mod generate;
pub(crate) mod serve;
pub(crate) mod settings;
pub(crate) mod signing;
pub(crate) mod source;
pub(crate) mod token;
