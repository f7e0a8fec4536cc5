"""TrainedPolicy: checks a trainer's requests against the collection's policy."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.primerl.requests import RunRequest
    from agentpipe.training.policy import Policy


class TrainedPolicy:
    """Not thread-safe.

    A request names servers, a model and a version of its weights. Only the version is used:
    the policy alone decides where agents send their requests and keys, never a client of the
    environment server.
    """

    def __init__(self, policy: Policy, model: str) -> None:
        """Use a policy whose servers serve ``model``; empty means any model."""
        self._policy, self._model = policy, model
        self._endpoints: set[str] = set()
        self._version = -1

    def follow(self, request: RunRequest) -> str:
        """Publish the request's version if it is new; returns why the request cannot run."""
        if problem := self._problem(request):
            return problem
        if request.version is not None and request.version > self._version:
            self._version = max(request.version, self._policy.version)
            self._policy.publish(self._version)
        return ""

    def _problem(self, request: RunRequest) -> str:
        name = self._policy.name
        if self._model and request.model != self._model:
            return f"model {request.model!r:.200}: policy {name!r} serves {self._model!r}"
        url = request.base_url.rstrip("/")
        if url not in self._endpoints:  # It may have been published since.
            self._endpoints = {each.rstrip("/") for each in self._policy.endpoints}
        if url in self._endpoints:
            return ""
        remedy = f"agentpipe policy publish {name} --version N --endpoint URL"
        return f"client.base_url: not an endpoint of policy {name!r}: `{remedy}`"
