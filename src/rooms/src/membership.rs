//! What local users do with memberships: join, leave, invite, kick, ban, unban, knock, forget.
//!
//! Each is done here when this server is in the room, and through another server when it is not: see [`crate::join`] and
//! [`crate::invite`].

use chappe_store::{Batch, StoreError, Topic, tables::rooms::FORGOTTEN};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomId, OwnedServerName, OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;

use crate::{EventDraft, Room, RoomError, Rooms};

/// How a user shows in member events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemberProfile {
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
}

impl MemberProfile {
    pub(crate) fn content(&self, membership: &str) -> CanonicalJsonObject {
        let mut content = CanonicalJsonObject::new();
        let fields = [
            ("membership", Some(membership)),
            ("displayname", self.display_name.as_deref()),
            ("avatar_url", self.avatar_url.as_deref()),
        ];
        for (name, value) in fields {
            if let Some(value) = value {
                content.insert(name.to_owned(), CanonicalJsonValue::String(value.to_owned()));
            }
        }
        content
    }
}

/// What a user's join event says beside the membership.
#[derive(Clone, Debug, Default)]
pub struct JoinContent {
    pub profile: MemberProfile,
    pub reason: Option<String>,
    /// What else the user's client wants in it. A name or picture in here comes before those of the profile.
    pub extra: CanonicalJsonObject,
}

/// What a client cannot put into a join event.
const SET_BY_SERVER: [&str; 3] = ["membership", "join_authorised_via_users_server", "third_party_invite"];

impl JoinContent {
    pub(crate) fn content(&self) -> CanonicalJsonObject {
        let mut content = with_reason(self.profile.content("join"), self.reason.clone());
        let wanted = self.extra.iter().filter(|(field, _)| !SET_BY_SERVER.contains(&field.as_str()));
        content.extend(wanted.map(|(field, value)| (field.clone(), value.clone())));
        content
    }
}

pub(crate) fn with_reason(mut content: CanonicalJsonObject, reason: Option<String>) -> CanonicalJsonObject {
    if let Some(reason) = reason {
        content.insert("reason".to_owned(), CanonicalJsonValue::String(reason));
    }
    content
}

pub(crate) fn member_draft(user: &UserId, content: CanonicalJsonObject) -> EventDraft {
    EventDraft::state(TimelineEventType::RoomMember, user, content)
}

/// The join rules, as far as joins by membership in other rooms are concerned.
#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: Vec<serde_json::Value>,
}

impl Rooms {
    /// Joins a local user to a room, over federation by one of `via` if need be.
    pub async fn join(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        profile: &MemberProfile,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let content = JoinContent { profile: profile.clone(), reason, extra: CanonicalJsonObject::new() };
        self.join_with(user, room_id, via, &content).await
    }

    /// As [`Rooms::join`], with more in the join event.
    pub async fn join_with(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        join: &JoinContent,
    ) -> Result<(), RoomError> {
        let room = match self.get_room(room_id)? {
            // Nobody need be asked who cannot know it better.
            Some(room) if room.record.partial_state && self.get_membership(room.nid, user)? == MembershipState::Ban => {
                return Err(RoomError::Forbidden("You are banned from this room".to_owned()));
            }
            Some(room) if self.is_server_joined(room.nid, &self.server_name)? => room,
            _ => return self.join_by_federation(user, room_id, via, join).await,
        };
        if room.record.partial_state && !self.is_joined(room.nid, user)? {
            // Whether a user is banned of whom nothing is known yet others can tell.
            return self.join_by_federation(user, room_id, via, join).await;
        }
        if self.is_joined(room.nid, user)? {
            return Ok(self.store.barrier().await?);
        }
        let mut content = join.content();
        let authoriser = match self.authorise_restricted_join(&room, user) {
            // Another server in the room may be able to do what this one cannot.
            Err(RoomError::UnableToAuthoriseJoin(_) | RoomError::UnableToGrantJoin(_)) => {
                let failure = match self.join_by_federation(user, room_id, via, join).await {
                    Ok(()) => return Ok(()),
                    Err(RoomError::NotFound(_)) => {
                        RoomError::Forbidden("You are not allowed to join this room".to_owned())
                    }
                    Err(error) => error,
                };
                // What was missing here may have arrived while the others were asked.
                match self.authorise_restricted_join(&room, user) {
                    Ok(Some(authoriser)) => Some(authoriser),
                    _ => return Err(failure),
                }
            }
            result => result?,
        };
        if let Some(authoriser) = authoriser {
            content.insert(
                "join_authorised_via_users_server".to_owned(),
                CanonicalJsonValue::String(authoriser.to_string()),
            );
        }
        self.send(user, room_id, member_draft(user, content)).await.map(|_| ())
    }

    /// Whether a restricted room lets this user in, and in whose name: the local user to put in `join_authorised_via_users_server`.
    ///
    /// `None`: nothing of the kind is needed (or the ordinary rules will refuse the join).
    ///
    /// Spec: Client-Server API, Restricted rooms; Server-Server API, Restricted rooms.
    pub(crate) fn authorise_restricted_join(
        &self,
        room: &Room,
        user: &UserId,
    ) -> Result<Option<OwnedUserId>, RoomError> {
        if !room.rules.authorization.restricted_join_rule {
            return Ok(None);
        }
        let Some(rules) = self.get_state_content::<JoinRules>(room.nid, &StateEventType::RoomJoinRules, "")? else {
            return Ok(None);
        };
        let is_restricted = rules.join_rule == "restricted"
            || (rules.join_rule == "knock_restricted" && room.rules.authorization.knock_restricted_join_rule);
        let membership = self.get_membership(room.nid, user)?;
        if !is_restricted || matches!(membership.as_str(), "join" | "invite" | "ban") {
            return Ok(None);
        }
        let mut knows_all = true;
        let mut is_member = false;
        for condition in &rules.allow {
            if condition.get("type").and_then(|kind| kind.as_str()) != Some("m.room_membership") {
                continue;
            }
            let Some(allowed) =
                condition.get("room_id").and_then(|id| id.as_str()).and_then(|id| RoomId::parse(id).ok())
            else {
                continue;
            };
            match self.get_room(&allowed)? {
                Some(allowed) if self.is_server_joined(allowed.nid, &self.server_name)? => {
                    is_member |= self.is_joined(allowed.nid, user)?;
                    knows_all &= !allowed.record.partial_state;
                }
                _ => knows_all = false,
            }
        }
        if !is_member {
            return Err(if knows_all {
                RoomError::Forbidden("You do not belong to any of the rooms that would let you join".to_owned())
            } else {
                RoomError::UnableToAuthoriseJoin("This server cannot tell whether you may join".to_owned())
            });
        }
        let levels = self.get_power_levels(room)?;
        for member in self.scan_members(room.nid) {
            let (member, record) = member?;
            if record.value.membership == "join"
                && self.is_local(&member)
                && levels.as_ref().is_some_and(|levels| levels.can_invite(&member))
            {
                return Ok(Some(member));
            }
        }
        Err(RoomError::UnableToGrantJoin("Nobody on this server may let you join".to_owned()))
    }

    /// Takes a local user out of a room, or declines an invite, or takes a knock back.
    pub async fn leave(&self, user: &UserId, room_id: &RoomId, reason: Option<String>) -> Result<(), RoomError> {
        let Some(nid) = self.get_room_nid(room_id)? else { return Err(RoomError::unknown_room()) };
        let membership = self.get_user_room(user, nid)?;
        match membership.as_ref().map(|member| member.value.membership.as_str()) {
            Some("join" | "invite" | "knock") => {}
            Some("leave") => return Ok(self.store.barrier().await?),
            Some("ban") => return Err(RoomError::Forbidden("You are banned from this room".to_owned())),
            _ => return Err(RoomError::not_in_room()),
        }
        if self.get_room(room_id)?.is_some() && self.is_server_joined(nid, &self.server_name)? {
            let content = with_reason(MemberProfile::default().content("leave"), reason);
            return self.send(user, room_id, member_draft(user, content)).await.map(|_| ());
        }
        self.leave_by_federation(user, room_id, nid, reason).await
    }

    /// Takes a user out of every room, and back from every invite and knock. Answers the rooms that could not be left, which keep no
    /// other.
    pub async fn leave_all(&self, user: &UserId) -> Result<Vec<(OwnedRoomId, RoomError)>, StoreError> {
        let memberships: Vec<_> = self.scan_user_rooms(user).collect::<Result<_, _>>()?;
        let mut failures = Vec::new();
        for (room, member) in memberships {
            if !matches!(member.value.membership.as_str(), "join" | "invite" | "knock") {
                continue;
            }
            let Some(room_id) = self.get_room_id(room)? else { continue };
            if let Err(error) = self.leave(user, &room_id, None).await {
                failures.push((room_id, error));
            }
        }
        Ok(failures)
    }

    /// Invites a user, here or elsewhere.
    pub async fn invite(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let draft = self.invite_draft(target, reason, false)?;
        if self.is_local(target) {
            return self.send(sender, room_id, draft).await.map(|_| ());
        }
        self.invite_remote(sender, room_id, target, draft).await
    }

    /// Invites a user with a member event's content as the client has written it.
    pub async fn invite_with_content(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        content: CanonicalJsonObject,
    ) -> Result<(), RoomError> {
        let draft = member_draft(target, content);
        if self.is_local(target) {
            return self.send(sender, room_id, draft).await.map(|_| ());
        }
        self.invite_remote(sender, room_id, target, draft).await
    }

    pub(crate) fn invite_draft(
        &self,
        target: &UserId,
        reason: Option<String>,
        is_direct: bool,
    ) -> Result<EventDraft, RoomError> {
        let profile = self.profiles.get_local_profile(target).unwrap_or_default();
        let mut content = with_reason(profile.content("invite"), reason);
        if is_direct {
            content.insert("is_direct".to_owned(), CanonicalJsonValue::Bool(true));
        }
        Ok(member_draft(target, content))
    }

    pub async fn kick(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.set_membership_of(sender, room_id, target, "leave", reason, |membership| match membership {
            "join" | "invite" | "knock" => Ok(()),
            _ => Err(RoomError::Forbidden("The user is not in the room".to_owned())),
        })
        .await
    }

    pub async fn ban(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.set_membership_of(sender, room_id, target, "ban", reason, |_| Ok(())).await
    }

    pub async fn unban(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        self.set_membership_of(sender, room_id, target, "leave", reason, |membership| match membership {
            "ban" => Ok(()),
            _ => Err(RoomError::Forbidden("The user is not banned".to_owned())),
        })
        .await
    }

    async fn set_membership_of(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        membership: &str,
        reason: Option<String>,
        check: impl FnOnce(&str) -> Result<(), RoomError> + Send,
    ) -> Result<(), RoomError> {
        self.await_member(room_id, target).await?;
        let room = self.require_room(room_id)?;
        self.require_joined(&room, &sender.to_owned())?;
        check(self.get_membership(room.nid, target)?.as_str())?;
        let content = with_reason(MemberProfile::default().content(membership), reason);
        self.send(sender, room_id, member_draft(target, content)).await.map(|_| ())
    }

    /// Knocks on a room, over federation by one of `via` if need be.
    pub async fn knock(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        profile: &MemberProfile,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        match self.get_room(room_id)? {
            Some(room) if self.is_server_joined(room.nid, &self.server_name)? => {
                let content = with_reason(profile.content("knock"), reason);
                self.send(user, room_id, member_draft(user, content)).await.map(|_| ())
            }
            _ => self.knock_by_federation(user, room_id, via, profile, reason).await,
        }
    }

    /// Makes a room that the user has left disappear from the user's view.
    ///
    /// Spec: Client-Server API, `POST /rooms/{roomId}/forget`.
    pub async fn forget(&self, user: &UserId, room_id: &RoomId) -> Result<(), RoomError> {
        let Some(nid) = self.get_room_nid(room_id)? else { return Err(RoomError::unknown_room()) };
        let Some(member) = self.get_user_room(user, nid)? else {
            return Err(RoomError::Invalid("You have never been in this room".to_owned()));
        };
        if !matches!(member.value.membership.as_str(), "leave" | "ban") {
            return Err(RoomError::Invalid("Leave the room before forgetting it".to_owned()));
        }
        let mut batch = Batch::new();
        let position = batch.next_position();
        batch.put(&FORGOTTEN, &(user.to_owned(), nid), &position);
        batch.wake(Topic::User(user.to_owned()));
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Shows a user's new name or picture in every room the user is joined to. Rooms that refuse it are left as they are.
    pub async fn update_profile_in_rooms(&self, user: &UserId, profile: &MemberProfile) -> Result<(), RoomError> {
        let mut tickets = Vec::new();
        for room in self.get_joined_rooms(user)? {
            let Some(room_id) = self.get_room_id(room)? else { continue };
            match self.enqueue_profile(user, &room_id, profile).await {
                Ok(ticket) => tickets.extend(ticket),
                Err(error) => tracing::debug!(room.id = %room_id, %error, "profile not updated in room"),
            }
        }
        for ticket in tickets {
            ticket.durable().await?;
        }
        Ok(())
    }

    async fn enqueue_profile(
        &self,
        user: &UserId,
        room_id: &RoomId,
        profile: &MemberProfile,
    ) -> Result<Option<chappe_store::Ticket>, RoomError> {
        let room = self.require_room(room_id)?;
        let Some(mut content) =
            self.get_state_content::<CanonicalJsonObject>(room.nid, &StateEventType::RoomMember, user.as_str())?
        else {
            return Ok(None);
        };
        content.retain(|key, _| {
            !matches!(key.as_str(), "displayname" | "avatar_url" | "reason" | "join_authorised_via_users_server")
        });
        content.extend(profile.content("join"));
        Ok(self.enqueue_event(user, room_id, member_draft(user, content)).await?.1)
    }
}

/// Where rooms look up how a local user is called.
pub trait LocalProfiles: Send + Sync + 'static {
    /// `None` for users that are not of this server, or have no profile.
    fn get_local_profile(&self, user: &UserId) -> Option<MemberProfile>;
}

/// Nobody has a name: for tests and simulation.
pub struct NoProfiles;

impl LocalProfiles for NoProfiles {
    fn get_local_profile(&self, _: &UserId) -> Option<MemberProfile> {
        None
    }
}
