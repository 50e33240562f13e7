"""``buildvm cpus``: the CPU models and when they went on sale.

References
----------
x86-64 psABI, "Micro-Architecture Levels"; QEMU, docs/system/cpu-models-x86-abi.csv.
"""

from typing import Annotated

import typer

from buildvm_nb.cli.options import command
from buildvm_nb.cli.output import write_json, write_table
from buildvm_nb.cli.session import Session
from buildvm_nb.errors import UsageError

__all__ = ["LEVELS", "cpus"]

LEVELS = {
    "x86-64-v1": "Opteron_G1 core2duo Opteron_G2 Opteron_G3 Penryn",
    "x86-64-v2": "Nehalem Westmere SandyBridge IvyBridge Opteron_G4 Opteron_G5",
    "x86-64-v3": "Haswell Broadwell Skylake-Client EPYC EPYC-Rome EPYC-Milan SierraForest",
    "x86-64-v4": "Skylake-Server Cascadelake-Server Icelake-Server SapphireRapids GraniteRapids "
    "EPYC-Genoa EPYC-Turin",
}
"""Which level each model reaches: what a compiler may assume with ``-march``."""


@command(
    "cpus",
    examples=(
        "buildvm cpus",
        "buildvm cpus --date 2012-06-01",
        "buildvm cpus --vendor AMD --json",
    ),
)
def cpus(
    session: Session,
    date: Annotated[
        str | None,
        typer.Option(metavar="DATE", help="Mark what was current then. Left out: today."),
    ] = None,
    vendor: Annotated[
        str | None, typer.Option(metavar="Intel|AMD", help="Only this vendor's.")
    ] = None,
) -> None:
    """List CPU models and when they went on sale.

    A star marks each vendor's current model at the date. A machine without --cpu gets Intel's.
    Any other model of the installed QEMU can be named as well, such as qemu64 or max.
    """
    from buildvm_nb.model.cpu import CPU_MODELS, OLDEST_QEMU, Vendor, cpu_at
    from buildvm_nb.model.instants import parse_instant

    chosen = _vendors(vendor)
    instant = parse_instant(date or "today")
    current = {cpu_at(instant, vendor=each).name for each in Vendor}
    levels = {name: level for level, names in LEVELS.items() for name in names.split()}
    models = [model for model in CPU_MODELS if model.vendor in chosen]
    rows = [
        {
            "name": model.name,
            "vendor": model.vendor.value,
            "since": f"{model.since:%Y-%m-%d}",
            "product": model.product,
            "level": levels.get(model.name, ""),
            "qemu": ".".join(map(str, model.qemu)),
            "current": model.name in current,
            "source": model.source,
        }
        for model in models
    ]
    if session.as_json:
        write_json(rows)
        return
    columns = ("name", "vendor", "since", "product", "level", "qemu")
    newer = {model.name for model in models if model.qemu > OLDEST_QEMU}
    for row in rows:
        row["qemu"] = f"{row['qemu']} and later" if row["name"] in newer else ""
    table = [("*" if row["current"] else "", *(row[column] for column in columns)) for row in rows]
    write_table(("", "model", "vendor", "since", "first product", "level", "needs QEMU"), table)


def _vendors(text: str | None) -> set[str]:
    from buildvm_nb.model.cpu import Vendor

    known = {vendor.casefold(): vendor.value for vendor in Vendor}
    if text is None:
        return set(known.values())
    if text.casefold() not in known:
        raise UsageError(f"unknown vendor: {text!r}; allowed: {', '.join(Vendor)}")
    return {known[text.casefold()]}
