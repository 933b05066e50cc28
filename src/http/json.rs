//! What arrives in requests - bodies, path and query parameters - and the exact error for each
//! way in which it can be wrong; and what goes out as JSON.

use std::ops::Deref;

use axum::{
    body::Body,
    extract::{FromRequest, FromRequestParts, Request, rejection::PathRejection},
    http::{
        HeaderValue,
        header::{CONTENT_LENGTH, CONTENT_TYPE},
        request::Parts,
    },
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use serde::{
    Deserialize, Deserializer, Serialize,
    de::{DeserializeOwned, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    error::{MatrixError, MatrixResult},
    state::AppState,
};

/// A JSON body of a known shape. 413 `M_TOO_LARGE`, 400 `M_NOT_JSON` or `M_BAD_JSON`.
#[derive(Clone, Debug)]
pub struct JsonBody<T>(pub T);

/// Like [`JsonBody`], but an empty body stands for `{}`, since clients leave it out where every
/// parameter is optional.
#[derive(Clone, Debug)]
pub struct OptionalJsonBody<T>(pub T);

/// A JSON body; None when there is none at all.
#[derive(Debug)]
pub struct MaybeJsonBody<T>(pub Option<T>);

/// A body that is a JSON object, kept as text: checked as far as that it is valid UTF-8 and JSON
/// with valid strings, not nested deeper than 128 levels.
#[derive(Clone, Debug)]
pub struct RawObject(pub String);

/// Parameters of the path, percent-decoded. 400 `M_INVALID_PARAM`.
#[derive(Clone, Debug)]
pub struct Path<T>(pub T);

/// Parameters of the query; a field of type `Vec` takes repeated ones. 400 `M_MISSING_PARAM` or
/// `M_INVALID_PARAM`.
#[derive(Clone, Debug)]
pub struct Query<T>(pub T);

/// The fields of a form (`application/x-www-form-urlencoded`). 400 `M_INVALID_PARAM`.
#[derive(Clone, Debug)]
pub struct Form<T>(pub T);

/// An answer in JSON.
#[derive(Clone, Debug)]
pub struct Json<T>(pub T);

/// An answer that is JSON already.
#[derive(Clone, Debug)]
pub struct RawJson(pub Bytes);

/// The answer `{}`.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Empty {}

/// Parses a JSON text from a client.
pub fn parse_json<T: DeserializeOwned>(bytes: &[u8]) -> MatrixResult<T> {
    serde_json::from_slice(bytes).map_err(|error| explain(bytes, &error))
}

/// Checks that a text from a client is a JSON object.
pub fn parse_object(bytes: &[u8]) -> MatrixResult<RawObject> {
    parse_json::<CheckedObject>(bytes)?;
    let text = std::str::from_utf8(bytes).map_err(|_| MatrixError::not_json(NOT_UTF8))?;
    Ok(RawObject(text.to_owned()))
}

/// Reads a body of at most `size_bytes_max` bytes.
pub async fn read_body(body: Body, size_bytes_max: usize) -> MatrixResult<Bytes> {
    match Limited::new(body, size_bytes_max).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large()),
        Err(_) => Err(MatrixError::not_json("The body of the request broke off.")),
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for JsonBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        parse_json(&read_limited(request, app).await?).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for OptionalJsonBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        let bytes = read_limited(request, app).await?;
        parse_json(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for Form<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        let bytes = read_limited(request, app).await?;
        serde_html_form::from_bytes(&bytes).map(Self).map_err(|error| {
            MatrixError::invalid_param(format!("The form is not understood: {error}."))
        })
    }
}

impl<T: DeserializeOwned> FromRequest<AppState> for MaybeJsonBody<T> {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        let bytes = read_limited(request, app).await?;
        let parsed = (!bytes.is_empty()).then(|| parse_json(&bytes));
        parsed.transpose().map(Self)
    }
}

impl FromRequest<AppState> for RawObject {
    type Rejection = MatrixError;

    async fn from_request(request: Request, app: &AppState) -> MatrixResult<Self> {
        parse_object(&read_limited(request, app).await?)
    }
}

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> MatrixResult<Self> {
        match axum::extract::Path::from_request_parts(parts, state).await {
            Ok(axum::extract::Path(value)) => Ok(Self(value)),
            Err(PathRejection::FailedToDeserializePathParams(error)) => {
                Err(MatrixError::invalid_param(error.body_text()))
            }
            Err(error) => Err(MatrixError::invalid_param(error.body_text())),
        }
    }
}

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = MatrixError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> MatrixResult<Self> {
        let query = parts.uri.query().unwrap_or_default();
        serde_html_form::from_str(query).map(Self).map_err(|error| {
            let message = format!("The query is not understood: {error}.");
            match message.contains("missing field") {
                true => MatrixError::missing_param(message),
                false => MatrixError::invalid_param(message),
            }
        })
    }
}

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        match serde_json::to_vec(&self.0) {
            Ok(json) => RawJson(json.into()).into_response(),
            Err(error) => {
                tracing::error!(%error, "an answer could not be written as JSON");
                MatrixError::internal("The server could not write its answer.").into_response()
            }
        }
    }
}

impl IntoResponse for RawJson {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.0));
        let json = HeaderValue::from_static("application/json");
        response.headers_mut().insert(CONTENT_TYPE, json);
        response
    }
}

impl<T> Deref for Path<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> Deref for Query<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

/// How much of a body that is too large is read and thrown away.
const DRAINED_BYTES_MAX: usize = 32 << 20;
const NOT_UTF8: &str = "The body is not valid UTF-8.";

async fn read_limited(request: Request, app: &AppState) -> MatrixResult<Bytes> {
    let size_bytes_max = app.config.limits.request_body_size_max.as_usize();
    let announced = request.headers().get(CONTENT_LENGTH).and_then(|value| value.to_str().ok());
    let announced = announced.and_then(|length| length.parse::<usize>().ok());
    if announced.is_some_and(|length| length > size_bytes_max) {
        drain(request.into_body()).await;
        return Err(too_large());
    }
    read_body(request.into_body(), size_bytes_max).await
}

/// Reads what a client still sends, up to a limit: it would not see the answer before it has sent
/// its request.
async fn drain(mut body: Body) {
    let mut bytes = 0;
    while let Some(Ok(frame)) = body.frame().await {
        bytes += frame.data_ref().map_or(0, Bytes::len);
        if bytes > DRAINED_BYTES_MAX {
            return;
        }
    }
}

fn too_large() -> MatrixError {
    MatrixError::too_large("The body of the request is too large.")
}

/// A body that is no JSON at all is told so, even where the parser met a wrong type first.
fn explain(bytes: &[u8], error: &serde_json::Error) -> MatrixError {
    if std::str::from_utf8(bytes).is_err() {
        return MatrixError::not_json(NOT_UTF8);
    }
    match serde_json::from_slice::<IgnoredAny>(bytes) {
        Err(error) => MatrixError::not_json(format!("The body is not JSON: {error}.")),
        Ok(_) => MatrixError::bad_json(format!("The body is not as expected: {error}.")),
    }
}

/// Walks through a JSON object, so that all its strings are checked, and keeps nothing.
struct CheckedObject;

struct Checked;

struct ObjectVisitor;

struct AnyVisitor;

impl<'de> Deserialize<'de> for CheckedObject {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor).map(|Checked| Self)
    }
}

impl<'de> Deserialize<'de> for Checked {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Checked;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Checked, A::Error> {
        while map.next_entry::<Checked, Checked>()?.is_some() {}
        Ok(Checked)
    }
}

macro_rules! accept {
    ($($name:ident($from:ty);)*) => {
        $(fn $name<E>(self, _: $from) -> Result<Checked, E> {
            Ok(Checked)
        })*
    };
}

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Checked;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("JSON")
    }

    accept! {
        visit_bool(bool);
        visit_i64(i64);
        visit_u64(u64);
        visit_f64(f64);
        visit_str(&str);
    }

    fn visit_unit<E>(self) -> Result<Checked, E> {
        Ok(Checked)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Checked, A::Error> {
        while seq.next_element::<Checked>()?.is_some() {}
        Ok(Checked)
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Checked, A::Error> {
        ObjectVisitor.visit_map(map)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(body: &[u8], errcode: Option<&str>) {
        let result = parse_object(body).map_err(|error| error.errcode).err();
        assert_eq!(result, errcode, "{}", String::from_utf8_lossy(body));
    }

    #[test]
    fn bodies_are_told_what_is_wrong_with_them() {
        check(br#"{"a": [1, -2, 0.5, null, true, {"b": "c\n"}]}"#, None);
        check(b"", Some("M_NOT_JSON"));
        check(b"{", Some("M_NOT_JSON"));
        check(b"{} {}", Some("M_NOT_JSON"));
        check(b"{\"a\": \"\xff\"}", Some("M_NOT_JSON"));
        check(b"[1", Some("M_NOT_JSON"));
        check(b"[1]", Some("M_BAD_JSON"));
        check(b"\"text\"", Some("M_BAD_JSON"));
        check(br#"{"a": "\ud800"}"#, Some("M_BAD_JSON"));
        check("[".repeat(100_000).as_bytes(), Some("M_NOT_JSON"));
    }

    #[test]
    fn wrong_type_before_a_syntax_error_is_no_json() {
        let error = parse_json::<u8>(b"\"text").unwrap_err();
        assert_eq!(error.errcode, "M_NOT_JSON");
    }
}
