"""Problems of a data set: each kind with its count and first occurrences."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Dict, List

from src.utils.errors import UserError
from src.utils.text import one_line

MAX_EXAMPLES = 5


@dataclass
class Issue:
    """One kind of issue.

    refused: whether it is an error, so that the data cannot be used; number: of its cases; places: where the first
    ones occur.
    """

    kind: str
    refused: bool
    number: int = 0
    places: List[str] = field(default_factory=list)

    def line(self) -> str:
        """The kind with its count and first five occurrences."""
        more = ", ..." if self.number > len(self.places) else ""
        places = f": {', '.join(self.places)}{more}" if self.places else ""
        return f"{self.number} {self.kind}{places}"


class Issues:
    """Issues of a data set by kind. Memory does not grow with their number."""

    def __init__(self):
        self._kinds: Dict[str, Issue] = {}

    def _note(self, kind: str, place, refused: bool) -> None:
        issue = self._kinds.setdefault(kind, Issue(kind, refused))
        issue.number += 1
        if len(issue.places) < MAX_EXAMPLES:
            issue.places.append(one_line(place)[:200])

    def warn(self, kind: str, place) -> None:
        """Note one case that was repaired or left out; `place` is a file name, a line or an id."""
        self._note(kind, place, False)

    def error(self, kind: str, place) -> None:
        """Note one case that makes the data unusable."""
        self._note(kind, place, True)

    def all(self) -> List[Issue]:
        """Every kind, errors first."""
        return sorted(self._kinds.values(), key=lambda issue: not issue.refused)

    def raise_errors(self, where: str) -> None:
        """Do nothing if there are only warnings.

        Raises:
            UserError: one line with every kind of error, its count and first occurrences.
        """
        lines = [issue.line() for issue in self.all() if issue.refused]
        if lines:
            raise UserError(f"{where}: {'; '.join(lines)}")

    def repaired_lines(self) -> List[str]:
        """One line per kind of warning."""
        return [issue.line() for issue in self.all() if not issue.refused]
