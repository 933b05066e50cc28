//! Dehydrated devices (MSC3814): a device without a session that receives room keys while its user
//! has no other, until somebody who knows its secret takes its messages over.

use ruma::UserId;
use serde_json::{Value, value::RawValue};

use super::{
    Encryption, KeysUpload, UploadKeysError,
    devices_in_use::DeviceName,
    to_device::{TO_DEVICE_PAGE_MAX, WaitingMessages},
};
use crate::storage::{StorageError, dehydrated_devices as store, devices};

/// Bytes of the encrypted device.
const DEVICE_DATA_BYTES_MAX: usize = 256 << 10;

/// A device that shall become the dehydrated one of its user.
#[derive(Debug)]
pub struct NewDehydratedDevice {
    pub device_id: String,
    pub display_name: Option<String>,
    /// A JSON object that only its user can read.
    pub device_data: Box<RawValue>,
    /// With identity keys.
    pub keys: KeysUpload,
}

/// The dehydrated device of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DehydratedDevice {
    pub device_id: String,
    /// JSON.
    pub device_data: String,
}

/// Why there is no such device, or none was made.
#[derive(Debug, thiserror::Error)]
pub enum DehydratedError {
    #[error("there is no dehydrated device")]
    NotFound,
    #[error("this is not the dehydrated device")]
    WrongDevice,
    #[error("the device needs identity keys")]
    NoIdentity,
    #[error("a device that is logged in has this ID")]
    IdInUse,
    #[error("the device's data are too long")]
    TooLong,
    #[error("the token is not one that this server gave out")]
    UnknownToken,
    #[error(transparent)]
    Keys(#[from] UploadKeysError),
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl Encryption {
    /// Makes a device the dehydrated one, in place of the one before.
    pub async fn put_dehydrated_device(
        &self,
        user: &UserId,
        new: NewDehydratedDevice,
    ) -> Result<(), DehydratedError> {
        if new.keys.device_keys.is_none() {
            return Err(DehydratedError::NoIdentity);
        }
        if new.device_data.get().len() > DEVICE_DATA_BYTES_MAX {
            return Err(DehydratedError::TooLong);
        }
        new.keys.check((user.as_str(), &new.device_id))?;
        let (encryption, owner) = (self.clone(), user.to_owned());
        let now_ts = self.0.rooms.clock().now_ms();
        let NewDehydratedDevice { device_id, display_name, device_data, keys } = new;
        let made_id = device_id.clone();
        let made: Result<(), DehydratedError> = self
            .0
            .rooms
            .writer()
            .transact(move |tx| {
                Box::pin(async move {
                    if let Some((replaced, _)) = store::find_in(tx, owner.as_str()).await? {
                        devices::delete(tx, owner.as_str(), &replaced).await?;
                        encryption.forget_devices(tx, &owner, &[replaced]).await?;
                    }
                    let name = display_name.as_deref();
                    let user = owner.as_str();
                    if !devices::insert(tx, user, &made_id, name, now_ts).await? {
                        return Err(DehydratedError::IdInUse);
                    }
                    Ok(store::save(tx, user, &made_id, device_data.get()).await?)
                })
            })
            .await;
        made?;
        self.upload_keys(user, device_id.as_str().into(), keys).await?;
        Ok(())
    }

    pub async fn find_dehydrated_device(
        &self,
        user: &UserId,
    ) -> Result<DehydratedDevice, DehydratedError> {
        let found = store::find(self.0.rooms.database(), user.as_str()).await?;
        let (device_id, device_data) = found.ok_or(DehydratedError::NotFound)?;
        Ok(DehydratedDevice { device_id, device_data })
    }

    /// Deletes the dehydrated device with all that belongs to it; returns its ID.
    pub async fn delete_dehydrated_device(&self, user: &UserId) -> Result<String, DehydratedError> {
        let (encryption, owner) = (self.clone(), user.to_owned());
        let deleted = self.0.rooms.writer().transact(move |tx| {
            Box::pin(async move {
                let found = store::find_in(tx, owner.as_str()).await?;
                let (device, _) = found.ok_or(DehydratedError::NotFound)?;
                devices::delete(tx, owner.as_str(), &device).await?;
                encryption.forget_devices(tx, &owner, std::slice::from_ref(&device)).await?;
                Ok(device)
            })
        });
        deleted.await
    }

    /// The messages that wait for the dehydrated device, from where a token says; they stay until
    /// the device goes. With the token for those behind them.
    pub async fn list_dehydrated_messages(
        &self,
        user: &UserId,
        device: &str,
        token: Option<&str>,
    ) -> Result<(WaitingMessages, String), DehydratedError> {
        if self.find_dehydrated_device(user).await?.device_id != device {
            return Err(DehydratedError::WrongDevice);
        }
        let since = token.map(|token| token.strip_prefix('d').unwrap_or_default().parse::<i64>());
        let since = since.transpose().map_err(|_| DehydratedError::UnknownToken)?.unwrap_or(0);
        let upto = self.0.rooms.writer().position();
        let name = DeviceName::new(user, device);
        let messages = self.read_messages(&name, (since, upto), TO_DEVICE_PAGE_MAX).await?;
        let token = format!("d{}", messages.upto);
        Ok((messages, token))
    }
}

impl NewDehydratedDevice {
    /// Whether the data are an object that names its algorithm.
    pub fn has_valid_data(&self) -> bool {
        let data: Option<Value> = serde_json::from_str(self.device_data.get()).ok();
        data.is_some_and(|data| data.get("algorithm").is_some_and(Value::is_string))
    }
}
