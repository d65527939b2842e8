"""Sampling as people sample: captions from files, several pictures each, ways between two, little memory."""

import io
import json
import re
import sys
from itertools import pairwise

import pytest
import torch
from PIL import Image
from torch._subclasses.fake_tensor import FakeTensor

from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import InputError, OutOfMemory
from dmgan_fast.modules import Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.training import memory
from dmgan_fast.training.sampling import Sampler, truncate
from dmgan_fast.training.weights import save_bundle
from tests.cli.calls import call

SIDE = 128


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("weights")
    vocabulary = Vocabulary(["<end>", "a", "red", "blue", "apple", "car", "тигр", "x" * 100])
    widths = {"base_channels": 2, "word_channels": 8, "condition_channels": 4, "noise_channels": 4}
    generator = Generator(GeneratorConfig(image_sizes=(64, SIDE), **widths))
    with torch.no_grad():
        for head in generator.image_heads:  # contrast that an untrained generator has not
            head.conv.weight *= 1000
    text_encoder = TextEncoder(TextEncoderConfig(vocabulary_size=8, word_channels=8, embedding_channels=4))
    with torch.no_grad():
        text_encoder.embedding.weight *= 30
    save_bundle(folder, vocabulary=vocabulary, card="", generator=generator, text_encoder=text_encoder)
    return folder


@pytest.fixture
def sampler(weights):
    return Sampler.from_pretrained(weights)


@pytest.fixture
def sample(weights, monkeypatch, capsys, tmp_path):
    """Draw into ``out``: status, file names in the order written, errors."""

    def run(*arguments):
        given = ("sample", *arguments, "--weights", weights, "--out", tmp_path / "out")
        status, out, errors = call(monkeypatch, capsys, *given)
        return status, [line.rsplit("/")[-1] for line in out.splitlines()], errors

    return run


FIRST, SECOND = "001-a-red-apple-128.png", "002-a-blue-car-128.png"
FILES = {
    "lines.txt": b"a red apple\na blue car\n",
    "windows.txt": b"\xef\xbb\xbfa red apple\r\n\r\n  a blue car",
    "old_mac.txt": b"a red apple\ra blue car\r",
    "rows.jsonl": b'{"caption": "a red apple", "id": 3}\n\n{"captions": ["a blue car"]}\n',
    "strings.jsonl": b'"a red apple"\n"a blue car"\n',
    "rows_by_content.txt": b'{"text": "a red apple"}\n{"text": "a blue car"}\n',
    "list.json": json.dumps(["a red apple", {"caption": "a blue car"}], indent=1).encode(),
}


@pytest.mark.parametrize("name", FILES)
def test_captions_come_from_files_of_lines_and_of_json(sample, tmp_path, name):
    (tmp_path / name).write_bytes(FILES[name])
    status, written, errors = sample("--captions", tmp_path / name)
    assert status == 0, errors
    assert [each for each in written if each.endswith("-128.png")] == [FIRST, SECOND]


@pytest.mark.parametrize("arguments", [("-",), ("--captions", "-")])
def test_captions_come_from_standard_input(sample, monkeypatch, arguments):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(FILES["lines.txt"])))
    _, written, _ = sample(*arguments)
    assert [each for each in written if each.endswith("-128.png")] == [FIRST, SECOND]


def test_a_file_draws_what_the_same_captions_draw_as_arguments(sample, tmp_path):
    (tmp_path / "c.txt").write_bytes(FILES["lines.txt"])
    sample("--captions", tmp_path / "c.txt")
    before = (tmp_path / "out" / SECOND).read_bytes()
    sample("a red apple", "a blue car")
    assert (tmp_path / "out" / SECOND).read_bytes() == before


BAD = {
    "unknown.txt": (b"a red apple\n\nzzz\n", r"unknown\.txt:3: 'zzz' has no word that the model knows"),
    "empty.txt": (b"\n \n", r"no captions in .*empty\.txt; give them, --captions FILE"),
    "latin.txt": ("a café".encode("latin1"), r"latin\.txt is not UTF-8 text \(byte 5\)"),
    "bytes.txt": (b"a\0b", r"bytes\.txt is not text"),
    "broken.jsonl": (b'{"caption": "a car"}\n{"caption": \n', r"broken\.jsonl:2 is not JSON"),
    "keys.jsonl": (b'{"caption": "a car"}\n{"title": "a car"}\n', r"keys\.jsonl:2 must be a caption.*'title'"),
    "blank.jsonl": (b'{"captions": ["a car", " "]}\n', r"blank\.jsonl:1 must be a caption"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_caption_files_are_named_with_their_line_and_nothing_is_drawn(sample, tmp_path, name):
    content, message = BAD[name]
    (tmp_path / name).write_bytes(content)
    status, written, errors = sample("--captions", tmp_path / name)
    assert (status, written) == (2, [])
    assert re.search(message, errors), errors
    assert errors.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_caption_file_that_is_not_there_is_named(sample, tmp_path):
    status, _, errors = sample("--captions", tmp_path / "none.txt")
    assert status == 2
    assert "none.txt can't be read: No such file" in errors


def test_several_pictures_of_a_caption_differ_and_their_names_sort(sample, tmp_path):
    status, written, _ = sample("a red apple", "a blue car", "--count", 3)
    assert status == 0
    largest = [name for name in written if name.endswith("-128.png")]
    assert largest == sorted(largest)
    assert largest == [
        f"00{n}-0{k}-{said}-128.png" for n, said in ((1, "a-red-apple"), (2, "a-blue-car")) for k in (1, 2, 3)
    ]
    contents = {(tmp_path / "out" / name).read_bytes() for name in largest}
    assert len(contents) == 6
    assert Image.open(tmp_path / "out" / "grid.png").width > 3 * SIDE


def test_names_of_many_captions_sort_as_the_captions_do(sample, tmp_path):
    (tmp_path / "c.txt").write_text("a red\n" * 1001)
    _, written, errors = sample("--captions", tmp_path / "c.txt", "--batch", 64)
    largest = [name for name in written if name.endswith("-128.png")]
    assert largest == sorted(largest)
    assert (largest[0], largest[-1]) == ("0001-a-red-128.png", "1001-a-red-128.png")
    assert "show the first 100 of 1001 pictures" in errors


def test_the_first_picture_of_a_caption_is_the_one_drawn_alone_whatever_the_batch(sampler):
    captions = ["a red apple", "blue"]
    alone = sampler.draw(captions, seed=3)
    several = sampler.draw(captions, seed=3, count=3, batch_size=2)
    assert [(d.number, d.copy) for d in several] == [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (2, 3)]
    for one, other in ((several[0], alone[0]), (several[3], alone[1])):
        assert (one.images[-1] - other.images[-1]).abs().max() < 1e-4
    again = sampler.draw(["a car", "blue"], seed=3, count=3)
    assert (again[5].images[-1] - several[5].images[-1]).abs().max() < 1e-4  # of its own place and number only
    sampler.draw(["blue"], seed=2**70)  # any seed is one


def test_pictures_come_as_they_are_ready_and_all_captions_are_checked_first(sampler, monkeypatch):
    drawn = []
    generate = sampler.generate
    monkeypatch.setattr(sampler, "generate", lambda *a, **k: drawn.append(len(a[0])) or generate(*a, **k))
    pictures = sampler.stream(["a red"] * 5, batch_size=2)
    assert drawn == []
    next(pictures)
    assert drawn == [2]
    assert len(list(pictures)) == 4
    with pytest.raises(InputError, match="caption 3, 'zz', has no word"):
        sampler.stream(["a", "red", "zz"])
    assert drawn == [2, 2, 1]


# ------------------------------------------------------------------------------------------------------------- between


def test_the_way_between_two_captions_begins_and_ends_at_them(sampler):
    way = sampler.between("a red apple", "blue", steps=5, seed=4)
    ends = [sampler.draw([caption], seed=4)[0] for caption in ("a red apple", "blue")]
    assert len(way) == 5
    for drawing, end in ((way[0], ends[0]), (way[-1], ends[1])):
        assert (drawing.images[-1] - end.images[-1]).abs().max() < 1e-4
    moved = [(one.images[0] - other.images[0]).abs().mean() for one, other in pairwise(way)]
    assert min(moved) > 0
    single = sampler.between("a red apple", "blue", steps=5, seed=4, batch_size=1)
    tiled = sampler.between("a red apple", "blue", steps=5, seed=4, tile=64)
    for drawing, other, third in zip(way, single, tiled, strict=True):
        assert (drawing.images[-1] - other.images[-1]).abs().max() < 1e-4
        assert (drawing.images[-1] - third.images[-1]).abs().max() < 1e-4
    with pytest.raises(InputError, match="steps must be at least 2, both captions included, got 1"):
        sampler.between("a", "red", steps=1)


def test_between_on_the_command_line(sample, tmp_path):
    status, written, errors = sample("--between", "a red apple", "a blue car", "--steps", 4)
    assert status == 0, errors
    assert len([name for name in written if name.endswith("-128.png")]) == 4
    assert (tmp_path / "out" / "grid.png").is_file()
    status, _, errors = sample("a car", "--between", "a red apple", "a blue car")
    assert status == 2
    assert "--between draws two captions only" in errors


# ---------------------------------------------------------------------------------------------- truncation and the rest


def test_truncated_noise_is_normal_noise_within_bounds_in_the_same_order():
    noise = torch.randn(10_000, generator=torch.Generator().manual_seed(0))
    for within in (0.3, 1.0, 2.0):
        cut = truncate(noise, within)
        assert cut.abs().max() <= within
        assert torch.equal(cut.argsort(stable=True)[::100], noise.argsort(stable=True)[::100])
        normal = torch.randn(400_000, generator=torch.Generator().manual_seed(1))
        expected = normal[normal.abs() <= within].std()
        assert cut.std() == pytest.approx(float(expected), rel=0.03)
    assert torch.equal(truncate(noise, None), noise)
    torch.testing.assert_close(truncate(noise, 8.0), noise, rtol=1e-4, atol=1e-4)


def test_truncation_makes_pictures_of_a_caption_more_alike(sampler):
    def spread(**options):
        images = torch.stack([d.images[0] for d in sampler.draw(["a red apple"], count=6, **options)])
        return float(images.std(0).mean())

    assert spread(truncation=0.1) < 0.7 * spread()
    with pytest.raises(InputError, match=r"truncation must be above 0, as 0\.7, got 0"):
        sampler.draw(["a"], truncation=0)


def test_a_contact_sheet_shows_every_picture_with_its_caption(sample, tmp_path):
    _, written, _ = sample("a red apple", "a blue car", "--count", 3, "--sheet")
    assert written[-2:] == ["grid.png", "sheet.png"]
    with Image.open(tmp_path / "out" / "sheet.png") as sheet:
        assert sheet.width > 4 * SIDE  # four in a row
        assert sheet.height > 2 * SIDE
        below = sheet.crop((0, SIDE + 12, SIDE, SIDE + 28))
        assert below.convert("L").getextrema()[0] < 128  # the caption's letters


def test_names_of_long_words_fit_into_file_systems(sample, tmp_path):
    status, written, errors = sample(f"{'тигр ' * 40} {'x' * 100}", "--attention")
    assert status == 0, errors
    assert max(len(name.encode()) for name in written) <= 255


def test_devices_are_picked_or_refused_by_name(sample, monkeypatch, weights, tmp_path):
    status, _, errors = sample("a car", "--device", "cuda")
    assert (status, errors) == (2, "dmgan-fast: device: PyTorch sees no CUDA device here, got 'cuda'\n")
    status, _, errors = sample("a car", "--device", "gpu")
    assert status == 2
    assert "device must be auto, cpu, cuda or cuda:N, got 'gpu'" in errors
    asked = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr("dmgan_fast.training.weights.Bundle.generator", lambda self, device: asked.append(device))
    monkeypatch.setattr("dmgan_fast.training.weights.Bundle.text_encoder", lambda self, device: asked.append(device))
    monkeypatch.setattr(Sampler, "__init__", lambda *_: None)
    Sampler.from_pretrained(weights)
    assert asked == ["cuda", "cuda"]  # a GPU draws where there is one
    with pytest.raises(InputError, match="there are 1 CUDA devices here, from 0, got 'cuda:1'"):
        Sampler.from_pretrained(weights, device="cuda:1")


# ------------------------------------------------------------------------------------------------------- out of memory

CPU = (
    "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate "
    "419430400 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA = (
    "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 7.79 GiB of which 1.00 MiB is free."
)
SAYS = {
    "cpu": (RuntimeError(CPU), 400 << 20),
    "cuda": (torch.OutOfMemoryError(CUDA), int(2.5 * 2**30)),
    "python": (MemoryError(), None),
    "c++": (RuntimeError("std::bad_alloc"), None),
    "cublas": (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate"), None),
    "numpy": (MemoryError("Unable to allocate 3.00 GiB for an array"), None),
}


@pytest.mark.parametrize("name", SAYS)
def test_running_out_of_memory_is_known_in_every_wording(name):
    error, asked = SAYS[name]
    assert memory.is_out_of_memory(error)
    assert memory.asked_bytes(error) == asked
    assert not memory.is_out_of_memory(RuntimeError("shape mismatch"))
    assert not memory.is_out_of_memory(ValueError("out of memory"))


def fail_to_draw(monkeypatch, error):
    """Real pictures do not fit; the forecast, on tensors without data, does."""
    forward = Generator.forward

    def fail(self, noise, *inputs, **options):
        if not isinstance(noise, FakeTensor):
            raise error
        return forward(self, noise, *inputs, **options)

    monkeypatch.setattr(Generator, "forward", fail)


@pytest.mark.parametrize("name", ["cpu", "cuda", "python"])
def test_sampling_that_does_not_fit_is_one_paragraph_with_numbers_and_levers(sample, monkeypatch, tmp_path, name):
    fail_to_draw(monkeypatch, SAYS[name][0])
    monkeypatch.setattr(memory, "free_memory", lambda device: 64 << 20)
    (tmp_path / "c.txt").write_text("a red\n" * 40)
    status, written, errors = sample("--captions", tmp_path / "c.txt", "--batch", 40)
    assert (status, written) == (2, [])
    assert re.fullmatch(
        r"dmgan-fast: out of memory while drawing 40 pictures at once at side 128 \(about \d+ MiB needed, \d+ MiB of "
        r"it by each picture, .*64 MiB free\); draw fewer at once \(--batch \d+; batch_size in Python\), or in windows "
        r"\(--tile 64, with `sample`\)\n",
        errors,
    ), errors


def test_one_picture_that_does_not_fit_is_told_of_tiles_and_tiles_of_smaller_ones(sampler, monkeypatch):
    fail_to_draw(monkeypatch, MemoryError())
    with pytest.raises(OutOfMemory, match=r"drawing one picture at side 128 .*; draw in windows \(--tile 64"):
        sampler.draw(["a"])
    monkeypatch.setattr("dmgan_fast.training.sampling.draw_in_tiles", sampler.generator.forward)
    with pytest.raises(OutOfMemory, match=r"in windows of 128.*smaller windows \(--tile 64\)"):
        sampler.draw(["a"], tile=128)


def test_the_batch_that_is_named_fits_what_is_free(sampler, monkeypatch):
    base, each = memory._drawing_bytes(sampler.generator, torch.device("cpu"))
    for free in (10 * each, 50 * each):
        monkeypatch.setattr(memory, "free_memory", lambda device, free=free: free)
        said = memory.drawing_advice(sampler.generator, 400, None, None)
        batch = int(re.search(r"--batch (\d+)", said)[1])
        assert batch > 0
        assert base + each * batch <= free
        assert base + each * (2 * batch) > memory.ROOM * free


def test_out_of_memory_that_nobody_expected_is_one_paragraph_too(sample, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError(CPU)

    monkeypatch.setattr("dmgan_fast.training.sampling.Sampler.from_pretrained", fail)
    status, _, errors = sample("a car")
    assert status == 2
    assert errors.startswith("dmgan-fast: out of memory (400 MiB asked for last")
    assert "--batch 1" in errors
    assert "--tile 64" in errors
    assert errors.count("\n") == 1
