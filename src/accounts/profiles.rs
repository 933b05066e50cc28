//! Profiles: what others see of a user (Client-Server API, "Profiles"). A change of name or picture
//! reaches the user's rooms by a job. Not for users of other servers.

use std::{collections::BTreeMap, sync::Arc};

use ruma::UserId;
use serde_json::Value;

use super::{Accounts, flags::AccountFlags};
use crate::storage::{StorageError, accounts, jobs, profiles};

/// The job that brings a user's name and picture into the member events of all rooms; its subject
/// is the user ID.
pub const UPDATE_MEMBERSHIPS_JOB: &str = "update_memberships";
/// The total size of a profile, as canonical JSON ("the total profile MUST be under 64 KiB").
pub const PROFILE_BYTES_MAX: usize = 64 * 1024;
/// The length of a field's name.
pub const FIELD_NAME_BYTES_MAX: usize = 255;

/// A user's profile fields.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Profile(pub BTreeMap<String, Value>);

/// Why a field was not changed.
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("the profile would be larger than 64 KiB")]
    TooLarge,
    #[error("there is no such account")]
    NotFound,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Profile {
    pub fn display_name(&self) -> Option<&str> {
        self.0.get("displayname").and_then(Value::as_str)
    }

    pub fn avatar_url(&self) -> Option<&str> {
        self.0.get("avatar_url").and_then(Value::as_str)
    }
}

impl Accounts {
    /// The profile of a user of this server, from memory when warm; `None` when there is no such
    /// account, or it was deactivated.
    pub async fn find_profile(
        &self,
        user_id: &UserId,
    ) -> Result<Option<Arc<Profile>>, StorageError> {
        if let Some(profile) = self.profile_cache.get(user_id) {
            return Ok(Some(profile));
        }
        let epoch = self.profile_cache.epoch();
        let found = profiles::find(&self.database, user_id.as_str()).await?;
        let Some((_, rows)) = found.filter(|(flags, _)| !AccountFlags(*flags).is_deactivated())
        else {
            return Ok(None);
        };
        let profile = Arc::new(parse_profile(rows)?);
        self.profile_cache.insert(user_id, profile.clone(), epoch);
        Ok(Some(profile))
    }

    /// Sets a field.
    pub async fn set_profile_field(
        &self,
        user_id: &UserId,
        field: &str,
        value: Value,
    ) -> Result<(), ProfileError> {
        self.change_profile_field(user_id, field, Some(value)).await
    }

    /// Deletes a field; without effect when it is not set.
    pub async fn delete_profile_field(
        &self,
        user_id: &UserId,
        field: &str,
    ) -> Result<(), ProfileError> {
        self.change_profile_field(user_id, field, None).await
    }

    async fn change_profile_field(
        &self,
        user_id: &UserId,
        field: &str,
        value: Option<Value>,
    ) -> Result<(), ProfileError> {
        let (target, field) = (user_id.to_string(), field.to_owned());
        let is_in_rooms = matches!(&*field, "displayname" | "avatar_url");
        let (cache, bell) = (self.profile_cache.clone(), self.job_bell.clone());
        let owner = user_id.to_owned();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    accounts::find_in(tx, &target).await?.ok_or(ProfileError::NotFound)?;
                    let mut profile = parse_profile(profiles::list_in(tx, &target).await?)?;
                    let before = profile.0.remove(&field);
                    if before == value {
                        return Ok(());
                    }
                    if let Some(value) = &value {
                        profile.0.insert(field.clone(), value.clone());
                        if measure_profile(&profile) > PROFILE_BYTES_MAX {
                            return Err(ProfileError::TooLarge);
                        }
                        profiles::set_field(tx, &target, &field, &value.to_string()).await?;
                    } else {
                        profiles::delete_field(tx, &target, &field).await?;
                    }
                    if is_in_rooms {
                        jobs::request(tx, UPDATE_MEMBERSHIPS_JOB, &target, "{}").await?;
                    }
                    tx.after_commit(move || {
                        cache.forget(&owner);
                        bell.notify_one();
                    });
                    Ok(())
                })
            })
            .await
    }
}

fn parse_profile(rows: Vec<(String, String)>) -> Result<Profile, StorageError> {
    let parse = |(field, json): (String, String)| match serde_json::from_str(&json) {
        Ok(value) => Ok((field, value)),
        Err(error) => Err(StorageError::Damaged(format!("profile field {field}: {error}"))),
    };
    rows.into_iter().map(parse).collect::<Result<_, _>>().map(Profile)
}

fn measure_profile(profile: &Profile) -> usize {
    serde_json::to_vec(&profile.0).map_or(usize::MAX, |json| json.len())
}
