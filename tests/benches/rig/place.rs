//! Where the data of one run of a benchmark live: a directory, and for PostgreSQL a schema.

use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

pub struct Place {
    pub directory: TempDir,
    postgres: Option<(String, String)>,
}

pub const SERVER_NAME: &str = "bench.test";

impl Place {
    pub async fn make(postgres: Option<&str>) -> Self {
        let directory = tempfile::tempdir().expect("there is room on the disk");
        let schema = format!("bench_{}", std::process::id());
        let place = Self { directory, postgres: postgres.map(|url| (url.to_owned(), schema)) };
        if let Some((url, schema)) = &place.postgres {
            execute(url, format!("CREATE SCHEMA {schema}")).await;
        }
        place
    }

    pub async fn remove(self) {
        if let Some((url, schema)) = &self.postgres {
            execute(url, format!("DROP SCHEMA {schema} CASCADE")).await;
        }
    }

    pub fn name(&self) -> &'static str {
        if self.postgres.is_some() { "PostgreSQL" } else { "SQLite" }
    }

    /// The address of the database with its schema; None for SQLite.
    pub fn url(&self) -> Option<String> {
        let (url, schema) = self.postgres.as_ref()?;
        let separator = if url.contains('?') { '&' } else { '?' };
        Some(format!("{url}{separator}options[search_path]={schema}"))
    }
}

/// Executes one statement.
pub async fn execute(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url).await.expect("answers");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect("is understood");
    connection.close().await.expect("closes");
}
