//! Connections for reading, up to a limit. One that has answered a query is ready for the next and goes back as it
//! is: the pool of sqlx asks it first whether it is alive, which is another journey to SQLite's thread or to
//! PostgreSQL and another task for each read. Only after a query that failed or was given up is it asked.
//! Not for writing.

use std::{
    collections::VecDeque,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use sqlx::{Connection, Error};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};

use crate::clock::Clock;

/// How long the answer of a connection that was given up is awaited before it is closed.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection that has not been needed for this long is closed.
const IDLE_MAX: Duration = Duration::from_secs(10 * 60);
/// A connection is replaced at this age: what PostgreSQL keeps in memory for it grows.
const AGE_MAX: Duration = Duration::from_secs(30 * 60);

/// The connections to one database. Clones share them.
#[derive(Debug)]
pub(super) struct Readers<C: Connection + 'static>(Arc<Shared<C>>);

#[derive(Debug)]
struct Shared<C: Connection + 'static> {
    options: C::Options,
    /// The one that was used last is the last, and the first to be used again.
    idle: Mutex<VecDeque<Idle<C>>>,
    permits: Arc<Semaphore>,
    connections_max: u32,
    patience: Duration,
    /// Connections age by the machine's time.
    clock: Clock,
}

#[derive(Debug)]
struct Idle<C> {
    connection: C,
    born: Instant,
    since: Instant,
}

impl<C: Connection + 'static> Clone for Readers<C> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<C: Connection + 'static> Readers<C> {
    /// None is opened before it is needed. `patience` is how long a read waits for a free one.
    pub fn new(options: C::Options, connections_max: u32, patience: Duration) -> Self {
        let permits = Arc::new(Semaphore::new(connections_max as usize));
        let idle = Mutex::default();
        Self(Arc::new(Shared {
            options,
            idle,
            permits,
            connections_max,
            patience,
            clock: Clock::real(),
        }))
    }

    /// A connection for one query.
    ///
    /// # Errors
    /// [`Error::PoolTimedOut`] when none becomes free, [`Error::PoolClosed`] after [`Readers::close`],
    /// and what connecting may fail with.
    pub async fn borrow(&self) -> Result<Borrowed<C>, Error> {
        let permit = timeout(self.0.patience, Arc::clone(&self.0.permits).acquire_owned()).await;
        let permit = permit.map_err(|_| Error::PoolTimedOut)?.map_err(|_| Error::PoolClosed)?;
        let idle = self.0.idle.lock().pop_back();
        let (connection, born) = match idle {
            Some(idle) => (idle.connection, idle.born),
            None => (C::connect_with(&self.0.options).await?, self.0.clock.instant()),
        };
        let loan = Loan { connection, born, permit, shared: Arc::clone(&self.0) };
        Ok(Borrowed(Some(loan)))
    }

    /// Waits for the reads under way, then closes all connections. Later reads fail.
    pub async fn close(&self) {
        let all = self.0.permits.acquire_many(self.0.connections_max);
        let _under_way = timeout(self.0.patience, all).await;
        self.0.permits.close();
        let idle = std::mem::take(&mut *self.0.idle.lock());
        for idle in idle {
            close(idle.connection).await;
        }
    }
}

/// A connection on loan. Dropped without [`Borrowed::give_back`] it may be in the middle of an answer.
pub(super) struct Borrowed<C: Connection + 'static>(Option<Loan<C>>);

struct Loan<C: Connection + 'static> {
    connection: C,
    born: Instant,
    permit: OwnedSemaphorePermit,
    shared: Arc<Shared<C>>,
}

impl<C: Connection + 'static> Borrowed<C> {
    pub fn connection(&mut self) -> &mut C {
        &mut self.0.as_mut().expect("a loan lasts until it is given back").connection
    }

    /// Gives a connection back that has answered to the end.
    pub fn give_back(mut self) {
        if let Some(loan) = self.0.take() {
            loan.end();
        }
    }
}

impl<C: Connection + 'static> Drop for Borrowed<C> {
    fn drop(&mut self) {
        let Some(mut loan) = self.0.take() else { return };
        // At the end of the process there is nobody left to lend it to.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            match timeout(SETTLE_TIMEOUT, loan.connection.ping()).await {
                Ok(Ok(())) => loan.end(),
                Ok(Err(_)) | Err(_) => close(loan.connection).await,
            }
        });
    }
}

impl<C: Connection + 'static> Loan<C> {
    fn end(self) {
        let Self { connection, born, permit, shared } = self;
        let since = shared.clock.instant();
        let mut outdated = Vec::new();
        let mut idle = shared.idle.lock();
        match since - born < AGE_MAX && !shared.permits.is_closed() {
            true => idle.push_back(Idle { connection, born, since }),
            false => outdated.push(connection),
        }
        if let Some(unneeded) = idle.pop_front_if(|first| since - first.since > IDLE_MAX) {
            outdated.push(unneeded.connection);
        }
        drop(idle);
        drop(permit);
        if !outdated.is_empty() {
            tokio::spawn(async move {
                for connection in outdated {
                    close(connection).await;
                }
            });
        }
    }
}

async fn close<C: Connection + 'static>(connection: C) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "a connection to the database did not end well");
    }
}
