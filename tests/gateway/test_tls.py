"""TLS to providers: a certificate that is not vouched for, or not for this name, gets no request and no key."""

from __future__ import annotations

import datetime
import ssl
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from faulty import Faulty, hosted
from gateway_place import Place


def certificate(folder: Path, name: str) -> Path:
    """A self-signed certificate for a host, with its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.datetime.now(datetime.UTC)
    built = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    plain = serialization.NoEncryption()
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, plain)
    file = folder / f"{name}.pem"
    file.write_bytes(built.public_bytes(serialization.Encoding.PEM) + private)
    return file


class Provider(Faulty):
    """A provider that speaks TLS and remembers the names it was asked for."""

    def __init__(self, file: Path) -> None:
        self.names: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        context.sni_callback = lambda _socket, name, _context: self.names.append(name)
        super().__init__(tls=context)
        self.address = f"localhost:{self.port}"


@pytest.fixture
def provider(tmp_path: Path) -> Iterator[Provider]:
    provider = Provider(certificate(tmp_path, "localhost"))
    yield provider
    provider.stop()


def test_a_vouched_certificate_for_the_name_is_spoken_to_by_that_name(
    place: Place, provider: Provider, tmp_path: Path
) -> None:
    place.route(hosted(provider, tls=True))
    place.gateway(SSL_CERT_FILE=str(tmp_path / "localhost.pem"))
    with httpx.Client(base_url=place.url) as http:
        assert [http.post("/predict", json={"input": "x"}).json()["output"] for _ in range(3)] == ["fine"] * 3
    assert provider.names == ["localhost"]  # one handshake: the connection is kept
    assert provider.heard[0].headers["host"] == provider.address


@pytest.mark.parametrize("trusted", ["nobody", "another name"])
def test_a_certificate_that_proves_nothing_gets_no_request(place: Place, tmp_path: Path, trusted: str) -> None:
    name = "localhost" if trusted == "nobody" else "other.example"
    provider = Provider(certificate(tmp_path, name))
    try:
        place.route(hosted(provider, tls=True), endpoint={"backoff": 0.01})
        place.gateway(**({} if trusted == "nobody" else {"SSL_CERT_FILE": str(tmp_path / f"{name}.pem")}))
        said = httpx.post(f"{place.url}/predict", json={"input": "x"})
        assert (said.status_code, said.json()["error"]["code"]) == (502, "engine_unavailable")
        assert "certificate verify failed" in said.json()["error"]["message"]
        assert provider.heard == []
    finally:
        provider.stop()
