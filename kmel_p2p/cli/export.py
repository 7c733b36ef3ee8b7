"""`kmel-peer export`: the model for use elsewhere, without what must stay."""

from __future__ import annotations

from pathlib import Path

import click

from kmel_p2p.cli.options import DIRECTORY, config_option


@click.command()
@click.argument("output", type=DIRECTORY)
@click.option("--onnx", "as_onnx", is_flag=True, help="Also write one ONNX graph per model (extra 'onnx').")
@click.option("--model-dir", type=DIRECTORY, help="Model directory; default: the one of this site (--config).")
@config_option
def export(output: Path, as_onnx: bool, model_dir: Path | None, config_path: Path) -> None:
    """Copy the model directory to OUTPUT, without the fingerprints of training compounds.

    Load it with kmel_p2p.load(OUTPUT).predict(["CCO"]). The parameters were trained on this site's data: give them
    only to whom you would give conclusions from it.
    """
    from kmel_p2p.agreement.errors import ConfigError
    from kmel_p2p.learn.predict.export import export_model, export_onnx, require_onnx
    from kmel_p2p.site.config import load_config

    if output.exists() and any(output.iterdir()):
        raise ConfigError(f"{output}: is not empty; name a new directory")
    source = model_dir or load_config(config_path).site.state_dir / "model"
    if as_onnx:
        require_onnx(source)  # before anything is written
    card = export_model(source, output)
    click.echo(f"Wrote model {card.digest[:16]} to {output}.")
    if as_onnx:
        for path in export_onnx(source, output):
            click.echo(f"Wrote {path}.")
