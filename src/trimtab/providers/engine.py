"""What answers for one version: an engine process of ours, or a provider's server. Opened, asked and closed alike."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trimtab import processes
from trimtab.errors import EngineError, Fixable
from trimtab.providers import ask, llama_cpp, openai, pyfunc
from trimtab.records.endpoint import KNOWN_PROVIDERS, ProviderSection
from trimtab.records.gateway import Upstream
from trimtab.records.project import LocalTarget
from trimtab.records.registry import VersionSpec
from trimtab.settings import Settings


@dataclass
class Engine:
    """Where a version answers, and its request without the user's messages. A provider's has no `child`."""

    upstream: Upstream
    template: dict[str, Any]
    child: processes.Child | None = None
    provider: ProviderSection | None = None

    def alive(self) -> bool:
        """Whether it may be asked; a provider is away only as long as it does not answer."""
        return self.child is None or self.child.alive()

    def stop(self) -> None:
        """End the process, if it is ours."""
        if self.child is not None:
            self.child.stop()


def start(
    settings: Settings,
    spec: VersionSpec,
    log: Path,
    target: LocalTarget,
    providers: dict[str, ProviderSection] | None = None,
) -> Engine:
    """Open what answers for a version.

    Raises EngineError when an engine does not come up, Fixable or Corrupt when weights, provider or key are missing.
    """
    if spec.base.format == "pyfunc":
        child, key = pyfunc.start(settings, spec, target, log)
        upstream = Upstream(address=child.ready["address"], api_key=key, path="", protocol="mlflow")
        return Engine(upstream, {"messages": [], "params": {}}, child)
    template = llama_cpp.request_template(spec)
    if spec.base.format != "hosted":
        return _local(settings, spec, target, log, template)
    name = spec.base.name.partition(":")[0]
    provider = (KNOWN_PROVIDERS | (providers or {})).get(name)
    if provider is None:
        raise Fixable(f"{spec.base.name}: trimtab.yaml has no provider {name}", f"add it under providers.{name}")
    local = ("temperature", "max_tokens", "seed", "lora")
    kept = {option: value for option, value in template["params"].items() if option not in local}
    template = template | {"params": openai.params(spec, provider) | kept}
    return Engine(openai.upstream(spec.base.name, provider, settings.root), template, None, provider)


def _local(settings: Settings, spec: VersionSpec, target: LocalTarget, log: Path, template: dict[str, Any]) -> Engine:
    """An engine of ours, with the version's prompt read."""
    with ExitStack() as stack:
        slots = None
        with suppress(OSError):  # no room for a folder: each slot reads the prompt itself
            slots = Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="trimtab-", ignore_cleanup_errors=True))
            )
        child, key = llama_cpp.start(settings, spec, target, log, slots)
        opened = Engine(Upstream(address=child.ready["address"], api_key=key), template, child)
        if spec.base.format != "gguf" or slots is None:
            return opened
        try:
            ask.read_prompt(opened.upstream, template, target.parallel)
        except EngineError:
            opened.stop()
            raise
    return opened
