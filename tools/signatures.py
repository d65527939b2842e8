"""Write the signatures of kernels into docs/backends.md, from the contract: python -m tools.signatures"""

import re
import textwrap
from pathlib import Path

from dmgan_fast import contract

PAGE = Path(__file__).parents[1] / "docs" / "backends.md"
WIDTH = 120
SECTION = re.compile(r"(?m)^(## (?P<ops>[\w, ]+)\n```text\n).*?(?=^```)", re.DOTALL)


def signature(function: contract.Function) -> str:
    """As the page writes it: ``read(h, mask?, official) -> (out, lse)``."""
    names = ", ".join(f"{a.name}?" if a.kind == "Tensor?" else a.name for a in function.arguments)
    results = ", ".join(function.results)
    returned = f"({results})" if len(function.results) > 1 else results
    whole = f"{function.name}({names}) -> {returned}"
    if len(whole) <= WIDTH:
        return whole
    lines = textwrap.wrap(f"{function.name}({names})", WIDTH, subsequent_indent="    ")
    lines += textwrap.wrap(f"-> {returned}", WIDTH, initial_indent="    ", subsequent_indent="    ")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the signatures of every op that a heading names in the code block below it."""

    def section(found: re.Match[str]) -> str:
        ops = [contract.OPS[name] for name in found["ops"].split(", ")]
        return found[1] + "".join(f"{signature(each)}\n" for op in ops for each in op.functions)

    return SECTION.sub(section, page)


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text()))
