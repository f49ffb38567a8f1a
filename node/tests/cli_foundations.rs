//! The command `foundations` without a daemon and with one: its lines, where they go, and its exit codes are what users'
//! scripts look for.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails here")]

mod harness;

use std::path::{Path, PathBuf};

use harness::{Background, Node, Ran, write};
use serde_json::json;

const NO_SERVER: &str = "Cannot currently find Atlas server. Start Atlas server with `atlas-server start`.\n";
const QUEUED: &str =
    "Foundations INFO: Job queued. Ctrl-C to stop streaming - job will not be interrupted or cancelled.\n";
const RUNNING: &str = "Foundations INFO: Job running, streaming logs.\n";

/// Runs `foundations` in the test's own directory.
fn run(node: &Node, args: &[&str]) -> Ran {
    Ran::of(&node.named("foundations", args).output().unwrap())
}

/// Runs it in a directory.
fn run_in(node: &Node, dir: &Path, args: &[&str]) -> Ran {
    Ran::of(&node.named("foundations", args).current_dir(dir).output().unwrap())
}

/// What is printed on standard output, where everything went well.
#[track_caller]
fn ok(node: &Node, args: &[&str]) -> String {
    let ran = run(node, args);
    assert_eq!(ran.code, Some(0), "foundations {}: {}{}", args.join(" "), ran.out, ran.err);
    ran.out
}

/// What Foundations said itself: on standard output, with exit code 1.
#[track_caller]
fn said(node: &Node, args: &[&str], line: &str) {
    let ran = run(node, args);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), format!("{line}\n").as_str()), "{args:?}: {}", ran.err);
}

/// What is one line on standard error, and nothing else.
#[track_caller]
fn refused(node: &Node, args: &[&str], code: i32, line: &str) {
    let ran = run(node, args);
    assert_eq!((ran.code, ran.out.as_str()), (Some(code), ""), "{args:?}: {}", ran.err);
    assert_eq!(ran.err.lines().count(), 1, "{args:?}: {}", ran.err);
    assert!(ran.err.starts_with(&format!("foundations: {line}")), "{args:?}: {}", ran.err);
}

/// A directory with a script that needs no Python.
fn project(node: &Node, name: &str, script: &str) -> PathBuf {
    let dir = node.file(name);
    write(&dir.join("run.sh"), script);
    dir
}

/// Submits a script of `sh` without streaming; returns the job's id.
fn submit(node: &Node, dir: &Path, options: &[&str]) -> String {
    let mut args = vec!["submit", "--stream-job-logs", "False", "--entrypoint", "sh"];
    args.extend(options);
    args.extend(["scheduler", dir.to_str().unwrap(), "run.sh"]);
    id_in(&ok(node, &args))
}

/// The id between the first quotes of what was printed.
fn id_in(out: &str) -> String {
    let line = out.lines().find(|line| line.contains("Job submitted with ID") || line.ends_with("deployed.")).unwrap();
    line.split('\'').nth(1).unwrap().to_owned()
}

/// Asks for more memory than there is: a job that waits for good.
const WAITS: [&str; 2] = ["--ram", "200000"];

#[test]
fn help_and_version_are_there_and_wrong_words_are_one_line() {
    let node = Node::new();
    assert_eq!(ok(&node, &["--version"]), format!("Running Foundations version {}\n", env!("CARGO_PKG_VERSION")));
    for args in [&[][..], &["-h"], &["--help"], &["--debug"]] {
        let text = ok(&node, args);
        for command in ["init", "setup", "info", "submit", "deploy", "get", "stop", "clear-queue", "delete", "login"] {
            assert!(text.contains(&format!("  {command} ")), "{args:?}: {text}");
        }
    }
    assert!(ok(&node, &["submit", "-h"]).contains("--strict"), "the flag is told");
    assert!(ok(&node, &["retrieve", "--help"]).contains("--source_dir"));
    refused(
        &node,
        &["submti"],
        2,
        "unrecognized subcommand 'submti'; a similar subcommand exists: 'submit'; see foundations --help",
    );
    refused(&node, &["submit"], 2, "configuration and directory are missing; write: foundations submit");
    refused(&node, &["submit", "scheduler"], 2, "the job's directory is missing");
    refused(
        &node,
        &["submit", "--job-dir", ".", "scheduler", "."],
        2,
        "configuration, directory and command are given as",
    );
    refused(
        &node,
        &["submit", "--ram", "0", "scheduler", "."],
        2,
        "invalid value '0' for '--ram <GB>': Invalid RAM quantity 0: give gigabytes above 0",
    );
    refused(&node, &["submit", "--ram", "much", "scheduler", "."], 2, "invalid value 'much' for '--ram <GB>'");
    refused(&node, &["submit", "--num-gpus", "-1", "scheduler", "."], 2, "invalid value '-1' for '--num-gpus <N>'");
    refused(&node, &["submit", "--stream-job-logs", "maybe", "scheduler", "."], 2, "invalid value 'maybe'");
    refused(&node, &["submit", "--job-dir", ".", "--command", "a 'b"], 2, "\"a 'b\" has an open quote; close it");
    refused(&node, &["get"], 2, "the following required arguments were not provided");
    refused(&node, &["get", "everything"], 2, "invalid value 'everything' for '<WHAT>'");
    refused(&node, &["get", "job", "scheduler"], 2, "the job is missing; write: foundations get job");
    refused(
        &node,
        &["get", "job", "scheduler", "x", "--job_id", "y"],
        2,
        "the job is given as a word and as an option",
    );
    refused(&node, &["stop", "scheduler"], 2, "");
    refused(&node, &["stop", "a", "b", "c"], 2, "more than a configuration and a job");
    refused(&node, &["delete"], 2, "a command is missing; see foundations delete --help");
    refused(
        &node,
        &["deploy", "driver.py", "--entrypoint", "x"],
        2,
        "the argument '[DRIVER_FILE]' cannot be used with",
    );
}

#[test]
fn what_is_not_there_yet_says_so_in_one_line() {
    let node = Node::new();
    for args in [
        &["serve", "start", "0193"][..],
        &["serve", "stop", "model-1234"],
        &["serving", "deploy", "rest", "--domain", "h:1", "--model-id", "x", "--slug", "y"],
        &["orbit", "serve", "start", "--project_name", "p"],
        &["monitor", "create", "--name", "m", ".", "main.py"],
        &["monitor", "-h"],
    ] {
        refused(&node, args, 1, &format!("`{}` is not there yet; ", args[0]));
    }
}

#[test]
fn a_new_project_is_made_once() {
    let node = Node::new();
    assert_eq!(ok(&node, &["init", "mnist"]), "Success: New Foundations project `mnist` created!\n");
    let dir = node.file("mnist");
    let mut names: Vec<String> =
        std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    assert_eq!(names, ["README.txt", "data", "job.config.yaml", "main.py"]);
    assert!(std::fs::read_to_string(dir.join("job.config.yaml")).unwrap().contains("project_name: \"mnist\""));
    std::fs::write(dir.join("main.py"), "mine").unwrap();
    assert_eq!(
        ok(&node, &["init", "mnist"]),
        "Error: project directory for `mnist` already exists\n",
        "and exit code 0"
    );
    assert_eq!(std::fs::read_to_string(dir.join("main.py")).unwrap(), "mine");
    refused(&node, &["init", "a/b"], 2, "\"a/b\" cannot name a project");
    refused(&node, &["init"], 2, "the following required arguments were not provided: <PROJECT_NAME>");
}

#[test]
fn configurations_are_listed_by_kind() {
    let node = Node::new();
    assert_eq!(ok(&node, &["info"]), "usage: foundations info [--env ENV]\n");
    assert_eq!(ok(&node, &["info", "--env"]), "No environments available\n");
    for path in [
        "config/submission/far.config.yaml",
        "config/execution/default.config.yaml",
        "config/local.config.yaml",
        ".foundations/config/submission/scheduler.config.yaml",
        ".foundations/config/gcp.config.yaml",
    ] {
        write(&node.file(path), "");
    }
    let here = |path: &str| node.file(path).canonicalize().unwrap().display().to_string();
    let wanted = format!(
        "submission configs:\nenv_name   env_path\nfar        {}\nscheduler  {}\n\nexecution configs:\nenv_name   env_path\n\
         default    {}\n\nglobal configs:\nenv_name   env_path\ngcp        {}\n\nproject configs:\nenv_name   env_path\n\
         local      {}\n",
        here("config/submission/far.config.yaml"),
        here(".foundations/config/submission/scheduler.config.yaml"),
        here("config/execution/default.config.yaml"),
        here(".foundations/config/gcp.config.yaml"),
        here("config/local.config.yaml"),
    );
    assert_eq!(ok(&node, &["info", "--env"]), wanted);
    let output = node.named("foundations", &["info", "--env"]).env("FOUNDATIONS_HOME", "/no/such").output().unwrap();
    assert!(!String::from_utf8_lossy(&output.stdout).contains("gcp"), "another home has other files");
}

#[test]
fn without_a_server_every_command_says_how_to_start_one() {
    let node = Node::new();
    let dir = project(&node, "p", "");
    let dir = dir.to_str().unwrap();
    write(&node.file("driver.py"), "");
    for args in [
        &["get", "job", "scheduler", "x"][..],
        &["get", "logs", "scheduler", "x"],
        &["retrieve", "artifacts", "--job_id", "x", "--env", "local"],
        &["stop", "scheduler", "x"],
        &["clear-queue", "scheduler"],
        &["delete", "job", "scheduler", "x"],
        &["deploy", "driver.py"],
    ] {
        said(&node, args, NO_SERVER.trim_end());
    }
    for args in
        [&["submit", "scheduler", dir, "sh", "run.sh"][..], &["deploy", "--job-directory", dir, "--entrypoint", "x.py"]]
    {
        let ran = run(&node, args);
        assert!(ran.out.contains("Foundations INFO: Job submission started. Ctrl-C to cancel.\n"), "{}", ran.out);
        assert_eq!((ran.code, ran.out.ends_with(NO_SERVER), ran.err.as_str()), (Some(1), true, ""), "{args:?}");
    }
    let ran = run(&node, &["login", "localhost:5558", "-u", "ada", "-p", "x"]);
    assert_eq!((ran.code, ran.out.as_str()), (Some(1), "Login Failed!\n"));
    assert!(ran.err.starts_with("foundations: no daemon is running for "), "{}", ran.err);
    assert!(!node.home().exists(), "asking makes nothing");
}

#[test]
fn a_configuration_that_is_not_there_is_told_as_ever() {
    let node = Node::new();
    let line = "Could not find submission configuration with name: `x`";
    for args in [
        &["submit", "x", ".", "main.py"][..],
        &["submit", "--scheduler-config", "x", "--job-dir", ".", "--command", "main.py"],
        &["get", "job", "x", "1"],
        &["stop", "x", "1"],
        &["clear-queue", "x"],
        &["delete", "job", "x", "1"],
    ] {
        said(&node, args, line);
    }
    let line = "Could not find environment `x`; see those that exist with `foundations info --env`";
    for args in [
        &["deploy", "--env", "x"][..],
        &["deploy", "driver.py", "--env", "x"],
        &["retrieve", "logs", "--job_id", "1", "--env", "x"],
    ] {
        said(&node, args, line);
    }
    write(&node.file("config/submission/x.config.yaml"), "scheduler_url: http://127.0.0.1:5000\n");
    said(&node, &["get", "job", "x", "1"], NO_SERVER.trim_end());
}

#[test]
fn a_wrong_job_config_is_told_with_file_and_line() {
    let node = Node::new();
    let dir = project(&node, "p", "");
    let config = dir.join("job.config.yaml");
    let submit = ["submit", "scheduler", dir.to_str().unwrap(), "run.sh"];
    for (text, line) in [
        ("project_name: x\nram: much\n", ":2: `ram` is 'much'; write a number of gigabytes"),
        ("params: !mine {b: 1}\n", ":1: the tag !mine is not supported; known are "),
        ("worker:\n\tx: 1\n", ":2: "),
        ("worker:\n  image: [a]\n", ":2: worker's `image` is a list; write a text"),
        ("log_level: FOO\n", ":1: `log_level` is 'FOO'; write DEBUG, INFO, WARNING or ERROR"),
        ("project_name: a/b\n", ":1: 'a/b' cannot name a project; leave out slashes and dots alone"),
    ] {
        write(&config, text);
        refused(&node, &submit, 1, &format!("{}{line}", config.display()));
    }
    let missing = node.file("none");
    let line = format!("{} is not a directory; give the one that holds the job's files", missing.display());
    refused(&node, &["submit", "scheduler", missing.to_str().unwrap(), "main.py"], 1, &line);
    std::fs::remove_file(&config).unwrap();
    std::fs::create_dir(&config).unwrap();
    refused(&node, &submit, 1, &format!("cannot read {}: ", config.display()));
    std::fs::remove_dir(&config).unwrap();
    let node = Node::started("alpha");
    let ran = run(&node, &[&["submit", "--project-name", "a/b"], &submit[1..]].concat());
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("\"a/b\" cannot name a project"), "{}", ran.err);
    write(&config, "project_nam: x\n");
    let ran = run(&node, &[&["submit", "--entrypoint", "sh"], &submit[1..]].concat());
    let line = format!(
        "Foundations WARNING: {}:1: `project_nam` is not known, did you mean `project_name`?; it is ignored\n",
        config.display()
    );
    assert!(ran.code == Some(0) && ran.out.starts_with(&line), "{}{}", ran.out, ran.err);
}

#[test]
fn a_submission_is_told_line_by_line() {
    let node = Node::started("alpha");
    let dir = project(&node, "mnist", "echo one; printf two >&2");
    let ran = run_in(&node, &dir, &["submit", "--entrypoint", "sh", "scheduler", ".", "run.sh"]);
    let id = id_in(&ran.out);
    let dir = dir.canonicalize().unwrap();
    let wanted = format!(
        "Foundations INFO: Job submission started. Ctrl-C to cancel.\n\
         Foundations INFO: Preparing to bundle contents of {} for execution. Estimating bundle size.\n\
         Foundations INFO: Bundling job contents.\n\
         Foundations INFO: Job submitted with ID '{id}' in project 'mnist'.\n\
         {QUEUED}{RUNNING}one\ntwo\nFoundations INFO: Job '{id}' has completed.\n",
        dir.display()
    );
    assert_eq!((ran.code, ran.out, ran.err.as_str()), (Some(0), wanted, ""));
    let output = node
        .named("foundations", &["submit", "--entrypoint", "sh", "scheduler", dir.to_str().unwrap(), "run.sh"])
        .env("FOUNDATIONS_LOG_LEVEL", "ERROR")
        .output();
    assert_eq!(Ran::of(&output.unwrap()).out, "one\ntwo\n", "only the job's own words");
    let ran = run_in(&node, &dir, &["--debug", "submit", "--entrypoint", "sh", "scheduler", ".", "run.sh"]);
    assert!(ran.out.contains("Foundations DEBUG: "), "{}", ran.out);
}

#[test]
fn a_large_directory_is_worth_a_word() {
    let node = Node::started("alpha");
    let dir = project(&node, "p", "true");
    for (megabytes, words) in [(49, None), (51, Some("rather large: 51 MB")), (101, Some("large: 101 MB"))] {
        std::fs::File::create(dir.join("data.bin")).unwrap().set_len(megabytes * 1_000_000).unwrap();
        let submit = ["submit", "--stream-job-logs", "False", "--entrypoint", "sh", "scheduler", dir.to_str().unwrap()];
        let out = ok(&node, &[&submit[..], &["run.sh"]].concat());
        let warning = out.lines().find(|line| line.starts_with("Foundations WARNING: "));
        let wanted = words.map(|words| {
            format!(
                "Foundations WARNING: The job's directory is {words}; name what the job does not need in .fnodeignore"
            )
        });
        assert_eq!(warning, wanted.as_deref(), "{megabytes} MB: {out}");
    }
}

#[test]
fn a_failed_job_is_no_failure_unless_it_is_asked_for() {
    let node = Node::started("alpha");
    let dir = project(&node, "p", "exit 7");
    let dir = dir.to_str().unwrap();
    let submit =
        |more: &[&str]| run(&node, &[&["submit", "--entrypoint", "sh"], more, &["scheduler", dir, "run.sh"]].concat());
    let ran = submit(&[]);
    let id = id_in(&ran.out);
    assert!(ran.out.ends_with(&format!("{RUNNING}Foundations INFO: Job '{id}' has failed.\n")), "{}", ran.out);
    assert_eq!(ran.code, Some(0), "as it was");
    assert!(ran.err.contains("failed: exit code 7"), "{}", ran.err);
    assert_eq!(submit(&["--strict"]).code, Some(1));
    let ran = submit(&["--stream-job-logs", "False"]);
    assert_eq!((ran.code, ran.out.contains(QUEUED)), (Some(0), false), "{}", ran.out);
    let ran = submit(&["--stream-job-logs", "False", "--strict"]);
    assert_eq!((ran.code, ran.out.contains(QUEUED)), (Some(1), false), "{}", ran.out);
    let ran = run(&node, &["submit", "--strict", "scheduler", dir, "missing.py"]);
    assert_eq!(ran.code, Some(1));
    let warning = "Foundations WARNING: missing.py is not in ";
    assert!(ran.out.starts_with(warning), "a script that is not there only warns: {}", ran.out);
}

#[test]
fn values_are_taken_by_their_precedence() {
    let node = Node::started("alpha");
    let dir = project(&node, "dir-name", "cat foundations_job_parameters.json; echo $A $FOUNDATIONS_LOG_LEVEL $1");
    write(
        &dir.join("job.config.yaml"),
        "project_name: from-file\nentrypoint: sh\nlog_level: DEBUG\nram: 0.2\nnum_gpus: 0\nparams: {rate: 1e-5, layers: [1]}\n\
         worker:\n  environment:\n    A: yes\n",
    );
    let path = dir.to_str().unwrap();
    let options =
        ["submit", "--strict", "--scheduler-config", "scheduler", "--job-dir", path, "--command", "run.sh 'b c'"];
    let out = ok(&node, &options);
    let params = "{\n    \"rate\": 1e-05,\n    \"layers\": [\n        1\n    ]\n}";
    assert_eq!(std::fs::read_to_string(dir.join("foundations_job_parameters.json")).unwrap(), params);
    let record = "{\"rate\":1e-05,\"layers\":[1]}";
    assert!(out.contains(&format!("{RUNNING}{record}true DEBUG b c\n")), "{out}");
    let job = node.json(&["job", "show", &id_in(&out)]);
    assert_eq!((&job["project"], &job["memory_bytes"]), (&json!("from-file"), &json!(200_000_000)));
    assert_eq!(job["command"], json!(["sh", "run.sh", "b c"]));
    assert_eq!(job["params_json"], record);
    let given =
        ["submit", "--strict", "--project-name", "given", "--ram", "0.1", "local", path, "run.sh", "--ram", "9"];
    let job = node.json(&["job", "show", &id_in(&ok(&node, &given))]);
    assert_eq!((&job["project"], &job["memory_bytes"]), (&json!("given"), &json!(100_000_000)));
    assert_eq!(job["command"], json!(["sh", "run.sh", "--ram", "9"]), "the rest of the line is the command");
    std::fs::remove_file(dir.join("job.config.yaml")).unwrap();
    let job = node.json(&["job", "show", &submit(&node, &dir, &[])]);
    assert_eq!((&job["project"], &job["memory_bytes"]), (&json!("dir-name"), &json!(0)));
}

#[test]
fn ctrl_c_while_streaming_leaves_at_once_and_the_job_goes_on() {
    let node = Node::started("alpha");
    let dir = project(&node, "p", "while :; do sleep 0.05; done");
    let words = ["submit", "--entrypoint", "sh", "scheduler", dir.to_str().unwrap(), "run.sh"];
    let mut streaming = Background::of(node.named("foundations", &words));
    streaming.read_until(RUNNING.trim_end());
    streaming.signal("INT");
    let ran = streaming.finish();
    assert_eq!(ran.code, Some(130));
    assert!(ran.err.contains("goes on"), "{}", ran.err);
    node.until(&["status"], "/running", &json!(1));
}

#[test]
fn a_running_job_is_stopped_and_no_other() {
    let node = Node::started("alpha");
    let dir = project(&node, "p", "while :; do sleep 0.05; done");
    let id = submit(&node, &dir, &[]);
    node.until(&["job", "show", &id], "/state", &json!("running"));
    assert_eq!(ok(&node, &["stop", "scheduler", &id]), format!("Stopped running job {id}\n"));
    assert_eq!(node.json(&["job", "show", &id])["state"], "stopped");
    said(&node, &["stop", "scheduler", &id], &format!("Error: Job `{id}` is completed and cannot be stopped"));
    let waiting = submit(&node, &dir, &WAITS);
    said(&node, &["stop", "scheduler", &waiting], &format!("Error: Job `{waiting}` is queued and cannot be stopped"));
    said(&node, &["stop", "job", "local", "zz"], "Error: Job `zz` does not exist for environment `local`");
    let line = format!("Error: Job `{waiting}` is queued and has not produced any logs");
    said(&node, &["get", "logs", "scheduler", &waiting], &line);
    let line = format!("Error: Job `{waiting}` has status `queued` and cannot be deleted");
    said(&node, &["delete", "job", "scheduler", &waiting], &line);
    let running = submit(&node, &dir, &[]);
    node.until(&["job", "show", &running], "/state", &json!("running"));
    let line = format!("Error: Job `{running}` has status `running` and cannot be deleted");
    said(&node, &["delete", "job", "scheduler", &running], &line);
    assert_eq!(ok(&node, &["stop", "job", "scheduler", &running]), format!("Stopped running job {running}\n"));
    assert_eq!(ok(&node, &["delete", "job", "scheduler", &id]), format!("Job {id} successfully deleted\n"));
    said(
        &node,
        &["get", "job", "scheduler", &id],
        &format!("Error: Job `{id}` does not exist for environment `scheduler`"),
    );
}

#[test]
fn the_queue_is_cleared_of_all_that_wait() {
    let node = Node::started("alpha");
    assert_eq!(ok(&node, &["clear-queue", "scheduler"]), "Removed 0 job(s) from queue\n");
    let dir = project(&node, "p", "while :; do sleep 0.05; done");
    let running = submit(&node, &dir, &[]);
    node.until(&["job", "show", &running], "/state", &json!("running"));
    let waiting = [submit(&node, &dir, &WAITS), submit(&node, &dir, &[&WAITS[..], &["--project-name", "q"]].concat())];
    let array = node.submit(&["--memory", "200TiB", "--array", "1-3"], &["true"]);
    let after = node.submit(&["--array", "1-3", "--after", &running], &["true"]);
    assert_eq!(ok(&node, &["clear-queue", "scheduler"]), "Removed 8 job(s) from queue\n");
    for id in waiting.iter().chain([&array, &after]) {
        node.until(&["job", "show", id], "/state", &json!("stopped"));
    }
    assert_eq!(node.json(&["job", "show", &running])["state"], "running");
    assert_eq!(ok(&node, &["clear-queue", "scheduler"]), "Removed 0 job(s) from queue\n");
}

#[test]
fn an_array_that_runs_in_part_loses_only_what_waits() {
    let node = Node::started("alpha");
    // Each takes every processor there is: one runs, the others wait.
    let cpus = node.json(&["node", "show"])["cpu_milli"].as_u64().unwrap();
    let cpus = format!("{}.{:03}", cpus / 1_000, cpus % 1_000);
    let array = node.submit(&["--array", "1-3", "--cpus", &cpus], &["sleep", "600"]);
    node.until(&["job", "show", &array], "/array/running", &json!(1));
    assert_eq!(ok(&node, &["clear-queue", "scheduler"]), "Removed 2 job(s) from queue\n");
    let shown = node.until(&["job", "show", &array], "/array/stopped", &json!(2));
    assert_eq!(shown["array"]["running"], json!(1), "{shown:#}");
}

#[test]
fn what_a_job_removed_does_not_come_back() {
    let node = Node::started("alpha");
    let script = "rm gone; rm -r folder; rm swapped; mkdir swapped; echo s > swapped/inside; mv Name name";
    let dir = project(&node, "p", script);
    for path in ["gone", "folder/a", "folder/b/c", "swapped", "Name", "stays"] {
        write(&dir.join(path), path);
    }
    let id = submit(&node, &dir, &[]);
    node.completed(&id);
    ok(&node, &["get", "job", "scheduler", &id, "--save_dir", "job"]);
    let got = node.json(&["job", "get", &id, "--whole", "--to", "all"]);
    assert_eq!(got["removed"], json!(["Name", "folder/a", "folder/b/c", "gone", "swapped"]), "{got:#}");
    for place in ["job", "all"] {
        let is_there = |path: &str| node.file(place).join(path).exists();
        assert!(is_there("run.sh") && is_there("stays") && is_there("swapped/inside") && is_there("name"), "{place}");
        assert!(!is_there("gone") && !is_there("folder") && !is_there("Name"), "{place}");
    }
    node.ok(&["job", "get", &id, "--to", "made"]);
    assert!(node.file("made/swapped/inside").exists() && !node.file("made/stays").exists());

    // One that made nothing has no outputs, also when it removed something.
    let dir = project(&node, "q", "rm gone");
    write(&dir.join("gone"), "gone");
    let id = submit(&node, &dir, &[]);
    node.completed(&id);
    let shown = node.json(&["job", "show", &id]);
    assert_eq!(shown["outputs"], json!(null), "{shown:#}");
    said(&node, &["get", "artifacts", "scheduler", &id], &format!("Error: Could not download Job {id}"));
    node.ok(&["job", "get", &id, "--whole", "--to", "rest"]);
    assert!(node.file("rest/run.sh").exists() && !node.file("rest/gone").exists());
}

#[test]
fn what_a_job_made_is_copied_to_where_it_is_wanted() {
    let node = Node::started("alpha");
    let script = "mkdir -p models/a notes; echo m > models/a/m; echo n > notes/n; echo log";
    let dir = project(&node, "p", script);
    let id = submit(&node, &dir, &[]);
    node.completed(&id);
    let success = format!("Successfully retrieved Job {id} from archive store\n");
    let read = |path: &str| std::fs::read_to_string(node.file(path)).unwrap_or_else(|error| format!("{path}: {error}"));
    assert_eq!(ok(&node, &["get", "job", "scheduler", &id]), success);
    assert_eq!((read(&format!("{id}/models/a/m")).as_str(), read(&format!("{id}/notes/n")).as_str()), ("m\n", "n\n"));
    assert_eq!(read(&format!("{id}/run.sh")), script, "the directory as the job left it");
    write(&node.file("results/mine"), "stays");
    write(&node.file("results/notes/n"), "old");
    assert_eq!(ok(&node, &["get", "job", "scheduler", &id, "--save_dir", "results"]), success);
    assert_eq!((read("results/mine").as_str(), read("results/notes/n").as_str()), ("stays", "n\n"));
    node.ok(&["job", "get", &id, "--whole", "--to", "all"]);
    assert!(node.file("all/run.sh").exists() && node.file("all/notes/n").exists());
    node.ok(&["job", "get", &id, "--to", "made"]);
    assert!(!node.file("made/run.sh").exists() && node.file("made/notes/n").exists());
    let some = ["retrieve", "artifacts", "--job-id", &id, "--env=local", "--source_dir=./models/", "--save-dir=some"];
    assert_eq!(ok(&node, &some), success);
    assert!(node.file("some/models/a/m").exists() && !node.file("some/notes").exists());
    write(&node.file("config/v2.config.yaml"), "results_config:\n  artifact_path: notes\n");
    assert_eq!(ok(&node, &["get", "artifacts", "--job_id", &id, "--env", "v2", "--save_dir", "v2"]), success);
    assert!(node.file("v2/notes/n").exists() && !node.file("v2/models").exists());
    let ran = run(&node, &["get", "job", "scheduler", &id, "--source_dir", "nothing"]);
    assert_eq!((ran.code, ran.out), (Some(1), format!("Error: Could not download Job {id}\n")));
    assert_eq!(ran.err, "foundations: the job kept no files below nothing\n");
    for args in [&["get", "logs", "scheduler", &id][..], &["retrieve", "logs", "--job_id", &id, "--env", "local"]] {
        assert_eq!(ok(&node, args), "log\n");
    }
    let none = submit(&node, &project(&node, "q", "true"), &[]);
    node.completed(&none);
    let ran = run(&node, &["get", "artifacts", "scheduler", &none]);
    assert_eq!((ran.code, ran.out), (Some(1), format!("Error: Could not download Job {none}\n")));
    assert!(!node.file(&none).exists(), "nothing is left half done");
    said(&node, &["get", "artifacts", "local", "zz"], "Error: Job `zz` does not exist for environment `local`");
}

#[test]
fn a_job_is_known_by_the_name_that_its_user_chose() {
    let node = Node::started("alpha");
    let first = node.submit(&["--name", "my-run"], &["echo", "one"]);
    node.completed(&first);
    assert_eq!(ok(&node, &["get", "logs", "scheduler", "my-run"]), "one\n");
    assert_eq!(node.ok(&["logs", "my-run"]), "one\n");
    let second = node.submit(&["--name", "my-run"], &["echo", "two"]);
    node.completed(&second);
    let line = format!("\"my-run\" is the name of several jobs: {second}, {first}; give more of the id");
    refused(&node, &["get", "logs", "scheduler", "my-run"], 1, &line);
    node.refused(&["logs", "my-run"], 1, &line);
    node.ok(&["job", "delete", &first]);
    node.ok(&["job", "archive", &second]);
    assert_eq!(node.ok(&["logs", "my-run"]), "two\n", "an archived one counts, a deleted one does not");
}

#[test]
fn the_node_is_asked_instead_of_a_login() {
    let node = Node::started("alpha");
    let out = ok(&node, &["login", "http://localhost:5558", "-u", "ada", "-p", "secret"]);
    assert!(out.starts_with("Foundations INFO: No login is needed: node alpha of cluster alpha trusts "), "{out}");
    assert!(out.ends_with("\nLogin Succeeded!\n"), "{out}");
    assert!(!node.file(".foundations").exists(), "no password and no token is written");
}
