//! Mails to users, by way of the configured mail server (SMTP, RFC 5321), each as text and as HTML.
//! Not for what they say, nor for trying again: whoever sends one learns whether that would help.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
    time::{Duration, UNIX_EPOCH},
};

use lettre::{
    Address, AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor,
    message::{
        Mailbox, MultiPart,
        header::{HeaderName, HeaderValue},
    },
    transport::smtp::{
        authentication::Credentials,
        client::{Certificate, Tls, TlsParameters},
        extension::ClientId,
    },
};
use ruma::ServerName;
use sha2::{Digest, Sha256};

use crate::{
    clock::Clock,
    config::{MailConfig, MailEncryption},
};

/// From the connection to the acknowledgement.
const TIMEOUT: Duration = Duration::from_secs(30);
/// Characters of a `Message-ID` before its host.
const MESSAGE_ID_LENGTH: usize = 24;

/// A mail to one address.
#[derive(Clone, Debug, Default)]
pub struct Mail {
    /// Such as `alice@example.org`.
    pub to: String,
    pub subject: String,
    pub body: Vec<Paragraph>,
    /// Further header fields, such as `List-Unsubscribe`.
    pub headers: Vec<(&'static str, String)>,
    /// What its `Message-ID` is made of: a mail that is sent again, since its acknowledgement was lost, has
    /// the same one, so that whoever gets both can drop one. None for one at random.
    pub identity: Option<String>,
}

/// A part of a mail, from which both forms are made.
#[derive(Clone, Debug)]
pub enum Paragraph {
    Heading(String),
    /// Line breaks are kept.
    Text(String),
    Link {
        label: String,
        url: String,
    },
}

/// Why a mail was not sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MailError {
    #[error("this server has no mail server configured")]
    NotConfigured,
    #[error("this is no mail address")]
    BadAddress,
    /// Trying again is of no use.
    #[error("the mail server refuses the mail: {0}")]
    Refused(String),
    /// Later it may go.
    #[error("the mail server cannot be reached: {0}")]
    Unreachable(String),
}

/// Sends mails. Clones share the settings.
#[derive(Clone)]
pub struct Mailer(Arc<Inner>);

struct Inner {
    config: MailConfig,
    /// PEM files with authorities that are trusted beside those of the operating system.
    ca_files: Vec<PathBuf>,
    /// How we introduce ourselves.
    host: String,
    clock: Clock,
    /// Made with the first mail, since it reads the certificates of the system.
    transport: OnceLock<Transport>,
}

type Transport = AsyncSmtpTransport<Tokio1Executor>;

impl Mailer {
    /// Does nothing yet.
    pub fn new(
        config: MailConfig,
        ca_files: Vec<PathBuf>,
        server_name: &ServerName,
        clock: Clock,
    ) -> Self {
        let host = server_name.host().to_owned();
        Self(Arc::new(Inner { config, ca_files, host, clock, transport: OnceLock::new() }))
    }

    pub fn is_configured(&self) -> bool {
        self.0.config.server.is_some()
    }

    /// Hands a mail over to the mail server, which acknowledges it.
    pub async fn send(&self, mail: Mail) -> Result<(), MailError> {
        let message = self.0.write(&mail)?;
        let sending = self.0.transport()?.send(message);
        match tokio::time::timeout(TIMEOUT, sending).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if error.is_permanent() => Err(MailError::Refused(error.to_string())),
            Ok(Err(error)) => Err(MailError::Unreachable(error.to_string())),
            Err(_) => Err(MailError::Unreachable(format!("no answer within {TIMEOUT:?}"))),
        }
    }
}

/// Whether mails can be sent to this address; the domain must have a dot or be a literal.
pub fn is_mail_address(address: &str) -> bool {
    address.parse::<Address>().is_ok()
}

impl Inner {
    fn write(&self, mail: &Mail) -> Result<Message, MailError> {
        let from = self.config.from.as_deref().ok_or(MailError::NotConfigured)?;
        let from: Mailbox = from.parse().map_err(|_| MailError::NotConfigured)?;
        let to: Address = mail.to.parse().map_err(|_| MailError::BadAddress)?;
        let sent_at = UNIX_EPOCH + Duration::from_millis(self.clock.now_ms());
        let id = match &mail.identity {
            Some(identity) => shorten(identity),
            None => self.clock.random_text(MESSAGE_ID_LENGTH),
        };
        let id = format!("<{id}@{}>", self.host);
        let mut message = Message::builder()
            .from(from)
            .to(Mailbox::new(None, to))
            .subject(&mail.subject)
            .date(sent_at)
            .message_id(Some(id));
        let automatic = ("Auto-Submitted", "auto-generated".to_owned());
        for (name, value) in [automatic].iter().chain(&mail.headers) {
            let name = HeaderName::new_from_ascii_str(name);
            message = message.raw_header(HeaderValue::new(name, value.clone()));
        }
        let body = MultiPart::alternative_plain_html(as_text(&mail.body), as_html(&mail.body));
        message.multipart(body).map_err(|error| MailError::Refused(error.to_string()))
    }

    fn transport(&self) -> Result<&Transport, MailError> {
        if let Some(transport) = self.transport.get() {
            return Ok(transport);
        }
        let made = self.make_transport()?;
        Ok(self.transport.get_or_init(|| made))
    }

    fn make_transport(&self) -> Result<Transport, MailError> {
        let config = &self.config;
        let server = config.server.clone().ok_or(MailError::NotConfigured)?;
        let tls = match config.tls {
            MailEncryption::Starttls => Tls::Required(self.tls_parameters(&server)?),
            MailEncryption::Implicit => Tls::Wrapper(self.tls_parameters(&server)?),
            MailEncryption::None => Tls::None,
        };
        let mut builder = Transport::builder_dangerous(server)
            .port(config.port)
            .tls(tls)
            .timeout(Some(TIMEOUT))
            .hello_name(ClientId::Domain(self.host.clone()));
        if let (Some(login), Some(password)) = (&config.login, &config.password) {
            let password = password.expose().to_owned();
            builder = builder.credentials(Credentials::new(login.clone(), password));
        }
        Ok(builder.build())
    }

    fn tls_parameters(&self, server: &str) -> Result<TlsParameters, MailError> {
        let mut builder = TlsParameters::builder(server.to_owned());
        for file in &self.ca_files {
            let unusable =
                |problem: String| MailError::Unreachable(format!("{}: {problem}", file.display()));
            let pem = std::fs::read(file).map_err(|error| unusable(error.to_string()))?;
            let authority =
                Certificate::from_pem(&pem).map_err(|error| unusable(error.to_string()))?;
            builder = builder.add_root_certificate(authority);
        }
        builder.build().map_err(|error| MailError::Unreachable(error.to_string()))
    }
}

/// The same characters for the same identity, and nothing of what it says.
fn shorten(identity: &str) -> String {
    let digits: String =
        Sha256::digest(identity.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    digits[..MESSAGE_ID_LENGTH].to_owned()
}

fn as_text(body: &[Paragraph]) -> String {
    let paragraphs = body.iter().map(|paragraph| match paragraph {
        Paragraph::Heading(text) => format!("{text}\n{}", "-".repeat(text.chars().count())),
        Paragraph::Text(text) => text.clone(),
        Paragraph::Link { label, url } => format!("{label}:\n{url}"),
    });
    paragraphs.collect::<Vec<_>>().join("\n\n") + "\n"
}

fn as_html(body: &[Paragraph]) -> String {
    let paragraphs = body.iter().map(|paragraph| match paragraph {
        Paragraph::Heading(text) => format!("<h2>{}</h2>\n", escape_html(text)),
        Paragraph::Text(text) => format!("<p>{}</p>\n", escape_html(text).replace('\n', "<br>\n")),
        Paragraph::Link { label, url } => {
            format!("<p><a href=\"{}\">{}</a></p>\n", escape_html(url), escape_html(label))
        }
    });
    let paragraphs: String = paragraphs.collect();
    format!(
        "<!DOCTYPE html>\n<html><body style=\"font-family: sans-serif\">\n{paragraphs}</body></html>\n"
    )
}

/// Text that stands in HTML as it is.
pub fn escape_html(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for char in text.chars() {
        match char {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            char => escaped.push(char),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use ruma::server_name;

    use super::*;

    fn write(body: Vec<Paragraph>) -> String {
        let config = MailConfig {
            server: Some("localhost".to_owned()),
            from: Some("Hearth <hearth@example.org>".to_owned()),
            ..MailConfig::default()
        };
        let clock = Clock::scripted(1_700_000_000_000, 1);
        let mailer = Mailer::new(config, Vec::new(), server_name!("example.org"), clock);
        let headers = vec![("List-Unsubscribe", "<https://example.org/u>".to_owned())];
        let mail = Mail {
            to: "alice@example.org".to_owned(),
            subject: "Hallo".to_owned(),
            body,
            headers,
            identity: Some("one".to_owned()),
        };
        String::from_utf8(mailer.0.write(&mail).unwrap().formatted()).unwrap()
    }

    #[test]
    fn mail_has_both_forms_and_its_headers() {
        let url = "https://example.org/?a=1&b=2".to_owned();
        let link = Paragraph::Link { label: "Confirm".to_owned(), url };
        let written = write(vec![Paragraph::Text("1 < 2".to_owned()), link]);
        for part in [
            "From: Hearth <hearth@example.org>",
            "To: alice@example.org",
            "Subject: Hallo",
            "Date: Tue, 14 Nov 2023 22:13:20 +0000",
            "List-Unsubscribe: <https://example.org/u>",
            "Auto-Submitted: auto-generated",
            "Message-ID: <7692c3ad3540bb803c020b3a@example.org>",
            "text/plain",
            "1 < 2",
            "Confirm:\r\nhttps://example.org/?a=1&b=2",
            "text/html",
            "1 &lt; 2",
            "<a href=\"https://example.org/?a=1&amp;b=2\">Confirm</a>",
        ] {
            assert!(written.contains(part), "{part}\n{written}");
        }
    }

    #[test]
    fn header_cannot_be_smuggled_in() {
        let to = "alice@example.org\r\nBcc: eve@example.org";
        assert!(!is_mail_address(to));
        for address in ["alice", "@example.org", "a b@example.org", ""] {
            assert!(!is_mail_address(address), "{address}");
        }
    }
}
