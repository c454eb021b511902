//! Two people with two devices each on two servers, all of them on sliding sync: room lists, verification, key backup, and no message
//! that cannot be read.

use chappe_tests::{
    Failure,
    authority::Authority,
    device::{Device, verify},
    server::Server,
};
use matrix_sdk::{
    RoomState,
    ruma::{OwnedEventId, RoomId},
};

#[tokio::test(flavor = "multi_thread")]
async fn every_device_of_two_people_on_two_servers_reads_everything() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let authority = Authority::create(directory.path().to_owned()).expect("certification authority");
    let start = |host| Server::start(directory.path(), host, &authority, "");
    let here = start("interior.localhost").await.unwrap_or_else(|failure| panic!("{failure}"));
    let mut there = start("justice.localhost").await.unwrap_or_else(|failure| panic!("{failure}"));
    if let Err(failure) = converse(&here, &mut there).await {
        panic!("{failure}\n--- {} ---\n{}\n--- {} ---\n{}", here.name, here.log(), there.name, there.log());
    }
}

async fn converse(here: &Server, there: &mut Server) -> Result<(), Failure> {
    let alice_phone = Device::register(here, "alice", "phone").await?;
    let bob_phone = Device::register(there, "bob", "phone").await?;
    let recovery_key = alice_phone.client.encryption().recovery().enable().await?;
    let alice_laptop = Device::log_in(here, "alice", "laptop").await?;
    let bob_laptop = Device::log_in(there, "bob", "laptop").await?;

    // A person's second device is verified by the first: it is signed, and is given the private keys.
    for (laptop, phone) in [(&alice_laptop, &alice_phone), (&bob_laptop, &bob_phone)] {
        verify(laptop, phone).await?;
        laptop
            .wait_for("the private cross-signing keys", || async { Ok(laptop.can_sign().await.then_some(())) })
            .await?;
        phone
            .wait_for("the signature of the laptop", || async { Ok(phone.trusts(laptop).await?.then_some(())) })
            .await?;
    }

    // An encrypted room for two, without a name: lists name it after the other.
    let room = alice_phone.client.create_dm(&bob_phone.user_id).await?;
    let room_id = room.room_id().to_owned();
    for device in [&bob_phone, &bob_laptop] {
        device.see_listed(&room_id, RoomState::Invited).await?;
    }
    bob_phone.join(&room_id).await?;
    let everybody = [&alice_phone, &alice_laptop, &bob_phone, &bob_laptop];
    for device in everybody {
        let listed = device.see_listed(&room_id, RoomState::Joined).await?;
        let other = if device.user_id == alice_phone.user_id { "bob" } else { "alice" };
        device
            .wait_for("the room's name", || async {
                let listed = device.list().await?.into_iter().find(|room| room.room_id == listed.room_id);
                Ok(listed.and_then(|room| room.name).filter(|name| name == other))
            })
            .await?;
        device.open(&room_id).await?;
        let room = device.client.get_room(&room_id).ok_or("no room")?;
        device.wait_for("encryption", || async { Ok(room.encryption_state().is_encrypted().then_some(())) }).await?;
    }
    let mut spoken = Vec::new();
    spoken.extend(everybody_speaks(&everybody, &room_id, "a first round").await?);

    // Two people verify each other once: their other devices hear of it by cross-signing.
    verify(&alice_phone, &bob_phone).await?;
    for (device, other) in [(&alice_laptop, &bob_laptop), (&bob_laptop, &alice_laptop)] {
        device
            .wait_for("the other person's verification", || async { Ok(device.trusts(other).await?.then_some(())) })
            .await?;
    }
    spoken.extend(everybody_speaks(&everybody, &room_id, "a round among the verified").await?);

    // Connections and what waits for devices survive a server's death.
    there.kill()?;
    let unheard = alice_laptop.say(&room_id, "said while your server was down").await?;
    there.restart().await?;
    for device in everybody {
        device.hear(&room_id, &unheard).await?;
    }
    spoken.push(unheard);
    spoken.extend(everybody_speaks(&everybody, &room_id, "a round after the restart").await?);

    // A new device gets the old keys from the backup, and is trusted by way of the recovered cross-signing keys.
    for device in [&alice_phone, &alice_laptop] {
        device.client.encryption().backups().wait_for_steady_state().await?;
    }
    let alice_tablet = Device::log_in(here, "alice", "tablet").await?;
    alice_tablet.client.encryption().recovery().recover(&recovery_key).await?;
    alice_tablet.see_listed(&room_id, RoomState::Joined).await?;
    alice_tablet.read_back(&room_id).await?;
    for event_id in &spoken {
        alice_tablet.hear(&room_id, event_id).await?;
    }
    bob_laptop
        .wait_for("the tablet's signature", || async { Ok(bob_laptop.trusts(&alice_tablet).await?.then_some(())) })
        .await?;
    let everybody = [&alice_phone, &alice_laptop, &alice_tablet, &bob_phone, &bob_laptop];
    spoken.extend(everybody_speaks(&everybody, &room_id, "a round with the tablet").await?);

    for device in everybody {
        let shown = device.read(&room_id).await?;
        let undecryptable: Vec<_> = shown.iter().filter(|message| message.is_undecryptable).collect();
        if !undecryptable.is_empty() || !device.undecryptable().is_empty() {
            return Err(format!(
                "{} cannot read {undecryptable:?}, and could not {:?}",
                device.label,
                device.undecryptable()
            )
            .into());
        }
        for event_id in &spoken {
            let times = shown.iter().filter(|message| message.event_id.as_ref() == Some(event_id)).count();
            if times != 1 {
                return Err(format!("{} shows {event_id} {times} times", device.label).into());
            }
        }
    }
    Ok(())
}

/// Each says something, and all hear it, encrypted.
async fn everybody_speaks(devices: &[&Device], room_id: &RoomId, what: &str) -> Result<Vec<OwnedEventId>, Failure> {
    let mut spoken = Vec::new();
    for speaker in devices {
        let body = format!("{what}: {}", speaker.label);
        let event_id = speaker.say(room_id, &body).await?;
        for device in devices {
            let heard = device.hear(room_id, &event_id).await?;
            if heard.body.as_ref() != Some(&body) || !heard.was_encrypted || heard.sender != speaker.user_id {
                return Err(format!("{} heard {heard:?}", device.label).into());
            }
        }
        spoken.push(event_id);
    }
    Ok(spoken)
}
