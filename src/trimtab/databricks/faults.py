"""The vendors' errors, translated once, at the border: each becomes a Fixable that says what to do.

The SDKs have tried again by then: databricks-sdk waits for Retry-After on 429 and 503 (up to its retry timeout),
azure-core likewise. What arrives here is what remained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
from azure.core import exceptions as azure
from databricks.sdk.errors import OperationFailed, base, platform

from trimtab.errors import Fixable
from trimtab.logs import redacted

AGAIN = "wait a few minutes and run the command again; what was done is kept"
LOG_IN = "log in again: `databricks auth login`, `az login`, or a new DATABRICKS_TOKEN"


class WorkspaceError(Fixable):
    """The workspace or Azure refused, or cannot be reached. `error_code` is the vendor's, or empty."""

    code = "workspace"

    def __init__(self, message: str, fix: str, error_code: str = "") -> None:
        super().__init__(message, fix)
        self.error_code = error_code


@contextmanager
def translated(doing: str | Callable[[], str]) -> Iterator[None]:
    """Run vendor calls; their errors leave as WorkspaceError. `doing` completes "while …", or says it when asked."""
    try:
        yield
    except base.DatabricksError as error:
        raise _databricks(error, _place(doing)) from error
    except azure.AzureError as error:
        raise _azure(error, _place(doing)) from error
    except TimeoutError as error:
        raise _timed_out(error, _place(doing)) from error
    except OperationFailed as error:  # a cluster or an endpoint ended in a failure
        fix = "look at its events or logs in the workspace, mend what they name, and run the command again"
        raise WorkspaceError(f"while {_place(doing)}: {_first(error)}", fix) from error
    except requests.RequestException as error:
        fix = "check target.databricks.host and the network"
        raise WorkspaceError(f"the workspace does not answer while {_place(doing)}: {_first(error)}", fix) from error
    except (RuntimeError, ValueError) as error:
        if _is_upload(error):
            raise WorkspaceError(f"while {_place(doing)}: {_first(error)}", AGAIN) from error
        if isinstance(error, RuntimeError) or not _is_login(error):
            raise
        fix = "set target.databricks.profile to a profile of ~/.databrickscfg, or DATABRICKS_HOST and DATABRICKS_TOKEN"
        raise WorkspaceError(f"Databricks does not know who you are: {_first(error)}", fix) from error


def _place(doing: str | Callable[[], str]) -> str:
    return doing if isinstance(doing, str) else doing()


def _databricks(error: base.DatabricksError, doing: str) -> WorkspaceError:
    code, text = error.error_code or "", _first(error)
    message = f"while {doing}: {text}"
    if isinstance(error, platform.Unauthenticated) or _is_expired(text):
        return WorkspaceError(f"the workspace does not accept the token ({text})", LOG_IN, code)
    if isinstance(error, platform.PermissionDenied):
        fix = "ask an owner for the privilege it names, or choose another catalog or schema in trimtab.yaml"
        return WorkspaceError(message, fix, code)
    if isinstance(error, platform.NotFound):
        return WorkspaceError(message, _missing(text), code)
    if isinstance(error, platform.ResourceConflict):
        fix = "somebody made or changed it meanwhile: run the command again to plan anew"
        return WorkspaceError(message, fix, code)
    if isinstance(error, platform.TooManyRequests | platform.TemporarilyUnavailable | platform.InternalError):
        return WorkspaceError(message, AGAIN, code)
    return WorkspaceError(message, "mend what it names in trimtab.yaml, and run the command again", code)


def _azure(error: azure.AzureError, doing: str) -> WorkspaceError:
    inner = getattr(error, "error", None)
    code = str(getattr(inner, "code", "") or "")
    text = str(getattr(inner, "message", "") or _first(error))
    message = f"while {doing}: {text}"
    if isinstance(error, azure.ClientAuthenticationError) or code in ("ExpiredAuthenticationToken", "InvalidToken"):
        return WorkspaceError(f"Azure does not accept the login ({_first(text)})", "run `az login`", code)
    if code == "MissingSubscriptionRegistration":
        fix = "run `az provider register --namespace Microsoft.Databricks`, once per subscription"
        return WorkspaceError(message, fix, code)
    if code == "AuthorizationFailed":
        return WorkspaceError(message, "ask for the role Contributor on the resource group", code)
    if isinstance(error, azure.ServiceRequestError | azure.ServiceResponseError):
        return WorkspaceError(f"Azure does not answer while {doing}: {_first(text)}", "check the network", code)
    status = getattr(error, "status_code", None)
    if status in (429, 500, 502, 503, 504):
        return WorkspaceError(message, AGAIN, code)
    if status == 409:
        return WorkspaceError(message, "wait until the running change has ended, then run the command again", code)
    return WorkspaceError(message, "mend what it names in target.databricks.azure, and run the command again", code)


def _timed_out(error: TimeoutError, doing: str) -> WorkspaceError:
    cause = error.__cause__
    if isinstance(cause, base.DatabricksError):  # it was asked again until the retry timeout
        return _databricks(cause, doing)
    fix = "look at it in the workspace, and run the command again: it goes on where it stands"
    return WorkspaceError(f"no end while {doing}: {_first(error)}", fix)


def _missing(text: str) -> str:
    if "able" in text:  # a table
        return (
            "ask the endpoint something, wait up to an hour for its inference table, and let the drift job of "
            "`trimtab databricks schedule --apply` run once: it makes the request log"
        )
    return "run `trimtab databricks init --apply` first, then `push`, `deploy`, `monitor`, `schedule` in this order"


def _is_expired(text: str) -> bool:
    return any(words in text.lower() for words in ("invalid access token", "token is expired", "token expired"))


def _is_upload(error: Exception) -> bool:
    """Whether databricks-sdk gave up a part of a large file: it has no error of its own for that."""
    return str(error).startswith(("Exceeded max retry attempts", "Unsuccessful chunk upload"))


def _is_login(error: ValueError) -> bool:
    text = str(error).lower()
    return any(words in text for words in ("auth", "credentials", "profile", "host", "configure"))


def _first(error: object) -> str:
    """The first line, without the SDK's description of its configuration and the signatures of addresses."""
    line = str(error).strip().split("\n", 1)[0]
    return redacted(line.split(". Config: ", 1)[0])
