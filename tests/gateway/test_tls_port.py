"""TLS on the gateway's port: a real CA, old protocols refused, a new certificate without a restart."""

from __future__ import annotations

import signal
import socket
import ssl
from pathlib import Path

import httpx
import pytest
import trustme
from gateway_place import Place, chat, entity, until

from trimtab.errors import EngineError
from trimtab.gateway.tls import Certificate


class Secured:
    """A gateway that speaks TLS, and clients that trust its CA."""

    def __init__(self, place: Place) -> None:
        self.place, self.folder, self.authority = place, place.folder, trustme.CA()
        self.issue()
        place.route(entity(place.engine()))
        self.gateway = place.gateway(*arguments(self.folder))
        self.address = self.gateway.ready["address"]

    def issue(self, key: bytes | None = None) -> None:
        """A new certificate, beside its own key or another one."""
        issued = self.authority.issue_cert("127.0.0.1", "localhost")
        (self.folder / "key.pem").write_bytes(key or issued.private_key_pem.bytes())
        (self.folder / "chain.pem").write_bytes(b"".join(blob.bytes() for blob in issued.cert_chain_pems))

    def context(self, **limits: ssl.TLSVersion) -> ssl.SSLContext:
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        for name, value in limits.items():
            setattr(context, name, value)
        return context

    def serial(self) -> str:
        """Of the certificate that a new connection is shown."""
        host, _, port = self.address.rpartition(":")
        with (
            socket.create_connection((host, int(port))) as plain,
            self.context().wrap_socket(plain, server_hostname="localhost") as connection,
        ):
            return connection.getpeercert()["serialNumber"]  # type: ignore[index]


def arguments(folder: Path) -> list[str]:
    return ["--tls-cert", str(folder / "chain.pem"), "--tls-key", str(folder / "key.pem")]


@pytest.fixture
def secured(place: Place) -> Secured:
    return Secured(place)


def test_plain_and_streamed_answers_come_through_and_nothing_else_does(secured: Secured) -> None:
    with httpx.Client(base_url=f"https://{secured.address}", verify=secured.context()) as http:
        assert http.post("/predict", json={"input": "hello"}).json()["output"] == "hello"
        with http.stream("POST", "/v1/chat/completions", json=chat("a b c " * 9000, stream=True)) as said:
            assert said.read().endswith(b"data: [DONE]\n\n")
        assert http.post("/predict", content=b"x" * 2_000_000).status_code == 413
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://{secured.address}/healthz")
    with pytest.raises(httpx.RemoteProtocolError):
        httpx.get(f"http://{secured.address}/healthz")
    assert {row.outcome for row in secured.place.closed().values()} == {"ok"}


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_1, ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tls_1_2_is_the_oldest_that_is_spoken(secured: Secured, version: ssl.TLSVersion) -> None:
    files = (secured.folder / "chain.pem", secured.folder / "key.pem")
    assert Certificate(*files).context.minimum_version == ssl.TLSVersion.TLSv1_2  # whatever OpenSSL was built to refuse
    context = secured.context()
    if version < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("ALL:@SECLEVEL=0")
    context.minimum_version = context.maximum_version = version
    with httpx.Client(base_url=f"https://{secured.address}", verify=context) as http:
        if version < ssl.TLSVersion.TLSv1_2:
            with pytest.raises(httpx.ConnectError):
                http.get("/healthz")
        else:
            assert http.get("/healthz").status_code == 200


def test_a_renewed_certificate_is_shown_to_the_next_and_disturbs_nobody(secured: Secured) -> None:
    before = secured.serial()
    with httpx.Client(base_url=f"https://{secured.address}", verify=secured.context()) as http:
        http.get("/healthz")
        key = (secured.folder / "key.pem").read_bytes()
        secured.issue(key)  # the new chain is there, its key not yet
        until(lambda: "was not reloaded" in (secured.folder / "gateway.log").read_text())
        assert secured.serial() == before
        secured.issue()
        after = until(lambda: (now := secured.serial()) != before and now)
        assert http.get("/healthz").status_code == 200
    secured.gateway.process.send_signal(signal.SIGHUP)
    until(lambda: (secured.folder / "gateway.log").read_text().count("the TLS certificate was reloaded") >= 2)
    assert secured.serial() == after


def test_a_certificate_that_does_not_load_is_named_with_what_to_do(place: Place) -> None:
    for name in ("chain.pem", "key.pem"):
        (place.folder / name).write_text("nothing")
    with pytest.raises(EngineError, match=r"--tls-cert .*chain\.pem and --tls-key .* give files that belong together"):
        place.gateway(*arguments(place.folder))
    with pytest.raises(EngineError, match="belong together: give both or none"):
        place.gateway("--tls-cert", "chain.pem")
