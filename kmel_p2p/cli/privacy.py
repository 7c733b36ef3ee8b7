"""`kmel-peer privacy`: plan what differential privacy of single compounds would cost."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from kmel_p2p.cli.options import echo_json, json_option

if TYPE_CHECKING:
    from kmel_p2p.learn.privacy.plan import Plan

OUTSIDE = (
    "Outside epsilon: the choice of models by validation, private heads, and what predictions of a site's own models "
    "show. This version plans such runs; it does not train them yet."
)


@click.group()
def privacy() -> None:
    """Plan differential privacy of single compounds."""


@privacy.command()
@click.option("--compounds", type=click.IntRange(min=50), required=True, help="That the smallest site trains on.")
@click.option("--epsilon", type=click.FloatRange(min=0, min_open=True), required=True, help="Budget of one compound.")
@click.option(
    "--delta", type=click.FloatRange(0, 1, min_open=True, max_open=True), help="Default: below 0.1/compounds."
)
@click.option("--sites", type=click.IntRange(1, 4096), default=4, show_default=True, help="In one sum (min_sum).")
@click.option("--steps", type=click.IntRange(1, 100_000), multiple=True, help="Rounds; repeat to compare several.")
@json_option
def plan(
    compounds: int, epsilon: float, delta: float | None, sites: int, steps: tuple[int, ...], as_json: bool
) -> None:
    """Print steps, batch, noise and expected cost of sealed rounds that keep a privacy budget.

    The best batch for each number of steps, by the noise that is left, the least first. Adjacent data sets differ in
    one compound with all its replicates and assay endpoints. The cost is that of a federation like the measured one.
    """
    from kmel_p2p.learn.privacy.plan import STEPS, plans, usual_delta

    found = plans(compounds, epsilon, delta or usual_delta(compounds), sites, steps or STEPS)
    if as_json:
        echo_json({"compounds": compounds, "sites": sites, "plans": [asdict(one) for one in found]})
        return
    click.echo(f"{compounds:,} compounds a site, sums of {sites} sites, epsilon {epsilon:g}, delta {found[0].delta:g}")
    for one in found:
        click.echo(_words(one))
    click.echo(OUTSIDE)


def _words(plan: Plan) -> str:
    least = "at least " if plan.beyond else "about "
    return (
        f"{plan.steps:>6} steps of {plan.batch:,} compounds a site (rate {plan.rate:g}), noise {plan.noise:.3g}: "
        f"epsilon {plan.epsilon:.3g}, RMSE {least}{plan.cost_pct:.0f} % higher"
    )
