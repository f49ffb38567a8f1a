//! Projects of the generations of Foundations, submitted with the command `foundations`: real scripts, a real interpreter.
//! Without `python3` these tests say so and pass.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use std::path::{Path, PathBuf};
use std::process::Command;

use harness::{Node, Ran, write};
use serde_json::json;

fn python_is_there() -> bool {
    let is_there = Command::new("python3").args(["-c", "import sys"]).output();
    let is_there = is_there.is_ok_and(|output| output.status.success());
    if !is_there {
        eprintln!("skipped: there is no python3");
    }
    is_there
}

fn run_in(node: &Node, dir: &Path, args: &[&str], variables: &[(&str, &str)]) -> Ran {
    let mut command = node.named("foundations", args);
    Ran::of(&command.current_dir(dir).envs(variables.iter().copied()).output().unwrap())
}

/// The id in `Job '…' deployed.` or `Job submitted with ID '…'`.
fn id_in(out: &str) -> String {
    let line = out.lines().find(|line| line.contains("submitted with ID") || line.ends_with("deployed.")).unwrap();
    line.split('\'').nth(1).unwrap().to_owned()
}

/// A copy of a project that the package's own tests use, too.
fn project(node: &Node, name: &str) -> PathBuf {
    fn copy(from: &Path, to: &Path) {
        std::fs::create_dir_all(to).unwrap();
        for entry in std::fs::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            let place = to.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true if entry.file_name() != "__pycache__" => copy(&entry.path(), &place),
                true => {}
                false => drop(std::fs::copy(entry.path(), place).unwrap()),
            }
        }
    }
    let dir = node.file(name);
    copy(&Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/tests/projects").join(name), &dir);
    dir
}

#[test]
fn a_new_project_works_as_it_is() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    let here = node.file("");
    assert_eq!(run_in(&node, &here, &["init", "mnist"], &[]).code, Some(0));
    let ran = run_in(&node, &node.file("mnist"), &["submit", "--strict", "scheduler", ".", "main.py"], &[]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(!ran.out.contains("WARNING"), "its own configuration is in order: {}", ran.out);
    let id = id_in(&ran.out);
    let job = node.json(&["job", "show", &id]);
    assert_eq!((&job["project"], &job["metrics"]["loss"]["count"]), (&json!("mnist"), &json!(20)), "{job:#}");
    assert!(job["metrics"]["loss"]["last"].as_f64().unwrap() < job["metrics"]["loss"]["first"].as_f64().unwrap());
    assert_eq!(job["params"]["learning_rate"], json!(0.1));
    assert_eq!(job["tags"], json!({"model": "line"}));
    assert_eq!(job["artifacts"][0]["key"], "model");
    let got = run_in(&node, &here, &["get", "job", "scheduler", &id, "--save_dir", "made"], &[]);
    assert_eq!(got.code, Some(0), "{}", got.err);
    assert!(node.file("made/model.json").exists());
}

#[test]
fn a_project_of_the_third_generation_runs_unchanged() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    let dir = project(&node, "v3_submit");
    let ran = run_in(&node, &dir, &["submit", "--strict", "scheduler", ".", "main.py"], &[]);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("\nrate 0.1 threads 1\n") && ran.out.contains("in project 'v3-submit'."), "{}", ran.out);
    let job = node.json(&["job", "show", &id_in(&ran.out)]);
    assert_eq!((&job["tags"]["generation"], &job["metrics"]["layers"]["last"]), (&json!("v3"), &json!(2)), "{job:#}");
}

#[test]
fn a_directory_is_deployed_as_the_second_generation_did() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    let dir = project(&node, "v2_deploy");
    let path = dir.to_str().unwrap();
    let here = node.file("");
    let words = ["deploy", "--env", "local", "--entrypoint", "project_code/driver.py", "--job-directory", path];
    let words = [&words[..], &["--project-name", "v2", "--num-gpus", "0", "--ram", "0.5"]].concat();
    let ran = run_in(&node, &here, &words, &[]);
    let id = id_in(&ran.out);
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    let told = format!(
        "Foundations INFO: Job '{id}' deployed.\n\
         Foundations INFO: Job queued. Ctrl-C to stop streaming - job will not be interrupted or cancelled.\n\
         Foundations INFO: Job running, streaming logs.\n"
    );
    assert!(ran.out.contains(&told), "{}", ran.out);
    assert!(ran.out.ends_with(&format!("Foundations INFO: Job '{id}' has completed.\n")), "{}", ran.out);
    let job = node.json(&["job", "show", &id]);
    assert_eq!(job["command"], json!(["python", "project_code/driver.py"]));
    assert_eq!((&job["project"], &job["memory_bytes"]), (&json!("v2"), &json!(500_000_000)));
    let quiet = [("DISABLE_LOG_STREAMING", "True")];
    let ran = run_in(&node, &dir, &["deploy", "--entry-point", "project_code.driver"], &quiet);
    assert!(ran.out.ends_with("deployed.\n"), "{}", ran.out);
    assert_eq!(node.json(&["job", "show", &id_in(&ran.out)])["state"], "completed", "local returns when it is over");
    let ran =
        run_in(&node, &dir, &["deploy", "--entrypoint", "project_code.driver"], &[("DISABLE_LOG_STREAMING", "False")]);
    assert!(ran.out.ends_with("has completed.\n"), "{}", ran.out);
    write(&dir.join("slow.py"), "import time\ntime.sleep(600)\n");
    let ran = run_in(&node, &dir, &["deploy", "--env", "scheduler", "--entrypoint", "slow.py"], &quiet);
    let state = node.json(&["job", "show", &id_in(&ran.out)])["state"].clone();
    assert!(ran.code == Some(0) && state != "completed", "scheduler returns once it is accepted: {state}");
    write(&dir.join("bad.py"), "raise SystemExit(3)\n");
    let deploy =
        |more: &[&str]| run_in(&node, &dir, &[&["deploy", "--entrypoint", "bad.py"], more].concat(), &quiet).code;
    assert_eq!((deploy(&[]), deploy(&["--strict"])), (Some(0), Some(1)));
}

#[test]
fn a_driver_of_the_first_generation_runs_here() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    let dir = node.file("stages");
    // It finds the package without an installation, its own modules from the root, and this node.
    write(&dir.join("project_code/model.py"), "NAME = 'model'\n");
    write(
        &dir.join("project_code/driver.py"),
        "import foundations\nfrom project_code.model import NAME\n\
         job = foundations.submit(command=['work.py'])\njob.wait_for_deployment_to_complete()\n\
         print(NAME, job.get_job_status())\nraise SystemExit(5)\n",
    );
    write(&dir.join("work.py"), "print('work')\n");
    let ran = run_in(&node, &dir, &["deploy", "project_code/driver.py", "--env", "local"], &[]);
    assert!(ran.out.ends_with("model completed\n"), "{}{}", ran.out, ran.err);
    assert_eq!(ran.code, Some(5), "the driver's own exit code");
    assert_eq!(node.json(&["jobs", "--all"])["jobs"].as_array().unwrap().len(), 1, "the driver is no job");
    let ran = run_in(&node, &dir, &["deploy", "project_code/none.py"], &[]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "Driver file `project_code/none.py` does not exist\n"));
    let ran = run_in(&node, &dir, &["deploy", "README.txt"], &[]);
    let line = "Driver file `README.txt` needs to be a python file with an extension `.py`\n";
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), line));
}

#[test]
fn the_package_brings_the_commands() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    let out = node.ok(&["sdk", "install", "--dir", "vendor"]);
    assert!(out.contains("; commands: vendor/bin/foundations, vendor/bin/atlas-server;"), "{out}");
    let version = format!("Running Foundations version {}\n", env!("CARGO_PKG_VERSION"));
    let started = |program: &str, args: &[&str]| {
        let command = node.command(args);
        let mut other = Command::new(program);
        other.args(args).env_clear().current_dir(node.file(""));
        other.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        Ran::of(&other.env("PYTHONPATH", "vendor").output().unwrap())
    };
    let link = node.file("vendor/bin/foundations");
    assert_eq!(started(link.to_str().unwrap(), &["--version"]).out, version);
    let ran = started("python3", &["-m", "foundations", "--version"]);
    assert_eq!((ran.out.as_str(), ran.err.as_str()), (version.as_str(), ""));
    let ran = started("python3", &["-c", "import foundations; print(foundations.__version__)"]);
    assert!(version.ends_with(&format!(" {}", ran.out)), "{}: the package has the program's version", ran.out);
    // A link is renewed, a file of somebody else's stays.
    let other = node.file("vendor/bin/atlas-server");
    std::fs::remove_file(&other).unwrap();
    write(&other, "#!/bin/sh\n");
    let ran = node.run(&["sdk", "install", "--dir", "vendor", "--json"]);
    assert_eq!(ran.code, Some(0), "{}", ran.err);
    let installed: serde_json::Value = serde_json::from_str(&ran.out).unwrap();
    assert_eq!(installed["commands"], json!(["vendor/bin/foundations"]));
    assert!(ran.err.starts_with("fnode: warning: vendor/bin/atlas-server is there and not ours;"), "{}", ran.err);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "#!/bin/sh\n");
}

#[test]
fn a_script_started_by_hand_is_known_by_the_id_that_it_was_given() {
    if !python_is_there() {
        return;
    }
    let node = Node::started("alpha");
    node.ok(&["sdk", "install", "--dir", "vendor"]);
    write(&node.file("train.py"), "import foundations\nfoundations.log_metric('loss', 0.5)\nprint('trained')\n");
    let base = node.command::<&str>(&[]);
    let mut script = Command::new("python3");
    script.arg("train.py").env_clear().current_dir(node.file(""));
    script.envs(base.get_envs().filter_map(|(name, value)| Some((name, value?))));
    script.env("PYTHONPATH", "vendor").env("FNODE_BIN", env!("CARGO_BIN_EXE_fnode"));
    let ran = Ran::of(&script.env("FOUNDATIONS_JOB_ID", "3f2a-my-id").output().unwrap());
    assert_eq!(ran.code, Some(0), "{}{}", ran.out, ran.err);
    node.until(&["job", "show", "3f2a-my-id"], "/state", &json!("completed"));
    let shown = node.until(&["job", "show", "3f2a-my-id"], "/metrics/loss/last", &json!(0.5));
    let ran = run_in(&node, &node.file(""), &["delete", "job", "scheduler", "3f2a-my-id"], &[]);
    assert_eq!(ran.out, "Job 3f2a-my-id successfully deleted\n", "{shown:#}: {}", ran.err);
}
