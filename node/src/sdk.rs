//! The Python package `foundations`, carried in the binary: written once per version into the data directory, from
//! where jobs import it, and wherever a user wants it (`fnode sdk install`).
//!
//! Deliberately absent: anything that runs Python; the package's own sources are in `node/sdk`.

use std::io;
use std::path::{Path, PathBuf};

use rust_embed::RustEmbed;

/// Every file of the package by its path below `node/sdk`.
#[derive(RustEmbed)]
#[folder = "sdk/"]
#[include = "foundations/*"]
#[include = "foundations_contrib/*"]
#[include = "foundations_orbit/*"]
#[include = "foundations_production/*"]
#[exclude = "*.pyc"]
struct Package;

/// Writes the package below `dir` unless this very version of it is there; returns what goes on Python's path.
///
/// # Errors
/// What the system said; nothing half written is ever found under the returned name.
pub fn unpack(dir: &Path) -> io::Result<PathBuf> {
    let place = dir.join(&version()[..16]);
    if place.is_dir() {
        return Ok(place);
    }
    let aside = dir.join(format!(".new-{}-{}", std::process::id(), rand::random::<u32>()));
    write_to(&aside)?;
    match std::fs::rename(&aside, &place) {
        // Another daemon of this directory cannot be; a user who copies while we look can.
        Err(_) if place.is_dir() => std::fs::remove_dir_all(&aside).map(|()| place),
        renamed => renamed.map(|()| place),
    }
}

/// Writes every file of the package below `dir`, which is made if needed; what is there is replaced.
///
/// # Errors
/// What the system said.
pub fn write_to(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut written = Vec::new();
    for name in Package::iter() {
        let path = dir.join(name.as_ref());
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        if let Some(file) = Package::get(&name) {
            std::fs::write(&path, file.data)?;
            written.push(path);
        }
    }
    Ok(written)
}

/// Names exactly these files: the BLAKE3 hash of all of them, in hex.
fn version() -> String {
    let mut hasher = blake3::Hasher::new();
    let mut names: Vec<_> = Package::iter().collect();
    names.sort();
    for name in names {
        hasher.update(name.as_bytes()).update(&[0]);
        if let Some(file) = Package::get(&name) {
            hasher.update(&(file.data.len() as u64).to_le_bytes()).update(&file.data);
        }
    }
    hasher.finalize().to_hex().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_package_is_unpacked_once_per_version() {
        let dir = tempfile::tempdir().unwrap();
        let place = unpack(dir.path()).unwrap();
        for name in [
            "foundations/__init__.py",
            "foundations/parameters/__init__.py",
            "foundations_contrib/utils.py",
            "foundations_orbit/__init__.py",
            "foundations_production/__init__.py",
        ] {
            assert!(place.join(name).is_file(), "{name}");
        }
        let marker = place.join("foundations/marker");
        std::fs::write(&marker, "").unwrap();
        assert_eq!(unpack(dir.path()).unwrap(), place);
        assert!(marker.exists(), "it was not written again");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is left beside it");
    }
}
