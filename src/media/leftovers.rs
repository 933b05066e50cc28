//! What uploads that a crash ended have left on disk. Not for what is deleted on purpose.

use std::io;

use super::{OpenMediaError, content::ContentStore};
use crate::storage::{Database, media};

/// Deletes the temporary files, and the contents that were placed but have no row.
pub async fn sweep(
    content: &ContentStore,
    database: &Database,
    failed: impl Fn(io::Error) -> OpenMediaError,
) -> Result<(), OpenMediaError> {
    for (leftover, hash) in content.list_leftovers().map_err(&failed)? {
        if let Some(hash) = hash
            && !media::is_content_known(database, &hash.0).await?
        {
            content.remove(hash).map_err(&failed)?;
        }
        drop(leftover);
    }
    Ok(())
}
