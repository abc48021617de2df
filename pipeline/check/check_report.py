"""Hold what a check finds: single findings, and the report of all."""

import dataclasses
from typing import Literal

Severity = Literal["error", "warning", "note"]


@dataclasses.dataclass(frozen=True)
class Finding:
    """Photos or classes that the user should look at, for one reason.

    Attributes:
        kind: name of the reason, in a few words.
        meaning: what the reason means, and what to do about it.
        groups: groups of paths that belong together; a single photo is a group.
    """

    kind: str
    severity: Severity
    meaning: str
    groups: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """The result of a check.

    Attributes:
        source: folder that was checked, as the user named it.
        counts: {class name: {"photos": number, "usable": number, ...}}.
        findings: findings, the most severe first.
        notes: remarks on the source as a whole.
    """

    source: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def is_bad(self, *, strict: bool) -> bool:
        """Return whether there is an error, or with `strict` any finding."""
        severities = {finding.severity for finding in self.findings}
        return bool(severities) if strict else "error" in severities
