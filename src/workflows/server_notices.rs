//! The server's own words to a user, in one room for each (Client-Server API, "Server Notices").

use std::sync::Arc;

use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId};
use serde_json::{Map, Value, json};
use tokio::sync::Mutex;

use super::member_content::load_member_content;
use crate::{
    accounts::{
        Accounts,
        account_data::StoreDataError,
        flags::AccountFlags,
        register::{NewAccount, RegisterError},
    },
    config::ServerNoticesConfig,
    protocol::{membership::Membership, room_version::RoomVersion},
    rooms::{
        AppendError, CreateRoomError, DirectoryVisibility, EventRequest, MemberChange,
        MembershipError, NewRoom, Preset, Room, Rooms, SentBy,
    },
    storage::{StorageError, WriteTx, administration},
};

/// What made the account that speaks, so that nobody else has its name.
const ACCOUNT_MAKER: &str = "server-notices";
/// The tag by which clients know the room.
const TAG: &str = "m.server_notice";
/// Readers do not write here.
const READER_LEVEL: i64 = -10;
/// Accounts that are looked at together.
const PAGE_ACCOUNTS: u32 = 500;

/// Something to tell a user.
#[derive(Clone, Debug)]
pub struct Notice {
    pub user_id: OwnedUserId,
    pub kind: String,
    pub state_key: Option<String>,
    pub content: Map<String, Value>,
    /// Administrator, device and transaction, which make the request idempotent.
    pub sent_by: Option<(OwnedUserId, String)>,
}

/// Why a notice was not sent.
#[derive(Debug, thiserror::Error)]
pub enum NoticeError {
    #[error("there is no such user here")]
    UnknownUser,
    #[error("the name that `server_notices.localpart` gives belongs to somebody")]
    NameTaken,
    #[error("the user has banned the server from speaking, or cannot be invited: {0}")]
    Unreachable(MembershipError),
    #[error(transparent)]
    Register(#[from] RegisterError),
    #[error(transparent)]
    Create(#[from] CreateRoomError),
    #[error(transparent)]
    Tag(#[from] StoreDataError),
    #[error(transparent)]
    Append(#[from] AppendError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// Speaks to users.
pub struct ServerNotices {
    accounts: Arc<Accounts>,
    rooms: Rooms,
    config: ServerNoticesConfig,
    version: RoomVersion,
    /// Held while the account that speaks and a room are looked for and made, so that there is one of it
    /// and no user gets two rooms.
    opening: Mutex<()>,
}

impl ServerNotices {
    pub fn new(
        accounts: Arc<Accounts>,
        rooms: Rooms,
        config: ServerNoticesConfig,
        version: RoomVersion,
    ) -> Self {
        Self { accounts, rooms, config, version, opening: Mutex::default() }
    }

    /// Sends a notice, making the room or inviting the user again where needed.
    pub async fn send(&self, notice: Notice) -> Result<OwnedEventId, NoticeError> {
        let account = self.accounts.find_account(&notice.user_id).await?;
        if account.is_none_or(|account| account.flags.is_deactivated()) {
            return Err(NoticeError::UnknownUser);
        }
        let (speaker, room) = {
            let _opening = self.opening.lock().await;
            let speaker = self.find_speaker().await?;
            let room = self.open_room(&speaker, &notice.user_id).await?;
            (speaker, room)
        };
        let sent_by = notice.sent_by.map(|(_, transaction_id)| SentBy {
            user_id: speaker.clone(),
            device_id: ACCOUNT_MAKER.to_owned(),
            transaction_id,
            path: format!("{}/{}", room.room_id, notice.kind),
        });
        let content = Value::Object(notice.content);
        let request = EventRequest {
            state_key: notice.state_key,
            sent_by,
            ..EventRequest::message(speaker, &notice.kind, content)
        };
        let event = self.rooms.send(&room, request).await?;
        Ok(event.event.event_id().to_owned())
    }

    /// Tells a user a text.
    pub async fn tell(&self, user_id: &UserId, text: &str) -> Result<OwnedEventId, NoticeError> {
        let content = json!({ "msgtype": "m.text", "body": text });
        self.send(Notice {
            user_id: user_id.to_owned(),
            kind: "m.room.message".to_owned(),
            state_key: None,
            content: content.as_object().cloned().unwrap_or_default(),
            sent_by: None,
        })
        .await
    }

    /// Tells every administrator a text. Who cannot be told is passed over.
    pub async fn tell_administrators(&self, text: &str) -> Result<(), StorageError> {
        let mut after = String::new();
        loop {
            let page = self.accounts.list_accounts(&after, PAGE_ACCOUNTS).await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.user_id.to_string();
            let is_reached = |flags: AccountFlags| flags.is_admin() && !flags.is_deactivated();
            for account in page.iter().filter(|account| is_reached(account.flags)) {
                if let Err(error) = self.tell(&account.user_id, text).await {
                    let user = &account.user_id;
                    tracing::warn!(user.id = %user, %error, "an administrator was not told");
                }
            }
        }
    }

    /// Whether this is the room in which the server speaks to the user.
    pub async fn is_notice_room(
        &self,
        room_id: &RoomId,
        user_id: &UserId,
    ) -> Result<bool, StorageError> {
        let known =
            administration::find_notice_room(self.rooms.database(), user_id.as_str()).await?;
        Ok(known.is_some_and(|known| known == room_id.as_str()))
    }

    /// The account that speaks, made at the first word.
    async fn find_speaker(&self) -> Result<OwnedUserId, NoticeError> {
        let speaker = self.accounts.parse_new_name(&self.config.localpart)?;
        match self.accounts.find_account(&speaker).await? {
            Some(account) if account.appservice_id.as_deref() == Some(ACCOUNT_MAKER) => {
                return Ok(speaker);
            }
            Some(_) => return Err(NoticeError::NameTaken),
            None => {}
        }
        let account = NewAccount {
            name: Some(self.config.localpart.clone()),
            appservice_id: Some(ACCOUNT_MAKER.to_owned()),
            ..NewAccount::default()
        };
        self.accounts.register(account).await?;
        let name = self.config.display_name.as_str().into();
        // Without it the notices come all the same.
        if self.accounts.set_profile_field(&speaker, "displayname", name).await.is_err() {
            tracing::warn!(user.id = %speaker, "the name of the server's voice was not set");
        }
        Ok(speaker)
    }

    async fn open_room(
        &self,
        speaker: &OwnedUserId,
        user: &OwnedUserId,
    ) -> Result<Arc<Room>, NoticeError> {
        let known = administration::find_notice_room(self.rooms.database(), user.as_str()).await?;
        let room = match known.and_then(|room_id| RoomId::parse(room_id).ok()) {
            Some(room_id) => self.rooms.find(&room_id).await?,
            None => None,
        };
        let Some(room) = room else { return self.make_room(speaker, user).await };
        if self.rooms.membership_of(&room, user).await? == Membership::Leave {
            let content = load_member_content(&self.accounts, user, None).await?;
            let change = MemberChange {
                sender: speaker.clone(),
                target: user.clone(),
                membership: Membership::Invite,
                content,
                is_guest: false,
            };
            self.rooms.invite(&room, change).await.map_err(NoticeError::Unreachable)?;
            self.tag(&room, user).await?;
        }
        Ok(room)
    }

    async fn make_room(
        &self,
        speaker: &OwnedUserId,
        user: &OwnedUserId,
    ) -> Result<Arc<Room>, NoticeError> {
        let levels = [("users_default".to_owned(), READER_LEVEL.into())];
        let new = NewRoom {
            creator: speaker.clone(),
            version: self.version,
            visibility: DirectoryVisibility::Private,
            preset: Some(Preset::PrivateChat),
            name: Some(self.config.room_name.clone()),
            topic: None,
            invites: vec![(user.clone(), load_member_content(&self.accounts, user, None).await?)],
            creator_profile: load_member_content(&self.accounts, speaker, None).await?,
            creation_content: Map::new(),
            initial_state: Vec::new(),
            power_level_content_override: levels.into_iter().collect(),
        };
        let room = self.rooms.create(&new, None).await?;
        let mut tx = WriteTx::new();
        administration::save_notice_room(&mut tx, user.as_str(), room.room_id.as_str());
        self.rooms.writer().commit(tx).await?;
        self.tag(&room, user).await?;
        Ok(room)
    }

    async fn tag(&self, room: &Room, user: &UserId) -> Result<(), NoticeError> {
        let tag = json!({ "order": 0.5 });
        Ok(self.accounts.change_tag(user, &room.room_id, TAG, Some(tag)).await?)
    }
}
