//! The schemad binary: the command line around the migrations that were compiled in.

include!(concat!(env!("OUT_DIR"), "/embedded.rs"));

fn main() -> std::process::ExitCode {
    schemad::Daemon::builder().migrations(MIGRATIONS).main()
}
