//! User-interactive authentication (Client-Server API, "User-Interactive Authentication API"):
//! which stages a request has passed. Sessions live in bounded memory; after a restart a client
//! simply gets a new one. Not for what happens after (the endpoint's own operation).

use std::{sync::Arc, time::Duration};

use parking_lot::Mutex;
use quick_cache::sync::Cache;
use ruma::{OwnedUserId, UserId};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Accounts,
    login::UserIdentifier,
    validation::{ProvenAddress, Purpose, ValidationCredentials, ValidationError},
};
use crate::{clock::Clock, storage::StorageError};

/// Sessions in memory. The ones used longest ago are forgotten first.
const SESSIONS_MAX: usize = 10_000;
const SESSION_ID_LENGTH: usize = 24;

/// A way to authenticate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    Password,
    Dummy,
    RegistrationToken,
    /// A mail address that was proven for this purpose.
    Email(Purpose),
    /// The documents of the configuration are accepted.
    Terms,
}

/// The `auth` object of a request.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct AuthData {
    #[serde(rename = "type")]
    pub kind: Option<String>,
    pub session: Option<String>,
    pub identifier: Option<UserIdentifier>,
    /// Older clients give the user here.
    pub user: Option<String>,
    pub password: Option<String>,
    pub token: Option<String>,
    /// The proof of a mail address.
    #[serde(alias = "threepidCreds")]
    pub threepid_creds: Option<ValidationCredentials>,
}

/// What a request wants to be authenticated for.
#[derive(Clone, Debug)]
pub struct Attempt<'a> {
    /// Method, path and body, as far as they must not change between the stages.
    pub operation: String,
    /// Who is logged in, if somebody is.
    pub user_id: Option<&'a UserId>,
    /// Stages that lead to success, one list for each way.
    pub flows: Vec<Vec<Stage>>,
    pub auth: Option<AuthData>,
}

/// What a client has proven.
#[derive(Clone, Debug, Default)]
pub struct Proof {
    /// The registration token that was accepted.
    pub registration_token: Option<String>,
    /// The mail address that was proven.
    pub address: Option<ProvenAddress>,
}

/// Why a request cannot go on yet.
#[derive(Debug, thiserror::Error)]
pub enum InteractiveAuthError {
    #[error("more stages must be passed")]
    Challenge(Challenge),
    #[error("the session belongs to another request")]
    OperationChanged,
    #[error("somebody else proved who they are")]
    OtherUser,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

/// The 401 answer that says which stages there are.
#[derive(Clone, Debug)]
pub struct Challenge {
    pub flows: Vec<Vec<Stage>>,
    pub completed: Vec<Stage>,
    pub session: String,
    /// What clients need for stages, by their names.
    pub params: Value,
    /// Why the last attempt failed: a code and a sentence.
    pub error: Option<(&'static str, &'static str)>,
    /// Whether it failed for a wrong password, which is counted.
    pub wrong_password: bool,
}

/// The sessions of all clients.
pub struct InteractiveSessions {
    sessions: Cache<String, Arc<Mutex<InteractiveSession>>>,
    lifetime_ms: u64,
}

#[derive(Debug, Default)]
struct InteractiveSession {
    operation: String,
    user_id: Option<OwnedUserId>,
    flows: Vec<Vec<Stage>>,
    completed: Vec<Stage>,
    proof: Proof,
    expires_ts: u64,
}

impl Stage {
    /// Its name in the protocol ("Authentication types").
    pub fn name(self) -> &'static str {
        match self {
            Self::Password => "m.login.password",
            Self::Dummy => "m.login.dummy",
            Self::RegistrationToken => "m.login.registration_token",
            Self::Email(_) => "m.login.email.identity",
            Self::Terms => "m.login.terms",
        }
    }

    fn is_known(name: &str) -> bool {
        let of_any_purpose = Self::Email(Purpose::Register);
        [Self::Password, Self::Dummy, Self::RegistrationToken, of_any_purpose, Self::Terms]
            .iter()
            .any(|stage| stage.name() == name)
    }
}

impl Challenge {
    /// The body of the answer, without `errcode` and `error`.
    pub fn to_json(&self) -> Value {
        let names = |stages: &[Stage]| stages.iter().map(|stage| stage.name()).collect::<Vec<_>>();
        let flows: Vec<_> =
            self.flows.iter().map(|stages| json!({ "stages": names(stages) })).collect();
        let mut body = json!({ "flows": flows, "params": self.params, "session": self.session });
        if !self.completed.is_empty() {
            body["completed"] = json!(names(&self.completed));
        }
        body
    }
}

impl InteractiveSessions {
    pub fn new(lifetime: Duration) -> Self {
        Self {
            sessions: Cache::new(SESSIONS_MAX),
            lifetime_ms: u64::try_from(lifetime.as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn find(&self, id: &str, now_ts: u64) -> Option<Arc<Mutex<InteractiveSession>>> {
        self.sessions.get(id).filter(|session| session.lock().expires_ts > now_ts)
    }

    fn begin(
        &self,
        attempt: &Attempt<'_>,
        clock: &Clock,
    ) -> (String, Arc<Mutex<InteractiveSession>>) {
        let id = clock.random_text(SESSION_ID_LENGTH);
        let session = Arc::new(Mutex::new(InteractiveSession {
            operation: attempt.operation.clone(),
            user_id: attempt.user_id.map(ToOwned::to_owned),
            flows: attempt.flows.clone(),
            expires_ts: clock.now_ms().saturating_add(self.lifetime_ms),
            ..InteractiveSession::default()
        }));
        self.sessions.insert(id.clone(), session.clone());
        (id, session)
    }
}

impl Accounts {
    /// Lets a request pass once it has passed all stages of one flow, in their order; the session
    /// ends with it. A request without `auth` never passes.
    pub async fn authenticate_interactively(
        &self,
        attempt: Attempt<'_>,
    ) -> Result<Proof, InteractiveAuthError> {
        let now_ts = self.clock.now_ms();
        let named = attempt.auth.as_ref().and_then(|auth| auth.session.as_deref());
        let found = named.and_then(|id| Some((id.to_owned(), self.interactive.find(id, now_ts)?)));
        let is_lost = named.is_some() && found.is_none();
        let (id, session) = found.unwrap_or_else(|| self.interactive.begin(&attempt, &self.clock));
        let challenge = |error, wrong_password| {
            InteractiveAuthError::Challenge(Challenge {
                flows: attempt.flows.clone(),
                completed: session.lock().completed.clone(),
                session: id.clone(),
                params: self.stage_params(&attempt.flows),
                error,
                wrong_password,
            })
        };
        if is_lost {
            let error = ("M_UNKNOWN", "This session has ended; begin again with the new one.");
            return Err(challenge(Some(error), false));
        }
        let Some(auth) = &attempt.auth else { return Err(challenge(None, false)) };
        {
            let session = session.lock();
            if session.operation != attempt.operation
                || session.user_id.as_deref() != attempt.user_id
            {
                return Err(InteractiveAuthError::OperationChanged);
            }
        }
        if self.names_somebody_else(&attempt, auth).await? {
            return Err(InteractiveAuthError::OtherUser);
        }
        if let Some(kind) = &auth.kind
            && let Err(error) = self.pass_stage(&attempt, auth, kind, &session).await?
        {
            return Err(challenge(Some(error), kind == Stage::Password.name()));
        }
        let completed = session.lock().completed.clone();
        if !attempt.flows.contains(&completed) {
            return Err(challenge(None, false));
        }
        self.interactive.sessions.remove(&id);
        Ok(session.lock().proof.clone())
    }

    /// The user of a session, and its stages; `None` when there is no such session.
    pub fn find_interactive_session(
        &self,
        session: &str,
    ) -> Option<(Option<OwnedUserId>, Vec<Stage>)> {
        let session = self.interactive.find(session, self.clock.now_ms())?;
        let session = session.lock();
        Some((session.user_id.clone(), session.flows.iter().flatten().copied().collect()))
    }

    /// Tries one stage of a session by itself, for the page on which people do what their client
    /// cannot; what is wrong otherwise. Without effect when the session has ended.
    pub async fn pass_stage_on_page(
        &self,
        session: &str,
        kind: &str,
        auth: AuthData,
    ) -> Result<Result<(), &'static str>, StorageError> {
        let Some(session) = self.interactive.find(session, self.clock.now_ms()) else {
            return Ok(Err("This session has ended."));
        };
        let (user_id, operation, flows) = {
            let session = session.lock();
            (session.user_id.clone(), session.operation.clone(), session.flows.clone())
        };
        let attempt = Attempt { operation, user_id: user_id.as_deref(), flows, auth: None };
        let passed = self.pass_stage(&attempt, &auth, kind, &session).await?;
        Ok(passed.map_err(|(_, message)| message))
    }

    /// Tries one stage. A stage that was passed already stays passed.
    async fn pass_stage(
        &self,
        attempt: &Attempt<'_>,
        auth: &AuthData,
        kind: &str,
        session: &Mutex<InteractiveSession>,
    ) -> Result<Result<(), (&'static str, &'static str)>, StorageError> {
        let completed = session.lock().completed.clone();
        let mut stages = attempt.flows.iter().flatten().copied();
        let Some(stage) = stages.find(|stage| stage.name() == kind) else {
            return Ok(Err(match Stage::is_known(kind) {
                true => ("M_FORBIDDEN", "This stage is in none of the flows here."),
                false => ("M_UNRECOGNIZED", "This way of authentication is unknown."),
            }));
        };
        if completed.contains(&stage) {
            return Ok(Ok(()));
        }
        let is_next = |flow: &Vec<Stage>| {
            flow.get(completed.len()) == Some(&stage) && flow.starts_with(&completed)
        };
        if !attempt.flows.iter().any(is_next) {
            return Ok(Err(("M_FORBIDDEN", "This stage is in none of the flows here.")));
        }
        let passed = match stage {
            Stage::Dummy => Ok(()),
            Stage::Password => self.check_own_password(attempt, auth).await?,
            Stage::RegistrationToken => self.check_token_stage(auth, session).await?,
            Stage::Email(purpose) => self.check_email_stage(purpose, auth, session).await?,
            // Asking for the stage says that all documents are accepted.
            Stage::Terms => Ok(()),
        };
        if passed.is_ok() {
            session.lock().completed.push(stage);
        }
        Ok(passed)
    }

    /// Whether a user who is logged in would prove to be another one.
    async fn names_somebody_else(
        &self,
        attempt: &Attempt<'_>,
        auth: &AuthData,
    ) -> Result<bool, StorageError> {
        let named = self.find_named(auth).await?;
        let is_other = named.is_some_and(|named| Some(&*named) != attempt.user_id);
        Ok(attempt.user_id.is_some() && is_other)
    }

    async fn find_named(&self, auth: &AuthData) -> Result<Option<OwnedUserId>, StorageError> {
        match (&auth.identifier, &auth.user) {
            (Some(identifier), _) => self.resolve_identifier(identifier).await,
            (None, user) => Ok(user.as_ref().and_then(|user| self.resolve_user(user))),
        }
    }

    /// What clients need to show for some stages.
    fn stage_params(&self, flows: &[Vec<Stage>]) -> Value {
        match flows.iter().flatten().any(|stage| *stage == Stage::Terms) {
            true => json!({ "m.login.terms": self.config.registration.describe_terms() }),
            false => json!({}),
        }
    }

    async fn check_own_password(
        &self,
        attempt: &Attempt<'_>,
        auth: &AuthData,
    ) -> Result<Result<(), (&'static str, &'static str)>, StorageError> {
        let named = self.find_named(auth).await?;
        let named = named.or_else(|| attempt.user_id.map(ToOwned::to_owned));
        let own = named.filter(|named| Some(&**named) == attempt.user_id);
        let password = auth.password.clone().unwrap_or_default();
        let fits = match own {
            Some(user_id) => self.check_password(&user_id, password).await?,
            None => self.passwords.verify(password, None).await,
        };
        Ok(fits.then_some(()).ok_or(("M_FORBIDDEN", "The user or the password is wrong.")))
    }

    async fn check_token_stage(
        &self,
        auth: &AuthData,
        session: &Mutex<InteractiveSession>,
    ) -> Result<Result<(), (&'static str, &'static str)>, StorageError> {
        let Some(token) = &auth.token else {
            return Ok(Err(("M_MISSING_PARAM", "The registration token is missing.")));
        };
        if !self.is_registration_token_valid(token).await? {
            return Ok(Err(("M_UNAUTHORIZED", "The registration token is not valid.")));
        }
        session.lock().proof.registration_token = Some(token.clone());
        Ok(Ok(()))
    }

    async fn check_email_stage(
        &self,
        purpose: Purpose,
        auth: &AuthData,
        session: &Mutex<InteractiveSession>,
    ) -> Result<Result<(), (&'static str, &'static str)>, StorageError> {
        let Some(credentials) = &auth.threepid_creds else {
            return Ok(Err(("M_MISSING_PARAM", "`threepid_creds` is missing.")));
        };
        match self.find_proven(purpose, credentials).await {
            Ok(proven) => {
                session.lock().proof.address = Some(proven);
                Ok(Ok(()))
            }
            Err(ValidationError::Storage(error)) => Err(error),
            Err(ValidationError::NotValidated) => {
                Ok(Err(("M_UNAUTHORIZED", "The link in the mail was not followed yet.")))
            }
            Err(_) => Ok(Err(("M_THREEPID_AUTH_FAILED", "This proves no mail address."))),
        }
    }
}
