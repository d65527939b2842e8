"""Self-contained HTML pages from jinja2 templates with one style sheet; values are escaped, figures are inline SVG."""

from __future__ import annotations

import base64
import io
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure
from PIL import Image

from dmgan_fast.files import write_text
from dmgan_fast.images import pil_image

TEMPLATES = Path(__file__).parent / "templates"


def write_page(file: Path, template: Path, **values: Any) -> Path:
    """Write ``template``, which may extend ``base.html`` of this package, with ``values`` filled in, as ``render``."""
    text = render(template, **values)
    write_text(file, text + "\n")
    return file


def render(template: Path, **values: Any) -> str:
    """The text of ``template`` with ``values`` filled in.

    Strings are escaped; ``inline_svg`` makes what is not. Templates may pass ``[3, H, W]`` tensors through the filter
    ``as_image`` and PIL images through ``data_url``.
    """
    return _environment(template.parent).get_template(template.name).render(values)


@cache
def _environment(folder: Path) -> Environment:
    environment = Environment(
        loader=FileSystemLoader((folder, TEMPLATES)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_url": data_url, "photo_url": photo_url, "as_image": pil_image}
    return environment


def data_url(image: Image.Image) -> str:
    """The image as PNG inside the page."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def photo_url(image: Image.Image) -> str:
    """The image as JPEG inside the page: large ones, of which nobody counts pixels."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=88)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"


def inline_svg(figure: Figure) -> Markup:
    """The ``<svg>`` element of a figure, without the date, for a page."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight", metadata={"Date": None})
    return Markup(buffer.getvalue()[buffer.getvalue().index("<svg") :])
