//! `[appservices]`: the bridges and bots that belong to this server.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The bridges and bots that belong to this server.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppservicesConfig {
    /// Registration files. `*` in the last part of a path stands for any text.
    pub registrations: Vec<String>,
}

impl AppservicesConfig {
    /// The files that are named, those of one pattern in the order of their names. What cannot be
    /// listed stays as it is, so that reading it tells why.
    #[must_use]
    pub fn list_files(&self) -> Vec<PathBuf> {
        self.registrations.iter().flat_map(|path| expand(Path::new(path))).collect()
    }
}

fn expand(path: &Path) -> Vec<PathBuf> {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let directory = directory.unwrap_or_else(|| Path::new("."));
    if !name.contains('*') {
        return vec![path.to_owned()];
    }
    let Ok(entries) = std::fs::read_dir(directory) else {
        return vec![path.to_owned()];
    };
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|found| matches(name, found)).collect();
    names.sort_unstable();
    names.into_iter().map(|name| directory.join(name)).collect()
}

/// Whether a name consists of the texts between the stars, in this order.
fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let first = parts.next().unwrap_or_default();
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match rest.find(part) {
            Some(at) => rest = &rest[at + part.len()..],
            None => return false,
        }
    }
    rest.len() >= last.len() && rest.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_stand_for_any_text() {
        for (pattern, name, expect) in [
            ("*.yaml", "irc.yaml", true),
            ("*.yaml", "irc.yaml.bak", false),
            ("a*b*c", "a1b2c", true),
            ("a*b*c", "abc", true),
            ("a*b*c", "acb", false),
            ("a*a", "a", false),
        ] {
            assert_eq!(matches(pattern, name), expect, "{pattern} {name}");
        }
    }
}
