//! What counts in a requirements file, and what does not.

use super::*;

fn wanted(kind: Kind, file_name: &str, text: &str, project: Option<&Path>) -> Wanted {
    Wanted {
        kind,
        bytes: text.as_bytes().to_vec(),
        file_name: file_name.to_owned(),
        project_files: project.map(Path::to_path_buf),
        python: String::new(),
        is_layered: false,
    }
}

fn requirements(text: &str, project: Option<&Path>) -> Result<Option<Recipe>, EnvironmentError> {
    Recipe::read(&wanted(Kind::Requirements, "requirements.txt", text, project))
}

fn hash(recipe: &Recipe) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    recipe.hash_into(&mut hasher);
    hasher.finalize()
}

fn hash_of(text: &str, project: Option<&Path>) -> blake3::Hash {
    hash(&requirements(text, project).unwrap().expect("something to install"))
}

#[test]
fn comments_blank_lines_and_line_ends_do_not_count() {
    let plain = hash_of("numpy==1.26\ntorch\n", None);
    assert_eq!(hash_of("\u{feff}# ours\r\nnumpy==1.26   # pinned\r\n\r\n  torch", None), plain);
    assert_eq!(hash_of("numpy==\\\n1.26\ntorch\n", None), plain);
    assert_ne!(hash_of("numpy==1.27\ntorch\n", None), plain);
    assert_ne!(hash_of("numpy==1.26 torch\n", None), plain);
    assert_eq!(logical_lines("a @ https://x/y#egg=a\n#b\nc\\\n# d\ne"), ["a @ https://x/y#egg=a", "c", "e"]);
}

#[test]
fn nothing_to_install_is_no_environment() {
    for text in ["", "\n\n", "# numpy\n", "--index-url https://x\n", "--no-index\n-f https://x/wheels\n"] {
        assert_eq!(requirements(text, None), Ok(None), "{text}");
    }
    let pyproject = "[project]\nname = \"x\"\ndependencies = []\n";
    assert_eq!(Recipe::read(&wanted(Kind::PyProject, "pyproject.toml", pyproject, None)), Ok(None));
}

#[test]
fn included_files_count_and_the_rest_of_the_project_does_not() {
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join("env")).unwrap();
    fs::write(dir.path().join("env/base.txt"), "numpy\n-c limits.txt\n-r ../requirements.txt\n").unwrap();
    fs::write(dir.path().join("env/limits.txt"), "numpy<2\n").unwrap();
    fs::write(dir.path().join("train.py"), "1").unwrap();
    let text = "--requirement=env/base.txt\n";
    let recipe = requirements(text, Some(dir.path())).unwrap().unwrap();
    let files: Vec<_> = recipe.files.keys().map(|path| path.display().to_string()).collect();
    assert_eq!(files, ["env/base.txt", "env/limits.txt", "requirements.txt"]);
    fs::write(dir.path().join("train.py"), "2").unwrap();
    assert_eq!(hash_of(text, Some(dir.path())), hash(&recipe));
    fs::write(dir.path().join("env/limits.txt"), "numpy<3\n").unwrap();
    assert_ne!(hash_of(text, Some(dir.path())), hash(&recipe));
}

#[test]
fn a_package_that_lies_in_the_project_brings_all_of_it_into_the_key() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lib.py"), "1").unwrap();
    for text in ["-e .", "./", "sub/pkg", "pkg.whl", "pkg @ file:sub/pkg", "-f wheels\npkg", "--editable=.[extra]"] {
        let before = hash_of(text, Some(dir.path()));
        fs::write(dir.path().join("lib.py"), text).unwrap();
        assert_ne!(hash_of(text, Some(dir.path())), before, "{text}");
        assert!(matches!(requirements(text, None), Err(EnvironmentError::NoProjectFiles { .. })), "{text}");
    }
    for text in
        ["torch", "torch[all]>=2 ; python_version > '3.8'", "a @ https://x/a.whl", "git+https://x/a.git", "/opt/a.whl"]
    {
        assert_eq!(requirements(text, None).unwrap().unwrap().tree, None, "{text}");
    }
}

#[test]
fn includes_that_leave_the_project_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let secret = tempfile::NamedTempFile::new().unwrap();
    std::os::unix::fs::symlink(secret.path(), dir.path().join("link.txt")).unwrap();
    for text in ["-r ../other.txt", "-r a/../../b", "-c link.txt"] {
        let refused = requirements(text, Some(dir.path()));
        assert!(matches!(refused, Err(EnvironmentError::OutsideProject { .. })), "{text}: {refused:?}");
    }
    assert!(matches!(requirements("-r gone.txt", Some(dir.path())), Err(EnvironmentError::Io { .. })));
    let absolute = wanted(Kind::Requirements, "/etc/passwd", "a", None);
    assert!(matches!(Recipe::read(&absolute), Err(EnvironmentError::OutsideProject { .. })));
    let binary = Wanted { bytes: vec![0xff, 0xfe, 0], ..wanted(Kind::Requirements, "requirements.txt", "", None) };
    assert!(matches!(Recipe::read(&binary), Err(EnvironmentError::NotText { .. })));
}

#[test]
fn a_pyproject_gives_its_dependencies_and_nothing_else() {
    let read = |text: &str| Recipe::read(&wanted(Kind::PyProject, "pyproject.toml", text, None));
    let recipe = read("[project]\nname = 'x'\nversion = '1'\ndependencies = ['numpy>=1', 'torch']\n").unwrap().unwrap();
    assert_eq!(recipe.files[Path::new("pyproject-dependencies.txt")], b"numpy>=1\ntorch\n");
    let renamed = read("[project]\nname = 'y'\ndependencies = ['numpy>=1', 'torch']\n").unwrap().unwrap();
    assert_eq!(hash(&recipe), hash(&renamed));
    for text in [
        "[tool.poetry]\nname = 'x'",
        "[project]\ndynamic = ['dependencies']",
        "[project]\ndependencies = [1]",
        "[project]\ndependencies = ['--index-url http://evil']",
        "[project]\ndependencies = [\"a\\nb\"]",
        "[project",
    ] {
        assert!(matches!(read(text), Err(EnvironmentError::PyProject { .. })), "{text}");
    }
}

#[test]
fn locks_are_told_apart_by_name() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("pyproject.toml"), "[project]\nname = 'x'\n").unwrap();
    let read = |name: &str| Recipe::read(&wanted(Kind::Lock, name, "numpy==1.26\n", Some(dir.path())));
    assert_eq!(read("uv.lock").unwrap().unwrap().install, Install::UvSync);
    assert_eq!(read("pylock.toml").unwrap().unwrap().install, Install::PyLock);
    assert_eq!(read("requirements.lock").unwrap().unwrap().install, Install::Requirements);
    assert!(matches!(read("poetry.lock"), Err(EnvironmentError::Unsupported { .. })));
}

#[test]
fn a_layered_environment_leaves_out_what_the_node_brings() {
    let text = "numpy==1.0 # kept\nFoundations==0.1.0\ndessa_foundations>=0.1\n./dist/dessa_foundations-0.1.whl\n\
                foundations_contrib\nfoundations-of-statistics\n";
    let layered = Wanted { is_layered: true, ..wanted(Kind::Requirements, "requirements.txt", text, None) };
    let recipe = Recipe::read(&layered).unwrap().unwrap();
    let file = String::from_utf8(recipe.files[Path::new("requirements.txt")].clone()).unwrap();
    assert_eq!(file, "numpy==1.0\nfoundations-of-statistics");
    let none = Wanted { bytes: b"dessa-foundations\n".to_vec(), ..layered };
    assert_eq!(Recipe::read(&none).unwrap(), None, "nothing is left to install");
    let exact = requirements("Foundations==0.1.0\n", None).unwrap().unwrap();
    assert_eq!(exact.files[Path::new("requirements.txt")], b"Foundations==0.1.0\n");
}
