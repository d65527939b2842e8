"""Generator and discriminator against results of the authors' own code, in float64."""

import pytest
import torch

from dmgan_fast import compat
from dmgan_fast.modules import DynamicMemory, Generator, TextEncoder, TextEncoderConfig

MODES = {"quirk": "official", "fixed": "paper"}
RELATIVE = 1e-9


def close(actual, expected, relative=RELATIVE):
    scale = expected.abs().max().clamp(min=1e-300)
    error = ((actual - expected).abs().max() / scale).item()
    assert error <= relative, f"relative error {error:.3e}"


def weights(golden, prefix="w/"):
    return {key.removeprefix(prefix): value.double() for key, value in golden.items() if key.startswith(prefix)}


def with_fresh_norms(state):
    """Batch norm of the golden models starts from mean 0 and variance 1, which the arrays do not repeat."""
    norms = [
        key.removesuffix(".weight")
        for key, value in state.items()
        if key.endswith(".weight") and value.dim() == 1 and f"{key.removesuffix('.weight')}.bias" in state
    ]
    for norm in norms:
        size = state[f"{norm}.weight"].shape
        state[f"{norm}.running_mean"] = torch.zeros(size, dtype=torch.float64)
        state[f"{norm}.running_var"] = torch.ones(size, dtype=torch.float64)
    return state


@pytest.mark.parametrize("mode", MODES)
def test_generator_outputs_gradients_and_statistics(golden, mode):
    inputs = golden("gnet_s0_inputs")
    expected = golden(f"gnet_s0_{mode}_f64") | golden(f"gnet_s0_{mode}_grads_f64")
    expected = {key.removeprefix(f"{mode}/f64/").removeprefix("f64/"): value for key, value in expected.items()}
    model = compat.import_generator(with_fresh_norms(weights(inputs)), mask_mode=MODES[mode]).train()
    leaves = {name: inputs[f"in/{name}"].double().requires_grad_() for name in ("z", "sent_emb", "word_embs")}
    out = model(
        leaves["z"],
        leaves["sent_emb"],
        leaves["word_embs"],
        inputs["in/mask"],
        eps=inputs["in/eps"].double(),
        return_attention=True,
    )
    close(out.images[0], expected["out/img1"])
    close(out.images[1], expected["out/img2"])
    close(out.images[2].flatten(2)[..., ::5], expected["out/img3_sub"])
    close(out.attention[0], expected["out/att1"])
    close(out.attention[1].flatten(2)[..., ::5], expected["out/att2_sub"])
    close(out.mu, expected["out/mu"])
    close(out.logvar, expected["out/logvar"])

    scalar = sum(
        (inputs[f"proj/img{k}"].double() / 8 * image).sum() / image[0, 0].numel()
        for k, image in enumerate(out.images, 1)
    )
    close(scalar, expected["scalar"])
    scalar.backward()
    for name, leaf in leaves.items():
        close(leaf.grad, expected[f"grad/{name}"])
    for parameter in model.parameters():
        parameter.data.copy_(parameter.grad)  # the exporter then names gradients as the authors name weights
    exported = compat.export_generator(model)
    compared = 0
    for key, value in expected.items():
        if key.startswith(("grad_w/", "buf_after/")):
            close(exported[key.split("/", 1)[1]], value)
            compared += 1
    assert compared == sum(key.startswith(("grad_w/", "buf_after/")) for key in expected) > 50


def conv_norm_state(golden):
    return with_fresh_norms(weights(golden))


@pytest.mark.parametrize("mode", MODES)
def test_memory_module_matches_the_stage(golden, mode):
    inputs, expected = golden("stage_small_s0_inputs"), golden(f"stage_small_s0_{mode}")
    memory = DynamicMemory(8, 16, mask_mode=MODES[mode]).double()
    names = {
        "gate_word": "A.weight",
        "gate_image": "B.weight",
        "word": "M_w.0",
        "image": "M_r.0",
        "key": "key.0",
        "value": "value.0",
        "response": "response_gate.0",
    }
    with torch.no_grad():
        for name, parameter in memory.named_parameters():
            stem, _, kind = name.rpartition("_")
            theirs = names.get(name) or f"{names[stem]}.{kind}"
            parameter.copy_(inputs[f"w/{theirs}"].double().reshape(parameter.shape))
    out = memory(
        inputs["in/h_code"].double(), inputs["in/word_embs"].double(), inputs["in/mask"], return_attention=True
    )
    close(out.h, expected[f"{mode}/f64/out/h_new"])
    close(out.attention, expected[f"{mode}/f64/out/att"])
    close(out.response_gate, expected[f"{mode}/f64/out/response_gate"])


def discriminator_grads(model):
    """Gradients of a discriminator, under the authors' names."""
    names = compat.export_discriminator(model)
    by_pointer = {p.shape: p for p in model.parameters()}
    assert by_pointer
    for parameter in model.parameters():
        parameter.data.copy_(parameter.grad)
    result = compat.export_discriminator(model)
    assert result.keys() == names.keys()
    return result


def test_discriminator_two_forwards(golden):
    arrays = golden("dnet64_s0_f64")
    model = compat.import_discriminator(weights(arrays), spectral_norm="official").train()
    sentence = arrays["in/sent_emb"].double().requires_grad_()
    images = [(arrays[f"in/{name}"].double() / 128).requires_grad_() for name in ("x", "x2")]
    conditional, unconditional = arrays["proj/cond"].double(), arrays["proj/uncond"].double()

    def judge(image):
        features = model.features(image)
        return features, model.logits(features, sentence).sigmoid(), model.logits(features).sigmoid()

    features, cond, uncond = judge(images[0])
    close(features, arrays["f64/out/features"])
    close(cond, arrays["f64/out/cond"])
    close(uncond, arrays["f64/out/uncond"])
    check_state(model, arrays, "f64/state_after1/")
    first = (conditional * cond).sum() + (unconditional * uncond).sum()
    _, cond2, uncond2 = judge(images[1])
    close(cond2, arrays["f64/out2/cond"])
    close(uncond2, arrays["f64/out2/uncond"])
    check_state(model, arrays, "f64/state_after2/")
    (first + (conditional * cond2).sum() - (unconditional * uncond2).sum()).backward()
    close(images[0].grad, arrays["f64/cleansn/grad12/in.x"])
    close(sentence.grad, arrays["f64/cleansn/grad12/in.sent_emb"])
    grads = discriminator_grads(model)
    for key, value in arrays.items():
        name = key.removeprefix("f64/cleansn/grad12/")
        if name != key and not name.startswith("in."):
            close(grads[name], value)


def test_discriminator_first_forward_gradients(golden):
    arrays = golden("dnet64_s0_f64")
    model = compat.import_discriminator(weights(arrays), spectral_norm="official").train()
    features = model.features(arrays["in/x"].double() / 128)
    cond = model.logits(features, arrays["in/sent_emb"].double()).sigmoid()
    uncond = model.logits(features).sigmoid()
    ((arrays["proj/cond"].double() * cond).sum() + (arrays["proj/uncond"].double() * uncond).sum()).backward()
    grads = discriminator_grads(model)
    for key, value in arrays.items():
        if key.startswith("f64/grad1/") and "in." not in key:
            close(grads[key.removeprefix("f64/grad1/")], value)


def check_state(model, arrays, prefix):
    state = compat.export_discriminator(model)
    keys = [key for key in arrays if key.startswith(prefix)]
    assert keys
    for key in keys:
        close(state[key.removeprefix(prefix)], arrays[key])


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_text_encoder(golden, kind):
    arrays = golden("rnn_s0")
    state = {k.removeprefix(f"{kind}/w/"): v.double() for k, v in arrays.items() if k.startswith(f"{kind}/w/")}
    model = compat.import_text_encoder(state)
    words, sentence = model(arrays["in/captions"], arrays["in/cap_lens"])
    close(words, arrays[f"{kind}/f64/words_emb"])
    close(sentence, arrays[f"{kind}/f64/sent_emb"])
    assert isinstance(model, TextEncoder)
    assert model.config == TextEncoderConfig(
        vocabulary_size=50, word_channels=16, embedding_channels=12, rnn=kind.lower()
    )
    assert isinstance(model, torch.nn.Module)
    assert not isinstance(model, Generator)
