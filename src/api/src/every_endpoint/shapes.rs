//! What has the wrong shape is refused with 400, and an errcode that says so: bodies, queries, and variables of paths.

use serde_json::{Value as JsonValue, json};

use super::{
    Endpoint, Name, endpoints,
    world::{Answer, Draft, Shape, Who, World},
};

/// Endpoints whose body is the content of something: any object will do.
const FREE_FORM: &[Name] = &[
    ("PUT", "/rooms/{room_id}/send/{event_type}/{txn_id}"),
    ("PUT", "/rooms/{room_id}/state/{event_type}/{state_key}"),
    ("PUT", "/user/{user_id}/account_data/{event_type}"),
    ("PUT", "/user/{user_id}/rooms/{room_id}/account_data/{event_type}"),
];

/// Fields that are taken in other shapes too.
const LENIENT: &[(Name, &str)] = &[
    // Serde reads a struct from an array too.
    (("POST", "/org.matrix.simplified_msc3575/sync"), "extensions"),
    (("POST", "/v4/sync"), "extensions"),
    // Anything but `true` is `false`.
    (("POST", "/publicRooms"), "include_all_networks"),
    // Is not in the specification any more.
    (("POST", "/rooms/{room_id}/report/{event_id}"), "score"),
];

/// Of a variable of a path, something that it cannot be.
const MALFORMED: &[(&str, &str)] = &[
    ("event_id", "x"),
    ("kind", "x"),
    ("receipt_type", "x"),
    ("room_alias", "x"),
    ("room_id", "x"),
    ("room_id_or_alias", "x"),
    ("server_name", "%5Bx"),
    ("thread_root", "x"),
    ("user_id", "x"),
];

/// Endpoints that take such a variable for something that is not there.
const NOT_FOUND: &[(Name, &str)] = &[
    (("DELETE", "/pushrules/global/{kind}/{rule_id}"), "kind"),
    (("GET", "/pushrules/global/{kind}/{rule_id}"), "kind"),
    (("GET", "/pushrules/global/{kind}/{rule_id}/actions"), "kind"),
    (("GET", "/pushrules/global/{kind}/{rule_id}/enabled"), "kind"),
    (("PUT", "/pushrules/global/{kind}/{rule_id}/actions"), "kind"),
    (("PUT", "/pushrules/global/{kind}/{rule_id}/enabled"), "kind"),
];

pub(super) fn names() -> Vec<Name> {
    let pairs = LENIENT.iter().chain(NOT_FOUND).map(|(name, _)| *name);
    pairs.chain(FREE_FORM.iter().copied()).collect()
}

fn is_refused((status, errcode): &Answer) -> bool {
    *status == 400 && ["M_BAD_JSON", "M_INVALID_PARAM", "M_MISSING_PARAM"].contains(&errcode.as_str())
}

/// A value of every kind of JSON but that of this one.
fn wrong_kinds(value: &JsonValue) -> impl Iterator<Item = JsonValue> {
    let kind = std::mem::discriminant(value);
    let one_of_each = [json!([]), json!({}), json!(true), json!(17), json!("wrong")];
    one_of_each.into_iter().filter(move |other| std::mem::discriminant(other) != kind)
}

/// The example, many times over, with something wrong about its body each time.
fn wrong_bodies<'a>(world: &World, endpoint: &'a Endpoint) -> Vec<(String, Draft<'a>)> {
    let mut drafts = Vec::new();
    let example = world.example(endpoint);
    if example.body.is_none() {
        return drafts;
    }
    for whole in ["[]", "17", "\"text\"", "null"] {
        let body = Some(Shape::Text(whole.to_owned()));
        drafts.push((whole.to_owned(), Draft { body, ..world.example(endpoint) }));
    }
    if endpoint.is_in(FREE_FORM) {
        return drafts;
    }
    for (index, field) in example.fields().iter().enumerate() {
        let is_lenient = LENIENT.iter().any(|(name, of)| endpoint.is(*name) && *of == field.name);
        for wrong in wrong_kinds(&field.value).filter(|_| !is_lenient) {
            let mut draft = world.example(endpoint);
            drafts.push((format!("{} {wrong}", field.name), {
                if let Some(Shape::Fields(fields)) = &mut draft.body {
                    fields[index].value = wrong;
                }
                draft
            }));
        }
        if field.is_required {
            let mut draft = world.example(endpoint);
            if let Some(Shape::Fields(fields)) = &mut draft.body {
                fields.remove(index);
            }
            drafts.push((format!("no {}", field.name), draft));
        }
    }
    drafts
}

#[tokio::test]
async fn bodies_of_the_wrong_shape_are_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        for (what, draft) in wrong_bodies(&world, endpoint) {
            let answer = world.ask(&draft, Who::Alice).await;
            if !is_refused(&answer) {
                wrong.push(format!("{endpoint}, {what}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn queries_without_what_they_need_are_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        let query = world.example(endpoint).query;
        for (index, field) in query.iter().enumerate().filter(|(_, field)| field.is_required) {
            let mut draft = world.example(endpoint);
            draft.query.remove(index);
            let answer = world.ask(&draft, Who::Alice).await;
            if !is_refused(&answer) {
                wrong.push(format!("{endpoint}, no {}: {answer:?}", field.name));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test]
async fn paths_whose_variables_are_malformed_are_refused() {
    let world = World::new().await;
    let mut wrong = Vec::new();
    for endpoint in &endpoints() {
        for (variable, malformed) in MALFORMED.iter().filter(|(variable, _)| endpoint.has(variable)) {
            let answer = world.ask(&world.example_with(endpoint, &[(variable, malformed)]), Who::Alice).await;
            let is_listed = NOT_FOUND.iter().any(|(name, of)| endpoint.is(*name) && of == variable);
            let is_right = if is_listed { answer == (404, "M_NOT_FOUND".to_owned()) } else { is_refused(&answer) };
            if !is_right {
                wrong.push(format!("{endpoint}, {variable}: {answer:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
