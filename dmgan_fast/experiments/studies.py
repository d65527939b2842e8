"""What the memory does (the paper's questions), measured on the runs of a finished ablation.

``recovery``       is a degraded first image repaired, with and without memory?
``writing-gate``   do word weights adapt to words and to images?
``memory``         metrics with and without memory
``gates``          metrics with each gate on and off

Each writes ``NAME.json``, ``NAME.md`` and ``NAME.png``. docs/studies.md says what was found on the embedded set.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn import functional as F

from dmgan_fast.data import Vocabulary, open_dataset
from dmgan_fast.errors import CheckpointError, InputError
from dmgan_fast.evaluation.extractors import DAMSMFeatures
from dmgan_fast.experiments.ablation import NAME, draw, interval, markdown, shown, write
from dmgan_fast.files import load_json
from dmgan_fast.images import to_bytes
from dmgan_fast.metrics.retrieval import r_precision
from dmgan_fast.modules import Generator
from dmgan_fast.sampling.gates import writing_gates
from dmgan_fast.sampling.sampler import POSITION_STRIDE, Sampler

MEMORY, ATTENTION = "dm-gan", "attention"
SUBSETS = {
    "memory": (MEMORY, ATTENTION),
    "gates": (MEMORY, "memory", "memory+writing-gate", "memory+response-gate"),
}
STUDIES = ("recovery", "writing-gate", *SUBSETS)
BATCH = 32
NOISES = 4  # images for each caption
FEWEST = 5  # captions a word must be in to be shown
SHOWN = 12  # words at each end


def study(name: str, runs: Path, out: Path) -> Path:
    """Carry out a study; the page it wrote.

    Args:
        name: one of ``STUDIES``.
        runs: what ``ablate`` wrote, with the variants that the study compares.
        out: folder.

    Raises:
        InputError: for an unknown study.
        CheckpointError: if the ablation is not there or lacks a variant.
    """
    if name not in STUDIES:
        raise InputError(f"study must be one of {', '.join(STUDIES)}, got {name!r}")
    ablation = _Ablation(runs)
    if name in SUBSETS:
        report, page, figure = _subset(ablation, SUBSETS[name])
    else:
        report, page, figure = (_recovery if name == "recovery" else _writing_gate)(ablation)
    return write(out / name, report, page, figure)


class _Ablation:
    """A finished ablation's report and runs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.report: dict[str, Any] = load_json(folder / f"{NAME}.json")
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{folder} holds no finished `dmgan-fast ablate`: {error}") from None

    def seeds(self, *variants: str) -> list[int]:
        """Seeds that all of them have."""
        by_variant = [{run["seed"] for run in self.report["runs"] if run["variant"] == name} for name in variants]
        missing = [name for name, seeds in zip(variants, by_variant, strict=True) if not seeds]
        if missing:
            raise CheckpointError(f"{self.folder} has no runs of {', '.join(missing)}: ablate with --variants")
        return sorted(set.intersection(*by_variant))

    def sampler(self, variant: str, seed: int) -> Sampler:
        return Sampler.from_pretrained(self.folder / "runs" / f"{variant}-seed{seed}", device="cpu")

    def judge(self) -> DAMSMFeatures:
        return DAMSMFeatures(Path(self.report["judge"]))

    def captions(self, vocabulary: Vocabulary) -> tuple[list[str], Tensor]:
        """The first caption with a known word of each test image, and the images' classes ``[N]``."""
        dataset = open_dataset(self.report["config"]["data"]["source"], "test", vocabulary=vocabulary)
        said = [next(c for c in record.captions if vocabulary.encode(c)[0]) for record in dataset.records]
        return said, torch.tensor([record.class_id for record in dataset.records])


# ----------------------------------------------------------------------------------------------------------- recovery


def noisy(h: Tensor, *, strength: float) -> Tensor:
    """Normal noise of ``strength`` times the deviation of each channel, of a fixed seed."""
    random = torch.Generator().manual_seed(0)
    noise = torch.randn(h.shape, generator=random, dtype=h.dtype).to(h.device)
    return h + strength * h.std((2, 3), keepdim=True) * noise


def blurred(h: Tensor, *, strength: float) -> Tensor:
    """Means over squares of ``strength`` pixels on each side."""
    return F.interpolate(F.avg_pool2d(h, int(strength)), size=h.shape[2:], mode="nearest")


def emptied(h: Tensor, *, strength: float) -> Tensor:
    """A share ``strength`` of the channels, the first ones, at their mean."""
    count = round(strength * h.shape[1])
    return torch.cat((h[:, :count].mean((2, 3), keepdim=True).expand_as(h[:, :count]), h[:, count:]), 1)


DEGRADATIONS: dict[str, tuple[Callable[..., Tensor], tuple[float, ...]]] = {
    "noise": (noisy, (0.5, 1.0, 2.0)),
    "blur": (blurred, (2, 4, 8)),
    "empty channels": (emptied, (0.25, 0.5, 0.75)),
}


@contextmanager
def degraded(generator: Generator, degrade: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Within, what the initial stage hands on is degraded, and its mean with it."""

    def change(_: Any, __: Any, result: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        h = degrade(result[0])
        return h, h.mean((2, 3))

    handle = generator.initial_stage.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()


def _recovery(ablation: _Ablation) -> tuple[dict[str, Any], str, Figure]:
    """R-precision of first and last images, and how far degraded ones are from those generated without degradation."""
    seeds, judge = ablation.seeds(MEMORY, ATTENTION), ablation.judge()
    rows: list[dict[str, Any]] = []
    for variant in (MEMORY, ATTENTION):
        for seed in seeds:
            sampler = ablation.sampler(variant, seed)
            captions, classes = ablation.captions(sampler.vocabulary)
            said = [sampler.vocabulary.encode(caption)[0] for caption in captions]
            texts = judge.sentences([judge.vocabulary.encode(caption)[0] for caption in captions])
            clean = codes_of(sampler, said, judge)
            rows.append(_row(variant, seed, "none", 0.0, clean, clean, texts, classes))
            for kind, (degrade, strengths) in DEGRADATIONS.items():
                for strength in strengths:
                    with degraded(sampler.generator, partial(degrade, strength=strength)):
                        codes = codes_of(sampler, said, judge)
                    rows.append(_row(variant, seed, kind, strength, codes, clean, texts, classes))
    return {"seeds": seeds, "rows": rows}, _recovery_page(rows, seeds), _recovery_figure(rows)


def codes_of(sampler: Sampler, said: Sequence[Sequence[int]], judge: DAMSMFeatures) -> tuple[Tensor, Tensor]:
    """Codes ``[N, D]`` of first and of last images, generated from captions with noise of fixed seeds."""
    codes = []
    for start in range(0, len(said), BATCH):
        part = said[start : start + BATCH]
        images = sampler.generate(part, [POSITION_STRIDE + start + k for k in range(len(part))]).images
        codes.append([judge(to_bytes(x))["features"] for x in (images[0], images[-1])])
    first, last = (torch.cat(side) for side in zip(*codes, strict=True))
    return first, last


def _row(
    variant: str,
    seed: int,
    kind: str,
    strength: float,
    codes: tuple[Tensor, Tensor],
    clean: tuple[Tensor, Tensor],
    texts: Tensor,
    classes: Tensor,
) -> dict[str, Any]:
    candidates = min(100, len(texts))
    precision = [r_precision(each, texts, candidates=candidates, folds=1, class_ids=classes)[0] for each in codes]
    far = [float((1 - F.cosine_similarity(a, b)).mean()) for a, b in zip(codes, clean, strict=True)]
    row = {"variant": variant, "seed": seed, "kind": kind, "strength": strength}
    return row | {"r_precision": precision, "distance": far}


def _over_seeds(
    rows: list[dict[str, Any]], variant: str, kind: str, strength: float, key: str, side: int
) -> list[float]:
    wanted = (variant, kind, strength)
    return [row[key][side] for row in rows if (row["variant"], row["kind"], row["strength"]) == wanted]


def _recovery_page(rows: list[dict[str, Any]], seeds: list[int]) -> str:
    lines = [
        "# Recovery",
        "",
        f"Features of the first stage degraded, images generated from test captions, {len(seeds)} seeds; ± half of the "
        "95 % confidence interval. Distance: 1 - cosine to the code of the image generated without degradation.",
        "",
        "| degradation | model | R-precision %, first image | last image | distance, first | last | last / first |",
        "|---|---|---|---|---|---|---|",
    ]
    conditions = list(dict.fromkeys((row["kind"], row["strength"]) for row in rows))
    for kind, strength in conditions:
        for variant in (MEMORY, ATTENTION):
            cells = [
                _shown(_over_seeds(rows, variant, kind, strength, key, side))
                for key in ("r_precision", "distance")
                for side in (0, 1)
            ]
            first, last = (_over_seeds(rows, variant, kind, strength, "distance", side) for side in (0, 1))
            ratio = (
                _shown([b / a if a else float("nan") for a, b in zip(first, last, strict=True)])
                if kind != "none"
                else ""
            )
            name = "none" if kind == "none" else f"{kind} {strength:g}"
            lines.append(f"| {name} | {variant} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)


def _recovery_figure(rows: list[dict[str, Any]]) -> Figure:
    figure = Figure(figsize=(11, 6), layout="constrained")
    for column, (kind, (_, strengths)) in enumerate(DEGRADATIONS.items()):
        upper, lower = figure.add_subplot(2, 3, column + 1), figure.add_subplot(2, 3, column + 4)
        for variant, colour in ((MEMORY, "tab:blue"), (ATTENTION, "tab:orange")):
            for side, style in ((0, ":"), (1, "-")):
                label = f"{variant}, {'last' if side else 'first'} image"
                points = [_over_seeds(rows, variant, "none", 0.0, "r_precision", side)]
                points += [_over_seeds(rows, variant, kind, s, "r_precision", side) for s in strengths]
                _line(upper, (0, *strengths), points, colour, style, label)
                far = [_over_seeds(rows, variant, kind, s, "distance", side) for s in strengths]
                _line(lower, strengths, far, colour, style, label)
        upper.set_title(kind)
        lower.set_xlabel("strength")
        if column == 0:
            upper.set_ylabel("R-precision %")
            lower.set_ylabel("distance from the image\nwithout degradation")
            upper.legend(fontsize=7)
    return figure


def _line(axes: Any, x: Sequence[float], points: list[list[float]], colour: str, style: str, label: str) -> None:
    means, halves = zip(*(interval(values) for values in points), strict=True)
    errors = halves if all(half == half for half in halves) else None
    axes.errorbar(
        x, means, yerr=errors, color=colour, linestyle=style, marker="o", markersize=3, capsize=2, label=label
    )
    axes.grid(alpha=0.25)


# ------------------------------------------------------------------------------------------------------- writing gate


def gates_of(sampler: Sampler, said: Sequence[Sequence[int]]) -> list[Tensor]:
    """Writing gates ``[captions, NOISES, T]`` of each refinement, NaN at padding: every caption with several noises."""
    found: list[list[Tensor]] = [[] for _ in sampler.generator.stages]
    for start in range(0, len(said), BATCH // NOISES):
        part = [caption for caption in said[start : start + BATCH // NOISES] for _ in range(NOISES)]
        with writing_gates(sampler.generator) as gates:
            sampler.generate(part, [POSITION_STRIDE + start * NOISES + k for k in range(len(part))])
        if len(gates) != len(found):
            raise InputError("this generator has no writing gates")
        for of_stage, gate in zip(found, gates, strict=True):
            of_stage.append(gate.cpu())
    longest = max(len(caption) for caption in said)
    return [
        torch.cat([F.pad(g, (0, longest - g.shape[1]), value=torch.nan) for g in gates]).unflatten(0, (-1, NOISES))
        for gates in found
    ]


def variance_shares(gates: Tensor, said: Sequence[Sequence[int]]) -> tuple[dict[str, float], dict[int, list[float]]]:
    """Where the variance of ``gates [captions, noises, T]`` comes from, as shares of 1; and word → means by caption.

    ``word``: from one word to another; ``caption``: one word in different captions; ``image``: the images of one
    caption with different noise.
    """
    by_word: dict[int, list[Tensor]] = defaultdict(list)
    for caption, values in zip(said, gates.double(), strict=True):
        for position, word in enumerate(caption):
            by_word[word].append(values[:, position])
    everything = torch.cat([torch.stack(values).flatten() for values in by_word.values()])
    total = float((everything - everything.mean()).square().sum())
    parts = {"word": 0.0, "caption": 0.0, "image": 0.0}
    for occurrences in by_word.values():
        values = torch.stack(occurrences)  # [occurrences, noises]
        within, mean = values.mean(1, keepdim=True), values.mean()
        parts["word"] += values.numel() * float((mean - everything.mean()).square())
        parts["caption"] += values.shape[1] * float((within - mean).square().sum())
        parts["image"] += float((values - within).square().sum())
    shares = {name: part / total if total else 0.0 for name, part in parts.items()}
    return shares, {word: [float(v.mean()) for v in values] for word, values in by_word.items()}


def _writing_gate(ablation: _Ablation) -> tuple[dict[str, Any], str, Figure]:
    rows: list[dict[str, Any]] = []
    for seed in ablation.seeds(MEMORY):
        sampler = ablation.sampler(MEMORY, seed)
        said = [sampler.vocabulary.encode(caption)[0] for caption in ablation.captions(sampler.vocabulary)[0]]
        for number, gates in enumerate(gates_of(sampler, said), start=1):
            shares, by_word = variance_shares(gates, said)
            known = gates[~gates.isnan()]
            words = {
                sampler.vocabulary.words[word]: [sum(means) / len(means), torch.tensor(means).std(correction=0).item()]
                for word, means in by_word.items()
                if len(means) >= FEWEST
            }
            row = {"seed": seed, "refinement": number, "mean": float(known.mean()), "deviation": float(known.std())}
            rows.append(row | {"shares": shares, "words": dict(sorted(words.items(), key=lambda item: item[1][0]))})
    return {"noises": NOISES, "rows": rows}, _gate_page(rows), _gate_figure(rows)


def _gate_page(rows: list[dict[str, Any]]) -> str:
    lines = [
        "# Writing gate",
        "",
        f"g_w of every word of the test captions, each generated with {NOISES} noises: 1 writes the word, 0 the image. "
        "Variance: between words, between captions with one word, between images of one caption.",
        "",
        "| seed | refinement | mean | deviation | word % | caption % | image % | lowest words | highest words |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        shares = " | ".join(f"{100 * row['shares'][name]:.1f}" for name in ("word", "caption", "image"))
        words = list(row["words"])
        lines.append(
            f"| {row['seed']} | {row['refinement']} | {row['mean']:.3f} | {row['deviation']:.3f} | {shares} | "
            f"{', '.join(words[:5])} | {', '.join(words[-5:])} |"
        )
    return "\n".join(lines)


def _gate_figure(rows: list[dict[str, Any]]) -> Figure:
    """Words of the first seed's last refinement, and variance shares of all."""
    last = max((row for row in rows if row["seed"] == rows[0]["seed"]), key=lambda row: row["refinement"])
    words = list(last["words"].items())
    if len(words) > 2 * SHOWN:
        words = [*words[:SHOWN], *words[-SHOWN:]]
    figure = Figure(figsize=(10, 0.2 * len(words) + 1.6), layout="constrained")
    left, right = figure.subplots(1, 2)
    means, deviations = ([values[k] for _, values in words] for k in (0, 1))
    left.errorbar(means, range(len(words)), xerr=deviations, fmt="o", markersize=3)
    left.set_yticks(range(len(words)), [word for word, _ in words], fontsize=7)
    left.set(title=f"seed {last['seed']}, refinement {last['refinement']}", xlabel="writing gate, ± over captions")
    bottom = [0.0] * len(rows)
    for name, between in (("word", "words"), ("caption", "captions"), ("image", "images")):
        heights = [row["shares"][name] for row in rows]
        right.bar(range(len(rows)), heights, bottom=bottom, label=f"between {between}")
        bottom = [a + b for a, b in zip(bottom, heights, strict=True)]
    right.set_xticks(
        range(len(rows)), [f"seed {row['seed']}\nrefinement {row['refinement']}" for row in rows], fontsize=7
    )
    right.set(title="where the gate's variance comes from", ylabel="share of the variance")
    right.legend(fontsize=8, loc="lower center", framealpha=1)
    return figure


# ----------------------------------------------------------------------------------------------------- metrics of runs


def _subset(ablation: _Ablation, variants: Sequence[str]) -> tuple[dict[str, Any], str, Figure]:
    """Tables and figure of some of the ablation's variants."""
    ablation.seeds(*variants)
    report = ablation.report | {
        "variants": {name: ablation.report["variants"][name] for name in variants},
        "runs": [run for run in ablation.report["runs"] if run["variant"] in variants],
    }
    return report, markdown(report), draw(report)


def _shown(values: Sequence[float]) -> str:
    return shown(interval(values))
