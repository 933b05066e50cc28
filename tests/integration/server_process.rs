//! The program itself, as a person or systemd starts and stops it.

use std::{
    io::Read,
    os::unix::net::UnixDatagram,
    path::Path,
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;

use super::server_running::{PATIENCE, ask, read_to_close};

pub struct Process {
    child: Child,
    pub socket: std::path::PathBuf,
    _directory: TempDir,
}

/// Through a shell, which tells the program its process number as systemd does.
pub fn hearth(directory: &Path) -> Command {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", "WATCHDOG_PID=$$ exec \"$0\" \"$@\"", env!("CARGO_BIN_EXE_hearth")])
        .env_clear()
        .current_dir(directory)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

impl Process {
    /// Starts the server on a Unix socket, so that no port can be taken.
    pub async fn start(configure: impl FnOnce(&mut Command)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("hearth.sock");
        let mut command = hearth(directory.path());
        let listen = format!("[{{address = \"unix:{}\"}}]", socket.display());
        command.env("HEARTH_LISTEN", listen);
        configure(&mut command);
        let child = command.spawn().unwrap();
        let process = Self { child, socket, _directory: directory };
        let ready = async {
            while !process.is_healthy().await {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(PATIENCE, ready).await.unwrap();
        process
    }

    /// Asks it to stop; returns what it wrote on standard error.
    pub async fn stop(self) -> String {
        self.signal(Signal::TERM);
        let (status, text) = self.wait().await;
        assert_eq!(status, Some(0), "{text}");
        text
    }

    async fn connect(&self) -> std::io::Result<tokio::net::UnixStream> {
        tokio::net::UnixStream::connect(&self.socket).await
    }

    async fn is_healthy(&self) -> bool {
        match self.connect().await {
            Ok(mut stream) => ask(&mut stream, "/health").await.starts_with("HTTP/1.1 200"),
            Err(_) => false,
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }

    /// Waits for the end; returns the exit status and what was written on standard error.
    async fn wait(mut self) -> (Option<i32>, String) {
        let deadline = tokio::time::sleep(PATIENCE);
        tokio::pin!(deadline);
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                let mut text = String::new();
                self.child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
                return (status.code(), text);
            }
            tokio::select! {
                () = tokio::time::sleep(Duration::from_millis(5)) => {}
                () = &mut deadline => panic!("the process does not end"),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(arguments: &[&str], env: &[(&str, &str)]) -> Output {
    let directory = tempfile::tempdir().unwrap();
    hearth(directory.path()).args(arguments).envs(env.iter().copied()).output().unwrap()
}

#[tokio::test]
async fn greeting_names_the_address_and_the_data_and_sigterm_ends_cleanly() {
    let process = Process::start(|_| ()).await;
    let text = process.stop().await;
    assert!(text.contains("listens on") && text.contains("hearth.sock"), "{text}");
    assert!(text.contains("./hearth-data"), "{text}");
    assert!(text.contains("stopped"), "{text}");
}

#[tokio::test]
async fn connection_that_is_open_does_not_delay_the_end() {
    let process = Process::start(|_| ()).await;
    let mut idle = process.connect().await.unwrap();
    let mut half_a_head = process.connect().await.unwrap();
    half_a_head.write_all(b"GET /_matrix/cli").await.unwrap();
    process.signal(Signal::INT);
    let ended = tokio::time::timeout(Duration::from_secs(10), process.wait()).await;
    let (status, text) = ended.expect("before half a head runs into its own timeout");
    assert_eq!(status, Some(0), "{text}");
    assert_eq!(read_to_close(&mut idle).await, "");
}

#[tokio::test]
async fn systemd_hears_ready_and_stopping_and_the_watchdog_is_fed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notify.sock");
    let manager = UnixDatagram::bind(&path).unwrap();
    manager.set_read_timeout(Some(PATIENCE)).unwrap();
    let process = Process::start(|command| {
        command.env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000");
    })
    .await;
    let mut heard = String::new();
    let mut listen_for = |what: &str| {
        while !heard.contains(what) {
            let mut buffer = [0; 256];
            let count = manager.recv(&mut buffer).unwrap();
            heard.push_str(&String::from_utf8_lossy(&buffer[..count]));
        }
    };
    listen_for("READY=1");
    listen_for("WATCHDOG=1");
    process.signal(Signal::TERM);
    listen_for("STOPPING=1");
    assert_eq!(process.wait().await.0, Some(0));
}

#[tokio::test]
async fn first_answer_comes_soon_on_an_existing_database() {
    let directory = tempfile::tempdir().unwrap();
    let data_dir = directory.path().join("data");
    let process = Process::start(|command| {
        command.env("HEARTH_SERVER__DATA_DIR", &data_dir);
    })
    .await;
    process.stop().await;
    #[expect(clippy::disallowed_methods, reason = "a test measures real time")]
    let started = Instant::now();
    let process = Process::start(|command| {
        command.env("HEARTH_SERVER__DATA_DIR", &data_dir);
    })
    .await;
    // The aim is 0.1 s; the bound leaves room for a debug build on a busy machine.
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    process.stop().await;
}

#[test]
fn wrong_configuration_is_refused_with_every_problem() {
    let env = [("HEARTH_SERVER__NAEM", "x"), ("HEARTH_MEDIA__UPLOAD_SIZE_MAX", "lots")];
    for command in ["serve", "check-config", "migrate"] {
        let output = run(&[command], &env);
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{text}");
        assert!(text.contains("2 problems") && text.contains("did you mean `name`?"), "{text}");
    }
}

#[test]
fn postgres_that_lets_nobody_in_is_named_without_the_password() {
    let nobody_listens = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let url = format!("postgres://hearth:s3cret@{nobody_listens}/matrix");
    for command in ["serve", "migrate"] {
        let output = run(&[command], &[("HEARTH_DATABASE__URL", &url)]);
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success(), "{text}");
        let place = format!("PostgreSQL at {nobody_listens} (database matrix, user hearth)");
        assert!(text.contains(&place) && !text.contains("s3cret"), "{text}");
    }
}

#[tokio::test]
async fn metrics_tell_how_well_the_caches_do() {
    let process = Process::start(|command| {
        let directory = command.get_current_dir().unwrap().to_owned();
        let listen = format!(
            "[{{address = \"unix:{}\", apis = [\"client\", \"metrics\"]}}]",
            directory.join("hearth.sock").display()
        );
        command.env("HEARTH_LISTEN", listen);
    })
    .await;
    let mut stream = process.connect().await.unwrap();
    let figures = ask(&mut stream, "/metrics").await;
    for figure in ["hits_total", "misses_total", "weight", "weight_max", "entries"] {
        let line = format!("hearth_cache_{figure}{{cache=\"events\"}} ");
        assert!(figures.contains(&line), "{figure} is missing in {figures}");
    }
    process.stop().await;
}

#[test]
fn generated_configuration_is_right() {
    let generated = run(&["generate-config"], &[]).stdout;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("hearth.toml");
    std::fs::write(&path, generated).unwrap();
    let output = run(&["check-config", "--config", path.to_str().unwrap()], &[]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("configuration is right"), "{text}");
}

#[test]
fn migrate_brings_a_new_database_up_to_date_and_says_so() {
    let directory = tempfile::tempdir().unwrap();
    let migrate = || {
        let output = hearth(directory.path()).arg("migrate").output().unwrap();
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(migrate().contains("is up to date now"));
    assert!(migrate().contains("was up to date"));
}

#[test]
fn version_and_help_are_printed() {
    let version = run(&["version"], &[]).stdout;
    let expected = format!("hearth {}\n", env!("CARGO_PKG_VERSION"));
    assert_eq!(String::from_utf8(version).unwrap(), expected);
    let help = String::from_utf8(run(&["--help"], &[]).stdout).unwrap();
    for command in ["serve", "check-config", "migrate", "generate-config", "version"] {
        assert!(help.contains(command), "{help}");
    }
}
