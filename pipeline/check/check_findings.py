"""What a check found: single findings, and all of them together."""

import dataclasses

from pipeline.check import file_kinds


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """Something to look at.

    Attributes:
        kind: in a few words.
        severity: see oddities.KINDS.
        meaning: what it is, or what to do.
        groups: of paths that belong together; single photos are groups of one.
    """

    kind: str
    severity: file_kinds.Severity
    meaning: str
    groups: tuple[tuple[str, ...], ...] = ()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """What a check came to.

    Attributes:
        source: what was checked.
        counts: {class: {"photos": n, "usable": n, ...}}.
        findings: the worst first.
        notes: on the source.
    """

    source: str
    counts: dict[str, dict[str, int]]
    findings: tuple[Finding, ...]
    notes: tuple[str, ...]

    def is_bad(self, *, strict: bool) -> bool:
        """Whether there is an error; if `strict`, any finding."""
        severities = {finding.severity for finding in self.findings}
        return bool(severities) if strict else "error" in severities
