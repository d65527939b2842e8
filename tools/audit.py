"""Known faults and licences of what the package needs.

    python -m tools.audit             the packages in this environment that dmgan_fast needs, with all that they need
    python -m tools.audit --extras test

Advisories come from ``tools/advisories.json``, a list of those that matter here, and from pip-audit, if it is installed
and its database answers; if not, that is said. The oldest versions that pyproject.toml admits are looked at too.
Exits with 1 for a known fault, or a licence that is not known to go with MIT.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # which pytest brings

ADVISORIES = Path(__file__).with_name("advisories.json")
PROJECT = Path(__file__).parents[1] / "pyproject.toml"
PACKAGE = "dmgan-fast"
PATIENCE = 120  # seconds for pip-audit
# Licences that may be used and passed on beside MIT. NVIDIA's libraries come with PyTorch and are not passed on.
ALLOWED = re.compile(
    r"(?i)\b(mit|bsd|apache|isc|psf|python software foundation|mpl|mozilla|zlib|0bsd|cc0|hpnd|unlicense|historical|"
    r"public domain|bsl|nvidia)\b"
)
REFUSED = re.compile(r"(?i)\b(a?gpl|gnu general public|gnu affero|sspl|busl|cc-by-nc|non-?commercial)")
SAID_ELSEWHERE = {"cuda-toolkit": "NVIDIA's; it only asks for NVIDIA's other packages"}


class Advisory(NamedTuple):
    package: str
    affected: str
    id: str
    what: str

    def hits(self, version: str) -> bool:
        """Whether a version is affected."""
        return SpecifierSet(self.affected).contains(version, prereleases=True)

    def __str__(self) -> str:
        return f"{self.id} ({self.affected}): {self.what}"


@dataclass(frozen=True)
class Installed:
    """A package in this environment. ``licence``: as it says itself, shortened."""

    name: str
    version: str
    licence: str


def advisories(file: Path = ADVISORIES) -> tuple[str, list[Advisory]]:
    """The day of the list, and what is in it."""
    content = json.loads(file.read_text(encoding="utf-8"))
    return content["as_of"], [Advisory(**each) for each in content["advisories"]]


def licence_of(found: Distribution) -> str:
    """What a package says of its licence: an expression, a short text, or its classifiers."""
    metadata = found.metadata
    if metadata.get("License-Expression"):
        return str(metadata["License-Expression"])
    text = (metadata.get("License") or "").strip()
    listed = [name.rpartition("::")[2].strip() for name in metadata.get_all("Classifier") or [] if "License ::" in name]
    if listed and "Other/Proprietary License" not in listed:
        return ", ".join(listed)
    first = text.splitlines()[0].strip() if text else ""
    return first[:60] if first and first != "UNKNOWN" else SAID_ELSEWHERE.get(found.name, "unknown")


def needed(names: Iterable[str], extras: Sequence[str] = ()) -> dict[str, Installed]:
    """What these packages need, each with what it needs itself, as far as it is installed here."""
    found: dict[str, Installed] = {}
    waiting = [(canonicalize_name(name), tuple(extras)) for name in names]
    while waiting:
        name, wanted = waiting.pop()
        if name in found:
            continue
        try:
            here = distribution(name)
        except PackageNotFoundError:
            continue
        found[name] = Installed(name, here.version, licence_of(here))
        for text in here.requires or []:
            requirement = Requirement(text)
            marker = requirement.marker
            if marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                waiting.append((canonicalize_name(requirement.name), tuple(requirement.extras)))
    return found


def requirements(file: Path = PROJECT) -> list[str]:
    """What pyproject.toml asks for, extras included, but for the package itself."""
    project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
    groups = (project["dependencies"], *project["optional-dependencies"].values())
    return [text for group in groups for text in group if not text.startswith(PACKAGE)]


def known_faults(installed: Mapping[str, Installed], known: Sequence[Advisory]) -> list[str]:
    """A sentence for each version that an advisory names."""
    return [
        f"{package.name} {package.version}: {advisory}"
        for package in installed.values()
        for advisory in known
        if advisory.package == package.name and advisory.hits(package.version)
    ]


def admitted_faults(requirements: Iterable[str], known: Sequence[Advisory]) -> list[str]:
    """A sentence for each requirement whose oldest version is affected."""
    found = []
    for requirement in map(Requirement, requirements):
        oldest = [spec.version for spec in requirement.specifier if spec.operator in (">=", "~=", "==")]
        for advisory in known:
            same = advisory.package == canonicalize_name(requirement.name)
            if same and oldest and advisory.hits(oldest[0]) and requirement.specifier.contains(oldest[0]):
                found.append(f"pyproject.toml admits {requirement.name} {oldest[0]}: {advisory}")
    return found


def odd_licences(installed: Mapping[str, Installed]) -> list[str]:
    """A sentence for each licence that is not known to go with MIT."""
    return [
        f"{package.name} {package.version}: its licence is {package.licence!r}"
        for package in installed.values()
        if REFUSED.search(package.licence) or not ALLOWED.search(package.licence)
    ]


def ask_pip_audit(installed: Mapping[str, Installed]) -> tuple[list[str], str]:
    """What pip-audit's database knows, and a sentence on what could not be asked."""
    lines = "".join(f"{package.name}=={package.version.partition('+')[0]}\n" for package in installed.values())
    command = [sys.executable, "-m", "pip_audit", "-r", "/dev/stdin", "--no-deps", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(command, input=lines, capture_output=True, text=True, timeout=PATIENCE, check=False)
        answer = json.loads(done.stdout)
    except subprocess.TimeoutExpired:
        return [], f"pip-audit's database did not answer within {PATIENCE} s"
    except ValueError:
        reason = (done.stderr.strip().splitlines() or ["no answer"])[-1]
        return [], f"pip-audit could not ask its database: {reason[:200]}"
    rows = answer["dependencies"]
    faults = [
        f"{row['name']} {row['version']}: {fault['id']} (fixed in {', '.join(fault['fix_versions']) or 'no version'})"
        for row in rows
        for fault in row.get("vulns", ())
    ]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    if not skipped:
        return faults, ""
    return faults, f"pip-audit's database knows nothing of {len(skipped)} of {len(rows)} packages: {', '.join(skipped)}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--extras", nargs="*", default=[], help="of the package, as test")
    arguments = parser.parse_args()
    day, known = advisories()
    installed = needed([PACKAGE], arguments.extras)
    for package in sorted(installed.values(), key=lambda each: each.name):
        print(f"{package.name:28} {package.version:18} {package.licence}")
    asked, not_asked = ask_pip_audit(installed)
    wrong = [*known_faults(installed, known), *admitted_faults(requirements(), known), *odd_licences(installed), *asked]
    print(f"{len(installed)} packages; {len(known)} advisories as of {day}; {len(wrong)} findings")
    if not_asked:
        print(f"not asked: {not_asked}")
    for line in wrong:
        print(f"finding: {line}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
