"""Where things are. Read once from the environment at an edge; nothing here decides anything.

Environment: TRIMTAB_BLOBS (weights shared by all projects, default ~/.cache/trimtab/blobs),
TRIMTAB_DATABASE_URL (control facts, default SQLite in the project), TRIMTAB_SUBJECTS_URL (keys of subjects, default
SQLite in the project), MLFLOW_TRACKING_URI (default SQLite in the project; databricks is a workspace),
MLFLOW_REGISTRY_URI (default: where runs are, in a workspace databricks-uc), TRIMTAB_UNITY_SCHEMA (catalog.schema of
registered models, where the registry is Unity Catalog), TRIMTAB_LAKE (request rows, adapters and data sets of all
machines, e.g. abfss://CONTAINER@ACCOUNT.dfs.core.windows.net/PATH, default in the project; the store's own variables,
AZURE_*, say who we are),
TRIMTAB_HOST (default 127.0.0.1), TRIMTAB_PORT (gateway, default 8080), TRIMTAB_DASHBOARD_PORT (default 8081),
TRIMTAB_TLS_CERT and TRIMTAB_TLS_KEY (PEM files: the gateway speaks TLS).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Settings:
    """Paths and addresses of one project. All paths are absolute."""

    root: Path
    blobs: Path
    database_url: str
    mlflow_uri: str
    host: str
    port: int
    dashboard_port: int
    tls_cert: Path | None = None
    tls_key: Path | None = None
    registry_uri: str = ""
    unity_schema: str = ""
    lake_url: str | None = None
    subjects_url: str | None = None
    """Where the keys of subjects are that machines share; None: they are of this machine alone."""
    files_url: str | None = None
    """Where machines share weights, adapters and data sets; None: this machine works alone."""

    @property
    def gateway_url(self) -> str:
        """Where clients find the gateway."""
        return f"{'https' if self.tls_cert else 'http'}://{self.host}:{self.port}"

    @property
    def home(self) -> Path:
        """Everything Trimtab writes for this project."""
        return self.root / ".trimtab"

    @property
    def mlflow_artifacts(self) -> Path:
        return self.home / "mlartifacts"

    @property
    def lake(self) -> Path:
        """Delta tables `inference` and `feedback`, unless they are at `lake_url`; the lock of this machine's drain."""
        return self.home / "lake"

    def lake_table(self, name: str) -> str:
        """Where a table of the lake is: a path, or a URL below `lake_url`."""
        return f"{self.lake_url}/{name}" if self.lake_url else str(self.lake / name)

    @property
    def subjects_database(self) -> str:
        """The URL of the database with the keys of subjects."""
        return self.subjects_url or f"sqlite:///{self.home / 'subjects.db'}"

    @property
    def keys_are_apart(self) -> bool:
        """Whether machines share rows or facts with this one, and not the keys of subjects."""
        shared = self.lake_url is not None or not self.database_url.startswith("sqlite")
        return shared and self.subjects_url is None

    @property
    def journal(self) -> Path:
        """Append-only segments, one folder for all gateway workers of this project."""
        return self.home / "journal"

    @property
    def datasets(self) -> Path:
        return self.home / "datasets"

    @property
    def cards(self) -> Path:
        return self.home / "cards"

    @property
    def runtime(self) -> Path:
        """Sockets, pid files, the routes file and progress: may be deleted when nothing runs."""
        return self.home / "run"

    @property
    def metrics(self) -> Path:
        """What gateway workers count, one pair of files each."""
        return self.runtime / "metrics"

    @property
    def telemetry_file(self) -> Path:
        """How far rows were exported over OTLP."""
        return self.home / "telemetry.json"

    @property
    def logs(self) -> Path:
        return self.home / "logs"

    @property
    def routes_file(self) -> Path:
        """The snapshot of routes that gateways follow; replaced atomically by the supervisor."""
        return self.runtime / "routes.json"

    @property
    def keys_file(self) -> Path:
        """The live API keys, as hashes, that gateways follow; replaced atomically by the supervisor."""
        return self.runtime / "keys.json"

    @property
    def ledger_file(self) -> Path:
        """What each key has used, shared by all gateways. Not in `runtime`: to delete it is to forget the spending."""
        return self.home / "ledger.bin"

    @property
    def progress_file(self) -> Path:
        """The step in progress of the running cycle; replaced atomically by the lifecycle."""
        return self.runtime / "progress.json"


def load(root: Path | str = ".") -> Settings:
    """Settings of the project at `root`, from the environment."""
    root = Path(root).resolve()
    env = os.environ
    home = root / ".trimtab"
    lake_url = (env.get("TRIMTAB_LAKE") or "").rstrip("/") or None
    runs = env.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home / 'mlflow.db'}"
    return Settings(
        root=root,
        blobs=Path(env.get("TRIMTAB_BLOBS") or Path.home() / ".cache" / "trimtab" / "blobs"),
        database_url=env.get("TRIMTAB_DATABASE_URL") or f"sqlite:///{home / 'trimtab.db'}",
        mlflow_uri=runs,
        host=env.get("TRIMTAB_HOST", "127.0.0.1"),
        port=int(env.get("TRIMTAB_PORT", "8080")),
        dashboard_port=int(env.get("TRIMTAB_DASHBOARD_PORT", "8081")),
        tls_cert=_path(env.get("TRIMTAB_TLS_CERT")),
        tls_key=_path(env.get("TRIMTAB_TLS_KEY")),
        lake_url=lake_url,
        files_url=lake_url,
        subjects_url=env.get("TRIMTAB_SUBJECTS_URL") or None,
        registry_uri=env.get("MLFLOW_REGISTRY_URI") or runs.replace("databricks", "databricks-uc", 1),
        unity_schema=env.get("TRIMTAB_UNITY_SCHEMA", ""),
    )


def _path(value: str | None) -> Path | None:
    return Path(value).resolve() if value else None
