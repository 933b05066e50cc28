//! `hearth user …`: makes and changes accounts, whether the server runs or not.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use clap::{Args, Subcommand};

use super::{
    CommandError,
    operator::{ListedAccount, Outcome, Request, ask},
};
use crate::{clock::Clock, config::Config};

/// Characters of a password that is made up: 119 bits.
const MADE_UP_PASSWORD_LENGTH: usize = 20;

#[derive(Debug, Subcommand)]
pub(super) enum UserCommand {
    /// Make an account and print its password
    Create {
        /// The name: `alice` for @alice:example.org
        name: String,
        /// The account administers this server
        #[arg(long)]
        admin: bool,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// Give someone a new password and log them out everywhere
    ResetPassword {
        /// The name of the account
        name: String,
        /// Leave them logged in
        #[arg(long)]
        keep_sessions: bool,
        #[command(flatten)]
        password: PasswordArgs,
    },
    /// List all accounts
    List,
    /// Close an account for good; the name stays taken
    Deactivate {
        /// The name of the account
        name: String,
        /// Hide what the user wrote from people who join rooms later
        #[arg(long)]
        erase: bool,
        /// Do not ask whether you are sure
        #[arg(long)]
        yes: bool,
    },
    /// Let an account administer this server
    MakeAdmin {
        /// The name of the account
        name: String,
        /// Take the right away instead
        #[arg(long)]
        revoke: bool,
    },
}

#[derive(Debug, Args)]
pub(super) struct PasswordArgs {
    /// Read the password from the first line of standard input instead of making one up
    #[arg(long)]
    password_stdin: bool,
}

pub(super) fn run(config: &Config, command: UserCommand) -> Result<(), CommandError> {
    block_on(perform(config, command))
}

/// Runs what asks a server for something.
pub(super) fn block_on(
    asking: impl Future<Output = Result<(), CommandError>>,
) -> Result<(), CommandError> {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
    runtime.block_on(asking)
}

async fn perform(config: &Config, command: UserCommand) -> Result<(), CommandError> {
    match command {
        UserCommand::Create { name, admin, password } => {
            let (password, is_made_up) = password.choose()?;
            let request = Request::Create { name, password: password.clone(), admin };
            let user = ask_for_user(config, request).await?;
            println!("{user} can log in now{}.", if admin { " and is administrator" } else { "" });
            print_password(&password, is_made_up);
        }
        UserCommand::ResetPassword { name, keep_sessions, password } => {
            let (password, is_made_up) = password.choose()?;
            let request =
                Request::ResetPassword { name, password: password.clone(), keep_sessions };
            let user = ask_for_user(config, request).await?;
            println!("{user} has a new password.");
            print_password(&password, is_made_up);
        }
        UserCommand::List => list(config).await?,
        UserCommand::Deactivate { name, erase, yes } => {
            if !yes && !confirm(&format!("Close the account {name} for good?"))? {
                return Err(CommandError::NotConfirmed);
            }
            let user = ask_for_user(config, Request::Deactivate { name, erase }).await?;
            println!("{user} is deactivated and leaves all rooms.");
        }
        UserCommand::MakeAdmin { name, revoke } => {
            let user = ask_for_user(config, Request::SetAdmin { name, admin: !revoke }).await?;
            let verb = if revoke { "is no longer" } else { "is" };
            println!("{user} {verb} administrator of this server.");
        }
    }
    Ok(())
}

async fn list(config: &Config) -> Result<(), CommandError> {
    let mut after = String::new();
    let mut count = 0;
    loop {
        let accounts = match ask(config, Request::List { after }).await? {
            Outcome::Accounts(accounts) => accounts,
            Outcome::Refused(reason) => return Err(CommandError::Refused(reason)),
            _ => return Err(CommandError::OtherVersion),
        };
        let Some(last) = accounts.last() else { break };
        after = last.user_id.to_string();
        count += accounts.len();
        for account in &accounts {
            println!("{}{}", account.user_id, describe(account));
        }
    }
    let noun = if count == 1 { "account" } else { "accounts" };
    eprintln!("{count} {noun}");
    Ok(())
}

async fn ask_for_user(config: &Config, request: Request) -> Result<String, CommandError> {
    match ask(config, request).await? {
        Outcome::Done(user_id) => Ok(user_id.to_string()),
        Outcome::Refused(reason) => Err(CommandError::Refused(reason)),
        _ => Err(CommandError::OtherVersion),
    }
}

fn describe(account: &ListedAccount) -> String {
    let remarks = [
        (account.admin, "administrator"),
        (account.guest, "guest"),
        (account.locked, "locked"),
        (account.suspended, "suspended"),
        (account.deactivated, "deactivated"),
    ];
    let remarks: Vec<_> =
        remarks.iter().filter(|(holds, _)| *holds).map(|(_, name)| *name).collect();
    if remarks.is_empty() { String::new() } else { format!("  ({})", remarks.join(", ")) }
}

fn print_password(password: &str, is_made_up: bool) {
    if is_made_up {
        println!("Password: {password}");
    }
}

/// A script that has not said `--yes` has not thought about it.
fn confirm(question: &str) -> io::Result<bool> {
    if !io::stdin().is_terminal() {
        return Ok(false);
    }
    print!("{question} This cannot be undone. [y/N] ");
    io::stdout().flush()?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

impl PasswordArgs {
    /// The password, and whether it was made up.
    fn choose(&self) -> io::Result<(String, bool)> {
        if !self.password_stdin {
            return Ok((Clock::real().random_text(MADE_UP_PASSWORD_LENGTH), true));
        }
        let mut line = String::new();
        io::stdin().lock().read_line(&mut line)?;
        Ok((line.trim_end_matches(['\r', '\n']).to_owned(), false))
    }
}
