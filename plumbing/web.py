"""Requests to web servers, which are repeated under the rules of urllib3's Retry when they fail.

Loading the library requests takes a tenth of a second. The modules that every chapter imports therefore import this
module inside a function.
"""

import math
import socket
import sys
import threading
import time
from contextlib import contextmanager, suppress

import requests
from requests.adapters import HTTPAdapter
from urllib3 import Retry, Timeout, connection, exceptions

from plumbing import cli, foreign

ATTEMPTS = 8  # the number of attempts that a patient program makes
LONGEST_PAUSE = 60  # seconds between two attempts, where the server does not ask for another pause
LONGEST_WAIT = 600  # seconds. If a server asks for a longer pause, the user should come back later.
SILENCE = 5  # seconds without a byte after which a download with a deadline gives up the connection
LONG_SILENCE = 20  # the same for a download without a deadline
SLOWEST = 100  # bytes per second. A slower server would keep us waiting for days.

PASSING = (429, *range(500, 600))  # with these statuses, a server asks to be asked again

TIMEOUTS = exceptions.TimeoutError, TimeoutError
# With these errors there was no answer at all, so another request to the same server would fail too.
NO_ANSWER = (*TIMEOUTS, exceptions.NewConnectionError, exceptions.SSLError, exceptions.ProxyError, requests.Timeout)


class Fault(requests.RequestException):
    """The server sent an answer that is not usable. It may answer correctly if it is asked again."""


class Policy(Retry):
    """urllib3's Retry with a deadline. It decides when a failed request is repeated.

    After status 429 or 5xx or a broken connection there is a pause of 0.5, 1, 2, … seconds, or of the time that the
    server names in Retry-After. A request is not repeated if the pause would end after the deadline or last longer than
    LONGEST_WAIT. Nor is it repeated without a network: if the host's name is unknown, or connecting meets silence. Nor
    after two timeouts in a row.

    total     the number of repetitions, which is one less than the number of attempts
    deadline  the latest time of an attempt, as time.monotonic() counts
    """

    def __init__(self, total, deadline=math.inf, **options):
        super().__init__(total, **{"backoff_factor": 0.5, "backoff_max": LONGEST_PAUSE} | options)
        self.deadline = deadline

    def new(self, **changes):
        return super().new(deadline=self.deadline, **changes)

    def get_backoff_time(self):
        """The pause in seconds. In urllib3's own version the first repetition follows without a pause."""
        return min(self.backoff_max, self.backoff_factor * 2 ** (len(self.history) - 1))

    def get_retry_after(self, response):
        """The pause in seconds that the server asks for; None if it asks for none, or in an invalid form."""
        with suppress(exceptions.InvalidHeader, ValueError, TypeError, LookupError, OverflowError):
            return super().get_retry_after(response)  # the parser of dates fails in several ways

    def increment(self, method=None, url=None, response=None, error=None, _pool=None, _stacktrace=None):
        """The policy after one more failure. MaxRetryError if the request should not be repeated."""
        following = super().increment(method, url, response, error, _pool, _stacktrace)
        cause = error or exceptions.ResponseError(f"status {response.status}")
        pause = (response and self.get_retry_after(response)) or following.get_backoff_time()
        refused = isinstance(error, exceptions.NewConnectionError)
        silent = isinstance(error, exceptions.ConnectTimeoutError) and not refused
        no_network = silent or isinstance(error, exceptions.NameResolutionError)
        before = self.history[-1].error if self.history else None
        too_slow = not refused and isinstance(error, TIMEOUTS) and isinstance(before, TIMEOUTS)
        if no_network or too_slow or pause > LONGEST_WAIT or time.monotonic() + pause >= self.deadline:
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


@contextmanager
def patience(seconds, hang_up):
    """Call `hang_up` if the `with` block takes longer than so many seconds, and raise TimeoutError at its end.

    urllib3 limits the silence between two bytes. A server that sends a byte now and then is never silent, and some
    parts of an answer, such as "100 Continue" or lines of a trailer, can be repeated for ever within a single call.
    """
    late = threading.Event()

    def stop():
        late.set()
        with suppress(OSError, ValueError, RuntimeError):  # the connection has ended already
            hang_up()

    timer = threading.Timer(seconds, stop)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        if late.is_set():  # whatever error the closed connection has caused
            raise TimeoutError("timed out: the server answers too slowly") from None


class WholeHead:
    """A part of the two classes below: the status and the headers must be complete after `timeout` seconds."""

    def getresponse(self):
        with patience(self.timeout, lambda: self.sock.shutdown(socket.SHUT_RDWR)):
            return super().getresponse()


class Connection(WholeHead, connection.HTTPConnection):
    pass


class SecureConnection(WholeHead, connection.HTTPSConnection):
    pass


class Adapter(HTTPAdapter):
    """requests' adapter to urllib3, which here uses the connections above and repeats nothing: `persist` does."""

    CLASSES = {connection.HTTPConnection: Connection, connection.HTTPSConnection: SecureConnection}

    def get_connection_with_tls_context(self, *args, **named):
        pool = super().get_connection_with_tls_context(*args, **named)
        pool.ConnectionCls = self.CLASSES.get(pool.ConnectionCls, pool.ConnectionCls)
        return pool

    def send(self, *args, **named):
        answer = super().send(*args, **named)
        if answer.is_redirect:
            answer.raw.close()  # requests would read its body to the end, which may never come
        return answer


class Session(requests.Session):
    """A requests.Session for `persist`, with the Policy under which failed requests are repeated.

    agent    the User-Agent, which says who asks
    private  a dict of headers that are sent only to the host of the address asked for, not to one that it redirects to
    """

    def __init__(self, agent, policy, private=()):
        super().__init__()
        self.policy, self.private, self.max_redirects = policy, dict(private), 10
        self.headers.update({"User-Agent": agent} | self.private)
        self.auth = lambda request: request  # otherwise requests sends the passwords in ~/.netrc
        for scheme in ("http://", "https://"):
            self.mount(scheme, Adapter())

    def rebuild_auth(self, prepared_request, response):
        """Remove the private headers if a redirect leads to another host. requests calls this for each redirect."""
        if self.should_strip_auth(response.request.url, prepared_request.url):
            for name in self.private:
                prepared_request.headers.pop(name, None)


def persist(session, url, attempt, advice=""):
    """Return attempt(), which sends a GET request through the session and reads the body of the answer.

    If the attempt fails in a way that may pass, it is repeated under the policy of the session. In the end a failure
    becomes a cli.UserError (or cli.Unreachable), whose message is one line with the advice at its end.
    """
    policy = session.policy
    try:
        while True:
            try:
                return attempt()
            except (requests.RequestException, exceptions.HTTPError, TimeoutError) as error:
                answer = getattr(error, "response", None)
                if not may_pass(error, answer):
                    raise
                answer = None if answer is None else answer.raw
                policy = policy.increment("GET", url, answer, first_failure(error))
            policy.sleep(answer)
    except (requests.RequestException, exceptions.HTTPError, TimeoutError, ValueError) as error:
        # ValueError: the server redirects to an address that the libraries cannot take apart.
        kind = cli.Unreachable if any(isinstance(cause, NO_ANSWER) for cause in causes(error)) else cli.UserError
        raise kind(f"could not download {url}: {explain(error)}{advice}") from None


def check_status(answer, *wanted):
    """Raise an error unless the answer has one of the statuses `wanted`.

    A part of a file that nobody asked for, or an empty answer, would otherwise pass for the file.
    """
    answer.raise_for_status()
    if answer.status_code not in wanted:
        raise Fault(f"the server answered with status {answer.status_code}, which does not fit the request")


def pieces(answer, url, limit, silence):
    """Yield the body of the answer from `url` as it arrives: bytes, decompressed if the server compressed them.

    cli.UserError if it is longer than `limit` bytes, or claims to be. TimeoutError if nothing comes for `silence`
    seconds, or less than SLOWEST bytes a second come on average.
    """
    began, received, piece = time.monotonic(), 0, b""
    while True:
        received += len(piece)
        if max(received, answer.raw.length_remaining or 0) > limit:
            raise cli.UserError(f"{url} is larger than {limit:,} bytes")
        with patience(silence, answer.raw.shutdown):
            piece = answer.raw.read1(1 << 16, decode_content=True)  # read1 does not wait until there is more
        seconds = time.monotonic() - began
        if seconds > SILENCE and received + len(piece) < SLOWEST * seconds:
            raise TimeoutError(f"too slow: only {received + len(piece):,} bytes in {seconds:.0f} seconds")
        if not piece:
            return
        yield piece


def may_pass(error, answer):
    """Return whether a request that failed with `error` is worth repeating. answer: the server's, if there is one."""
    if isinstance(error, requests.HTTPError):
        return answer.status_code in PASSING
    if isinstance(error, exceptions.DecodeError):
        return False  # a body that says that it is compressed, and is not
    broken = requests.ConnectionError, requests.Timeout, exceptions.HTTPError, TimeoutError, Fault
    return isinstance(error, broken)


def first_failure(error):
    """Return urllib3's description of a failure, which the library requests wraps into an error of its own."""
    inner = [cause for cause in causes(error) if isinstance(cause, exceptions.HTTPError)]
    return next((cause for cause in inner if not isinstance(cause, exceptions.MaxRetryError)), error)


def causes(error):
    """The error, the error that led to it, and so on to the first one."""
    context = None if error.__suppress_context__ else error.__context__
    inner = [x for x in (*error.args, error.__cause__, context) if isinstance(x, Exception)]
    return [error, *causes(inner[0])] if inner else [error]


def explain(error):
    """The first cause of an error in a few words, on one line."""
    first = causes(error)[-1]
    if isinstance(first, requests.HTTPError):
        return f"{first.response.status_code} {foreign.printable(first.response.reason)}"
    if isinstance(first, requests.exceptions.InvalidSchema):
        return "the server redirects to an address that does not begin with http"
    if isinstance(first, exceptions.IncompleteRead) and first.expected is not None:
        return f"truncated: {first.partial:,} of {first.partial + first.expected:,} bytes"
    return foreign.printable(" ".join(str(first).split()) or type(first).__name__, 300)
