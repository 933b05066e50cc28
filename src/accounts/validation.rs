//! Proving that a mail address is somebody's (client-server API, `…/email/requestToken`; identity
//! service API, "Establishing associations"): a mail with a link, and who followed it. Not for what
//! the address is then used for.

use ruma::UserId;
use subtle::ConstantTimeEq;

use super::Accounts;
use crate::{
    outbound::{Mail, MailError, Paragraph, is_mail_address},
    storage::{
        StorageError,
        third_party_ids::{self, StoredValidation},
    },
};

/// "Their length must not exceed 255 characters and they must not be empty" (of session IDs, secrets).
const OPAQUE_BYTES_MAX: usize = 255;
/// The longest mail address (RFC 5321, section 4.5.3.1.3: a path has 256 octets with its brackets).
const ADDRESS_BYTES_MAX: usize = 254;
const NEXT_LINK_BYTES_MAX: usize = 2048;
const SID_LENGTH: usize = 24;
const TOKEN_LENGTH: usize = 32;
/// "Within a 24-hour period since its most recent modification."
pub(super) const LIFETIME_MS: u64 = 24 * 60 * 60 * 1000;
/// The medium of mail addresses (Appendices, "3PID Types").
pub const EMAIL: &str = "email";
/// The path of the page that the link in a mail leads to.
pub const CONFIRM_PATH: &str = "/_matrix/client/unstable/hearth/confirm_address";

/// What an address is proven for. A proof for one serves for no other: whoever confirms an address
/// to somebody who adds it would otherwise hand out the key to their own account.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Register,
    Add,
    ResetPassword,
}

/// A request for a mail.
#[derive(Clone, Debug)]
pub struct ValidationRequest {
    pub purpose: Purpose,
    /// As the user wrote it.
    pub address: String,
    pub client_secret: String,
    pub send_attempt: i64,
    pub next_link: Option<String>,
}

/// What a client gives as proof.
#[derive(Clone, Debug, serde::Deserialize)]
pub struct ValidationCredentials {
    pub sid: String,
    pub client_secret: String,
}

/// An address that was proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProvenAddress {
    pub sid: String,
    /// Canonical.
    pub address: String,
    pub validated_ts: i64,
}

/// Why no mail was sent, or a proof was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ValidationError {
    #[error("this server sends no mails")]
    MailNotConfigured,
    #[error("this is no mail address")]
    InvalidAddress,
    #[error("a client secret has 1 to 255 of the characters 0-9 a-z A-Z . = _ -")]
    InvalidSecret,
    #[error("the next link is no web address of at most {NEXT_LINK_BYTES_MAX} bytes")]
    InvalidNextLink,
    #[error("this mail address belongs to an account already")]
    InUse,
    #[error("no account has this mail address")]
    NotFound,
    #[error("the mail could not be sent; try again later")]
    MailNotSent(MailError),
    #[error("there is no such proof under way")]
    UnknownSession,
    #[error("this proof has expired; begin again")]
    Expired,
    #[error("the address has not been confirmed yet; follow the link in the mail")]
    NotValidated,
    #[error("this is not what the mail says")]
    WrongToken,
    #[error(transparent)]
    Storage(#[from] StorageError),
}

type Result<T> = std::result::Result<T, ValidationError>;

impl Purpose {
    fn name(self) -> &'static str {
        match self {
            Self::Register => "register",
            Self::Add => "add",
            Self::ResetPassword => "password",
        }
    }

    /// The subject, and what confirming does.
    fn explain(self, server_name: &str) -> (String, String) {
        match self {
            Self::Register => (
                format!("Confirm your mail address for {server_name}"),
                format!("Somebody registers an account on {server_name} with this address."),
            ),
            Self::Add => (
                format!("Confirm your mail address for {server_name}"),
                format!("Somebody adds this address to their account on {server_name}."),
            ),
            Self::ResetPassword => (
                format!("A new password for {server_name}"),
                format!(
                    "Somebody wants a new password for the account on {server_name} that has this \
                     address."
                ),
            ),
        }
    }
}

/// The canonical form of a mail address: without case (Appendices, "E-Mail"; letters such as ß fall
/// apart by way of their capitals).
pub fn canonical_address(address: &str) -> Option<String> {
    if address.len() > ADDRESS_BYTES_MAX || address.contains('\0') || !is_mail_address(address) {
        return None;
    }
    let capitals = address.chars().flat_map(char::to_uppercase);
    Some(capitals.flat_map(char::to_lowercase).collect())
}

impl Accounts {
    /// Sends a mail with a link, unless one was sent for this attempt already; the session's ID.
    pub async fn request_validation(&self, request: ValidationRequest) -> Result<String> {
        if !self.mailer.is_configured() {
            return Err(ValidationError::MailNotConfigured);
        }
        let address = canonical_address(&request.address);
        let address = address.ok_or(ValidationError::InvalidAddress)?;
        if !is_opaque(&request.client_secret) {
            return Err(ValidationError::InvalidSecret);
        }
        let is_link = |link: &String| {
            link.len() <= NEXT_LINK_BYTES_MAX
                && (link.starts_with("https://") || link.starts_with("http://"))
                && link.chars().all(|char| !char.is_control() && !char.is_whitespace())
        };
        if request.next_link.as_ref().is_some_and(|link| !is_link(link)) {
            return Err(ValidationError::InvalidNextLink);
        }
        let owner = self.find_address_owner(EMAIL, &address).await?;
        match (request.purpose, owner) {
            (Purpose::ResetPassword, None) => return Err(ValidationError::NotFound),
            (Purpose::Register | Purpose::Add, Some(_)) => return Err(ValidationError::InUse),
            _ => {}
        }
        let session = self.open_validation(&request, &address).await?;
        // The mail goes to the address as it was written: what is before the @ may depend on case.
        if request.send_attempt > session.send_attempt {
            self.send_validation(request.purpose, request.address, &session).await?;
            let (sid, attempt) = (session.sid.clone(), request.send_attempt);
            let noted: std::result::Result<(), StorageError> = self
                .writer
                .transact(move |tx| {
                    Box::pin(async move {
                        let link = request.next_link.as_deref();
                        third_party_ids::note_mail(tx, &sid, attempt, link).await
                    })
                })
                .await;
            noted?;
        }
        Ok(session.sid)
    }

    /// A proof that is under way, for the page that asks whether to go on.
    pub async fn check_validation_token(
        &self,
        sid: &str,
        client_secret: &str,
        token: &str,
    ) -> Result<()> {
        let session = self.find_validation(sid, client_secret).await?;
        match bool::from(session.token.as_bytes().ct_eq(token.as_bytes())) {
            true => Ok(()),
            false => Err(ValidationError::WrongToken),
        }
    }

    /// Takes what the mail says as proof; returns where the user wants to go on.
    pub async fn confirm_validation(
        &self,
        sid: &str,
        client_secret: &str,
        token: &str,
    ) -> Result<Option<String>> {
        self.check_validation_token(sid, client_secret, token).await?;
        let session = self.find_validation(sid, client_secret).await?;
        let now_ts = self.clock.now_ms();
        let confirmed: std::result::Result<(), StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(
                    async move { third_party_ids::note_validated(tx, &session.sid, now_ts).await },
                )
            })
            .await;
        confirmed?;
        Ok(session.next_link)
    }

    /// The address that was proven for this purpose.
    pub async fn find_proven(
        &self,
        purpose: Purpose,
        credentials: &ValidationCredentials,
    ) -> Result<ProvenAddress> {
        let session = self.find_validation(&credentials.sid, &credentials.client_secret).await?;
        if session.purpose != purpose.name() {
            return Err(ValidationError::UnknownSession);
        }
        let validated_ts = session.validated_ts.ok_or(ValidationError::NotValidated)?;
        Ok(ProvenAddress { sid: session.sid, address: session.address, validated_ts })
    }

    async fn find_validation(&self, sid: &str, client_secret: &str) -> Result<StoredValidation> {
        if !is_opaque(sid) || !is_opaque(client_secret) {
            return Err(ValidationError::UnknownSession);
        }
        let found = third_party_ids::find_validation(&self.database, sid).await?;
        let fits = |session: &StoredValidation| {
            session.client_secret.as_bytes().ct_eq(client_secret.as_bytes()).into()
        };
        let session = found.filter(fits).ok_or(ValidationError::UnknownSession)?;
        match self.is_over(&session) {
            true => Err(ValidationError::Expired),
            false => Ok(session),
        }
    }

    fn is_over(&self, session: &StoredValidation) -> bool {
        session.changed_ts.cast_unsigned().saturating_add(LIFETIME_MS) <= self.clock.now_ms()
    }

    /// The session of this address and secret, or a new one.
    async fn open_validation(
        &self,
        request: &ValidationRequest,
        address: &str,
    ) -> Result<StoredValidation> {
        let fresh = StoredValidation {
            sid: self.clock.random_text(SID_LENGTH),
            purpose: request.purpose.name().to_owned(),
            address: address.to_owned(),
            client_secret: request.client_secret.clone(),
            token: self.clock.random_text(TOKEN_LENGTH),
            send_attempt: i64::MIN,
            next_link: request.next_link.clone(),
            validated_ts: None,
            changed_ts: self.clock.now_ms().cast_signed(),
        };
        let oldest_ts = self.clock.now_ms().saturating_sub(LIFETIME_MS).cast_signed();
        let session: std::result::Result<_, StorageError> = self
            .writer
            .transact(move |tx| {
                Box::pin(async move {
                    let (purpose, address) = (&fresh.purpose, &fresh.address);
                    let secret = &fresh.client_secret;
                    let known =
                        third_party_ids::find_validation_by_secret(tx, purpose, address, secret)
                            .await?;
                    if let Some(known) = known.filter(|known| known.changed_ts > oldest_ts) {
                        return Ok(known);
                    }
                    third_party_ids::insert_validation(tx, &fresh).await?;
                    Ok(fresh)
                })
            })
            .await;
        Ok(session?)
    }

    async fn send_validation(
        &self,
        purpose: Purpose,
        to: String,
        session: &StoredValidation,
    ) -> Result<()> {
        let StoredValidation { sid, client_secret, token, .. } = session;
        let base = self.config.public_url();
        // All three are of characters that need no escape in a query.
        let query = format!("sid={sid}&client_secret={client_secret}&token={token}");
        let (subject, explanation) = purpose.explain(self.server_name().as_str());
        let body = vec![
            Paragraph::Text(explanation),
            Paragraph::Text("If this is you, follow this link within a day:".to_owned()),
            Paragraph::Link {
                label: "Confirm the address".to_owned(),
                url: format!("{base}{CONFIRM_PATH}?{query}"),
            },
            Paragraph::Text("If it is not you, you need not do anything.".to_owned()),
        ];
        let mail = Mail { to, subject, body, ..Mail::default() };
        self.mailer.send(mail).await.map_err(|error| match error {
            MailError::BadAddress | MailError::Refused(_) => {
                tracing::info!(%error, "a mail to confirm an address was not taken");
                ValidationError::InvalidAddress
            }
            error => {
                tracing::warn!(%error, "a mail to confirm an address was not sent");
                ValidationError::MailNotSent(error)
            }
        })
    }

    /// The user whose account has this identifier.
    pub async fn find_address_owner(
        &self,
        medium: &str,
        address: &str,
    ) -> std::result::Result<Option<ruma::OwnedUserId>, StorageError> {
        let found = third_party_ids::find(&self.database, medium, address).await?;
        Ok(found.and_then(|id| UserId::parse(id.user_id).ok()))
    }
}

/// Session IDs and secrets "must consist entirely of the characters `[0-9a-zA-Z.=_-]`".
fn is_opaque(text: &str) -> bool {
    (1..=OPAQUE_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".=_-".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_folded() {
        let folded = |address| canonical_address(address).unwrap();
        assert_eq!(folded("Strauß@Example.com"), "strauss@example.com");
        assert_eq!(folded("ALICE@EXAMPLE.ORG"), "alice@example.org");
        for address in ["alice", "Alice <alice@example.org>", "a@b@c", ""] {
            assert_eq!(canonical_address(address), None, "{address}");
        }
    }

    #[test]
    fn secrets_are_opaque_identifiers() {
        assert!(is_opaque("monkeys_are_GREAT.=-9"));
        for text in ["", "a b", "ä", &"a".repeat(256)] {
            assert!(!is_opaque(text), "{text}");
        }
    }
}
