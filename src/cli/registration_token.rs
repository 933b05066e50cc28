//! `hearth registration-token create | list | revoke`.

use std::time::Duration;

use clap::Subcommand;

use super::{
    CommandError,
    operator::{ListedToken, Outcome, Request, ask},
    user::block_on,
};
use crate::{clock::Clock, config::Config};

#[derive(Debug, Subcommand)]
pub(super) enum TokenCommand {
    /// Make a token with which people can register, and print it
    Create {
        /// The token, up to 64 of the characters A-Z a-z 0-9 . _ ~ - [default: a made up one]
        token: Option<String>,
        /// How many people may register with it
        #[arg(long, value_name = "NUMBER", default_value = "1", value_parser = parse_uses)]
        uses: Uses,
        /// For how many days it can be used [default: for ever]
        #[arg(long, value_name = "DAYS")]
        days: Option<u32>,
    },
    /// List all tokens that were made with this command
    List,
    /// Delete a token; who has registered with it stays
    Revoke {
        /// The token
        token: String,
    },
}

/// How often a token may be used.
#[derive(Clone, Copy, Debug)]
pub(super) enum Uses {
    Times(u32),
    Unlimited,
}

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) fn run(config: &Config, command: TokenCommand) -> Result<(), CommandError> {
    block_on(perform(config, command))
}

async fn perform(config: &Config, command: TokenCommand) -> Result<(), CommandError> {
    let now_ms = Clock::real().now_ms();
    match command {
        TokenCommand::Create { token, uses, days } => {
            let expires_ts = days.map(|days| now_ms + (DAY * days).as_millis() as u64);
            let uses_allowed = match uses {
                Uses::Times(times) => Some(times),
                Uses::Unlimited => None,
            };
            let request = Request::CreateToken { token, uses_allowed, expires_ts };
            for token in ask_for_tokens(config, request).await? {
                println!("{}", token.token);
            }
        }
        TokenCommand::List => {
            for token in ask_for_tokens(config, Request::ListTokens).await? {
                println!("{}  ({})", token.token, describe(&token, now_ms));
            }
        }
        TokenCommand::Revoke { token } => {
            for token in ask_for_tokens(config, Request::RevokeToken { token }).await? {
                println!("{} is no longer valid.", token.token);
            }
        }
    }
    Ok(())
}

async fn ask_for_tokens(
    config: &Config,
    request: Request,
) -> Result<Vec<ListedToken>, CommandError> {
    match ask(config, request).await? {
        Outcome::Tokens(tokens) => Ok(tokens),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

fn describe(token: &ListedToken, now_ms: u64) -> String {
    let mut text = match token.uses_allowed {
        Some(allowed) => format!("used {} of {allowed} times", token.uses),
        None => format!("used {} times", token.uses),
    };
    match token.expires_ts {
        Some(expires_ts) if expires_ts <= now_ms => text.push_str(", expired"),
        Some(expires_ts) => {
            let days = (expires_ts - now_ms) / DAY.as_millis() as u64;
            text.push_str(&format!(", {days} more days"));
        }
        None => {}
    }
    if token.makes_admin {
        text.push_str(", for the first administrator");
    }
    text
}

fn parse_uses(text: &str) -> Result<Uses, String> {
    match text {
        "unlimited" => Ok(Uses::Unlimited),
        text => match text.parse() {
            Ok(times) if times > 0 => Ok(Uses::Times(times)),
            _ => Err("write a number from 1 on, or \"unlimited\"".to_owned()),
        },
    }
}
