//! PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId}/actions (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::PushRules;
use ruma::api::client::push::set_pushrule_actions::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    rules.set_actions(&session.user_id, request.kind, &request.rule_id, &request.actions).await?;
    Ok(RumaResponse(Response::new()))
}
