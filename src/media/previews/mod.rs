//! What clients show of the web pages that messages link to (client-server API, `preview_url`). Pages
//! are fetched with care, read for what they say about themselves (OpenGraph), and remembered for a
//! while. Decides nothing about who may ask.

mod fetch;
mod oembed;
mod open_graph;
mod page;
mod picture;
mod picture_expiry;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value};
use tokio::sync::Semaphore;
use url::Url;

use self::{fetch::FetchError, open_graph::Sources};
use super::{Media, evict::EvictError, slots::KeyedSlots};
use crate::{
    clock::Clock,
    config::UrlPreviewsConfig,
    outbound::Outbound,
    storage::{Database, StorageError, Writer, url_previews},
};

/// Browsers and servers take no longer ones.
const URL_BYTES_MAX: usize = 2048;
/// Pages that are fetched at the same moment.
const FETCHES_AT_ONCE_MAX: usize = 8;
/// For the page, its oEmbed answer and its picture together.
const TIMEOUT: Duration = Duration::from_secs(20);
/// How long a page that could not be read is left alone.
const FAILURE_LIFETIME: Duration = Duration::from_secs(10 * 60);
/// How often expired previews are deleted.
const EXPIRY_PAUSE: Duration = Duration::from_secs(60 * 60);
/// What stands for a page that could not be read.
const FAILURE: &str = "null";

/// Makes and keeps previews.
pub struct UrlPreviews {
    config: UrlPreviewsConfig,
    media: Arc<Media>,
    outbound: Outbound,
    clock: Clock,
    database: Database,
    writer: Writer,
    fetches: Semaphore,
    /// One at a time for a page, so that a room full of people has it fetched once.
    by_url: KeyedSlots<String>,
}

/// Why there is no preview.
#[derive(Debug, thiserror::Error)]
pub enum PreviewError {
    #[error("this server makes no previews")]
    Disabled,
    #[error("this is no address of a web page of at most {URL_BYTES_MAX} bytes")]
    InvalidUrl,
    #[error("this server does not look at pages of this host")]
    Denied,
    #[error("the page could not be read")]
    Unreadable,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

impl UrlPreviews {
    /// `store` and `clock` are those of the media.
    pub fn new(config: UrlPreviewsConfig, media: Arc<Media>, outbound: Outbound) -> Arc<Self> {
        let (database, writer) = (media.database.clone(), media.writer.clone());
        let clock = media.clock.clone();
        Arc::new(Self {
            config,
            media,
            outbound,
            clock,
            database,
            writer,
            fetches: Semaphore::new(FETCHES_AT_ONCE_MAX),
            by_url: KeyedSlots::new(1),
        })
    }

    /// The preview of a page: a JSON object of OpenGraph properties, pictures by their `mxc://` URI.
    pub async fn find(&self, url: &str) -> Result<String, PreviewError> {
        if !self.config.enabled {
            return Err(PreviewError::Disabled);
        }
        let url = self.parse_url(url)?;
        let key = url.to_string();
        if let Some(kept) = self.find_kept(&key).await? {
            return take_kept(kept);
        }
        let _slot = self.by_url.take(key.clone()).await;
        if let Some(kept) = self.find_kept(&key).await? {
            return take_kept(kept);
        }
        let _permit = self.fetches.acquire().await.expect("the permits are never closed");
        let made = match tokio::time::timeout(TIMEOUT, self.make(url)).await {
            Ok(made) => made,
            Err(_) => Err(FetchError::Timeout),
        };
        let (preview, lifetime) = match made {
            Ok(preview) => (Value::Object(preview).to_string(), self.config.lifetime),
            Err(error) => {
                tracing::debug!(%error, "a page could not be read");
                (FAILURE.to_owned(), FAILURE_LIFETIME)
            }
        };
        self.keep(key, preview.clone(), lifetime).await?;
        take_kept(preview)
    }

    /// Deletes what is believed no more, again and again.
    pub async fn run_expiry(self: Arc<Self>) {
        let mut interval = tokio::time::interval(EXPIRY_PAUSE);
        loop {
            interval.tick().await;
            if let Err(error) = self.expire().await {
                tracing::warn!(%error, "expired previews were not deleted");
            }
        }
    }

    /// Deletes what is believed no more, and pictures that nothing shows any more.
    pub async fn expire(&self) -> Result<(), EvictError> {
        let now_ts = self.clock.now_ms();
        let deleted: Result<(), StorageError> = self
            .writer
            .transact(move |tx| Box::pin(url_previews::delete_expired(tx, now_ts)))
            .await;
        deleted?;
        self.media.expire_pictures().await
    }

    /// An address that may be asked, without what browsers keep to themselves.
    fn parse_url(&self, text: &str) -> Result<Url, PreviewError> {
        if text.len() > URL_BYTES_MAX || text.contains('\0') {
            return Err(PreviewError::InvalidUrl);
        }
        let mut url = Url::parse(text).map_err(|_| PreviewError::InvalidUrl)?;
        url.set_fragment(None);
        match fetch::check(&self.config, &url) {
            Ok(()) => Ok(url),
            Err(FetchError::Denied) => Err(PreviewError::Denied),
            Err(_) => Err(PreviewError::InvalidUrl),
        }
    }

    async fn find_kept(&self, key: &str) -> Result<Option<String>, StorageError> {
        url_previews::find(&self.database, key, self.clock.now_ms()).await
    }

    async fn keep(
        &self,
        key: String,
        preview: String,
        lifetime: Duration,
    ) -> Result<(), StorageError> {
        let expires_ts = self.clock.now_ms().saturating_add(lifetime.as_millis() as u64);
        self.writer
            .transact(move |tx| {
                Box::pin(async move { url_previews::put(tx, &key, &preview, expires_ts).await })
            })
            .await
    }

    async fn make(&self, url: Url) -> Result<Map<String, Value>, FetchError> {
        let answer = fetch::open(&self.outbound, &self.config, url, fetch::ACCEPT_PAGE).await?;
        if answer.content_type.starts_with("image/") {
            let name = answer.file_name();
            let mut preview = Map::new();
            preview.extend(name.map(|name| ("og:title".to_owned(), name.into())));
            let bytes = answer.read_whole(self.config.image_size_max.as_usize()).await?;
            preview.extend(self.keep_picture(bytes).await);
            return Ok(preview);
        }
        if !matches!(&*answer.content_type, "text/html" | "application/xhtml+xml") {
            return Ok(Map::new());
        }
        let (base, charset) = (answer.url.clone(), answer.charset.clone());
        let bytes = answer.read_beginning(self.config.page_size_max.as_usize()).await?;
        let page = page::read(&page::decode(&bytes, charset.as_deref()));
        let mut sources = Sources { base, page, embed: None };
        if sources.wants_embed() {
            sources.embed = self.fetch_embed(&sources).await;
        }
        let mut preview = sources.describe();
        if let Some(picture) = sources.picture_url() {
            match self.fetch_picture(picture).await {
                Ok(properties) => preview.extend(properties),
                Err(error) => tracing::debug!(%error, "a picture of a page was not taken over"),
            }
        }
        Ok(preview)
    }

    async fn fetch_embed(&self, sources: &Sources) -> Option<oembed::Embed> {
        let url = sources.embed_url()?;
        let answer = fetch::open(&self.outbound, &self.config, url, fetch::ACCEPT_JSON).await;
        let bytes = answer.ok()?.read_whole(oembed::ANSWER_BYTES_MAX).await.ok()?;
        oembed::read(&bytes)
    }

    async fn fetch_picture(&self, url: Url) -> Result<Map<String, Value>, FetchError> {
        let answer = fetch::open(&self.outbound, &self.config, url, fetch::ACCEPT_IMAGE).await?;
        let bytes = answer.read_whole(self.config.image_size_max.as_usize()).await?;
        Ok(self.keep_picture(bytes).await)
    }
}

fn take_kept(preview: String) -> Result<String, PreviewError> {
    if preview == FAILURE { Err(PreviewError::Unreadable) } else { Ok(preview) }
}
