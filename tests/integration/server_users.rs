//! `hearth user …` and the first administrator's token, with and without a running server.

use std::{
    path::{Path, PathBuf},
    process::Output,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt, net::UnixStream};

use super::{
    server_process::{Process, hearth},
    server_running::read_to_close,
};

struct House(TempDir);

impl House {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn data_dir(&self) -> PathBuf {
        self.0.path().join("data")
    }

    async fn serve(&self) -> Process {
        let data_dir = self.data_dir();
        Process::start(|command| {
            command.env("HEARTH_SERVER__DATA_DIR", data_dir);
        })
        .await
    }

    /// `hearth user …`; what it says on standard output, and what it says when it fails.
    fn user(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&[&["user"], arguments].concat())
    }

    fn token(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&[&["registration-token"], arguments].concat())
    }

    fn run(&self, arguments: &[&str]) -> Result<String, String> {
        let mut command = hearth(self.0.path());
        command.env("HEARTH_SERVER__DATA_DIR", self.data_dir()).args(arguments);
        let Output { status, stdout, stderr } = command.output().unwrap();
        match status.success() {
            true => Ok(String::from_utf8(stdout).unwrap()),
            false => Err(String::from_utf8(stderr).unwrap()),
        }
    }

    /// Makes an account; returns its password.
    fn create(&self, arguments: &[&str]) -> String {
        let text = self.user(&[&["create"], arguments].concat()).unwrap();
        text.lines().find_map(|line| line.strip_prefix("Password: ")).unwrap().to_owned()
    }
}

async fn post(socket: &Path, path: &str, body: &Value) -> (u16, Value) {
    let body = body.to_string();
    let length = body.len();
    let head = format!(
        "POST {path} HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n"
    );
    let mut stream = UnixStream::connect(socket).await.unwrap();
    stream.write_all(format!("{head}{body}").as_bytes()).await.unwrap();
    let answer = read_to_close(&mut stream).await;
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    let body = answer.split_once("\r\n\r\n").unwrap().1;
    (status, serde_json::from_str(body).unwrap())
}

async fn log_in(process: &Process, name: &str, password: &str) -> u16 {
    let body = json!({
        "type": "m.login.password",
        "identifier": { "type": "m.id.user", "user": name },
        "password": password,
    });
    post(&process.socket, "/_matrix/client/v3/login", &body).await.0
}

#[tokio::test]
async fn account_is_made_with_and_without_a_running_server() {
    let house = House::new();
    let before = house.create(&["alice", "--admin"]);
    let process = house.serve().await;
    let during = house.create(&["@bob:localhost"]);
    assert_eq!(log_in(&process, "alice", &before).await, 200);
    assert_eq!(log_in(&process, "bob", &during).await, 200);
    let expected = "@alice:localhost  (administrator)\n@bob:localhost\n";
    assert_eq!(house.user(&["list"]).unwrap(), expected);
    process.stop().await;
    assert_eq!(house.user(&["list"]).unwrap(), expected);
}

#[tokio::test]
async fn restored_database_is_made_safe_with_and_without_a_running_server() {
    let house = House::new();
    let process = house.serve().await;
    assert!(house.run(&["after-restore"]).unwrap().contains("discarded"));
    process.stop().await;
    assert!(house.run(&["after-restore"]).unwrap().contains("discarded"));
}

async fn is_valid(process: &Process, token: &str) -> bool {
    let path = "/_matrix/client/v1/register/m.login.registration_token/validity";
    let head = format!("GET {path}?token={token} HTTP/1.1\r\nhost: h\r\nconnection: close\r\n\r\n");
    let mut stream = UnixStream::connect(&process.socket).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = read_to_close(&mut stream).await;
    let body: Value = serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap();
    body["valid"] == true
}

#[tokio::test]
async fn registration_tokens_are_made_listed_and_revoked() {
    let house = House::new();
    house.create(&["alice"]);
    let made_up = house.token(&["create", "--days", "3"]).unwrap();
    assert_eq!(made_up.trim().len(), 16);
    let process = house.serve().await;
    assert_eq!(house.token(&["create", "club", "--uses", "unlimited"]).unwrap(), "club\n");
    assert!(is_valid(&process, made_up.trim()).await && is_valid(&process, "club").await);
    let list = house.token(&["list"]).unwrap();
    assert!(list.contains("club  (used 0 times)"), "{list}");
    assert!(
        list.contains(&format!("{}  (used 0 of 1 times, 2 more days)", made_up.trim())),
        "{list}"
    );
    for (arguments, reason) in [
        (&["create", "club"][..], "such a token already"),
        (&["create", "two words"], "A-Z a-z 0-9"),
        (&["create", "--uses", "0"], "unlimited"),
        (&["revoke", "nobody"], "no such token"),
    ] {
        let said = house.token(arguments).unwrap_err();
        assert!(said.contains(reason), "{arguments:?}: {said}");
    }
    assert_eq!(house.token(&["revoke", "club"]).unwrap(), "club is no longer valid.\n");
    assert!(!is_valid(&process, "club").await);
    process.stop().await;
}

#[tokio::test]
async fn changes_reach_a_running_server() {
    let house = House::new();
    let process = house.serve().await;
    let old = house.create(&["alice"]);
    let text = house.user(&["reset-password", "alice"]).unwrap();
    let new = text.lines().find_map(|line| line.strip_prefix("Password: ")).unwrap();
    assert_eq!(log_in(&process, "alice", &old).await, 403);
    assert_eq!(log_in(&process, "alice", new).await, 200);
    house.user(&["make-admin", "alice"]).unwrap();
    assert!(house.user(&["list"]).unwrap().contains("(administrator)"));
    house.user(&["make-admin", "alice", "--revoke"]).unwrap();
    assert!(!house.user(&["list"]).unwrap().contains("(administrator)"));
    assert!(house.user(&["deactivate", "alice"]).unwrap_err().contains("--yes"));
    house.user(&["deactivate", "alice", "--yes"]).unwrap();
    assert_eq!(log_in(&process, "alice", new).await, 403);
    assert!(house.user(&["list"]).unwrap().contains("(deactivated)"));
    process.stop().await;
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_with_a_reason() {
    let house = House::new();
    house.create(&["alice"]);
    for (arguments, reason) in [
        (&["create", "alice"][..], "taken"),
        (&["create", "Älice"], "a-z"),
        (&["create", "@bob:elsewhere.org"], "no user of this server"),
        (&["reset-password", "nobody"], "no such account"),
        (&["make-admin", "nobody"], "no such account"),
        (&["deactivate", "nobody", "--yes"], "no such account"),
        (&["create", "carol", "--password-stdin"], "at least 8 characters"),
    ] {
        let text = house.user(arguments).unwrap_err();
        assert!(text.contains(reason), "{arguments:?}: {text}");
    }
}

#[tokio::test]
async fn administrator_made_at_the_terminal_uses_up_the_token() {
    let house = House::new();
    house.create(&["bob"]);
    assert!(house.serve().await.stop().await.contains("one-time token"));
    house.create(&["alice", "--admin"]);
    assert!(!house.serve().await.stop().await.contains("one-time token"));
    let house = House::new();
    house.create(&["bob"]);
    house.user(&["make-admin", "bob"]).unwrap();
    assert!(!house.serve().await.stop().await.contains("one-time token"));
}

#[tokio::test]
async fn token_of_the_greeting_makes_the_first_administrator_once() {
    let house = House::new();
    let process = house.serve().await;
    let socket = process.socket.clone();
    let greeting = process.stop().await;
    let token = greeting
        .lines()
        .map(str::trim)
        .find(|line| line.len() == 24 && line.bytes().all(|byte| byte.is_ascii_alphanumeric()));
    let token = token.unwrap_or_else(|| panic!("no token in: {greeting}")).to_owned();

    let process = house.serve().await;
    assert!(!socket.exists());
    let register = async |name: &str| {
        let path = "/_matrix/client/v3/register";
        let mut body = json!({ "username": name, "password": "a good password" });
        let (status, answer) = post(&process.socket, path, &body).await;
        assert_eq!(status, 401, "{answer}");
        body["auth"] = json!({
            "type": "m.login.registration_token",
            "token": token,
            "session": answer["session"],
        });
        post(&process.socket, path, &body).await.0
    };
    assert_eq!(register("alice").await, 200);
    assert_eq!(register("mallory").await, 401);
    assert_eq!(house.user(&["list"]).unwrap(), "@alice:localhost  (administrator)\n");
    process.stop().await;
    let process = house.serve().await;
    assert!(!process.stop().await.contains("one-time token"));
}

#[tokio::test]
async fn server_speaks_to_people_by_command() {
    let house = House::new();
    house.create(&["alice"]);
    house.create(&["bob"]);
    let rooms = || house.run(&["room", "list"]).unwrap().lines().count();
    let process = house.serve().await;
    let told = house.run(&["notice", "Water in the cellar.", "--to", "alice"]).unwrap();
    assert_eq!((told.as_str(), rooms()), ("1 person was told.\n", 1));
    let told = house.run(&["notice", "It is dry again.", "--everybody"]).unwrap();
    // The account that speaks is told nothing, and alice has her room already.
    assert_eq!((told.as_str(), rooms()), ("2 people were told.\n", 2));
    let unknown = house.run(&["notice", "Hello?", "--to", "nobody"]).unwrap_err();
    assert!(unknown.contains("@nobody:localhost: there is no such user here"), "{unknown}");
    assert!(house.run(&["notice", "to whom?"]).is_err());
    process.stop().await;
    let told = house.run(&["notice", "Good night.", "--to", "@bob:localhost"]).unwrap();
    assert_eq!((told.as_str(), rooms()), ("1 person was told.\n", 2));
}

#[tokio::test]
async fn application_services_come_and_go_by_command() {
    let house = House::new();
    let process = house.serve().await;
    let file = house.0.path().join("irc.yaml");
    let registration = |token: &str| {
        json!({
            "id": "irc", "url": "http://127.0.0.1:1", "as_token": token, "hs_token": "h",
            "sender_localpart": "_irc_bot", "namespaces": {},
        })
    };
    let add = |registration: &Value| {
        std::fs::write(&file, registration.to_string()).unwrap();
        house.run(&["appservice", "add", file.to_str().unwrap()])
    };
    assert!(add(&registration("h")).unwrap_err().contains("same `as_token`"));
    assert!(add(&registration("a")).unwrap().contains("@_irc_bot:localhost"));
    assert!(add(&registration("a")).unwrap_err().contains("`id`"));
    assert_eq!(house.run(&["appservice", "list"]).unwrap(), "irc\n");
    let shown = house.run(&["appservice", "show", "irc"]).unwrap();
    assert!(shown.contains("http://127.0.0.1:1"), "{shown}");
    let unreachable = house.run(&["appservice", "ping", "irc"]).unwrap_err();
    assert!(unreachable.contains("cannot be reached"), "{unreachable}");
    assert!(house.run(&["appservice", "remove", "other"]).is_err());
    house.run(&["appservice", "remove", "irc"]).unwrap();
    assert_eq!(house.run(&["appservice", "list"]).unwrap(), "");
    process.stop().await;
}
