//! Pictures of pages, taken over so that readers need not ask the page's server themselves. Equal ones
//! are kept once.

use std::{io::Cursor, sync::Arc};

use base64::{Engine as _, prelude::BASE64_URL_SAFE_NO_PAD};
use bytes::Bytes;
use image::{ImageFormat, ImageReader};
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};

use super::{TIMEOUT, UrlPreviews};
use crate::{
    media::{
        Media, run_blocking,
        upload::{MediaId, Received, UploadError},
    },
    storage::media::{CONTENT_HASH_BYTES, StoredMedia},
};

/// What clients can show, and what it is called.
const FORMATS: [ImageFormat; 4] =
    [ImageFormat::Png, ImageFormat::Jpeg, ImageFormat::Gif, ImageFormat::WebP];

/// What a file says about its picture.
struct Shape {
    content_type: &'static str,
    width: u32,
    height: u32,
}

impl UrlPreviews {
    /// Keeps a picture; its properties, or none when it is no picture or cannot be kept.
    pub(super) async fn keep_picture(&self, bytes: Bytes) -> Map<String, Value> {
        let Some(shape) = inspect(bytes.clone()).await else { return Map::new() };
        let size_bytes = bytes.len();
        // The preview that shows it expires a little earlier.
        let lifetime = self.config.lifetime + TIMEOUT;
        let expires_ts = self.clock.now_ms().saturating_add(lifetime.as_millis() as u64);
        let kept = self.media.keep_found(bytes, shape.content_type, expires_ts);
        let media_id = match kept.await {
            Ok(media_id) => media_id,
            Err(error) => {
                tracing::warn!(%error, "a picture of a page could not be kept");
                return Map::new();
            }
        };
        let uri = format!("mxc://{}/{media_id}", self.media.server_name);
        let properties = json!({
            "og:image": uri,
            "og:image:type": shape.content_type,
            "og:image:width": shape.width,
            "og:image:height": shape.height,
            "matrix:image:size": size_bytes,
        });
        let Value::Object(properties) = properties else { return Map::new() };
        properties
    }
}

impl Media {
    /// Keeps a content that nobody has uploaded, under an ID that is its hash, until then at least.
    async fn keep_found(
        self: &Arc<Self>,
        bytes: Bytes,
        content_type: &str,
        expires_ts: u64,
    ) -> Result<String, UploadError> {
        let media_id = BASE64_URL_SAFE_NO_PAD.encode(Sha256::digest(&bytes));
        let _slot = self.slots.take_media_id(&media_id).await;
        self.put_picture_off(media_id.clone(), expires_ts).await?;
        if self.find_arrived(&media_id).await?.is_some() {
            return Ok(media_id);
        }
        let media = StoredMedia {
            media_id: media_id.clone(),
            // Known when the content is in its place.
            content_hash: [0; CONTENT_HASH_BYTES],
            size_bytes: 0,
            content_type: content_type.to_owned(),
            filename: None,
            // It counts for no quota.
            user_id: String::new(),
            created_ts: self.clock.now_ms(),
            is_open: self.is_open_access(),
        };
        let received = Received::InMemory(vec![bytes]);
        let finished = self.tasks.spawn(Arc::clone(self).finish(received, media, MediaId::New));
        finished.await.map_err(std::io::Error::other)??;
        Ok(media_id)
    }
}

async fn inspect(bytes: Bytes) -> Option<Shape> {
    let read = run_blocking(move || {
        let reader = ImageReader::new(Cursor::new(bytes)).with_guessed_format()?;
        let Some(format) = reader.format().filter(|format| FORMATS.contains(format)) else {
            return Ok(None);
        };
        let Ok((width, height)) = reader.into_dimensions() else { return Ok(None) };
        Ok(Some(Shape { content_type: format.to_mime_type(), width, height }))
    });
    read.await.ok().flatten()
}
