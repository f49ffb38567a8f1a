//! Where the `fnode` under test lies: beside this test, built from the sources that are here.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::SystemTime;

/// The `fnode` of the same build as this test. Built first when it is missing or older than its sources;
/// `scripts/test` has built it, then this only looks.
pub(crate) fn fnode() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        let test = std::env::current_exe().expect("a test knows its path");
        let profile = test.parent().and_then(Path::parent).expect("tests lie in target/PROFILE/deps");
        let binary = profile.join("fnode");
        if !is_fresh(&binary) {
            build(profile);
        }
        assert!(binary.exists(), "{} is missing; build it with: cargo build -p node --bin fnode", binary.display());
        binary
    })
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("this crate lies in the workspace").to_owned()
}

fn is_fresh(binary: &Path) -> bool {
    let changed = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let Some(built) = changed(binary) else { return false };
    let mut waiting: Vec<PathBuf> =
        ["node/src", "node/web", "node/Cargo.toml", "proto/src", "Cargo.lock"].map(|part| root().join(part)).into();
    while let Some(path) = waiting.pop() {
        if let Ok(entries) = std::fs::read_dir(&path) {
            waiting.extend(entries.flatten().map(|entry| entry.path()));
        } else if changed(&path).is_some_and(|at: SystemTime| at > built) {
            return false;
        }
    }
    true
}

fn build(profile: &Path) {
    // `target/debug` is what cargo calls dev.
    let name = match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => "dev",
        Some(name) => name,
    };
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let status = Command::new(cargo)
        .args(["build", "--quiet", "-p", "node", "--bin", "fnode", "--profile", name])
        .current_dir(root())
        .status()
        .expect("cargo can be started");
    assert!(status.success(), "fnode does not build; try: cargo build -p node --bin fnode");
}
