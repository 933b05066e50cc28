//! A small client: requests with JSON, answers that say what was wrong when a test expected
//! something else.

use reqwest::{Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::{Value, json};

use super::specification::check_answer;

/// Someone who makes requests, logged in or not.
#[derive(Clone, Debug)]
pub struct Client {
    pub url: String,
    pub http: reqwest::Client,
    pub user_id: String,
    pub device_id: String,
    pub access_token: Option<String>,
}

/// An answer with its body as JSON (`null` when it has none).
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Client {
    pub fn new(http: reqwest::Client, url: String) -> Self {
        Self { url, http, user_id: String::new(), device_id: String::new(), access_token: None }
    }

    /// Becomes whom the answer of a login or registration names.
    pub fn take_login(&mut self, answer: &Value) {
        self.user_id = text(answer, "user_id");
        self.device_id = text(answer, "device_id");
        self.access_token = Some(text(answer, "access_token"));
    }

    pub async fn get(&self, path: &str) -> Answer {
        self.send(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        self.send(self.request(Method::DELETE, path)).await
    }

    pub async fn delete_with(&self, path: &str, body: &Value) -> Answer {
        self.send(self.request(Method::DELETE, path).json(body)).await
    }

    /// A request whose body is not JSON, or not valid.
    pub async fn send_text(&self, method: Method, path: &str, body: impl Into<Vec<u8>>) -> Answer {
        let body: Vec<u8> = body.into();
        self.send(self.request(method, path).body(body)).await
    }

    /// Posts with the password of `Server::register` as user-interactive authentication.
    pub async fn post_with_password(&self, path: &str, body: &Value) -> Answer {
        self.authenticate(Method::POST, path, body).await
    }

    /// Makes a request twice: as it is, and with the password for the session that it got.
    pub async fn authenticate(&self, method: Method, path: &str, body: &Value) -> Answer {
        let first = self.send(self.request(method.clone(), path).json(body)).await;
        assert_eq!(first.status, 401, "{first:?}");
        let name = self.user_id[1..].split(':').next().unwrap();
        let mut body = body.clone();
        body["auth"] = json!({
            "type": "m.login.password",
            "identifier": { "type": "m.id.user", "user": self.user_id },
            "password": format!("password of {name}"),
            "session": first.body["session"],
        });
        self.send(self.request(method, path).json(&body)).await
    }

    /// A request with this client's access token, for further treatment.
    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, format!("{}{path}", self.url));
        match &self.access_token {
            Some(token) => request.bearer_auth(token),
            None => request,
        }
    }

    pub async fn send(&self, request: RequestBuilder) -> Answer {
        let request = request.build().unwrap();
        let (method, path) = (request.method().clone(), request.url().path().to_owned());
        // What a proposal asks for is answered as the proposal says.
        let is_specified = !request.url().query().unwrap_or_default().contains("org.matrix.msc");
        let response = self.http.execute(request).await.unwrap();
        let (status, headers) = (response.status(), response.headers().clone());
        let bytes = response.bytes().await.unwrap();
        let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
        if is_specified {
            check_answer(&method, &path, status.as_u16(), &body);
        }
        Answer { status, headers, body }
    }
}

impl Answer {
    /// The body of an answer that must be 200.
    #[track_caller]
    pub fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{self:?}");
        self.body
    }

    /// Checks status and `errcode`; returns the body.
    #[track_caller]
    pub fn error(self, status: u16, errcode: &str) -> Value {
        let found = (self.status.as_u16(), self.body["errcode"].as_str());
        assert_eq!(found, (status, Some(errcode)), "{self:?}");
        assert!(self.body["error"].is_string(), "{self:?}");
        self.body
    }
}

fn text(answer: &Value, key: &str) -> String {
    answer[key].as_str().unwrap_or_else(|| panic!("no {key} in {answer}")).to_owned()
}
