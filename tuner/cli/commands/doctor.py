"""``moetune doctor``: what this machine is, and whether everything works."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from tuner import doctor as stage
from tuner.cli import screen
from tuner.cli.options import db_option, json_option
from tuner.store.database import Database, default_path
from tuner.target import detect


@click.command()
@click.option("--ceilings", is_flag=True, help="Measure this machine's limits and store them.")
@db_option
@json_option
def doctor(ceilings: bool, db: Path | None, as_json: bool) -> int:
    """Say what works here, and what mends the rest.

    Ends with 1 where something is broken that moetune cannot do without.
    """
    findings = stage.diagnose(db or default_path())
    healthy = not any(finding.status == "problem" for finding in findings)
    told: dict[str, Any] = {"ok": healthy, "checks": [asdict(finding) for finding in findings]}
    if not as_json:
        for finding in findings:
            screen.echo(f"{finding.status:8} {finding.name:10} {finding.text}")
    if ceilings and healthy:
        with Database(db) as database:
            limits = stage.measure_ceilings(detect(), database)
        told["ceilings"] = [
            {"name": name, "value": value, "unit": unit} for name, value, unit in limits
        ]
        if not as_json:
            for name, value, unit in limits:
                screen.echo(f"{'limit':8} {name:15} {value:.4g} {unit}")
    if as_json:
        screen.echo(json.dumps(told, indent=2))
    return 0 if healthy else 1
