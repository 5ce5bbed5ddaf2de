"""Requests to web servers, which urllib3's Retry repeats when they fail.

Loading the library requests takes a tenth of a second. The modules that every chapter imports therefore import this
module inside a function.
"""

import math
import sys
import time
from contextlib import suppress

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry, Timeout, exceptions

from plumbing import cli

ATTEMPTS = 8  # the number of attempts that a patient program makes
LONGEST_PAUSE = 60  # seconds between two attempts, where the server does not ask for another pause
LONGEST_WAIT = 600  # seconds. If a server asks for a longer pause, the user should come back later.
SILENCE = 5  # seconds without a byte after which a download with a deadline gives up the connection

# With these errors there was no answer at all, so another request to the same server would fail too.
NO_ANSWER = (exceptions.TimeoutError, exceptions.NewConnectionError, exceptions.SSLError, exceptions.ProxyError,
             requests.Timeout)  # fmt: skip


class Fault(requests.RequestException):
    """The server sent an answer that is not usable. It may answer correctly if it is asked again."""


class Policy(Retry):
    """urllib3's Retry with a deadline. It decides when a failed request is repeated.

    After status 429 or 5xx or a broken connection there is a pause of 0.5, 1, 2, … seconds, or of the time that the
    server names in Retry-After. A request is not repeated if the pause would end after the deadline or last longer than
    LONGEST_WAIT. Nor is it repeated without a network: if the host's name is unknown, or connecting meets silence.

    total     the number of repetitions, which is one less than the number of attempts
    deadline  the latest time of an attempt, as time.monotonic() counts
    """

    def __init__(self, total, deadline=math.inf, **options):
        usual = {"status_forcelist": (429, *range(500, 600)), "raise_on_status": False, "backoff_factor": 0.5,
                 "backoff_max": LONGEST_PAUSE}  # fmt: skip
        super().__init__(total, **usual | options)
        self.deadline = deadline

    def new(self, **changes):
        return super().new(deadline=self.deadline, **changes)

    def get_backoff_time(self):
        """The pause in seconds. In urllib3's own version the first repetition follows without a pause."""
        return min(self.backoff_max, self.backoff_factor * 2 ** (len(self.history) - 1))

    def get_retry_after(self, response):
        """The pause in seconds that the server asks for; None if it asks for none, or in an invalid form."""
        with suppress(exceptions.InvalidHeader, ValueError, OverflowError):
            return super().get_retry_after(response)

    def increment(self, method=None, url=None, response=None, error=None, _pool=None, _stacktrace=None):
        """The policy after one more failure. MaxRetryError if the request should not be repeated."""
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        cause = error or exceptions.ResponseError(f"status {response.status}")
        pause = (response and self.get_retry_after(response)) or following.get_backoff_time()
        refused = isinstance(error, exceptions.NewConnectionError)
        silent = isinstance(error, exceptions.ConnectTimeoutError) and not refused
        no_network = silent or isinstance(error, exceptions.NameResolutionError)
        if no_network or pause > LONGEST_WAIT or time.monotonic() + pause >= self.deadline:
            raise exceptions.MaxRetryError(_pool, url, cause) from cause
        if pause >= 5:
            print(f"waiting {pause:.0f} s ({explain(cause)})", file=sys.stderr)
        return following


class UntilDeadline(Timeout):
    """The longest silence that an attempt accepts: SILENCE, or the time until the deadline if that is shorter.

    urllib3 clones this object before every attempt.
    """

    def __init__(self, deadline):
        super().__init__()
        self.deadline = deadline

    def clone(self):
        seconds = max(0.1, min(SILENCE, self.deadline - time.monotonic()))
        return Timeout(connect=seconds, read=seconds)


class Session(requests.Session):
    """A requests.Session that repeats failed requests under a Policy.

    agent    the User-Agent, which says who asks
    private  a dict of headers that are sent only to the host of the address asked for, not to one that it redirects to
    """

    def __init__(self, agent, policy, private=()):
        super().__init__()
        self.policy, self.private = policy, dict(private)
        self.headers.update({"User-Agent": agent} | self.private)
        self.auth = lambda request: request  # otherwise requests sends the passwords in ~/.netrc
        for scheme in ("http://", "https://"):
            self.mount(scheme, HTTPAdapter(max_retries=policy))

    def rebuild_auth(self, prepared_request, response):
        """Remove the private headers if a redirect leads to another host. requests calls this for each redirect."""
        if self.should_strip_auth(response.request.url, prepared_request.url):
            for name in self.private:
                prepared_request.headers.pop(name, None)


def persist(session, url, attempt, advice=""):
    """Return attempt(), which sends a GET request through the session and reads the body of the answer.

    The session repeats a request that fails before the body begins. This function repeats the attempt if the body is
    broken or attempt raises Fault, under the same policy. In the end a failure becomes a cli.UserError (or
    cli.Unreachable), whose message is one line with the advice at its end.
    """
    policy = session.policy
    try:
        while True:
            try:
                return attempt()
            except (exceptions.HTTPError, Fault) as error:
                answer = getattr(error, "response", None)
                answer = None if answer is None else answer.raw
                policy = policy.increment("GET", url, answer, error)
            policy.sleep(answer)
    except (requests.RequestException, exceptions.HTTPError) as error:
        kind = cli.Unreachable if any(isinstance(cause, NO_ANSWER) for cause in causes(error)) else cli.UserError
        raise kind(f"could not download {url}: {explain(error)}{advice}") from None


def causes(error):
    """The error, the error that led to it, and so on to the first one."""
    context = None if error.__suppress_context__ else error.__context__
    inner = [x for x in (*error.args, error.__cause__, context) if isinstance(x, Exception)]
    return [error, *causes(inner[0])] if inner else [error]


def explain(error):
    """The first cause of an error in a few words, on one line."""
    if isinstance(error, requests.HTTPError):
        return f"{error.response.status_code} {error.response.reason}"
    first = causes(error)[-1]
    if isinstance(first, exceptions.IncompleteRead):
        return f"truncated: {first.partial:,} of {first.partial + first.expected:,} bytes"
    return " ".join(str(first).split()) or type(first).__name__
