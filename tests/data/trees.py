"""Trees of odd names and contents, to be drawn by hypothesis and to vanish at once."""

import os
import shutil

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

ODD = "ab.Ä\u0308é 鸟🙂'\"%#&;=~^-_\\,\u200b\u2028\t"
NAMES = st.text(ODD, min_size=1, max_size=8).filter(lambda text: text.strip(" .\t\u2028\\"))
WORDS = ("...", "", "  ", "Ä", "鸟", "一只红色的鸟在树上", "a_red_bird_on_a_branch", "\ud800", "\u2028x", "7")


def mostly(likely, odd):
    """A strategy that draws a likely value two times of three: most trees are good but for a thing or two."""
    return st.sampled_from(tuple(likely) * (2 * len(odd)) + tuple(odd) * len(likely))


CAPTIONS = st.lists(mostly(("red", "a", "bird"), WORDS), min_size=1, max_size=3).map(" ".join)
SPLITS = mostly(
    ("train", "test"),
    ("Train", "TRAINING", "validation", "val", "dev", "trainval", "trian", "fold1", "", None, 3, "🙂"),
)
CLASSES = mostly((None, 0, 1), ("2", 3.0, 3.5, True, "x", "", -1, 10**30, [1], float("nan"), float("inf")))
IMAGES = mostly(("good.png", "good.jpg", "tiny.png"), ("gray.png", "cut.png", "cut.jpg", "empty", "text", "none"))
SUFFIXES = st.sampled_from((".png", ".jpg", ".JPG", ".jpeg", ".Png", ".webp", ".gif"))


class Tree:
    """A folder to fill."""

    def __init__(self, root):
        self.root = root

    def __enter__(self):
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.root)

    def image(self, pool, name, kind):
        """Whether an image of this kind is now there under this name."""
        file = self.root / name
        if kind == "none" or os.path.lexists(file):
            return False
        file.parent.mkdir(parents=True, exist_ok=True)
        os.link(pool / kind, file)
        return True

    def text(self, name, content):
        file = self.root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "replace"))


def cases(count):
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )


ROWS = st.lists(
    st.fixed_dictionaries(
        {"name": NAMES, "suffix": SUFFIXES, "image": IMAGES, "captions": st.lists(CAPTIONS, max_size=3)},
        optional={
            "class_id": CLASSES,
            "split": SPLITS,
            "broken": mostly(("",), ("{", "[1]", "3", "{}", '{"image": 4}')),
        },
    ),
    max_size=8,
)
