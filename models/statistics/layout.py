"""The statistics outputs of an instrumented graph, and which columns of each belong to which layer.

Each kind of statistic is one output of shape N×ΣC float32: for every image the values of all channels of all sites that
have this statistic, in the order of the manifest. Block statistics have one column a block. All are means or extremes
over the H×W positions of the activation's output x:

| output                     | value                | sites |
| -------------------------- | -------------------- | ----- |
| statistics.mean            | mean x               | all |
| statistics.mean_square     | mean x²              | all |
| statistics.active          | share of x > 0       | all |
| statistics.maximum         | max x                | all |
| statistics.minimum         | min x                | signed activations |
| statistics.saturated       | share in the activation's saturation region | where the output shows it |
| statistics.branch_energy   | mean (y − s)² over channels too, y leaves the block, s is its shortcut | all blocks |
| statistics.shortcut_energy | mean s² over channels too | all blocks |
"""

from collections.abc import Callable

from models.manifest import ActivationSite, ModelManifest

MEAN = "statistics.mean"
MEAN_SQUARE = "statistics.mean_square"
ACTIVE = "statistics.active"
MAXIMUM = "statistics.maximum"
MINIMUM = "statistics.minimum"
SATURATED = "statistics.saturated"
BRANCH_ENERGY = "statistics.branch_energy"
SHORTCUT_ENERGY = "statistics.shortcut_energy"


def _everywhere(_: ActivationSite) -> bool:
    return True


def _signed(site: ActivationSite) -> bool:
    return site.signed


def _shows_saturation(site: ActivationSite) -> bool:
    return site.saturation is not None


SITE_OUTPUTS: dict[str, Callable[[ActivationSite], bool]] = {
    MEAN: _everywhere,
    MEAN_SQUARE: _everywhere,
    ACTIVE: _everywhere,
    MAXIMUM: _everywhere,
    MINIMUM: _signed,
    SATURATED: _shows_saturation,
}
BLOCK_OUTPUTS = (BRANCH_ENERGY, SHORTCUT_ENERGY)


def sites_with(output: str, manifest: ModelManifest) -> tuple[ActivationSite, ...]:
    """The sites whose channels make up `output`, in order."""
    return tuple(site for site in manifest.sites if SITE_OUTPUTS[output](site))


def output_widths(manifest: ModelManifest) -> dict[str, int]:
    """Columns of every statistics output that this model has; outputs without a column do not exist."""
    widths = {output: sum(site.channels for site in sites_with(output, manifest)) for output in SITE_OUTPUTS}
    widths |= dict.fromkeys(BLOCK_OUTPUTS, len(manifest.blocks))
    return {output: width for output, width in widths.items() if width}


def site_columns(output: str, manifest: ModelManifest) -> dict[str, slice]:
    """The columns of `output` that belong to each site that has it, in order."""
    columns: dict[str, slice] = {}
    start = 0
    for site in sites_with(output, manifest):
        columns[site.name] = slice(start, start + site.channels)
        start += site.channels
    return columns
