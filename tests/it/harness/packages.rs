//! Python and Node with what an example needs, beside the build's output: whoever has the packages
//! already needs no registry.

use std::path::{Path, PathBuf};

use tokio::{process::Command, sync::Mutex};

/// One installs at a time.
static INSTALLS: Mutex<()> = Mutex::const_new(());

fn tools(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("target/tools")
        .join(name)
}

/// A Python that can import these modules: PYTHON, the machine's, or one in `target/tools` into
/// which pip brings the packages. `None`, which is printed, where pip cannot.
pub async fn python(packages: &[&str], modules: &str) -> Option<PathBuf> {
    let import = format!("import {modules}");
    let has = async |python: &Path| {
        let run = Command::new(python).args(["-c", &import]).output().await;
        run.is_ok_and(|output| output.status.success())
    };
    let given = PathBuf::from(std::env::var_os("PYTHON").unwrap_or_else(|| "python3".into()));
    if has(&given).await {
        return Some(given);
    }
    let _one_at_a_time = INSTALLS.lock().await;
    let python = tools("python").join("bin/python");
    if !has(&python).await {
        if !python.exists() {
            Command::new(&given)
                .args(["-m", "venv", "--clear"])
                .arg(tools("python"))
                .output()
                .await
                .ok()?;
        }
        Command::new(&python)
            .args(["-m", "pip", "install", "--quiet"])
            .args(packages)
            .output()
            .await
            .ok()?;
    }
    let found = has(&python).await.then_some(python);
    if found.is_none() {
        println!(
            "skipped: no Python with {modules}, and pip could not bring them (PYTHON names one)"
        );
    }
    found
}

/// A folder in which Node finds these packages. `None`, which is printed, where there is no Node,
/// or npm cannot bring them.
pub async fn node(packages: &[&str]) -> Option<PathBuf> {
    let folder = tools("node");
    let name = |package: &str| {
        package
            .rsplit_once('@')
            .map_or(package, |(name, _)| name)
            .to_owned()
    };
    let has = || {
        packages
            .iter()
            .all(|package| folder.join("node_modules").join(name(package)).exists())
    };
    let _one_at_a_time = INSTALLS.lock().await;
    if !has() {
        std::fs::create_dir_all(&folder).ok()?;
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"])
            .arg(&folder)
            .args(packages);
        let _ = npm.output().await;
    }
    let has_node = Command::new("node")
        .arg("--version")
        .output()
        .await
        .is_ok_and(|output| output.status.success());
    if !has() || !has_node {
        println!("skipped: no Node with {packages:?}, and npm could not bring them");
        return None;
    }
    Some(folder)
}
