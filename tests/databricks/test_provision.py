"""The workspace as an Azure resource. Rung 2 of the ladder: the ARM template is what azure-mgmt-databricks sends.

Proves names and values of the body against the vendor's model classes; not that Azure accepts them.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from azure.mgmt.databricks.models import Workspace
from databricks_place import TARGET

import place
from trimtab import project
from trimtab.databricks import provision
from trimtab.errors import ConfigError


def loaded(folder: Path, target: str = TARGET) -> project.Loaded:
    place.make(folder)
    (folder / "trimtab.yaml").write_text(place.FILE + target)
    return project.load(folder)


def test_the_template_is_the_body_of_the_request(tmp_path: Path) -> None:
    made = loaded(tmp_path).project
    (resource,) = provision.template(made)["resources"]
    sent = provision.workspace(provision.section_of(made), made.name).as_dict()
    assert {key: resource[key] for key in sent} == sent
    assert Workspace(sent).as_dict() == sent
    assert sent["sku"] == {"name": "premium"}
    assert resource["apiVersion"] == "2026-01-01"


def test_the_standard_tier_is_refused_with_the_reason(tmp_path: Path) -> None:
    standard = TARGET.replace("workspace: llmops", "workspace: llmops\n      pricing_tier: standard")
    with pytest.raises(ConfigError, match="no new standard workspaces since 2026-04-01") as refused:
        loaded(tmp_path, standard)
    assert refused.value.field == "target.databricks.azure.pricing_tier"
    assert "premium" in refused.value.fix


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ("catalog: my-catalog", "target.databricks.catalog"),
        ("schema: a.b", "target.databricks.schema"),
        ("runtime: 18 LTS", "target.databricks.cluster.runtime"),
    ],
)
def test_names_that_a_workspace_would_refuse_are_refused_here(tmp_path: Path, line: str, field: str) -> None:
    given = {"catalog": "catalog: ml", "schema": "schema: support"}
    given |= {"cluster": f"cluster: {{{line}}}"} if "runtime" in line else {line.split(":")[0]: line}
    with pytest.raises(ConfigError) as refused:
        loaded(tmp_path, f"target: {{databricks: {{{', '.join(given.values())}}}}}\n")
    assert refused.value.field == field
