//! `hearth notice`: tells people something in the room of the server's own words, whether the server runs
//! or not.

use std::io::Read as _;

use clap::Args;

use super::{
    CommandError,
    operator::{ListedAccount, Outcome, Request, ask},
    user::block_on,
};
use crate::config::Config;

/// The longest text, bytes: an event has at most 64 KiB (client-server API, "Size limits").
const TEXT_BYTES_MAX: u64 = 60 << 10;

#[derive(Debug, Args)]
pub(super) struct NoticeArgs {
    /// What to say; `-` for standard input
    text: String,
    /// The name of an account; may be given several times
    #[arg(long, value_name = "NAME", required_unless_present = "everybody")]
    to: Vec<String>,
    /// Tell everybody who has an account, but for guests, bridges and bots
    #[arg(long, conflicts_with = "to")]
    everybody: bool,
}

pub(super) fn run(config: &Config, arguments: NoticeArgs) -> Result<(), CommandError> {
    let text = match arguments.text.as_str() {
        "-" => read_text()?,
        text => text.to_owned(),
    };
    block_on(async {
        let (told, failed) = match arguments.everybody {
            true => tell_everybody(config, &text).await?,
            false => tell(config, arguments.to, &text).await?,
        };
        let noun = if told == 1 { "person was" } else { "people were" };
        println!("{told} {noun} told.");
        match failed.is_empty() {
            true => Ok(()),
            false => Err(CommandError::Refused(failed.join("\n"))),
        }
    })
}

/// Page by page, so that no request takes long.
async fn tell_everybody(config: &Config, text: &str) -> Result<(usize, Vec<String>), CommandError> {
    let (mut after, mut told, mut failed) = (String::new(), 0, Vec::new());
    loop {
        let accounts = match ask(config, Request::List { after }).await? {
            Outcome::Accounts(accounts) => accounts,
            Outcome::Refused(reason) => return Err(CommandError::Refused(reason)),
            _ => return Err(CommandError::OtherVersion),
        };
        let Some(last) = accounts.last() else { return Ok((told, failed)) };
        after = last.user_id.to_string();
        let is_person =
            |account: &&ListedAccount| !account.automatic && !account.guest && !account.deactivated;
        let people = accounts.iter().filter(is_person);
        let names = people.map(|account| account.user_id.to_string()).collect();
        let (more_told, more_failed) = tell(config, names, text).await?;
        told += more_told;
        failed.extend(more_failed);
    }
}

async fn tell(
    config: &Config,
    names: Vec<String>,
    text: &str,
) -> Result<(usize, Vec<String>), CommandError> {
    match ask(config, Request::Notify { names, text: text.to_owned() }).await? {
        Outcome::Told { told, failed } => Ok((told, failed)),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

fn read_text() -> Result<String, CommandError> {
    let mut text = String::new();
    std::io::stdin().lock().take(TEXT_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text.trim_end().to_owned())
}
