"""Stores that are none: a folder behind http://, one in a bucket of S3, a data set of a hub."""

import contextlib
import functools
import hashlib
import http.server
import io
import json
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
def _serving(handler: Callable[..., http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Yields the URL at which a handler is asked."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


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
    with _serving(handler) as url:
        yield url


class _Hub(http.server.BaseHTTPRequestHandler):
    """What of Hugging Face's hub its clients need to load one data set, at one commit."""

    COMMIT = "0" * 40

    def __init__(self, *args, name, files, **kwargs):
        self._name, self._files = name, files
        super().__init__(*args, **kwargs)

    def do_GET(self):
        path = self.path.partition("?")[0]
        api, resolve = f"/api/datasets/{self._name}", f"/datasets/{self._name}/resolve/"
        if path.startswith(f"{api}/tree/"):
            folder = path.removeprefix(f"{api}/tree/{self.COMMIT}").strip("/")
            self._answer(json.dumps(self._listed(folder)).encode())
        elif path.startswith(api):
            files = [{"rfilename": name} for name in self._files]
            self._answer(
                json.dumps({"id": self._name, "sha": self.COMMIT, "siblings": files}).encode()
            )
        elif path.startswith(resolve) and (
            found := self._files.get(path.removeprefix(resolve).partition("/")[2])
        ):
            digest = hashlib.sha1(found).hexdigest()
            self._answer(found, {"X-Repo-Commit": self.COMMIT, "ETag": f'"{digest}"'})
        else:
            lacks = "Entry" if self._name in path else "Repo"
            self._answer(b"{}", {"X-Error-Code": f"{lacks}NotFound"}, status=404)

    do_HEAD = do_GET

    def _listed(self, folder):
        below = [pathlib.PurePath(name) for name in self._files]
        folders = {str(path.parent) for path in below} - {"."}
        entries = [{"type": "directory", "path": name, "oid": "0", "size": 0} for name in folders]
        entries += [
            {"type": "file", "path": name, "oid": "0", "size": len(found)}
            for name, found in self._files.items()
        ]
        return [e for e in entries if str(pathlib.PurePath(e["path"]).parent) == (folder or ".")]

    def _answer(self, body, headers=(), status=200):
        self.send_response(status)
        kind = {"Content-Type": "application/json", "Content-Length": str(len(body))}
        for name, value in (kind | dict(headers)).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *args):
        """Says nothing."""


@contextlib.contextmanager
def hub(name: str, files: dict[str, bytes]) -> Iterator[str]:
    """Yields the URL of a hub that has one data set, for HF_ENDPOINT.

    Args:
      name: of the data set, ORG/NAME.
      files: what it holds, by path.
    """
    with _serving(functools.partial(_Hub, name=name, files=files)) as url:
        yield url


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
