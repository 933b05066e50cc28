//! `multipart/mixed` as media come from other servers (RFC 2046): a part with JSON, then the content,
//! which is handed on as it arrives.

use std::io;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};

/// What may come before the content.
const HEADS_BYTES_MAX: usize = 64 * 1024;

/// An answer in parts.
pub struct Multipart<S> {
    /// `--` and the boundary.
    delimiter: Vec<u8>,
    buffer: BytesMut,
    chunks: S,
}

/// The head of a part: names in lower case, and values.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PartHead(Vec<(String, String)>);

impl PartHead {
    pub fn find(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    fn parse(text: &[u8]) -> Self {
        let text = String::from_utf8_lossy(text);
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Self(fields.map(|(n, v)| (n.trim().to_ascii_lowercase(), v.trim().to_owned())).collect())
    }
}

/// The boundary that a content type names.
pub fn find_boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/mixed") {
        return None;
    }
    let boundary = parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        name.trim().eq_ignore_ascii_case("boundary").then(|| value.trim().trim_matches('"'))
    })?;
    // RFC 2046: from 1 to 70 characters.
    (1..=70).contains(&boundary.len()).then_some(boundary)
}

/// The file name of a `Content-Disposition`: the encoded one if there is one (RFC 6266).
pub fn find_filename(disposition: &str) -> Option<String> {
    let find = |wanted: &str| {
        disposition.split(';').find_map(|parameter| {
            let (name, value) = parameter.split_once('=')?;
            name.trim().eq_ignore_ascii_case(wanted).then(|| value.trim().trim_matches('"'))
        })
    };
    let encoded = find("filename*").and_then(|value| {
        let text = value.strip_prefix("utf-8''").or_else(|| value.strip_prefix("UTF-8''"))?;
        percent_encoding::percent_decode_str(text).decode_utf8().ok().map(|text| text.into_owned())
    });
    encoded.or_else(|| find("filename").map(str::to_owned)).filter(|name| !name.is_empty())
}

impl<S: Stream<Item = io::Result<Bytes>> + Send + Unpin + 'static> Multipart<S> {
    pub fn new(boundary: &str, chunks: S) -> Self {
        let delimiter = format!("--{boundary}").into_bytes();
        Self { delimiter, buffer: BytesMut::new(), chunks }
    }

    /// Passes the first part over; returns the head of the second one, and its content.
    pub async fn into_second_part(
        mut self,
    ) -> io::Result<(PartHead, impl Stream<Item = io::Result<Bytes>> + Send + 'static)> {
        let delimiter = self.delimiter.clone();
        for _ in 0..2 {
            self.skip_behind(&delimiter).await?;
        }
        // What follows on the line of the delimiter belongs to nothing.
        self.skip_behind(b"\r\n").await?;
        while self.buffer.len() < 2 {
            self.read_more().await?;
        }
        let head = match self.buffer.starts_with(b"\r\n") {
            true => PartHead::default(),
            false => {
                let head = PartHead::parse(&self.take_before(b"\r\n\r\n").await?);
                let _ = self.buffer.split_to(2);
                head
            }
        };
        let _ = self.buffer.split_to(2);
        Ok((head, Box::pin(self.into_content())))
    }

    /// The content up to the next delimiter, which must come.
    fn into_content(self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
        let end = [b"\r\n", self.delimiter.as_slice()].concat();
        stream::try_unfold(Some((self, end)), |state| async move {
            let Some((mut multipart, end)) = state else { return Ok(None) };
            loop {
                if let Some(at) = find(&multipart.buffer, &end) {
                    let last = multipart.buffer.split_to(at).freeze();
                    return Ok((!last.is_empty()).then_some((last, None)));
                }
                // The end may have begun to arrive.
                let safe = multipart.buffer.len().saturating_sub(end.len());
                if safe > 0 {
                    let piece = multipart.buffer.split_to(safe).freeze();
                    return Ok(Some((piece, Some((multipart, end)))));
                }
                multipart.read_more().await?;
            }
        })
    }

    async fn skip_behind(&mut self, mark: &[u8]) -> io::Result<()> {
        self.take_before(mark).await?;
        let _ = self.buffer.split_to(mark.len());
        Ok(())
    }

    /// What comes before a mark, which stays.
    async fn take_before(&mut self, mark: &[u8]) -> io::Result<BytesMut> {
        loop {
            if let Some(at) = find(&self.buffer, mark) {
                // The mark behind a head begins with the end of its last line.
                return Ok(self.buffer.split_to(at));
            }
            if self.buffer.len() > HEADS_BYTES_MAX {
                return Err(io::Error::other("the heads are too large"));
            }
            self.read_more().await?;
        }
    }

    async fn read_more(&mut self) -> io::Result<()> {
        match self.chunks.next().await {
            Some(chunk) => {
                self.buffer.extend_from_slice(&chunk?);
                Ok(())
            }
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "--b\r\nContent-Type: application/json\r\n\r\n{}\r\n--b\r\n\
        Content-Type: text/plain\r\nContent-Disposition: inline; filename=\"a.txt\"\r\n\r\n\
        some\r\n--text\r\n--b--\r\n";

    async fn read(answer: &'static str, chunk_bytes: usize) -> io::Result<(PartHead, Vec<u8>)> {
        let chunks = answer.as_bytes().chunks(chunk_bytes);
        let chunks = stream::iter(chunks.map(|chunk| Ok(Bytes::from_static(chunk))));
        let (head, mut body) = Multipart::new("b", chunks).into_second_part().await?;
        let mut content = Vec::new();
        while let Some(piece) = body.next().await {
            content.extend_from_slice(&piece?);
        }
        Ok((head, content))
    }

    #[tokio::test]
    async fn second_part_is_read_however_it_arrives() {
        for chunk_bytes in [1, 2, 3, 7, 1000] {
            let (head, content) = read(ANSWER, chunk_bytes).await.unwrap();
            assert_eq!(head.find("content-type"), Some("text/plain"));
            assert_eq!(content, b"some\r\n--text");
        }
        let bare = "--b\r\n\r\n{}\r\n--b\r\n\r\nx\r\n--b--";
        assert_eq!(read(bare, 4).await.unwrap(), (PartHead::default(), b"x".to_vec()));
    }

    #[tokio::test]
    async fn content_that_breaks_off_is_an_error() {
        assert!(read("--b\r\n\r\n{}\r\n--b\r\n\r\nhalf a", 4).await.is_err());
        assert!(read("--b\r\n\r\n{}\r\n", 4).await.is_err());
    }

    #[test]
    fn boundaries_and_names_are_found() {
        assert_eq!(find_boundary("multipart/mixed; boundary=\"a b\""), Some("a b"));
        assert_eq!(find_boundary("Multipart/Mixed;boundary=x;y=z"), Some("x"));
        assert_eq!(find_boundary("text/plain; boundary=x"), None);
        assert_eq!(find_filename("inline; filename=\"a.png\"").as_deref(), Some("a.png"));
        let encoded = "attachment; filename=x; filename*=utf-8''%C3%A4.png";
        assert_eq!(find_filename(encoded).as_deref(), Some("ä.png"));
        assert_eq!(find_filename("inline"), None);
    }
}
