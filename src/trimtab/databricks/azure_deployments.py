"""Deployments of fine-tuned models at Azure OpenAI. The boundary: Azure Resource Manager, through Microsoft's SDK.

An Azure fine-tune answers only once it is deployed, and a deployment is a resource of the control plane. Putting the
same one twice is putting it once. The login is azure-identity's: environment, managed identity, Azure CLI, and so on;
a token stays inside its client. Source: Microsoft Learn, "Deploy a fine-tuned model" (deployments, sku, capacity).
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from trimtab.errors import Fixable, StepFailed
from trimtab.records.project import DeploymentSection

if TYPE_CHECKING:
    from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

WAIT_SECONDS = 5.0
"""Between two looks at a deployment that is being made."""


def body(section: DeploymentSection, model: str) -> dict[str, Any]:
    """The ARM body of a deployment of a fine-tuned model."""
    return {
        "sku": {"name": section.sku, "capacity": section.capacity},
        "properties": {"model": {"format": "OpenAI", "name": model, "version": "1"}},
    }


def deploy(section: DeploymentSection, name: str, model: str, say: Callable[[str], None]) -> None:
    """Deploy a fine-tuned model under `name`, or wait for the deployment that is on its way; returns when it answers.

    Raises Fixable when Azure refuses or the name serves another model, StepFailed when Azure cannot be reached.
    """
    from azure.mgmt.cognitiveservices.models import Deployment

    _, group, account = _parts(section.resource)
    with _open(section.resource) as client, _translated(name):
        there = _existing(client, group, account, name)
        if there is not None and there.properties.model.name != model:
            other = there.properties.model.name
            raise Fixable(f"the deployment {name} serves {other}, not {model}", "delete it, or start a new cycle")
        if there is not None and there.properties.provisioning_state == "Succeeded":
            return
        say(f"deploying {model} as {name} ({section.sku}, {section.capacity}k tokens a minute); hosting is billed")
        request = Deployment.from_dict(body(section, model))
        poller = client.deployments.begin_create_or_update(group, account, name, request, polling_interval=WAIT_SECONDS)
        made = poller.result()
    state = made.properties.provisioning_state if made.properties else "unknown"
    if state != "Succeeded":
        raise StepFailed(f"the deployment {name} ended as {state}")


def delete(resource: str, name: str) -> None:
    """Delete a deployment and return when it is gone; one that is not there is gone. The fine-tuned model stays.

    `resource`: ARM id of its account. Raises Fixable when Azure refuses, StepFailed when it cannot be reached.
    """
    _, group, account = _parts(resource)
    with _open(resource) as client, _translated(name):
        if _existing(client, group, account, name) is not None:
            client.deployments.begin_delete(group, account, name, polling_interval=WAIT_SECONDS).result()


@contextmanager
def _translated(name: str) -> Iterator[None]:
    """Azure's errors as ours."""
    from azure.core import exceptions

    try:
        yield
    except (exceptions.ServiceRequestError, exceptions.ServiceResponseError) as error:
        raise StepFailed(f"Azure does not answer: {_first(error)}") from None
    except exceptions.ClientAuthenticationError as error:
        raise Fixable(f"Azure does not know us: {_first(error)}", "run `az login`, or set AZURE_CLIENT_ID…") from None
    except exceptions.HttpResponseError as error:
        if error.status_code in (429, 500, 502, 503, 504):
            raise StepFailed(f"Azure answered {error.status_code}: {_first(error)}") from None
        fix = "correct retrain.hosted.deployment; the login needs Cognitive Services Contributor on the account"
        raise Fixable(f"Azure refused the deployment {name}: {_first(error)}", fix) from None


def _existing(client: CognitiveServicesManagementClient, group: str, account: str, name: str) -> Any:
    from azure.core.exceptions import ResourceNotFoundError

    try:
        return client.deployments.get(group, account, name)
    except ResourceNotFoundError:
        return None


def _open(resource: str) -> CognitiveServicesManagementClient:
    missing = [one for one in ("azure.identity", "azure.mgmt.cognitiveservices") if not _installed(one)]
    if missing:
        raise Fixable(f"deploying at Azure needs {', '.join(missing)}", "pip install 'trimtab[azure]'")
    from azure.identity import DefaultAzureCredential
    from azure.mgmt.cognitiveservices import CognitiveServicesManagementClient

    return CognitiveServicesManagementClient(DefaultAzureCredential(), _parts(resource)[0])


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:  # not even its parent
        return False


def _parts(resource: str) -> tuple[str, str, str]:
    """Subscription, resource group and account of a resource ID."""
    words = resource.split("/")
    return words[2], words[4], words[8]


def _first(error: Exception) -> str:
    return " ".join(str(getattr(error, "message", None) or error).split())[:300]
