"""Files that were not written here are named as what they are, and nothing in them runs."""

import gzip
import os
import tarfile
import zipfile

import pytest
import torch

from dmgan_fast.compat.files import load_checkpoint
from dmgan_fast.data.pickles import read_pickle
from dmgan_fast.data.texts import read_text
from dmgan_fast.data.vocabulary import Vocabulary
from dmgan_fast.errors import CheckpointError, DataError
from dmgan_fast.evaluation.given_statistics import GivenStatistics
from dmgan_fast.evaluation.weights import read_tensors
from tests.compat.saved import GENERATOR, PAGE, POINTER


def broken_zip(file):
    torch.save(GENERATOR, file)
    file.write_bytes(file.read_bytes()[:-500])


def zipped(file):
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("netG.pth", b"x")


def tarred(file):
    (file.parent / "netG.txt").write_text("x")
    with tarfile.open(file, "w") as archive:
        archive.add(file.parent / "netG.txt", "netG.pth")


FOREIGN = {
    "a page": (lambda f: f.write_text(PAGE), r"a web page \('Google Drive - Virus scan warning'\).*fetch it again"),
    "a page in UTF-8": (lambda f: f.write_bytes(b"\xef\xbb\xbf<!doctype HTML>"), "a web page"),
    "a pointer": (lambda f: f.write_text(POINTER), r"Git LFS pointer.*123,456,789 bytes.*git lfs pull"),
    "nothing": (lambda f: f.write_text(""), "an empty file"),
    "gzip": (lambda f: f.write_bytes(gzip.compress(b"x")), "a gzip archive: unpack it"),
    "tar": (tarred, "a tar archive: unpack it"),
    "zip": (zipped, "a zip archive of 1 files; unpack it"),
    "json": (lambda f: f.write_text('{"error": "not found"}'), "JSON text"),
    "text": (lambda f: f.write_text("Not Found"), "a text file that begins with 'Not Found'"),
    "HDF5": (lambda f: f.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99)), "HDF5"),
    "cut short": (broken_zip, "cut short|damaged"),
    "noise": (lambda f: f.write_bytes(bytes(range(128, 256)) * 9), "damaged, or was not written by PyTorch"),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_other_files_are_named_as_what_they_are(tmp_path, name):
    write, message = FOREIGN[name]
    file = tmp_path / "bird_DMGAN.pth"
    write(file)
    for read in (load_checkpoint, read_tensors):
        with pytest.raises(CheckpointError, match=rf"(?s)bird_DMGAN\.pth.*({message})") as caught:
            read(file)
        assert "weights_only" not in str(caught.value)
        assert "pickle" not in str(caught.value).lower()
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["a page", "a pointer", "nothing", "gzip"])
def test_statistics_that_are_something_else_are_named_too(tmp_path, name):
    write, message = FOREIGN[name]
    write(tmp_path / "bird_val.npz")
    with pytest.raises(DataError, match=message) as caught:
        GivenStatistics.read(tmp_path / "bird_val.npz")
    assert "allow_pickle" not in str(caught.value)


class Hostile:
    def __init__(self, module, name):
        self.function = getattr(__import__(module), name)

    def __reduce__(self):
        return self.function, ("executed",)


@pytest.mark.parametrize(("module", "name"), [("builtins", "print"), ("os", "system"), ("builtins", "eval")])
def test_files_that_ask_for_what_weights_do_not_need_run_nothing(tmp_path, capfd, module, name):
    for content in ({"netG": GENERATOR, "x": Hostile(module, name)}, [Hostile(module, name)]):
        torch.save(content, tmp_path / "bad.pth")
        with pytest.raises(CheckpointError, match=rf"it asks for \w+\.{name}, which weights do not need"):
            load_checkpoint(tmp_path / "bad.pth")
    assert "executed" not in "".join(capfd.readouterr())


def test_weights_that_are_packed_are_refused_before_they_are_unpacked(tmp_path):
    plain, packed = tmp_path / "plain.pth", tmp_path / "packed.pth"
    torch.save(GENERATOR, plain)
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    with pytest.raises(CheckpointError, match=r"packed\.pth: .*in it is compressed \(.* bytes that unpack to"):
        load_checkpoint(packed)


@pytest.mark.parametrize("read", [read_pickle, Vocabulary.load, read_text, GivenStatistics.read])
def test_a_pipe_in_place_of_a_file_is_refused_and_not_waited_for(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match=r"pipe.*not a regular file"):
        read(tmp_path / "pipe")
