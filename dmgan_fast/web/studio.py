"""What the page does, without the page: requests in, images, maps and plain words out."""

from __future__ import annotations

import logging
import math
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

from dmgan_fast.data.captions import tokenize
from dmgan_fast.errors import InputError, OutOfMemory
from dmgan_fast.out_of_memory import is_out_of_memory
from dmgan_fast.sampling.sampler import Sample, Sampler
from dmgan_fast.web.models import Models
from dmgan_fast.web.overlays import Refinement, refinements

T = TypeVar("T")
_log = logging.getLogger("dmgan_fast.web")


@dataclass(frozen=True)
class Limits:
    """The largest request: characters and words of a caption, images of one, steps of a strip, noise, seed."""

    characters: int = 400
    words: int = 40
    images: int = 4
    steps: int = 12
    truncation: float = 3.0
    noise: float = 2.0
    seed: int = 2**32 - 1


@dataclass(frozen=True)
class Shown:
    """One image at every resolution, and what the memory did at each refinement."""

    sample: Sample
    refinements: list[Refinement]


@dataclass(frozen=True)
class Generated:
    """The answer to a request. ``unknown``: words left out, each once."""

    model: str
    captions: tuple[str, ...]
    unknown: list[str]
    images: list[Shown]


class Refused(InputError):
    """A request that can't be fulfilled; the message is for the visitor, and names nothing of the server."""


class Studio:
    """Answers requests one after another, whoever asks.

    Values may be anything that a visitor sends: they are checked here.
    """

    def __init__(self, models: Models, limits: Limits | None = None) -> None:
        self.models, self.limits = models, limits or Limits()
        self._one_at_a_time = Lock()

    def warm_up(self) -> None:
        """Load the first model and generate once, so that the first visitor does not wait for it."""
        name = self.models.names[0]
        with self._one_at_a_time:
            sampler = self.models.get(name)
            sampler.sample(
                [next(word for word in sampler.vocabulary.words[1:] if sampler.vocabulary.knows(word))], maps=True
            )

    def generate(
        self,
        caption: Any,
        *,
        model: Any = None,
        seed: Any = 0,
        images: Any = 1,
        noise: Any = 1.0,
        truncation: Any = None,
    ) -> Generated:
        """Images of a caption at every resolution, with maps.

        Args:
            caption: the text.
            model: one of ``models.names``; None: the first.
            seed: 0 or more.
            images: how many.
            noise: the noise is multiplied by it.
            truncation: keep the noise within so many deviations; None, or the largest: all of it.

        Raises:
            Refused: saying what to change.
        """
        name = self._model(model)
        text = self._caption("caption", caption)
        count = self._whole("number of images", images, 1, self.limits.images)
        options = self._options(seed, noise, truncation)

        def work(sampler: Sampler) -> Generated:
            self._known("caption", text, sampler)
            samples = sampler.sample([text], count=count, maps=True, **options)
            return _answer(name, (text,), samples)

        return self._work(name, work)

    def between(
        self,
        first: Any,
        second: Any,
        *,
        model: Any = None,
        seed: Any = 0,
        steps: Any = 6,
        noise: Any = 1.0,
        truncation: Any = None,
    ) -> Generated:
        """Images on the way from one caption to another, both included.

        Raises:
            Refused: saying what to change.
        """
        name = self._model(model)
        texts = (self._caption("first caption", first), self._caption("second caption", second))
        count = self._whole("number of steps", steps, 2, self.limits.steps)
        options = self._options(seed, noise, truncation)

        def work(sampler: Sampler) -> Generated:
            for what, text in zip(("first caption", "second caption"), texts, strict=True):
                self._known(what, text, sampler)
            return _answer(name, texts, sampler.between(*texts, steps=count, **options))

        return self._work(name, work)

    def _work(self, name: str, work: Callable[[Sampler], T]) -> T:
        try:
            with self._one_at_a_time:
                return work(self.models.get(name))
        except Refused:
            raise
        except Exception as error:
            _log.exception("a request to %s failed", name)
            if isinstance(error, OutOfMemory) or is_out_of_memory(error):
                raise Refused("The server ran out of memory. Ask for fewer images or steps, or try again.") from None
            raise Refused("This did not work, and not because of what you wrote. The server's log says why.") from None

    # Checks

    def _model(self, name: Any) -> str:
        names = self.models.names
        if name is None:
            return names[0]
        if not isinstance(name, str) or name not in names:
            raise Refused("This model is not offered here. Choose one from the list.")
        return name

    def _caption(self, what: str, text: Any) -> str:
        if text is None or (isinstance(text, str) and not _readable(text)):
            raise Refused(f"The {what} is empty. Write what the image should show, for example: a red apple.")
        if not isinstance(text, str):
            raise Refused(f"The {what} must be text.")
        characters, words = self.limits.characters, self.limits.words
        if len(text) > characters:
            raise Refused(f"The {what} has {len(text):,} characters; at most {characters} are allowed. Shorten it.")
        plain = _readable(text)
        count = max(len(plain.split()), len(tokenize(plain)))
        if count > words:
            raise Refused(f"The {what} has {count:,} words; at most {words} are allowed. Shorten it.")
        return plain

    def _known(self, what: str, text: str, sampler: Sampler) -> None:
        if not sampler.vocabulary.encode(text)[0]:
            raise Refused(f"The {what} has no word that this model knows. Try simple words, for example: a red apple.")

    def _options(self, seed: Any, noise: Any, truncation: Any) -> dict[str, Any]:
        within = self.limits.truncation if truncation is None else truncation
        within = self._number("truncation", within, 0.1, self.limits.truncation)
        return {
            "seed": self._whole("seed", seed, 0, self.limits.seed),
            "noise_strength": self._number("noise strength", noise, 0.0, self.limits.noise),
            "truncation": None if within == self.limits.truncation else within,
        }

    def _number(self, what: str, value: Any, lowest: float, highest: float) -> float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not fits or not lowest <= value <= highest:
            raise Refused(f"The {what} must be a number from {lowest:g} to {highest:g}.")
        return float(value)

    def _whole(self, what: str, value: Any, lowest: int, highest: int) -> int:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not fits or not lowest <= value <= highest or value != int(value):
            raise Refused(f"The {what} must be a whole number from {lowest} to {highest}.")
        return int(value)


def _answer(model: str, captions: tuple[str, ...], samples: list[Sample]) -> Generated:
    unknown = dict.fromkeys(word for sample in samples for word in sample.unknown)
    return Generated(model, captions, list(unknown), [Shown(each, refinements(each)) for each in samples])


def _readable(text: str) -> str:
    """The text in one line, without control characters and what has no place in text."""
    kept = (" " if unicodedata.category(each) in ("Cc", "Cs", "Co", "Cn", "Zl", "Zp") else each for each in text)
    return " ".join("".join(kept).split())
