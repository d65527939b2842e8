"""Published statistics in place of real images."""

import zipfile

import numpy as np
import pytest
import torch

from dmgan_fast.errors import DataError, InputError
from dmgan_fast.evaluation import evaluate, frechet_distance, store
from dmgan_fast.evaluation.given_statistics import GivenStatistics
from tests.evaluation.runs import results


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(store, "CHUNK", 50)


def test_given_statistics_stand_for_the_real_pictures(config, tmp_path):
    mean, covariance = np.linspace(-1, 1, 8), np.diag(np.arange(1.0, 9.0))
    np.savez(tmp_path / "birds.npz", mu=mean, sigma=covariance)
    given = {
        "count": 40,
        "metrics": ("fid-damsm",),
        "statistics": {"fid-damsm": str(tmp_path / "birds.npz")},
        "keep_features": True,
    }
    report = evaluate(config(**given), tmp_path / "out")
    (folder,) = (tmp_path / "out" / "features").iterdir()
    kept = store.FeatureStore(folder.parent, f"{report['generated']['key']} {report['extractors']['damsm']}")
    rows = torch.cat([kept.read(rows, "features") for rows in store.chunks_of(40)]).double()
    expected = frechet_distance(rows.mean(0), torch.cov(rows.t()), mean, covariance)
    assert results(report)["fid-damsm"][0] == pytest.approx(expected, rel=1e-9)
    assert report["real"] is None
    assert len(report["statistics"]["fid-damsm"]["sha256"]) == 64


def test_statistics_of_another_width_are_refused(config, tmp_path):
    np.savez(tmp_path / "x.npz", mu=np.zeros(5), sigma=np.eye(5))
    with pytest.raises(InputError, match=r"mu must be \[8\] for fid-damsm, got \[5\]"):
        evaluate(config(statistics={"fid-damsm": str(tmp_path / "x.npz")}), tmp_path / "out")


def test_statistics_as_the_authors_publish_them(tmp_path):
    import numpy as np

    np.savez(tmp_path / "birds.npz", mu=np.arange(3, dtype=np.float32), sigma=np.eye(3))
    given = GivenStatistics.read(tmp_path / "birds.npz")
    assert given.mean.tolist() == [0, 1, 2]
    assert given.covariance.dtype == np.float64
    for arrays, message in (
        ({"mu": np.zeros(3)}, "not an .npz file with mu and sigma"),
        ({"mu": np.zeros(3), "sigma": np.eye(2)}, r"sigma \[D, D\], got \(3,\) and \(2, 2\)"),
        ({"mu": np.array([print]), "sigma": np.eye(2)}, "not an .npz file"),  # would have to be unpickled
    ):
        np.savez(tmp_path / "broken.npz", **arrays)
        with pytest.raises(DataError, match=message):
            GivenStatistics.read(tmp_path / "broken.npz")
    for content in (b"", b"no archive"):
        (tmp_path / "broken.npz").write_bytes(content)
        with pytest.raises(DataError, match=r"broken\.npz is not an \.npz file"):
            GivenStatistics.read(tmp_path / "broken.npz")
    with pytest.raises(DataError, match="absent"):
        GivenStatistics.read(tmp_path / "absent.npz")


def test_statistics_that_unpack_to_gigabytes_are_refused_before_they_are_unpacked(tmp_path):
    file = tmp_path / "bomb.npz"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("mu.npy", "sigma.npy"):
            archive.writestr(name, b"x")
    content = bytearray(file.read_bytes())
    at = content.index(b"PK\x01\x02") + 24  # what the directory says of the first one's size
    content[at : at + 4] = (1 << 31).to_bytes(4, "little")
    file.write_bytes(content)
    with pytest.raises(DataError, match=r"bomb\.npz unpacks to 2,147,483,649 bytes, more than statistics"):
        GivenStatistics.read(file)
