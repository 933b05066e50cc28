//! The command line: one file per subcommand. It reads arguments and prints; the work is done below.

mod after_restore;
mod appservice;
mod check_config;
mod federation;
mod media;
mod migrate;
mod notice;
mod operator;
mod registration_token;
mod room;
mod room_care;
mod serve;
mod user;

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Parser, Subcommand};

use crate::{
    app::StartError,
    config::{Config, ConfigProblems, EXAMPLE},
    server::StartServerError,
    telemetry::TelemetryError,
};

/// The exit status for a wrong configuration (sysexits.h, EX_CONFIG), after which a service manager need not
/// try again.
const EXIT_STATUS_CONFIG: u8 = 78;
/// Names the configuration file when the command line does not.
const CONFIG_VARIABLE: &str = "HEARTH_CONFIG";

/// A Matrix homeserver in one program.
///
/// Without a command and without a configuration it serves on http://127.0.0.1:8008 and keeps its data in
/// ./hearth-data.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, max_term_width = 100)]
struct CommandLine {
    #[command(flatten)]
    config: ConfigArgs,

    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Args)]
struct ConfigArgs {
    /// The configuration file [default: the one that HEARTH_CONFIG names, or none]
    #[arg(long, short, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the server (this is what happens without a command)
    Serve,
    /// Check a configuration and tell everything that is wrong with it
    CheckConfig,
    /// Bring the database up to date without starting the server
    ///
    /// The server does this by itself when it starts. Make a backup before.
    Migrate,
    /// Make and change accounts, whether the server runs or not
    #[command(subcommand)]
    User(user::UserCommand),
    /// Make and revoke tokens with which people can register
    #[command(subcommand)]
    RegistrationToken(registration_token::TokenCommand),
    /// Find out whether other servers can be reached, and what waits for them
    #[command(subcommand)]
    Federation(federation::FederationCommand),
    /// Register bridges and bots and see how they are doing, whether the server runs or not
    #[command(subcommand)]
    Appservice(appservice::AppserviceCommand),
    /// Tell people something in a room of the server's own, whether the server runs or not
    Notice(notice::NoticeArgs),
    /// See where rooms stand and whether all is well with them, and mend what is not
    #[command(subcommand)]
    Room(room::RoomCommand),
    /// Make a database safe that was restored from a backup, whether the server runs or not
    ///
    /// Discards all one-time keys: some were handed out after the backup was made, and none may be handed out
    /// twice. Devices upload new ones by themselves.
    AfterRestore,
    /// Delete media of other servers that nobody looks at any more, whether the server runs or not
    #[command(subcommand)]
    Media(media::MediaCommand),
    /// Print a commented configuration file with every setting at its default
    GenerateConfig,
    /// Print the version
    Version,
}

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
enum CommandError {
    #[error(transparent)]
    Config(#[from] ConfigProblems),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Start(#[from] StartError),
    #[error(transparent)]
    StartServer(#[from] StartServerError),
    #[error("{0}")]
    Refused(String),
    #[error("nothing was changed; say --yes if you are sure")]
    NotConfirmed,
    #[error("a server uses the data directory but does not answer at {}", .0.display())]
    Unreachable(PathBuf),
    #[error("the running server is another version of Hearth; restart it")]
    OtherVersion,
    #[error("the system refused: {0}")]
    System(#[from] std::io::Error),
}

/// Does what the command line says.
#[must_use]
pub fn run() -> ExitCode {
    let command_line = CommandLine::parse();
    match perform(command_line) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearth: {error}");
            match error {
                CommandError::Config(_) => ExitCode::from(EXIT_STATUS_CONFIG),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

fn perform(command_line: CommandLine) -> Result<(), CommandError> {
    let config = &command_line.config;
    match command_line.command.unwrap_or(Command::Serve) {
        Command::Serve => serve::run(config.load()?),
        Command::CheckConfig => check_config::run(&config.load()?),
        Command::Migrate => migrate::run(config.load()?),
        Command::User(command) => user::run(&config.load()?, command),
        Command::RegistrationToken(command) => registration_token::run(&config.load()?, command),
        Command::Federation(command) => federation::run(&config.load()?, command),
        Command::Appservice(command) => appservice::run(&config.load()?, command),
        Command::Notice(arguments) => notice::run(&config.load()?, arguments),
        Command::Room(command) => room::run(&config.load()?, command),
        Command::AfterRestore => after_restore::run(&config.load()?),
        Command::Media(command) => media::run(&config.load()?, command),
        Command::GenerateConfig => {
            print!("{EXAMPLE}");
            Ok(())
        }
        Command::Version => {
            println!("hearth {}", env!("CARGO_PKG_VERSION"));
            Ok(())
        }
    }
}

impl ConfigArgs {
    fn path(&self) -> Option<PathBuf> {
        let from_environment = || std::env::var_os(CONFIG_VARIABLE).filter(|path| !path.is_empty());
        self.config.clone().or_else(|| from_environment().map(PathBuf::from))
    }

    fn load(&self) -> Result<Config, ConfigProblems> {
        // A variable that is no text cannot be one of ours.
        let env = std::env::vars_os().filter_map(|(name, value)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        });
        Config::load(self.path().as_deref(), env)
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn command_line_is_consistent() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn no_command_serves_and_the_file_can_stand_on_either_side() {
        let parse = |arguments: &[&str]| CommandLine::try_parse_from(arguments).unwrap();
        assert!(parse(&["hearth"]).command.is_none());
        for arguments in [["hearth", "-c", "f", "serve"], ["hearth", "serve", "--config", "f"]] {
            assert_eq!(parse(&arguments).config.path(), Some(PathBuf::from("f")));
        }
    }
}
