"""The few calls of MLflow's REST API that an export makes; MLflow itself need not be installed.

The API is https://mlflow.org/docs/latest/rest-api.html, version 2.0. The variables are MLflow's own:
MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME with MLFLOW_TRACKING_PASSWORD.
"""

from __future__ import annotations

import base64
import http.client
import json
import os
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Mapping
from typing import Any, Final

from chronos_ec2.errors import ChronosError, UsageProblem

TIMEOUT_SECONDS: Final = 60


class MlflowRefused(ChronosError):
    """The server answered with an error; `code` is its error code."""

    def __init__(self, text: str, code: str) -> None:
        super().__init__(text)
        self.code = code


class MlflowServer:
    """A tracking server.

    Args:
        uri: http(s)://host[:port][/path].

    Raises:
        UsageProblem: the URI is not one of HTTP.
    """

    def __init__(self, uri: str, variables: Mapping[str, str] = os.environ) -> None:
        if not _is_of_http(uri):
            raise UsageProblem(f"--mlflow {uri!r}: expected a tracking server, like http://127.0.0.1:5000")
        self.uri = uri.rstrip("/")
        self._headers = {"Content-Type": "application/json", **_authorization(variables)}

    def call(self, method: str, path: str, **fields: Any) -> dict[str, Any]:
        """Make one call, as `call("POST", "runs/create", experiment_id=...)`.

        Raises:
            MlflowRefused: the server answered with an error.
            ChronosError: it did not answer, or is no MLflow.
        """
        url, body = f"{self.uri}/api/2.0/mlflow/{path}", None
        if method == "GET":
            url += "?" + urllib.parse.urlencode(fields)
        else:
            body = json.dumps(fields).encode()
        request = urllib.request.Request(url, body, self._headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS) as answer:
                found = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise self._refusal(error) from error
        except (OSError, http.client.HTTPException) as error:
            why = getattr(error, "reason", error)
            raise ChronosError(f"{self.uri} does not answer ({why}); is it the tracking server?") from error
        except ValueError as error:
            raise ChronosError(
                f"{self.uri} does not answer as MLflow does; is it the tracking server?"
            ) from error
        return found if isinstance(found, dict) else {}

    def _refusal(self, error: urllib.error.HTTPError) -> MlflowRefused:
        with error:
            try:
                answer = json.loads(error.read())
                code, text = str(answer["error_code"]), str(answer.get("message", ""))
            except (ValueError, KeyError, TypeError, OSError):
                code, text = "", error.reason
        hint = (
            "; set MLFLOW_TRACKING_TOKEN, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            if error.code in (401, 403)
            else ""
        )
        return MlflowRefused(f"{self.uri} answered {error.code} {code}: {text[:500]}{hint}", code)


def _authorization(variables: Mapping[str, str]) -> dict[str, str]:
    token, user = variables.get("MLFLOW_TRACKING_TOKEN"), variables.get("MLFLOW_TRACKING_USERNAME")
    if token:
        return {"Authorization": f"Bearer {token}"}
    if user:
        pair = f"{user}:{variables.get('MLFLOW_TRACKING_PASSWORD', '')}".encode()
        return {"Authorization": f"Basic {base64.b64encode(pair).decode()}"}
    return {}


def _is_of_http(uri: str) -> bool:
    try:
        parts = urllib.parse.urlsplit(uri)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, half an IPv6 address
        return False
