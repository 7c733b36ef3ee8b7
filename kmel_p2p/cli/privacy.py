"""`kmel-peer privacy`: plan what differential privacy of single compounds costs, and say how much of it is spent."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.privacy import OUTSIDE
from kmel_p2p.cli.language import tell, told
from kmel_p2p.cli.options import config_option, echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.learn.privacy.plan import Plan


@click.group()
def privacy() -> None:
    """Differential privacy of single compounds: what it costs, and how much of a budget is spent."""


@privacy.command()
@click.option("--compounds", type=click.IntRange(min=50), required=True, help="That the smallest site trains on.")
@click.option("--epsilon", type=click.FloatRange(min=0, min_open=True), required=True, help="Budget of one compound.")
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Default: below 0.1/compounds."
)
@click.option("--sites", type=click.IntRange(1, 4096), default=4, show_default=True, help="In one sum (min_sum).")
@click.option(
    "--colluders", type=click.IntRange(0, 13), default=1, show_default=True, help="Of them, whose noise does not count."
)
@click.option("--steps", type=click.IntRange(1, 100_000), multiple=True, help="Rounds; repeat to compare several.")
@json_option
def plan(
    compounds: int,
    epsilon: float,
    delta: float | None,
    sites: int,
    colluders: int,
    steps: tuple[int, ...],
    as_json: bool,
) -> None:
    """Print steps, batch, noise and expected cost of sealed rounds that keep a privacy budget.

    The best batch for each number of steps, by the noise that is left, the least first. Adjacent data sets differ in
    one compound with all its replicates and assay endpoints. The cost is that of a federation like the measured one.
    """
    from kmel_p2p.agreement.drafted import usual_delta
    from kmel_p2p.learn.privacy.plan import STEPS, plans

    found = plans(compounds, epsilon, delta or usual_delta(compounds), sites, steps or STEPS, colluders)
    if as_json:
        echo_json({"compounds": compounds, "sites": sites, "plans": [asdict(one) for one in found]})
        return
    tell(f"{compounds:,} compounds a site, sums of {sites} sites, epsilon {epsilon:g}, delta {found[0].delta:g}")
    for one in found:
        tell(_words(one))
    click.echo(_sentence(told(OUTSIDE)))


@privacy.command()
@config_option
@json_option
def spent(config_path: Path, as_json: bool) -> None:
    """Say how many noised steps left this site, and what they cost: an upper bound of epsilon.

    Read from the store, where a step is charged before anything of it leaves; the peer may run meanwhile. A store that
    was lost or put back counts all sums again, and forgets void rounds. Other runs over the same compounds add up.
    """
    from kmel_p2p.learn.privacy.accountant import Steps, epsilon_of, noise_for
    from kmel_p2p.site.config import load_config
    from kmel_p2p.site.loaded_site import load_site
    from kmel_p2p.site.modes.sealed import charged_steps

    site = load_site(load_config(config_path))
    rule, rounds = site.charter.privacy, site.charter.averaging.entry_limit
    if not rule.on:
        raise ConfigError(
            "the charter has no differential privacy (privacy.dp): what leaves this site is not bounded by an epsilon"
        )
    budget = rule.steps(rounds)
    noise = noise_for(rule.epsilon, rule.delta, rule.rate, budget)
    steps = charged_steps(site)
    epsilon = epsilon_of(Steps(noise, rule.rate, steps), rule.delta) if steps else 0.0
    facts = {
        "steps": steps,
        "budget_steps": budget,
        "epsilon": epsilon,
        "budget_epsilon": rule.epsilon,
        "delta": rule.delta,
        "noise": noise,
        "rate": rule.rate,
    }
    if as_json:
        echo_json(facts)
        return
    tell(f"{steps} of {budget} noised steps: epsilon {epsilon:.3g} of {rule.epsilon:g}, delta {rule.delta:g}")
    click.echo(_sentence(told(OUTSIDE)))


def _sentence(words: str) -> str:
    return f"{words[0].upper()}{words[1:]}."


def _words(plan: Plan) -> str:
    cost = f"at least {plan.cost_pct:.0f} %" if plan.beyond else f"about {plan.cost_pct:.0f} %"
    return (
        f"{plan.steps:>6} steps of {plan.batch:,} compounds a site (rate {plan.rate:g}), noise {plan.noise:.3g}: "
        f"epsilon {plan.epsilon:.3g}, RMSE {cost} higher"
    )
