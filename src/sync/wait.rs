//! Long polling: subscribe first, then build the answer; if it is empty, sleep until something
//! happens or the time is over.

use std::{borrow::Cow, collections::HashSet, pin::pin, sync::Arc};

use ruma::UserId;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{Answer, Result, StickyNews, Sync, SyncRequest, SyncToken};
use crate::rooms::UserRooms;

/// The first allocation for an answer; most hold one event.
const ANSWER_BYTES: usize = 2048;
/// What an initial sync allocates at once, for a room and at most: growing by doubling would touch twice as
/// much memory.
const INITIAL_ROOM_BYTES: usize = 6 << 10;
const INITIAL_BYTES_MAX: usize = 32 << 20;

impl Sync {
    /// The JSON of the answer. An initial sync and one with `full_state` never wait.
    pub async fn sync(
        &self,
        request: &SyncRequest,
        shutdown: &CancellationToken,
    ) -> Result<String> {
        let request = self.without_lost_future(request);
        let request = request.as_ref();
        let timeout = request.timeout.min(self.0.settings.long_poll_max);
        let waits = request.since.is_some() && !request.full_state && !timeout.is_zero();
        let mut deadline = pin!(sleep(timeout));
        let mut is_late = false;
        loop {
            let user_rooms = self.0.rooms.rooms_of(&request.user_id).await?;
            let woken = user_rooms.waker.subscribe();
            let is_over = !waits || is_late || shutdown.is_cancelled();
            if is_over || self.has_news(request, &user_rooms) {
                let (answer, is_empty) = self.build(request, &user_rooms).await?;
                if is_over || !is_empty {
                    return Ok(answer);
                }
            }
            tokio::select! {
                () = woken => {}
                () = &mut deadline => is_late = true,
                () = shutdown.cancelled() => {}
            }
        }
    }

    /// A token from above the stream is of a future that is gone, since a backup was restored. What has
    /// happened since then lies below it and would never be told, so that all is told anew.
    fn without_lost_future<'a>(&self, request: &'a SyncRequest) -> Cow<'a, SyncRequest> {
        let position = self.0.rooms.writer().position();
        match request.since {
            Some(since) if since.position > position => {
                Cow::Owned(SyncRequest { since: None, ..request.clone() })
            }
            _ => Cow::Borrowed(request),
        }
    }

    /// False when it is certain that there is nothing above the request's token.
    fn has_news(&self, request: &SyncRequest, user_rooms: &UserRooms) -> bool {
        let Some(since) = request.since else {
            return true;
        };
        let mut has_news = user_rooms.activity() > since.position
            || self.0.ephemeral.epoch() > since.volatile
            || since.to_device < since.position
            || since.sticky < since.position;
        user_rooms.for_each(|place| {
            has_news |= place.room.activity() > since.position;
        });
        has_news
    }

    /// One answer, and whether it says nothing.
    async fn build(&self, request: &SyncRequest, rooms: &UserRooms) -> Result<(String, bool)> {
        let parts = &*self.0;
        let volatile = parts.ephemeral.epoch();
        let upto = parts.rooms.writer().position();
        let since = request.since.map_or(0, |token| token.position);
        let sticky_since = request.since.map_or(0, |token| token.sticky);
        let answer = Answer {
            parts,
            request,
            since,
            upto,
            now_ms: parts.rooms.clock().now_ms(),
            ignored_users: self.ignored_users(&request.user_id).await?,
            sticky: StickyNews::find(&parts.rooms, rooms, (sticky_since, upto)),
        };
        let mut out = String::with_capacity(first_capacity(request, rooms));
        let messages = answer.load_messages().await?;
        let (to_device, sticky) = (messages.upto, answer.sticky.upto);
        let token = SyncToken { position: upto, volatile, to_device, sticky };
        out.push_str("{\"next_batch\":\"");
        out.push_str(&token.to_string());
        out.push('"');
        let head = out.len();
        answer.write(&mut out, rooms).await?;
        answer.write_messages(&mut out, &messages);
        answer.write_device_lists(&mut out, rooms).await?;
        let is_silent = out.len() == head && messages.upto == upto && sticky == upto;
        answer.write_key_counts(&mut out).await?;
        let is_empty = is_silent && !answer.has_fewer_keys().await?;
        out.push('}');
        Ok((out, is_empty))
    }

    async fn ignored_users(&self, user: &UserId) -> Result<Arc<HashSet<ruma::OwnedUserId>>> {
        self.0.accounts.load_ignored_users(user).await
    }
}

fn first_capacity(request: &SyncRequest, rooms: &UserRooms) -> usize {
    let mut count = 0;
    if request.since.is_none() {
        rooms.for_each(|_| count += 1);
    }
    ANSWER_BYTES.max((count * INITIAL_ROOM_BYTES).min(INITIAL_BYTES_MAX))
}

impl Answer<'_> {
    /// Writes every section that has something to say, each with a comma before it.
    async fn write(&self, out: &mut String, rooms: &UserRooms) -> Result<()> {
        let data = self.load_account_data(rooms).await?;
        self.write_account_data(out, &data);
        self.write_presence(out, rooms).await?;
        self.write_rooms(out, rooms, &data).await
    }

    async fn write_presence(&self, out: &mut String, rooms: &UserRooms) -> Result<()> {
        let since = self.request.since.map_or(0, |token| token.volatile);
        let mut events = String::new();
        let mut entered = Vec::new();
        rooms.for_each(|place| {
            if self.since > 0 && place.is_joined() && place.position > self.since {
                entered.push(place.room.nid);
            }
        });
        let ephemeral = &self.parts.ephemeral;
        if ephemeral.write_presence_since(&mut events, rooms, since, &entered).await? {
            out.push_str(",\"presence\":{\"events\":[");
            out.push_str(&events);
            out.push_str("]}");
        }
        Ok(())
    }
}
