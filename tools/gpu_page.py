"""Write the tables of docs/gpu.md: what ``auto`` takes on a GPU, and computed bounds. ``python -m tools.gpu_page``"""

from pathlib import Path

from benchmarks.common import Table
from benchmarks.roofline import table_of_cards
from dmgan_fast.ops import _dispatch

PAGE = Path(__file__).parents[1] / "docs" / "gpu.md"
MARKER, END = "<!-- {}: written by `python -m tools.gpu_page` -->\n", "<!-- end -->\n"
HEADS = ("op", "dtype", "compute capability", "elements of its first tensor", "backends, best first", "rests on")


def choices() -> Table:
    """A line for each rule; the first that fits counts."""
    lines = []
    for rule in _dispatch.RULES:
        dtypes = "any" if rule.dtypes == _dispatch.FLOATS else ", ".join(str(dtype)[6:] for dtype in rule.dtypes)
        cards = "from " + ".".join(map(str, rule.oldest)) if rule.oldest > (0, 0) else "any"
        size = f"from {rule.least:,}" if rule.least else "any"
        lines.append([f"`{rule.op}`", dtypes, cards, size, ", ".join((*rule.order, "reference")), rule.rests_on])
    return Table(HEADS, lines)


def written(page: str) -> str:
    """The page with its tables."""
    for name, table in (("auto", choices()), ("bounds", table_of_cards())):
        before, _, rest = page.partition(MARKER.format(name))
        page = before + MARKER.format(name) + table.markdown() + "\n" + END + rest.partition(END)[2]
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
