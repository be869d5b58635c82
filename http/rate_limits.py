"""Rate limits: a token bucket for each user, and one for each address that requests come from.

A bucket holds as many tokens as its policy allows a minute, and is full at first; a request takes one, a batch one for
each transfer; they come back evenly. Kept as one number, the time at which it will be full again (the generic cell rate
algorithm): nothing runs in between, and a bucket that is full again can be forgotten.

Written down here because the kept libraries read a clock of their own, where ours is trio's, and cost 4 to 9 µs a
question, where this costs half of one: two buckets and their headers are 3 µs a request.
"""

import math
from collections import OrderedDict
from typing import Final

import trio

from transfer_engine.http.client_addresses import ClientAddresses
from transfer_engine.http.identity import Caller
from transfer_engine.http.messages import Headers, Request
from transfer_engine.http.problems import ProblemCode, Rejected
from transfer_engine.http.rate_limit_settings import RateLimitSettings
from transfer_engine.http.settings import ServerSettings

WINDOW_S: Final = 60

_ROUNDING: Final = 1e-3
"""Share of one token that rounding may be off by."""


class Buckets:
    """The token buckets of one policy, by key. Bounded: the one that was not asked for the longest is forgotten."""

    def __init__(self, name: str, per_minute: int, remembered_most: int) -> None:
        self.name = name
        self.per_minute = per_minute
        self.policy: Final = f'"{name}";q={per_minute};w={WINDOW_S}'
        """As in ``RateLimit-Policy``."""
        self._interval_s = WINDOW_S / per_minute
        self._slack_s = self._interval_s * _ROUNDING
        self._remembered_most = remembered_most
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Buckets {self.policy}: {len(self._full_at)} of {self._remembered_most}>"

    def __len__(self) -> int:
        return len(self._full_at)

    def wait_s(self, key: str, cost: int, now: float) -> float:
        """Return in how many seconds ``cost`` tokens will be there: 0 for now. Nothing is taken."""
        full_at = self._full_at.get(key, now)
        wait_s = max(now, full_at) + cost * self._interval_s - now - WINDOW_S
        return wait_s if wait_s > self._slack_s else 0.0

    def take(self, key: str, cost: int, now: float) -> float:
        """Take ``cost`` tokens and return 0; or take nothing, and return in how many seconds they will be there.

        Who is refused is remembered for longer, too: he may not be forgotten for it.
        """
        buckets = self._full_at
        full_at = buckets.get(key, now)
        full_at = max(now, full_at) + cost * self._interval_s
        wait_s = full_at - now - WINDOW_S
        if wait_s > self._slack_s:
            if key in buckets:
                buckets.move_to_end(key)
            return wait_s
        buckets[key] = full_at
        buckets.move_to_end(key)
        if len(buckets) > self._remembered_most:
            buckets.popitem(last=False)
        return 0.0

    def left(self, key: str, now: float) -> tuple[int, int]:
        """Return how many tokens are there, and in how many seconds all will be."""
        missing_s = self._full_at.get(key, now) - now
        if missing_s <= 0:
            return self.per_minute, 0
        tokens = int((WINDOW_S - missing_s + self._slack_s) / self._interval_s)
        return max(tokens, 0), math.ceil(missing_s - self._slack_s)


class RateLimits:
    """Counts requests by address, and by user."""

    def __init__(self, settings: RateLimitSettings, addresses: ClientAddresses) -> None:
        self._bucket_of = addresses.bucket_of
        most = settings.remembered_most
        per_user, per_address = settings.per_user_per_minute, settings.per_address_per_minute
        self.users = None if per_user is None else Buckets("user", per_user, most)
        self.addresses = None if per_address is None else Buckets("address", per_address, most)
        policies = [buckets.policy for buckets in (self.users, self.addresses) if buckets is not None]
        self._policy: Final = (b"ratelimit-policy", ", ".join(policies).encode())

    def __repr__(self) -> str:
        return f"<RateLimits {self.users!r} {self.addresses!r}>"

    @property
    def is_on(self) -> bool:
        """Whether anything is limited."""
        return self.users is not None or self.addresses is not None

    def arrive(self, request: Request) -> None:
        """Count a request for its address, before anybody knows who asks.

        Raises:
            Rejected: too many came from there (``rate_limited``, 429).
        """
        if self.addresses is not None:
            key = self._bucket_of(request.peer, request.forwarded_for)
            wait_s = self.addresses.take(key, 1, trio.current_time())
            if wait_s:
                raise _refusal(self.addresses, 1, wait_s)

    def identified(self, caller: Caller) -> None:
        """Count a request for its user; without tokens nobody is one.

        Raises:
            Rejected: the user asked too often (``rate_limited``, 429).
        """
        if self.users is not None and caller.subject:
            wait_s = self.users.take(caller.subject, 1, trio.current_time())
            if wait_s:
                raise _refusal(self.users, 1, wait_s)

    def charge(self, request: Request, caller: Caller, cost: int, *, of: int = 0) -> None:
        """Count ``cost`` more, for address and user alike: all of it, or nothing.

        ``of`` is what all of it costs, where a part was counted before.

        Raises:
            Rejected: that is too many now (``rate_limited``, 429), or ever (``exceeds_rate_limit``, 422).
        """
        buckets = []
        if self.addresses is not None:
            buckets.append((self.addresses, self._bucket_of(request.peer, request.forwarded_for)))
        if self.users is not None and caller.subject:
            buckets.append((self.users, caller.subject))
        now = trio.current_time()
        for policy, key in buckets:
            wait_s = policy.wait_s(key, cost, now)
            if wait_s:
                raise _refusal(policy, max(cost, of), wait_s)
        # The point of no return: all of them have the tokens.
        for policy, key in buckets:
            policy.take(key, cost, now)

    def headers(self, request: Request, caller: Caller | None) -> Headers:
        """Return what an answer says of the limits that apply to it: ``RateLimit-Policy`` and ``RateLimit``."""
        now = trio.current_time()
        states = []
        if self.users is not None and caller is not None and caller.subject:
            states.append(b'"user";r=%d;t=%d' % self.users.left(caller.subject, now))
        if self.addresses is not None:
            key = self._bucket_of(request.peer, request.forwarded_for)
            states.append(b'"address";r=%d;t=%d' % self.addresses.left(key, now))
        if not states:
            return (self._policy,)
        return self._policy, (b"ratelimit", b", ".join(states))

    def of_user(self, caller: Caller) -> tuple[int, int, int] | None:
        """Return the requests of a caller that are allowed in a minute, those left now, and in how many s all are."""
        if self.users is None or not caller.subject:
            return None
        return (self.users.per_minute, *self.users.left(caller.subject, trio.current_time()))


def _refusal(policy: Buckets, cost: int, wait_s: float) -> Rejected:
    limit = f"{policy.per_minute} in a minute for one {policy.name}"
    if cost > policy.per_minute:
        return Rejected(
            ProblemCode.EXCEEDS_RATE_LIMIT,
            f"{cost} at once are more than the rate limit ever allows, {limit}: send fewer together",
        )
    retry_after_s = max(1, math.ceil(wait_s))
    return Rejected(
        ProblemCode.RATE_LIMITED,
        f"the rate limit is {limit}: try again in {retry_after_s} s",
        headers=((b"retry-after", b"%d" % retry_after_s),),
    )


def rate_limits_of(settings: ServerSettings) -> RateLimits:
    """Return the rate limits of a server."""
    return RateLimits(settings.rate_limits, ClientAddresses(settings.trusted_proxies))
