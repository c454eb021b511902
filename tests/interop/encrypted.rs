//! An encrypted room between people of both servers, on real clients: what each says, the other's client decrypts.

use chappe_tests::{Failure, person::Person};

/// Messages that each of the two says.
const TURNS: usize = 3;

/// `home_url` is where the one who makes the room has an account.
pub async fn play(home_url: &str, away_url: &str, prefix: &str) -> Result<(), Failure> {
    let alice = Person::register_at(home_url, &format!("{prefix}alice")).await?;
    let bob = Person::register_at(away_url, &format!("{prefix}bob")).await?;
    let room = alice.create_encrypted_room(&bob.user_id).await?;
    bob.accept_invite(&room).await?;
    alice.wait_for_member(&room, &bob.user_id).await?;
    for turn in 0..TURNS {
        for (speaker, listener) in [(&alice, &bob), (&bob, &alice)] {
            let body = format!("Secret {turn} of {}", speaker.user_id);
            let sent = speaker.say(&room, &body).await?;
            let heard = listener.hear(&sent).await?;
            if heard.body != body || heard.sender != speaker.user_id || !heard.is_decrypted {
                return Err(format!("{} heard {heard:?} for {body:?}", listener.user_id).into());
            }
        }
    }
    match [&alice, &bob].into_iter().find(|person| !person.undecryptable().is_empty()) {
        Some(person) => Err(format!("{} could not decrypt {:?}", person.user_id, person.undecryptable()).into()),
        None => Ok(()),
    }
}
