"""docs/networks.md: the residual family, from its catalogues."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from docs.block_drawing import BRANCH, SHORTCUT, merged
from docs.markdown import table, text
from training.initialisers.catalogue import INITIALISERS
from training.regularisers.catalogue import REGULARISERS
from training.resnet.arrangements import ARRANGEMENTS, Arrangement
from training.resnet.branches import BRANCHES
from training.resnet.counts import count_network
from training.resnet.facts import NetworkFacts, series, summary
from training.resnet.heads import HEADS
from training.resnet.merges import MERGES, Merge
from training.resnet.network import NetworkConfig
from training.resnet.normalisers import NORMALISERS, Normaliser
from training.resnet.shortcuts import SHORTCUTS
from training.resnet.stems import STEMS

NOTHING = "–"

OPENING = """<!-- Written by `make docs` from the catalogues in training/: do not edit. -->
# Networks

A network is a variant (depth, width, stem, branch) and an option from each of the other catalogues: arrangement,
shortcut, normaliser, head, initialiser, regularisers. They combine freely where combining has a meaning; what has none
is refused with a reason. [Every activation](activations.md) can stand in every network.

```sh
python -m training networks                 # the variants and their sizes; --json for programs
python -m training networks wrn_28_10       # one, and which options combine with it
python -m training train --network resnet20 --arrangement full_preactivation
```
"""

VARIANT_NOTES = """Sizes are those of RGB images and of as many classes as the published network had. **Multiply-adds**
are those of convolutions and matrix products, for one image. **Layers** are convolutions and linear layers, without
those of shortcuts and gates.

- **State dictionaries** have the field's names: those of torchvision for the networks of ImageNet, those of the common
  CIFAR implementation for the others (`linear` is the last layer, shortcuts of `resnet20` … `resnet1202` have no
  parameters).
- **Plain** networks have no shortcuts; `--shortcut none` makes one of any residual network.
- **Wide** networks (`wrn_…`) have 16 channels behind the stem; their names count three shortcuts, and not the
  linear layer.
- **Squeeze-and-excitation** (`se_…`) reduces by 16. The ReLU inside its gate is part of the gate, as its sigmoid is: it
  stays ReLU whatever the activation, and is no site of the statistics.
- **Tweaks**: in `resnet50a` the first 1×1 convolution of a stage has the stride, as in the paper; in `resnet50`, which
  is `resnet50b`, the 3×3 convolution, as in every checkpoint published since. `c` has three 3×3 convolutions for a
  stem, and `d` an average pooling in its shortcuts too.
- **Densely connected** networks concatenate: they take only `full_preactivation`, no shortcut, and have no block ends.
- **Images** may have any size from the smallest that `python -m training networks NAME` tells; smaller ones are
  refused.
"""


def network_page(facts: Sequence[NetworkFacts]) -> str:
    """The whole page as Markdown."""
    return "\n".join(
        [
            OPENING,
            "## Variants\n",
            _of_cells([{**summary(each), "stages": _stages(each)} for each in facts]),
            f"Any other member is built by its numbers: {', '.join(f'`{name}`' for name in series())}.\n",
            VARIANT_NOTES,
            *_arrangements(),
            *_shortcuts(),
            *_parts(),
            *_options(),
        ]
    )


def _stages(facts: NetworkFacts) -> str:
    blocks = "-".join(map(str, facts.depths))
    widths = "-".join(map(str, facts.widths))
    return f"{facts.stage}, {facts.branch}, {blocks} of widths {widths}"


def _arrangements() -> list[str]:
    rows = [
        {
            "arrangement": key,
            "before a convolution": _kinds(each.before),
            "behind it": _kinds(each.after),
            "behind the last": _kinds(each.after_last),
            "behind the sum": _kinds(each.after_sum),
            "stem ends with": _stem_end(each),
        }
        for key, each in ARRANGEMENTS.items()
    ]
    return [
        "## Arrangements\n",
        "`--arrangement`: where normalisation (BN, or what takes its place) and activation stand in a block (He 2016). "
        "The names hold for any activation.\n",
        "![The five arrangements, drawn from their table](networks/arrangements.svg)\n",
        _of_cells(rows),
    ]


def _kinds(kinds: Sequence[str]) -> str:
    return ", ".join({"bn": "BN", "act": "activation"}[kind] for kind in kinds) or NOTHING


def _stem_end(arrangement: Arrangement) -> str:
    bare = ["conv"] if "bn" in arrangement.before else ["conv", "BN"]
    return ", ".join(bare if arrangement.preactivated else [*bare, "activation"])


def _shortcuts() -> list[str]:
    rows = [
        {"shortcut": key, "the sum": _sum(each), "parameters": _assignments(each.parameters)}
        for key, each in MERGES.items()
    ]
    return [
        "## Shortcuts\n",
        "`--shortcut`: what becomes of branch F and shortcut x where they meet (He 2016, section 3.1). x is what "
        "arrives: the input of the block, or what the variant makes of it where the shape changes.\n",
        "![What is added, drawn from the catalogue](networks/shortcuts.svg)\n",
        _of_cells(rows),
    ]


def _sum(merge: Merge) -> str:
    if not merge.joins:
        return BRANCH
    branch, shortcut = merged(merge, merge.parameters)
    return f"{branch} + {f'BN(W·{SHORTCUT})' if merge.projects else shortcut}"


def _parts() -> list[str]:
    return [
        "## Parts of variants\n",
        *_said("stem", STEMS),
        *_said("where the shape changes", SHORTCUTS),
        *_said("branch", {key: each.convolutions for key, each in BRANCHES.items()}),
    ]


def _said(kind: str, catalogue: Mapping[str, Callable[..., Any]]) -> list[str]:
    return [_of_cells([{kind: key, "": sentence(each)} for key, each in catalogue.items()])]


def _options() -> list[str]:
    heads = [
        {
            "head": key,
            "": sentence(each),
            "with": _arguments(each),
            "of a resnet20": f"{count_network(NetworkConfig('resnet20', head=key)).parameters:,} parameters",
        }
        for key, each in HEADS.items()
    ]
    initialisers = [
        {"initialiser": key, "parameters": _assignments(each.parameters), "source": each.source}
        for key, each in INITIALISERS.items()
    ]
    regularisers = [
        {
            "regulariser": key,
            "": sentence(each.build),
            "stands": PLACES[each.place],
            "rate over training": each.schedule.__name__,
            "parameters": _assignments(each.parameters),
            "source": each.source,
        }
        for key, each in REGULARISERS.items()
    ]
    return [
        "## Normalisers\n",
        "`--normaliser`: what keeps the scale of activations.\n",
        _of_cells([{"normaliser": key, **_normaliser(each)} for key, each in NORMALISERS.items()]),
        "## Heads\n",
        "`--head`: from the last feature maps to logits.\n",
        _of_cells(heads),
        "## Initialisers\n",
        "`--initialiser`: the weights before the first step.\n",
        _of_cells(initialisers),
        "## Regularisers\n",
        "`--regularisers`: active in training; in evaluation, and in the exported graph, nothing.\n",
        _of_cells(regularisers),
    ]


PLACES = {
    "inner": "before every convolution of a branch but the first",
    "end": "at the end of the branch",
    "weight": "on the weights of the branch's convolutions",
}


def _normaliser(entry: Normaliser) -> dict[str, str]:
    behind = [*entry.behind, *entry.ends]
    return {
        "in the arrangement's places": _module(entry.build(1)),
        "in shortcuts": _module(entry.projected(1)),
        "before a convolution": _module(entry.before(1)) if entry.before else NOTHING,
        "at the end of a branch": ", ".join(behind) or NOTHING,
        "convolutions have biases": "yes" if entry.biased else "no",
    }


def _module(module: object) -> str:
    name = type(module).__name__
    return NOTHING if name == "Identity" else f"`{name}`"


def sentence(entry: object) -> str:
    """The first paragraph of its docstring."""
    entry = entry.func if isinstance(entry, partial) else entry
    said = inspect.getdoc(entry) or NOTHING
    return " ".join(said.split("\n\n")[0].split())


def _arguments(entry: object) -> str:
    given = entry.args if isinstance(entry, partial) else ()
    return ", ".join(map(str, given)) or NOTHING


def _assignments(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} = {value:g}" for name, value in parameters.items()) or NOTHING


def _of_cells(rows: Sequence[Mapping[str, str]]) -> str:
    """Keys of the first column are code."""
    first, *_ = rows[0]
    cells = [[f"`{row[first]}`", *(text(value) for name, value in row.items() if name != first)] for row in rows]
    return table([list(rows[0]), *cells])
