"""What happens to a federation of whole peers: made up from a seed, or read from a file that a failure was shrunk to.

Every happening stands for itself and carries its own end, so that any of them can be left out.
"""

from __future__ import annotations

import random
import tomllib
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from kmel_p2p.agreement.averaging import Mode
from kmel_p2p.agreement.errors import ConfigError
from tests.testbed.ledger.hostile import Malice

END_S = 120.0
"""When everything heals, and the time to progress begins."""


@dataclass(frozen=True, slots=True)
class Happening:
    """One thing that happens.

    Attributes:
        at_s: seconds since the start.
        what: one of `happenings.HAPPENINGS`.
        site: to whom.
        other: another site, or what its kind says.
        lasts_s: until it is undone.
    """

    at_s: float
    what: str
    site: int = 0
    other: int = 0
    lasts_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Schedule:
    """See the module docstring.

    Attributes:
        seed: of network, keys' randomness and training.
        mode: averaging mode.
        founders: sites on the charter.
        spares: sites that amendments may add.
        entry_limit: of the charter.
        malice: what the last founder does, a name of `Malice`; empty: all are honest.
        epochs: whether a log with two branches goes on in another epoch; else it has ended.
        hear_s: how long after a start sites are waited for that are away; None: as the product has it.
        happenings: in order of time.
    """

    seed: int
    mode: Mode = "ledger"
    founders: int = 4
    spares: int = 1
    entry_limit: int = 20
    malice: str = ""
    epochs: bool = False
    hear_s: int | None = None
    happenings: tuple[Happening, ...] = ()

    def render(self) -> str:
        """TOML that `read` reads back."""
        document: dict[str, Any] = {name: value for name, value in asdict(self).items() if value is not None}
        document["happenings"] = [
            {name: value for name, value in happening.items() if value or name == "at_s"}
            for happening in document["happenings"]
        ]
        return tomli_w.dumps(document)

    @classmethod
    def read(cls, path: Path) -> Schedule:
        """Read a schedule file.

        Raises:
            ConfigError: it is none.
        """
        try:
            document = tomllib.loads(path.read_text("utf-8"))
            happenings = tuple(Happening(**values) for values in document.pop("happenings", ()))
            return cls(**document, happenings=happenings)
        except (ValueError, TypeError) as error:
            raise ConfigError(f"{path}: not a schedule: {error}") from error


KINDS = {
    "power": 6,
    "kill": 3,
    "stop": 2,
    "wipe": 3,
    "backup": 3,
    "put back": 2,
    "image": 1,
    "twin": 1,
    "stand still": 1,
    "part": 5,
    "cut": 3,
    "loss": 2,
    "slow disk": 2,
    "full disk": 2,
    "clock": 2,
    "pause": 3,
    "trainer": 3,
    "begin": 2,
    "listen": 1,
    "conclude": 1,
    "block": 2,
    "extend": 2,
    "retire": 1,
    "add": 2,
    "rekey": 1,
    "harm": 3,
    "calm": 1,
    "collude": 2,
    "lift": 2,
    "rivals": 1,
    "campaign": 1,
    "sit out": 1,
    "rival campaigns": 1,
}
"""How often each kind is drawn."""
VOTES = ("harm", "calm", "collude", "lift")
"""Those that make and end suspensions."""
CAMPAIGNS = ("campaign", "sit out", "rival campaigns")
"""Those that open campaigns: `--often campaigns` means all of them."""
LEDGER_ONLY = ("extend", "retire", "add", "rekey", "rivals", *CAMPAIGNS, *VOTES)
MASKS = ("part", "harm", "calm", "rivals", "sit out", "rival campaigns")
"""Those whose `other` is a set of sites, one bit each."""


def made_up(seed: int, often: Collection[str] = ()) -> Schedule:
    """The schedule of a seed. `often`: kinds to draw eight times as often, old disks with a victim; all in `ledger`."""
    often = [*often, *(CAMPAIGNS if "campaigns" in often else ())]
    rng = random.Random(f"schedule {seed}")
    mode: Mode = "pushsum" if rng.random() < 0.25 and not often else "ledger"
    founders = rng.randint(3, 6)
    spares = 1 if mode == "ledger" else 0
    malice = rng.choice(list(Malice)).name if mode == "ledger" and founders > 3 and rng.random() < 0.25 else ""
    happenings = [
        Happening(round(rng.choice((0.0, 0.0, 0.0, rng.uniform(1, 60))), 1), "start", site) for site in range(founders)
    ]
    kinds = [kind for kind in KINDS if mode == "ledger" or kind not in LEDGER_ONLY]
    weights = [KINDS[kind] * (8 if kind in often else 1) for kind in kinds]
    for _ in range(rng.randint(2, 12)):
        what = rng.choices(kinds, weights)[0]
        happenings.append(
            Happening(
                at_s=round(rng.uniform(3, END_S - 10), 1),
                what=what,
                site=rng.randrange(founders),
                other=rng.randrange(1, 2**founders - 1) if what in MASKS else rng.randrange(founders),
                lasts_s=round(rng.choice((rng.uniform(0.5, 8), rng.uniform(5, 60))), 1),
            )
        )
    if often:
        happenings += [each for happening in happenings for each in _before(happening, founders, rng)]
    happenings.sort(key=lambda happening: happening.at_s)
    return Schedule(seed, mode, founders, spares, rng.choice((10, 20, 40)), malice, happenings=tuple(happenings))


def _before(happening: Happening, founders: int, rng: random.Random) -> list[Happening]:
    """What an old disk needs to do harm: a copy made before, and one site that knows more and is away meanwhile."""
    if happening.what not in ("image", "put back"):
        return []
    copied_s = max(3.0, happening.at_s - rng.uniform(1, 30))
    other = rng.randrange(founders - 1)
    other += other >= happening.site

    def meanwhile(what: str, site: int, mask: int, most_s: float) -> Happening:
        at_s, lasts_s = rng.uniform(copied_s, happening.at_s), rng.uniform(1, most_s)
        return Happening(round(at_s, 1), what, site, mask, round(lasts_s, 1))

    copied = Happening(round(copied_s, 1), "backup", happening.site)
    pair = 1 << other | 1 << happening.site
    return [copied, meanwhile("power", other, 0, 80), meanwhile("part", 0, pair, 30)][: rng.randint(2, 3)]


def shrunk(schedule: Schedule, fails: Callable[[Schedule], bool], most: int = 200) -> Schedule:
    """A shorter schedule that still fails: happenings are left out in ever smaller groups (Zeller's ddmin, 2002).

    Args:
        schedule: one that fails.
        fails: plays one.
        most: schedules played at most.
    """
    plays = 0
    group = max(1, len(schedule.happenings) // 2)
    while True:
        shorter = False
        first = 0
        while first < len(schedule.happenings) and plays < most:
            left = schedule.happenings[:first] + schedule.happenings[first + group :]
            candidate = replace(schedule, happenings=left)
            plays += 1
            if fails(candidate):
                schedule, shorter = candidate, True
            else:
                first += group
        if plays >= most or (group == 1 and not shorter):
            break
        group = max(1, group // 2)
    honest = replace(schedule, malice="")
    return honest if schedule.malice and fails(honest) else schedule
