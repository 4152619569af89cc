"""The running service, as the job speaks to it: labels, loads, inferences, diagnoses."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from urllib.parse import quote

import httpx
import numpy as np
from numpy.typing import NDArray

from models.diagnosis.finding import Diagnosis
from training.retraining.outcome import ServiceRefusesError, ServiceUnreachableError
from training.retraining.reliability import Requests

# A model is loaded and warmed up in all processes before the answer comes.
CONTROL_SECONDS = 600.0
SECONDS = 60.0
FIRST_WAIT, LONGEST_WAIT = 0.25, 5.0
LATER = (429, 502, 503, 504)
"""Asked again after these."""


@dataclass(frozen=True)
class Served:
    """What is served of a model."""

    default: int
    """The version that answers where none is named."""
    digest: str
    """SHA-256 of its graph."""
    labels: Mapping[str, int]


class Remote:
    """Asks until it is answered, for `patience` seconds at most.

    Every method raises `ServiceUnreachableError` when there is no answer, and `ServiceRefusesError` when the answer is
    no.
    """

    def __init__(self, url: str, control_key: str = "", inference_key: str = "", patience: float = 30.0) -> None:
        self._client = httpx.Client(base_url=url, timeout=SECONDS)
        self._url, self._patience = url, patience
        self._control = _with_key(control_key)
        self._inference = _with_key(inference_key or control_key)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def served(self, name: str) -> Served:
        """The default version of a model, and its labels; raises `ValueError` where it serves none of that name."""
        try:
            answer = self._ask("GET", f"/v1/models/{quote(name)}", self._inference).json()
        except ServiceRefusesError as error:
            if error.status == 404:
                raise ValueError(f"the service at {self._url} serves no model {name!r}: {error}") from error
            raise
        manifest = answer["manifest"]
        return Served(answer["version"], manifest["digests"][manifest["graph"]], answer["labels"])

    def load(self, name: str, version: int) -> None:
        """Serve a version by default, and hold it."""
        body = {"parameters": {"version": version}}
        self._ask(
            "POST", f"/v2/repository/models/{quote(name)}/load", self._control, json=body, timeout=CONTROL_SECONDS
        )

    def set_label(self, name: str, label: str, version: int, share: float = 0.0) -> None:
        """Give a version a label, once it is loaded everywhere, and a percentage of the requests for the default."""
        path = f"/v1/models/{quote(name)}/labels/{label}"
        body = {"version": version} | ({"share": share} if share else {})
        self._ask("PUT", path, self._control, json=body, timeout=CONTROL_SECONDS)

    def withhold(self, name: str, version: int, withheld: bool = True) -> None:
        """Have nobody serve a version by default before it is loaded by its number; it may be the next one."""
        path = f"/v1/models/{quote(name)}/withheld/{version}"
        self._ask("PUT" if withheld else "DELETE", path, self._control, timeout=CONTROL_SECONDS)

    def remove_label(self, name: str, label: str) -> None:
        """Take a label away, if it is there."""
        self._ask("DELETE", f"/v1/models/{quote(name)}/labels/{label}", self._control, timeout=CONTROL_SECONDS)

    def reason(self, name: str, version: int) -> str:
        """Why a version cannot be served; empty where nothing is known against it."""
        entries = self._ask("POST", "/v2/repository/index", self._inference).json()
        failed = (entry for entry in entries if entry["state"] == "UNAVAILABLE" and entry["name"] == name)
        reasons = [entry["reason"] for entry in failed if entry["version"] == str(version)]
        # Versions that are idle say so, and are loaded when they are asked for.
        return next((reason for reason in reasons if not reason.startswith("not loaded")), "")

    def max_batch(self, name: str, version: int) -> int:
        """Most images of one request."""
        path = f"/v2/models/{quote(name)}/versions/{version}/config"
        return int(self._ask("GET", path, self._inference).json()["max_batch_size"])

    def diagnosis(self, name: str, version: int) -> Diagnosis:
        """Of all traffic of a version within the hour."""
        query = {"version": version, "window": "1h"}
        answer = self._ask("GET", f"/v1/models/{quote(name)}/diagnosis", self._inference, params=query)
        return Diagnosis.model_validate(answer.json()["current"])

    def requests(self, name: str, version: int) -> Requests:
        """What became of the requests that a version got, since the service began."""
        path = f"/v2/models/{quote(name)}/versions/{version}/stats"
        (counts,) = self._ask("GET", path, self._inference).json()["model_stats"]
        stats = counts["inference_stats"]
        return Requests(answered=stats["success"]["count"], failed=stats["fail"]["count"])

    def withheld(self, name: str) -> list[int]:
        """The versions that are withheld."""
        answer = self._ask("GET", f"/v1/models/{quote(name)}/labels", self._inference).json()
        return [int(version) for version in answer["withheld"]]

    def infer(self, name: str, version: int, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """The logits N×K of pixels N×C×H×W."""
        tensor = {
            "name": "images",
            "datatype": "UINT8",
            "shape": pixels.shape,
            "parameters": {"binary_data_size": pixels.nbytes},
        }
        head = json.dumps({"inputs": [tensor], "outputs": [{"name": "logits"}]}).encode()
        headers = self._inference | {"Inference-Header-Content-Length": str(len(head))}
        path = f"/v2/models/{quote(name)}/versions/{version}/infer"
        answer = self._ask("POST", path, headers, content=head + np.ascontiguousarray(pixels).tobytes())
        (output,) = answer.json()["outputs"]
        logits: NDArray[np.float32] = np.array(output["data"], np.float32).reshape(output["shape"])
        return logits

    def _ask(self, method: str, path: str, headers: Mapping[str, str], **options: Any) -> httpx.Response:
        end, wait = time.monotonic() + self._patience, FIRST_WAIT
        while True:
            try:
                answer = self._client.request(method, path, headers=headers, **options)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol) as error:
                raise ValueError(f"{self._url} is no address ({error}): use http://host:port") from error
            except httpx.HTTPError as error:
                why = f"{type(error).__name__}: {error}"
            else:
                if answer.is_success:
                    return answer
                # A version that cannot be loaded is 503 too, and stays so.
                final = method in ("PUT", "POST", "DELETE") and "Retry-After" not in answer.headers
                if answer.status_code not in LATER or (answer.status_code == 503 and final):
                    message = f"{method} {path} was answered {answer.status_code}: {_error(answer)}"
                    raise ServiceRefusesError(message, answer.status_code)
                why = f"status {answer.status_code}: {_error(answer)}"
            if time.monotonic() + wait > end:
                raise ServiceUnreachableError(f"the service at {self._url} does not answer {method} {path}: {why}")
            time.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT)


def _with_key(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"} if key else {}


def _error(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"])
    except (ValueError, KeyError, TypeError):
        return answer.text[:200]
