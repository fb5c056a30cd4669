"""Every setting of a run: the fields that the command line, a yaml file and Python calls fill, and their checks."""

from vpgtrans_core.settings.build import build, tuning_values
from vpgtrans_core.settings.settings import ALIASES, Settings
from vpgtrans_core.settings.stages import fill, stage_settings, stages_of

__all__ = ["ALIASES", "Settings", "build", "fill", "stage_settings", "stages_of", "tuning_values"]
