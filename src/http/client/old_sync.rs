//! How clients synchronised before `/sync`, and how they still look into rooms they are not in: a
//! snapshot of everything or of one room, and a stream of events (Client-Server API,
//! `GET /initialSync`, `/rooms/{roomId}/initialSync`, `/events`, `/events/{eventId}`).

use std::{pin::pin, sync::Arc, time::Duration};

use axum::extract::State;
use serde::Deserialize;

use super::{
    messages::write_state,
    room_paths::{
        find_readable_room, find_visible_event, load_ignored_users, not_in_room, parse_event_id,
        reader, unknown_event,
    },
};
use crate::{
    accounts::sessions::Session,
    http::{
        auth::{UserOrGuestSession, UserSession},
        error::{MatrixError, MatrixResult},
        json::{Path, Query, RawJson},
        state::{App, AppState},
    },
    notifier::UserWaker,
    protocol::membership::Membership,
    rooms::{
        Access, Direction, Kinds, PageRequest, PageToken, Reader, Room, RoomEventFilter,
        StoredEvent, UserRoom, Viewer, ordering_of_position, write_json_string,
    },
    storage::{ORDERING_STEP, account_data},
    sync::SyncToken,
};

/// Messages of a room in a snapshot when the client does not say, and at most.
const MESSAGES_DEFAULT: usize = 10;
const MESSAGES_MAX: usize = 100;
/// Events in one answer of the stream.
const EVENTS_MAX: usize = 100;

/// The query of both snapshots.
#[derive(Debug, Deserialize)]
pub struct SnapshotQuery {
    limit: Option<usize>,
    #[serde(default)]
    archived: bool,
}

/// The query of the stream.
#[derive(Debug, Deserialize)]
pub struct EventsQuery {
    from: Option<String>,
    /// Milliseconds.
    #[serde(default)]
    timeout: u64,
    room_id: Option<String>,
}

/// `GET /initialSync`.
pub async fn get_snapshot(
    State(app): State<AppState>,
    session: UserSession,
    Query(query): Query<SnapshotQuery>,
) -> MatrixResult<RawJson> {
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let token = current_token(&app);
    let user_rooms = app.rooms.rooms_of(&session.user_id).await?;
    let mut out = format!("{{\"end\":\"{token}\",\"presence\":[");
    app.ephemeral.write_presence_since(&mut out, &user_rooms, 0, &[]).await?;
    out.push_str("],\"account_data\":[");
    let data = app.accounts.list_data(&session.user_id, (0, token.position)).await?;
    let global = data.iter().filter(|piece| piece.room_id.is_empty());
    write_account_data(&mut out, global.map(|piece| (&*piece.kind, &*piece.content)));
    out.push_str("],\"rooms\":[");
    let limit = limit_of(query.limit);
    let mut is_first = true;
    for place in user_rooms.list() {
        let is_shown = match place.membership {
            Membership::Join => true,
            Membership::Invite => shows_invite(&app, &session.user_id, &place).await?,
            Membership::Leave | Membership::Ban => query.archived,
            Membership::Knock => false,
        };
        if is_shown {
            if !std::mem::take(&mut is_first) {
                out.push(',');
            }
            let viewer = app.rooms.viewer(&place.room, &session.user_id).await?;
            write_room(&mut out, (&app, &session), &viewer, &reader, limit).await?;
        }
    }
    out.push_str("]}");
    Ok(RawJson(out.into()))
}

/// Whether the user wants to see the invitation that they have.
async fn shows_invite(app: &App, user_id: &ruma::UserId, place: &UserRoom) -> MatrixResult<bool> {
    let invite = app.rooms.events().load_one(place.room.facts(), place.event).await?;
    Ok(!app.accounts.hides_invite(user_id, invite.event.sender()).await?)
}

/// `GET /rooms/{roomId}/initialSync`: for members, those who were, and whoever may look into the room.
pub async fn get_room_snapshot(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Path(room_id): Path<String>,
    Query(query): Query<SnapshotQuery>,
) -> MatrixResult<RawJson> {
    let viewer = find_readable_room(&app, &session.user_id, &room_id).await?;
    if !matches!(viewer.access().await?, Access::Current | Access::UntilLeft) {
        return Err(not_in_room());
    }
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let mut out = String::new();
    let limit = limit_of(query.limit);
    write_room(&mut out, (&app, &session), &viewer, &reader, limit).await?;
    Ok(RawJson(out.into()))
}

/// `GET /events`: of all rooms, or of one that the user may look into.
pub async fn get_events(
    State(app): State<AppState>,
    session: UserOrGuestSession,
    Query(query): Query<EventsQuery>,
) -> MatrixResult<RawJson> {
    let from = match query.from.as_deref().filter(|from| !from.is_empty()) {
        None => current_token(&app),
        Some(from) => from
            .parse::<SyncToken>()
            .map_err(|_| MatrixError::invalid_param("`from` is no token of this server."))?,
    };
    let timeout = Duration::from_millis(query.timeout).min(app.config.sync.long_poll_max);
    let peeked = match &query.room_id {
        Some(room_id) => {
            let viewer = find_readable_room(&app, &session.user_id, room_id).await?;
            Some(Arc::clone(viewer.room()))
        }
        None if session.is_guest => {
            let message = "Guests look into one room, named by `room_id`.";
            return Err(MatrixError::guest_access_forbidden(message));
        }
        None => None,
    };
    let (chunk, end) = wait_for_events(&app, &session, (from, timeout), peeked.as_ref()).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let mut out = format!("{{\"start\":\"{from}\",\"end\":\"{end}\",\"chunk\":[");
    for (number, (viewer, event)) in chunk.iter().enumerate() {
        if number > 0 {
            out.push(',');
        }
        app.rooms.write_event(&mut out, viewer, &reader, event).await?;
    }
    out.push_str("]}");
    Ok(RawJson(out.into()))
}

/// `GET /events/{eventId}`.
pub async fn get_event(
    State(app): State<AppState>,
    session: UserSession,
    Path(event_id): Path<String>,
) -> MatrixResult<RawJson> {
    let parsed = parse_event_id(&event_id)?;
    let room = app.rooms.find_room_of_event(&parsed).await?.ok_or_else(unknown_event)?;
    let room_id = room.room_id.as_str();
    let (viewer, event) = find_visible_event(&app, &session.user_id, room_id, &event_id).await?;
    let ignored = load_ignored_users(&app, &session.user_id).await?;
    let reader = reader(&app, &session, &ignored);
    let mut out = String::new();
    app.rooms.write_event(&mut out, &viewer, &reader, &event).await?;
    Ok(RawJson(out.into()))
}

fn current_token(app: &App) -> SyncToken {
    let volatile = app.ephemeral.epoch();
    let position = app.writer.position();
    SyncToken { position, volatile, to_device: position, sticky: position }
}

fn limit_of(limit: Option<usize>) -> usize {
    limit.unwrap_or(MESSAGES_DEFAULT).min(MESSAGES_MAX)
}

/// Writes a `RoomInfo`.
async fn write_room(
    out: &mut String,
    (app, session): (&App, &Session),
    viewer: &Viewer,
    reader: &Reader<'_>,
    limit: usize,
) -> MatrixResult<()> {
    let room = viewer.room();
    out.push_str("{\"room_id\":");
    write_json_string(out, room.room_id.as_str());
    // Who only looks into the room has no membership, and knocking came later than this.
    if viewer.member_event().is_some() && viewer.membership != Membership::Knock {
        out.push_str(",\"membership\":");
        write_json_string(out, viewer.membership.as_str());
    }
    if let Some(invite) = viewer.member_event().filter(|_| viewer.membership == Membership::Invite)
    {
        out.push_str(",\"invite\":");
        crate::rooms::write_client_event(out, invite, &reader.view());
    }
    let visibility = if app.rooms.is_published(room).await? { "public" } else { "private" };
    out.push_str(&format!(",\"visibility\":\"{visibility}\",\"account_data\":["));
    let user_id = session.user_id.as_str();
    let data = account_data::list_of_room(&app.database, user_id, room.room_id.as_str()).await?;
    write_account_data(out, data.iter().map(|(kind, content)| (&**kind, &**content)));
    out.push(']');
    if let Some(state) = app.rooms.load_readable_state(viewer).await? {
        write_messages(out, app, viewer, reader, limit).await?;
        let events = app.rooms.events().load(room.facts(), &state.list(Kinds::All)).await?;
        out.push_str(",\"state\":");
        write_state(out, reader, &events);
    }
    out.push('}');
    Ok(())
}

/// The latest messages, oldest first.
async fn write_messages(
    out: &mut String,
    app: &App,
    viewer: &Viewer,
    reader: &Reader<'_>,
    limit: usize,
) -> MatrixResult<()> {
    let request = PageRequest {
        from: None,
        to: None,
        direction: Direction::Backwards,
        limit,
        filter: RoomEventFilter::default(),
    };
    let mut page = app.rooms.load_page(viewer, reader, &request).await?;
    page.events.reverse();
    let start = page.end.or_else(|| page.events.first().map(|event| PageToken::before(event)));
    let start = start.unwrap_or(page.start);
    out.push_str(&format!(",\"messages\":{{\"start\":\"{start}\",\"end\":\"{}\"", page.start));
    out.push_str(",\"chunk\":");
    app.rooms.write_events(out, viewer, reader, &page.events).await?;
    out.push('}');
    Ok(())
}

fn write_account_data<'a>(out: &mut String, data: impl Iterator<Item = (&'a str, &'a str)>) {
    for (number, (kind, content)) in data.enumerate() {
        out.push_str(if number == 0 { "{\"content\":" } else { ",{\"content\":" });
        out.push_str(content);
        out.push_str(",\"type\":");
        write_json_string(out, kind);
        out.push('}');
    }
}

type SeenEvents = Vec<(Arc<Viewer>, Arc<StoredEvent>)>;

/// Subscribes first, then looks, and waits as long as there is nothing.
async fn wait_for_events(
    app: &App,
    session: &Session,
    (from, timeout): (SyncToken, Duration),
    peeked: Option<&Arc<Room>>,
) -> MatrixResult<(SeenEvents, SyncToken)> {
    let mut deadline = pin!(tokio::time::sleep(timeout));
    let listener = Arc::new(UserWaker::default());
    if let Some(room) = peeked {
        room.add_listener(&listener);
    }
    let mut is_late = timeout.is_zero();
    loop {
        let user_rooms = app.rooms.rooms_of(&session.user_id).await?;
        let (by_user, by_room) = (user_rooms.waker.subscribe(), listener.subscribe());
        let end = current_token(app);
        let rooms = match peeked {
            Some(room) => vec![Arc::clone(room)],
            None => {
                let places = user_rooms.list().into_iter().filter(|place| {
                    place.is_joined() && place.room.activity() > from.position
                        || place.position > from.position
                });
                places.map(|place| place.room).collect()
            }
        };
        let (events, end) = list_news(app, session, &rooms, (from, end)).await?;
        if !events.is_empty() || is_late || app.shutdown.is_cancelled() {
            return Ok((events, end));
        }
        tokio::select! {
            () = by_user => {}
            () = by_room => {}
            () = &mut deadline => is_late = true,
            () = app.shutdown.cancelled() => {}
        }
    }
}

/// What the user may see of these rooms between two tokens, oldest first, and where it ends.
async fn list_news(
    app: &App,
    session: &Session,
    rooms: &[Arc<Room>],
    (from, end): (SyncToken, SyncToken),
) -> MatrixResult<(SeenEvents, SyncToken)> {
    let ignored = load_ignored_users(app, &session.user_id).await?;
    let reader = reader(app, session, &ignored);
    let after = ordering_of_position(from.position);
    let mut found: SeenEvents = Vec::new();
    // Where the first of the rooms with too much news was cut off.
    let mut reached = end.position;
    for room in rooms {
        let viewer = Arc::new(app.rooms.viewer(room, &session.user_id).await?);
        let before = ordering_of_position(end.position) + ORDERING_STEP;
        let events = app.rooms.list_forwards(room, (after, before), EVENTS_MAX).await?;
        if events.len() == EVENTS_MAX
            && let Some(last) = events.last()
        {
            reached = reached.min(last.position());
        }
        for event in events {
            if reader.takes(&event) && viewer.sees(&event).await? {
                found.push((Arc::clone(&viewer), event));
            }
        }
    }
    found.sort_by_key(|(_, event)| event.position());
    if let Some((_, last)) = found.get(EVENTS_MAX - 1) {
        reached = reached.min(last.position());
    }
    found.retain(|(_, event)| event.position() <= reached);
    Ok((found, SyncToken { position: reached, ..end }))
}
