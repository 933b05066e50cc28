//! Our conversation with other servers: signed requests and their keys, what we send them, what
//! they send us, and what we ask of them. Not for finding and reaching them (`outbound`), nor for
//! judging events (`rooms`).

mod answers;
mod asking_again;
mod authenticate;
mod by_time;
mod completing;
mod destination;
mod device_keys;
mod edu_queue;
mod edus;
mod entering;
mod event_arrays;
mod event_stream;
mod events_answer;
mod handshake_error;
mod hierarchy;
mod identity_servers;
mod introductions;
mod invite;
mod joining;
mod key_document;
mod key_rotation;
mod leaving;
mod media;
mod multipart;
mod outbox;
mod outbox_keeping;
mod peers;
mod queries;
mod receive;
mod relationships;
mod request_signature;
mod resident;
mod resident_invite;
mod room_answer;
mod sender;
mod server_keys;
mod source;
mod third_party_invites;
mod verify;

use std::sync::Arc;

use ruma::{OwnedServerName, ServerName};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{
    answers::Answers, asking_again::AskingAgain, completing::Completions, device_keys::PeerKeys,
    entering::Entries, hierarchy::RemoteSpaces, receive::OriginLocks, source::PeerSource,
};
pub use self::{
    authenticate::{ArrivedRequest, AuthenticateError},
    destination::retry_pause_ms,
    edu_queue::OutgoingReceipt,
    events_answer::EventsAnswer,
    handshake_error::HandshakeError,
    hierarchy::RemoteSpace,
    identity_servers::{
        IdentityAccess, IdentityError, IdentityServers, InviteKey, StoredInvite, WaitingInvite,
    },
    joining::RemoteEntry,
    key_document::{KeyDocument, to_text, write_own_document},
    key_rotation::{MakeKeyError, make_key},
    media::FetchMediaError,
    outbox::Outbox,
    peers::{PeerError, PeerRequest, Peers, path},
    queries::RemoteAlias,
    receive::{Transaction, TransactionError},
    resident::{SupportedVersions, Template},
    resident_invite::ArrivedInvite,
    server_keys::ServerKeys,
    third_party_invites::{BOUND_INVITES_MAX, BoundInvite, THIRD_PARTY_INVITE},
};
use crate::{
    accounts::Accounts,
    clock::Clock,
    encryption::Encryption,
    ephemeral::Ephemeral,
    outbound::Outbound,
    rooms::Rooms,
    storage::{Database, StorageError, Writer},
};

/// How federation is set up.
#[derive(Clone, Debug)]
pub struct FederationSettings {
    /// Whether other servers are talked with at all.
    pub enabled: bool,
    /// Whether large rooms are entered without their members, which follow in the background (MSC3902).
    pub partial_state_joins: bool,
    /// Servers that are asked for keys of others.
    pub key_servers: Vec<OwnedServerName>,
}

/// The conversation. Clones share it.
#[derive(Clone)]
pub struct Federation(Arc<Inner>);

struct Inner {
    settings: FederationSettings,
    rooms: Rooms,
    accounts: Arc<Accounts>,
    ephemeral: Ephemeral,
    encryption: Encryption,
    peers: Peers,
    keys: ServerKeys,
    outbox: Outbox,
    origin_locks: OriginLocks,
    entries: Entries,
    answers: Answers,
    completions: Completions,
    asking_again: AskingAgain,
    remote_spaces: RemoteSpaces,
}

impl Federation {
    /// Wires itself to the rooms, which ask other servers through it from now on.
    pub fn new(
        settings: FederationSettings,
        rooms: Rooms,
        accounts: Arc<Accounts>,
        (ephemeral, encryption): (Ephemeral, Encryption),
        outbound: Outbound,
        (tasks, shutdown): (TaskTracker, CancellationToken),
    ) -> Self {
        let peers = Peers::new(outbound, rooms.server_name().to_owned(), rooms.own_key().clone());
        let store = (rooms.database().clone(), rooms.writer().clone());
        let notaries = settings.key_servers.clone();
        let clock = rooms.clock().clone();
        let keys = ServerKeys::new(peers.clone(), clock, store, notaries);
        if settings.enabled {
            encryption.set_remote_keys(Arc::new(PeerKeys(peers.clone())));
            rooms.set_event_source(Arc::new(PeerSource::new(peers.clone(), keys.clone())));
        }
        let presence = ephemeral.presence.clone();
        let outbox = Outbox::new(
            rooms.clone(),
            peers.clone(),
            presence,
            encryption.clone(),
            settings.enabled,
            (tasks, shutdown),
        );
        let inner = Inner {
            settings,
            rooms,
            accounts,
            ephemeral,
            encryption,
            peers,
            keys,
            outbox,
            origin_locks: OriginLocks::default(),
            answers: Answers::new(),
            entries: Entries::default(),
            completions: Completions::default(),
            asking_again: AskingAgain::default(),
            remote_spaces: RemoteSpaces::default(),
        };
        Self(Arc::new(inner))
    }

    /// Takes up what was left at the last stop, and starts what sends. Nothing is sent before.
    pub async fn start(&self, tasks: &TaskTracker) -> Result<(), StorageError> {
        if !self.is_enabled() {
            return Ok(());
        }
        let outbox = self.outbox();
        outbox.restore().await?;
        tasks.spawn(outbox.clone().run());
        tasks.spawn(outbox.clone().run_keeping());
        tasks.spawn(outbox.clone().run_device_watch(self.0.encryption.clone()));
        tasks.spawn(outbox.clone().run_introductions());
        tasks.spawn(self.clone().run_answers());
        tasks.spawn(self.clone().run_expiry());
        self.complete_all().await?;
        self.ask_again_everywhere().await?;
        tasks.spawn(self.clone().run_asking_again());
        let listening = outbox.clone();
        let (spawner, handle) = (tasks.clone(), tokio::runtime::Handle::current());
        self.ephemeral().presence.set_listener(Arc::new(move |user| {
            let (outbox, user) = (listening.clone(), user.to_owned());
            if user.server_name() == outbox.server_name() {
                spawner.spawn_on(async move { outbox.send_presence(&user).await }, &handle);
            }
        }));
        Ok(())
    }

    /// Writes down what could not be sent, and how others were answered.
    pub async fn stop(&self) {
        self.save_answers().await;
        if self.is_enabled()
            && let Err(error) = self.outbox().keep_all().await
        {
            tracing::warn!(%error, "what waits for other servers was not written down");
        }
    }

    pub fn outbox(&self) -> &Outbox {
        &self.0.outbox
    }

    /// The server that signed a request.
    pub async fn authenticate<'h>(
        &self,
        headers: impl Iterator<Item = &'h str>,
        request: ArrivedRequest<'_>,
    ) -> Result<OwnedServerName, AuthenticateError> {
        let (keys, own_name) = (&self.0.keys, self.server_name());
        let origin = authenticate::authenticate(keys, own_name, headers, request).await?;
        self.outbox().note_alive(&origin);
        Ok(origin)
    }

    pub fn is_enabled(&self) -> bool {
        self.0.settings.enabled
    }

    pub fn server_name(&self) -> &ServerName {
        self.0.rooms.server_name()
    }

    pub fn peers(&self) -> &Peers {
        &self.0.peers
    }

    pub fn keys(&self) -> &ServerKeys {
        &self.0.keys
    }

    /// Our own keys, signed and valid for a day from now.
    pub fn own_key_document(&self) -> serde_json::Map<String, serde_json::Value> {
        let (key, now_ms) = (self.0.peers.signing_key(), self.clock().now_ms());
        let old_keys = self.rooms().own_key().list_old();
        write_own_document(self.server_name(), &key, &old_keys, now_ms)
    }

    fn rooms(&self) -> &Rooms {
        &self.0.rooms
    }

    fn accounts(&self) -> &Accounts {
        &self.0.accounts
    }

    fn encryption(&self) -> &Encryption {
        &self.0.encryption
    }

    fn ephemeral(&self) -> &Ephemeral {
        &self.0.ephemeral
    }

    fn clock(&self) -> &Clock {
        self.0.rooms.clock()
    }

    fn database(&self) -> &Database {
        self.0.rooms.database()
    }

    fn writer(&self) -> &Writer {
        self.0.rooms.writer()
    }

    fn origin_locks(&self) -> &OriginLocks {
        &self.0.origin_locks
    }

    fn answers(&self) -> &Answers {
        &self.0.answers
    }

    /// The room, if this server takes part in it.
    pub async fn find_own_room(
        &self,
        room_id: &ruma::RoomId,
    ) -> Result<Option<Arc<crate::rooms::Room>>, StorageError> {
        let Some(room) = self.rooms().find(room_id).await? else { return Ok(None) };
        let takes_part = self.rooms().is_server_in_room(&room, self.server_name()).await?;
        Ok(takes_part.then_some(room))
    }
}
