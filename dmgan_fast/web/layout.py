"""The page's layout in gradio: two forms, each with a place for its answer. Nothing is decided here."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr

from dmgan_fast.web import views
from dmgan_fast.web.studio import Generated, Refused, Studio

TITLE = "DM-GAN: images from captions"
EXAMPLES = ("a red apple", "a yellow smiling face", "a blue car", "a green leaf, plant", "an orange cat face")
WAY = ("a red apple", "a blue car")
WAITING = 16  # requests that may wait; more are told to come back
NEW_SEED = "() => Math.floor(Math.random() * 1000000)"
PLACEHOLDER = "What the image should show"


def build(studio: Studio) -> gr.Blocks:
    """The page of ``studio``; its requests wait in one queue."""
    with gr.Blocks(title=TITLE, analytics_enabled=False) as page:
        gr.HTML(f"<h1>{TITLE}</h1>", js_on_load=None)
        with gr.Tab("One caption"):
            _one_caption(studio)
        with gr.Tab("Between two captions"):
            _two_captions(studio)
    return page.queue(max_size=WAITING, default_concurrency_limit=1, api_open=False)


def theme() -> gr.themes.Base:
    """Of the fonts that a visitor has, with enough contrast for text of every kind."""
    font = gr.themes.utils.fonts.Font
    return gr.themes.Default(
        primary_hue="blue",
        font=[font("system-ui"), font("sans-serif")],
        font_mono=[font("ui-monospace"), font("monospace")],
    ).set(
        body_text_color_subdued="*neutral_600",
        body_text_color_subdued_dark="*neutral_300",
        block_info_text_color="*neutral_600",
        block_info_text_color_dark="*neutral_300",
        color_accent="*primary_700",
        button_primary_background_fill="*primary_700",
        button_primary_background_fill_hover="*primary_800",
        button_primary_background_fill_dark="*primary_700",
        button_primary_background_fill_hover_dark="*primary_600",
        button_primary_text_color="white",
        button_primary_text_color_dark="white",
    )


def calls(page: gr.Blocks) -> dict[int, int]:
    """Which of the page's functions visitors may ask the server for: number → how many values each takes."""
    return {number: len(each.inputs) for number, each in page.fns.items() if each.fn is not None}


def _one_caption(studio: Studio) -> None:
    limits = studio.limits
    caption = gr.Textbox(label="Caption", placeholder=PLACEHOLDER, max_lines=3, autofocus=True, elem_id="dm-caption")
    with gr.Row(elem_classes="dm-examples"):
        for example in EXAMPLES:
            gr.Button(example, size="sm", min_width=80).click(None, js=_value(example), outputs=caption)
    button, again = _buttons()
    with gr.Accordion("Settings", open=False):
        images = _slider(minimum=1, maximum=limits.images, value=1, step=1, label="Images")
        model, seed, noise, truncation = _settings(studio)
    answer = gr.HTML(js_on_load=None, elem_id="dm-images")
    inputs = [caption, model, seed, images, noise, truncation]

    def generate(caption: Any, model: Any, seed: Any, images: Any, noise: Any, truncation: Any) -> str:
        options = {"model": model, "seed": seed, "images": images, "noise": noise, "truncation": truncation}
        return _shown(views.images, lambda: studio.generate(caption, **options))

    _ask(generate, [button.click, caption.submit], again, seed, inputs, answer)


def _two_captions(studio: Studio) -> None:
    limits = studio.limits
    with gr.Row():
        first = gr.Textbox(label="First caption", placeholder=PLACEHOLDER, value=WAY[0], max_lines=3, min_width=220)
        second = gr.Textbox(label="Second caption", placeholder=PLACEHOLDER, value=WAY[1], max_lines=3, min_width=220)
    button, again = _buttons()
    with gr.Accordion("Settings", open=False):
        steps = _slider(minimum=2, maximum=limits.steps, value=6, step=1, label="Images, both ends included")
        model, seed, noise, truncation = _settings(studio)
    answer = gr.HTML(js_on_load=None, elem_id="dm-way")
    inputs = [first, second, model, seed, steps, noise, truncation]

    def between(first: Any, second: Any, model: Any, seed: Any, steps: Any, noise: Any, truncation: Any) -> str:
        options = {"model": model, "seed": seed, "steps": steps, "noise": noise, "truncation": truncation}
        return _shown(views.strip, lambda: studio.between(first, second, **options))

    _ask(between, [button.click, first.submit, second.submit], again, seed, inputs, answer)


def _buttons() -> tuple[gr.Button, gr.Button]:
    with gr.Row():
        return gr.Button("Generate", variant="primary", min_width=140), gr.Button("Another seed", min_width=140)


def _settings(studio: Studio) -> tuple[gr.Dropdown, gr.Number, gr.Slider, gr.Slider]:
    """Model, seed, noise strength and truncation."""
    limits, names = studio.limits, studio.models.names
    model = _as_sent(gr.Dropdown(names, value=names[0], label="Model", filterable=False))
    seed = _as_sent(gr.Number(0, label="Seed", info="Another seed, another image.", precision=0, minimum=0))
    noise = _slider(
        minimum=0,
        maximum=limits.noise,
        value=1,
        step=0.05,
        label="Noise strength",
        info="0: the same image for any seed.",
    )
    truncation = _slider(
        minimum=0.1,
        maximum=limits.truncation,
        value=limits.truncation,
        step=0.1,
        label="Truncation",
        info=f"Keep the noise within so many deviations: lower is more typical. {limits.truncation:g}: all of it.",
    )
    return model, seed, noise, truncation


def _ask(
    function: Callable[..., str],
    triggers: Sequence[Callable[..., Any]],
    again: gr.Button,
    seed: gr.Number,
    inputs: Sequence[gr.components.Component],
    answer: gr.HTML,
) -> None:
    """Ask the server on each of the triggers, and with a new seed on ``again``."""
    options: dict[str, Any] = {
        "fn": function,
        "inputs": list(inputs),
        "outputs": answer,
        "api_visibility": "private",
        "concurrency_id": "images",
        "concurrency_limit": 1,
        "show_progress": "minimal",
    }
    gr.on(list(triggers), **options)
    again.click(None, js=NEW_SEED, outputs=seed).then(**options)


def _shown(view: Callable[[Generated], str], ask: Callable[[], Generated]) -> str:
    try:
        return view(ask())
    except Refused as refused:
        return views.refusal(str(refused))


def _slider(**options: Any) -> gr.Slider:
    return _as_sent(gr.Slider(**options))


def _as_sent(component: Any) -> Any:
    """The component, handing on whatever was sent: the studio says in plain words what is wrong with it."""
    component.preprocess = lambda payload: payload
    return component


def _value(text: str) -> str:
    return f"() => {json.dumps(text)}"
