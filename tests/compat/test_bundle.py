"""Whole models out of the authors' files, with the words they know."""

import pickle

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dmgan_fast import compat
from dmgan_fast.errors import CheckpointError, DataError, DMGANError
from tests.compat.saved import GENERATOR, PAGE, WORDS, junk

NUMBERED = dict(enumerate(WORDS.words))
CAPTIONS = {
    "AttnGAN's": [[[1, 2]], [[1]], NUMBERED, {word: k for k, word in NUMBERED.items()}],
    "arrays": [[np.array([1, 2])], [np.array([1])], {np.int64(k): w for k, w in NUMBERED.items()}, {}],
    "by name": {"train": [[1]], "ixtoword": NUMBERED},
    "words to numbers": ([[1]], {word: k for k, word in NUMBERED.items()}),
    "bare": NUMBERED,
}


@pytest.mark.parametrize("name", CAPTIONS)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_vocabularies_are_found_in_every_pickle_of_captions(tmp_path, name, protocol):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(CAPTIONS[name], protocol))
    assert compat.read_vocabulary(tmp_path / "captions.pickle") == WORDS


def test_files_without_numbered_words_are_named(tmp_path):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps([[[1, 2]], [[3]]], 2))
    with pytest.raises(DataError, match=r"captions\.pickle: no numbered words"):
        compat.read_vocabulary(tmp_path / "captions.pickle")
    (tmp_path / "captions.pickle").write_text(PAGE)
    with pytest.raises(DataError, match="a web page"):
        compat.read_vocabulary(tmp_path / "captions.pickle")


@pytest.mark.parametrize(
    ("words", "says"),
    [({0: "<end>", 2: "red"}, "without gaps"), ({0: "red", 1: "red"}, "two indices"), ({"red": 1}, "without gaps")],
)
def test_words_that_are_numbered_wrongly_are_refused_by_the_name_of_their_file(tmp_path, words, says):
    (tmp_path / "captions.pickle").write_bytes(pickle.dumps(words, 2))
    with pytest.raises(DataError, match=rf"captions\.pickle: vocabulary: .*{says}"):
        compat.read_vocabulary(tmp_path / "captions.pickle")


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=junk, data=st.data())
def test_anything_saved_and_damaged_gives_nothing_but_our_errors(tmp_path, content, data):
    file = tmp_path / "w.pth"
    state = dict(GENERATOR)
    for key in data.draw(st.lists(st.sampled_from(sorted(state)), max_size=3)):
        state[key] = data.draw(
            st.sampled_from([torch.zeros(0), torch.zeros(3, 3), torch.tensor(1.0), state[key].flatten()[:1]])
        )
    torch.save({"netG": state, "rest": content}, file)
    raw = bytearray(file.read_bytes())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=2)):
        raw[position] ^= data.draw(st.integers(0, 255))
    file.write_bytes(raw)
    said = ""
    try:
        compat.import_bundle([file], tmp_path / "out" / str(data.draw(st.integers(0, 2**60))))
    except DMGANError as error:
        said = str(error)
    assert "weights_only" not in said
    assert "\n" not in said


def test_names_with_line_feeds_stay_on_one_line_of_a_message(tmp_path):
    state = dict(GENERATOR)
    state["h_net1.fc.1.bi\nas"] = state.pop("h_net1.fc.1.bias")
    for content in (state, {"netG": state}):
        torch.save(content, tmp_path / "w.pth")
        with pytest.raises(CheckpointError, match=r"unexpected h_net1\.fc\.1\.bi\\nas") as caught:
            compat.import_bundle([tmp_path / "w.pth"], tmp_path / "out")
        assert "\n" not in str(caught.value)
