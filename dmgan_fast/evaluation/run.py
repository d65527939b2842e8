"""A whole evaluation: generate images or take a folder of them, compare with real ones, write a report.

Features are kept in chunk files, so an evaluation that was stopped continues where it was. Under ``torchrun`` each
process takes its share of the chunks.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from torch import Tensor

from dmgan_fast._version import __version__
from dmgan_fast.config import to_dict
from dmgan_fast.data import open_dataset, open_readable
from dmgan_fast.devices import pick_device
from dmgan_fast.errors import CheckpointError, DataError, InputError, Interrupted
from dmgan_fast.evaluation.catalogue import CANDIDATES, FOLDS, SPLITS, SUBSET_SIZE, SUBSETS, Metric, Weights, named
from dmgan_fast.evaluation.config import (
    USUAL_COUNT,
    EvaluationConfig,
    data_of,
    encoders_of,
    run_config,
    statistics_of,
)
from dmgan_fast.evaluation.extractors import DAMSMFeatures, Extractor
from dmgan_fast.evaluation.processes import Processes
from dmgan_fast.evaluation.sources import (
    FolderImages,
    Gallery,
    GeneratedImages,
    ImageSet,
    RealImages,
    Tick,
    chosen_words,
)
from dmgan_fast.evaluation.store import FeatureStore, cache_folder, chunks_of
from dmgan_fast.evaluation.summary import by_reason, read_report, write_report
from dmgan_fast.evaluation.weights import MissingWeights, digest_of
from dmgan_fast.metrics._checks import EvaluationWarning, warn
from dmgan_fast.metrics.frechet import frechet_of_moments, frechet_to_given
from dmgan_fast.metrics.inception_score import inception_score
from dmgan_fast.metrics.kernel_distance import kernel_distance
from dmgan_fast.metrics.retrieval import r_precision
from dmgan_fast.out_of_memory import told_of_batches
from dmgan_fast.progress import Progress, in_steps
from dmgan_fast.sampling.bundle import VOCABULARY_NAME, Bundle, open_bundle
from dmgan_fast.sampling.sampler import Sampler

PARTS = ("generator", "text_encoder")
PACKAGES = ("torch", "torchvision", "torch-fidelity", "numpy", "pillow")


class TooFew(InputError):
    """A metric needs more images or captions than there are."""


def evaluate(config: EvaluationConfig, out: Path, *, console: Console | None = None) -> dict[str, Any]:
    """Evaluate; ``out`` gets ``evaluation.json`` and ``evaluation.md``.

    Called again after a stop, it continues where it was, with the same result; called again when finished, it returns
    the report. Under ``torchrun`` the work is shared, and every process returns the report.

    Returns:
        the report, as ``evaluation.json`` holds it.

    Raises:
        InputError, CheckpointError, DataError: before any image is generated, for a metric that was asked for by name
            and cannot be had, for settings that do not fit, or if ``out`` holds another evaluation.
        Interrupted: after Ctrl-C; what was computed is kept.
    """
    with Processes.joined() as processes:
        console = console or Console(stderr=True)
        with Progress(*in_steps(), console=console, disable=processes.rank > 0) as progress:
            try:
                return _Evaluation(config, out, processes, progress).run()
            except KeyboardInterrupt:
                raise Interrupted("stopped; what was computed is kept, the same command continues from there") from None


class _Evaluation:
    """Settles everything before the first image is generated, then works."""

    def __init__(self, config: EvaluationConfig, out: Path, processes: Processes, progress: Progress) -> None:
        self.config, self.out, self.processes, self.progress = config, out, processes, progress
        if config.weights is not None and config.images is not None:
            raise InputError("give weights to generate with, or images to evaluate, not both")
        if config.step is not None and config.weights is None:
            raise InputError("--step is of a run; give it with --weights")
        self.bundle = open_bundle(config.weights, *PARTS, step=config.step) if config.images is None else None
        wanted = named(config.metrics)
        self.given = statistics_of(config.statistics, wanted)
        self.device = pick_device(config.device)
        run = run_config(config.weights)
        self.data = data_of(config, run)
        self.weights = Weights(
            inception=Path(config.inception) if config.inception else None,
            classifier=Path(config.classifier) if config.classifier else None,
            damsm=encoders_of(config.damsm, run.get("encoders")),
        )
        self.generator: dict[str, Any] = {}  # configuration and hashes of what generates
        self.generated = self._generated(self.bundle) if self.bundle is not None else self._folder(str(config.images))
        self.extractors: dict[str, Extractor] = {}
        self.left_out: dict[str, str] = {}
        self.metrics = [metric for metric in wanted if self._usable(metric)]
        if not self.metrics:
            reasons = "; ".join(f"{names}: {why}" for why, names in by_reason(self.left_out).items())
            raise CheckpointError(f"no metric can be computed here: {reasons}")
        against = {m.extractor for m in self.metrics if m.kind in ("frechet", "kernel") and m.name not in self.given}
        self.real = self._real() if against else None
        self.fingerprint = self._fingerprint()
        cache = Path(config.cache) if config.cache else cache_folder()
        self.generated_stores = self._stores(out / "features", self.generated, self.extractors)
        self.real_stores = self._stores(cache, self.real, against) if self.real else {}

    def run(self) -> dict[str, Any]:
        """The report: read if it is there, else computed."""
        finished = read_report(self.out)
        if finished is not None:
            if finished["fingerprint"] != self.fingerprint:
                raise InputError(f"{self.out} holds an evaluation of other images or settings; give another --out")
            return finished
        if self.real is not None:
            self._extract("real images", self.real, self.real_stores)
        self._extract("generated images", self.generated, self.generated_stores, gallery=self._gallery())
        report = self._report([self._measure(metric) for metric in self.metrics])
        if self.processes.rank == 0:
            write_report(self.out, report)
            if not self.config.keep_features:
                shutil.rmtree(self.out / "features", ignore_errors=True)
        return self.processes.from_first(report)

    # What is compared

    def _folder(self, path: str) -> FolderImages:
        with self._bar("reading images") as tick:
            return FolderImages(Path(path), self.config.count, tick)

    def _generated(self, bundle: Bundle) -> GeneratedImages:
        place = str(self.device)
        sampler = Sampler(bundle.generator(place), bundle.text_encoder(place), bundle.vocabulary)
        vocabulary = bundle.folder / VOCABULARY_NAME
        generator, texts = ([file for file in bundle.files(part) if file != vocabulary] for part in PARTS)
        config = sampler.generator.config
        self.generator = {"sha256": digest_of(*generator), "text_encoder_sha256": digest_of(*texts)} | to_dict(config)
        dataset = open_dataset(
            self.data,
            "test",
            image_sizes=config.image_sizes[-1:],
            vocabulary=sampler.vocabulary,
            skip_bad=self.config.skip_bad,
        )
        return GeneratedImages(
            sampler,
            dataset,
            weights=digest_of(*generator, *texts, vocabulary),
            count=self.config.count or USUAL_COUNT,
            seed=self.config.seed,
            max_words=self.config.max_words,
            batch_size=self.config.batch_size,
        )

    def _real(self) -> RealImages:
        dataset = open_readable(
            self.data,
            "test",
            image_sizes=(self.generated.resolution,),
            max_words=self.config.max_words,
            augment=False,
            skip_bad=self.config.skip_bad,
        )
        if len(dataset) < 2:
            raise DataError(f"{self.data!r} has only {len(dataset)} test image; a distribution needs 2 or more")
        with self._bar("reading real images", len(dataset)) as tick:
            return RealImages(dataset, tick)

    def _stores(self, folder: Path, images: ImageSet, extractors: Iterable[str]) -> dict[str, FeatureStore]:
        return {name: FeatureStore(folder, f"{images.key} {self.extractors[name].key}") for name in extractors}

    # What can be measured

    def _usable(self, metric: Metric) -> bool:
        """Whether a metric can be computed; if not, notes why, or raises if it was asked for by name."""
        try:
            self._require_enough(metric)
            if metric.extractor not in self.extractors:
                self.extractors[metric.extractor] = self.weights.load(metric.extractor, self.device)
        except (MissingWeights, TooFew) as reason:
            if self.config.metrics:
                raise type(reason)(f"{metric.name}: {reason}") from None
            self.left_out[metric.name] = str(reason)
            return False
        if metric.kind == "retrieval":
            self._words()
        width = self.extractors[metric.extractor].width
        if (given := self.given.get(metric.name)) and len(given.mean) != width:
            raise InputError(f"{given.file}: mu must be [{width}] for {metric.name}, got [{len(given.mean)}]")
        return True

    def _require_enough(self, metric: Metric) -> None:
        count, class_ids = len(self.generated), self.generated.class_ids
        if metric.kind == "inception" and count < SPLITS:
            raise TooFew(f"{SPLITS} splits need as many images, got {count}")
        if metric.kind == "retrieval":
            if class_ids is None:
                raise TooFew(f"not every image in {self.config.images} has a line in a captions.jsonl or captions.csv")
            others = count - max(Counter(class_ids).values())
            if others < CANDIDATES - 1:
                raise TooFew(
                    f"each image needs {CANDIDATES - 1} captions of other classes beside its own, one has {others}"
                )

    # The work

    def _extract(
        self, what: str, images: ImageSet, stores: dict[str, FeatureStore], gallery: Gallery | None = None
    ) -> None:
        """Compute the chunks of this process that are not there."""
        chunks = self.processes.own(chunks_of(len(images)))
        with self._bar(what, sum(map(len, chunks))) as tick:
            for rows in chunks:
                missing = [name for name, store in stores.items() if not store.has(rows)]
                unsaved = gallery is not None and not gallery.has(rows)
                if missing or unsaved:
                    with told_of_batches("measuring images", self.config.batch_size, self.device):
                        chunk = images.images(rows)
                        for name in missing:
                            stores[name].write(rows, self._outputs(name, chunk, rows))
                    if gallery is not None:
                        gallery.write(chunk, rows)
                tick(len(rows))
        self.processes.wait()

    def _outputs(self, name: str, images: Tensor, rows: range) -> dict[str, Tensor]:
        parts = [self.extractors[name](batch) for batch in images.split(self.config.batch_size)]
        outputs = {output: torch.cat([part[output] for part in parts]).float() for output in parts[0]}
        for output, values in outputs.items():
            bad = (~values.isfinite()).any(1).nonzero().flatten().tolist()
            if bad:
                raise InputError(f"{output} of image {rows[bad[0]]} by {name} are not finite")
        return outputs

    def _measure(self, metric: Metric) -> dict[str, Any]:
        """One line of the report; the value is known to process 0 only."""
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", EvaluationWarning)
            value, spread = self._value(metric)
        notes = [str(warning.message) for warning in caught if issubclass(warning.category, EvaluationWarning)]
        for other in (warning for warning in caught if not issubclass(warning.category, EvaluationWarning)):
            warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
        return {
            "name": metric.name,
            "title": metric.title,
            "value": value,
            "std": spread,
            "better": metric.better,
            "extractor": metric.extractor,
            "warnings": notes,
        }

    def _value(self, metric: Metric) -> tuple[float | None, float | None]:
        generated, generated_chunks = self._reader(self.generated_stores, metric), chunks_of(len(self.generated))
        real_chunks = chunks_of(len(self.real)) if self.real else []
        first = self.processes.rank == 0
        if metric.kind == "frechet":
            width, given = self.extractors[metric.extractor].width, self.given.get(metric.name)
            moments = self.processes.moments(generated_chunks, generated, width)
            if given is None:
                against = self.processes.moments(real_chunks, self._reader(self.real_stores, metric), width)
                return (frechet_of_moments(moments, against), None) if first else (None, None)
            return (frechet_to_given(moments, given.mean, given.covariance), None) if first else (None, None)
        rows = self.processes.all_rows(generated_chunks, generated)
        if metric.kind == "kernel":
            others = self.processes.all_rows(real_chunks, self._reader(self.real_stores, metric))
            if rows is None or others is None:
                return None, None
            size = min(SUBSET_SIZE, len(rows), len(others))
            if size < SUBSET_SIZE:
                warn(f"subsets of {size} images, where the standard is {SUBSET_SIZE}: one of the sets has no more")
            return kernel_distance(rows, others, subsets=SUBSETS, subset_size=size, seed=self.config.seed)
        if rows is None:
            return None, None
        if metric.kind == "inception":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(self.config.seed))
            return inception_score(rows[order].double().softmax(1), SPLITS)
        return r_precision(
            rows,
            self._sentences(),
            candidates=CANDIDATES,
            folds=FOLDS,
            seed=self.config.seed,
            class_ids=torch.tensor(self.generated.class_ids),
            slicing="official" if metric.name == "r-precision-official" else "exact",
        )

    def _reader(self, stores: dict[str, FeatureStore], metric: Metric) -> Callable[[range], Tensor]:
        return partial(stores[metric.extractor].read, name=metric.output)

    def _damsm(self) -> DAMSMFeatures:
        damsm = self.extractors["damsm"]
        assert isinstance(damsm, DAMSMFeatures)
        return damsm

    def _words(self) -> list[list[int]]:
        """Each image's caption in the vocabulary of the DAMSM encoders."""
        captions, vocabulary = self.generated.captions or [], self._damsm().vocabulary
        words = [chosen_words(vocabulary.encode(said)[0], self.config.max_words, n) for n, said in enumerate(captions)]
        if not all(words):
            raise DataError(f"the DAMSM encoders know no word of {captions[words.index([])]!r}")
        return words

    def _sentences(self) -> Tensor:
        """Each image's caption as the DAMSM text encoder reads it: ``[N, D]``."""
        words = self._words()
        chunks = chunks_of(len(words))
        return torch.cat([self._damsm().sentences(words[rows.start : rows.stop]) for rows in chunks])

    def _gallery(self) -> Gallery | None:
        if not self.config.save_images:
            return None
        gallery = Gallery(self.out / "images")
        if self.processes.rank == 0 and self.generated.captions is not None and self.generated.class_ids is not None:
            gallery.write_captions(self.generated.captions, self.generated.class_ids)
        return gallery

    # The report

    def _fingerprint(self) -> str:
        """Of everything that the result depends on."""
        parts = {
            "metrics": [metric.name for metric in self.metrics],
            "left_out": sorted(self.left_out),
            "drawn": self.generated.key,  # its first name: the fingerprints of finished evaluations stay
            "captions": self.generated.captions,
            "class_ids": self.generated.class_ids,
            "real": self.real.key if self.real else None,
            "extractors": {name: extractor.key for name, extractor in self.extractors.items()},
            "statistics": {name: given.sha256 for name, given in self.given.items()},
            "seed": self.config.seed,
            "max_words": self.config.max_words,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _report(self, results: list[dict[str, Any]]) -> dict[str, Any]:
        config, real = self.config, self.real
        weights = str(self.bundle) if config.step is not None else config.weights or "the shipped weights"
        origin = f"generated by {weights} from test captions of {self.data!r}"
        left = [item.why for item in real.dataset.left_out] if real else []
        what = origin if config.images is None else f"found in {config.images}"
        return {
            "fingerprint": self.fingerprint,
            "metrics": results,
            "left_out": self.left_out,
            "generated": {
                "what": what,
                "count": len(self.generated),
                "resolution": self.generated.resolution,
                "key": self.generated.key,
            },
            "real": {"what": f"the test split of {self.data!r}", "count": len(real), "key": real.key, "left_out": left}
            if real
            else None,
            "statistics": {name: {"file": str(s.file), "sha256": s.sha256} for name, s in self.given.items()},
            "extractors": {name: extractor.key for name, extractor in self.extractors.items()},
            "generator": self.generator,
            "settings": to_dict(config),
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "cpu",
            "versions": {"dmgan_fast": __version__} | {name: version(name) for name in PACKAGES},
        }

    @contextmanager
    def _bar(self, what: str, total: int | None = None) -> Iterator[Tick]:
        task = self.progress.add_task(what, total=total)
        yield lambda steps=1: self.progress.advance(task, steps)
