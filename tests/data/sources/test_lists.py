"""Lists of images: columns by name and place, weights, what is wrong with a line."""

import os

import pytest

from ibot_jax.data.sources.identity import names_of
from ibot_jax.data.sources.opening import open_source
from ibot_jax.data.sources.shared_images import find_shared
from ibot_jax.errors import UserError


@pytest.fixture
def listed(tmp_path):
    """Returns a function from the name and the text of a list to its source."""

    def open_list(name, text, **options):
        (tmp_path / name).write_text(text)
        return open_source(f"list:{tmp_path}/{name}", "train", **options)

    return open_list


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.csv", "x/1.jpg,cat\n/y/2.jpg,dog\ns3://b/3.jpg,cat\n"),
        ("a.csv", "Label,x,Path\ncat,0,x/1.jpg\n\ndog,0,/y/2.jpg\ncat,0,s3://b/3.jpg\n"),
        ("a.csv", '\ufeffpath;label\r\n"x/1.jpg";cat\r\n/y/2.jpg;dog\r\ns3://b/3.jpg;cat\r\n'),
        ("a.csv", "img_path\tlabel\nx/1.jpg\tcat\n/y/2.jpg\tdog\ns3://b/3.jpg\tcat\n"),
        ("a.csv", ' path, "label"\nx/1.jpg, "cat"\n/y/2.jpg , dog\ns3://b/3.jpg, cat\n'),
        ("a.tsv", "filename\tclass\nx/1.jpg\tcat\n/y/2.jpg\tdog\ns3://b/3.jpg\tcat\n"),
        (
            "a.jsonl",
            '{"label": "cat", "path": "x/1.jpg"}\n\n{"label": "dog", "path": "/y/2.jpg"}\n'
            '{"path": "s3://b/3.jpg", "label": "cat", "more": [1]}\n',
        ),
    ],
)
def test_columns_are_found(name, text, listed, tmp_path):
    source = listed(name, text)
    paths = [source.describe(index) for index in range(3)]
    assert paths == [f"{tmp_path}/x/1.jpg", "/y/2.jpg", "s3://b/3.jpg"]
    assert source.labels.tolist() == [0, 1, 0] and source.class_names == ["cat", "dog"]
    assert [source.relative_name(index) for index in range(2)] == ["x/1.jpg", "/y/2.jpg"]
    assert source.locate(1) == ("/y/2.jpg", 1)


def test_a_path_a_line(listed):
    source = listed("a.txt", "one file.jpg\n\n  b,c.png\n")
    assert [source.relative_name(i) for i in range(len(source))] == ["one file.jpg", "b,c.png"]
    assert source.num_classes is None


def test_weights_are_how_often_an_image_counts(listed):
    source = listed("a.csv", "path,weight\na.jpg,2\nb.jpg,0\nc.jpg,1\n")
    assert [source.relative_name(i) for i in range(len(source))] == ["a.jpg", "a.jpg", "c.jpg"]
    assert source.labels is None
    with pytest.raises(UserError, match=r"the weight '0.5' of b.jpg is no whole number from"):
        listed("a.csv", "path,weight\na.jpg,2\nb.jpg,0.5\n")
    for odd in ("-1", "nan", "inf", "1e12"):  # the last would fill the memory
        with pytest.raises(UserError, match="is no whole number from 0 to 1,000,000; scale"):
            listed("a.csv", f"path,weight\nb.jpg,{odd}\n")


def test_labels_for_some_are_none(listed, caplog):
    source = listed("a.csv", "a.jpg,cat\nb.jpg\nc.jpg,\n")
    assert source.labels is None and source.locate(0)[1] == -1
    assert "is taken without labels: 2 of 3 images have none" in caplog.text


def test_numbers_that_count_no_classes_are_names_of_them(listed):
    source = listed("a.csv", "a.jpg,98765432109\nb.jpg,7\nc.jpg,98765432109\n")
    assert source.labels.tolist() == [1, 0, 1] and source.class_names == ["7", "98765432109"]


def test_names_that_are_no_utf8_are_names(listed, tmp_path):
    (tmp_path / "a.csv").write_bytes(b"caf\xe9.png,x\nb.png,y\n")
    path = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(path, "wb") as file:
        file.write(b"pixels")
    source = open_source(f"list:{tmp_path}/a.csv", "train")
    assert source.fetch(source.locate(0)[0]) == b"pixels" and next(names_of(source)) == path[-8:]


def test_lists_of_the_same_files_share_them(listed):
    first, second = listed("a.txt", "1.jpg\n2.jpg\n3.jpg\n"), listed("b.csv", "3.jpg,x\n4.jpg,y\n")
    assert find_shared(first, second).count == 1
    assert find_shared(first, listed("c.csv", "3.jpg,x\n1.jpg,y\n", max_per_class=1)).count == 2


def test_the_first_of_each_class(listed):
    source = listed("a.csv", "a.jpg,1\nb.jpg,0\nc.jpg,1\nd.jpg,0\n", max_per_class=1)
    assert [source.relative_name(i) for i in range(len(source))] == ["a.jpg", "b.jpg"]
    assert source.labels.tolist() == [1, 0] and source.class_names == ["0", "1"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.xls", "a.jpg", "is no list; it ends in .csv, .tsv, .jsonl or .txt"),
        ("a.csv", "", "names no image; write a path a line"),
        ("a.csv", "path,label\n,cat\n", "the line ',cat' names no path"),
        ("a.csv", "photo,label\na.jpg,cat\n", "none of the columns photo, label is known to hold"),
        ("a.csv", 'path,label\na.jpg,"cat\nb.jpg,dog\n', "'cat' goes on in the next line; close"),
        ("a.jsonl", "a.jpg\n", "line 1 is no JSON"),
        ("a.jsonl", '{"path": "a"}\n[1]\n', "line 2 is no object"),
        ("a.jsonl", '{"label": "a"}\n', "line 1 names no path"),
        (
            "a.jsonl",
            '{"path": "\\ud800.png"}\n',
            "'.ud800.png' is no path .*surrogates not allowed",
        ),
        ("a.txt", "a\0.\0p\0n\0g\0", "is no path .it has a zero .*; save the list as UTF-8"),
    ],
)
def test_mistakes_are_told(name, text, message, listed):
    with pytest.raises(UserError, match=message):
        listed(name, text)
