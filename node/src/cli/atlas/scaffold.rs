//! `foundations init`: the directory of a new project, which can be submitted as it is.

use std::fs;
use std::io;
use std::path::Path;

use super::error::AtlasError;
use super::queue::print;
use crate::cli::error::CliError;
use crate::cli::exit::Exit;
use crate::http::words::submit::check_project;

/// Its files; `{project}` stands for the project's name.
const FILES: [(&str, &str); 3] = [
    ("README.txt", include_str!("template/README.txt")),
    ("main.py", include_str!("template/main.py")),
    ("job.config.yaml", include_str!("template/job.config.yaml")),
];
/// Where a project's data lies.
const DATA: &str = "data";

/// Makes the directory `project` with its files, unless it is there.
pub(crate) fn init(project: &str) -> Result<Exit, AtlasError> {
    check_project(project).map_err(|word| CliError::usage(word.message, word.hint))?;
    let dir = Path::new(project);
    let unwritable = |source| {
        let remedy = "give this user the right to, or go to another directory";
        CliError::File { verb: "write", path: dir.to_owned(), source, remedy }
    };
    match fs::create_dir(dir) {
        // As it was: nothing has failed, the project is there.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return print(&format!("Error: project directory for `{project}` already exists"));
        }
        made => made.map_err(unwritable)?,
    }
    fs::create_dir(dir.join(DATA)).map_err(unwritable)?;
    for (name, text) in FILES {
        fs::write(dir.join(name), text.replace("{project}", project)).map_err(unwritable)?;
    }
    print(&format!("Success: New Foundations project `{project}` created!"))
}
