"""What the page shows of an answer, as HTML in which everything is escaped and every image is inside."""

from __future__ import annotations

from dmgan_fast import pages
from dmgan_fast.pages import TEMPLATES
from dmgan_fast.web.studio import Generated, Limits

STYLE = TEMPLATES / "web.css"


def images(answer: Generated) -> str:
    """Every image at every resolution, with words and gates to point at."""
    return pages.render(TEMPLATES / "web_images.html", answer=answer)


def strip(answer: Generated) -> str:
    """The images between two captions, side by side."""
    steps = len(answer.images) - 1
    labels = [f"{100 * k / steps:.0f} %" for k in range(steps + 1)]
    labels[0], labels[-1] = answer.captions
    return pages.render(TEMPLATES / "web_strip.html", answer=answer, labels=labels)


def refusal(message: str) -> str:
    """What went wrong, in plain words."""
    return pages.render(TEMPLATES / "web_refusal.html", message=message)


def style(limits: Limits) -> str:
    """The style sheet: pointing at a word, or moving to it with the keyboard, shows its layers."""
    shown = ",\n".join(
        f'.dm-image:has([data-key="{key}"]:is(:hover, :focus)) [data-layer="{key}"]'
        for key in ("gate", *range(limits.words))
    )
    return f"{STYLE.read_text(encoding='utf-8')}\n{shown} {{ opacity: 1; }}\n"
