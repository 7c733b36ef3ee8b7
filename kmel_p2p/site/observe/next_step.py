"""What an operator should do next about a running peer."""

from __future__ import annotations

from typing import Literal

from kmel_p2p.site.observe.activity import HELD
from kmel_p2p.site.observe.status import SitePhase, StatusDocument

Step = Literal["decide", "mend", "look", "prepare", "wait", "train", "listen", "finish", "use", "stop"]

STEPS: dict[Step, str] = {
    "decide": "an entry waits for you: kmel-peer held show, then held approve or held reject",
    "mend": "this site cannot go on: the reason says why; kmel-peer doctor says more",
    "look": "look at what needs attention, the first one first; kmel-peer doctor examines the network",
    "prepare": "nothing to do: the data are being read",
    "wait": "nothing to do if those sites are expected; kmel-peer begin, conclude or block SITE end the waiting",
    "train": "nothing to do: this site trains",
    "listen": "nothing to do: the other sites finish, and this one relays",
    "finish": "nothing to do: the run is over here, and the models are compared and written",
    "use": "the models are ready: kmel-peer evaluate says what they are worth, kmel-peer predict uses them",
    "stop": "nothing to do: the peer ends",
}
"""In words."""

_BY_PHASE: dict[SitePhase, Step] = {
    SitePhase.PREPARING: "prepare",
    SitePhase.WAITING: "wait",
    SitePhase.TRAINING: "train",
    SitePhase.LISTENING: "listen",
    SitePhase.COMPLETE: "use",
}


def next_step(status: StatusDocument) -> Step:
    """The step that comes first: what only this operator can do, then what needs attention, then the phase's."""
    if status.phase is SitePhase.STOPPING:
        return "stop"
    if status.phase is SitePhase.FAILED:
        return "mend"
    if status.averaging.held:
        return "decide"
    if any(alarm.what != HELD for alarm in status.alarms):
        return "look"
    if status.phase is SitePhase.LISTENING and status.trainer.state == "finishing":
        return "finish"
    return _BY_PHASE[status.phase]
