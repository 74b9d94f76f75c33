"""The fast path among hostile clients and engines, with every access to memory checked (AddressSanitizer): it stays
whole, and every question has exactly one row at the end."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from pairs import SECRET, Pair, asking, on_the_fast_path
from scripted import ANSWER, USAGE, Client, Deed, Engine, event, pieces, plain, stream, word
from test_fast_path import DEEDS
from test_fast_path_rows import BATCH, CHAMPION, WIRE, Scorer, rows

from trimtab.gateway import fast_path
from trimtab.native import build

SEED = 20261201
CLIENTS, REQUESTS = 8, 100
POISON = (
    b"\0",
    b"\r\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\xff",
    b"0",
    b"99999999999999999999",
    b"ffffffff\r\n",
    b"data: ",
    b"{",
    b'"',
    b"\\",
)


def checked() -> str:
    """The runtime of AddressSanitizer; empty where there is none."""
    if not fast_path.LIBRARY.exists() or not shutil.which("cc"):
        return ""
    found = subprocess.run(["cc", "-print-file-name=libasan.so"], capture_output=True, text=True, check=True).stdout
    return found.strip() if "/" in found else ""


pytestmark = pytest.mark.skipif(not checked(), reason="the C compiler has no AddressSanitizer, or there is none")


def noise(random_: random.Random, deeds: list[Deed]) -> Deed:
    """What an engine might say that is broken, or wants to break something."""
    whole: list[bytes] = []

    class Wire:
        def sendall(self, data: bytes) -> None:
            whole.append(data)

    random_.choice(deeds)(Wire())  # type: ignore[arg-type]  (a socket as far as a deed needs one)
    said = bytearray(b"".join(whole))
    for _ in range(random_.randint(0, 3)):
        at = random_.randint(0, len(said))
        said[at : at + random_.randint(0, 4)] = random_.choice(POISON)
    return pieces(bytes(said), cut=random_.choice([0, 0, 1 + len(said) // 7]), closes=random_.random() < 0.5)


def question(random_: random.Random) -> bytes:
    """What a client asks a language model."""
    deed = random_.choice(["plain", "plain", "noise", "noise"])
    return asking(deed, **random_.choice([{}, {}, {}, {"stream": True}, {"stream": True}, {"n": 2}]))


def question_of_rows(random_: random.Random) -> bytes:
    """What a client asks a model that scores rows."""
    deed = random_.choice(["plain", "plain", "plain", "1", "refused", "noise"])
    return rows(deed, **random_.choice([{}, {}, {}, {"params": {}}, {"user": "ann"}, {"stream": True}]))


def misbehave(client: Client, random_: random.Random, body: bytes) -> bool:
    """One request, well-formed or not; returns whether the connection can go on."""
    sent = bytearray(client.request(body))
    for _ in range(random_.choice([0, 0, 0, 0, 0, 1, 2])):
        at = random_.randint(0, len(sent))
        sent[at : at + random_.randint(0, 3)] = random_.choice(POISON)
    sent *= random_.choice([1, 1, 1, 2])
    step = random_.choice([len(sent), len(sent), 1 + len(sent) // 5])
    for at in range(0, len(sent), step):
        client.socket.sendall(sent[at : at + step])
    end = random_.random()
    if end < 0.05:
        return False  # it hangs up without a word
    client.socket.settimeout(0.1 if end < 0.15 else 0.6)
    with suppress(TimeoutError):
        status, _, said = client.answer()
        return status == 200 and not said.endswith(b"<cut>")
    return False


@pytest.fixture(params=["chat", "rows"])
def hostile(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pair]:
    library = tmp_path / "checked" / "fast_path.so"
    library.parent.mkdir()
    source, flags = fast_path.LIBRARY.with_suffix(".c"), ("-g", "-O1", "-fsanitize=address,undefined")
    assert build.compiled(source, *flags, "-fno-sanitize-recover", to=library) == ""
    monkeypatch.setenv("LD_PRELOAD", checked())
    monkeypatch.setenv("ASAN_OPTIONS", "detect_leaks=0:abort_on_error=1")
    if request.param == "chat":
        pair = Pair(tmp_path, Engine(dict(DEEDS)), (str(library),))
    else:
        pair = Pair(tmp_path, Scorer(), (str(library),), CHAMPION, "/invocations", rows("plain"))
    monkeypatch.undo()
    yield pair
    pair.stop()


STREAM = stream(word("a"), event({"usage": USAGE, "choices": []}), event("[DONE]"))


def test_nothing_that_clients_or_engines_send_breaks_it_and_every_question_has_one_row(hostile: Pair) -> None:
    place, chance, lock = hostile.places[0], random.Random(SEED), threading.Lock()  # noqa: S311 (no secret)
    scores = isinstance(hostile.engine, Scorer)
    deeds = [*BATCH.values(), *WIRE.values()] if scores else [*DEEDS.values(), plain(ANSWER), STREAM]

    def answer_noise(connection: socket.socket) -> bool:
        with lock:
            deed = noise(chance, deeds)
        return deed(connection)

    hostile.engine.deeds["noise"] = answer_noise

    def client(number: int) -> None:
        random_, one = random.Random(SEED + number), None  # noqa: S311 (no secret)
        for request in range(REQUESTS):
            if one is None:
                head = f"authorization: Bearer {SECRET}\r\nx-of: {number}-{request // 12}\r\n"
                one = Client(place.url, head, hostile.path)
            try:
                if misbehave(one, random_, question_of_rows(random_) if scores else question(random_)):
                    continue
            except (OSError, ValueError, IndexError):
                pass  # what came was no answer, for what was sent was no request
            one.close()
            one = None
        if one is not None:
            one.close()

    threads = [threading.Thread(target=client, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (last,) = hostile.clients()
    assert last.asks(hostile.warm)[0] == 200, (place.folder / "gateway.log").read_text()[-3000:]
    assert on_the_fast_path(place) > CLIENTS * REQUESTS / 80
    until = time.monotonic() + 20
    while place.opened().keys() != place.closed().keys() and time.monotonic() < until:
        time.sleep(0.05)
    assert place.opened().keys() == place.closed().keys()
    place.children[0].process.terminate()
    assert place.children[0].process.wait(30) == 0, (place.folder / "gateway.log").read_text()[-3000:]
