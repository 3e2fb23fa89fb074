"""`tlkit cache`: the features that are kept on disk."""

from __future__ import annotations

import json

import typer

from tlkit.cache import FeatureCache, default_folder
from tlkit.cli.app import AsJson, app

caches = typer.Typer(no_args_is_help=True, help="The cache of frozen layers' features.")
app.add_typer(caches, name="cache")


@caches.command("info")
def cache_info(as_json: AsJson = False) -> None:
    """Tell where the cache is, what it holds and what it may take."""
    cache = FeatureCache(default_folder())
    entries = cache.entries()
    used, limit = sum(entry.size_bytes for entry in entries), cache.limit()
    if as_json:
        found = {"folder": str(cache.folder), "entries": len(entries), "bytes": used}
        typer.echo(json.dumps(found | {"limit_bytes": limit}, indent=2))
        return
    typer.echo(f"{cache.folder}: {len(entries)} entries, {used / 1e9:.2f} of {limit / 1e9:.1f} GB")


@caches.command("clear")
def cache_clear() -> None:
    """Remove every entry."""
    freed = FeatureCache(default_folder()).clear()
    typer.echo(f"freed {freed / 1e9:.2f} GB")


@caches.command("path")
def cache_path() -> None:
    """Print where the cache is."""
    typer.echo(default_folder())
