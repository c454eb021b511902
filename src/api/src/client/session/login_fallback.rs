//! GET /_matrix/static/client/login/ (client-server API, "Login Fallback").
//!
//! A page for clients that know none of the ways to log in here: it asks for name and password, logs in as the client would, and calls
//! the client's `window.matrixLogin.onLogin`. What the client put into the query goes into the login. Nothing of it is put into the page.

use axum::response::{Html, IntoResponse, Response};
use http::{HeaderName, header};

pub const PATHS: [&str; 2] = ["/_matrix/static/client/login/", "/_matrix/static/client/login"];

const PAGE: &str = r#"<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Log in</title></head><body>
<h1>Log in</h1>
<form id="login">
<p><label>User name or email address<br><input name="user" autocomplete="username" autocapitalize="none" required></label></p>
<p><label>Password<br><input name="password" type="password" autocomplete="current-password" required></label></p>
<p><button type="submit">Log in</button></p>
</form>
<p id="notice" role="alert"></p>
<script>
"use strict";
window.matrixLogin = window.matrixLogin || {};
const form = document.getElementById("login");
const say = (text) => { document.getElementById("notice").textContent = text; };
// What a client may say of the device that logs in, and never who logs in or how.
function device() {
    const query = new URLSearchParams(window.location.search);
    const known = {};
    for (const name of ["device_id", "initial_device_display_name"]) {
        if (query.has(name)) { known[name] = query.get(name); }
    }
    if (query.has("refresh_token")) { known.refresh_token = query.get("refresh_token") === "true"; }
    return known;
}
function identifier(user) {
    return user.indexOf("@") > 0
        ? { type: "m.id.thirdparty", medium: "email", address: user }
        : { type: "m.id.user", user: user };
}
form.addEventListener("submit", async (event) => {
    event.preventDefault();
    say("");
    const body = Object.assign(device(), {
        type: "m.login.password",
        identifier: identifier(form.user.value.trim()),
        password: form.password.value,
    });
    let answer, response;
    try {
        answer = await fetch("/_matrix/client/v3/login", { method: "POST", body: JSON.stringify(body) });
        response = await answer.json();
    } catch (error) {
        say("The server did not answer. Try again.");
        return;
    }
    if (!answer.ok) {
        say(response.error || "This did not work.");
        return;
    }
    form.hidden = true;
    say("You are logged in. Go back to your application.");
    if (window.matrixLogin.onLogin) { window.matrixLogin.onLogin(response); }
});
</script>
</body></html>
"#;

pub async fn handle() -> Response {
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'unsafe-inline'; connect-src 'self'; form-action 'none'; base-uri 'none'; \
             frame-ancestors 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    (headers, Html(PAGE)).into_response()
}
