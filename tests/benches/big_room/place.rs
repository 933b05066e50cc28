//! Where the data of one run live: a directory, and for PostgreSQL a schema.

use hearth::config::{Config, Secret};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};
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

    pub fn config(&self) -> Config {
        let mut config = Config::default();
        config.server.name = SERVER_NAME.try_into().expect("is a name");
        config.server.data_dir = self.directory.path().join("data");
        config.database.url = self.url().map(Secret::new);
        config
    }

    /// What the snapshots above a number take on the disk, bytes: of a copy of them, with its index.
    pub async fn measure_snapshots(&self, above: i64) -> i64 {
        let rows = "SELECT nid, parent_nid, height, delta FROM";
        let condition = format!("WHERE nid > {above} ORDER BY nid");
        if let Some(url) = self.url() {
            let mut connection = PgConnection::connect(&url).await.expect("answers");
            let copy = format!(
                "CREATE TABLE measured (LIKE state_snapshots INCLUDING ALL);
                 INSERT INTO measured {rows} state_snapshots {condition}"
            );
            sqlx::raw_sql(AssertSqlSafe(copy)).execute(&mut connection).await.expect("copies");
            let sql = "SELECT pg_total_relation_size('measured')";
            let (size,): (i64,) = sqlx::query_as(sql).fetch_one(&mut connection).await.expect("is");
            execute(&url, "DROP TABLE measured".to_owned()).await;
            return size;
        }
        let copy = self.directory.path().join("copy.db");
        let address = format!("sqlite://{}?mode=rwc", copy.display());
        let mut connection = SqliteConnection::connect(&address).await.expect("opens");
        let data = self.directory.path().join("data/hearth.db");
        let sql = format!(
            "ATTACH '{}' AS data;
             CREATE TABLE measured (nid INTEGER PRIMARY KEY, parent_nid BIGINT,
                 height BIGINT NOT NULL, delta BLOB NOT NULL);
             INSERT INTO measured {rows} data.state_snapshots {condition}",
            data.display()
        );
        sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.expect("copies");
        connection.close().await.expect("closes");
        let size = std::fs::metadata(&copy).expect("is there").len();
        std::fs::remove_file(&copy).expect("was there");
        size.cast_signed()
    }
}

async fn execute(url: &str, sql: String) {
    let mut connection = PgConnection::connect(url).await.expect("answers");
    sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.expect("is understood");
    connection.close().await.expect("closes");
}
