//! `[database]`: which database holds everything, and how it is used.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::{problems::Problems, secret::Secret, units};

/// Which database holds everything, and how it is used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DatabaseConfig {
    /// Empty: SQLite in the data directory. Else `sqlite:PATH` or `postgres://USER:PASSWORD@HOST/NAME`.
    #[serde(with = "units::optional")]
    pub url: Option<Secret>,
    /// A file that holds the address instead, since it may carry a password.
    #[serde(with = "units::optional")]
    pub url_file: Option<PathBuf>,
    /// How many connections read at once; one more writes.
    pub connections: u32,
}

/// A database, parsed from its configured address.
#[derive(Clone, Debug, PartialEq)]
pub enum DatabaseLocation {
    /// An SQLite file.
    Sqlite(PathBuf),
    /// A PostgreSQL address, which may carry a password.
    Postgres(Secret),
}

impl Default for DatabaseConfig {
    fn default() -> Self {
        Self { url: None, url_file: None, connections: 4 }
    }
}

impl DatabaseConfig {
    pub(super) fn location(&self, data_dir: &Path) -> DatabaseLocation {
        let Some(url) = &self.url else {
            return DatabaseLocation::Sqlite(data_dir.join("hearth.db"));
        };
        match url.expose().strip_prefix("sqlite:") {
            Some(path) => DatabaseLocation::Sqlite(strip_authority(path).into()),
            None => DatabaseLocation::Postgres(url.clone()),
        }
    }

    pub(super) fn complete(&mut self, problems: &mut Problems) {
        problems.read_secret("database.url", &mut self.url, self.url_file.as_deref());
        if let Some(url) = &self.url {
            let url = url.expose();
            let sqlite_path = url.strip_prefix("sqlite:").map(strip_authority);
            let postgres =
                ["postgres://", "postgresql://"].iter().any(|scheme| url.starts_with(scheme));
            if !postgres && sqlite_path.is_none_or(str::is_empty) {
                problems.add(
                    "database.url",
                    "must be sqlite:PATH or postgres://USER:PASSWORD@HOST/NAME",
                );
            }
        }
        if self.connections == 0 {
            problems.add("database.connections", "must be at least 1");
        }
    }
}

/// `sqlite:///srv/x.db` and `sqlite:/srv/x.db` mean the same file.
fn strip_authority(path: &str) -> &str {
    path.strip_prefix("//").unwrap_or(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_url_is_sqlite_in_the_data_directory() {
        let location = DatabaseConfig::default().location(Path::new("/srv/data"));
        assert_eq!(location, DatabaseLocation::Sqlite("/srv/data/hearth.db".into()));
    }

    #[test]
    fn sqlite_url_keeps_absolute_and_relative_paths() {
        for (url, path) in [
            ("sqlite:here.db", "here.db"),
            ("sqlite:/srv/here.db", "/srv/here.db"),
            ("sqlite:///srv/here.db", "/srv/here.db"),
        ] {
            let config =
                DatabaseConfig { url: Some(Secret::new(url)), ..DatabaseConfig::default() };
            assert_eq!(config.location(Path::new(".")), DatabaseLocation::Sqlite(path.into()));
        }
    }
}
