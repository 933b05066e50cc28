//! The program itself, as it is run, over HTTP.

use std::{
    net::TcpListener,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::place::{Place, SERVER_NAME};

pub struct Process {
    pub child: Child,
    pub url: String,
    pub http: reqwest::Client,
}

impl Process {
    /// With settings beside those that every benchmark wants, by the names of their variables.
    pub async fn start(place: &Place, settings: &[(&str, &str)]) -> Self {
        let port = {
            let probe = TcpListener::bind("127.0.0.1:0").expect("there is a free port");
            probe.local_addr().expect("is bound").port()
        };
        let mut command = Command::new(env!("CARGO_BIN_EXE_hearth"));
        // Settings of the benchmark are none of the server's.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HEARTH_")) {
            command.env_remove(name);
        }
        command
            .current_dir(place.directory.path())
            .env("HEARTH_SERVER__NAME", SERVER_NAME)
            .env("HEARTH_SERVER__DATA_DIR", place.directory.path().join("data"))
            .env("HEARTH_LISTEN", format!("[{{address = \"127.0.0.1:{port}\"}}]"))
            .env("HEARTH_REGISTRATION__MODE", "open")
            .env("HEARTH_RATE_LIMITS__ENABLED", "false")
            .envs(settings.iter().copied())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if let Some(url) = place.url() {
            command.env("HEARTH_DATABASE__URL", url);
        }
        let child = command.spawn().expect("starts");
        let url = format!("http://127.0.0.1:{port}");
        let mut process = Self { child, url, http: reqwest::Client::new() };
        while process.http.get(format!("{}/health", process.url)).send().await.is_err() {
            let ended = process.child.try_wait().expect("can be asked");
            assert!(ended.is_none(), "the server has ended: {ended:?}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        process
    }

    /// Ends it as a service manager does.
    pub fn stop(mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let pid = pid.expect("is a process");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("is there");
        self.child.wait().expect("ends");
    }

    /// Somebody's access token, who is registered if need be.
    pub async fn log_in(&self, name: &str) -> String {
        let password = "a long enough password";
        let body = json!({
            "username": name, "password": password, "auth": { "type": "m.login.dummy" },
        });
        let registered = self.post("register", &body).await;
        let answer = match registered["access_token"].is_string() {
            true => registered,
            false => {
                let identifier = json!({ "type": "m.id.user", "user": name });
                let body = json!({
                    "type": "m.login.password", "identifier": identifier, "password": password,
                });
                self.post("login", &body).await
            }
        };
        answer["access_token"].as_str().expect("is logged in").to_owned()
    }

    async fn post(&self, path: &str, body: &Value) -> Value {
        let url = format!("{}/_matrix/client/v3/{path}", self.url);
        let answer = self.http.post(url).json(body).send().await.expect("answers");
        answer.json().await.expect("is JSON")
    }

    /// Sends a message; returns how long it took to be durable.
    pub async fn send(&self, token: &str, room: &str, text: &str) -> Duration {
        let path = format!("rooms/{room}/send/m.room.message/{text}");
        let url = format!("{}/_matrix/client/v3/{path}", self.url);
        let body = json!({ "msgtype": "m.text", "body": text });
        let request = self.http.put(url).bearer_auth(token).json(&body);
        let begin = Instant::now();
        let answer = request.send().await.expect("answers");
        assert!(answer.status().is_success(), "{answer:?}");
        answer.bytes().await.expect("is whole");
        begin.elapsed()
    }

    /// Resident memory, MiB: a line of the kernel's table (`VmRSS:` now, `VmHWM:` at most so far).
    pub fn memory_mib(&self, name: &str) -> f64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("is told");
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().expect("is a number");
        kib / 1024.0
    }
}
