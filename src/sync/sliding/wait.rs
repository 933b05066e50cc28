//! Long polling: what a request builds upon, the answer, and the wait for something to say.

use std::{collections::HashSet, pin::pin, sync::Arc};

use parking_lot::Mutex;
use ruma::OwnedUserId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    Answer, News, Position, Resumed, SlidingError, SlidingRequest, SlidingSync,
    connection::{Connection, ConnectionKey},
    lists::Windows,
};
use crate::{
    rooms::{UserRooms, write_json_string},
    storage::StorageError,
};

/// The first allocation for an answer.
const ANSWER_BYTES: usize = 4096;

/// What is newest: a stream position, and the epoch of typing.
type Newest = (i64, u64);

/// An answer before it is known whether it goes out.
struct Draft {
    /// Everything but `pos`, with a comma before each field and without the last brace.
    body: String,
    news: News,
    is_empty: bool,
    newest: Newest,
}

impl Draft {
    /// For a request that nobody waits for any more.
    fn nothing(request: &SlidingRequest) -> Self {
        let newest = request.pos.map_or((0, 0), |pos| (pos.position, pos.volatile));
        let body = ",\"lists\":{},\"rooms\":{},\"extensions\":{}".to_owned();
        Self { body, news: News::default(), is_empty: true, newest }
    }
}

impl SlidingSync {
    /// The JSON of the answer. The first one of a connection never waits.
    pub async fn sync(
        &self,
        request: &SlidingRequest,
        shutdown: &CancellationToken,
    ) -> Result<String, SlidingError> {
        if let Some(problem) = request.body.find_problem() {
            return Err(SlidingError::Invalid(problem));
        }
        // One of a future that is gone, since a backup was restored.
        let position = self.0.rooms.writer().position();
        if request.pos.is_some_and(|pos| pos.position > position) {
            return Err(SlidingError::UnknownPosition);
        }
        let connection = self.find_connection(request).await?;
        let now_ms = self.0.rooms.clock().now_ms();
        let generation = request.pos.map_or(0, |pos| pos.generation);
        let resumed = connection.resume(generation, now_ms);
        let resumed = resumed.ok_or(SlidingError::UnknownPosition)?;
        let mut superseded = pin!(connection.superseded());
        let timeout = request.timeout.min(self.0.settings.long_poll_max);
        let waits = request.pos.is_some() && !timeout.is_zero();
        let mut deadline = pin!(sleep(timeout));
        let mut is_late = false;
        let mut seen: Option<Newest> = None;
        let turn = resumed.turn;
        let mut base = Some(resumed);
        loop {
            let rooms = self.0.rooms.rooms_of(&request.user_id).await?;
            let woken = rooms.waker.subscribe();
            if !connection.is_current(turn) {
                return Ok(self.finish(request, &connection, turn, Draft::nothing(request)));
            }
            let is_over = !waits || is_late || shutdown.is_cancelled();
            if is_over || seen.is_none_or(|seen| self.has_news(&rooms, seen)) {
                let resumed = base.take().unwrap_or_else(|| connection.look_again(turn));
                let mut draft = self.draft(request, &connection, &resumed, &rooms).await?;
                drop(resumed);
                seen = Some(draft.newest);
                let told = draft.is_empty.then_some(draft.news.told);
                connection.note_silently(turn, std::mem::take(&mut draft.news.silent), told);
                if is_over || !draft.is_empty {
                    return Ok(self.finish(request, &connection, turn, draft));
                }
            }
            tokio::select! {
                () = woken => {}
                () = &mut deadline => is_late = true,
                () = &mut superseded => {}
                () = shutdown.cancelled() => {}
            }
        }
    }

    async fn find_connection(
        &self,
        request: &SlidingRequest,
    ) -> Result<Arc<Connection>, SlidingError> {
        let key = ConnectionKey {
            user_id: request.user_id.to_string(),
            device_id: request.device_id.clone(),
            conn_id: request.body.conn_id.clone(),
        };
        match request.pos {
            None => Ok(self.0.connections.begin(key)),
            Some(pos) => {
                let found = self.0.connections.find(&key, pos.connection).await?;
                found.ok_or(SlidingError::UnknownPosition)
            }
        }
    }

    /// False when it is certain that nothing happened since then.
    fn has_news(&self, rooms: &UserRooms, (position, volatile): Newest) -> bool {
        let mut has_news = rooms.activity() > position || self.0.ephemeral.epoch() > volatile;
        rooms.for_each(|place| has_news |= place.room.activity() > position);
        has_news
    }

    async fn draft(
        &self,
        request: &SlidingRequest,
        connection: &Connection,
        resumed: &Resumed,
        rooms: &UserRooms,
    ) -> Result<Draft, StorageError> {
        let inner = &*self.0;
        let volatile = inner.ephemeral.epoch();
        let upto = inner.rooms.writer().position();
        let ignored_users: Arc<HashSet<OwnedUserId>> =
            inner.accounts.load_ignored_users(&request.user_id).await?;
        let data = inner.user_data.load(&inner.accounts, rooms, upto).await?;
        let answer = Answer {
            inner,
            request,
            connection,
            resumed,
            before: request.pos,
            upto,
            volatile,
            now_ms: inner.rooms.clock().now_ms(),
            ignored_users,
            invite_permission: inner.accounts.load_invite_permission(&request.user_id).await?,
            data,
            absent_keys: Mutex::default(),
            timelines: Mutex::default(),
            sticky_shown: Mutex::default(),
        };
        let mut news = News { told: resumed.told, ..News::default() };
        let windows = answer.find_windows(rooms).await?;
        let mut body = String::with_capacity(ANSWER_BYTES);
        write_lists(&mut body, &windows);
        let has_rooms = answer.write_rooms(&mut body, &windows, &mut news).await?;
        let has_more = answer.write_extensions(&mut body, rooms, &windows, &mut news).await?;
        let is_empty = !has_rooms && !has_more;
        Ok(Draft { body, news, is_empty, newest: (upto, volatile) })
    }

    /// Puts the position before the rest. An answer that tells nothing changes no connection.
    fn finish(
        &self,
        request: &SlidingRequest,
        connection: &Arc<Connection>,
        turn: u64,
        draft: Draft,
    ) -> String {
        let old = request.pos.map_or(0, |pos| pos.generation);
        let generation = match draft.is_empty && request.pos.is_some() {
            true => old,
            false => match connection.offer(turn, draft.news.rooms, draft.news.told) {
                Some(generation) => {
                    self.0.connections.note_changed(connection);
                    generation
                }
                // A newer request has begun; nobody reads this answer.
                None => old,
            },
        };
        let (position, volatile) = draft.newest;
        let pos = Position { position, volatile, connection: connection.nid, generation };
        let mut out = format!("{{\"pos\":\"{pos}\"");
        if let Some(txn_id) = &request.body.txn_id {
            out.push_str(",\"txn_id\":");
            write_json_string(&mut out, txn_id);
        }
        out.push_str(&draft.body);
        out.push('}');
        out
    }
}

fn write_lists(out: &mut String, windows: &Windows) {
    out.push_str(",\"lists\":{");
    for (number, (name, count)) in windows.counts.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        write_json_string(out, name);
        out.push_str(":{\"count\":");
        out.push_str(&count.to_string());
        out.push('}');
    }
    out.push('}');
}
