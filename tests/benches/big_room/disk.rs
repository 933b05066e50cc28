//! The data of a server that does not run: opened by the engine itself, and measured on the disk.

use hearth::config::{Config, Secret};
use sqlx::{AssertSqlSafe, Connection, PgConnection, SqliteConnection};

use super::rig::place::{Place, SERVER_NAME, execute};

impl Place {
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
