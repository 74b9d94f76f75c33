"""Who we are to Azure: a token from azure-identity. It is handed to who asked and kept nowhere."""

from __future__ import annotations

import importlib.util
from typing import Any

from trimtab.errors import Fixable


def token(scope: str) -> dict[str, Any]:
    """An Entra token as `az account get-access-token` prints it: accessToken, expires_on (epoch seconds).

    Raises Fixable when azure-identity is missing or nobody is logged in.
    """
    if importlib.util.find_spec("azure") is None or importlib.util.find_spec("azure.identity") is None:
        raise Fixable("a token of Azure needs azure-identity, not installed here", "pip install 'trimtab[azure]'")
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as login:
        try:
            found = login.get_token(scope)
        except ClientAuthenticationError:  # its message lists every way it tried, over many lines
            raise Fixable(
                "nobody is logged in to Azure", "run `az login`, or set AZURE_CLIENT_ID and its like"
            ) from None
    return {"accessToken": found.token, "expires_on": found.expires_on}
