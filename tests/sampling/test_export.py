"""An exported sampler generates what the sampler generates, without this package's ops."""

import pytest
import torch

from dmgan_fast.data import Vocabulary
from dmgan_fast.errors import InputError
from dmgan_fast.modules import Generator, GeneratorConfig, TextEncoder, TextEncoderConfig
from dmgan_fast.sampling.export import INPUTS, PlainTextEncoder, SamplerGraph, export_sampler, exported
from dmgan_fast.sampling.sampler import Sampler

WORDS = 4
BUDGET = 3  # times the sampler's own error: another runtime sums in another order


def text_encoder(rnn="lstm", layers=1):
    config = TextEncoderConfig(vocabulary_size=6, word_channels=8, embedding_channels=4, rnn=rnn, layers=layers)
    return TextEncoder(config).eval()


@pytest.fixture(scope="module")
def sampler():
    torch.manual_seed(0)
    config = GeneratorConfig(
        image_sizes=(64, 128), base_channels=4, word_channels=8, condition_channels=4, noise_channels=4
    )
    return Sampler(Generator(config), text_encoder(), Vocabulary.from_captions(["a red apple", "a blue car"]))


def inputs(batch):
    draw = torch.Generator().manual_seed(batch)
    lengths = torch.arange(batch) % WORDS + 1
    captions = torch.randint(1, 6, (batch, WORDS), generator=draw) * (torch.arange(WORDS) < lengths[:, None])
    noise, eps = (torch.randn(batch, 4, generator=draw) for _ in range(2))
    return dict(zip(INPUTS, (captions, lengths, noise, eps), strict=True))


def truth(sampler, batch):
    """In float64, and the error of the sampler itself."""
    given = inputs(batch)
    drawn = SamplerGraph(sampler)(**given)
    wide = {name: x.double() if x.is_floating_point() else x for name, x in given.items()}
    exact = SamplerGraph(sampler).double()(**wide)
    return exact, error(drawn, exact)


def error(found, exact):
    return sum((a.double() - b).square().mean() / b.square().mean() for a, b in zip(found, exact, strict=True)).sqrt()


@pytest.mark.parametrize("rnn", ["lstm", "gru"])
@pytest.mark.parametrize("layers", [1, 2])
def test_the_plain_text_encoder_equals_the_packed_one(rnn, layers):
    torch.manual_seed(0)
    encoder = text_encoder(rnn, layers).double()
    captions, lengths = torch.randint(1, 6, (3, 5)), torch.tensor([5, 1, 3])
    for found, expected in zip(PlainTextEncoder(encoder)(captions, lengths), encoder(captions, lengths), strict=True):
        assert (found - expected).abs().max() <= 1e-14


def test_the_graph_generates_the_samplers_images(sampler):
    drawn = sampler.generate([[1, 2, 3], [4]], [7, 8])
    generators = [torch.Generator().manual_seed(seed) for seed in (7, 8)]
    noise, eps = (torch.stack([torch.randn(4, generator=g) for g in generators]) for _ in range(2))
    graph = SamplerGraph(sampler)(torch.tensor([[1, 2, 3, 0], [4, 0, 0, 0]]), torch.tensor([3, 1]), noise, eps)
    for found, expected in zip(graph, drawn.images, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_torch_export_generates_the_same_for_any_batch_with_no_op_of_ours(sampler, tmp_path):
    file, vocabulary = export_sampler(sampler, tmp_path / "sampler.pt2", words=WORDS)
    program = torch.export.load(file)
    assert not [node for node in program.graph.nodes if "dmgan" in str(node.target)]
    for batch in (1, 3):
        exact, own = truth(sampler, batch)
        assert error(program.module()(**inputs(batch)), exact) <= BUDGET * own
    assert Vocabulary.load(vocabulary) == sampler.vocabulary


def test_onnx_generates_the_same_for_any_batch(sampler, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="the extra `test` installs it")
    file, _ = export_sampler(sampler, tmp_path / "sampler.onnx", words=WORDS)
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    assert [output.name for output in session.get_outputs()] == ["image_64", "image_128"]
    for batch in (1, 3):
        exact, own = truth(sampler, batch)
        images = session.run(None, {name: x.numpy() for name, x in inputs(batch).items()})
        assert error([torch.from_numpy(image) for image in images], exact) <= BUDGET * own


@torch.no_grad()
def test_the_sampler_compiles_into_one_graph(sampler):
    graph = SamplerGraph(sampler)
    exact, own = truth(sampler, 2)
    words, sentence = graph.text_encoder(*list(inputs(2).values())[:2])
    noise, eps = list(inputs(2).values())[2:]
    mask = torch.tensor([[False, True, True, True], [False, False, True, True]])
    found = torch.compile(graph.generator, fullgraph=True)(noise, sentence, words, mask, eps=eps).images
    assert error(found, exact) <= BUDGET * own


@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("sampler.txt", 4, r"must end in .onnx or .pt2, got 'sampler.txt'"),
        ("sampler.pt2", 0, "words must be at least 1"),
    ],
)
def test_bad_exports_are_refused_before_any_work(sampler, tmp_path, name, words, message):
    with pytest.raises(InputError, match=message):
        export_sampler(sampler, tmp_path / name, words=words)
    assert not list(tmp_path.iterdir())


def test_onnx_without_its_packages_says_what_to_install(sampler, tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs onnx and onnxscript; pip install 'dmgan-fast\[onnx\]'"):
        export_sampler(sampler, tmp_path / "sampler.onnx")


def test_exporting_leaves_the_sampler_alone(sampler):
    backends = [getattr(m, "backend", None) for m in sampler.generator.modules()]
    exported(sampler, WORDS)
    assert [getattr(m, "backend", None) for m in sampler.generator.modules()] == backends
