"""What counts as a fault: anything but a right answer or a refusal in the project's own words."""

from __future__ import annotations

import re
import traceback
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hypothesis.strategies import SearchStrategy

from dmgan_fast.errors import DMGANError

ROOT = Path(__file__).parents[2]
SHOWN = 600  # characters of a message
Outcome = Literal["accepted", "refused"]


class Fault(AssertionError):
    """What must not happen: a foreign error, a refusal without a name, a wrong answer."""


class Wrong(Exception):
    """An accepted case whose answer is not the right one."""


@dataclass(frozen=True)
class Target:
    """Something that takes input from outside.

    ``cases``: descriptions of inputs in plain values, so that the ``repr`` of one repeats it. ``check``: builds the
    input, hands it over and raises ``Wrong`` if the answer is not right. ``names``: of a case, the arguments or files
    of which a refusal has to mention one. ``share``: of a campaign's cases, where a case takes long.
    ``prepare``: makes once what all cases take.
    """

    name: str
    kind: str
    cases: SearchStrategy[Any]
    check: Callable[[Any], None]
    names: Callable[[Any], Iterable[str]]
    share: float = 1.0
    prepare: Callable[[], object] = lambda: None


def judge(target: Target, case: Any) -> Outcome:
    """Whether a case was accepted or refused.

    Raises:
        Fault: if it was neither.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            target.check(case)
        except Wrong as error:
            raise Fault(f"wrong answer: {error}") from None
        except DMGANError as error:
            message, names = str(error), tuple(target.names(case))
            if not any(_says(message, name) for name in names):
                raise Fault(f"the refusal names none of {', '.join(names)}: {message[:SHOWN]}") from None
            return "refused"
        except Exception as error:
            raise Fault(f"{type(error).__name__} at {_place(error)}: {str(error)[:SHOWN]}") from None
    return "accepted"


def _says(message: str, name: str) -> bool:
    """Whether the name stands in the message as a word of its own."""
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", message) is not None


def _place(error: BaseException) -> str:
    """The last line of this project that an error passed."""
    own = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename.startswith(str(ROOT))]
    last = own[-1] if own else traceback.extract_tb(error.__traceback__)[-1]
    file = Path(last.filename)
    return f"{file.relative_to(ROOT) if file.is_relative_to(ROOT) else file.name}:{last.lineno}"
