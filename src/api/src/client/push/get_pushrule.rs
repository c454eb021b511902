//! GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId} (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::PushRules;
use ruma::api::client::push::get_pushrule::v3::{Request, Response};

use super::no_such_rule;
use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let rule = rules.get_rule(&session.user_id, request.kind, &request.rule_id)?.ok_or_else(no_such_rule)?;
    Ok(RumaResponse(Response::new(rule.into())))
}
