//! `PUT /_matrix/federation/v1/send/{txnId}` (Server-Server API, "Transactions").

use axum::{extract::State, http::StatusCode};

use crate::{
    federation::{Transaction, TransactionError},
    http::{
        auth::SignedBody,
        error::{MatrixError, MatrixResult},
        json::{Path, RawJson},
        state::AppState,
    },
};

/// Takes a transaction.
pub async fn put_transaction(
    State(app): State<AppState>,
    Path(transaction_id): Path<String>,
    SignedBody(origin, transaction): SignedBody<Transaction>,
) -> MatrixResult<RawJson> {
    // Work that has begun ends, even when the other server hangs up: it will ask again, and then
    // finds the answer.
    let work = async move {
        app.federation.receive_transaction(&origin, &transaction_id, transaction).await
    };
    let answer = tokio::spawn(work).await;
    let answer = answer.map_err(|_| MatrixError::internal("The transaction broke off."))?;
    Ok(RawJson(answer?.into()))
}

impl From<TransactionError> for MatrixError {
    fn from(error: TransactionError) -> Self {
        match error {
            TransactionError::TooLarge => {
                Self::new(StatusCode::BAD_REQUEST, "M_TOO_LARGE", format!("{error}."))
            }
            TransactionError::TooMany => Self::limit_exceeded(1000),
            TransactionError::Storage(error) => error.into(),
        }
    }
}
