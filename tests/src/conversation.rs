//! The project's main job as a scenario: an end-to-end encrypted conversation crosses two agencies' servers, and survives `kill -9`.

use std::{path::PathBuf, time::Instant};

use matrix_sdk::ruma::{OwnedEventId, RoomId};

use crate::{Failure, authority::Authority, person::Person, server::Server};

/// Tells what happens, as it happens.
pub struct Narrator {
    begun: Instant,
    is_silent: bool,
}

impl Narrator {
    pub fn aloud() -> Self {
        Self { begun: Instant::now(), is_silent: false }
    }

    pub fn silent() -> Self {
        Self { begun: Instant::now(), is_silent: true }
    }

    fn tell(&self, what: impl std::fmt::Display) {
        if !self.is_silent {
            println!("{:>7.2} s  {what}", self.begun.elapsed().as_secs_f64());
        }
    }
}

/// What was seen, for the last word.
#[derive(Debug, Default)]
pub struct Outcome {
    pub messages: usize,
    pub kills: usize,
}

/// Plays the scenario in `directory`; an error says what was missing.
pub async fn play(directory: PathBuf, narrator: &Narrator) -> Result<Outcome, Failure> {
    let authority = Authority::create(directory.clone())?;
    let mut interior = Server::start(&directory, "interior.localhost", &authority, "").await?;
    let mut justice = Server::start(&directory, "justice.localhost", &authority, "").await?;
    narrator.tell(format!("two servers are up: {} and {}", interior.name, justice.name));
    let result = converse(&mut interior, &mut justice, narrator).await;
    result.map_err(|failure| {
        format!("{failure}\n--- {} ---\n{}\n--- {} ---\n{}", interior.name, interior.log(), justice.name, justice.log())
            .into()
    })
}

async fn converse(interior: &mut Server, justice: &mut Server, narrator: &Narrator) -> Result<Outcome, Failure> {
    let alice = Person::register(interior, "alice").await?;
    let bob = Person::register(justice, "bob").await?;
    narrator.tell(format!("registered and logged in: {} and {}", alice.user_id, bob.user_id));

    let room_id = alice.create_encrypted_room(&bob.user_id).await?;
    narrator.tell(format!("{} created encrypted room {room_id} and invited {}", alice.user_id, bob.user_id));
    bob.accept_invite(&room_id).await?;
    alice.wait_for_member(&room_id, &bob.user_id).await?;
    narrator.tell(format!("{} joined over federation", bob.user_id));

    let mut outcome = Outcome::default();
    let mut spoken = Vec::new();
    for round in 1..=3 {
        spoken.push(tell(&alice, &bob, &room_id, &format!("round {round}: can you read this?"), narrator).await?);
        spoken.push(tell(&bob, &alice, &room_id, &format!("round {round}: loud and clear"), narrator).await?);
    }

    // The receiving server dies; what is said meanwhile reaches it when it is back.
    justice.kill()?;
    outcome.kills += 1;
    narrator.tell(format!("kill -9 of {}", justice.name));
    let unheard = alice.say(&room_id, "said while your server was down").await?;
    narrator.tell("alice wrote on, her server keeps the message for the other");
    justice.restart().await?;
    narrator.tell(format!("{} is back", justice.name));
    hear(&bob, &alice, &unheard, narrator).await?;
    spoken.push(unheard);
    spoken.push(tell(&bob, &alice, &room_id, "nothing was lost here", narrator).await?);

    // The sending server dies right after it has acknowledged a message.
    let acknowledged = alice.say(&room_id, "acknowledged a moment before my server died").await?;
    interior.kill()?;
    outcome.kills += 1;
    narrator.tell(format!("kill -9 of {} right after it acknowledged a message", interior.name));
    interior.restart().await?;
    narrator.tell(format!("{} is back", interior.name));
    hear(&bob, &alice, &acknowledged, narrator).await?;
    spoken.push(acknowledged);
    spoken.push(tell(&alice, &bob, &room_id, "and on we go", narrator).await?);
    spoken.push(tell(&bob, &alice, &room_id, "until the next kill", narrator).await?);

    for person in [&alice, &bob] {
        let undecryptable = person.undecryptable();
        if !undecryptable.is_empty() {
            return Err(format!("{} could not decrypt {undecryptable:?}", person.user_id).into());
        }
        let mut seen: Vec<OwnedEventId> = person.received().into_iter().map(|message| message.event_id).collect();
        let count = seen.len();
        seen.sort();
        seen.dedup();
        if seen.len() != count {
            return Err(format!("{} was shown a message twice", person.user_id).into());
        }
        if let Some(missing) = spoken.iter().find(|event_id| !seen.contains(event_id)) {
            return Err(format!("{} never saw {missing}", person.user_id).into());
        }
    }
    outcome.messages = spoken.len();
    Ok(outcome)
}

async fn tell(
    from: &Person,
    to: &Person,
    room_id: &RoomId,
    body: &str,
    narrator: &Narrator,
) -> Result<OwnedEventId, Failure> {
    let event_id = from.say(room_id, body).await?;
    hear(to, from, &event_id, narrator).await?;
    // The speaker's own client shows it too.
    from.hear(&event_id).await?;
    Ok(event_id)
}

async fn hear(
    listener: &Person,
    speaker: &Person,
    event_id: &OwnedEventId,
    narrator: &Narrator,
) -> Result<(), Failure> {
    let received = listener.hear(event_id).await?;
    if received.sender != speaker.user_id || !received.is_decrypted {
        return Err(format!(
            "{} got {received:?}, which is not a decrypted message of {}",
            listener.user_id, speaker.user_id
        )
        .into());
    }
    narrator.tell(format!("{} decrypted: {:?}", listener.user_id, received.body));
    Ok(())
}
