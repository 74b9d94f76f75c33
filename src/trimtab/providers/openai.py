"""Hosted models behind OpenAI's chat completions: OpenAI, Azure OpenAI (classic and v1), Databricks, vLLM and others.

The boundary: from a provider's section of trimtab.yaml to the address, key and request that the gateway and `ask`
use. Keys come from the environment, a file or a command, never from trimtab.yaml, and go into the routes file only.
Sources: Microsoft Learn, "Azure OpenAI API version lifecycle" (v1 and classic paths), Databricks, "Query chat models".
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from trimtab.errors import Fixable
from trimtab.records.endpoint import ProviderSection
from trimtab.records.gateway import Upstream
from trimtab.records.registry import VersionSpec

log = logging.getLogger(__name__)

EARLY_SECONDS = 300.0
"""A token is replaced this long before it expires."""
UNKNOWN_SECONDS = 600.0
"""A token that does not say when it expires is replaced after this."""
RETRY_SECONDS = 30.0
"""After a command that failed, the next try."""
COMMAND_SECONDS = 30.0
"""Longest run of a token command."""
ENTRA = (
    sys.executable,
    "-c",
    """
import os, sys
from azure.identity import DefaultAzureCredential
own = "AZURE_AUTHORITY_HOST" in os.environ  # a cloud of its own is not known to the public one
credential = DefaultAzureCredential(disable_instance_discovery=own)
print(credential.get_token(sys.argv[1]).token)
""",
)
"""The token command of `credential: entra`, before its scope: azure-identity stays out of this process, which does not
need it else."""
SCOPE = "https://cognitiveservices.azure.com/.default"
"""What an Entra token is for where the file does not say."""

_tokens: dict[tuple[str, ...], tuple[str, float]] = {}  # command -> token, and the time from which to run it again


def upstream(name: str, provider: ProviderSection, root: Path) -> Upstream:
    """Where a hosted base (PROVIDER:MODEL) is asked. Raises Fixable when its key is not there."""
    model = name.partition(":")[2]
    url = urlsplit(provider.base_url)
    tls = url.scheme == "https"
    path, query = url.path.rstrip("/"), ""
    if provider.api_version is not None:
        path += f"/openai/deployments/{quote(model, safe='')}"
        query = f"?api-version={provider.api_version}"
    return Upstream(
        address=f"{url.hostname}:{url.port or (443 if tls else 80)}",
        api_key=key(name, provider, root),
        name=name,
        tls=tls,
        path=path,
        query=query,
        key_header="api-key" if is_azure(name, provider) and provider.key_env else "authorization",
        connect_seconds=provider.connect_seconds,
        first_byte_seconds=provider.first_byte_seconds,
    )


def params(spec: VersionSpec, provider: ProviderSection) -> dict[str, Any]:
    """The decoding parameters of a hosted version, as this provider takes them."""
    decoding, name = spec.decoding, spec.base.name
    current = is_azure(name, provider) or urlsplit(provider.base_url).hostname == "api.openai.com"
    chosen: dict[str, Any] = {
        "model": name.partition(":")[2],
        "max_completion_tokens" if current else "max_tokens": decoding.max_tokens,
    }
    if decoding.temperature is not None:
        chosen |= {"temperature": decoding.temperature, "seed": decoding.seed}
    return chosen


def is_azure(name: str, provider: ProviderSection) -> bool:
    """Whether the provider is Azure OpenAI."""
    return (provider.kind or name.partition(":")[0]) == "azure"


def key(name: str, provider: ProviderSection, root: Path) -> str:
    """The key or bearer token as it is now; empty when the provider wants none. Raises Fixable when it is not there."""
    where = name.partition(":")[0]
    if provider.key_env:
        found = os.environ.get(provider.key_env, "").strip()
        if not found:
            raise Fixable(f"{name} needs the environment variable {provider.key_env}", f"export {provider.key_env}=…")
    elif provider.token_file:
        try:
            found = (root / provider.token_file).read_text().strip()
        except OSError as error:
            reason = f"{name}: cannot read {provider.token_file}: {error.strerror}"
            raise Fixable(reason, f"correct providers.{where}.token_file") from error
    elif provider.token_command:
        found = _token(name, provider.token_command, f"run it by hand: {' '.join(provider.token_command)}")
    elif provider.credential == "entra":
        fix = "pip install azure-identity, then `az login` or AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET"
        found = _token(name, (*ENTRA, provider.scope or SCOPE), fix)
    else:
        return ""
    if not found.isascii() or not found.isprintable() or " " in found:
        raise Fixable(f"the key of {name} has characters that no key has", "check where it comes from")
    return found


def _token(name: str, command: tuple[str, ...], fix: str) -> str:
    """A command's token, kept until shortly before it expires. One that fails leaves the old token in place."""
    kept = _tokens.get(command)
    if kept is not None and time.time() < kept[1]:
        return kept[0]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=COMMAND_SECONDS)
        token = _read(done.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        reason = f"{name}: the token command {command[0]} failed ({type(error).__name__})"  # its output may be a secret
        if kept is None:
            raise Fixable(reason, fix) from error
        log.warning("%s; the last token stays in use", reason)
        token, until = kept[0], time.time() + RETRY_SECONDS
    else:
        until = (_expires(token) or time.time() + UNKNOWN_SECONDS + EARLY_SECONDS) - EARLY_SECONDS
        until = max(until, time.time() + RETRY_SECONDS)
    _tokens[command] = (token, until)
    return token


def _read(output: str) -> str:
    """The token in a command's output: all of it, or a member of a JSON object (as az and databricks print it)."""
    text = output.strip()
    if text.startswith("{"):
        said = json.loads(text)
        text = said.get("accessToken") or said.get("access_token") or ""
    if not isinstance(text, str) or not text:
        raise ValueError("no token")
    return text


def _expires(token: str) -> float | None:
    """The moment a JSON Web Token expires (RFC 7519 `exp`); None for a token of another kind."""
    try:
        body = token.split(".")[1]
        return float(json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))["exp"])
    except (IndexError, ValueError, KeyError, TypeError):
        return None
