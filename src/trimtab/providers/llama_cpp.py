"""The embedded engine: llama.cpp's server, through xllamacpp, as a child process on loopback.

A native assert inside llama.cpp ends its process, so it never runs inside ours. One engine serves one version: the
base, and that version's LoRA adapter if it has one. Every request names its full adapter list all the same, because
llama.cpp reuses a slot's cache across requests that differ only by leaving the list out.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import threading
from pathlib import Path
from typing import Any

from trimtab import masking, processes, rotating
from trimtab.records.project import LocalTarget
from trimtab.records.registry import LabelSet, VersionSpec
from trimtab.settings import Settings
from trimtab.store import artifacts

MODULE = "trimtab.providers.llama_cpp"


def request_template(spec: VersionSpec) -> dict[str, Any]:
    """The chat request of a version without the user's messages: `messages` to put in front, `params` to merge in, and
    `masks` for the user's messages to pass through (the version's own are masked already),
    `average` for the twins that they are asked as, and `rotations` for the orders of labels under which they are asked:
    `messages`, and the `params` that differ; `thresholds` for what decides by a declared group, at the gateway.

    The one place where prompt, examples, decoding and label set become a request; serving, evaluation and the
    MLflow model all use it.
    """
    decoding = spec.decoding
    params: dict[str, Any] = {
        **({} if decoding.temperature is None else {"temperature": decoding.temperature}),
        "max_tokens": decoding.max_tokens,
        "seed": decoding.seed,
        "lora": [{"id": 0, "scale": 1.0}] if spec.adapter_sha256 else [],
    }
    messages, form = _messages(spec, spec.prompt.system), _form(spec, spec.labels)
    template: dict[str, Any] = {"messages": messages, "params": params | form}
    if spec.masks:
        template["masks"] = [mask.model_dump(mode="json") for mask in spec.masks]
    if spec.average is not None:
        template["average"] = spec.average.model_dump(mode="json")
    if spec.thresholds is not None:
        template["thresholds"] = spec.thresholds.model_dump(mode="json")
    if spec.rotate and spec.labels is not None:
        orders = rotating.orders(spec.prompt.system, spec.labels.fields, spec.rotate)
        template["rotations"] = [
            {"messages": _messages(spec, system), "params": _form(spec, LabelSet(fields=fields))}
            for system, fields in orders
        ]
    return template


def _messages(spec: VersionSpec, system: str) -> list[dict[str, Any]]:
    """A version's own messages, masked."""
    messages = [{"role": "system", "content": system}] if system else []
    for example in spec.prompt.examples:
        messages.append({"role": "user", "content": example.input})
        messages.append({"role": "assistant", "content": example.output})
    return masking.through([mask.model_dump(mode="json") for mask in spec.masks], messages)


def _form(spec: VersionSpec, labels: LabelSet | None) -> dict[str, Any]:
    """The parameter that forces answers into labels, where they are."""
    if not spec.decoding.constrained or labels is None:
        return {}
    schema = {"name": "answer", "strict": True, "schema": labels.json_schema()}
    return {"response_format": {"type": "json_schema", "json_schema": schema}}


def start(
    settings: Settings, spec: VersionSpec, target: LocalTarget, log: Path, slots: Path | None = None
) -> tuple[processes.Child, str]:
    """Start the engine of a version; returns the child (`ready["address"]`) and its API key. `slots`: a folder through
    which it may copy what one slot has read to the others.

    Raises EngineError when it does not come up, Fixable or Corrupt when its weights are missing or changed.
    """
    key = secrets.token_urlsafe(24)
    env = {"TRIMTAB_ENGINE_KEY": key, "GOMP_SPINCOUNT": "1000"}
    if spec.base.format == "echo":
        return processes.start("trimtab.providers.echo", log=log, env=env), key
    args = ["--model", str(artifacts.blob(settings, spec.base.sha256)), "--alias", spec.model]
    if spec.adapter_sha256:
        args += ["--lora", str(artifacts.blob(settings, spec.adapter_sha256))]
    args += ["--threads", str(target.engine_threads or os.cpu_count() or 1)]
    args += ["--parallel", str(target.parallel), "--context", str(target.context)]
    if slots is not None:
        args += ["--slots", str(slots)]
    if target.embeddings:
        args.append("--embeddings")
    return processes.start(MODULE, *args, log=log, env=env), key


def main() -> None:
    """Entry point of the engine process."""
    parser = argparse.ArgumentParser(prog=f"python -m {MODULE}", description=__doc__)
    parser.add_argument("--model", required=True, help="GGUF file of the base")
    parser.add_argument("--lora", help="GGUF LoRA adapter")
    parser.add_argument("--alias", default="model")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--parallel", type=int, default=4, help="requests decoded at once")
    parser.add_argument("--context", type=int, default=1024, help="tokens of context for each request")
    parser.add_argument("--embeddings", action="store_true", help="embed texts, too")
    parser.add_argument("--slots", help="folder for the state of slots")
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    processes.exit_with_parent()
    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    signal.signal(signal.SIGINT, lambda *_: stopping.set())
    # The server closes when the object goes, so it must stay referenced until the end.
    server = _serve(options)
    address = server.listening_address.removeprefix("http://")
    print(json.dumps({"address": address}), flush=True)
    stopping.wait()


def _serve(options: argparse.Namespace) -> Any:
    import xllamacpp.xllamacpp as xllamacpp  # the package's names come from here; it has no types of its own

    params = xllamacpp.CommonParams()
    params.model.path = options.model
    params.model_alias = {options.alias}
    params.cpuparams.n_threads = options.threads
    params.cpuparams_batch.n_threads = options.threads
    params.n_parallel = options.parallel
    params.n_ctx = options.parallel * options.context  # llama.cpp divides it among the slots
    params.cache_ram_mib = 0
    params.slot_save_path = f"{options.slots}/" if options.slots else ""
    params.port = options.port
    params.ui = False
    params.verbosity = 1
    params.use_jinja = True
    if key := os.environ.get("TRIMTAB_ENGINE_KEY"):
        params.api_keys = [key]
    if options.embeddings:
        params.embedding = True
        params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    if options.lora:
        params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(options.lora, 1.0)]
    return xllamacpp.Server(params)


if __name__ == "__main__":
    main()
