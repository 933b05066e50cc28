//! `hearth media evict`: makes room by deleting what other servers have anyway.

use clap::Subcommand;

use super::{
    CommandError,
    federation::print_text,
    operator::{Request, ask},
    user::block_on,
};
use crate::config::Config;

const SECONDS_PER_DAY: u64 = 24 * 60 * 60;

#[derive(Debug, Subcommand)]
pub(super) enum MediaCommand {
    /// Delete media of other servers; who wants to see one again gets it from there
    Evict {
        /// Only what nobody has looked at for so many days
        #[arg(long, value_name = "DAYS")]
        unused_days: u64,
    },
}

pub(super) fn run(config: &Config, command: MediaCommand) -> Result<(), CommandError> {
    let MediaCommand::Evict { unused_days } = command;
    let unused_seconds = unused_days.saturating_mul(SECONDS_PER_DAY);
    block_on(async { print_text(ask(config, Request::EvictMedia { unused_seconds }).await?) })
}
