//! A mail server (SMTP) that keeps what it gets for the test. It refuses every address that begins with
//! `refused`, for good.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use hearth::config::{Config, MailEncryption};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
};

/// A running mail server; it ends with the test.
pub struct MailSink {
    port: u16,
    received: UnboundedReceiver<ReceivedMail>,
    /// Of so many mails the next acknowledgements are lost.
    silent: Arc<AtomicUsize>,
}

/// A mail as it came.
#[derive(Clone, Debug)]
pub struct ReceivedMail {
    pub to: String,
    /// Header and body.
    pub raw: String,
}

impl MailSink {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (sender, received) = unbounded_channel();
        let silent = Arc::<AtomicUsize>::default();
        let lost = Arc::clone(&silent);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(converse(stream, sender.clone(), Arc::clone(&lost)));
            }
        });
        Self { port, received, silent }
    }

    /// Keeps the next mails, and breaks off in place of saying so.
    pub fn lose_acknowledgements(&self, count: usize) {
        self.silent.store(count, Ordering::SeqCst);
    }

    /// Has a server send its mails here.
    pub fn configure(&self, config: &mut Config) {
        config.mail.server = Some("127.0.0.1".to_owned());
        config.mail.port = self.port;
        config.mail.tls = MailEncryption::None;
        config.mail.from = Some("Hearth <hearth@hearth.test>".to_owned());
    }

    /// Waits for the next mail.
    pub async fn next(&mut self) -> ReceivedMail {
        self.received.recv().await.unwrap()
    }
}

impl ReceivedMail {
    /// The text for people, decoded.
    pub fn text(&self) -> String {
        self.part("text/plain")
    }

    /// The other form of it.
    pub fn html(&self) -> String {
        self.part("text/html")
    }

    /// The first address in the text.
    pub fn link(&self) -> String {
        let text = self.text();
        let found = text.split_whitespace().find(|word| word.starts_with("http"));
        found.unwrap_or_else(|| panic!("no link in {text}")).to_owned()
    }

    /// Its `Message-ID`.
    pub fn message_id(&self) -> String {
        let mut lines = self.raw.lines();
        let line = lines.find_map(|line| line.strip_prefix("Message-ID: "));
        line.unwrap_or_else(|| panic!("no Message-ID in {}", self.raw)).to_owned()
    }

    fn part(&self, kind: &str) -> String {
        // Not at every line that begins so: texts underline their headings.
        let boundary =
            self.raw.split("boundary=").nth(1).and_then(|rest| rest.split("\r\n").next());
        let boundary = format!("\r\n--{}", boundary.unwrap_or_default().trim_matches('"'));
        let parts = self.raw.split(&boundary).skip(1);
        let part =
            parts.filter_map(|part| part.split_once("\r\n\r\n")).find(|p| p.0.contains(kind));
        let (head, body) = part.unwrap_or_else(|| panic!("no {kind} in {}", self.raw));
        match head.contains("quoted-printable") {
            true => decode_quoted_printable(body),
            false => body.to_owned(),
        }
    }
}

async fn converse(
    stream: TcpStream,
    sender: UnboundedSender<ReceivedMail>,
    silent: Arc<AtomicUsize>,
) {
    let mut stream = BufReader::new(stream);
    let _ = answer(&mut stream, "220 sink").await;
    let (mut to, mut line) = (String::new(), String::new());
    while stream.read_line(&mut line).await.is_ok_and(|bytes| bytes > 0) {
        let command = line.trim().to_owned();
        line.clear();
        let reply = match command.split([' ', ':']).next().unwrap_or_default() {
            "RCPT" => {
                to = command.split(['<', '>']).nth(1).unwrap_or_default().to_owned();
                match to.starts_with("refused") {
                    true => "550 5.1.1 nobody here",
                    false => "250 ok",
                }
            }
            "DATA" => {
                let _ = answer(&mut stream, "354 go on").await;
                let raw = read_data(&mut stream).await;
                let less = |count: usize| count.checked_sub(1);
                let is_lost = silent.fetch_update(Ordering::SeqCst, Ordering::SeqCst, less).is_ok();
                let _ = sender.send(ReceivedMail { to: to.clone(), raw });
                if is_lost {
                    return;
                }
                "250 kept"
            }
            "QUIT" => "221 bye",
            _ => "250 ok",
        };
        if answer(&mut stream, reply).await.is_err() {
            return;
        }
    }
}

async fn answer(stream: &mut BufReader<TcpStream>, line: &str) -> std::io::Result<()> {
    stream.get_mut().write_all(format!("{line}\r\n").as_bytes()).await
}

async fn read_data(stream: &mut BufReader<TcpStream>) -> String {
    let mut raw = String::new();
    loop {
        let begin = raw.len();
        let bytes = stream.read_line(&mut raw).await.unwrap();
        if bytes == 0 || &raw[begin..] == ".\r\n" {
            raw.truncate(begin);
            return raw;
        }
        if raw[begin..].starts_with("..") {
            raw.remove(begin);
        }
    }
}

fn decode_quoted_printable(text: &str) -> String {
    let text = text.replace("=\r\n", "");
    let (mut decoded, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((byte, after)) = rest.split_first() {
        let code = after.get(..2).and_then(|code| std::str::from_utf8(code).ok());
        match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(code) if *byte == b'=' => {
                decoded.push(code);
                rest = &after[2..];
            }
            _ => {
                decoded.push(*byte);
                rest = after;
            }
        }
    }
    String::from_utf8(decoded).unwrap()
}
