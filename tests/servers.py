"""Stores that are none: a folder behind http://, and one in a bucket of S3."""

import contextlib
import functools
import http.server
import io
import logging
import os
import pathlib
import re
import threading
from collections.abc import Callable, Iterator

import pytest


class _Files(http.server.SimpleHTTPRequestHandler):
    """A folder's files, whole and in ranges, its listings, and what goes wrong in between."""

    def __init__(self, *args, trouble, ranges, **kwargs):
        self._trouble, self._ranges = trouble, ranges
        super().__init__(*args, **kwargs)

    def do_GET(self):
        if status := self._trouble(self.path):
            self.send_error(status)
            return
        super().do_GET()

    def send_head(self):
        path = self.translate_path(self.path)
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not (self._ranges and wanted and os.path.isfile(path)):
            return super().send_head()
        whole = pathlib.Path(path).read_bytes()
        first, last = int(wanted[1]), min(int(wanted[2] or len(whole)), len(whole) - 1)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {first}-{last}/{len(whole)}")
        self.send_header("Content-Length", str(last + 1 - first))
        self.end_headers()
        return io.BytesIO(whole[first : last + 1])

    def log_message(self, *args):
        """Says nothing."""


@contextlib.contextmanager
def http_server(
    folder: pathlib.Path, trouble: Callable[[str], int] = lambda path: 0, *, ranges: bool = True
) -> Iterator[str]:
    """Yields the URL of a folder.

    Args:
      folder: what is served.
      trouble: the status with which a path is refused when it is read, 0 if it is not.
      ranges: whether parts of files are sent; else they are sent as a whole.
    """
    handler = functools.partial(_Files, directory=folder, trouble=trouble, ranges=ranges)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


@contextlib.contextmanager
def s3_bucket(folder: pathlib.Path) -> Iterator[str]:
    """Yields the URL of a bucket that has the files of a folder, for this and other processes."""
    moto, s3fs = pytest.importorskip("moto.server"), pytest.importorskip("s3fs")
    import boto3  # comes with moto

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = moto.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        stack.callback(server.stop)
        stack.callback(s3fs.S3FileSystem.clear_instance_cache)  # it knows the server
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "made-up")
        store = boto3.client("s3")
        store.create_bucket(Bucket="bucket")
        for path in folder.rglob("*"):
            if path.is_file():
                store.upload_file(str(path), "bucket", str(path.relative_to(folder)))
        s3fs.S3FileSystem.clear_instance_cache()
        yield "s3://bucket"
