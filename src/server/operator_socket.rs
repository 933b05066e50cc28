//! A Unix socket in the data directory through which the command line talks to a running server: one line
//! with a question, one line with its answer. What they say is the command line's business. Only whoever
//! may read the data directory gets here.

use std::{io, path::Path, time::Duration};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::UnixStream,
};
use tokio_util::sync::CancellationToken;

use super::socket::{BindError, Socket};
use crate::config::{ListenAddress, SocketMode};

/// A question holds a name and a password; an answer at most a page of accounts.
const LINE_BYTES_MAX: u64 = 1 << 20;
/// How long a question may take to arrive.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one conversation may take, which includes looking through a big room on a busy machine.
const CONVERSATION_TIMEOUT: Duration = Duration::from_secs(30 * 60);
/// Nobody but the user who runs the server.
const MODE: SocketMode = SocketMode(0o600);

/// A socket that waits for questions.
pub struct OperatorSocket(Socket);

impl OperatorSocket {
    /// Binds the socket, in place of one that a killed server left behind.
    pub fn bind(path: &Path) -> Result<Self, BindError> {
        Socket::bind(&ListenAddress::Unix(path.to_owned()), MODE).map(Self)
    }

    /// Answers one question after the other until `shutdown`.
    pub async fn serve<F: Future<Output = String>>(
        self,
        shutdown: CancellationToken,
        answer: impl Fn(String) -> F,
    ) {
        while let Some(accepted) = shutdown.run_until_cancelled(self.0.accept()).await {
            let Ok((wire, _)) = accepted else { continue };
            let conversation = async {
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
