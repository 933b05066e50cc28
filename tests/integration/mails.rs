//! Mails: what reaches the mail server, and what a sender learns when one does not.

use hearth::outbound::{Mail, MailError, Paragraph};

use crate::{
    both_databases,
    harness::{MailSink, Server},
};

fn mail(to: &str) -> Mail {
    let url = "https://hearth.test/confirm?token=abc&sid=1".to_owned();
    Mail {
        to: to.to_owned(),
        subject: "Grüße".to_owned(),
        body: vec![
            Paragraph::Text("Schöne Grüße an <alle>.".to_owned()),
            Paragraph::Link { label: "Confirm".to_owned(), url },
        ],
        headers: Vec::new(),
        identity: None,
    }
}

both_databases! {
    async fn mail_arrives_as_text_and_as_html(backend: Backend) {
        let mut sink = MailSink::start().await;
        let server = Server::start_with(backend, |config| sink.configure(config)).await;
        server.app.mailer.send(mail("alice@example.org")).await.unwrap();
        let received = sink.next().await;
        assert_eq!(received.to, "alice@example.org");
        assert!(received.raw.contains("From: Hearth <hearth@hearth.test>\r\n"), "{}", received.raw);
        assert!(received.text().contains("Schöne Grüße an <alle>."), "{}", received.text());
        assert!(received.html().contains("Grüße an &lt;alle&gt;."), "{}", received.html());
        assert_eq!(received.link(), "https://hearth.test/confirm?token=abc&sid=1");
    }

    async fn mail_that_is_refused_is_told_from_one_that_may_go_later(backend: Backend) {
        let sink = MailSink::start().await;
        let server = Server::start_with(backend, |config| sink.configure(config)).await;
        let mailer = &server.app.mailer;
        let refused = mailer.send(mail("refused@example.org")).await;
        assert!(matches!(refused, Err(MailError::Refused(_))), "{refused:?}");
        assert_eq!(mailer.send(mail("nobody")).await, Err(MailError::BadAddress));
        server.stop().await;

        let server = Server::start_with(backend, |config| {
            sink.configure(config);
            // Nothing listens at this port of the machine.
            config.mail.port = 1;
        })
        .await;
        let unreachable = server.app.mailer.send(mail("alice@example.org")).await;
        assert!(matches!(unreachable, Err(MailError::Unreachable(_))), "{unreachable:?}");
    }

    async fn server_without_mail_says_so(backend: Backend) {
        let server = Server::start(backend).await;
        let sent = server.app.mailer.send(mail("alice@example.org")).await;
        assert_eq!(sent, Err(MailError::NotConfigured));
    }
}
