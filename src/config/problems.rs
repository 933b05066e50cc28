//! What is wrong with a configuration, collected so that all of it is told at once.

use std::{
    fmt, io,
    path::{Path, PathBuf},
};

use super::secret::Secret;

/// Every problem of one configuration, in the order of the file.
#[derive(Debug, thiserror::Error)]
pub struct ConfigProblems {
    file: Option<PathBuf>,
    problems: Vec<ConfigProblem>,
}

/// One problem.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigProblem {
    /// Where the value comes from.
    pub place: Place,
    /// A sentence about it.
    pub message: String,
}

/// Where a value comes from.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// The whole: what is missing has no line.
    Everywhere,
    /// A line of the file, from 1.
    Line(usize),
    /// An environment variable.
    Variable(String),
}

/// Collects problems of values, named by their dotted path; the places are looked up afterwards.
#[derive(Debug, Default)]
pub(super) struct Problems {
    found: Vec<(String, String)>,
}

impl ConfigProblems {
    pub(super) fn new(mut problems: Vec<ConfigProblem>) -> Self {
        problems.sort_by(|a, b| a.place.cmp(&b.place));
        Self { file: None, problems }
    }

    pub(super) fn unreadable(path: &Path, error: &io::Error) -> Self {
        let message = format!("the file cannot be read: {error}");
        let problem = ConfigProblem { place: Place::Everywhere, message };
        Self { file: Some(path.to_owned()), problems: vec![problem] }
    }

    pub(super) fn in_file(self, path: Option<&Path>) -> Self {
        Self { file: path.map(Path::to_owned), ..self }
    }

    /// The problems.
    #[must_use]
    pub fn list(&self) -> &[ConfigProblem] {
        &self.problems
    }
}

impl Problems {
    /// Notes that the value at `path` does not do; the message continues the sentence "`path` …".
    pub fn add(&mut self, path: &str, message: &str) {
        self.found.push((path.to_owned(), message.to_owned()));
    }

    pub fn into_list(self) -> Vec<(String, String)> {
        self.found
    }

    /// Notes an address that no browser could open.
    pub fn check_web_address(&mut self, path: &str, url: &str) {
        let host = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
        let host = host.map(|rest| rest.split(['/', '?', '#']).next().unwrap_or_default());
        if host.is_none_or(str::is_empty) || url.contains(char::is_whitespace) {
            self.add(path, "must be a web address such as \"https://matrix.example.org\"");
        }
    }

    /// The text of a file that the configuration names, if it can be read.
    pub fn read_file(&mut self, path: &str, file: &Path) -> Option<String> {
        std::fs::read_to_string(file)
            .map_err(|error| self.add(path, &format!("names {}: {error}", file.display())))
            .ok()
    }

    /// Fills a secret from its file; `path` is that of the secret, and `path` + `_file` that of the file.
    pub fn read_secret(&mut self, path: &str, secret: &mut Option<Secret>, file: Option<&Path>) {
        let Some(file) = file else { return };
        let file_path = format!("{path}_file");
        if secret.is_some() {
            self.add(&file_path, &format!("and {path} are both set; keep one of them"));
            return;
        }
        let Some(text) = self.read_file(&file_path, file) else { return };
        let text = text.trim();
        if text.is_empty() {
            self.add(&file_path, &format!("names {}, which is empty", file.display()));
        } else {
            *secret = Some(Secret::new(text));
        }
    }
}

impl fmt::Display for ConfigProblems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.problems.len();
        let noun = if count == 1 { "problem" } else { "problems" };
        match &self.file {
            Some(file) => write!(formatter, "{count} {noun} in {}:", file.display())?,
            None => write!(formatter, "{count} {noun} in the configuration:")?,
        }
        for problem in &self.problems {
            match &problem.place {
                Place::Everywhere => write!(formatter, "\n  {}", problem.message)?,
                Place::Line(line) => write!(formatter, "\n  line {line}: {}", problem.message)?,
                Place::Variable(name) => write!(formatter, "\n  {name}: {}", problem.message)?,
            }
        }
        Ok(())
    }
}
