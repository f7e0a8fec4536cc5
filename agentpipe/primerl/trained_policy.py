"""TrainedPolicy: the collection's policy, held against what a trainer's requests say of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.primerl.requests import RunRequest
    from agentpipe.training.policy import Policy


class TrainedPolicy:
    """For one thread.

    A request names servers, a model and a version of its weights. Only the version is taken over:
    the policy decides where agents send their requests and keys, and no client of the environment
    server does.
    """

    def __init__(self, policy: Policy, model: str) -> None:
        """Of a policy whose servers know ``model``, or any, where that is empty."""
        self._policy, self._model = policy, model
        self._endpoints: set[str] = set()
        self._version = -1

    def follow(self, request: RunRequest) -> str:
        """Publish its version, if that is new; returns what keeps it from being run."""
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
        if url not in self._endpoints:  # Or it was published since.
            self._endpoints = {each.rstrip("/") for each in self._policy.endpoints}
        if url in self._endpoints:
            return ""
        remedy = f"agentpipe policy publish {name} --version N --endpoint URL"
        return f"client.base_url: not an endpoint of policy {name!r}: `{remedy}`"
