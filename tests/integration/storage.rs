//! The store itself on both databases: group commit, isolation of bad jobs, positions, migrations.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use hearth::{
    app::open_database,
    params,
    storage::{Cell, Database, MigrateError, Statement, StorageError, WriteTx, Writer, migrate},
};

use crate::{both_databases, harness::Backend};

static INSERT: Statement = Statement {
    table: "notes",
    key: 0,
    sql:
        "INSERT INTO notes (id, text, position)
          SELECT CAST(value->>0 AS BIGINT), value->>1, CAST(value->>2 AS BIGINT) FROM json_each($1)",
};

/// What takes a database some ten milliseconds.
const LONG: i64 = 100_000;
const COUNT_LONG: &str = "WITH RECURSIVE counter (n) AS
    (SELECT CAST(1 AS BIGINT) UNION ALL SELECT n + 1 FROM counter WHERE n < 100000)
    SELECT count(*) FROM counter";

static SAVE: Statement = Statement {
    table: "notes",
    key: 1,
    sql: "INSERT INTO notes (id, text, position)
          SELECT CAST(value->>0 AS BIGINT), value->>1, CAST(value->>2 AS BIGINT)
          FROM json_each($1) WHERE true
          ON CONFLICT (id) DO UPDATE SET text = excluded.text, position = excluded.position",
};

async fn open(backend: &Backend) -> (Database, Writer) {
    let database = open_database(&backend.config()).await.unwrap();
    migrate(&database).await.unwrap();
    let mut tx = database.begin().await.unwrap();
    let sql = "CREATE TABLE IF NOT EXISTS notes
               (id BIGINT PRIMARY KEY, text TEXT NOT NULL, position BIGINT NOT NULL)";
    tx.execute(sql, &[]).await.unwrap();
    tx.commit().await.unwrap();
    let writer = Writer::start(database.clone()).await.unwrap();
    (database, writer)
}

fn note(statement: &'static Statement, id: i64, text: &str) -> WriteTx {
    let mut tx = WriteTx::new();
    let position = tx.next_position();
    tx.push(statement, vec![id.into(), text.into(), Cell::Position(position)]);
    tx
}

async fn list(database: &Database) -> Vec<(i64, String, i64)> {
    let sql = "SELECT id, text, position FROM notes ORDER BY position";
    database.fetch_all(sql, &[]).await.unwrap()
}

both_databases! {
    async fn jobs_of_many_tasks_are_committed_once_each_in_the_order_of_positions(backend: Backend) {
        let (database, writer) = open(backend).await;
        let applied = Arc::new(Mutex::new(Vec::new()));
        let jobs = (0..300).map(|id| {
            let (writer, applied) = (writer.clone(), Arc::clone(&applied));
            tokio::spawn(async move {
                let mut tx = note(&INSERT, id, "text with \"quotes\", \\ and \n");
                tx.after_commit(move |committed| {
                    applied.lock().unwrap().push((committed.first_position, id));
                });
                let committed = writer.commit(tx).await.unwrap();
                assert!(writer.position() >= committed.first_position);
                (committed.first_position, id)
            })
        });
        let jobs: Vec<_> = jobs.collect();
        let mut expected = Vec::new();
        for job in jobs {
            expected.push(job.await.unwrap());
        }
        expected.sort_unstable();
        assert_eq!(*applied.lock().unwrap(), expected);
        let stored: Vec<_> = list(&database).await.into_iter().map(|row| (row.2, row.0)).collect();
        assert_eq!(stored, expected);
        assert_eq!(expected.first().unwrap().0 + 299, expected.last().unwrap().0);
    }

    async fn a_bad_job_fails_alone(backend: Backend) {
        let (database, writer) = open(backend).await;
        writer.commit(note(&INSERT, 1, "first")).await.unwrap();
        // Handed over without waiting, so that they meet in batches.
        let mut tickets = Vec::new();
        for id in 2..40 {
            let (id, text) = match id {
                20 => (1, "the number is taken"),
                21 => (id, "nul \0 in text"),
                _ => (id, "good"),
            };
            tickets.push(writer.reserve().await.unwrap().submit(note(&INSERT, id, text)));
        }
        let mut failures = 0;
        for ticket in tickets {
            failures += u32::from(ticket.committed().await.is_err());
        }
        assert_eq!(failures, 2);
        let stored = list(&database).await;
        assert_eq!(stored.len(), 37);
        assert_eq!(stored.last().unwrap().2, writer.position());
    }

    async fn a_fault_in_one_transaction_ends_no_other(backend: Backend) {
        let (database, writer) = open(backend).await;
        let faulty = writer.transact(|tx| {
            Box::pin(async move {
                tx.execute("INSERT INTO notes VALUES (1, 'of the faulty one', 1)", &[]).await?;
                panic!("a fault")
            })
        });
        let answer: Result<(), StorageError> = faulty.await;
        answer.unwrap_err();
        writer.commit(note(&INSERT, 1, "a good one")).await.unwrap();
        let stored: Vec<_> = list(&database).await.into_iter().map(|row| row.1).collect();
        assert_eq!(stored, ["a good one"]);
    }

    async fn a_fault_in_what_follows_a_write_ends_no_other(backend: Backend) {
        let (database, writer) = open(backend).await;
        let mut faulty = note(&INSERT, 1, "written");
        faulty.after_commit(|_| panic!("a fault after the commit"));
        faulty.after_publish(|_| panic!("a fault after the publication"));
        writer.commit(faulty).await.unwrap();
        writer.commit(note(&INSERT, 2, "a good one")).await.unwrap();
        let stored: Vec<_> = list(&database).await.into_iter().map(|row| row.1).collect();
        assert_eq!(stored, ["written", "a good one"]);
    }

    async fn what_builds_upon_a_failed_job_is_refused(backend: Backend) {
        let (database, writer) = open(backend).await;
        writer.commit(note(&INSERT, 1, "first")).await.unwrap();
        let epoch = Arc::new(AtomicU64::new(0));
        let guarded = |id, expected| {
            let mut tx = note(&INSERT, id, "guarded");
            tx.guard(Arc::clone(&epoch), expected);
            let epoch = Arc::clone(&epoch);
            tx.after_failure(move || {
                epoch.store(expected + 1, Ordering::Release);
            });
            tx
        };
        let failing = writer.reserve().await.unwrap().submit(guarded(1, 0));
        let successor = writer.reserve().await.unwrap().submit(guarded(2, 0));
        let other = writer.reserve().await.unwrap().submit(note(&INSERT, 3, "of another room"));
        failing.committed().await.unwrap_err();
        assert!(matches!(successor.committed().await, Err(StorageError::Superseded)));
        other.committed().await.unwrap();
        writer.commit(guarded(4, 1)).await.unwrap();
        let ids: Vec<_> = list(&database).await.into_iter().map(|row| row.0).collect();
        assert_eq!(ids, [1, 3, 4]);
    }

    async fn the_last_row_of_a_key_wins_whatever_batch_it_is_in(backend: Backend) {
        let (database, writer) = open(backend).await;
        let mut tickets = Vec::new();
        for number in 0..100 {
            let tx = note(&SAVE, number % 3, &number.to_string());
            tickets.push(writer.reserve().await.unwrap().submit(tx));
        }
        for ticket in tickets {
            ticket.committed().await.unwrap();
        }
        let texts: Vec<_> = list(&database).await.into_iter().map(|row| row.1).collect();
        assert_eq!(texts, ["97", "98", "99"]);
    }

    async fn transactions_keep_their_place_among_the_batches(backend: Backend) {
        let (database, writer) = open(backend).await;
        let before = writer.reserve().await.unwrap().submit(note(&SAVE, 1, "before"));
        let read: Result<(i64, String), StorageError> = writer
            .transact(|tx| {
                Box::pin(async move {
                    let sql = "SELECT id, text FROM notes";
                    let row = tx.fetch_optional(sql, &[]).await?;
                    let position = tx.next_position();
                    let sql = "UPDATE notes SET text = $1, position = $2 WHERE id = 1";
                    tx.execute(sql, &params!["within", position]).await?;
                    row.ok_or(StorageError::RowMissing)
                })
            })
            .await;
        before.committed().await.unwrap();
        assert_eq!(read.unwrap(), (1, "before".to_owned()));
        assert_eq!(list(&database).await, [(1, "within".to_owned(), writer.position())]);

        let failed: Result<(), StorageError> = writer
            .transact(|tx| {
                Box::pin(async move {
                    tx.execute("DELETE FROM notes", &[]).await?;
                    Err(StorageError::RowMissing)
                })
            })
            .await;
        failed.unwrap_err();
        assert_eq!(list(&database).await.len(), 1);
    }

    async fn reads_that_are_given_up_take_no_connection_along(backend: Backend) {
        let (database, _writer) = open(backend).await;
        // More than there are connections.
        for _ in 0..40 {
            let read = database.fetch_one::<(i64,)>(COUNT_LONG, &[]);
            let given_up = tokio::time::timeout(Duration::from_millis(1), read).await;
            assert!(given_up.is_err(), "the query is too short to be given up");
        }
        let found: (i64,) = database.fetch_one("SELECT CAST(7 AS BIGINT)", &[]).await.unwrap();
        assert_eq!(found.0, 7, "the answer to another query");
    }

    async fn reads_that_fail_take_no_connection_along(backend: Backend) {
        let (database, _writer) = open(backend).await;
        for _ in 0..40 {
            let failed = database.fetch_one::<(i64,)>("SELECT nothing FROM nowhere", &[]).await;
            assert!(matches!(failed, Err(StorageError::Database(_))), "{failed:?}");
        }
        let found: (i64,) = database.fetch_one("SELECT CAST(7 AS BIGINT)", &[]).await.unwrap();
        assert_eq!(found.0, 7);
    }

    async fn more_reads_than_connections_are_all_answered(backend: Backend) {
        let (database, _writer) = open(backend).await;
        let reads = (0..200_i64).map(|number| {
            let database = database.clone();
            tokio::spawn(async move {
                let sql = "SELECT CAST(value->>0 AS BIGINT) FROM json_each($1)";
                let list = format!("[[{number}]]");
                database.fetch_one::<(i64,)>(sql, &params![list]).await.unwrap().0 == number
            })
        });
        for read in reads.collect::<Vec<_>>() {
            assert!(read.await.unwrap(), "the answer to another query");
        }
    }

    async fn a_database_closes_when_its_reads_have_ended(backend: Backend) {
        let (database, writer) = open(backend).await;
        let reader = database.clone();
        let read = async move { reader.fetch_one::<(i64,)>(COUNT_LONG, &[]).await };
        // The read has begun before the other is polled for the first time.
        drop(writer);
        let (found, ()) = tokio::join!(read, database.close());
        assert_eq!(found.unwrap().0, LONG);
        let late = database.fetch_one::<(i64,)>("SELECT CAST(7 AS BIGINT)", &[]).await;
        assert!(matches!(late, Err(StorageError::Database(_))), "{late:?}");
    }

    async fn positions_go_on_after_a_restart(backend: Backend) {
        let (database, writer) = open(backend).await;
        let first = writer.commit(note(&INSERT, 1, "one")).await.unwrap();
        drop(writer);
        database.close().await;
        let (_database, writer) = open(backend).await;
        let second = writer.commit(note(&INSERT, 2, "two")).await.unwrap();
        assert_eq!(second.first_position, first.first_position + 1);
    }

    async fn a_newer_database_is_refused(backend: Backend) {
        let (database, _writer) = open(backend).await;
        let (newest,): (i64,) =
            database.fetch_one("SELECT max(number) FROM migrations", &[]).await.unwrap();
        let database = open_database(&backend.config()).await.unwrap();
        let number = newest + 1;
        drop(_writer);
        let sql = "INSERT INTO migrations VALUES ($1, 'from the future')";
        let mut tx = database.begin().await.unwrap();
        tx.execute(sql, &params![number]).await.unwrap();
        tx.commit().await.unwrap();
        let error = migrate(&database).await.unwrap_err();
        assert!(matches!(error, MigrateError::DatabaseIsNewer { .. }), "{error}");
    }
}
