"""The part of the documentation that shows how another package adds an activation."""

from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "tests" / "external_activation"
"""A package that the tests train with and publish."""


def add_your_own() -> str:
    """The section, with the files of the example as they are."""
    return f"""## Add your own

Any installed package can bring activations, through the entry point group `reslens.activations`: nothing of ResLens is
edited, and the new key works wherever one of ours does: `--activation`, `python -m training activations`, export,
publication and the statistics of the service. A whole package, the bent identity:

`bent_identity.py`

```python
{_file("bent_identity.py")}
```

`pyproject.toml`

```toml
{_file("pyproject.toml")}
```

```sh
pip install .
python -m training activations bent_identity
python -m training train --activation bent_identity --activation-parameters bend 0.3
```

What an entry and a module may say beyond that (parameters, kinks, where the output shows saturation, channels that
change, bodies for another execution provider) is in `training/activations/entry.py`. The body is an ONNX function of
the domain `reslens`, of standard operators, so that a published model runs in any ONNX Runtime, without the package; at
publication its logits are compared with PyTorch's. What it learns has no weight decay, but for the weights of
convolutions and linear layers.

A key that is in use already is refused, also to its first owner: rename the entry point. A package that cannot be
loaded is named by `python -m training activations`, and hinders no other activation.
"""


def _file(name: str) -> str:
    return (EXAMPLE / name).read_text(encoding="utf-8").strip()
