"""What the page shows, as HTML."""

import re
from html.parser import HTMLParser

import pytest

from dmgan_fast.web import views
from dmgan_fast.web.studio import Limits

MARKUP = "a <script>alert(1)</script> <img src=x onerror=alert(1)> red \"'&apple"


class Elements(HTMLParser):
    """Start tags with attributes, and texts."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.texts += [data.strip()] if data.strip() else []

    def named(self, name):
        return [attributes for tag, attributes in self.tags if tag == name]


def test_every_resolution_is_shown_with_a_layer_for_each_word_and_the_gate(studio):
    page = Elements(views.images(studio.generate("a red apple", images=2)))
    shown = [each for each in page.named("img") if each["alt"]]
    assert [each["alt"] for each in shown] == [f"a red apple, {side} by {side} pixels" for side in (64, 128, 64, 128)]
    layers = [each["data-layer"] for each in page.named("img") if "data-layer" in each]
    assert layers == ["0", "1", "2", "gate"] * 2
    assert [each["data-key"] for each in page.named("button")] == layers
    assert all(each["src"].startswith("data:image/png;base64,") for each in page.named("img"))


def test_what_the_memory_wrote_is_a_table_for_each_refinement(studio):
    answer = studio.generate("a red apple")
    text = views.images(answer)
    (refinement,) = answer.images[0].refinements
    row = refinement.words[1]
    cells = [f"{100 * value:.0f} %" for value in (row.written, row.read, row.taken)]
    found = re.search(r'<th scope="row">red</th>(.*?)</tr>', text, re.DOTALL).group(1)
    assert Elements(found).texts == cells
    label = f"red:\\nread {cells[1]}, writing gate {cells[0]}".replace("\\n", "\n")
    assert label in Elements(text).texts


def test_unknown_words_and_the_model_are_named(studio):
    text = " ".join(Elements(views.images(studio.generate("a zebra"))).texts)
    assert "Model: small." in text
    assert "Left out, because this model does not know it: zebra" in text


@pytest.mark.parametrize("view", ["images", "strip"])
def test_markup_in_a_caption_is_text(studio, view):
    answer = studio.generate(MARKUP) if view == "images" else studio.between(MARKUP, "a car", steps=2)
    page = Elements(getattr(views, view)(answer))
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "iframe", "object", "link"})
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert not any(each["src"] == "x" for each in page.named("img"))


def test_a_strip_is_labelled_from_caption_to_caption(studio):
    page = Elements(views.strip(studio.between("a red apple", "a blue car", steps=5)))
    assert [text for text in page.texts if not text.startswith("Model")] == [
        "a red apple",
        "25 %",
        "50 %",
        "75 %",
        "a blue car",
    ]
    assert page.named("ol")[0]["tabindex"] == "0"


def test_a_refusal_is_escaped_and_announced():
    page = Elements(views.refusal("no <b>such</b> thing"))
    assert page.named("p") == [{"class": "dm-refusal", "role": "alert"}]
    assert page.texts == ["no <b>such</b> thing"]


def test_the_style_shows_the_layer_of_any_word_that_a_caption_may_have():
    style = views.style(Limits(words=3))
    assert [f'[data-layer="{key}"]' in style for key in ("gate", 0, 2, 3)] == [True, True, True, False]
