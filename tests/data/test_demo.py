"""The embedded demo set."""

from dmgan_fast.data import open_dataset
from dmgan_fast.data.dataset import read_image


def test_demo_set_is_complete():
    train, test = open_dataset("demo", image_sizes=(64, 128)), open_dataset("demo", "test", image_sizes=(64, 128))
    assert len(train) + len(test) >= 1900
    assert 0.05 < len(test) / (len(train) + len(test)) < 0.2
    assert not {r.key for r in train.records} & {r.key for r in test.records}
    assert train.vocabulary == test.vocabulary
    assert len({record.class_id for record in train.records}) > 50
    colours = {"red", "orange", "yellow", "green", "blue", "purple", "pink", "brown", "black", "gray", "white"}
    for record in [*train.records, *test.records]:
        assert len(set(record.captions)) >= 4
        assert all(len(caption.split()) >= 3 for caption in record.captions)
        assert colours & set(record.captions[0].replace(",", "").split()), record.captions
    for record in train.records[::20]:
        assert read_image(record).size == (128, 128)


def test_demo_captions_say_the_colours_of_the_picture():
    test = open_dataset("demo", image_sizes=(64,), augment=False)
    said = {record.key: record.captions[0] for record in test.records}
    expected = {"1F34E": "a red", "1F438": "a green", "1F433": "a blue", "1F346": "a purple", "1F43B": "a brown"}
    known = {key: colour for key, colour in expected.items() if key in said}
    assert len(known) >= 3
    for key, colour in known.items():
        assert said[key].startswith(colour), said[key]
