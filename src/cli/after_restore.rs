//! `hearth after-restore`: what a database needs that was restored from a backup. Not for making or
//! restoring backups, which is the administrator's.

use super::{
    CommandError,
    operator::{Outcome, Request, ask},
    user::block_on,
};
use crate::config::Config;

pub(super) fn run(config: &Config) -> Result<(), CommandError> {
    block_on(perform(config))
}

async fn perform(config: &Config) -> Result<(), CommandError> {
    match ask(config, Request::AfterRestore).await? {
        Outcome::Text(text) => {
            println!("{text}");
            Ok(())
        }
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}
