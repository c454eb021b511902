//! GET /_matrix/client/v3/pushrules/global/{kind}/{ruleId} (client-server API, "Push Rules: API").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::push::rules::PushRules;
use ruma::{
    api::client::push::{PushRule, get_pushrule::v3::Request},
    push::AnyPushRule,
};

use super::no_such_rule;
use crate::{
    error::ApiError,
    extract::{JsonText, Ruma, User},
};

pub async fn handle(
    State(rules): State<Arc<PushRules>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<JsonText, ApiError> {
    let rule = rules.get_rule(&session.user_id, request.kind, &request.rule_id)?.ok_or_else(no_such_rule)?;
    // ruma's response has no room for the kind of MSC4306.
    let shown = match rule {
        AnyPushRule::PostContent(rule) => serde_json::to_string(&rule),
        rule => serde_json::to_string(&PushRule::from(rule)),
    };
    Ok(JsonText(shown.map_err(ApiError::internal)?))
}
