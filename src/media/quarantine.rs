//! Contents that are here and that nobody gets, since an administrator says so: files and thumbnails stay,
//! and can be looked at by administrators. A content is put away by its hash, and so with all its copies,
//! those to come included. Not for deleting (see `administration`).

use std::collections::{HashMap, HashSet};

use ruma::UserId;

use super::{Media, address::MediaAddress, content::ContentHash, remote::remote_key};
use crate::storage::{
    StorageError, WriteTx,
    media::{self, MediaOrder, MediaPage, StoredMedia},
    quarantine,
};

/// Contents that are looked up, and put away, at once.
const STEP: usize = 500;

/// A content, and what administrators have said of it.
#[derive(Clone, Debug)]
pub struct JudgedMedia {
    pub media: StoredMedia,
    /// Who has put it away, if somebody has and it is not protected.
    pub quarantined_by: Option<String>,
    pub is_protected: bool,
}

impl Media {
    /// Puts contents away, and those that are not here in case that they come. Protected ones stay. How many
    /// of those that are here nobody gets now, the copies of each counted once.
    pub async fn quarantine(
        &self,
        addresses: &[MediaAddress],
        by: &UserId,
    ) -> Result<usize, StorageError> {
        let mut count = 0;
        for step in addresses.chunks(STEP) {
            let mut found = Vec::new();
            let mut tx = WriteTx::new();
            for address in step {
                let key = self.key_of(address);
                match media::find(&self.database, &key).await? {
                    Some(media) => found.push(media),
                    None if address.server_name != self.server_name => {
                        quarantine::quarantine(&mut tx, &key, by.as_str(), self.clock.now_ms());
                    }
                    None => {}
                }
            }
            count += self.put_away(tx, found, by).await?;
        }
        Ok(count)
    }

    /// The same for all that a user of this server has uploaded.
    pub async fn quarantine_of_user(
        &self,
        user: &UserId,
        by: &UserId,
    ) -> Result<usize, StorageError> {
        let mut count = 0;
        for from in (0..).step_by(STEP) {
            let page =
                MediaPage { order: MediaOrder::Created, backwards: false, from, limit: STEP };
            let found = media::list_of_user(&self.database, user.as_str(), page).await?;
            if found.is_empty() {
                break;
            }
            count += self.put_away(WriteTx::new(), found, by).await?;
        }
        Ok(count)
    }

    /// Hands a content out again, with its copies.
    pub async fn release(&self, address: &MediaAddress) -> Result<(), StorageError> {
        let key = self.key_of(address);
        let mut tx = WriteTx::new();
        quarantine::release(&mut tx, &key);
        if let Some(media) = media::find(&self.database, &key).await? {
            quarantine::release(&mut tx, &ContentHash(media.content_hash).to_hex());
        }
        self.change(tx).await
    }

    /// Keeps a content of this server from every quarantine, or no more.
    pub async fn set_protected(
        &self,
        media_id: &str,
        protects: bool,
        by: &UserId,
    ) -> Result<(), StorageError> {
        let mut tx = WriteTx::new();
        match protects {
            true => quarantine::protect(&mut tx, media_id, by.as_str(), self.clock.now_ms()),
            false => quarantine::unprotect(&mut tx, media_id),
        }
        self.change(tx).await
    }

    /// A content that is here, with what was said of it.
    pub async fn find_judged(
        &self,
        address: &MediaAddress,
    ) -> Result<Option<JudgedMedia>, StorageError> {
        let found = media::find(&self.database, &self.key_of(address)).await?;
        Ok(self.judge(found.into_iter().collect()).await?.pop())
    }

    /// Contents with what was said of them, in the same order.
    pub async fn judge(&self, all: Vec<StoredMedia>) -> Result<Vec<JudgedMedia>, StorageError> {
        let hashes: Vec<String> =
            all.iter().map(|media| ContentHash(media.content_hash).to_hex()).collect();
        let ids: Vec<&str> = all.iter().map(|media| media.media_id.as_str()).collect();
        let subjects: Vec<&str> =
            hashes.iter().map(String::as_str).chain(ids.iter().copied()).collect();
        let found = quarantine::list_quarantined(&self.database, &subjects).await?;
        let by_subject: HashMap<String, String> = found.into_iter().collect();
        let protected = quarantine::list_protected(&self.database, &ids).await?;
        let protected: HashSet<String> = protected.into_iter().collect();
        let judge = |(media, hash): (StoredMedia, &String)| {
            let is_protected = protected.contains(&media.media_id);
            let by = by_subject.get(hash).or_else(|| by_subject.get(&media.media_id));
            let quarantined_by = by.filter(|_| !is_protected).cloned();
            JudgedMedia { media, quarantined_by, is_protected }
        };
        Ok(all.into_iter().zip(&hashes).map(judge).collect())
    }

    /// Whether nobody gets a content.
    pub(super) async fn is_put_away(
        &self,
        media_id: &str,
        hash: ContentHash,
    ) -> Result<bool, StorageError> {
        quarantine::is_quarantined(&self.database, media_id, &hash.to_hex()).await
    }

    /// Whether nobody gets a content of another server, which is not here.
    pub(super) async fn is_address_put_away(
        &self,
        address: &MediaAddress,
    ) -> Result<bool, StorageError> {
        let key = remote_key(address);
        quarantine::is_quarantined(&self.database, &key, &key).await
    }

    async fn put_away(
        &self,
        mut tx: WriteTx,
        found: Vec<StoredMedia>,
        by: &UserId,
    ) -> Result<usize, StorageError> {
        let mut hashes = HashSet::new();
        for judged in self.judge(found).await?.into_iter().filter(|judged| !judged.is_protected) {
            hashes.insert(ContentHash(judged.media.content_hash).to_hex());
        }
        for hash in &hashes {
            quarantine::quarantine(&mut tx, hash, by.as_str(), self.clock.now_ms());
        }
        self.change(tx).await?;
        Ok(hashes.len())
    }

    /// Commits what administrators say, and has everything read anew.
    async fn change(&self, tx: WriteTx) -> Result<(), StorageError> {
        self.writer.commit(tx).await?;
        self.forget_records();
        Ok(())
    }

    /// By what the store knows a content.
    pub(super) fn key_of(&self, address: &MediaAddress) -> String {
        match address.server_name == self.server_name {
            true => address.media_id.clone(),
            false => remote_key(address),
        }
    }
}
