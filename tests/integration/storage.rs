//! The store itself on both databases: group commit, isolation of bad jobs, positions, migrations.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicU64, Ordering},
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
