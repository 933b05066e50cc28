//! Where a test's data live: a directory of its own, and for PostgreSQL a schema of its own.

use std::time::Duration;

use hearth::config::{Argon2Config, Config, RegistrationMode, Secret, Size};
use sqlx::{AssertSqlSafe, Connection, PgConnection};
use tempfile::TempDir;

/// Names the database of the tests: `postgres://USER@HOST/NAME`.
const POSTGRES_VARIABLE: &str = "HEARTH_TEST_POSTGRES";

/// Data that outlive the servers of one test.
pub struct Backend {
    data_dir: TempDir,
    postgres: Option<Schema>,
}

struct Schema {
    url: String,
    name: String,
}

/// Runs the body of a test in a runtime of its own, and deletes its data when it has passed.
pub fn run_test(make: fn() -> Backend, body: impl AsyncFnOnce(&Backend)) {
    let backend = make();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        if let Some(schema) = &backend.postgres {
            schema.create().await;
        }
        // No answer takes this long; a test that hangs names itself.
        tokio::time::timeout(Duration::from_secs(60), body(&backend)).await.unwrap();
        if let Some(schema) = &backend.postgres {
            schema.delete().await;
        }
    });
}

/// As [`run_test`], with the data of two servers.
pub fn run_pair_test(make: fn() -> Backend, body: impl AsyncFnOnce(&Backend, &Backend)) {
    run_test(make, async |one| {
        let two = make();
        if let Some(schema) = &two.postgres {
            schema.create().await;
        }
        body(one, &two).await;
        if let Some(schema) = &two.postgres {
            schema.delete().await;
        }
    });
}

/// As [`run_test`], with the data of three servers.
pub fn run_trio_test(make: fn() -> Backend, body: impl AsyncFnOnce([&Backend; 3])) {
    run_pair_test(make, async |one, two| {
        let three = make();
        if let Some(schema) = &three.postgres {
            schema.create().await;
        }
        body([one, two, &three]).await;
        if let Some(schema) = &three.postgres {
            schema.delete().await;
        }
    });
}

impl Backend {
    pub fn sqlite() -> Self {
        Self { data_dir: TempDir::new().unwrap(), postgres: None }
    }

    pub fn postgres() -> Self {
        let Ok(url) = std::env::var(POSTGRES_VARIABLE) else {
            panic!(
                "{POSTGRES_VARIABLE} is not set. Run the tests with .ci/run, which starts a \
                 PostgreSQL of its own, or set it to the address of one."
            );
        };
        let data_dir = TempDir::new().unwrap();
        // The directory's name is unique among the tests that run now.
        let unique: String = data_dir.path().file_name().unwrap().to_str().unwrap().to_lowercase();
        let unique: String = unique.chars().filter(char::is_ascii_alphanumeric).collect();
        let name = format!("test_{}_{unique}", std::process::id());
        Self { data_dir, postgres: Some(Schema { url, name }) }
    }

    /// A configuration for tests: open registration, no limits, cheap passwords.
    pub fn config(&self) -> Config {
        let mut config = Config::default();
        // Port 0: the system chooses one that is free.
        config.listen[0].address = "127.0.0.1:0".parse().unwrap();
        config.server.name = "hearth.test".try_into().unwrap();
        config.server.data_dir = self.data_dir.path().to_owned();
        config.database.url = self.postgres.as_ref().map(|schema| Secret::new(schema.url()));
        config.registration.mode = RegistrationMode::Open;
        config.registration.allow_guests = true;
        config.rate_limits.enabled = false;
        config.users.argon2 = Argon2Config { memory: Size::kib(8), iterations: 1, parallelism: 1 };
        config
    }
}

impl Schema {
    /// The address with which connections find this schema's tables only, and by whose name they
    /// are found.
    fn url(&self) -> String {
        let separator = if self.url.contains('?') { '&' } else { '?' };
        let name = &self.name;
        format!("{}{separator}options[search_path]={name}&application_name={name}", self.url)
    }

    async fn create(&self) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let sql = format!("CREATE SCHEMA {}", self.name);
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Deletes the tables. A server whose client is gone may still be in the middle of a statement,
    /// and would lock tables in another order: PostgreSQL ends it first.
    async fn delete(&self) {
        let mut connection = PgConnection::connect(&self.url).await.unwrap();
        let sql = "SELECT pg_terminate_backend(pid, 10000) FROM pg_stat_activity
            WHERE application_name = $1";
        sqlx::query(sql).bind(&self.name).execute(&mut connection).await.unwrap();
        let sql = format!("DROP SCHEMA {} CASCADE", self.name);
        sqlx::query(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }
}
