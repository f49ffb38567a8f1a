//! Interpreters, and the tools that build environments with them.

use std::env;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::{Context, Verdict};
use crate::exec::inventory::command;
use crate::exec::inventory::python::{Pythons, Search};

/// Within the limit of a check; importing two modules takes 50 ms.
const ASK_LIMIT: Duration = Duration::from_millis(1_800);

pub(super) fn interpreters(_: &Context) -> Verdict {
    let pythons = Pythons::find(&Search::of_this_process(None));
    let versions: Vec<String> = pythons.versions().into_iter().collect();
    match pythons.get("") {
        Some(default) => Verdict::ok(format!("{}; python3 is {}", versions.join(", "), default.path.display())),
        None => Verdict::warn("no Python 3 here: only jobs of other languages can run", "apt-get install python3"),
    }
}

pub(super) fn venv(_: &Context) -> Verdict {
    let pythons = Pythons::find(&Search::of_this_process(None));
    let Some(python) = pythons.get("") else { return Verdict::skipped("no Python 3 here") };
    let mut ask = Command::new(&python.path);
    ask.args(["-I", "-c", "import ensurepip, venv"]);
    match command::run(&mut ask, ASK_LIMIT).ok().map(|finished| finished.status) {
        Some(Some(status)) if status.success() => {
            Verdict::ok(format!("{} can make virtual environments", python.path.display()))
        }
        Some(None) => Verdict::warn(
            format!("{} takes more than {} ms to start", python.path.display(), ASK_LIMIT.as_millis()),
            "look at the load and the disk of this machine",
        ),
        _ if find_uv().is_some() => Verdict::ok(format!("{} lacks venv, uv makes them instead", python.path.display())),
        _ => Verdict::warn(
            format!("{} cannot make virtual environments: jobs with requirements fail here", python.path.display()),
            "apt-get install python3-venv, or install uv",
        ),
    }
}

pub(super) fn uv(_: &Context) -> Verdict {
    match find_uv() {
        Some(uv) => Verdict::ok(uv.display().to_string()),
        None => Verdict::skipped("not on the path: venv and pip build the environments, several times slower"),
    }
}

fn find_uv() -> Option<PathBuf> {
    command::on_path(&env::var_os("PATH")?, "uv")
}
