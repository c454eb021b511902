//! POST /_matrix/client/v3/user_directory/search (client-server API, "User Directory").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::user_directory::{FoundUser, UserDirectory};
use ruma::api::client::user_directory::search_users::v3::{Request, Response, User as DirectoryUser};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(directory): State<Arc<UserDirectory>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    let limit = usize::try_from(request.limit).unwrap_or(usize::MAX);
    let found = directory.search(&session.user_id, &request.search_term, limit).await?;
    let users = found.users.into_iter().map(shown).collect();
    Ok(RumaResponse(Response::new(users, found.limited)))
}

fn shown(found: FoundUser) -> DirectoryUser {
    let mut user = DirectoryUser::new(found.user_id);
    user.display_name = found.display_name;
    user.avatar_url = found.avatar_url.map(Into::into);
    user
}
