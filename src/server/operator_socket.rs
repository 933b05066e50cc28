//! A Unix socket in the data directory through which the command line talks to a running server: one line
//! with a question, one line with its answer; a long one keeps no other waiting. What they say is the command line's business. Only whoever
//! may read the data directory gets here.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

use super::{
    socket::{BindError, Socket},
    transport::Wire,
};
use crate::config::{ListenAddress, SocketMode};

/// A question holds a name and a password; an answer at most a page of accounts.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long a question may take to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one conversation may take, which includes looking through a big room on a busy machine.
const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Conversations at once.
const CONVERSATIONS_MAX: usize = 16;
/// Nobody but the user who runs the server.
const MODE: SocketMode = SocketMode(0o600);

/// A socket that waits for questions.
pub struct OperatorSocket(Socket);

impl OperatorSocket {
    /// Binds the socket, in place of one that a killed server left behind.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Socket::bind(&ListenAddress::Unix(path.to_owned()), MODE).map(Self)
    }

    /// Answers questions until `shutdown`, and those that were asked before.
    pub async fn serve<F>(
        self,
        shutdown: CancellationToken,
        answer: impl Fn(String) -> F + Clone + Send + 'static,
    ) where
        F: Future<Output = String> + Send + 'static,
    {
        let mut conversations = JoinSet::new();
        while let Some(accepted) = shutdown.run_until_cancelled(self.0.accept()).await {
            let Ok((wire, _)) = accepted else { continue };
            while conversations.try_join_next().is_some() {}
            if conversations.len() >= CONVERSATIONS_MAX {
                conversations.join_next().await;
            }
            conversations.spawn(converse(wire, answer.clone()));
        }
        while conversations.join_next().await.is_some() {}
    }
}

async fn converse<F: Future<Output = String>>(wire: Wire, answer: impl Fn(String) -> F) {
    let conversation = async move {
        let mut stream = BufReader::new(wire);
        let reading = tokio::time::timeout(QUESTION_TIMEOUT, read_line(&mut stream));
        let question = reading.await??;
        let mut line = answer(question).await;
        line.push('\n');
        stream.write_all(line.as_bytes()).await?;
        stream.shutdown().await
    };
    match tokio::time::timeout(CONVERSATION_TIMEOUT, conversation).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a command broke off"),
        Err(_) => tracing::debug!("a command took too long"),
    }
}

/// Asks a running server; `None` when none runs.
pub async fn ask_operator_socket(path: &Path, question: &str) -> io::Result<Option<String>> {
    let stream = match UnixStream::connect(path).await {
        Ok(stream) => stream,
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            return Ok(None);
        }
        Err(error) => return Err(error),
    };
    let mut stream = BufReader::new(stream);
    stream.write_all(format!("{question}\n").as_bytes()).await?;
    read_line(&mut stream).await.map(Some)
}

async fn read_line(stream: &mut (impl tokio::io::AsyncBufRead + Unpin)) -> io::Result<String> {
    let mut line = String::new();
    stream.take(LINE_BYTES_MAX).read_line(&mut line).await?;
    match line.pop() {
        Some('\n') => Ok(line),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn a_long_command_keeps_no_other_waiting() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("operator.sock");
        let socket = OperatorSocket::bind(&path).unwrap();
        let shutdown = CancellationToken::new();
        let (begun, may_end) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let signals = (Arc::clone(&begun), Arc::clone(&may_end));
        let answer = move |question: String| {
            let (begun, may_end) = signals.clone();
            async move {
                if question == "long" {
                    begun.notify_one();
                    may_end.notified().await;
                }
                question
            }
        };
        let serving = tokio::spawn(socket.serve(shutdown.clone(), answer));
        // One that says nothing is in nobody's way either.
        let silent = UnixStream::connect(&path).await.unwrap();
        let long_path = path.clone();
        let long = tokio::spawn(async move { ask_operator_socket(&long_path, "long").await });
        begun.notified().await;
        let short = ask_operator_socket(&path, "short").await.unwrap();
        assert_eq!(short.as_deref(), Some("short"));
        // What was asked before the end is answered.
        shutdown.cancel();
        may_end.notify_one();
        assert_eq!(long.await.unwrap().unwrap().as_deref(), Some("long"));
        drop(silent);
        serving.await.unwrap();
    }
}
