"""The page in a browser: typed, pressed, looked at, resized, without a mouse, by axe-core."""

import re

import pytest

from tests.web.browser import NARROW, WIDE, browser, needs_chromium, serious  # noqa: F401

pytestmark = needs_chromium
ANSWER = "#dm-images .dm-answer"
LOADED = "(all => all.length > 0 && all.every(x => x.naturalWidth))([...document.querySelectorAll('{0} img')])"


@pytest.fixture
def page(browser, address):  # noqa: F811
    """The page, open; it may have asked nobody else for anything, and have no errors."""
    context = browser.new_context(viewport=WIDE)
    page = context.new_page()
    asked, errors = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(address)
    page.get_by_label("Caption", exact=True).wait_for(timeout=60_000)
    yield page
    context.close()
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert errors == []


def generate(page, caption="a red apple"):
    page.get_by_label("Caption", exact=True).fill(caption)
    page.get_by_role("button", name="Generate").first.click()
    page.wait_for_selector(f"{ANSWER} .dm-image")


def opacity(page, key):
    return page.locator(f"{ANSWER} img[data-layer='{key}']").evaluate("x => getComputedStyle(x).opacity")


def shows(page, key):
    page.wait_for_function(
        f"getComputedStyle(document.querySelector(\"{ANSWER} [data-layer='{key}']\")).opacity == 1", timeout=5000
    )
    return True


def test_a_caption_is_typed_and_its_images_seen_at_every_resolution(page):
    generate(page)
    page.wait_for_function(LOADED.format(ANSWER))
    sizes = page.locator(f"{ANSWER} .dm-stack img:not(.dm-layer)").evaluate_all("all => all.map(x => x.naturalWidth)")
    assert sizes == [64, 128]
    assert page.locator(f"{ANSWER} .dm-stack").last.bounding_box()["width"] >= 128


def test_pointing_at_a_word_shows_where_it_is_read_and_no_other(page):
    generate(page)
    page.get_by_role("button", name="apple", exact=True).hover()
    assert shows(page, 2)
    assert [opacity(page, key) for key in (0, 1, "gate")] == ["0", "0", "0"]
    assert re.fullmatch(
        r"apple: read \d+ %, writing gate \d+ %", page.locator(f"{ANSWER} .dm-label").nth(2).inner_text()
    )
    page.get_by_role("button", name="response gate").hover()
    assert shows(page, "gate")


def test_everything_can_be_done_without_a_mouse(page):
    assert page.evaluate("document.activeElement.tagName") == "TEXTAREA"
    page.keyboard.type("a blue car")
    page.keyboard.press("Enter")
    page.wait_for_selector(f"{ANSWER} .dm-image")
    for _ in range(40):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.dataset.key") == "1":
            break
    assert shows(page, 1)
    page.locator(f"{ANSWER} summary").focus()
    page.keyboard.press("Enter")
    assert page.get_by_role("cell").first.is_visible()


def test_an_example_fills_the_caption(page):
    page.get_by_role("button", name="a blue car").first.click()
    page.wait_for_function("document.querySelector('#dm-caption textarea').value == 'a blue car'")


def test_another_seed_gives_another_image(page):
    generate(page)
    first = page.locator(f"{ANSWER} img").first.get_attribute("src")
    page.get_by_role("button", name="Another seed").first.click()
    page.wait_for_function(f"document.querySelector('{ANSWER} img').src != '{first}'")


def test_an_error_is_in_plain_words_and_goes_with_the_next_answer(page):
    page.get_by_label("Caption", exact=True).fill("zzz")
    page.get_by_role("button", name="Generate").first.click()
    alert = page.locator("#dm-images [role=alert]")
    alert.wait_for()
    assert (
        alert.inner_text()
        == "The caption has no word that this model knows. Try simple words, for example: a red apple."
    )
    generate(page)
    assert alert.count() == 0


def test_two_captions_make_a_strip(page):
    page.get_by_role("tab", name="Between two captions").click()
    second = page.get_by_label("Second caption")
    page.wait_for_function("[...document.querySelectorAll('textarea')].some(x => x.value == 'a blue car')")
    second.press("End")
    for _ in "car":
        second.press("Backspace")
    second.press_sequentially("apple", delay=20)  # gradio takes a field's text a moment after each key
    second.press("Tab")
    page.get_by_role("button", name="Generate").last.click()
    page.wait_for_selector("#dm-way .dm-strip")
    page.wait_for_function(LOADED.format("#dm-way .dm-strip"))
    labels = page.locator("#dm-way figcaption").all_inner_texts()
    assert labels == ["a red apple", "20 %", "40 %", "60 %", "80 %", "a blue apple"]


def test_it_fits_a_phone_and_grows_again(page):
    generate(page, "a red blue apple car a red blue apple car")
    for size in (NARROW, WIDE, {"width": 320, "height": 568}):
        page.set_viewport_size(size)
        assert page.evaluate("document.scrollingElement.scrollWidth <= window.innerWidth"), size
        image = page.locator(f"{ANSWER} .dm-stack").last.bounding_box()
        assert image["x"] >= 0
        assert image["x"] + image["width"] <= size["width"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page, scheme):
    page.emulate_media(color_scheme=scheme)
    page.reload()
    page.get_by_label("Caption", exact=True).wait_for(timeout=60_000)
    generate(page, "a red zebra")
    page.locator(f"{ANSWER} summary").click()
    for accordion in page.get_by_role("button", name="Settings").all()[:1]:
        accordion.click()
    assert serious(page) == {}
    page.get_by_role("tab", name="Between two captions").click()
    page.get_by_role("button", name="Generate").last.click()
    page.wait_for_selector("#dm-way .dm-strip")
    assert serious(page) == {}
