//! Environments built by the real tools from a package that the test makes itself: no registry, no network. With `uv`
//! on the path it is uv that is tested, else `venv` and `pip`; without either the tests say so and pass.

use std::fs;
use std::path::Path;
use std::process::Command;

use node::exec::environment::{Environment, EnvironmentError, Environments, Kind, Wanted};

/// Writes `lab_pkg-1.0-py3-none-any.whl`, a package with one function, always of the same bytes, into the directory of its argument.
const MAKE_WHEEL: &str = r#"
import sys, zipfile
info = "lab_pkg-1.0.dist-info/"
files = {
    "lab_pkg.py": "def answer():\n    return 42\n",
    info + "METADATA": "Metadata-Version: 2.1\nName: lab-pkg\nVersion: 1.0\n",
    info + "WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
}
files[info + "RECORD"] = "".join(name + ",,\n" for name in [*files, info + "RECORD"])
with zipfile.ZipFile(sys.argv[1] + "/lab_pkg-1.0-py3-none-any.whl", "w") as wheel:
    for name, text in files.items():
        wheel.writestr(zipfile.ZipInfo(name), text)
"#;

fn python_can_build() -> bool {
    let can = Command::new("python3").args(["-c", "import ensurepip, venv"]).output();
    let can = can.is_ok_and(|output| output.status.success());
    if !can {
        eprintln!("skipped: python3 -m venv cannot be used here (on Debian: apt-get install python3-venv)");
    }
    can
}

/// A project whose requirements name a wheel beside them, through an included file.
fn project(dir: &Path) -> Wanted {
    fs::create_dir(dir.join("wheels")).expect("a fresh directory");
    let made = Command::new("python3").args(["-c", MAKE_WHEEL]).arg(dir.join("wheels")).status();
    assert!(made.is_ok_and(|status| status.success()));
    fs::write(dir.join("base.txt"), "lab-pkg==1.0\n").expect("a fresh directory");
    let text = "--no-index\n--find-links wheels\n-r base.txt\n";
    Wanted {
        kind: Kind::Requirements,
        bytes: text.as_bytes().to_vec(),
        file_name: "requirements.txt".to_owned(),
        project_files: Some(dir.to_path_buf()),
        python: String::new(),
        is_layered: false,
    }
}

fn answer(environment: &Environment) -> String {
    let mut ask = Command::new(&environment.python);
    ask.args(["-c", "import lab_pkg, sys; print(lab_pkg.answer(), sys.prefix)"]).envs(&environment.env);
    let output = ask.output().expect("the environment has an interpreter");
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_of_the_project_is_installed_once_and_found_again_after_a_restart() {
    if !python_can_build() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (shelf, log) = (dir.path().join("environments"), dir.path().join("job.log"));
    let copy = dir.path().join("project");
    fs::create_dir(&copy).expect("a fresh directory");
    let wanted = project(&copy);
    let environments = Environments::open(&shelf).expect("a fresh directory");
    let built = environments.ensure(&wanted, &log).await;
    let said = fs::read_to_string(&log).unwrap_or_default();
    let built = built.unwrap_or_else(|error| panic!("{error}\n{said}")).expect("something to install");
    eprintln!("{said}");
    assert_eq!(answer(&built), format!("42 {}", built.root.display()));
    assert!(said.contains("lab"), "the log shows the installation: {said}");

    // The job's copy of the bundle goes away; the environment does not need it.
    fs::remove_dir_all(&copy).expect("it is ours");
    assert_eq!(answer(&built), format!("42 {}", built.root.display()));

    fs::create_dir(&copy).expect("it was removed");
    let again = Environments::open(&shelf).expect("it opens again");
    let found = again.ensure(&project(&copy), &log).await.expect("it is built").expect("something to install");
    assert_eq!(found, built);
    assert_eq!(fs::read_to_string(&log).unwrap_or_default(), said, "nothing was built again");
    let listed = again.list();
    assert!(listed.len() == 1 && listed[0].bytes > 0, "{listed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_package_that_nobody_has_fails_the_job_with_the_words_of_the_tool() {
    if !python_can_build() {
        return;
    }
    let dir = tempfile::tempdir().expect("a temporary directory");
    let log = dir.path().join("job.log");
    let environments = Environments::open(&dir.path().join("environments")).expect("a fresh directory");
    let wanted = Wanted {
        kind: Kind::PyProject,
        bytes: b"[project]\nname = 'x'\nversion = '1'\ndependencies = ['such-pkg @ file:///no/such_pkg-1.0-py3-none-any.whl']\n"
            .to_vec(),
        file_name: "pyproject.toml".to_owned(),
        project_files: None,
        python: String::new(),
        is_layered: false,
    };
    let error = environments.ensure(&wanted, &log).await.expect_err("there is no such file");
    let EnvironmentError::Build { tool, tail, .. } = &error else { panic!("{error}") };
    assert!(tool.ends_with("pip install") && tail.contains("/no/such_pkg"), "{error}");
    assert!(fs::read_to_string(&log).unwrap_or_default().contains("/no/such_pkg"), "the job's log says it too");
    assert_eq!(environments.list(), []);
}
