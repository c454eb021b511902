//! POST /_matrix/client/v3/keys/signatures/upload (client-server API, "Cross-signing").

use axum::{Json, extract::State};
use chappe_services::keys::{Keys, SignatureFailure};
use ruma::api::client::keys::upload_signatures::v3::Request;
use serde_json::{Map, Value, json};

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

/// Ruma's type for a failure cannot be made here, so the answer is written out.
pub async fn handle(
    State(keys): State<Keys>,
    Authenticated(session): Authenticated,
    Ruma(request): Ruma<Request>,
) -> Result<Json<Value>, ApiError> {
    let failures = keys.upload_signatures(&session.user_id, &request.signed_keys).await?;
    let failures: Map<String, Value> = failures
        .into_iter()
        .map(|(user, of_user)| {
            let of_user: Map<String, Value> =
                of_user.into_iter().map(|(signed, failure)| (signed, describe(failure))).collect();
            (user.to_string(), Value::Object(of_user))
        })
        .collect();
    Ok(Json(json!({ "failures": failures })))
}

fn describe(failure: SignatureFailure) -> Value {
    let (status, errcode) = match failure {
        SignatureFailure::Invalid => (400, "M_INVALID_SIGNATURE"),
        SignatureFailure::NotFound => (404, "M_NOT_FOUND"),
    };
    json!({ "status": status, "errcode": errcode, "error": failure.to_string() })
}
