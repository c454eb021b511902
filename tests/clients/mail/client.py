"""A person with an email address, and aiosmtpd, as it is on PyPI, for the mail server of the agency.

The server under test sends its mail to aiosmtpd. The person registers, adds the address, gives a link to a browser, logs in
with the address, forgets the password and sets another one by mail; a stranger's attempts come to nothing.

Usage: client.py URL SMTP_PORT. Ends with 1 and says why at the first thing that is not as it should be.
"""

import email
import email.policy
import json
import queue
import re
import sys
import urllib.error
import urllib.parse
import urllib.request

from aiosmtpd.controller import Controller

ADDRESS = "Ada.Example@mail.test"
MAIL_SECONDS_MAX = 20


def check(condition, what, *seen):
    if not condition:
        print("mail: not as it should be:", what, *seen, file=sys.stderr)
        raise SystemExit(1)
    print("mail: ok:", what)


class Mailbox:
    """Keeps what arrives."""

    def __init__(self):
        self.arrived = queue.Queue()

    async def handle_DATA(self, server, session, envelope):
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.arrived.put((envelope.rcpt_tos, message))
        return "250 kept"

    def next(self):
        recipients, message = self.arrived.get(timeout=MAIL_SECONDS_MAX)
        return recipients, message["Subject"], message.get_body(("plain",)).get_content()


class Client:
    def __init__(self, url):
        self.url, self.token = url, None

    def call(self, method, path, body=None):
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        try:
            with urllib.request.urlopen(request) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.loads(refusal.read() or b"{}")

    def post(self, path, body):
        return self.call("POST", "/_matrix/client/v3" + path, body)

    def log_in(self, identifier, password):
        return self.post("/login", {"type": "m.login.password", "identifier": identifier, "password": password})


def open_link(text, url):
    """As a browser does: the page of the link, and the button on it."""
    link = re.search(r"https?://\S+", text).group(0)
    parts = urllib.parse.urlsplit(link)
    path = f"{url}{parts.path}?{parts.query}"
    with urllib.request.urlopen(path) as page:
        html = page.read().decode()
    form = dict(re.findall(r'<input[^>]*name="([^"]+)"[^>]*value="([^"]*)"', html))
    with urllib.request.urlopen(path, data=urllib.parse.urlencode(form).encode()) as done:
        return done.read().decode()


def ask_for_token(client, path, secret):
    status, answer = client.post(path, {"client_secret": secret, "email": ADDRESS, "send_attempt": 1})
    check(status == 200 and answer.get("sid"), f"{path} sends a mail", status, answer)
    return answer["sid"]


def main(url, port):
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    try:
        talk(url, mailbox)
    finally:
        controller.stop()


def talk(url, mailbox):
    ada = Client(url)
    status, answer = ada.post(
        "/register", {"username": "ada-by-mail", "password": "the first password", "auth": {"type": "m.login.dummy"}}
    )
    check(status == 200, "registers", answer)
    ada.token, user = answer["access_token"], answer["user_id"]
    by_name = {"type": "m.id.user", "user": user}
    by_mail = {"type": "m.id.thirdparty", "medium": "email", "address": ADDRESS.lower()}

    sid = ask_for_token(ada, "/account/3pid/email/requestToken", "first-secret")
    recipients, subject, text = mailbox.next()
    check(recipients == [ADDRESS.lower()] or recipients == [ADDRESS], "the mail goes to the address", recipients)
    check(subject, "the mail has a subject")
    password = {"type": "m.login.password", "identifier": by_name, "password": "the first password"}
    add = {"sid": sid, "client_secret": "first-secret"}

    def add_address():
        session = ada.post("/account/3pid/add", add)[1].get("session")
        return ada.post("/account/3pid/add", {**add, "auth": {**password, "session": session}})

    status, answer = add_address()
    check(status != 200, "an address that is not proved is not added", status, answer)
    open_link(text, url)
    status, answer = add_address()
    check(status == 200, "a proved address is added", status, answer)
    status, answer = ada.call("GET", "/_matrix/client/v3/account/3pid")
    addresses = [one["address"] for one in answer["threepids"]]
    check(addresses == [ADDRESS.lower()], "the account has the address", addresses)

    status, answer = Client(url).log_in(by_mail, "the first password")
    check(status == 200 and answer["user_id"] == user, "logs in with the address", status, answer)

    other = Client(url)
    sid = ask_for_token(other, "/account/password/email/requestToken", "second-secret")
    _, _, text = mailbox.next()
    proof = {
        "type": "m.login.email.identity",
        "threepid_creds": {"sid": sid, "client_secret": "second-secret"},
    }

    def set_password(proof):
        session = other.post("/account/password", {"new_password": "the second password"})[1].get("session")
        body = {"new_password": "the second password", "auth": {**proof, "session": session}}
        return other.post("/account/password", body)

    status, _ = set_password(proof)
    check(status == 401, "without the link the password stays", status)
    open_link(text, url)
    wrong = {**proof, "threepid_creds": {"sid": sid, "client_secret": "guessed"}}
    status, _ = set_password(wrong)
    check(status == 401, "the proof is good only with its secret", status)
    status, answer = set_password(proof)
    check(status == 200, "the password is set by mail", status, answer)
    status, _ = Client(url).log_in(by_name, "the first password")
    check(status == 403, "the old password is refused", status)
    status, _ = Client(url).log_in(by_mail, "the second password")
    check(status == 200, "the new one is taken", status)
    status, _ = ada.call("GET", "/_matrix/client/v3/account/whoami")
    check(status == 401, "older sessions are logged out", status)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
