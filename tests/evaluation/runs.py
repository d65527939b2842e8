"""How many images an evaluation draws, and its figures by name."""

COUNT = 128  # with 8 pictures a caption has 112 others of other classes


def results(report):
    return {metric["name"]: (metric["value"], metric["std"]) for metric in report["metrics"]}
