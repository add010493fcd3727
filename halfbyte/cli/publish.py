"""`halfbyte publish`: from a recipe to repositories on the Hub, and a check of what is finished."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from halfbyte.cli.failure import FAILED
from halfbyte.cli.sizes import show_size

if TYPE_CHECKING:
    from halfbyte.publish import Recipe


def publish(
    recipe: Annotated[
        Path | None,
        typer.Argument(metavar="RECIPE.yaml", help="What to publish; without it, --check.", show_default=False),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FOLDER", help="Where repositories are built.")] = Path("published"),
    check: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Check a finished repository instead.", show_default=False),
    ] = None,
    upload: Annotated[bool, typer.Option("--upload", help="Send what is built to the Hub.")] = False,
    built: Annotated[bool, typer.Option("--built", help="Build nothing: take the folders as they are.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print every file that would be sent, with size and hash; send nothing.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Make new repositories private.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace repositories that are built already.")
    ] = False,
) -> None:
    """Build a family of model repositories from a recipe, with measured cards and all licences, and upload them.

    A recipe names a source, its licence, and repositories with their files, each in a format of `halfbyte convert`. A
    README.md that is there already is never replaced without --overwrite. --check looks at hashes, the card, every
    tensor, the prompt template, and whether the model answers.

    $ halfbyte publish recipe.yaml --out published

    $ halfbyte publish recipe.yaml --out published --built --upload --dry-run

    $ halfbyte publish --check published/my-model-AWQ
    """
    if (recipe is None) == (check is None):
        raise typer.BadParameter("give a RECIPE.yaml, or --check FOLDER")
    if check is not None:
        check_folder(check)
        return
    from halfbyte.publish import build, read_recipe

    assert recipe is not None
    wanted = read_recipe(recipe)
    if not built:
        for folder in build(wanted, out, overwrite=overwrite, tell=lambda line: typer.echo(line, err=True)):
            typer.echo(str(folder))
    if dry_run:
        show_plan(wanted, out)
    elif upload:
        send(wanted, out, private=private)


def check_folder(folder: Path) -> None:
    """Print every finding; exit with 1 if something is wrong."""
    from halfbyte.publish import check

    findings = check(folder)
    for finding in findings:
        state = "ok" if finding.problem is None else "FAULT"
        typer.echo(f"{state:6}{finding.what}: {finding.detail if finding.problem is None else finding.problem}")
    if any(finding.problem is not None for finding in findings):
        raise typer.Exit(FAILED)


def show_plan(recipe: Recipe, out: Path) -> None:
    """Every file that an upload would send."""
    from halfbyte.publish import plan_upload

    planned = plan_upload(recipe, out)
    for file in planned:
        typer.echo(f"{file.sha256}  {file.size:>14}  {file.repo}@{file.branch}/{file.name}")
    typer.echo(f"{len(planned)} files, {show_size(sum(file.size for file in planned))}; nothing was sent", err=True)


def send(recipe: Recipe, out: Path, *, private: bool) -> None:
    """Upload, and print the addresses."""
    from halfbyte.publish import upload

    for address in upload(recipe, out, private=private, tell=lambda line: typer.echo(line, err=True)):
        typer.echo(address)
