//! What leaves this server: every event of ours, and what we were asked to pass on, goes to the
//! servers in its room; what passes goes along (server-server API, "Transactions", "EDUs"). Which
//! servers those are follows from the state before and after an event, so that a server whose last
//! user is removed hears of it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::{Arc, atomic::AtomicBool},
};

use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName, UserId};
use tokio::sync::{Semaphore, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    destination::{Destination, DestinationState, Pending},
    edu_queue::OutgoingReceipt,
    introductions::Newcomer,
    peers::Peers,
};
use crate::{
    encryption::Encryption,
    ephemeral::Presence,
    protocol::membership::Membership,
    rooms::{
        Acceptance, AcceptanceHook, Accepted, EventRequest, MEMBER, Room, Rooms, StickyEvent,
        StoredEvent,
    },
    storage::{StorageError, WriteTx, destinations::OutboxCursor},
};

/// Transactions that are under way at the same time. Further servers wait, first come first
/// served.
const SENDS_AT_ONCE_MAX: usize = 100;

/// What leaves this server. Clones share it.
#[derive(Clone)]
pub struct Outbox(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub rooms: Rooms,
    pub peers: Peers,
    pub presence: Presence,
    pub encryption: Encryption,
    pub slots: Arc<Semaphore>,
    pub destinations: Mutex<HashMap<OwnedServerName, Arc<Destination>>>,
    /// Up to where events have been given to destinations.
    pub cursor: Mutex<OutboxCursor>,
    /// The cursor as it is in the database.
    pub kept_cursor: Mutex<OutboxCursor>,
    /// Up to where changes of devices have been given to destinations, and what the database says of it.
    pub device_cursor: Mutex<(i64, i64)>,
    /// Whether what was left at the last stop has been taken up.
    pub is_restored: AtomicBool,
    /// Whether other servers are talked with at all.
    is_enabled: bool,
    feed: mpsc::UnboundedSender<Task>,
    arrivals: Mutex<Option<mpsc::UnboundedReceiver<Task>>>,
    newcomer_feed: mpsc::UnboundedSender<Newcomer>,
    pub newcomers: Mutex<Option<mpsc::UnboundedReceiver<Newcomer>>>,
    /// Entries of our users into rooms that this server is in, which other servers pass on.
    handed_over: Mutex<HashSet<OwnedEventId>>,
    pub tasks: TaskTracker,
    pub shutdown: CancellationToken,
}

/// Something that happened in a room and concerns other servers.
enum Task {
    Depart(Departure),
    /// An event of ours needs no sending: another server has it and passes it on.
    Pass(OutboxCursor),
    /// A server has come in.
    Welcome(Arc<Room>, OwnedServerName),
}

/// That another server passes an event of ours on.
pub(super) struct HandedOver<'a> {
    outbox: &'a Outbox,
    event: OwnedEventId,
}

impl Drop for HandedOver<'_> {
    fn drop(&mut self) {
        self.outbox.0.handed_over.lock().remove(&self.event);
    }
}

/// An event that other servers should have.
struct Departure {
    room: Arc<Room>,
    event: Arc<StoredEvent>,
    position: i64,
    /// The servers in the room before it.
    before: Arc<[OwnedServerName]>,
    /// A server that has it.
    except: Option<OwnedServerName>,
}

impl Outbox {
    pub fn new(
        rooms: Rooms,
        peers: Peers,
        presence: Presence,
        encryption: Encryption,
        is_enabled: bool,
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) -> Self {
        let (feed, arrivals) = mpsc::unbounded_channel();
        let (newcomer_feed, newcomers) = mpsc::unbounded_channel();
        Self(Arc::new(Inner {
            rooms,
            peers,
            presence,
            encryption,
            slots: Arc::new(Semaphore::new(SENDS_AT_ONCE_MAX)),
            destinations: Mutex::default(),
            cursor: Mutex::new(OutboxCursor::START),
            kept_cursor: Mutex::new(OutboxCursor::START),
            device_cursor: Mutex::default(),
            is_restored: AtomicBool::new(false),
            is_enabled,
            feed,
            arrivals: Mutex::new(Some(arrivals)),
            newcomer_feed,
            newcomers: Mutex::new(Some(newcomers)),
            handed_over: Mutex::default(),
            tasks,
            shutdown,
        }))
    }

    pub fn server_name(&self) -> &ServerName {
        self.0.rooms.server_name()
    }

    /// Resolves when the server stops.
    pub async fn stopping(&self) {
        self.0.shutdown.cancelled().await;
    }

    /// Passes an event of another server's user on, which came to us by a handshake ("the resident
    /// server must also send the event to other servers").
    pub async fn pass_on(
        &self,
        room: &Arc<Room>,
        event: &Arc<StoredEvent>,
        except: &ServerName,
    ) -> Result<(), StorageError> {
        let before = self.0.rooms.servers_in_room(room).await?;
        let departure = Departure {
            room: Arc::clone(room),
            position: event.position(),
            event: Arc::clone(event),
            before,
            except: Some(except.to_owned()),
        };
        // Only a server that stops has nobody to take it.
        let _ = self.0.feed.send(Task::Depart(departure));
        Ok(())
    }

    /// Tells the other servers in the room that a user of ours types, or does no more.
    pub async fn send_typing(&self, room: &Arc<Room>, user: &UserId, types: bool) {
        self.for_each_other(room, |state| {
            state.edus.add_typing(room.room_id.clone(), user.to_owned(), types);
        })
        .await;
    }

    /// Tells the other servers in the room how far a user of ours has read.
    pub async fn send_receipt(&self, room: &Arc<Room>, user: &UserId, receipt: OutgoingReceipt) {
        self.for_each_other(room, |state| {
            state.edus.add_receipt(room.room_id.clone(), user.to_owned(), receipt.clone());
        })
        .await;
    }

    /// Tells the servers that share a room with a user of ours how they are.
    pub async fn send_presence(&self, user: &UserId) {
        if user.server_name() != self.0.rooms.server_name() {
            return;
        }
        match self.list_neighbours(user).await {
            Ok(servers) => {
                for server in servers {
                    self.give(&server, |state| state.edus.add_presence(user.to_owned()));
                }
            }
            Err(error) => tracing::warn!(%error, "a change of presence reached no other server"),
        }
    }

    /// Has a server looked after that something waits for in the database.
    pub fn wake(&self, server: &ServerName) {
        self.give(server, |state| state.has_stored_edus = true);
    }

    /// Notes that a server lives: it has just asked us something.
    pub fn note_alive(&self, server: &ServerName) {
        let destination = self.0.destinations.lock().get(server).cloned();
        if let Some(destination) = destination {
            let mut state = destination.state.lock();
            if state.failures > 0 {
                state.failures = 0;
                state.retry_at_ms = 0;
                destination.hurry.notify_one();
            }
        }
    }

    /// The other servers that share a room with a user.
    pub async fn list_neighbours(
        &self,
        user: &UserId,
    ) -> Result<BTreeSet<OwnedServerName>, StorageError> {
        let mut servers = BTreeSet::new();
        for place in self.0.rooms.rooms_of(user).await?.list_joined() {
            servers.extend(self.0.rooms.servers_in_room(&place.room).await?.iter().cloned());
        }
        servers.remove(self.0.rooms.server_name());
        Ok(servers)
    }

    /// Gives departing events to destinations until shutdown.
    pub async fn run(self) {
        let Some(mut arrivals) = self.0.arrivals.lock().take() else { return };
        loop {
            tokio::select! {
                task = arrivals.recv() => match task {
                    Some(Task::Depart(departure)) => self.dispatch(departure).await,
                    Some(Task::Pass(place)) => self.move_cursor(place),
                    Some(Task::Welcome(room, server)) => self.welcome(&room, &server).await,
                    None => return,
                },
                () = self.0.shutdown.cancelled() => return,
            }
        }
    }

    async fn dispatch(&self, departure: Departure) {
        let (room, event) = (&departure.room, &departure.event);
        let before = &departure.before;
        let now = self.0.rooms.servers_in_room(room).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "an event reaches fewer servers than it should");
            Arc::clone(before)
        });
        let concerned = find_concerned(event);
        let mut servers: BTreeSet<&ServerName> = BTreeSet::new();
        servers.extend(now.iter().map(|server| &**server));
        // The list is the same one for most events.
        if !Arc::ptr_eq(before, &now) {
            servers.extend(before.iter().map(|server| &**server));
        }
        servers.extend(concerned.as_deref());
        servers.remove(self.0.rooms.server_name());
        if let Some(except) = &departure.except {
            servers.remove(&**except);
        }
        let pending = Pending { room: room.nid, event: event.nid, position: departure.position };
        for server in servers {
            self.give(server, |state| state.push(pending));
        }
        self.move_cursor(OutboxCursor { position: departure.position, event: event.nid });
    }

    fn move_cursor(&self, place: OutboxCursor) {
        let mut cursor = self.0.cursor.lock();
        if place.position > cursor.position {
            *cursor = place;
        }
    }

    /// Notes that a server which lets a user of ours into a room passes the event on, as long as what is
    /// returned is held.
    pub(super) fn hand_over(&self, event: &EventId) -> HandedOver<'_> {
        self.0.handed_over.lock().insert(event.to_owned());
        HandedOver { outbox: self, event: event.to_owned() }
    }

    /// "When a new server joins the room, existing servers MUST attempt to push all of their own sticky
    /// events" (MSC4354).
    async fn welcome(&self, room: &Arc<Room>, server: &ServerName) {
        match self.list_sticky(room).await {
            Ok(sticky) => {
                for pending in sticky {
                    self.give(server, |state| state.push(pending));
                }
            }
            Err(error) => tracing::warn!(%error, "a new server gets no sticky events"),
        }
    }

    /// What sticks to a room of what this server's users have sent.
    pub(super) async fn list_sticky(&self, room: &Arc<Room>) -> Result<Vec<Pending>, StorageError> {
        let sticky = self.0.rooms.list_own_sticky(room).await?;
        let pending = |(sticky, event): (StickyEvent, Arc<StoredEvent>)| Pending {
            room: room.nid,
            event: event.nid,
            position: sticky.position,
        };
        Ok(sticky.into_iter().map(pending).collect())
    }

    /// Dispatches an event that was committed before the server stopped the last time.
    pub(super) async fn dispatch_again(&self, room: Arc<Room>, event: Arc<StoredEvent>) {
        let position = event.position();
        self.dispatch(Departure { room, event, position, before: Arc::from([]), except: None })
            .await;
    }

    async fn for_each_other(&self, room: &Arc<Room>, add: impl Fn(&mut DestinationState)) {
        let own_name = self.0.rooms.server_name();
        match self.0.rooms.servers_in_room(room).await {
            Ok(servers) => {
                for server in servers.iter().filter(|server| *server != own_name) {
                    self.give(server, &add);
                }
            }
            Err(error) => tracing::warn!(%error, "an EDU reached no other server"),
        }
    }

    /// Adds something for a server, and sees to it that somebody works for it.
    pub(super) fn give(&self, server: &ServerName, add: impl FnOnce(&mut DestinationState)) {
        if !self.0.is_enabled {
            return;
        }
        // Held until the work is under way, so that nobody begins it twice (see `rest`).
        let mut destinations = self.0.destinations.lock();
        let known = destinations.get(server).cloned();
        let destination = known.unwrap_or_else(|| {
            let made = Destination::new(server.to_owned());
            destinations.insert(server.to_owned(), Arc::clone(&made));
            made
        });
        let mut state = destination.state.lock();
        add(&mut state);
        if !state.is_running && state.has_work() {
            state.is_running = true;
            drop(state);
            let work = self.clone().work_for(destination);
            let shutdown = self.0.shutdown.clone();
            self.0.tasks.spawn(async move { shutdown.run_until_cancelled(work).await });
        }
    }
}

/// Servers that an event concerns though none of their users is in the room: those of who was
/// removed, banned or has left.
fn find_concerned(event: &StoredEvent) -> Option<OwnedServerName> {
    if event.event.kind() != MEMBER {
        return None;
    }
    let membership = Membership::of_event(&event.event);
    // An invitation reaches its server by a request of its own.
    let concerns = matches!(membership, Some(Membership::Leave | Membership::Ban));
    let target = event.event.state_key().and_then(|user| <&UserId>::try_from(user).ok());
    target.filter(|_| concerns).map(|user| user.server_name().to_owned())
}

/// What one append gives to the outbox.
struct Leaving {
    outbox: Outbox,
    before: Arc<[OwnedServerName]>,
}

impl AcceptanceHook for Outbox {
    fn prepare<'a>(
        &'a self,
        rooms: &'a Rooms,
        room: Option<&'a Arc<Room>>,
        _: &'a [EventRequest],
    ) -> BoxFuture<'a, Result<Box<dyn Acceptance>, StorageError>> {
        Box::pin(async move {
            let before = match room {
                Some(room) => rooms.servers_in_room(room).await?,
                None => Arc::from([]),
            };
            Ok(Box::new(Leaving { outbox: self.clone(), before }) as Box<dyn Acceptance>)
        })
    }
}

impl Acceptance for Leaving {
    fn accept(&self, accepted: &Accepted<'_>, tx: &mut WriteTx) {
        let own_name = self.outbox.0.rooms.server_name();
        if self.outbox.0.is_enabled {
            self.note_newcomers(accepted, tx);
        }
        // A server that is not in the room yet has its event passed on by the one that lets it in.
        let is_in_room = self.before.iter().any(|server| server == own_name);
        let own = accepted.events.iter().zip(accepted.positions);
        let own = own.filter(|(event, _)| event.event.sender().server_name() == own_name);
        for (event, offset) in own {
            let (room, event) = (Arc::clone(accepted.room), Arc::clone(event));
            let (before, offset) = (Arc::clone(&self.before), *offset);
            let feed = self.outbox.0.feed.clone();
            let is_passed_on =
                !is_in_room || self.outbox.0.handed_over.lock().contains(event.event.event_id());
            tx.after_publish(move |committed| {
                let position = committed.position(offset);
                let _ = feed.send(match is_passed_on {
                    true => Task::Pass(OutboxCursor { position, event: event.nid }),
                    false => {
                        Task::Depart(Departure { room, event, position, before, except: None })
                    }
                });
            });
        }
        if is_in_room {
            self.note_new_servers(accepted, tx);
        }
    }
}

impl Leaving {
    fn note_newcomers(&self, accepted: &Accepted<'_>, tx: &mut WriteTx) {
        let own_name = self.outbox.0.rooms.server_name();
        for (user, index) in accepted.joined {
            let offset = accepted.positions.get(*index).copied();
            let Some(offset) = offset.filter(|_| user.server_name() == own_name) else { continue };
            let (room, user) = (Arc::clone(accepted.room), user.clone());
            let feed = self.outbox.0.newcomer_feed.clone();
            tx.after_publish(move |committed| {
                let position = committed.position(offset);
                drop(feed.send(Newcomer { room, user, position }));
            });
        }
    }

    fn note_new_servers(&self, accepted: &Accepted<'_>, tx: &mut WriteTx) {
        let joined = accepted.joined.iter().map(|(user, _)| user.server_name());
        let is_new = |server: &&ServerName| !self.before.iter().any(|known| known == *server);
        let newcomers: BTreeSet<OwnedServerName> =
            joined.filter(is_new).map(ToOwned::to_owned).collect();
        for server in newcomers {
            let (room, feed) = (Arc::clone(accepted.room), self.outbox.0.feed.clone());
            tx.after_publish(move |_| {
                let _ = feed.send(Task::Welcome(room, server));
            });
        }
    }
}
