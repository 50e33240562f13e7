"""A case's outcomes along the date axis, asked about the whole and about each of its tests."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from buildvm_nb.hints import midnights, year_turns
from buildvm_nb.model.machine import MachineSpec
from buildvm_nb.model.outcome import Outcome, Verdict
from buildvm_nb.search import Answer, Plan, Probe, State, Survey, find_transitions
from buildvm_nb.study.dates import DateStudy, Prober, position, state_of
from buildvm_nb.study.laboratory import Laboratory
from buildvm_nb.study.steps import log_header
from buildvm_nb.study.testnames import failed_tests, stopped_early

__all__ = ["Failure", "Judge", "Timeline"]

Judge = Callable[[Outcome], State]
"""Says what an outcome means for what is asked about."""


@dataclass(frozen=True, kw_only=True)
class Failure:
    """What the log of a run that did not pass says."""

    text: str
    """What the failing step printed."""
    tests: tuple[str, ...]
    """Names of the tests that failed; ``build (step)`` where it did not get as far as the tests."""
    is_whole: bool
    """Whether a test that is not named did not fail; else it may not have run at all."""


class Timeline:
    """The answers of a search along the date axis, and more of the same kind.

    Parameters
    ----------
    lab : Laboratory
        Runs the case.
    spec : MachineSpec
        The machine; its date does not matter.
    study : DateStudy
        What is known already.
    span : tuple of datetime
        First and last instant; where the study is forked, machines were prepared at the first.
    """

    def __init__(
        self,
        lab: Laboratory,
        spec: MachineSpec,
        study: DateStudy,
        span: tuple[datetime, datetime],
    ) -> None:
        self._answers = {
            probe: answer
            for probe, answer in study.survey.answers.items()
            if probe in study.outcomes
        }
        self.outcomes = {probe: study.outcomes[probe] for probe in self._answers}
        self.first, self.last = map(position, span)
        self._lab = lab
        self._prober = Prober(lab, spec, span[0] if study.is_forked else None)
        self._steps = [_step_name(step.name) for step in lab.case.steps if step.name != "test"]
        self._failures: dict[str, Failure] = {}

    def search(
        self,
        judge: Judge,
        *,
        hints: Sequence[datetime],
        scan: Sequence[datetime] = (),
        repeats: int = 2,
        budget: int | None = None,
    ) -> Survey:
        """Find all changes of what a judge says.

        Parameters
        ----------
        judge : callable
            Says what an outcome means.
        hints : sequence of datetime
            Where changes are likely.
        scan : sequence of datetime
            Where to look in any case.
        repeats : int
            Confirming runs on each side of each change.
        budget : int, optional
            How many more answers to ask for; 0: conclude from those that there are.

        Returns
        -------
        Survey
            What was found.

        Raises
        ------
        HostError
            If the executor breaks.
        CatalogError
            If an outcome cannot be recorded.
        """
        within = sorted({position(hint) for hint in hints})
        plan = Plan(
            first=self.first,
            last=self.last,
            scan=[position(at) for at in scan],
            hints=[at for at in within if self.first <= at <= self.last],
            rhythms=(year_turns, midnights),
            repeats=repeats,
            workers=self._lab.workers,
            budget=budget,
            reveal=0,  # the schedule looks behind hints
        )

        def ask(probes: Sequence[Probe]) -> list[Answer]:
            self._run(probes)
            return [self._judged(probe, judge) for probe in probes]

        known = {probe: self._judged(probe, judge) for probe in self._answers}
        return find_transitions(ask, plan, known)

    def states(self, judge: Judge) -> tuple[State, ...]:
        """Return what a judge says to all answers, in an order that stays.

        Parameters
        ----------
        judge : callable
            Says what an outcome means.

        Returns
        -------
        tuple of State
            Equal for two judges that no run tells apart.
        """
        return tuple(self._judged(probe, judge).state for probe in self._answers)

    def failures(self) -> Iterator[tuple[Probe, Outcome, Failure]]:
        """Iterate over the runs that did not pass, ordered by their instants.

        Yields
        ------
        (Probe, Outcome, Failure)
            Only those that say something about the case.
        """
        for probe, outcome in sorted(self.outcomes.items(), key=lambda entry: entry[0]):
            if self._answers[probe].state is State.BAD:
                yield probe, outcome, self.failure(outcome)

    def failure(self, outcome: Outcome) -> Failure:
        """Return what the log of a run that did not pass says.

        Parameters
        ----------
        outcome : Outcome
            Of this timeline.

        Returns
        -------
        Failure
            Read once.
        """
        if outcome.id not in self._failures:
            self._failures[outcome.id] = self._read(outcome)
        return self._failures[outcome.id]

    def judge_of(self, test: str) -> Judge:
        """Return what judges one test.

        Parameters
        ----------
        test : str
            Its name, or that of a step before the test, as failures name it.

        Returns
        -------
        callable
            GOOD where the whole passes or only others are named as failed, UNKNOWN where the test
            may not have run.
        """

        def judge(outcome: Outcome) -> State:
            state = state_of(outcome)
            if state is not State.BAD:
                return state
            failure = self.failure(outcome)
            if test in failure.tests:
                return State.BAD
            if test in self._steps:  # steps run in order, so it passed if a later one failed
                is_later = self._steps.index(test) < len(self._before(outcome))
                return State.GOOD if is_later else State.UNKNOWN
            return State.GOOD if failure.is_whole else State.UNKNOWN

        return judge

    def nearest(self, judge: Judge, at: int, state: State, *, is_after: bool) -> Outcome | None:
        """Return the outcome nearest to a position, on one side of it, that a judge gives a state.

        Parameters
        ----------
        judge : callable
            Says what an outcome means.
        at : int
            Seconds since 1970.
        state : State
            Which outcomes count.
        is_after : bool
            Whether to look from there on, or up to there.

        Returns
        -------
        Outcome or None
            None where there is none.
        """
        fitting = [
            (abs(probe.at - at), probe, outcome)
            for probe, outcome in self.outcomes.items()
            if (probe.at >= at if is_after else probe.at <= at)
            and self._judged(probe, judge).state is state
        ]
        return min(fitting, key=lambda found: found[:2])[2] if fitting else None

    def _judged(self, probe: Probe, judge: Judge) -> Answer:
        """Let a judge change the state of an answer that can be relied on."""
        answer = self._answers[probe]
        if answer.state is State.UNKNOWN:
            return answer
        return replace(answer, state=judge(self.outcomes[probe]))

    def _run(self, probes: Sequence[Probe]) -> None:
        missing = [probe for probe in probes if probe not in self._answers]
        for probe, outcome in self._prober.run(missing).items():
            self.outcomes[probe] = outcome
            self._answers[probe] = self._prober.answer(probe, outcome)

    def _read(self, outcome: Outcome) -> Failure:
        text = self._lab.log(outcome)
        for step in self._lab.case.steps:
            if step.name == outcome.failing_step:  # what it was told to do is no output of it
                text = text.rpartition(log_header(step))[2]
        if outcome.failing_step is not None and outcome.failing_step != "test":
            named = (_step_name(outcome.failing_step),)
            return Failure(text=text, tests=named, is_whole=False)
        tests = failed_tests(text)
        counts = [step.tests_run for step in outcome.steps if step.name == outcome.failing_step]
        usual = self._usual_count()
        is_short = bool(counts) and usual is not None and (counts[-1] or 0) < usual
        is_whole = (
            bool(tests)
            and outcome.verdict is Verdict.FAILED
            and not is_short
            and not stopped_early(text)
        )
        return Failure(text=text, tests=tests, is_whole=is_whole)

    def _before(self, outcome: Outcome) -> list[str]:
        """Return the steps that passed before the one that failed, as failures name them."""
        names = [step.name for step in self._lab.case.steps]
        failed = outcome.failing_step
        return self._steps[: names.index(failed)] if failed in names else []

    def _usual_count(self) -> int | None:
        """Return how many tests ran where all passed; None: the runner does not say."""
        counts = [
            outcome.steps[-1].tests_run
            for outcome in self.outcomes.values()
            if outcome.verdict is Verdict.PASSED and outcome.steps
        ]
        return max((count for count in counts if count is not None), default=None)


def _step_name(step: str) -> str:
    return f"{step} (step)"
