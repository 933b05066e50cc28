//! `hearth federation check | destinations | retry`: whether servers find and understand each other,
//! and what waits for those that cannot be reached.

use std::time::Duration;

use clap::Subcommand;
use hyper::{HeaderMap, Method, header::DATE};
use ruma::OwnedServerName;
use serde_json::{Map, Value};

use super::{
    CommandError,
    operator::{ListedDestination, Outcome, Request, ask},
    user::block_on,
};
use crate::{
    app::make_outbound,
    clock::Clock,
    config::Config,
    federation::KeyDocument,
    outbound::{Answer, Limits, Outbound, OutboundError},
};

const LIMITS: Limits = Limits { timeout: Duration::from_secs(30), body_bytes_max: 1 << 20 };
/// Clocks that differ by more make keys look expired.
const CLOCK_SECONDS_MAX: i64 = 60;

#[derive(Debug, Subcommand)]
pub(super) enum FederationCommand {
    /// Tell step by step how a server is found and whether it answers as it should
    Check {
        /// The name of the server, for example matrix.org [default: this one]
        server: Option<OwnedServerName>,
    },
    /// Sign with a new key from now on
    ///
    /// Do so when somebody else may have seen the key. What the old one has signed stays valid.
    RotateKey,
    /// List the servers that something waits for, or that do not answer
    Destinations,
    /// Try servers again now that did not answer
    Retry {
        /// The name of the server [default: all of them]
        server: Option<OwnedServerName>,
    },
}

pub(super) fn run(config: &Config, command: FederationCommand) -> Result<(), CommandError> {
    block_on(perform(config, command))
}

async fn perform(config: &Config, command: FederationCommand) -> Result<(), CommandError> {
    match command {
        FederationCommand::Check { server } => {
            let server = server.unwrap_or_else(|| config.server.name.clone());
            let clock = Clock::real();
            let check = Check { outbound: make_outbound(config, &clock), clock, server };
            match check.run().await {
                true => Ok(()),
                false => Err(CommandError::Refused(format!("{} cannot be used", check.server))),
            }
        }
        FederationCommand::RotateKey => print_text(ask(config, Request::RotateKey).await?),
        FederationCommand::Destinations => {
            list(ask_for_destinations(config, Request::ListDestinations).await?);
            Ok(())
        }
        FederationCommand::Retry { server } => {
            let server = server.map(|server| server.to_string());
            list(ask_for_destinations(config, Request::RetryDestinations { server }).await?);
            Ok(())
        }
    }
}

/// Prints what was done.
pub(super) fn print_text(outcome: Outcome) -> Result<(), CommandError> {
    match outcome {
        Outcome::Text(text) => println!("{text}"),
        Outcome::Refused(reason) => return Err(CommandError::Refused(reason)),
        _ => return Err(CommandError::OtherVersion),
    }
    Ok(())
}

async fn ask_for_destinations(
    config: &Config,
    request: Request,
) -> Result<Vec<ListedDestination>, CommandError> {
    match ask(config, request).await? {
        Outcome::Destinations(destinations) => Ok(destinations),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

fn list(destinations: Vec<ListedDestination>) {
    if destinations.is_empty() {
        println!("Nothing waits for another server.");
    }
    for destination in destinations {
        let ListedDestination { server_name, waiting_events, failures, .. } = &destination;
        println!("{server_name}  {waiting_events} events wait");
        if *failures > 0 {
            let (seconds, error) = (destination.retry_in_seconds, &destination.last_error);
            println!("    failed {failures} times, next attempt in {seconds} s: {error}");
        }
    }
}

/// One server under examination.
struct Check {
    outbound: Outbound,
    clock: Clock,
    server: OwnedServerName,
}

impl Check {
    /// Prints what is found; false when something makes the server unusable.
    async fn run(&self) -> bool {
        let found = self.outbound.discover(&self.server).await;
        match (&found.well_known_failure, found.is_delegated) {
            (_, true) => good("well-known", &format!("says that {} is it", found.authority)),
            (Some(failure), _) => note("well-known", &format!("says nothing: {failure}")),
            (None, _) => note("well-known", "not asked for: the name has a port or is an address"),
        };
        let addresses = match self.outbound.list_addresses(&found.authority).await {
            Ok(addresses) => addresses,
            Err(error) => return bad("addresses", &error.to_string()),
        };
        let texts: Vec<_> = addresses.iter().map(ToString::to_string).collect();
        good("addresses", &texts.join(", "));
        let version = match self.get("/_matrix/federation/v1/version").await {
            Ok(answer) => answer,
            Err(error) => return bad("connection", &error.to_string()),
        };
        good("connection", "works, and the certificate is trusted");
        self.check_version(&version) & self.check_clock(&version) & self.check_keys().await
    }

    fn check_version(&self, answer: &Answer) -> bool {
        let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
        match (answer.status.is_success(), body["server"]["name"].as_str()) {
            (true, Some(name)) => {
                let version = body["server"]["version"].as_str().unwrap_or_default();
                good("version", &format!("{name} {version}"))
            }
            _ => bad("version", &format!("answered with {}", answer.status)),
        }
    }

    fn check_clock(&self, answer: &Answer) -> bool {
        let date = answer.headers.get(DATE).and_then(|date| date.to_str().ok());
        let Some(theirs) = date.and_then(parse_http_date) else {
            return note("clock", "is not told");
        };
        let ours = (self.clock.now_ms() / 1000).cast_signed();
        match (theirs - ours).abs() {
            seconds if seconds > CLOCK_SECONDS_MAX => {
                bad("clock", &format!("differs from ours by {seconds} s"))
            }
            seconds => good("clock", &format!("differs from ours by {seconds} s")),
        }
    }

    async fn check_keys(&self) -> bool {
        let answer = match self.get("/_matrix/key/v2/server").await {
            Ok(answer) => answer,
            Err(error) => return bad("keys", &error.to_string()),
        };
        let document: Map<String, Value> = serde_json::from_slice(&answer.body).unwrap_or_default();
        match KeyDocument::check(&document, &self.server, self.clock.now_ms()) {
            Ok(checked) => {
                let current = checked.keys.iter().filter(|key| key.expired_ts.is_none());
                let ids: Vec<_> = current.map(|key| key.key_id.as_str()).collect();
                good("keys", &ids.join(", "))
            }
            Err(error) => bad("keys", &format!("are not usable: {error}")),
        }
    }

    async fn get(&self, path: &str) -> Result<Answer, OutboundError> {
        let request = (Method::GET, path);
        self.outbound.request_server(&self.server, request, HeaderMap::new(), None, LIMITS).await
    }
}

fn good(what: &str, text: &str) -> bool {
    println!("  ok    {what:<12}{text}");
    true
}

fn note(what: &str, text: &str) -> bool {
    println!("  -     {what:<12}{text}");
    true
}

fn bad(what: &str, text: &str) -> bool {
    println!("  FAIL  {what:<12}{text}");
    false
}

/// Seconds since the epoch of `Sun, 06 Nov 1994 08:49:37 GMT` (RFC 9110, section 5.6.7).
fn parse_http_date(text: &str) -> Option<i64> {
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = text.split([' ', ':']).collect();
    let [_, day, month, year, hour, minute, second, "GMT"] = words[..] else { return None };
    let number = |text: &str| text.parse::<i64>().ok();
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    // Days since the epoch (H. Hinnant, "chrono-compatible low-level date algorithms").
    let year = number(year)? - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + number(day)? - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    let days = era * 146_097 + day_of_era - 719_468;
    Some(days * 86_400 + number(hour)? * 3_600 + number(minute)? * 60 + number(second)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_of_http_are_read() {
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_date("Thu, 29 Feb 2024 00:00:00 GMT"), Some(1_709_164_800));
        assert_eq!(parse_http_date("yesterday"), None);
    }
}
