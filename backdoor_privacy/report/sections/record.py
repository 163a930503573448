"""What was asked and done, and by which software."""

from backdoor_privacy.report.method import asked
from backdoor_privacy.report.models import defended
from backdoor_privacy.report.parts import Facts, Section, Terms
from backdoor_privacy.runs.finished import FinishedRun


def request(run: FinishedRun) -> Section:
    """Say what was asked and done."""
    return Section("asked", "What was asked and done", [Terms(asked(run))])


def record(run: FinishedRun) -> Section:
    """Name the weights and the software."""
    caption = (
        f"SHA-256 of the weights, before and after (the model in defended/, with {defended(run.fullest)} defended)"
    )
    weights = Facts(caption, ("Weights", "SHA-256"), run.metrics["weights_sha256"])
    return Section("record", "Record", [weights, Facts("Versions", ("Software", "Version"), run.metrics["versions"])])
