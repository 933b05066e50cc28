//! Brings a user's name and picture into the member events of all rooms (Client-Server API, "Events
//! on Change of Profile Information").

use std::sync::Arc;

use futures_util::future::BoxFuture;
use ruma::UserId;
use serde_json::{Map, Value};

use super::{
    jobs::{Job, JobError},
    leave_rooms::skip_refused,
};
use crate::{
    accounts::{
        Accounts,
        profiles::{Profile, UPDATE_MEMBERSHIPS_JOB},
    },
    protocol::membership::Membership,
    rooms::{MemberChange, Room, Rooms},
};

/// What a member event takes from the profile.
const MEMBER_FIELDS: [&str; 2] = ["displayname", "avatar_url"];

/// The job.
pub struct UpdateMemberships {
    pub accounts: Arc<Accounts>,
    pub rooms: Rooms,
}

impl Job for UpdateMemberships {
    fn kind(&self) -> &'static str {
        UPDATE_MEMBERSHIPS_JOB
    }

    fn run<'a>(&'a self, subject: &'a str) -> BoxFuture<'a, Result<(), JobError>> {
        Box::pin(async move {
            let Ok(user_id) = UserId::parse(subject) else { return Ok(()) };
            let Some(profile) = self.accounts.find_profile(&user_id).await? else { return Ok(()) };
            // Whom nobody is to hear does not call out by a new name either.
            let account = self.accounts.find_account(&user_id).await?;
            if account.is_some_and(|account| account.flags.is_shadow_banned()) {
                return Ok(());
            }
            for place in self.rooms.rooms_of(&user_id).await?.list_joined() {
                self.update(&place.room, &user_id, &profile).await?;
            }
            Ok(())
        })
    }
}

impl UpdateMemberships {
    async fn update(
        &self,
        room: &Arc<Room>,
        user_id: &UserId,
        profile: &Profile,
    ) -> Result<(), JobError> {
        let Some(current) = self.rooms.find_member(room, user_id).await? else { return Ok(()) };
        let mut content: Map<String, Value> = current.event.content_as().unwrap_or_default();
        let before = MEMBER_FIELDS.map(|name| content.remove(name));
        let after = MEMBER_FIELDS.map(|name| profile.0.get(name).cloned());
        if before == after || Membership::of_event(&current.event) != Some(Membership::Join) {
            return Ok(());
        }
        // Why somebody joined once is no reason for this event.
        content.remove("reason");
        let fields = MEMBER_FIELDS.iter().zip(after);
        content.extend(fields.filter_map(|(name, value)| Some((name.to_string(), value?))));
        let change = MemberChange {
            sender: user_id.to_owned(),
            target: user_id.to_owned(),
            membership: Membership::Join,
            content,
            is_guest: false,
        };
        skip_refused(room, self.rooms.change_membership(room, change).await)
    }
}
