//! Compiles the proto (protox: no protoc needed), checks the migrations folder and generates the
//! line that embeds it.

use std::{env, fs, path::PathBuf, process::ExitCode};

use prost::Message as _;

fn main() -> ExitCode {
    match protos().and_then(|()| migrations()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn out_dir() -> Result<PathBuf, String> {
    env::var_os("OUT_DIR")
        .map(PathBuf::from)
        .ok_or_else(|| "cargo did not set OUT_DIR".into())
}

fn protos() -> Result<(), String> {
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(
        [
            "schemad/v1/migration.proto",
            "schemad/v1/operation.proto",
            "schemad/v1/schema.proto",
            "schemad/v1/lease.proto",
        ],
        ["proto"],
    )
    .map_err(|e| format!("{e:?}"))?;
    // `file_descriptor_set_path` is ignored by `compile_fds`, so the set for reflection is written
    // here.
    fs::write(
        out_dir()?.join("schemad.v1.bin"),
        descriptors.encode_to_vec(),
    )
    .map_err(|e| e.to_string())?;
    tonic_prost_build::configure()
        .compile_fds(descriptors)
        .map_err(|e| e.to_string())
}

fn migrations() -> Result<(), String> {
    println!("cargo:rerun-if-env-changed=SCHEMAD_MIGRATIONS");
    let root = PathBuf::from(
        env::var_os("CARGO_MANIFEST_DIR").ok_or("cargo did not set CARGO_MANIFEST_DIR")?,
    );
    let dir = root.join(
        env::var_os("SCHEMAD_MIGRATIONS")
            .filter(|dir| !dir.is_empty())
            .unwrap_or_else(|| "migrations".into()),
    );
    schemad_build::embeddable(&dir)?;
    let code = format!(
        "/// The migrations compiled into this binary.\npub const MIGRATIONS: \
         diesel_migrations::EmbeddedMigrations = diesel_migrations::embed_migrations!({dir:?});\n"
    );
    fs::write(out_dir()?.join("embedded.rs"), code).map_err(|e| e.to_string())
}
