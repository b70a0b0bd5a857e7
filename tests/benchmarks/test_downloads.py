"""Downloads are checked, and CIFAR-10 comes out as folders of its classes."""

import functools
import hashlib
import http.server
import io
import pickle
import tarfile
import threading

import numpy as np
import pytest

from benchmarks.shared import downloads
from benchmarks.suite.workloads.cifar import CLASSES
from examples.images import opened

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (12, 32, 32, 3), dtype=np.uint8)


def _archive(path) -> None:
    """Of two images in each batch, in CIFAR-10's own format."""
    names = [name for part in downloads.BATCHES.values() for name in part]
    contents = {"batches.meta": {b"label_names": [name.encode() for name in CLASSES]}}
    for place, name in enumerate(names):
        images = IMAGES[2 * place : 2 * place + 2]
        data = images.transpose(0, 3, 1, 2).reshape(2, -1)
        contents[name] = {b"data": data, b"labels": [place, 0]}
    with tarfile.open(path, "w:gz") as tar:
        for name, content in contents.items():
            raw = pickle.dumps(content)
            info = tarfile.TarInfo(f"cifar-10-batches-py/{name}")
            info.size = len(raw)
            tar.addfile(info, io.BytesIO(raw))


def test_an_archive_becomes_folders_of_classes_in_the_order_of_the_archive(tmp_path):
    _archive(tmp_path / "archive.tar.gz")
    downloads.write_images(tmp_path / "archive.tar.gz", tmp_path / "cifar10.zip")
    first = [f"train/{CLASSES[0]}/{number:04}.png" for number in range(3)]
    with opened(tmp_path / "cifar10.zip") as source:
        files = source.at_depth(2)
        pixels = source.pixels(first, 32, "RGB")
    assert len(files) == 12
    assert f"test/{CLASSES[5]}/0000.png" in files
    np.testing.assert_allclose(pixels, IMAGES[[0, 1, 3]] / 127.5 - 1, atol=1e-6)


@pytest.fixture
def address(tmp_path):
    """Of a server on this machine for the files of a folder."""
    served = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), served) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_file_with_another_checksum_is_an_error_and_is_not_kept(tmp_path, address):
    (tmp_path / "file.npz").write_bytes(b"right")
    right = f"md5:{hashlib.md5(b'right').hexdigest()}"
    found = downloads.fetched((f"{address}/file.npz", right), tmp_path / "to")
    assert found.read_bytes() == b"right"
    wrong = downloads.PNEUMONIA[1]
    with pytest.raises(ValueError, match="hash"):
        downloads.fetched((f"{address}/file.npz", wrong), tmp_path / "other")
    assert not (tmp_path / "other" / "file.npz").exists()
