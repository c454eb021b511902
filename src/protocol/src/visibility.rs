//! History visibility: who may see an event that is already in the room.
//!
//! Works on values the caller read from the state at the event; it knows nothing of ignored users, erased
//! senders or redactions.

use ruma::events::room::{history_visibility::HistoryVisibility, member::MembershipState};

/// The `m.room.history_visibility` in force at an event.
#[derive(Clone, Debug)]
pub struct VisibilityAtEvent {
    /// In the state before the event.
    pub before: HistoryVisibility,
    /// The new value, when the event itself is the `m.room.history_visibility` that changes it.
    pub after: Option<HistoryVisibility>,
}

impl VisibilityAtEvent {
    /// The visibility at any event that does not change it.
    pub fn at(before: HistoryVisibility) -> Self {
        Self { before, after: None }
    }
}

/// A user's standing towards one event.
#[derive(Clone, Debug)]
pub struct MembershipAtEvent {
    /// Membership in the state before the event; `leave` where there was none.
    pub before: MembershipState,
    /// The new value, when the event itself is this user's `m.room.member`.
    pub after: Option<MembershipState>,
    /// Whether the user is joined now, or was joined at any point after the event.
    pub joined_since: bool,
}

impl MembershipAtEvent {
    /// A user whose membership the event does not change.
    pub fn at(before: MembershipState, joined_since: bool) -> Self {
        Self { before, after: None, joined_since }
    }
}

/// Whether a user may see an event.
///
/// An event that changes the visibility, or the user's own membership, is judged by both values and shown if
/// either allows it.
///
/// Spec: Client-Server API, Room history visibility, Server behaviour.
pub fn visible_to_user(visibility: &VisibilityAtEvent, membership: &MembershipAtEvent) -> bool {
    let visibilities = [Some(&visibility.before), visibility.after.as_ref()];
    let memberships = [Some(&membership.before), membership.after.as_ref()];
    visibilities.iter().flatten().any(|visibility| {
        memberships.iter().flatten().any(|standing| allows_user(visibility, standing, membership.joined_since))
    })
}

fn allows_user(visibility: &HistoryVisibility, membership: &MembershipState, joined_since: bool) -> bool {
    if *visibility == HistoryVisibility::WorldReadable || *membership == MembershipState::Join {
        return true;
    }
    match effective(visibility) {
        HistoryVisibility::Shared => joined_since,
        HistoryVisibility::Invited => *membership == MembershipState::Invite,
        _ => false,
    }
}

/// Whether members see all of it, also what was before they came.
pub fn is_shared(visibility: &HistoryVisibility) -> bool {
    matches!(effective(visibility), HistoryVisibility::Shared | HistoryVisibility::WorldReadable)
}

/// Values nobody knows count as the default, `shared`.
fn effective(visibility: &HistoryVisibility) -> HistoryVisibility {
    match visibility {
        HistoryVisibility::Invited => HistoryVisibility::Invited,
        HistoryVisibility::Joined => HistoryVisibility::Joined,
        HistoryVisibility::WorldReadable => HistoryVisibility::WorldReadable,
        _ => HistoryVisibility::Shared,
    }
}

/// The standing of a server's users towards one event, taken together.
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerStanding {
    /// Some user of the server was joined in the state before or after the event.
    pub any_joined: bool,
    /// Some user of the server was invited in the state before or after the event.
    pub any_invited: bool,
    /// Some user of the server is joined now, or was at any point after the event.
    pub joined_since: bool,
}

/// Whether a server may be sent an event: whether some user of it might be shown the event.
///
/// Spec: Server-Server API, Backfilling and retrieving missing events.
pub fn visible_to_server(visibility: &VisibilityAtEvent, standing: ServerStanding) -> bool {
    if standing.any_joined {
        return true;
    }
    [Some(&visibility.before), visibility.after.as_ref()].into_iter().flatten().any(|visibility| {
        match effective(visibility) {
            HistoryVisibility::WorldReadable => true,
            HistoryVisibility::Shared => standing.joined_since,
            HistoryVisibility::Invited => standing.any_invited,
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use HistoryVisibility::{Invited, Joined, Shared, WorldReadable};
    use MembershipState::{Ban, Invite, Join, Leave};

    fn sees(visibility: HistoryVisibility, membership: MembershipState, joined_since: bool) -> bool {
        visible_to_user(&VisibilityAtEvent::at(visibility), &MembershipAtEvent::at(membership, joined_since))
    }

    #[test]
    fn joined_users_see_everything_sent_while_joined() {
        for visibility in [Invited, Joined, Shared, WorldReadable] {
            assert!(sees(visibility, Join, false));
        }
    }

    #[test]
    fn world_readable_is_seen_by_strangers() {
        assert!(sees(WorldReadable, Leave, false));
        assert!(sees(WorldReadable, Ban, false));
    }

    #[test]
    fn shared_history_needs_a_later_join() {
        assert!(sees(Shared, Leave, true));
        assert!(!sees(Shared, Leave, false));
        assert!(!sees(Shared, Invite, false));
    }

    #[test]
    fn invited_history_starts_at_the_invite_and_joined_at_the_join() {
        assert!(sees(Invited, Invite, false));
        assert!(!sees(Invited, Leave, true));
        assert!(!sees(Joined, Invite, true));
        assert!(!sees(Joined, Leave, true));
    }

    #[test]
    fn unknown_visibility_counts_as_shared() {
        assert!(sees("org.example.odd".into(), Leave, true));
        assert!(!sees("org.example.odd".into(), Leave, false));
    }

    #[test]
    fn own_membership_event_is_seen_if_either_side_allows_it() {
        let joining = MembershipAtEvent { before: Leave, after: Some(Join), joined_since: true };
        let leaving = MembershipAtEvent { before: Join, after: Some(Leave), joined_since: false };
        let declining = MembershipAtEvent { before: Invite, after: Some(Leave), joined_since: false };
        assert!(visible_to_user(&VisibilityAtEvent::at(Joined), &joining));
        assert!(visible_to_user(&VisibilityAtEvent::at(Joined), &leaving));
        assert!(visible_to_user(&VisibilityAtEvent::at(Invited), &declining));
        assert!(!visible_to_user(&VisibilityAtEvent::at(Joined), &declining));
    }

    #[test]
    fn visibility_change_is_seen_if_either_value_allows_it() {
        let closing = VisibilityAtEvent { before: WorldReadable, after: Some(Joined) };
        let opening = VisibilityAtEvent { before: Joined, after: Some(WorldReadable) };
        let stranger = MembershipAtEvent::at(Leave, false);
        assert!(visible_to_user(&closing, &stranger));
        assert!(visible_to_user(&opening, &stranger));
    }

    #[test]
    fn server_sees_what_some_user_of_it_may_see() {
        let shared = VisibilityAtEvent::at(Shared);
        let invited = VisibilityAtEvent::at(Invited);
        let joined = VisibilityAtEvent::at(Joined);
        let nobody = ServerStanding::default();
        let later = ServerStanding { joined_since: true, ..nobody };
        let invitee = ServerStanding { any_invited: true, ..nobody };
        let member = ServerStanding { any_joined: true, ..nobody };
        assert!(visible_to_server(&shared, later) && !visible_to_server(&shared, nobody));
        assert!(visible_to_server(&invited, invitee) && !visible_to_server(&invited, later));
        assert!(visible_to_server(&joined, member) && !visible_to_server(&joined, invitee));
        assert!(visible_to_server(&VisibilityAtEvent::at(WorldReadable), nobody));
    }
}
