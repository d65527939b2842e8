"""A path of older documentation."""


def test_the_path_that_was_documented_for_saving_weights_still_works():
    from dmgan_fast.sampling import save_bundle
    from dmgan_fast.training import weights

    assert weights.save_bundle is save_bundle
