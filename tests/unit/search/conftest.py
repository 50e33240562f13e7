import random
from bisect import bisect_right
from dataclasses import dataclass, field

import pytest

from buildvm_nb.search import Answer, State


@dataclass
class SimulatedGuest:
    """Software whose state changes at given positions, built in a guest whose clock goes on."""

    changes: list[int]
    starts: State = State.GOOD
    duration: int = 5
    looks: tuple[float, ...] = (0.0,)
    """When the step looks at the clock, as fractions of its duration."""
    jitter: int = 0
    """Some runs take up to so much longer."""
    delay: int = 0
    """The step begins so much after the instant that the guest was set to."""
    held: State | None = None
    """What it always answers under a held clock; None: the truth."""
    unknown: frozenset[int] = frozenset()
    flakiness: float = 0.0
    seed: int = 0
    most: int = 1
    """How many probes may come together."""
    asked: list = field(default_factory=list)
    calls: int = 0

    def truth(self, moment):
        turned = bisect_right(sorted(self.changes), moment) % 2
        return self.starts.opposite if turned else self.starts

    def __call__(self, probes):
        assert 1 <= len(probes) <= self.most
        self.calls += 1
        return [self._answer(probe) for probe in probes]

    def _answer(self, probe):
        assert probe not in self.asked, f"asked twice: {probe}"
        self.asked.append(probe)
        chance = random.Random(f"{self.seed} {probe}")
        first = probe.at + (0 if probe.held else self.delay)
        lasted = 0 if probe.held else self.duration + chance.randint(0, self.jitter)
        return Answer(
            state=self._state(probe, first, lasted, chance), first=first, last=first + lasted
        )

    def _state(self, probe, first, lasted, chance):
        if probe.at in self.unknown:
            return State.UNKNOWN
        if probe.held and self.held:
            return self.held
        looks = {self.truth(first + int(look * lasted)) for look in self.looks}
        state = State.BAD if State.BAD in looks else State.GOOD
        return state.opposite if chance.random() < self.flakiness else state


@pytest.fixture(scope="session")
def guest():
    return SimulatedGuest
