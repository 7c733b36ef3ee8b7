"""Whether the settings and the assay endpoints in force name the same, and what the operator may want to add."""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator

from kmel_p2p.agreement.assay_endpoints import AssayEndpoints
from kmel_p2p.agreement.errors import ConfigError
from kmel_p2p.agreement.features import FeatureRule
from kmel_p2p.chem.dataset.ingest import check_settings
from kmel_p2p.site.config import DataSection
from kmel_p2p.site.doctor.findings import Area, Finding, note, problem, warning
from kmel_p2p.site.loaded_site import check_columns

PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")
"""What TOML takes as a key without quotation marks."""


def examine_columns(data: DataSection, endpoints: AssayEndpoints, advice: str) -> Iterator[Finding]:
    """`advice`: what to do about a name that is not known."""
    columns, known = data.columns, endpoints.names
    if odd := endpoints.unknown(columns):
        says, names = "[data.columns] names {odd}; the charter and its campaigns have {known}", _listed(known)
        try:
            check_columns(data, endpoints)
        except ConfigError:
            yield problem(Area.DATA, "columns", says, advice, odd=_listed(odd), known=names)
        else:
            todo = "leave it where a campaign is to add them: they are not read before; else correct [data.columns]"
            yield warning(Area.DATA, "columns", says, todo, odd=_listed(odd), known=names)
    units = {endpoint.name: endpoint.unit or "no unit" for endpoint in endpoints.every}
    for name in endpoints.unmapped(columns):
        says = (
            "{name} ({unit}) came with a later campaign, and [data.columns] does not name it: this site goes on "
            "without it. Where it is measured here, add [data.columns.{key}] with its column and unit, and send the "
            "peer SIGHUP"
        )
        key = name if PLAIN_KEY.fullmatch(name) else json.dumps(name, ensure_ascii=False)
        yield note(Area.DATA, "columns", says, name=name, unit=units[name], key=key)
    for name, campaign in endpoints.retired.items():
        if name in columns:
            says = "{name} was retired in campaign {number}: only kmel-peer prospective still reads its column"
            yield note(Area.DATA, "columns", says, name=name, number=campaign)


def unfit_settings(data: DataSection, endpoints: AssayEndpoints, policy: FeatureRule) -> str:
    """Why the trainer would refuse the settings of a mapped column, such as its unit; empty: it would not."""
    known = {name: column for name, column in data.columns.items() if name in endpoints.names}
    mapped = {name: column for name, column in known.items() if name not in endpoints.retired}
    if not mapped:
        return ""
    try:
        check_settings(data.model_copy(update={"columns": mapped}), endpoints.every, policy)
    except ConfigError as error:
        return str(error)
    return ""


def _listed(names: Collection[str]) -> str:
    return ", ".join(map(repr, names))
