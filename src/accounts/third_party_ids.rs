//! The identifiers of an account elsewhere (client-server API, "Adding Account Administrative Contact
//! Information"), and what of them is published at identity servers. Asks no identity server itself.

use ruma::UserId;

use super::{
    Accounts,
    manage::ManageError,
    pushers::EMAIL_APP_ID,
    validation::{EMAIL, ProvenAddress, Purpose, ValidationCredentials, ValidationError},
};
pub use crate::storage::third_party_ids::{
    StoredBinding as Binding, StoredThirdPartyId as ThirdPartyId,
};
use crate::storage::{StorageError, pushers, third_party_ids};

/// Why a forgotten password was not replaced.
#[derive(Debug, thiserror::Error)]
pub enum ResetPasswordError {
    #[error(transparent)]
    Proof(#[from] ValidationError),
    #[error(transparent)]
    Manage(#[from] ManageError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Accounts {
    /// Whose an address is. `medium` is `email` or `msisdn`.
    pub async fn find_third_party_id(
        &self,
        medium: &str,
        address: &str,
    ) -> Result<Option<ThirdPartyId>, StorageError> {
        third_party_ids::find(&self.database, medium, address).await
    }

    pub async fn list_third_party_ids(
        &self,
        user_id: &UserId,
    ) -> Result<Vec<ThirdPartyId>, StorageError> {
        third_party_ids::list(&self.database, user_id.as_str()).await
    }

    /// Adds the mail address that was proven; the proof serves once.
    pub async fn add_proven_address(
        &self,
        user_id: &UserId,
        credentials: &ValidationCredentials,
    ) -> Result<(), ValidationError> {
        let proven = self.find_proven(Purpose::Add, credentials).await?;
        let (id, now_ts) = (user_id.to_owned(), self.clock.now_ms());
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    if !third_party_ids::take_validation(tx, &proven.sid).await? {
                        return Err(ValidationError::UnknownSession);
                    }
                    let id = proven.into_id(id.as_str(), now_ts);
                    match third_party_ids::insert(tx, &id).await? {
                        true => Ok(()),
                        false => Err(ValidationError::InUse),
                    }
                })
            })
            .await
    }

    /// Sets a new password for the account whose mail address was proven for it; the proof serves
    /// once. With `logout`, all sessions end.
    pub async fn reset_password(
        &self,
        proven: ProvenAddress,
        password: String,
        logout: bool,
    ) -> Result<(), ResetPasswordError> {
        let owner = self.find_address_owner(EMAIL, &proven.address).await?;
        let owner = owner.ok_or(ValidationError::NotFound)?;
        let sid = proven.sid;
        let is_taken: Result<bool, StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move { third_party_ids::take_validation(tx, &sid).await })
            })
            .await;
        if !is_taken? {
            return Err(ValidationError::UnknownSession.into());
        }
        Ok(self.set_password(&owner, password, logout, None).await?)
    }

    /// Removes an identifier from an account, and ends the notifications that go there; without effect
    /// when it is not there.
    pub async fn remove_third_party_id(
        &self,
        user_id: &UserId,
        (medium, address): (&str, &str),
    ) -> Result<(), StorageError> {
        let (user_id, medium) = (user_id.to_owned(), medium.to_owned());
        let address = address.to_owned();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    let user_id = user_id.as_str();
                    if medium == EMAIL {
                        pushers::delete(tx, user_id, EMAIL_APP_ID, &address).await?;
                    }
                    third_party_ids::delete(tx, user_id, &medium, &address).await
                })
            })
            .await
    }

    /// What a user has published at identity servers by way of this server.
    pub async fn list_bindings(&self, user_id: &UserId) -> Result<Vec<Binding>, StorageError> {
        third_party_ids::list_bindings(&self.database, user_id.as_str()).await
    }

    pub async fn note_binding(
        &self,
        user_id: &UserId,
        binding: Binding,
    ) -> Result<(), StorageError> {
        let user_id = user_id.to_owned();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    third_party_ids::insert_binding(tx, user_id.as_str(), &binding).await
                })
            })
            .await
    }

    pub async fn forget_binding(
        &self,
        user_id: &UserId,
        binding: Binding,
    ) -> Result<(), StorageError> {
        let user_id = user_id.to_owned();
        self.writer
            .transact(move |tx| {
                Box::pin(async move {
                    third_party_ids::delete_binding(tx, user_id.as_str(), &binding).await
                })
            })
            .await
    }
}

impl ProvenAddress {
    /// The row that adds it to an account.
    pub(super) fn into_id(self, user_id: &str, now_ts: u64) -> ThirdPartyId {
        ThirdPartyId {
            medium: EMAIL.to_owned(),
            address: self.address,
            user_id: user_id.to_owned(),
            validated_ts: self.validated_ts,
            added_ts: now_ts.cast_signed(),
        }
    }
}
