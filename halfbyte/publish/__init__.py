"""From a recipe to published model repositories: files, cards, licences, upload, and a check of what is finished."""

from halfbyte.publish.build import build
from halfbyte.publish.check import check
from halfbyte.publish.recipe import Recipe, read_recipe
from halfbyte.publish.upload import plan_upload, upload

__all__ = ["Recipe", "build", "check", "plan_upload", "read_recipe", "upload"]
