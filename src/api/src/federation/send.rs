//! PUT /_matrix/federation/v1/send/{txnId}
//!
//! Spec: Server-Server API, Transactions.

use std::{collections::BTreeMap, sync::Arc};

use axum::{Json, extract::State};
use chappe_services::federation::transactions::{EDUS_MAX, PDUS_MAX, Transactions};
use ruma::api::federation::transactions::send_transaction_message::v1::Request;
use serde_json::{Value, json};

use crate::{error::ApiError, extract::Signed};

pub async fn send(
    State(transactions): State<Arc<Transactions>>,
    Signed { origin, body }: Signed<Request>,
) -> Result<Json<Value>, ApiError> {
    if body.origin != origin {
        return Err(ApiError::forbidden("The transaction is not of the server that sends it"));
    }
    if body.pdus.len() > PDUS_MAX || body.edus.len() > EDUS_MAX {
        return Err(ApiError::bad_json(format!("A transaction has at most {PDUS_MAX} PDUs and {EDUS_MAX} EDUs")));
    }
    let edus = body.edus.into_iter().map(|edu| edu.into_json()).collect();
    // A transaction goes on to its end even if its sender hangs up.
    let results = tokio::spawn(async move { transactions.receive(&origin, body.pdus, edus).await })
        .await
        .map_err(ApiError::internal)??;
    let pdus: BTreeMap<_, Value> = results
        .into_iter()
        .map(|(event_id, result)| (event_id, result.map_or_else(|error| json!({ "error": error }), |()| json!({}))))
        .collect();
    Ok(Json(json!({ "pdus": pdus })))
}
