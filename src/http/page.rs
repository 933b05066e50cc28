//! The few pages for people's browsers: plain HTML that loads nothing and is kept nowhere.

use axum::{
    http::{
        HeaderValue, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_FRAME_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
};
use base64::{Engine as _, prelude::BASE64_STANDARD};
use sha2::{Digest as _, Sha256};

use crate::outbound::escape_html;

/// A page of this HTML. It cannot be shown within another one and tells no site its address.
pub fn page(title: &str, status: StatusCode, body: &str) -> Response {
    page_with_script(title, status, body, None)
}

/// A page that also runs a script, and no other one.
pub fn page_with_script(
    title: &str,
    status: StatusCode,
    body: &str,
    script: Option<&str>,
) -> Response {
    let element = script.map(|script| format!("<script>{script}</script>")).unwrap_or_default();
    let html = format!(
        "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>{}</title>\
         <style>body{{font-family:sans-serif;max-width:32em;margin:4em auto;padding:0 1em}}\
         button,input{{font-size:1.1em;padding:.5em 1em}}</style></head>\
         <body>{body}{element}</body></html>",
        escape_html(title)
    );
    let policy = match script {
        Some(script) => {
            let hash = BASE64_STANDARD.encode(Sha256::digest(script.as_bytes()));
            format!("default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hash}'")
        }
        None => "default-src 'none'; style-src 'unsafe-inline'".to_owned(),
    };
    let mut response = (status, html).into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (CONTENT_TYPE, "text/html; charset=utf-8"),
        (CACHE_CONTROL, "no-store"),
        (REFERRER_POLICY, "no-referrer"),
        (X_FRAME_OPTIONS, "DENY"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if let Ok(policy) = HeaderValue::try_from(policy) {
        headers.insert(CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// Fields of a form that people do not see.
pub fn hidden_fields(fields: &[(&str, &str)]) -> String {
    let input = |(name, value): &(&str, &str)| {
        format!("<input type=\"hidden\" name=\"{name}\" value=\"{}\">", escape_html(value))
    };
    fields.iter().map(input).collect()
}
