"""Three servers on one wire: `closed` federates with `listed` only; `listed` and `unlisted` with everybody.

Whatever users of the closed server ask that concerns the unlisted one, and whatever the unlisted one tries, no packet leaves the closed
server for it but the answers on connections that it opened itself, and its name is not looked up. Run by run.sh, in namespaces.
"""

import json
import pathlib
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request

ADDRESSES = {"closed.test": "10.77.0.10", "listed.test": "10.77.0.20", "unlisted.test": "10.77.0.30"}
CLOSED, UNLISTED = ADDRESSES["closed.test"], ADDRESSES["unlisted.test"]
FEDERATION_PORT = 8448
binary, work = pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])


class Names(threading.Thread):
    """A name server that knows the three servers, and notes who asks for what."""

    def __init__(self):
        super().__init__(daemon=True)
        self.asked = []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("10.77.0.1", 53))

    def run(self):
        while True:
            query, peer = self.socket.recvfrom(4096)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1 : at + 1 + query[at]].decode().lower())
                at += query[at] + 1
            (kind,) = struct.unpack("!H", query[at + 1 : at + 3])
            name, question = ".".join(labels), query[12 : at + 5]
            self.asked.append((peer[0], name))
            address = ADDRESSES.get(name)
            answers = b""
            if address and kind == 1:
                answers = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 1, 4) + socket.inet_aton(address)
            code = 0 if name in ADDRESSES else 3
            head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, 1 if answers else 0, 0, 0)
            self.socket.sendto(head + question + answers, peer)

    def unlisted_asked_by_closed(self):
        return [name for source, name in self.asked if source == CLOSED and "unlisted" in name]


class Tap(threading.Thread):
    """Sees every packet on the closed server's cable."""

    def __init__(self):
        super().__init__(daemon=True)
        self.all, self.to_unlisted = 0, []
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.ntohs(0x0003))
        self.socket.bind(("closed", 0))

    def run(self):
        while True:
            frame = self.socket.recv(65535)
            self.all += 1
            if len(frame) < 38 or frame[12:14] != b"\x08\x00":
                continue
            header = (frame[14] & 15) * 4
            source, target = socket.inet_ntoa(frame[26:30]), socket.inet_ntoa(frame[30:34])
            if (source, target) != (CLOSED, UNLISTED):
                continue
            protocol = frame[23]
            source_port, target_port = struct.unpack("!HH", frame[14 + header : 18 + header])
            # What is no first packet of a connection (SYN without ACK) answers one that the unlisted server sent; or the first has been seen.
            opens = protocol == 6 and frame[14 + header + 13] & 0x12 == 0x02
            if protocol != 6 or opens:
                self.to_unlisted.append(f"protocol {protocol}, port {source_port} to {target_port}")


class Server:
    def __init__(self, name, settings=""):
        self.name, self.host, self.settings = name, f"{name}.test", settings
        self.directory = work / name
        self.directory.mkdir()
        certificate, key = self.directory / "tls.crt", self.directory / "tls.key"
        subprocess.run(
            [binary, "tls", "issue", "--ca-certificate", work / "ca.crt", "--ca-key", work / "ca.key"]
            + ["--name", self.host, "--out-certificate", certificate, "--out-key", key],
            check=True,
        )
        self.configure(settings)
        log = open(self.directory / "log", "w")
        command = ["ip", "netns", "exec", name, binary, "--config", self.directory / "conduit.toml", "serve"]
        self.process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(600):
            if self.process.poll() is not None:
                sys.exit(f"{self.host} ended at once:\n{(self.directory / 'log').read_text()}")
            try:
                self.ask("GET", "/_matrix/client/versions")
                return
            except OSError:
                time.sleep(0.1)
        sys.exit(f"{self.host} did not answer")

    def configure(self, settings):
        address = ADDRESSES[self.host]
        (self.directory / "conduit.toml").write_text(f"""
server_name = "{self.host}"
data_dir = "{self.directory}/data"
[listen]
client = ["{address}:8008"]
federation = ["{address}:{FEDERATION_PORT}"]
[tls]
certificate = "{self.directory}/tls.crt"
private_key = "{self.directory}/tls.key"
extra_roots = ["{work}/ca.crt"]
[registration]
mode = "open"
[rate_limits]
enabled = false
[federation]
allow_networks = ["10.77.0.0/24"]
{settings}
""")

    def reload(self, settings):
        self.configure(settings)
        self.process.send_signal(signal.SIGHUP)
        time.sleep(1)

    def ask(self, method, path, body=None, token=None, timeout=60):
        """Status and JSON answer of a request as a client makes it."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://{ADDRESSES[self.host]}:8008{path}", data=data, method=method)
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        try:
            with urllib.request.urlopen(request, timeout=timeout) as answer:
                status, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        try:
            return status, json.loads(text)
        except ValueError:
            return status, None


class Person:
    def __init__(self, server, name):
        self.server, self.id = server, f"@{name}:{server.host}"
        body = {"username": name, "password": "correct horse", "auth": {"type": "m.login.dummy"}}
        status, answer = server.ask("POST", "/_matrix/client/v3/register", body)
        assert status == 200, answer
        self.token, self.count = answer["access_token"], 0

    def ask(self, method, path, body=None, expect=None):
        if body is None and method != "GET":
            body = {}
        status, answer = self.server.ask(method, path, body, self.token)
        if expect is not None:
            assert status in expect, f"{self.id}: {method} {path}: {status} {answer}"
        return answer

    def create_room(self, **settings):
        return self.ask("POST", "/_matrix/client/v3/createRoom", {"preset": "public_chat", **settings}, (200,))["room_id"]

    def send(self, room, text):
        self.count += 1
        path = f"/_matrix/client/v3/rooms/{quote(room)}/send/m.room.message/{self.count}"
        return self.ask("PUT", path, {"msgtype": "m.text", "body": text}, (200,))["event_id"]

    def bodies(self, room):
        answer = self.ask("GET", f"/_matrix/client/v3/rooms/{quote(room)}/messages?dir=b&limit=50", expect=(200,))
        return [event["content"].get("body") for event in answer["chunk"] if event["type"] == "m.room.message"]

    def wait_for(self, room, text):
        for _ in range(150):
            if text in self.bodies(room):
                return
            time.sleep(0.2)
        raise AssertionError(f"{self.id} never saw {text!r}")


def quote(text):
    return urllib.parse.quote(text, safe="")


def main():
    authority = ["--name", "Test", "--out-certificate", work / "ca.crt", "--out-key", work / "ca.key"]
    subprocess.run([binary, "tls", "authority", *authority], check=True)
    names, tap = Names(), Tap()
    names.start()
    tap.start()
    closed_settings = 'allow = ["listed.test"]\ntrusted_key_servers = ["unlisted.test", "listed.test"]'
    closed, listed, unlisted = Server("closed", closed_settings), Server("listed"), Server("unlisted")
    carol, lise, ursule = Person(closed, "carol"), Person(listed, "lise"), Person(unlisted, "ursule")

    def check(what):
        looked_up = names.unlisted_asked_by_closed()
        assert not tap.to_unlisted, f"{what}: packets went to the unlisted server: {tap.to_unlisted[:5]}"
        assert not looked_up, f"{what}: its name was looked up: {looked_up[:5]}"
        print(f"ok: {what}", flush=True)

    # What there is to be asked for.
    theirs = ursule.create_room(room_alias_name="theirs")
    uploaded = ursule.ask("POST", "/_matrix/media/v3/upload?filename=a.txt", b"hello", (200,))
    media = uploaded["content_uri"].removeprefix("mxc://")
    mixed = lise.create_room(room_alias_name="mixed")
    ursule.ask("POST", f"/_matrix/client/v3/join/{quote(mixed)}?via=listed.test", expect=(200,))
    ursule.send(mixed, "from the unlisted server")
    lise.wait_for(mixed, "from the unlisted server")
    lise.send(mixed, "from the listed server")
    own = carol.create_room()
    check("before anybody asks")

    # What users of the closed server ask.
    user, refused = quote(ursule.id), (403, 404)
    v1, v3 = "/_matrix/client/v1", "/_matrix/client/v3"
    for method, path, body, expected in [
        ("POST", f"{v3}/join/{quote(theirs)}?via=unlisted.test", None, refused),
        ("POST", f"{v3}/rooms/{quote(theirs)}/join", None, refused),
        ("POST", f"{v3}/join/{quote('#theirs:unlisted.test')}", None, refused),
        ("POST", f"{v3}/knock/{quote(theirs)}?via=unlisted.test", None, refused),
        ("GET", f"{v1}/room_summary/{quote(theirs)}?via=unlisted.test", None, refused),
        ("GET", f"{v1}/rooms/{quote(theirs)}/hierarchy", None, refused),
        ("GET", f"{v3}/directory/room/{quote('#theirs:unlisted.test')}", None, refused),
        ("GET", f"{v3}/publicRooms?server=unlisted.test", None, refused),
        ("POST", f"{v3}/publicRooms?server=unlisted.test", {}, refused),
        ("GET", f"{v3}/profile/{user}", None, refused),
        ("GET", f"{v1}/media/download/{media}", None, refused),
        ("GET", f"{v1}/media/thumbnail/{media}?width=10&height=10", None, refused),
        ("POST", f"{v3}/keys/query", {"device_keys": {ursule.id: []}}, (200,)),
        ("POST", f"{v3}/keys/claim", {"one_time_keys": {ursule.id: {"D": "signed_curve25519"}}}, (200,)),
        ("POST", f"{v3}/createRoom", {"invite": [ursule.id]}, refused),
        ("POST", f"{v3}/rooms/{quote(own)}/invite", {"user_id": ursule.id}, refused),
        ("PUT", f"{v3}/sendToDevice/m.test/1", {"messages": {ursule.id: {"*": {}}}}, (200,)),
        ("GET", "/_matrix/federation/v1/version", None, None),
    ]:
        carol.ask(method, path, body, expected)
        check(f"{method} {path.split('?')[0]}")
    for path in ("/_matrix/key/v2/query/unlisted.test",):
        closed.ask("GET", path)
    check("asked as a notary")

    # A room of the listed server, in which the unlisted one is too.
    carol.ask("POST", f"{v3}/join/{quote(mixed)}?via=unlisted.test&via=listed.test", expect=(200,))
    check("join of a mixed room")
    carol.wait_for(mixed, "from the listed server")
    assert "from the unlisted server" not in carol.bodies(mixed)
    carol.send(mixed, "from the closed server")
    lise.wait_for(mixed, "from the closed server")
    lise.send(mixed, "an answer")
    carol.wait_for(mixed, "an answer")
    room = quote(mixed)
    carol.ask("PUT", f"{v3}/rooms/{room}/typing/{quote(carol.id)}", {"typing": True, "timeout": 5000}, (200,))
    carol.ask("POST", f"{v3}/rooms/{room}/receipt/m.read/{quote(carol.send(mixed, 'read'))}", expect=(200,))
    carol.ask("PUT", f"{v3}/presence/{quote(carol.id)}/status", {"presence": "online"}, (200,))
    carol.ask("GET", f"{v3}/rooms/{room}/members", expect=(200,))
    carol.ask("PUT", f"{v3}/profile/{quote(carol.id)}/displayname", {"displayname": "Carol"}, (200,))
    carol.ask("POST", f"{v3}/keys/query", {"device_keys": {ursule.id: [], lise.id: []}}, (200,))
    time.sleep(3)
    check("life in a mixed room")

    # What the unlisted server tries.
    for method, path, body in [
        ("POST", f"{v3}/join/{quote(own)}?via=closed.test", None),
        ("POST", f"{v3}/createRoom", {"preset": "private_chat", "invite": [carol.id]}),
        ("GET", f"{v3}/publicRooms?server=closed.test", None),
        ("GET", f"{v3}/profile/{quote(carol.id)}/displayname", None),
    ]:
        answer = ursule.ask(method, path, body)
        assert "errcode" in (answer or {}) or "room_id" in answer and path.endswith("createRoom"), (path, answer)
    assert not carol.ask("GET", f"{v3}/sync?timeout=0", expect=(200,))["rooms"].get("invite")
    ursule.send(mixed, "pushed by the unlisted server")
    time.sleep(5)
    assert "pushed by the unlisted server" not in carol.bodies(mixed)
    check("what the unlisted server tries")

    # The tap and the name server would have seen it.
    closed.reload("")
    carol.ask("GET", f"{v3}/profile/{user}", expect=(200, 404))
    assert tap.to_unlisted and names.unlisted_asked_by_closed(), "with the list taken away, packets must be seen"
    print(f"ok: once everybody is allowed it is seen: {len(tap.to_unlisted)} packets", flush=True)
    print(f"closed federation: nothing went to the unlisted server, of {tap.all} packets", flush=True)


main()
