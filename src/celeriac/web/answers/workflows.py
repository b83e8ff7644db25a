"""Workflows: that one was sent, and how far it is."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

__all__ = ["Workflow", "WorkflowSent", "WorkflowStep"]


class WorkflowSent(msgspec.Struct, kw_only=True):
    """A workflow that was sent."""

    id: str
    workflow_id: str | None
    ids: Annotated[list[str], Meta(description="of the tasks whose results are the result")]
    links: dict[str, str]


class WorkflowStep(msgspec.Struct, kw_only=True):
    """A task of a workflow."""

    id: str
    task: str
    state: str
    cause: str | None


class Workflow(msgspec.Struct, kw_only=True):
    """A workflow: how many of its tasks have ended."""

    workflow: str
    ended: int
    total: int
    tasks: list[WorkflowStep]
