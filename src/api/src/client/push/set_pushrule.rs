//! PUT /_matrix/client/v3/pushrules/global/{kind}/{ruleId} (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::{PlacedRule, PushRules};
use ruma::api::client::push::set_pushrule::v3::{Request, Response};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let placed = PlacedRule { rule: request.rule, before: request.before, after: request.after };
    rules.put_rule(&session.user_id, placed).await?;
    Ok(RumaResponse(Response::new()))
}
