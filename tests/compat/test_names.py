"""Names of the authors' tensors."""

import pytest

from dmgan_fast.compat import names


def translated(rules, key):
    (their, reshape), *_ = names.translate(rules, [key]).values()
    return their, reshape([7, 5])


@pytest.mark.parametrize(
    ("rules", "ours", "theirs", "shape"),
    [
        (names.GENERATOR, "stages.1.memory.gate_word", "h_net3.A.weight", [1, 7, 5]),
        (names.GENERATOR, "stages.0.memory.key_weight", "h_net2.key.0.weight", [7, 5, 1]),
        (names.GENERATOR, "stages.0.memory.context_weight", "h_net2.att.conv_context.weight", [7, 5, 1, 1]),
        (names.GENERATOR, "stages.0.residual_blocks.1.conv2.weight", "h_net2.residual.1.block.3.weight", [7, 5]),
        (names.GENERATOR, "initial_stage.up_blocks.3.norm.running_var", "h_net1.upsample4.2.running_var", [7, 5]),
        (names.discriminator(4), "down.3.u", "img_code_s16.6.module.weight_u", [7, 5]),
        (names.discriminator(6), "down.5.weight", "img_code_s64.0.module.weight_bar", [7, 5]),
        (names.discriminator(6), "narrow.1.bias", "img_code_s64_2.0.module.bias", [7, 5]),
        (names.batch_norm_discriminator(4), "down.2.1.weight", "img_code_s16.6.weight", [7, 5]),
        (names.TEXT_ENCODER, "embedding.weight", "encoder.weight", [7, 5]),
        (names.IMAGE_ENCODER, "region_head.weight", "emb_features.weight", [7, 5]),
    ],
)
def test_each_tensor_has_the_authors_name_and_their_axes_of_size_one(rules, ours, theirs, shape):
    assert translated(rules, ours) == (theirs, shape)


def test_a_tensor_without_a_rule_is_an_error():
    with pytest.raises(KeyError, match=r"stages\.0\.memory\.new_weight"):
        names.translate(names.GENERATOR, ["stages.0.memory.new_weight"])
