//! DELETE /_matrix/client/v3/pushrules/global/{kind}/{ruleId} (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::PushRules;
use ruma::api::client::push::delete_pushrule::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    rules.delete_rule(&session.user_id, request.kind, &request.rule_id).await?;
    Ok(RumaResponse(Response::new()))
}
