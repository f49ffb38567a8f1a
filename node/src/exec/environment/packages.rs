//! What an environment has in it, for the record of a job: by the names of metadata directories, because asking pip
//! takes a second and runs its code.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// More packages than any environment has; more are not told.
const PACKAGES_MAX: usize = 5_000;

/// `name==version` of every package below `root`, a virtual environment; sorted. Empty: none, or not to be read.
#[must_use]
pub fn packages(root: &Path) -> Vec<String> {
    let mut found = BTreeMap::new();
    for python in fs::read_dir(root.join("lib")).into_iter().flatten().flatten() {
        for entry in fs::read_dir(python.path().join("site-packages")).into_iter().flatten().flatten() {
            if let Some((name, version)) = entry.file_name().to_str().and_then(package) {
                found.insert(name, version);
            }
        }
    }
    found.into_iter().take(PACKAGES_MAX).map(|(name, version)| format!("{name}=={version}")).collect()
}

/// The full version in an environment's `pyvenv.cfg`, as `3.11.7`; empty: it does not say.
#[must_use]
pub fn python_version(root: &Path) -> String {
    let config = fs::read_to_string(root.join("pyvenv.cfg")).unwrap_or_default();
    let value = |line: &str| {
        let (key, value) = line.split_once('=')?;
        // venv writes the first, uv the second.
        matches!(key.trim(), "version" | "version_info").then(|| value.trim().to_owned())
    };
    config.lines().find_map(value).unwrap_or_default()
}

/// `scikit_learn-1.5.0.dist-info`.
fn package(directory: &str) -> Option<(String, String)> {
    let stem = directory.strip_suffix(".dist-info").or_else(|| directory.strip_suffix(".egg-info"))?;
    let mut parts = stem.split('-');
    let (name, version) = (parts.next()?, parts.next()?);
    Some((name.replace('_', "-").to_lowercase(), version.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_told_by_the_names_of_their_metadata() {
        let dir = tempfile::tempdir().unwrap();
        let site = dir.path().join("lib/python3.11/site-packages");
        for name in ["scikit_learn-1.5.0.dist-info", "Zope-2-py3.egg-info", "numpy", "no_version.dist-info"] {
            fs::create_dir_all(site.join(name)).unwrap();
        }
        assert_eq!(packages(dir.path()), ["scikit-learn==1.5.0", "zope==2"]);
        assert_eq!(packages(&dir.path().join("none")), [""; 0]);
        fs::write(dir.path().join("pyvenv.cfg"), "home = /usr/bin\nversion_info = 3.11.7\n").unwrap();
        assert_eq!(python_version(dir.path()), "3.11.7");
    }
}
