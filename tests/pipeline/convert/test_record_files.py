import pytest

from pipeline.convert import conversion


@pytest.mark.parametrize(
    ("class_name", "name"),
    [
        ("daisy", "daisy.tfrecord"),
        ("a/b", "a%2Fb.tfrecord"),
        ("a-00000-of-00002", "a%2D00000-of-00002.tfrecord"),
        ("a-00000-of-00002-b", "a-00000-of-00002-b.tfrecord"),
    ],
)
def test_a_record_file_is_named_after_its_class(class_name, name):
    assert conversion.record_name(class_name) == name


def test_no_class_is_named_as_a_shard_of_another():
    names = [conversion.record_name("a", shard, 2) for shard in range(2)]
    names += [conversion.record_name(name[: -len(".tfrecord")]) for name in names]
    assert len(set(names)) == 4
